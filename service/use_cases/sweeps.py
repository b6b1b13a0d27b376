"""Sweeps: submit, extend, look at, pause, cancel and retry many searches together, and compare what they found."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from nas_core.space import BESIDE
from nas_core.spec import SearchSpec, infeasible
from nas_core.wording import number_of
from service import answers
from service.domain.lifecycle import TERMINAL, Status
from service.domain.pareto import front
from service.domain.patience import carry_on
from service.domain.references import left_out
from service.domain.request import InvalidRequest, SearchRequest, check, without_gpus
from service.domain.scheduling import Capacity
from service.domain.sweep import (
    MoreNetworks,
    NewSweepDescription,
    SweepRequest,
    expand,
    named_baselines,
    sorted_budgets,
)
from service.store.idempotency import Key
from service.store.models import Search, Sweep
from service.store.sweeps import Progress, UnknownSweep
from service.use_cases.errors import NotNow
from service.use_cases.once import Done, before, once
from service.use_cases.service import Service
from service.use_cases.views import iso, place, position, view_search


def seen(service: Service, project: str | None, sweep_id: str) -> Sweep:
    """The sweep, if the caller's project may see it. Raises `UnknownSweep`."""
    sweep = service.sweeps.get(sweep_id)
    if project is not None and sweep.project != project:
        raise UnknownSweep(sweep_id)
    return sweep


def submit(service: Service, request: SweepRequest, project: str | None, key: Key | None) -> Done[answers.Sweep]:
    """Queue all searches of a sweep for a caller of `project`, or none: everything that can be known to be wrong is
    refused first.

    Raises `InvalidRequest`, `InvalidValue`, `StillLooking`, `OverQuota` and `KeyReused`.
    """
    if (done := before(service, key)) is not None:
        return done
    request = service.confined(request, project)
    budgets, notes = sorted_budgets(request)
    capacity = service.capacity()
    groups = specified(service, expand(request, budgets), capacity)
    specs = [points[0][1] for points in groups]
    against = [request.baselines if request.with_finals else spec.finals.baselines for spec in specs]
    notes += dict.fromkeys(
        note for spec, some in zip(specs, against, strict=True) for note in left_out(spec, budgets, some)
    )
    notes += dict.fromkeys(note for points in groups for note in without_gpus(points[0][0], capacity))

    def create(session: Session) -> answers.Sweep:
        return view(service, service.sweeps.create(session, request, budgets, groups), session, notes)

    return once(service, key, create, 201, "/api/v1/sweeps/{}")


def specified(
    service: Service, groups: list[list[SearchRequest]], capacity: Capacity | None
) -> list[list[tuple[SearchRequest, SearchSpec]]]:
    """Each point of each group with what it means on a cluster of that `capacity`.

    Points that differ in the seed alone are held to the rules once. A dataset is looked at once for all points that
    read it alike. Raises `InvalidRequest` and `StillLooking`.
    """
    settings, earlier = service.settings, service.history.searches()
    look = cache(service.look())
    known: dict[str, SearchSpec] = {}

    def mean(point: SearchRequest) -> SearchSpec:
        carry_on()
        same = point.model_dump_json(exclude={"seed"})
        if same not in known:
            known[same] = check(
                point, settings.roots_of(point.project), settings.any_folder, capacity, look, False, earlier
            )
        try:
            return replace(known[same], seed=point.seed)
        except InvalidValue as problem:
            raise InvalidRequest([problem]) from problem

    return [[(point, mean(point)) for point in group] for group in groups]


