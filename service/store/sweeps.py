"""Sweeps: searches that are queued together, or not at all, and then looked at and steered together."""

import json
import math
import time as clock
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Engine, RowMapping, Text, case, cast, func, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session

from nas_core.errors import InvalidValue
from nas_core.spec import NO_FINALS, SearchSpec
from service.domain import scheduling
from service.domain.lifecycle import TERMINAL, WITH_RAY, Status
from service.domain.request import MOST_TAGS, SearchRequest
from service.domain.stalled import stalled_for
from service.domain.sweep import SweepRequest
from service.store import audit, changes, outbox
from service.store.audit import Action
from service.store.claims import typical_seconds
from service.store.database import reading
from service.store.models import ArchitectureRow, Event, Search, Sweep, now
from service.store.projects import admit_to_queue
from service.store.searches import NO_CHANGE, new_search

MOST_AT_ONCE = 64
"""At most so many networks of one finals are retrained at once: its driver follows them all."""

Points = Sequence[tuple[SearchRequest, SearchSpec]]
TESTED = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy")
"""What a network's test told, of which its place on a plane with its cost follows."""


class UnknownSweep(LookupError):
    """No sweep of that id."""


@dataclass(frozen=True)
class Progress:
    """How many searches and finals of a sweep are in each state, and about how many seconds are left.

    The latter is None while none runs that has not stalled; `stalled` is how many have.
    """

    counts: dict[str, int]
    finals: dict[str, int]
    stalled: int
    seconds_left: float | None


