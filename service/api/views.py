"""What the API says of a search and of an architecture."""

import base64
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from nas_core.errors import InvalidValue
from nas_core.space import Origin
from nas_core.train.evaluation import Evaluation
from service.dispatch.folder_model import kinds
from service.domain.lifecycle import Status
from service.domain.retention import Part
from service.domain.scheduling import Capacity
from service.store.models import ArchitectureRow, Attempt, Search
from service.store.projects import why

Seq = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""The number of an event; 0 is before the first."""


class OnnxFileView(BaseModel):
    """What an ONNX file of a network is like, as onnxruntime runs it on one thread of a CPU."""

    bytes: int
    accuracy: float
    """On the network's test images, or on as many of them as fit into 64 MB."""
    test_images: int
    latency_ms: float
    """Of one image: the median."""
    latency_low_ms: float
    """The 10th percentile."""
    latency_high_ms: float
    """The 90th percentile."""
    latency_device: str
    """The CPU of the machine that trained the network."""


class ArchitectureView(BaseModel):
    """A network that a search returned for a budget; costs in multiply-adds, parameters and elements of activations."""

    id: str
    budget: int
    origin: Origin
    """Whether it was searched for, and else what it is."""
    label: str | None
    """What it is called beside other networks of its search for the budget; None where there are no such."""
    variant: str | None
    """The name of the network that people have drawn which it is, scaled, such as resnet8; None for any other."""
    winner: bool
    """Whether it is the one to take for its budget, of any origin: finals retrain several."""
    comparison: str | None
    """How it did in the test beside the best network of another origin for its budget; None where there is none."""
    multiply_adds: int
    parameters: int
    activations: int | None
    """The most that inference of one image holds at once; None where it was not counted."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    test_images: int
    balanced_accuracy: float | None
    """The mean recall of the classes that have test images; None where it was not measured."""
    top5_accuracy: float | None
    """None for at most ten classes."""
    warnings: list[str]
    """What the accuracy does not show, such as a class that is never recognised."""
    latency_ms: float | None
    """Of one image on the machine that trained it (on the search's device where it is limited); None where it was not
    measured."""
    files: dict[str, str]
    """URLs below the service, by kind of file."""
    onnx: dict[str, OnnxFileView]
    """What each ONNX file is like, by kind of file; empty where that was not measured."""
    not_exported: dict[str, str]
    """Why a kind of file is missing, by kind."""


class ClassView(BaseModel):
    """How a network did on the test images of one class."""

    name: str
    images: int
    """Test images of the class."""
    predicted: int
    """Test images that were classified as it."""
    recall: float | None
    """The share of its images that are classified correctly; None without test images."""
    precision: float | None
    """The share of its predictions that are right; None where it was never predicted."""


class EvaluationView(BaseModel):
    """A network's test, class by class, in the order of the logits."""

    classes: list[ClassView]
    confusion: list[list[int]]
    """The confusion matrix as [class, predicted class, images], both classes as numbers, without what does not
    occur."""


class SearchView(BaseModel):
    """One search."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "k3v9qa2m7xw4",
                    "kind": "search",
                    "project": "default",
                    "sweep": None,
                    "name": "first steps",
                    "submitted_by": "vision:admin",
                    "status": "running",
                    "reason": None,
                    "phase": "search",
                    "progress": 0.42,
                    "seconds_left": 140.5,
                    "accuracy": 0.97,
                    "dataset": "digits",
                    "dataset_report": None,
                    "budgets": [300000, 600000],
                    "limits": {"parameters": 20000},
                    "seed": 0,
                    "workers": 4,
                    "min_workers": 2,
                    "max_workers": 8,
                    "accelerator_type": "A100",
                    "priority": 0,
                    "max_wait": 7200.0,
                    "max_run": 43200.0,
                    "start_by": None,
                    "stop_by": "2026-01-02T00:00:05Z",
                    "attempt": 1,
                    "supernet_multiply_adds": 2114880,
                    "created_at": "2026-01-01T12:00:00Z",
                    "started_at": "2026-01-01T12:00:05Z",
                    "heard_at": "2026-01-01T12:01:40Z",
                    "ended_at": None,
                    "stored": 0,
                    "pruned": [],
                    "error": None,
                    "architectures": [],
                    "notes": [],
                    "request": {"dataset": "digits", "budgets": ["300k", 600000]},
                    "space": {},
                    "settings": {},
                }
            ]
        }
    )

    id: str
    kind: str
    """`search`, or `finals`, which retrain what the searches of a sweep have found."""
    project: str
    sweep: str | None
    """The sweep that it belongs to."""
    name: str
    submitted_by: str | None
    """The name of the token that it was submitted with."""
    status: str
    reason: str | None
    phase: str | None
    progress: float
    seconds_left: float | None
    """By how long it has taken so far; None while that says too little."""
    accuracy: float | None
    dataset: str
    dataset_report: dict[str, Any] | None
    """What was found when the dataset was looked at: layout, counts, decoding, what is left out, fingerprint."""
    budgets: list[int]
    limits: dict[str, Any]
    seed: int
    workers: int
    """While it is queued the most that it wants; from its launch on as many as it was granted."""
    min_workers: int
    max_workers: int
    accelerator_type: str | None
    """What its nodes must have; None for any."""
    priority: int
    max_wait: float | None
    """Seconds that it may wait until its workers start, since its user has queued it."""
    max_run: float | None
    """Seconds that it may run, in all attempts since its user has queued it."""
    start_by: str | None
    """By when its workers must have started, while they have not and nobody has paused its sweep."""
    stop_by: str | None
    """While it runs: when it will be stopped if it has not ended."""
    attempt: int
    supernet_multiply_adds: int
    created_at: str
    started_at: str | None
    heard_at: str | None
    """When its workers last told of anything, as they do of every epoch."""
    ended_at: str | None
    stored: int
    """Bytes in the storage when its last attempt had ended."""
    pruned: list[str]
    """What was removed of it since, by its age: checkpoints, events or logs."""
    error: dict[str, Any] | None
    architectures: list[ArchitectureView]
    notes: list[str] = Field(default_factory=list)
    """What else there is to say of it when it is submitted: of reference networks that are left out."""
    request: dict[str, Any]
    space: dict[str, Any]
    settings: dict[str, Any]


class AttemptView(BaseModel):
    """One launch of a search: from the claim until its job was proved gone."""

    number: int
    dispatcher: str
    started_at: str
    ended_at: str | None
    outcome: str | None
    """The state that the search went to; None while it lasts."""
    error: dict[str, Any] | None


class Page(BaseModel):
    """A page of searches, newest first; `next` asks for the following one, as `after`."""

    items: list[SearchView]
    next: str | None


def view_search(
    search: Search, architectures: Sequence[ArchitectureRow], capacity: Capacity | None = None
) -> SearchView:
    """What the API says of a search, with the `capacity` of the cluster where that is known."""
    return SearchView(
        id=search.id,
        kind=search.kind,
        project=search.project,
        sweep=search.sweep_id,
        name=search.name,
        submitted_by=search.submitted_by,
        status=search.status,
        reason=why(search, capacity),
        phase=search.phase,
        progress=search.progress,
        seconds_left=seconds_left(search),
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
        request=search.request,
        space=search.spec["space"],
        settings=search.spec["settings"],
    )


def view_attempt(attempt: Attempt) -> AttemptView:
    """What the API says of a launch."""
    return AttemptView(
        number=attempt.number,
        dispatcher=attempt.owner,
        started_at=iso(attempt.started_at),
        ended_at=iso(attempt.ended_at) if attempt.ended_at else None,
        outcome=attempt.outcome,
        error=attempt.error,
    )


def view_architecture(row: ArchitectureRow) -> ArchitectureView:
    """What the API says of a network."""
    names = ("multiply_adds", "parameters", "accuracy", "accuracy_low", "accuracy_high", "test_images")
    return ArchitectureView(
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
        onnx={kind: OnnxFileView(**one) for kind, one in (row.result.get("onnx") or {}).items()},
        not_exported=row.result.get("not_exported", {}),
        **{name: row.result[name] for name in names},
    )


def view_evaluation(evaluation: Evaluation) -> EvaluationView:
    """What the API says of a network's test."""
    columns = (evaluation.class_names, evaluation.images, evaluation.predicted, evaluation.recall, evaluation.precision)
    names = ClassView.model_fields
    return EvaluationView(
        classes=[ClassView(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)],
        confusion=[[label, predicted, count] for (label, predicted), count in evaluation.counts.items()],
    )


def limits(search: Search) -> dict[str, Any]:
    """The limits that a search has, by name."""
    return {name: limit for name, limit in search.spec.get("limits", {}).items() if limit is not None}


def iso(seconds: float) -> str:
    """A time as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_left(search: Search) -> float | None:
    """How long it may still take, by how long it has taken so far; None where that says too little."""
    if search.status != Status.RUNNING or search.started_at is None or search.progress < 0.05:
        return None
    return round((time.time() - search.started_at) * (1 - search.progress) / search.progress, 1)


def position(number: float, name: str) -> str:
    """A place in a list that is sorted by a number and a name, as an opaque text."""
    return base64.urlsafe_b64encode(f"{number!r} {name}".encode()).decode()


def place(text: str) -> tuple[float, str]:
    """The place that `position` described. Raises `InvalidValue`."""
    with contextlib.suppress(ValueError):
        time, search_id = base64.urlsafe_b64decode(text.encode()).decode().split(" ")
        if search_id.isalnum():
            return float(time), search_id
    raise InvalidValue("after", text, "not a place in the list", "what an earlier page gave as `next`")
