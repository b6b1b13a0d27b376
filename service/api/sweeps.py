"""Sweeps: queue many searches at once, see how far they are, and steer them together."""

import csv
import io
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from nas_core.space import BESIDE, Origin
from nas_core.spec import SearchSpec, infeasible
from service.api.checks import CHECKED
from service.api.context import Context, ContextDep, ProjectDep, confined, steered, still_open
from service.api.idempotency import KeyDep, given, once
from service.api.problems import Problem, ProblemError
from service.api.searches import PROBLEMS, QUOTA, UNKNOWN, created, operation_id
from service.api.views import Page, iso, place, position, view_search
from service.domain.deadlines import NewDeadlines
from service.domain.lifecycle import TERMINAL, Status
from service.domain.pareto import front
from service.domain.patience import carry_on
from service.domain.references import left_out
from service.domain.request import InvalidRequest, SearchRequest, Text, check
from service.domain.sweep import MoreNetworks, SweepRequest, expand, named_baselines, sorted_budgets
from service.store.idempotency import Answer
from service.store.models import Search, Sweep
from service.store.sweeps import Progress, UnknownSweep

UNFINISHED: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Its searches have not ended, or found nothing."}
}
By = Literal["accuracy", "balanced_accuracy"]
router = APIRouter(
    prefix="/api/v1/sweeps", tags=["sweeps"], responses=PROBLEMS, generate_unique_id_function=operation_id
)
CREATED = created("sweeps", "sweep_id", ("look", "searches", "pareto", "cancel", "pause", "resume", "retry", "add"))


class SweepView(BaseModel):
    """A sweep: what was asked, and how many of its searches are in each state."""

    id: str
    project: str
    name: str
    submitted_by: str | None
    strategy: str
    budgets: list[int]
    seeds: list[int]
    paused: bool
    searches: int
    counts: dict[str, int]
    """Searches by state."""
    finals: dict[str, int]
    """Finals, which retrain what the searches have found, by state."""
    done: bool
    seconds_left: float | None
    """About how long it goes on if as many run at once as do now; None while none runs."""
    created_at: str
    request: dict[str, Any]
    notes: list[str] = Field(default_factory=list)
    """What was changed of the request, such as equal budgets that were merged."""


class SweepPage(BaseModel):
    """A page of sweeps, newest first; `next` asks for the following one, as `after`."""

    items: list[SweepView]
    next: str | None


class Point(BaseModel):
    """A network on the plane of cost and accuracy."""

    architecture: str
    search: str
    """The search or the finals that retrained it."""
    origin: Origin
    """Whether it was searched for, and else what it is."""
    winner: bool
    """Whether it is the one that its search or its finals deliver for the budget."""
    seed: int
    budget: int
    cost: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    """The ends of the accuracy's 95 % interval."""
    balanced_accuracy: float | None
    """None where it was tested by a version that did not tell it."""
    validation_accuracy: float | None
    """On the part by which networks are chosen; None where it was retrained by a version that did not tell it."""
    on_front: bool
    """Whether it was searched for or is a reference network, and no other such is at once as cheap and as good."""


class Front(BaseModel):
    """All networks of a sweep by cost, those that are dominated too; `by` is what says which is better."""

    cost: str
    by: By
    points: list[Point]


def seen(service: Context, project: str | None, sweep_id: str) -> Sweep:
    """The sweep, if the caller's project may see it. Raises `UnknownSweep`."""
    sweep = service.sweeps.get(sweep_id)
    if project is not None and sweep.project != project:
        raise UnknownSweep(sweep_id)
    return sweep


def _seen(request: Request, sweep_id: Text, service: ContextDep, project: ProjectDep) -> Sweep:
    found = seen(service, project, sweep_id)
    steered(request, found.submitted_by)
    return found


SeenDep = Annotated[Sweep, Depends(_seen)]


@router.post("", status_code=201, response_model=SweepView, responses=QUOTA | CREATED, dependencies=[CHECKED])
def submit(request: SweepRequest, service: ContextDep, project: ProjectDep, key: KeyDep) -> Response:
    """Queue all searches of a sweep, or none: everything that can be known to be wrong is refused first."""
    if (before := given(service, key)) is not None:
        return before
    request = confined(request, project)
    budgets, notes = sorted_budgets(request)
    groups = specified(service, expand(request, budgets))
    specs = [points[0][1] for points in groups]
    against = [request.baselines if request.with_finals else spec.finals.baselines for spec in specs]
    notes += dict.fromkeys(
        note for spec, some in zip(specs, against, strict=True) for note in left_out(spec, budgets, some)
    )

    def create(session: Session) -> Answer:
        sweep = service.sweeps.create(session, request, budgets, groups)
        shown = view(service, sweep, session).model_copy(update={"notes": notes})
        return Answer(201, shown.model_dump(mode="json"), {"Location": f"/api/v1/sweeps/{sweep.id}"})

    return once(service, key, create)