class Sweeps:
    """The sweeps in the database behind `engine`; what changes something does so in the caller's transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def create(
        self,
        session: Session,
        request: SweepRequest,
        budgets: Sequence[int],
        groups: Sequence[Points],
    ) -> Sweep:
        """Queue all points of all groups, and the finals of each group where there are any. Raises `OverQuota`."""
        finals = len(groups) if request.with_finals else 0
        admit_to_queue(session, request.project, sum(map(len, groups)) + finals)
        time = changes.time_of(session)
        sweep = Sweep(
            id=changes.new_id(),
            project=request.project,
            name=request.name,
            description=request.description,
            submitted_by=changes.BY.get(),
            request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
            budgets=list(budgets),
            paused=False,
            created_at=time,
        )
        session.add(sweep)
        session.flush()
        rows, last = [], []
        for points in groups:
            found = [new_search(point, spec, time) | {"sweep_id": sweep.id} for point, spec in _awake(session, points)]
            if request.with_finals:
                final = new_finals(points[0], budgets, found, request.baselines, time)
                last.append(final | {"awaiting": True, "reason": changes.AWAITING_REASON, "start_by": None})
                for row in found:
                    row |= {
                        "finals_id": final["id"],
                        "spec": row["spec"] | {"retrain": False, "finals": NO_FINALS.to_dict()},
                    }
            rows += found
        _queue(session, sweep, rows + last, time)
        _audit(session, Action.SUBMITTED, sweep, time, {"searches": len(rows), "dataset": groups[0][0][0].dataset})
        return sweep

    def sources(self, sweep_id: str, within: Session) -> list[list[Search]]:
        """The searches of a sweep in groups that differ in nothing but seeds and budgets, in order."""
        query = (
            select(Search).where(Search.sweep_id == sweep_id, Search.kind == "search").order_by(Search.rank, Search.id)
        )
        groups: dict[str, list[Search]] = {}
        for search in within.scalars(query):
            common = {key: value for key, value in search.spec.items() if key not in ("seed", "budgets")}
            groups.setdefault(json.dumps(common, sort_keys=True), []).append(search)
        return list(groups.values())

    def missed(self, sweep_id: str, groups: Sequence[Sequence[Search]], within: Session) -> list[set[int]]:
        """For each group the budgets whose finals had begun when one of its searches succeeded."""
        query = select(Search).where(Search.sweep_id == sweep_id, Search.kind == "finals")
        finals = within.scalars(query).all()
        found = []
        for group in groups:
            own, began = {one.id for one in group}, dict[int, float]()
            for one in finals:
                if own & {source["id"] for source in one.spec["finals"]["of"]}:
                    for budget in one.spec["budgets"]:
                        began[budget] = max(began.get(budget, 0.0), one.started_at or math.inf)
            last = max((one.ended_at or 0.0 for one in group if one.status == Status.SUCCEEDED), default=0.0)
            found.append({budget for budget, time in began.items() if time < last})
        return found

    def add_finals(
        self,
        session: Session,
        sweep: Sweep,
        groups: Sequence[tuple[Sequence[Search], Sequence[int]]],
        compete: bool,
        baselines: Sequence[str],
    ) -> None:
        """Queue finals of each group for the budgets beside it: of what its searches found, where these are to
        `compete`, and of baselines.

        Raises `OverQuota`.
        """
        admit_to_queue(session, sweep.project, len(groups))
        time = changes.time_of(session)
        tags = self.tags([sweep.id], session)[sweep.id]
        rows = []
        for group, budgets in groups:
            first = group[0]
            point = SearchRequest(**first.request), SearchSpec.from_dict(first.spec)
            found = [{"id": one.id, "spec": one.spec} for one in group if one.status == Status.SUCCEEDED]
            rows.append(new_finals(point, budgets, found if compete else [], baselines, time) | {"tags": tags})
        _queue(session, sweep, rows, time)
        wanted = sorted({budget for _, budgets in groups for budget in budgets})
        _audit(session, Action.EXTENDED, sweep, time, {"budgets": wanted, "baselines": list(baselines)})
        sweep.budgets = sorted({*sweep.budgets, *wanted})

    def get(self, sweep_id: str, within: Session | None = None) -> Sweep:
        """The sweep of that id; in a caller's transaction its row is locked. Raises `UnknownSweep`."""
        if within is not None:
            sweep = within.get(Sweep, sweep_id, with_for_update=True)
        else:
            with reading(self.engine) as session:
                sweep = session.get(Sweep, sweep_id)
        if sweep is None:
            raise UnknownSweep(sweep_id)
        return sweep

    def page(
        self,
        limit: int,
        after: tuple[float, str] | None,
        project: str | None,
        tag: str | None = None,
        words: str = "",
    ) -> Sequence[Sweep]:
        """At most `limit` sweeps, newest first, from behind the one with the (time, id) `after`; with a `tag` those
        of which all searches have it, and those with `words` in the name, id or dataset."""
        query = select(Sweep).order_by(Sweep.created_at.desc(), Sweep.id.desc()).limit(limit)
        if after is not None:
            query = query.where(tuple_(Sweep.created_at, Sweep.id) < tuple_(*after))
        if project is not None:
            query = query.where(Sweep.project == project)
        if words:
            named = (Sweep.name, Sweep.id, Sweep.request["search"]["dataset"].as_string())
            query = query.where(or_(*(column.icontains(words, autoescape=True) for column in named)))
        if tag is not None:
            has = cast(Search.tags, Text).contains(json.dumps(tag), autoescape=True)
            # An aggregate: PostgreSQL looks it up for each sweep by its index, and would join EXISTS with all searches.
            # And not by the kind as it is, for which SQLite would leave that index.
            of_all = select(func.min(case((has, 1), else_=0))).where(
                Search.sweep_id == Sweep.id, Search.kind.concat("") == "search"
            )
            query = query.where(of_all.scalar_subquery() == 1)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def tags(self, sweep_ids: Sequence[str], within: Session | None = None) -> dict[str, list[str]]:
        """The tags that all searches of each sweep have; those of its finals do not count."""
        of_searches = (
            select(Search.sweep_id, cast(Search.tags, Text))
            .where(Search.sweep_id.in_(list(sweep_ids)), Search.kind == "search")
            .distinct()
        )
        found: dict[str, list[list[str]]] = {sweep_id: [] for sweep_id in sweep_ids}
        with reading(self.engine) if within is None else nullcontext(within) as session:
            for sweep_id, tags in session.execute(of_searches):
                found[str(sweep_id)].append(json.loads(tags))
        return {
            sweep_id: [tag for tag in (each[0] if each else []) if all(tag in tags for tags in each)]
            for sweep_id, each in found.items()
        }

    def describe(self, session: Session, sweep_id: str, described: Mapping[str, Any]) -> None:
        """Give a sweep another `name` or `description`, and all its searches `tags` in place of those in common.

        Raises `InvalidValue` where a search, with tags of its own, would have too many.
        """
        sweep = self.get(sweep_id, session)
        changed = {field for field, value in described.items() if field != "tags" and value != getattr(sweep, field)}
        for field in changed:
            setattr(sweep, field, described[field])
        if "tags" in described and self._tag(session, sweep_id, described["tags"]):
            changed.add("tags")
        if changed:
            _audit(session, Action.DESCRIBED, sweep, data={"fields": sorted(changed)})

    def _tag(self, session: Session, sweep_id: str, tags: Sequence[str]) -> bool:
        """Give all searches `tags` in place of those in common; returns whether that changed any."""
        common = self.tags([sweep_id], session)[sweep_id]
        rows = select(Search.id, Search.tags).where(Search.sweep_id == sweep_id).order_by(Search.id)
        changed = []
        for search_id, before in session.execute(rows.with_for_update()):
            after = list(dict.fromkeys([*tags, *(tag for tag in before if tag not in common)]))
            if len(after) > MOST_TAGS:
                reason = f"search {search_id}, which has tags of its own, would have {len(after)}"
                raise InvalidValue("tags", list(tags), reason, f"at most {MOST_TAGS} for each search")
            if after != before:
                changed.append({"id": search_id, "tags": after})
        if changed:
            time = changes.time_of(session)
            session.execute(update(Search), changed)
            events = [
                {"search_id": one["id"], "time": time, "kind": "described",
                 "data": changes.signed({"tags": one["tags"]})}
                for one in changed
            ]  # fmt: skip
            session.execute(insert(Event), events)
        return bool(changed)

    def progress(self, sweep_ids: Sequence[str], within: Session | None = None) -> dict[str, Progress]:
        """How far each sweep is."""
        if within is None:
            with reading(self.engine) as session:
                return self.progress(sweep_ids, session)
        kinds = {"search": {sweep_id: Counter[str]() for sweep_id in sweep_ids}}
        kinds["finals"] = {sweep_id: Counter() for sweep_id in sweep_ids}
        per_state = (
            select(Search.sweep_id, Search.kind, Search.status, func.count())
            .where(Search.sweep_id.in_(list(sweep_ids)))
            .group_by(Search.sweep_id, Search.kind, Search.status)
        )
        for sweep_id, kind, status, count in within.execute(per_state):
            kinds[kind][str(sweep_id)][status] = count
        each, stalled = typical_seconds(within), self.stalled(sweep_ids, within)
        return {
            sweep_id: Progress(
                counts, finals, stalled[sweep_id], _seconds_left(counts + finals, stalled[sweep_id], each)
            )
            for sweep_id, counts, finals in ((one, kinds["search"][one], kinds["finals"][one]) for one in sweep_ids)
        }

    def stalled(self, sweep_ids: Sequence[str], within: Session | None = None) -> Counter[str]:
        """How many searches and finals of each sweep have stalled."""
        running = select(Search.sweep_id, Search.started_at, Search.heard_at, Search.progress).where(
            Search.sweep_id.in_(list(sweep_ids)), Search.status == Status.RUNNING
        )
        with reading(self.engine) if within is None else nullcontext(within) as session:
            return Counter(
                str(sweep_id)
                for sweep_id, started_at, heard_at, progress in session.execute(running)
                if stalled_for(Status.RUNNING, started_at, heard_at, progress, clock.time()) is not None
            )

    def searches(self, sweep_id: str, limit: int, after: tuple[float, str] | None = None) -> Sequence[Search]:
        """At most `limit` searches of a sweep in the order of its points, from behind the (rank, id) `after`."""
        query = select(Search).where(Search.sweep_id == sweep_id).order_by(Search.rank, Search.id).limit(limit)
        if after is not None:
            query = query.where(tuple_(Search.rank, Search.id) > tuple_(*after))
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def datasets(self, sweep_id: str) -> Sequence[str]:
        """What the searches of a sweep search on, each dataset once."""
        with reading(self.engine) as session:
            return session.scalars(select(Search.dataset).where(Search.sweep_id == sweep_id).distinct()).all()

    def networks(self, sweep_id: str, cost: str) -> Sequence[RowMapping]:
        """Every network that a sweep has retrained and that has such a `cost`, with what places it on the plane of
        cost and accuracy; `seed` is that of its search, or its own in finals."""
        result = ArchitectureRow.result  # of which most is left in the database: there may be thousands
        own_cost = result[cost].as_float()
        query = (
            select(
                ArchitectureRow.id.label("architecture"),
                ArchitectureRow.search_id.label("search"),
                func.coalesce(result["origin"].as_string(), "search").label("origin"),
                func.coalesce(result["winner"].as_boolean(), True).label("winner"),
                func.coalesce(result["seed"].as_integer(), Search.spec["seed"].as_integer()).label("seed"),
                ArchitectureRow.budget,
                own_cost.label("cost"),
                *(result[name].as_float().label(name) for name in (*TESTED, "validation_accuracy")),
            )
            .join(Search, Search.id == ArchitectureRow.search_id)
            .where(Search.sweep_id == sweep_id, own_cost.is_not(None))
        )
        with reading(self.engine) as session:
            return session.execute(query).mappings().all()

    def cancel(self, session: Session, sweep_id: str) -> None:
        """Cancel what has not ended: at once what is queued, and by way of `cancelling` what is with Ray."""
        sweep = self.get(sweep_id, session)
        time = changes.time_of(session)
        _audit(session, Action.CANCELLED, sweep, time)
        queued = (
            update(Search)
            .where(Search.sweep_id == sweep_id, Search.status == Status.QUEUED)
            .values(status=Status.CANCELLED, ended_at=time, reason=None, start_by=None)
            .returning(Search.id, Search.attempt, Search.kind, Search.name)
            .execution_options(synchronize_session=False)
        )
        cancelled = session.execute(queued).mappings().all()
        events = [
            {"search_id": row["id"], "time": time, "kind": "status",
             "data": changes.signed({"status": Status.CANCELLED, "attempt": row["attempt"]})}
            for row in cancelled
        ]  # fmt: skip
        if events:
            session.execute(insert(Event), events)
        stopped = WITH_RAY - {Status.CANCELLING}
        for search in self._locked(session, sweep_id, stopped):
            changes.move(session, search, Status.CANCELLING, reason="its job is being stopped")
        outbox.tell(session, sweep.project, sweep_id, Status.CANCELLED, cancelled, time)

    def pause(self, session: Session, sweep_id: str, paused: bool) -> None:
        """Launch no more of a sweep, or go on. What is with Ray is left to end."""
        sweep = self.get(sweep_id, session)
        sweep.paused = paused
        _audit(session, Action.PAUSED if paused else Action.RESUMED, sweep)
        every = update(Search).where(Search.sweep_id == sweep_id).execution_options(synchronize_session=False)
        waiting = every.where(Search.status == Status.QUEUED, Search.awaiting.is_(False))
        session.execute(every.values(paused=paused))
        if paused:
            session.execute(waiting.values(reason=changes.PAUSED_REASON))
        else:
            session.execute(waiting.where(Search.reason == changes.PAUSED_REASON).values(reason=None))
            # Those that were waiting to be started begin to wait anew.
            session.execute(waiting.where(Search.start_by.is_not(None)).values(start_by=now() + Search.max_wait))

    def retry(self, session: Session, sweep_id: str, deadlines: Mapping[str, float | None] = NO_CHANGE) -> int:
        """Queue again what has failed, with `deadlines` as a search; returns how many that are. Raises `OverQuota`."""
        sweep = self.get(sweep_id, session)
        failed = self._locked(session, sweep_id, {Status.FAILED})
        admit_to_queue(session, sweep.project, len(failed))
        for search in failed:
            changes.queue_again(session, search, deadlines)
        _audit(session, Action.RETRIED, sweep, data={"searches": len(failed)})
        return len(failed)

    def _locked(self, session: Session, sweep_id: str, states: frozenset[Status] | set[Status]) -> Sequence[Search]:
        query = select(Search).where(Search.sweep_id == sweep_id, Search.status.in_(states)).order_by(Search.id)
        return session.scalars(query.with_for_update()).all()


