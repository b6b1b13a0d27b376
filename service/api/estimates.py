"""Estimates: what a search would compute, and how long that would take; nothing is queued."""

from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel

from nas_core.search.forecast import forecast, training_images
from service.api.checks import CHECKED
from service.api.context import ContextDep, ReaderDep, confined
from service.api.searches import PROBLEMS, operation_id
from service.domain.estimates import estimate, warnings
from service.domain.request import SearchRequest, check

router = APIRouter(
    prefix="/api/v1/estimates", tags=["estimates"], responses=PROBLEMS, generate_unique_id_function=operation_id
)


class Compute(BaseModel):
    """Multiply-adds of forward passes; backward passes cost about twice as much again."""

    search: int
    training: int


class Epochs(BaseModel):
    """The schedule."""

    pretrain: int
    search: int
    retrain: int


class EstimateView(BaseModel):
    """How long a search is expected to run once it has started, and what follows from that."""

    seconds: float
    low: float
    high: float
    """`seconds` lie between `low` and `high`, as far as can be told."""
    searches: int
    """How many searches on this cluster the estimate follows from; with 0 it is a guess."""
    cpu_hours: float
    gpu_hours: float
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    images: int
    """Images that networks are trained on, about."""
    epochs: Epochs
    multiply_adds: Compute
    supernet_multiply_adds: int
    notes: list[str]


@router.post("", dependencies=[CHECKED])
def ask(request: SearchRequest, service: ContextDep, project: ReaderDep) -> EstimateView:
    """How long a search would take, held to the same rules as one that is submitted; nothing is queued."""
    settings, before = service.settings, service.history.searches()
    request = confined(request, project)
    # What has to be confirmed is told here, and not refused.
    sure, roots = request.model_copy(update={"confirmed": True}), settings.roots_of(request.project)
    spec = check(sure, roots, settings.any_folder, service.capacity(), service.look(), before=before)
    expected, schedule = estimate(spec, before), spec.settings
    return EstimateView(
        seconds=expected.seconds,
        low=expected.low,
        high=expected.high,
        searches=expected.searches,
        cpu_hours=expected.cpu_hours,
        gpu_hours=expected.gpu_hours,
        workers=spec.workers,
        cpus_per_worker=spec.cpus_per_worker,
        gpus_per_worker=spec.gpus_per_worker,
        images=training_images(spec),
        epochs=Epochs(
            pretrain=schedule.pretrain_epochs, search=schedule.search_epochs, retrain=schedule.retrain_epochs
        ),
        multiply_adds=Compute(**asdict(forecast(spec))),
        supernet_multiply_adds=spec.space.complete().multiply_adds,
        notes=warnings(expected),
    )
