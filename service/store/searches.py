"""What users do with searches, and every query on searches, their events and their architectures."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Engine,
    Insert,
    Select,
    Text,
    bindparam,
    cast,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import Session

from nas_core.spec import SearchSpec
from service.domain import scheduling
from service.domain.deadlines import Deadlines
from service.domain.lifecycle import MAX_ATTEMPTS, TERMINAL, Status
from service.domain.request import SearchRequest
from service.domain.stalled import stalled_for
from service.store import audit, changes
from service.store.audit import Action
from service.store.database import reading, writing
from service.store.models import ArchitectureRow, Attempt, AuditEntry, Deletion, Event, Search, Sweep
from service.store.projects import admit_to_queue

LATE = 1000
"""By how many numbers an event may come to light late."""
NO_CHANGE: Mapping[str, float | None] = {}
LOOKED_THROUGH = 20_000
"""Searches that are looked at for words or a tag in one page."""

Order = Literal["newest", "oldest", "accuracy"]
"""In which order a list has its searches; by accuracy it has those alone that have one, the most accurate first."""
Place = tuple[float, str]
"""Where a search stands in the list: what the order goes by, which is when it was submitted or its accuracy, and its
id."""


@dataclass(frozen=True)
class Wanted:
    """Which searches are asked for, and in which order: of a state, a project and a kind, with `words` in the name, id
    or dataset, and with a tag.
    """

    status: Status | None = None
    project: str | None = None
    kind: str | None = None
    words: str = ""
    tag: str | None = None
    order: Order = "newest"


ALL = Wanted()


@dataclass(frozen=True)
class Snapshot:
    """What lived of a supernet at the event `seq`: multiply-adds and edges."""

    seq: int
    multiply_adds: int
    live_edges: int


class MarkOfSearch(NamedTuple):
    """What changes with all that happens to one search, whose events come in the order of their numbers."""

    newest: int
    status: Status
    reason: str | None
    stalled: bool


class MarkOfProject:
    """What changes with every event of a project's searches, and with no other: whoever waits for it learns of others
    neither how much happens to them nor when.

    Many may ask for it: the database is asked once in `seconds`.
    """

    def __init__(self, engine: Engine, project: str, seconds: float = 0.5) -> None:
        self.engine, self.project, self.seconds = engine, project, seconds
        self.newest, self.changes = 0, 0
        self.seen: set[int] = set()
        self.looked_to: int | None = None
        """The last number of all events when the database was asked before."""
        self.until = 0.0
        self.lock = threading.Lock()

    def __call__(self) -> tuple[int, int]:
        """The number of the project's newest event, and how many have come to light, or gone, since the first call."""
        with self.lock:
            if time.monotonic() >= self.until:
                self._look()
                self.until = time.monotonic() + self.seconds
            return self.newest, self.changes

    def _look(self) -> None:
        with reading(self.engine) as session:
            last = session.execute(_newest_seq()).scalar_one()
            # Where nobody has asked for long, it begins anew: the events since then may be many.
            anew = self.looked_to is None or last - self.looked_to > 10 * LATE
            if anew:
                self.newest = session.execute(_newest_seq(project=self.project)).scalar_one()
            behind = (last if anew or self.looked_to is None else self.looked_to) - LATE
            recent = select(Event.seq).join(Search, Search.id == Event.search_id)
            recent = recent.where(Event.seq > behind, Search.project == self.project)
            found = set(session.scalars(recent))
        if self.looked_to is not None:
            self.changes += 1 if anew else sum(seq > behind for seq in found ^ self.seen)
        self.newest = max(self.newest, *found, 0)
        self.seen, self.looked_to = found, last


class NotEnded(RuntimeError):
    """Only a search that has failed or was cancelled can be queued again."""