def _audit(
    session: Session, action: Action, sweep: Sweep, time: float | None = None, data: dict[str, Any] | None = None
) -> None:
    audit.note(session, action, sweep.project, f"sweep/{sweep.id}", data, time)


def new_finals(
    point: tuple[SearchRequest, SearchSpec],
    budgets: Sequence[int],
    sources: Sequence[Mapping[str, Any]],
    baselines: Sequence[str],
    time: float,
) -> dict[str, Any]:
    """The columns of finals that are queued at `time`, of `sources` (columns of searches) that are like `point`.

    They ask for the workers of one network, and for as many times these as there are networks.
    """
    request, spec = point
    each = spec.least_workers
    spec = replace(spec, budgets=tuple(budgets), retrain=True, workers=each, min_workers=None)
    of = [{"id": one["id"], "seed": one["spec"]["seed"], "budgets": one["spec"]["budgets"]} for one in sources]
    seeds = sorted({one["seed"] for one in of} or {spec.seed})
    finals = {"of": of, "baselines": baselines, "seeds": seeds, "workers": each}
    baselines = list(dict.fromkeys(baselines))
    each_budget = len(of) + len(seeds) * ("random" in baselines) + len({*baselines} - {"random"})
    at_once = max(1, min(len(budgets) * each_budget, MOST_AT_ONCE))
    row = new_search(request, spec, time)
    cpus, gpus = at_once * row["cpus"], at_once * row["gpus"]
    return row | {
        "kind": "finals",
        "spec": row["spec"] | {"workers": at_once * each, "finals": finals},
        "workers": at_once * each,
        "cpus": cpus,
        "gpus": gpus,
        "accelerators": scheduling.accelerators(cpus, gpus),
    }


