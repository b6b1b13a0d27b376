"""What is told of what the database holds."""

import base64
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from nas_core.errors import InvalidValue
from nas_core.train.evaluation import Evaluation
from service import answers
from service.domain import stalled
from service.domain.lifecycle import Status
from service.domain.retention import Part
from service.domain.scheduling import Capacity
from service.folders.model import kinds
from service.store.models import ArchitectureRow, Attempt, AuditEntry, Delivery, Search, Token, Webhook
from service.store.projects import why


def view_search(
    search: Search,
    architectures: Sequence[ArchitectureRow],
    capacity: Capacity | None = None,
    notes: Sequence[str] = (),
) -> answers.Search:
    """What is told of a search, with the `capacity` of the cluster where that is known, and `notes`."""
    return answers.Search(
        id=search.id,
        kind=search.kind,
        project=search.project,
        sweep=search.sweep_id,
        name=search.name,
        tags=search.tags,
        description=search.description,
        submitted_by=search.submitted_by,
        status=search.status,
        reason=why(search, capacity),
        phase=search.phase,
        progress=search.progress,
        seconds_left=seconds_left(search),
        stalled_for=stalled_for(search),
        accuracy=search.accuracy,
        dataset=search.dataset,
        dataset_report=search.spec.get("inspection"),
        budgets=search.spec["budgets"],
        limits=limits(search),
        seed=search.spec["seed"],
        workers=search.workers,
        min_workers=search.min_workers,
        max_workers=search.spec["workers"],
        accelerator_type=search.accelerator_type,
        priority=search.priority,
        preempts=search.preempts,
        max_wait=search.max_wait,
        max_run=search.max_run,
        start_by=iso(search.start_by) if search.start_by and not search.paused else None,
        stop_by=iso(search.stop_by) if search.stop_by else None,
        attempt=search.attempt,
        supernet_multiply_adds=search.supernet_multiply_adds,
        created_at=iso(search.created_at),
        started_at=iso(search.started_at) if search.started_at else None,
        heard_at=iso(search.heard_at) if search.heard_at else None,
        ended_at=iso(search.ended_at) if search.ended_at else None,
        stored=search.stored,
        pruned=Part(search.pruned).words,
        error=search.error,
        architectures=[view_architecture(row) for row in architectures],
        notes=list(notes),
        request=search.request,
        space=search.spec["space"],
        settings=search.spec["settings"],
    )


def view_attempt(attempt: Attempt) -> answers.Attempt:
    """What is told of a launch."""
    return answers.Attempt(
        number=attempt.number,
        dispatcher=attempt.owner,
        started_at=iso(attempt.started_at),
        ended_at=iso(attempt.ended_at) if attempt.ended_at else None,
        outcome=attempt.outcome,
        error=attempt.error,
    )


def view_architecture(row: ArchitectureRow) -> answers.Architecture:
    """What is told of a network."""
    return answers.Architecture(
        id=row.id,
        budget=row.budget,
        origin=row.result.get("origin", "search"),
        label=row.result.get("label"),
        variant=row.result.get("variant"),
        winner=row.result.get("winner", True),
        comparison=row.result.get("comparison"),
        activations=row.result.get("activations"),
        balanced_accuracy=row.result.get("balanced_accuracy"),
        top5_accuracy=row.result.get("top5_accuracy"),
        warnings=row.result.get("warnings") or [],
        latency_ms=row.result.get("latency_ms"),
        files={kind: f"/api/v1/architectures/{row.id}/files/{kind}" for kind in kinds(row.result["files"])},
        onnx={kind: _onnx_file(told) for kind, told in (row.result.get("onnx") or {}).items()},
        not_exported=row.result.get("not_exported", {}),
        multiply_adds=row.result["multiply_adds"],
        parameters=row.result["parameters"],
        accuracy=row.result["accuracy"],
        accuracy_low=row.result["accuracy_low"],
        accuracy_high=row.result["accuracy_high"],
        test_images=row.result["test_images"],
    )


def _onnx_file(told: dict[str, Any]) -> answers.OnnxFile:
    return answers.OnnxFile(**{name: told[name] for name in answers.OnnxFile.__annotations__})