def specified(service: Context, groups: list[list[SearchRequest]]) -> list[list[tuple[SearchRequest, SearchSpec]]]:
    """Each point of each group with what it means; points that differ in the seed alone are held to the rules once.

    A dataset is looked at once for all points that read it alike. Raises `InvalidRequest` and `StillLooking`.
    """
    settings, capacity, before = service.settings, service.capacity(), service.history.searches()
    look = cache(service.look())
    known: dict[str, SearchSpec] = {}

    def mean(point: SearchRequest) -> SearchSpec:
        carry_on()
        same = point.model_dump_json(exclude={"seed"})
        if same not in known:
            known[same] = check(
                point, settings.roots_of(point.project), settings.any_folder, capacity, look, False, before
            )
        try:
            return replace(known[same], seed=point.seed)
        except InvalidValue as problem:
            raise InvalidRequest([problem]) from problem

    return [[(point, mean(point)) for point in group] for group in groups]


@router.post(
    "/{sweep_id}/networks",
    response_model=SweepView,
    responses=UNKNOWN | QUOTA | UNFINISHED,
    dependencies=[CHECKED],
)
def add(sweep: SeenDep, more: MoreNetworks, service: ContextDep, key: KeyDep) -> Response:
    """Retrain more networks of a sweep whose searches have ended: for more budgets, or to compare with.

    No search is run again: a network for a budget that is new is the one that each search passed on its way.
    """
    budgets, notes = sorted_budgets(more)
    still_open(service, sweep.project, service.sweeps.datasets(sweep.id))

    def do(session: Session) -> Answer:
        locked = service.sweeps.get(sweep.id, session)
        groups = service.sweeps.sources(sweep.id, session)
        fresh = [budget for budget in budgets if budget not in locked.budgets]
        told = list(notes)
        if len(fresh) < len(budgets):
            known = ", ".join(str(budget) for budget in budgets if budget not in fresh)
            told.append(f"the sweep has these budgets already: {known}")
        held_to_rules(locked, groups, fresh, more)
        wanted = fresh or budgets or locked.budgets
        specs = (SearchSpec.from_dict(group[0].spec) for group in groups)
        told += dict.fromkeys(note for spec in specs for note in left_out(spec, wanted, more.baselines))
        service.sweeps.add_finals(session, locked, groups, wanted, fresh, more.baselines)
        shown = view(service, locked, session).model_copy(update={"notes": told})
        return Answer(200, shown.model_dump(mode="json"))

    return once(service, key, do)


def held_to_rules(sweep: Sweep, groups: list[list[Search]], fresh: list[int], more: MoreNetworks) -> None:
    """Raise what is wrong with more networks for a sweep: `ProblemError` (409) or `InvalidRequest`."""
    if not fresh and not named_baselines(more):
        accepted = f"budgets besides {', '.join(map(str, sweep.budgets))}, or baselines"
        raise InvalidRequest([InvalidValue("budgets", more.budgets, "nothing that is new", accepted)])
    unfinished = sum(search.status not in TERMINAL for group in groups for search in group)
    if unfinished:
        raise ProblemError(409, "Still searching", f"{unfinished} searches of this sweep have not ended yet.")
    if any(all(search.status != Status.SUCCEEDED for search in group) for group in groups):
        raise ProblemError(409, "Nothing found", "No search of this sweep, or of a part of its grid, has succeeded.")
    if not fresh:
        return
    if sweep.request.get("strategy") == "independent":
        accepted = "a new sweep, or one with the strategy path"
        reason = "each search of this sweep looked for one budget alone"
        raise InvalidRequest([InvalidValue("budgets", fresh, reason, accepted)])
    spec = SearchSpec.from_dict(groups[0][0].spec)
    if spec.limits.latency_ms is not None:
        accepted = "a new sweep: what a network takes is measured while it is searched for"
        raise InvalidRequest([InvalidValue("budgets", fresh, "this sweep limits the latency", accepted)])
    smallest = min(spec.budgets)
    problems = [
        InvalidValue("budgets", budget, "below what the searches went down to", f"{smallest} multiply-adds or more")
        for budget in fresh
        if budget < smallest
    ]
    specs = [SearchSpec.from_dict(group[0].spec) for group in groups]
    problems += [problem for one in specs for budget in fresh if (problem := infeasible(budget, one.space))]
    if problems:
        raise InvalidRequest(problems)


@router.get("")
def browse(
    service: ContextDep,
    project: ProjectDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    after: Text | None = None,
    only: Annotated[Text | None, Query(alias="project")] = None,
) -> SweepPage:
    """Sweeps, newest first, a page at a time."""
    found = service.sweeps.page(limit + 1, place(after) if after else None, project or only)
    shown = found[:limit]
    progress = service.sweeps.progress([sweep.id for sweep in shown])
    return SweepPage(
        items=[_view(sweep, progress[sweep.id]) for sweep in shown],
        next=position(shown[-1].created_at, shown[-1].id) if len(found) > limit else None,
    )


@router.get("/{sweep_id}", responses=UNKNOWN)
def look(sweep: SeenDep, service: ContextDep) -> SweepView:
    """One sweep."""
    return view(service, sweep)