def add(service: Service, sweep: Sweep, more: MoreNetworks, key: Key | None = None) -> Done[answers.Sweep]:
    """Retrain more networks of a sweep whose searches have ended: for more budgets, or to compare with.

    No search is run again: a network for a budget that is new is the one that each search passed on its way. The finals
    for a budget that the sweep has are repeated where one of their searches has succeeded since they began. Raises
    `InvalidRequest`, `NotNow`, `OverQuota` and `KeyReused`.
    """
    budgets, notes = sorted_budgets(more)
    service.still_open(sweep.project, service.sweeps.datasets(sweep.id))

    def do(session: Session) -> answers.Sweep:
        locked = service.sweeps.get(sweep.id, session)
        groups = service.sweeps.sources(sweep.id, session)
        fresh = [budget for budget in budgets if budget not in locked.budgets]
        missed = service.sweeps.missed(sweep.id, groups, session)
        again = [budget for budget in budgets if any(budget in own for own in missed)]
        told = list(notes)
        if known := [str(budget) for budget in budgets if budget not in (*fresh, *again)]:
            told.append(f"the sweep already has these budgets: {', '.join(known)}")
        if again:
            named = ", ".join(map(str, again))
            told.append(f"a search has succeeded since the finals for these budgets began; they are repeated: {named}")
        _held_to_rules(locked, groups, fresh, again, more)
        wanted = [budget for budget in budgets if budget in (*fresh, *again)]
        asked = wanted or budgets or locked.budgets
        of_groups = [[one for one in asked if one in (*fresh, *own)] if wanted else asked for own in missed]
        chosen = [(group, own) for group, own in zip(groups, of_groups, strict=True) if own]
        specs = (SearchSpec.from_dict(group[0].spec) for group, _ in chosen)
        told += dict.fromkeys(note for spec in specs for note in left_out(spec, asked, more.baselines))
        service.sweeps.add_finals(session, locked, chosen, bool(wanted), more.baselines)
        return view(service, locked, session, told)

    return once(service, key, do)


def _held_to_rules(
    sweep: Sweep, groups: list[list[Search]], fresh: list[int], again: list[int], more: MoreNetworks
) -> None:
    """Raise what is wrong with more networks for a sweep: `NotNow` or `InvalidRequest`."""
    if not fresh and not again and not named_baselines(more):
        accepted = f"budgets besides {', '.join(map(str, sweep.budgets))}, or baselines"
        raise InvalidRequest([InvalidValue("budgets", more.budgets, "nothing new", accepted)])
    unfinished = sum(search.status not in TERMINAL for group in groups for search in group)
    if unfinished:
        raise NotNow("Still searching", f"{unfinished} searches of this sweep have not ended yet.")
    if any(all(search.status != Status.SUCCEEDED for search in group) for group in groups):
        raise NotNow("Nothing found", "No search of this sweep, or of a part of its grid, has succeeded.")
    if not fresh:
        return
    if sweep.request.get("strategy") == "independent":
        accepted = "a new sweep, or one with the strategy path"
        reason = "each search of this sweep has a single budget"
        raise InvalidRequest([InvalidValue("budgets", fresh, reason, accepted)])
    spec = SearchSpec.from_dict(groups[0][0].spec)
    if spec.limits.latency_ms is not None:
        accepted = "a new sweep: the latency is measured during the search"
        raise InvalidRequest([InvalidValue("budgets", fresh, "this sweep limits the latency", accepted)])
    smallest = min(spec.budgets)
    problems = [
        InvalidValue("budgets", budget, "below the smallest cost of the searches", f"{smallest} multiply-adds or more")
        for budget in fresh
        if budget < smallest
    ]
    specs = [SearchSpec.from_dict(group[0].spec) for group in groups]
    problems += [problem for one in specs for budget in fresh if (problem := infeasible(budget, one.space))]
    if problems:
        raise InvalidRequest(problems)


def browse(
    service: Service, project: str | None, limit: int, after: str | None, tag: str | None = None, words: str = ""
) -> answers.SweepPage:
    """At most `limit` sweeps, newest first, from behind a place that an earlier page told; with a `tag` those that
    have it, and those with `words` in the name, id or dataset. Raises `InvalidValue`.
    """
    found = service.sweeps.page(limit + 1, place(after) if after else None, project, tag, words)
    shown = found[:limit]
    ids = [sweep.id for sweep in shown]
    progress, tags = service.sweeps.progress(ids), service.sweeps.tags(ids)
    return answers.SweepPage(
        items=[_view(sweep, progress[sweep.id], tags[sweep.id]) for sweep in shown],
        next=position(shown[-1].created_at, shown[-1].id) if len(found) > limit else None,
    )


def searches(service: Service, sweep: Sweep, limit: int, after: str | None) -> answers.SearchPage:
    """At most `limit` searches of a sweep in the order of grid, seeds and budgets. Raises `InvalidValue`."""
    found = service.sweeps.searches(sweep.id, limit + 1, place(after) if after else None)
    shown = found[:limit]
    networks, capacity = service.searches.architectures(search.id for search in shown), service.capacity()
    return answers.SearchPage(
        items=[view_search(search, networks[search.id], capacity) for search in shown],
        next=position(shown[-1].rank, shown[-1].id) if len(found) > limit else None,
    )