class Searches:
    """The searches in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._marks: dict[str, MarkOfProject] = {}

    # What users do

    def create(self, request: SearchRequest, spec: SearchSpec, within: Session | None = None) -> Search:
        """Queue a search. Raises `OverQuota`."""
        with self._writing(within) as session:
            time = admit_to_queue(session, request.project)
            row = _DEFAULTS | new_search(request, spec, time)
            search = Search(**row)
            told, submitted = {"status": Status.QUEUED}, {"dataset": request.dataset}
            if session.get_bind().dialect.name == "postgresql":
                given = {f"of_{name}": value for name, value in row.items()}
                given |= {"of_event": changes.signed(told), "of_entry": submitted}
                session.connection().execute(_queue(tuple(row)), given)
                return search
            session.add(search)
            session.flush()
            changes.note(session, search.id, "status", told, time)
            _audit(session, Action.SUBMITTED, search, time, submitted)
            return search

    def get(self, search_id: str) -> Search:
        """The search of that id. Raises `UnknownSearch`."""
        with reading(self.engine) as session:
            return changes.get(session, search_id)

    def page(
        self, limit: int, after: Place | None = None, wanted: Wanted = ALL
    ) -> tuple[Sequence[Search], Place | None]:
        """At most `limit` searches that are wanted, in their order, from behind `after`, and from where to go on.

        No index tells where words and tags are, so at most `LOOKED_THROUGH` searches behind `after` are looked at for
        them; what is not among these is found by going on from there. A whole id is found at once, wherever it is.
        """
        with reading(self.engine) as session:
            if wanted.words or wanted.tag:
                return _looked_through(session, limit, after, wanted)
            rows = session.execute(_in_order(select(Search, _by(wanted)), after, wanted).limit(limit + 1)).all()
            further = (rows[limit - 1][1], rows[limit - 1][0].id) if len(rows) > limit else None
            return [search for search, _ in rows[:limit]], further

    def cancel(self, search_id: str, within: Session | None = None) -> Search:
        """Cancel a search: at once where nothing was launched, else by way of `cancelling`.

        One that has ended, or is being cancelled, stays as it is. Raises `UnknownSearch`.
        """
        with self._writing(within) as session:
            search = changes.get(session, search_id, lock=True)
            status = Status(search.status)
            if status in TERMINAL or status == Status.CANCELLING:
                return search
            if status == Status.QUEUED:
                changes.move(session, search, Status.CANCELLED, reason=None)
            else:
                changes.move(session, search, Status.CANCELLING, reason="its job is being stopped")
            _audit(session, Action.CANCELLED, search)
            return search

    def retry(
        self, search_id: str, within: Session | None = None, deadlines: Mapping[str, float | None] = NO_CHANGE
    ) -> Search:
        """Queue a search that failed or was cancelled again; it resumes from its last checkpoint, if it has one.

        Its time to wait and to run begins anew, with the `deadlines` that are given, and those that it had.

        Raises `UnknownSearch`, `NotEnded` and `OverQuota`.
        """
        with self._writing(within) as session:
            search = changes.get(session, search_id, lock=True)
            if search.status not in (Status.FAILED, Status.CANCELLED):
                raise NotEnded(f"search {search_id} is {search.status}; only a failed or cancelled one is tried again")
            admit_to_queue(session, search.project)
            changes.queue_again(session, search, deadlines)
            _audit(session, Action.RETRIED, search)
            return search

    def describe(self, search_id: str, described: Mapping[str, Any], within: Session | None = None) -> Search:
        """Give a search another `name`, `tags` or `description`. Raises `UnknownSearch`."""
        with self._writing(within) as session:
            search = changes.get(session, search_id, lock=True)
            changed = {field: value for field, value in described.items() if getattr(search, field) != value}
            if changed:
                for field, value in changed.items():
                    setattr(search, field, value)
                time = changes.time_of(session)
                changes.note(session, search.id, "described", changed, time)
                _audit(session, Action.DESCRIBED, search, time, {"fields": sorted(changed)})
            return search

    def delete(self, search_id: str, within: Session | None = None) -> None:
        """Delete a search that has ended, with its events, attempts and networks; a dispatcher removes its folder.

        Finals retrain what the searches of their sweep have found: as long as they may, those stay. With its last
        search a sweep goes too. Raises `UnknownSearch` and `NotEnded`.
        """
        with self._writing(within) as session:
            search = changes.get(session, search_id, lock=True)
            if search.status not in TERMINAL:
                raise NotEnded(f"search {search_id} is {search.status}; only one that has ended can be deleted")
            if search.sweep_id is not None:
                _check_unused(session, search)
            for table in (Event, ArchitectureRow, Attempt):
                session.execute(delete(table).where(table.search_id == search_id))
            time = changes.time_of(session)
            session.add(Deletion(search_id=search_id, project=search.project, deleted_at=time))
            _audit(session, Action.DELETED, search, time, {"submitted_by": search.submitted_by})
            sweep_id = search.sweep_id
            changes.measured(session, search, 0)
            session.delete(search)
            session.flush()
            if (
                sweep_id is not None
                and not session.execute(select(exists().where(Search.sweep_id == sweep_id))).scalar()
            ):
                session.execute(delete(Sweep).where(Sweep.id == sweep_id))

    def _writing(self, within: Session | None) -> AbstractContextManager[Session]:
        """The caller's transaction, or one of its own."""
        return writing(self.engine) if within is None else nullcontext(within)

    # What is asked

    def ahead(self, search: Search) -> int:
        """How many searches of its project are in the queue before this one."""
        query = select(func.count()).where(
            Search.status == Status.QUEUED,
            Search.project == search.project,
            tuple_(Search.rank, Search.id) < tuple_(search.rank, search.id),
        )
        with reading(self.engine) as session:
            return session.execute(query).scalar_one()

    def attempts(self, search_id: str) -> Sequence[Attempt]:
        """The launches of a search, in order."""
        with reading(self.engine) as session:
            return session.scalars(select(Attempt).where(Attempt.search_id == search_id).order_by(Attempt.number)).all()

    def events(self, search_id: str, after: int = 0, kind: str | None = None, limit: int = 1000) -> Sequence[Event]:
        """At most `limit` events of a search behind the number `after`, in order."""
        query = select(Event).where(Event.search_id == search_id, Event.seq > after).order_by(Event.seq).limit(limit)
        if kind is not None:
            query = query.where(Event.kind == kind)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def count_events(self, search_id: str) -> int:
        """How many events a search has."""
        with reading(self.engine) as session:
            return session.execute(select(func.count()).where(Event.search_id == search_id)).scalar_one()

    def events_of(self, search_id: str, kinds: Iterable[str]) -> Sequence[Event]:
        """All events of some kinds, in order; for kinds of which there are few."""
        query = select(Event).where(Event.search_id == search_id, Event.kind.in_(tuple(kinds))).order_by(Event.seq)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def snapshots(self, search_id: str, after: int = 0) -> Sequence[Snapshot]:
        """The snapshots of a search behind the number `after`, in order, without their architectures."""
        numbers = (Event.data[name].as_integer().label(name) for name in ("multiply_adds", "live_edges"))
        query = (
            select(Event.seq, *numbers)
            .where(Event.search_id == search_id, Event.kind == "snapshot", Event.seq > after)
            .order_by(Event.seq)
        )
        with reading(self.engine) as session:
            return [Snapshot(*row) for row in session.execute(query)]

    def newest_seq(self, search_id: str | None = None, project: str | None = None) -> int:
        """The number of the last event, of one search, of one project's or of all; 0 where there is none."""
        with reading(self.engine) as session:
            return session.execute(_newest_seq(search_id, project)).scalar_one()

    def mark(self) -> tuple[int, int]:
        """What changes with every event of any search: the last one's number, and how many of the numbers before are.

        PostgreSQL gives a number when an event is written and shows it when that is committed: a smaller one can come
        to light after a larger one.
        """
        last = _newest_seq().scalar_subquery()
        query = select(last, select(func.count()).where(Event.seq > last - LATE).scalar_subquery())
        with reading(self.engine) as session:
            newest, count = session.execute(query).one()
            return newest, count

    def marks(self, project: str | None) -> Callable[[], tuple[int, int]]:
        """The mark of a project's searches, or of all, for whoever asks for it again and again."""
        if project is None:
            return self.mark
        return self._marks.setdefault(project, MarkOfProject(self.engine, project))

    def mark_of(self, search_id: str) -> MarkOfSearch:
        """What changes with all that happens to one search. Raises `UnknownSearch`."""
        last = _newest_seq(search_id).scalar_subquery()
        with reading(self.engine) as session:
            row = session.execute(
                select(last, Search.status, Search.reason, Search.started_at, Search.heard_at, Search.progress).where(
                    Search.id == search_id
                )
            ).one_or_none()
        if row is None:
            raise changes.UnknownSearch(search_id)
        newest, status, reason, started_at, heard_at, progress = row
        stalled = stalled_for(status, started_at, heard_at, progress, time.time()) is not None
        return MarkOfSearch(newest, Status(status), reason, stalled)

    def architectures(
        self, search_ids: Iterable[str], within: Session | None = None
    ) -> dict[str, Sequence[ArchitectureRow]]:
        """The networks of each search, the smallest budget first."""
        found: dict[str, list[ArchitectureRow]] = {search_id: [] for search_id in search_ids}
        query = (
            select(ArchitectureRow)
            .where(ArchitectureRow.search_id.in_(list(found)))
            .order_by(ArchitectureRow.search_id, ArchitectureRow.budget)
        )
        with reading(self.engine) if within is None else nullcontext(within) as session:
            for row in session.scalars(query):
                found[row.search_id].append(row)
        return dict(found)

    def architecture(self, architecture_id: str) -> ArchitectureRow | None:
        """The network of that id, if there is one."""
        with reading(self.engine) as session:
            return session.get(ArchitectureRow, architecture_id)