@router.get("/{sweep_id}/searches", responses=UNKNOWN)
def searches(
    sweep: SeenDep,
    service: ContextDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    after: str | None = None,
) -> Page:
    """The searches of a sweep in the order of grid, seeds and budgets, a page at a time."""
    found = service.sweeps.searches(sweep.id, limit + 1, place(after) if after else None)
    shown = found[:limit]
    networks, capacity = service.searches.architectures(search.id for search in shown), service.capacity()
    return Page(
        items=[view_search(search, networks[search.id], capacity) for search in shown],
        next=position(shown[-1].rank, shown[-1].id) if len(found) > limit else None,
    )


@router.get("/{sweep_id}/pareto", responses=UNKNOWN | {200: {"content": {"text/csv": {}}}}, response_model=Front)
def pareto(
    sweep: SeenDep,
    service: ContextDep,
    cost: Literal["multiply_adds", "parameters", "activations", "latency_ms"] = "multiply_adds",
    by: Annotated[By, Query(description="What says which of two networks is better.")] = "accuracy",
    as_csv: Annotated[bool, Query(alias="csv", description="A table instead of JSON.")] = False,
) -> Front | Response:
    """The networks found so far by cost and accuracy, and which of them no other beats in both."""
    found = front_of(service, sweep, cost, by)
    if not as_csv:
        return found
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(Point.model_fields)
    writer.writerows(point.model_dump().values() for point in found.points)
    return Response(table.getvalue(), media_type="text/csv")


@router.post("/{sweep_id}/cancel", response_model=SweepView, responses=UNKNOWN)
def cancel(sweep: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Cancel every search of a sweep that has not ended."""

    def do(session: Session) -> Answer:
        service.sweeps.cancel(session, sweep.id)
        return Answer(200, view(service, sweep, session).model_dump(mode="json"))

    return once(service, key, do)


@router.post("/{sweep_id}/pause", response_model=SweepView, responses=UNKNOWN)
def pause(sweep: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Launch no more of a sweep's searches; those that run are left to end."""
    return once(service, key, lambda session: _paused(service, session, sweep, True))


@router.post("/{sweep_id}/resume", response_model=SweepView, responses=UNKNOWN)
def resume(sweep: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Go on with a sweep that was paused."""
    return once(service, key, lambda session: _paused(service, session, sweep, False))


@router.post("/{sweep_id}/retry", response_model=SweepView, responses=UNKNOWN | QUOTA)
def retry(sweep: SeenDep, service: ContextDep, key: KeyDep, changed: NewDeadlines | None = None) -> Response:
    """Queue again what has failed; each resumes from its last checkpoint, if it has one.

    Their time to wait and to run begins anew, with the deadlines that they had or those that are given.
    """
    deadlines = changed.parse() if changed is not None else {}
    still_open(service, sweep.project, service.sweeps.datasets(sweep.id))

    def do(session: Session) -> Answer:
        count = service.sweeps.retry(session, sweep.id, deadlines)
        shown = view(service, sweep, session).model_copy(update={"notes": [f"{count} searches are queued again"]})
        return Answer(200, shown.model_dump(mode="json"))

    return once(service, key, do)


def front_of(service: Context, sweep: Sweep, cost: str, by: By = "accuracy") -> Front:
    """The networks of a sweep that have a cost of that kind, the cheapest first."""
    known = sorted(
        service.sweeps.networks(sweep.id, cost), key=lambda one: (one["cost"], -one["accuracy"], one["architecture"])
    )
    judged = [one for one in known if one["origin"] not in BESIDE and one[by] is not None]
    best = front([(one["cost"], one[by]) for one in judged])
    on_front = {one["architecture"] for one, on in zip(judged, best, strict=True) if on}
    return Front(cost=cost, by=by, points=[Point(**one, on_front=one["architecture"] in on_front) for one in known])


def _paused(service: Context, session: Session, sweep: Sweep, paused: bool) -> Answer:
    service.sweeps.pause(session, sweep.id, paused)
    return Answer(200, view(service, sweep, session).model_dump(mode="json"))


def view(service: Context, sweep: Sweep, within: Session | None = None) -> SweepView:
    """What the API says of one sweep."""
    sweep = service.sweeps.get(sweep.id, within)
    if within is not None:
        within.flush()
    return _view(sweep, service.sweeps.progress([sweep.id], within)[sweep.id])


def _view(sweep: Sweep, progress: Progress) -> SweepView:
    counts, finals = (
        {status: found[status] for status in Status if status in found} for found in (progress.counts, progress.finals)
    )
    return SweepView(
        id=sweep.id,
        project=sweep.project,
        name=sweep.name,
        submitted_by=sweep.submitted_by,
        strategy=sweep.request.get("strategy", "path"),
        budgets=sweep.budgets,
        seeds=sweep.request.get("seeds", [0]),
        paused=sweep.paused,
        searches=sum(counts.values()),
        counts=counts,
        finals=finals,
        done=all(status in TERMINAL for status in (*counts, *finals)),
        seconds_left=progress.seconds_left,
        created_at=iso(sweep.created_at),
        request=sweep.request,
    )
