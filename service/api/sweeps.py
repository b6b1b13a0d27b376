"""Sweeps: queue many searches at once, see how far they are, and steer them together."""

import csv
import io
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Query, Request, Response

from service import answers
from service.domain.deadlines import NewDeadlines
from service.domain.request import Text
from service.domain.sweep import MoreNetworks, NewSweepDescription, SweepRequest
from service.store.models import Sweep
from service.use_cases import sweeps
from service.web.checks import CHECKED
from service.web.context import ContextDep, ProjectDep, Words, steered
from service.web.described import PROBLEMS, QUOTA, UNKNOWN, Responses, created, operation_id, problem
from service.web.idempotency import KeyDep, created_at, done

UNFINISHED: Responses = {409: problem("Its searches have not ended, or found no network.")}
router = APIRouter(
    prefix="/api/v1/sweeps", tags=["sweeps"], responses=PROBLEMS, generate_unique_id_function=operation_id
)
CREATED = created(
    "sweeps", "sweep_id", ("look", "describe", "searches", "pareto", "cancel", "pause", "resume", "retry", "add")
)


def _seen(request: Request, sweep_id: Text, service: ContextDep, project: ProjectDep) -> Sweep:
    found = sweeps.seen(service, project, sweep_id)
    steered(request, found.submitted_by)
    return found


SeenDep = Annotated[Sweep, Depends(_seen)]


@router.post("", status_code=201, response_model=answers.Sweep, responses=QUOTA | CREATED, dependencies=[CHECKED])
def submit(request: SweepRequest, service: ContextDep, project: ProjectDep, key: KeyDep) -> Response:
    """Queue all searches of a sweep. A request with errors is refused before anything is queued."""
    return created_at("/api/v1/sweeps/", sweeps.submit(service, request, project, key))


@router.post(
    "/{sweep_id}/networks",
    response_model=answers.Sweep,
    responses=UNKNOWN | QUOTA | UNFINISHED,
    dependencies=[CHECKED],
)
def add(sweep: SeenDep, more: MoreNetworks, service: ContextDep, key: KeyDep) -> Response:
    """Retrain more networks of a finished sweep, for more budgets or as baselines.

    No search runs again: the network for a new budget is the one that each search passed at that cost.
    """
    return done(sweeps.add(service, sweep, more, key))


@router.get("")
def browse(
    service: ContextDep,
    project: ProjectDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    after: Text | None = None,
    only: Annotated[Text | None, Query(alias="project")] = None,
    tag: Annotated[Text | None, Query(description="Only sweeps of which all searches have this tag.")] = None,
    words: Words = "",
) -> answers.SweepPage:
    """Sweeps, newest first, a page at a time."""
    return sweeps.browse(service, project or only, limit, after, tag, words.strip())


@router.get("/{sweep_id}", responses=UNKNOWN)
def look(sweep: SeenDep, service: ContextDep) -> answers.Sweep:
    """One sweep."""
    return sweeps.view(service, sweep)


@router.patch("/{sweep_id}", response_model=answers.Sweep, responses=UNKNOWN)
def describe(sweep: SeenDep, described: NewSweepDescription, service: ContextDep, key: KeyDep) -> Response:
    """Change the name or the description of a sweep, or the tags of all its searches."""
    return done(sweeps.describe(service, sweep, described, key))


@router.get("/{sweep_id}/searches", responses=UNKNOWN)
def searches(
    sweep: SeenDep,
    service: ContextDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: str | None = None,
) -> answers.SearchPage:
    """The searches of a sweep in the order of grid, seeds and budgets, a page at a time."""
    return sweeps.searches(service, sweep, limit, after)


@router.get(
    "/{sweep_id}/pareto", responses=UNKNOWN | {200: {"content": {"text/csv": {}}}}, response_model=answers.Front
)
def pareto(
    sweep: SeenDep,
    service: ContextDep,
    cost: Literal["multiply_adds", "parameters", "activations", "latency_ms"] = "multiply_adds",
    by: Annotated[answers.By, Query(description="The metric that orders networks.")] = "accuracy",
    as_csv: Annotated[bool, Query(alias="csv", description="Answer with CSV instead of JSON.")] = False,
) -> answers.Front | Response:
    """The networks found so far by cost and accuracy, with the Pareto front."""
    found = sweeps.front_of(service, sweep, cost, by)
    if not as_csv:
        return found
    table = io.StringIO()
    names = list(answers.Point.__annotations__)
    writer = csv.writer(table)
    writer.writerow(names)
    writer.writerows([cast("dict[str, Any]", point)[name] for name in names] for point in found["points"])
    return Response(table.getvalue(), media_type="text/csv")


@router.post("/{sweep_id}/cancel", response_model=answers.Sweep, responses=UNKNOWN)
def cancel(sweep: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Cancel every search of a sweep that has not ended."""
    return done(sweeps.cancel(service, sweep, key))


@router.post("/{sweep_id}/pause", response_model=answers.Sweep, responses=UNKNOWN)
def pause(sweep: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Pause a sweep: queued searches do not start, running ones continue."""
    return done(sweeps.pause(service, sweep, True, key))


@router.post("/{sweep_id}/resume", response_model=answers.Sweep, responses=UNKNOWN)
def resume(sweep: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Resume a paused sweep."""
    return done(sweeps.pause(service, sweep, False, key))


@router.post("/{sweep_id}/retry", response_model=answers.Sweep, responses=UNKNOWN | QUOTA)
def retry(sweep: SeenDep, service: ContextDep, key: KeyDep, changed: NewDeadlines | None = None) -> Response:
    """Queue the failed searches again. Each resumes from its last checkpoint, if it has one.

    Limits on queue and running time start again from zero; the request may change them.
    """
    return done(sweeps.retry(service, sweep, changed.parse() if changed is not None else {}, key))