def _audit(
    session: Session, action: Action, search: Search, time: float | None = None, data: dict[str, Any] | None = None
) -> None:
    audit.note(session, action, search.project, f"search/{search.id}", data, time)


def _check_unused(session: Session, search: Search) -> None:
    """Raise `NotEnded` where finals may still ask for what a search has found."""
    waiting = (Search.sweep_id == search.sweep_id, Search.kind == "finals", Search.status != Status.SUCCEEDED)
    for finals in session.scalars(select(Search).where(*waiting, Search.id != search.id)):
        if any(one["id"] == search.id for one in finals.spec["finals"]["of"]):
            raise NotEnded(
                f"search {search.id} is needed by finals {finals.id}, which are {finals.status}; it can be deleted "
                "when these have succeeded or were deleted"
            )


def _looked_through(
    session: Session, limit: int, after: Place | None, wanted: Wanted
) -> tuple[Sequence[Search], Place | None]:
    by = _by(wanted).label("by")
    columns = select(by, Search.id, Search.name, Search.dataset, Search.tags)
    window = _in_order(columns, after, wanted).limit(LOOKED_THROUGH).subquery()
    matches = select(window.c.by, window.c.id).order_by(*_ordered(wanted, window.c.by, window.c.id)).limit(limit + 1)
    if wanted.words:
        named = (window.c[column].icontains(wanted.words, autoescape=True) for column in ("name", "id", "dataset"))
        matches = matches.where(or_(*named))
    if wanted.tag:
        matches = matches.where(cast(window.c.tags, Text).contains(json.dumps(wanted.tag), autoescape=True))
    places = [(row.by, row.id) for row in session.execute(matches)]
    if len(places) > limit:
        further: Place | None = places[limit - 1]
    else:
        edge = _in_order(select(by, Search.id), after, wanted).offset(LOOKED_THROUGH - 1).limit(1)
        last = session.execute(edge).one_or_none()
        further = (last.by, last.id) if last is not None else None
    shown = [search_id for _, search_id in places[:limit]]
    found = {one.id: one for one in session.scalars(select(Search).where(Search.id.in_(shown)))}
    rows = [found[search_id] for search_id in shown]
    if after is None and wanted.words and wanted.words not in found:
        whole = session.scalars(_in_order(select(Search), None, wanted).where(Search.id == wanted.words))
        rows = [*(one for one in whole if wanted.tag in (None, *one.tags)), *rows]
    return rows, further