def view_evaluation(evaluation: Evaluation) -> answers.Evaluation:
    """What is told of a network's test."""
    columns = (evaluation.class_names, evaluation.images, evaluation.predicted, evaluation.recall, evaluation.precision)
    return answers.Evaluation(
        classes=[
            answers.ClassResult(name=name, images=images, predicted=predicted, recall=recall, precision=precision)
            for name, images, predicted, recall, precision in zip(*columns, strict=True)
        ],
        confusion=[[label, predicted, count] for (label, predicted), count in evaluation.counts.items()],
    )


def view_token(token: Token) -> answers.Token:
    """What is told of a token."""
    expires_at, used = token.expires_at, token.last_used_at
    return answers.Token(
        name=token.name,
        project=token.project,
        role=token.role,
        created_by=token.created_by,
        created_at=iso(token.created_at),
        expires_at=iso(expires_at) if expires_at is not None else None,
        last_used_at=iso(used) if used is not None else None,
    )


def view_webhook(webhook: Webhook) -> answers.Webhook:
    """What is told of a webhook."""
    return answers.Webhook(
        id=webhook.id,
        project=webhook.project,
        url=webhook.url if webhook.shown is None else webhook.shown,
        events=webhook.events,
        created_by=webhook.created_by,
        created_at=iso(webhook.created_at),
        taken_at=iso(webhook.taken_at) if webhook.taken_at is not None else None,
        off_at=iso(webhook.off_at) if webhook.off_at is not None else None,
        off_reason=webhook.off_reason,
    )


def view_delivery(message: Delivery) -> answers.Delivery:
    """What is told of a message to a webhook."""
    return answers.Delivery(
        id=message.id,
        type=message.kind,
        document=message.document,
        created_at=iso(message.created_at),
        due_at=iso(message.due_at) if message.due_at is not None else None,
        outcome=message.outcome,
        attempts=[answers.DeliveryAttempt(**one | {"time": iso(one["time"])}) for one in message.attempts],
    )


def view_entry(entry: AuditEntry) -> answers.AuditEntry:
    """What is told of an entry in the audit log."""
    return answers.AuditEntry(
        time=iso(entry.time),
        by=entry.by,
        action=entry.action,
        project=entry.project,
        about=entry.about,
        data=entry.data,
    )


def limits(search: Search) -> dict[str, Any]:
    """The limits that a search has, by name."""
    return {name: limit for name, limit in search.spec.get("limits", {}).items() if limit is not None}


def iso(seconds: float) -> str:
    """A time as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stalled_for(search: Search) -> float | None:
    """The seconds since the last update of a search that has stalled; None for any other."""
    told = stalled.stalled_for(search.status, search.started_at, search.heard_at, search.progress, time.time())
    return None if told is None else round(told, 1)


def seconds_left(search: Search) -> float | None:
    """How long it may still take, by how long it has taken so far; None where that says too little, or it stalls."""
    if search.status != Status.RUNNING or search.started_at is None or search.progress < 0.05:
        return None
    if stalled_for(search) is not None:
        return None
    return round((time.time() - search.started_at) * (1 - search.progress) / search.progress, 1)


def position(number: float, name: str, order: str = "newest") -> str:
    """A place in a list that is sorted by a number and a name, in one of several orders, as an opaque text."""
    return base64.urlsafe_b64encode(f"{number!r} {name} {order}".encode()).decode()


def place(text: str, order: str = "newest") -> tuple[float, str]:
    """The place that `position` described. Raises `InvalidValue`, also where that is one in another order."""
    with contextlib.suppress(ValueError):
        number, name, *rest = base64.urlsafe_b64decode(text.encode()).decode().split(" ")
        given = rest[0] if rest else "newest"  # as earlier versions told it
        if name.isalnum() and given == order:
            return float(number), name
        if given != order:
            reason = f"a place in a list that is sorted otherwise ({given})"
            raise InvalidValue("after", text, reason, f"what an earlier page sorted so ({order}) gave as `next`")
    raise InvalidValue("after", text, "not a place in the list", "what an earlier page gave as `next`")
