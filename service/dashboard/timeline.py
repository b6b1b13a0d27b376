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
    """The steps of `search` as its `status`, `started`, `phase` and `retrained` events, in order, tell them.

    A step that several attempts have gone through shows its latest beginning. The networks of several budgets may be
    retrained side by side: a budget's step lasts until its best network is delivered.
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
    delivered: dict[str, float | None] = {}
    current, last_phase = "queue", "start"
    for event in events:
        status = event.data.get("status")
        if event.kind == "phase":
            last_phase = phase_name(event.data)
            current = last_phase
            begun[current] = event.time
        elif event.kind == "retrained":
            delivered.setdefault(f"retrain {event.data['budget']}", event.time)
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
    now = set(names[at : at + 1])
    if status != Status.SUCCEEDED:
        now |= {name for name in names[:at] if name.startswith("retrain ") and name not in delivered}
    ends: dict[str, float | None] = (
        dict(zip(names, [begun.get(name) for name in names[1 : at + 1]], strict=False)) | delivered
    )
    ends |= dict.fromkeys([*now, names[-1]], search.ended_at if status in TERMINAL else None)
    return [
        Step(labels[name], _state(name in now, index < at, status), begun.get(name), ends.get(name))
        for index, name in enumerate(names)
    ]


def phase_name(data: dict[str, object]) -> str:
    """The name of the step that a `phase` event belongs to; finals retrain all budgets in one."""
    return f"retrain {data['budget']}" if data["phase"] == "retrain" and "budget" in data else str(data["phase"])


def _state(now: bool, behind: bool, status: Status) -> str:
    if not now:
        return "done" if behind else "pending"
    return {Status.FAILED: "failed", Status.CANCELLED: "cancelled"}.get(status, "current")