def _newest_seq(search_id: str | None = None, project: str | None = None) -> "Select[int]":
    if project is not None:  # a step into the index for each of its searches, instead of all their events
        newest = select(func.max(Event.seq)).where(Event.search_id == Search.id).correlate(Search).scalar_subquery()
        return select(func.coalesce(func.max(newest), 0)).where(Search.project == project)
    query = select(func.coalesce(func.max(Event.seq), 0))
    return query if search_id is None else query.where(Event.search_id == search_id)


def _by(wanted: Wanted) -> "ColumnElement[Any]":
    """What the order goes by."""
    return Search.accuracy.expression if wanted.order == "accuracy" else Search.created_at.expression


def _ordered(wanted: Wanted, *columns: "ColumnElement[Any]") -> "list[ColumnElement[Any]]":
    return [column.asc() if wanted.order == "oldest" else column.desc() for column in columns]


def _in_order(query: "Select[*tuple[Any, ...]]", after: Place | None, wanted: Wanted) -> "Select[*tuple[Any, ...]]":
    """`query` over the searches that are wanted, whatever their words and tags, in order, from behind `after`."""
    by = _by(wanted)
    if wanted.order == "accuracy":
        query = query.where(by.is_not(None))
    if after is not None:
        here, there = tuple_(by, Search.id), tuple_(*after)
        query = query.where(here > there if wanted.order == "oldest" else here < there)
    columns = ((Search.status, wanted.status), (Search.project, wanted.project), (Search.kind, wanted.kind))
    for column, value in columns:
        if value is not None:
            query = query.where(column == value)
    return query.order_by(*_ordered(wanted, by, Search.id.expression))


