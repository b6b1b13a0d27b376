"""A search's way from the queue to its result, as the steps of a timeline."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.domain.lifecycle import TERMINAL, Status
from service.formats import short
from service.store.models import Event, Search


@dataclass(frozen=True)
class Step:
    """One step: `state` is done, current, pending, failed or cancelled; `began` and `ended` are seconds since 1970."""

    label: str
    state: str
    began: float | None
    ended: float | None


def timeline(search: Search, events: Sequence[Event]) -> list[Step]:
    """The steps of `search` as its `status`, `started` and `phase` events, in order, tell them.

    A step that several attempts have gone through shows its latest beginning.
    """
    labels = {"queue": "Queue", "start": "Start"}
    if search.kind == "finals":
        labels |= {"retrain": "Retrain"}
    else:
        labels |= {"pretrain": "Pretrain", "search": "Search"}
        if search.spec.get("retrain", True):
            labels |= {f"retrain {budget}": f"Retrain {short(budget)}" for budget in search.spec["budgets"]}
    names = list(labels)
    begun: dict[str, float] = {"queue": search.created_at}
    current, last_phase = "queue", "start"
    for event in events:
        status = event.data.get("status")
        if event.kind == "phase":
            last_phase = phase_name(event.data)
            current = last_phase
            begun[current] = event.time
        elif event.kind == "started":
            # A run that resumes does not announce the phase that it goes on with.
            current = last_phase if event.data.get("resumed") else "start"
        elif status == Status.QUEUED:
            current = "queue"
            begun["queue"] = event.time
        elif status == Status.LAUNCHING:
            current = "start"
            begun["start"] = event.time
    status = Status(search.status)
    at = len(names) if status == Status.SUCCEEDED else names.index(current)
    return [
        Step(labels[name], _state(index, at, status), begun.get(name), _end(index, at, names, begun, search))
        for index, name in enumerate(names)
    ]


def phase_name(data: dict[str, object]) -> str:
    """The name of the step that a `phase` event belongs to; finals retrain all budgets in one."""
    return f"retrain {data['budget']}" if data["phase"] == "retrain" and "budget" in data else str(data["phase"])


def _state(index: int, at: int, status: Status) -> str:
    if index != at:
        return "done" if index < at else "pending"
    return {Status.FAILED: "failed", Status.CANCELLED: "cancelled"}.get(status, "current")


def _end(index: int, at: int, names: Sequence[str], begun: dict[str, float], search: Search) -> float | None:
    if index == at or index == len(names) - 1:
        return search.ended_at if Status(search.status) in TERMINAL else None
    return begun.get(names[index + 1]) if index < at else None