def cancel(service: Service, sweep: Sweep, key: Key | None = None) -> Done[answers.Sweep]:
    """Cancel every search of a sweep that has not ended. Raises `KeyReused`."""

    def do(session: Session) -> answers.Sweep:
        service.sweeps.cancel(session, sweep.id)
        return view(service, sweep, session)

    return once(service, key, do)


def pause(service: Service, sweep: Sweep, paused: bool, key: Key | None = None) -> Done[answers.Sweep]:
    """Launch no more of a sweep's searches, or go on; those that run are left to end. Raises `KeyReused`."""

    def do(session: Session) -> answers.Sweep:
        service.sweeps.pause(session, sweep.id, paused)
        return view(service, sweep, session)

    return once(service, key, do)


def describe(
    service: Service, sweep: Sweep, described: NewSweepDescription, key: Key | None = None
) -> Done[answers.Sweep]:
    """Give a sweep another name, tags or description, whatever its state. Raises `InvalidValue` and `KeyReused`."""

    def do(session: Session) -> answers.Sweep:
        service.sweeps.describe(session, sweep.id, described.model_dump(exclude_unset=True))
        return view(service, sweep, session)

    return once(service, key, do)


def retry(
    service: Service, sweep: Sweep, deadlines: Mapping[str, float | None], key: Key | None = None
) -> Done[answers.Sweep]:
    """Queue again what has failed; each resumes from its last checkpoint, if it has one.

    Their time to wait and to run begins anew, with the deadlines that they had or those that are given. Raises
    `InvalidRequest`, `OverQuota` and `KeyReused`.
    """
    service.still_open(sweep.project, service.sweeps.datasets(sweep.id))

    def do(session: Session) -> answers.Sweep:
        again = service.sweeps.retry(session, sweep.id, deadlines)
        return view(service, sweep, session, [f"{number_of(again, 'search')} queued again"])

    return once(service, key, do)


def front_of(service: Service, sweep: Sweep, cost: str, by: answers.By = "accuracy") -> answers.Front:
    """The networks of a sweep that have a cost of that kind, the cheapest first."""
    known = sorted(
        service.sweeps.networks(sweep.id, cost), key=lambda one: (one["cost"], -one["accuracy"], one["architecture"])
    )
    judged = [one for one in known if one["origin"] not in BESIDE and one[by] is not None]
    best = front([(one["cost"], one[by]) for one in judged])
    on_front = {one["architecture"] for one, on in zip(judged, best, strict=True) if on}
    points = [answers.Point(**one, on_front=one["architecture"] in on_front) for one in known]
    return answers.Front(cost=cost, by=by, points=points)


def view(service: Service, sweep: Sweep, within: Session | None = None, notes: Sequence[str] = ()) -> answers.Sweep:
    """What is told of one sweep."""
    sweep = service.sweeps.get(sweep.id, within)
    if within is not None:
        within.flush()
    progress, tags = service.sweeps.progress([sweep.id], within), service.sweeps.tags([sweep.id], within)
    return _view(sweep, progress[sweep.id], tags[sweep.id], notes)


def _view(sweep: Sweep, progress: Progress, tags: list[str], notes: Sequence[str] = ()) -> answers.Sweep:
    counts, finals = (
        {status.value: found[status] for status in Status if status in found}
        for found in (progress.counts, progress.finals)
    )
    return answers.Sweep(
        id=sweep.id,
        project=sweep.project,
        name=sweep.name,
        tags=tags,
        description=sweep.description,
        submitted_by=sweep.submitted_by,
        strategy=sweep.request.get("strategy", "path"),
        budgets=sweep.budgets,
        seeds=sweep.request.get("seeds", [0]),
        paused=sweep.paused,
        searches=sum(counts.values()),
        counts=counts,
        finals=finals,
        done=all(status in TERMINAL for status in (*counts, *finals)),
        stalled=progress.stalled,
        seconds_left=progress.seconds_left,
        created_at=iso(sweep.created_at),
        request=sweep.request,
        notes=list(notes),
    )