_DEFAULTS = {
    name: column.default.arg
    for name, column in Search.__table__.c.items()
    if column.default is not None and column.default.is_scalar
}


@cache
def _queue(columns: tuple[str, ...]) -> Insert:
    """The statement that queues a search with these columns, and notes it as an event and in the audit log.

    For PostgreSQL: one exchange with the server in place of three.
    """
    # SQLAlchemy takes parameters that are named like columns for further columns.
    given = {name: bindparam(f"of_{name}", type_=Search.__table__.c[name].type) for name in columns}
    event = insert(Event).values(
        search_id=given["id"],
        time=given["created_at"],
        kind=literal_column("'status'"),
        data=bindparam("of_event", type_=JSON),
    )
    entry = insert(AuditEntry).values(
        time=given["created_at"],
        by=given["submitted_by"],
        action=literal_column(f"'{Action.SUBMITTED}'"),
        project=given["project"],
        about=literal_column("'search/'", Text) + given["id"],
        data=bindparam("of_entry", type_=JSON),
    )
    return insert(Search).values(given).add_cte(event.cte("event"), entry.cte("entry"))


def new_search(request: SearchRequest, spec: SearchSpec, time: float) -> dict[str, Any]:
    """The columns of a search that is queued at `time`."""
    cpus, gpus = spec.workers * spec.cpus_per_worker, spec.workers * spec.gpus_per_worker
    deadlines = Deadlines.parse(request.max_wait, request.max_run)
    return {
        "id": changes.new_id(),
        "kind": "search",
        "project": request.project,
        "name": request.name,
        "tags": request.tags,
        "description": request.description,
        "submitted_by": changes.BY.get(),
        "dataset": request.dataset,
        "request": request.model_dump(exclude_unset=True),
        "spec": spec.to_dict(),
        "workers": spec.workers,
        "min_workers": spec.least_workers,
        "cpus": cpus,
        "gpus": gpus,
        "accelerators": scheduling.accelerators(cpus, gpus),
        "accelerator_type": spec.accelerator_type,
        "priority": request.priority,
        "rank": scheduling.rank(time, request.priority),
        "preempts": request.preempts,
        "supernet_multiply_adds": spec.space.feasible_budgets()[1],
        "status": Status.QUEUED,
        "progress": 0.0,
        "attempt": 0,
        "last_attempt": MAX_ATTEMPTS,
        "not_before": 0.0,
        "journal_cursor": "",
        "created_at": time,
        "max_wait": deadlines.max_wait,
        "max_run": deadlines.max_run,
        "run_left": deadlines.max_run,
        "start_by": None if deadlines.max_wait is None else time + deadlines.max_wait,
        "measured_at": time,
    }