def _queue(session: Session, sweep: Sweep, rows: list[dict[str, Any]], time: float) -> None:
    """Queue rows of a sweep in their order."""
    for number, row in enumerate(rows):
        row.setdefault("finals_id", None)
        row.setdefault("awaiting", False)
        row.setdefault("reason", changes.PAUSED_REASON if sweep.paused else None)
        row |= {"sweep_id": sweep.id, "paused": sweep.paused, "rank": row["rank"] + number * 1e-6}
    session.execute(insert(Search), rows)
    data = changes.signed({"status": Status.QUEUED})
    session.execute(
        insert(Event), [{"search_id": row["id"], "time": time, "kind": "status", "data": data} for row in rows]
    )


def _awake(session: Session, points: Points) -> "Iterator[tuple[SearchRequest, SearchSpec]]":
    """The points, and now and then a word to PostgreSQL, which ends a transaction that is silent for ten seconds: to
    describe 10,000 searches takes longer on a busy machine."""
    for number, point in enumerate(points, 1):
        if number % 500 == 0:
            changes.time_of(session)
        yield point


def _seconds_left(counts: Mapping[str, int], stalled: int, each: float) -> float | None:
    """What is left if as many go on running as do now, without those that have stalled; None where none runs."""
    left = sum(count for status, count in counts.items() if status not in TERMINAL)
    running = sum(count for status, count in counts.items() if status in WITH_RAY) - stalled
    if left == 0:
        return 0.0
    return left * each / running if running > 0 else None
