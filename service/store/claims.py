"""Who is launched next: what the scheduler has to know, read at once, and the launch of what it has chosen.

PostgreSQL is asked twice, and nothing is locked in between: one statement reads all that `scheduling.admit` may want to
know, and another launches what that has chosen, unless somebody has claimed since (`CLAIMS`), who may have filled the
same room. So a dispatcher that sleeps, or dies, in mid-claim keeps nobody waiting. On SQLite, which is for one process,
a claim is a transaction.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Engine,
    Float,
    Integer,
    Row,
    Select,
    String,
    and_,
    bindparam,
    cast,
    column,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, aliased

from service.domain import scheduling
from service.domain.lifecycle import LONGEST_BACKOFF, WITH_RAY, Status
from service.domain.scheduling import Ask, Capacity, Share, Verdict
from service.store import changes
from service.store.database import reading, writing
from service.store.models import Attempt, Counter, Event, Project, Search, now

LEASE_SECONDS = 30.0
AT_ONCE = 16
"""At most so many in one claim, so that several dispatchers share what comes."""
HEADS = 2
"""Of each project's queue so many are read with all else; where more are wanted, they are asked for."""
RECENT_ATTEMPTS = 50
UNKNOWN_SECONDS = 600.0
"""How long a search is expected to run while none has ended yet."""
CLAIMS = "claims"
"""The counter of claims that have launched something on PostgreSQL; of two that saw the same number one comes to
nothing."""

# What every turn of a dispatcher asks: to build a statement takes longer than to send it.
_NEWEST = (
    select(Attempt.ended_at, Attempt.started_at)
    .where(Attempt.ended_at.is_not(None))
    .order_by(Attempt.ended_at.desc())
    .limit(RECENT_ATTEMPTS)
    .subquery()
)
_MEAN_SECONDS = select(func.avg(_NEWEST.c.ended_at - _NEWEST.c.started_at))


def launchable(time: "float | ColumnElement[float]") -> "ColumnElement[bool]":
    """Whether a queued search may be launched at the database's `time`, if there is room for it.

    Where that clock was put back, `not_before` may lie further ahead than anybody ever set it.
    """
    waited = or_(Search.not_before <= time, Search.not_before > time + LONGEST_BACKOFF)
    return and_(waited, Search.paused.is_(False), Search.awaiting.is_(False))


def typical_seconds(session: Session) -> float:
    """How long the newest attempts that have ended ran, on average."""
    return _typical(session.execute(_MEAN_SECONDS).scalar_one())


def _typical(mean: float | None) -> float:
    return UNKNOWN_SECONDS if mean is None else max(0.0, float(mean))


COLUMNS: dict[str, Any] = {
    "project": String, "id": String, "workers": Integer, "cpus": Integer, "gpus": Integer, "min_workers": Integer,
    "accelerator_type": String, "first": Float, "second": Float, "third": Float, "fourth": Float,
}  # fmt: skip
"""What the parts of `_SEEN` have in common; the last four are what a part says."""


def _part(name: str, **values: Any) -> "Select[Any]":
    columns = (cast(values.get(column, null()), kind).label(column) for column, kind in COLUMNS.items())
    return select(literal(name).label("part"), *columns)


def _asks(search: Any) -> dict[str, Any]:
    names = ("project", "id", "workers", "cpus", "gpus", "accelerator_type")
    return {name: getattr(search, name) for name in names}


_CLOCK = _part(
    "clock",
    first=now(),
    second=select(Counter.value).where(Counter.name == CLAIMS).scalar_subquery(),
    third=_MEAN_SECONDS.scalar_subquery(),
)
_PROJECTS = _part(
    "project",
    project=Project.name,
    workers=Project.max_running,
    first=Project.weight,
    second=Project.max_accelerators,
    third=Project.used,
    fourth=Project.used_at,
)
_HELD = (
    _part("held", **_asks(Search), first=Search.accelerators, second=Attempt.started_at)
    .join(Attempt, (Attempt.search_id == Search.id) & (Attempt.number == Search.attempt))
    .where(Search.status.in_(WITH_RAY))
)
_head = (
    select(*_asks(Search).values(), Search.min_workers, Search.rank)
    .where(Search.status == Status.QUEUED, Search.project == Project.name, launchable(now()))
    .order_by(Search.rank, Search.id)
    .limit(HEADS)
    .lateral("head")
)
_HEADS = (
    _part("queued", **_asks(_head.c), min_workers=_head.c.min_workers, first=_head.c.rank)
    .select_from(Project)
    .join(_head, true())
)
_SEEN = {
    "postgresql": union_all(_CLOCK, _PROJECTS, _HELD, _HEADS),
    "sqlite": union_all(_CLOCK, _PROJECTS, _HELD),  # it knows no LATERAL
}


class Queued(NamedTuple):
    """A search in its project's queue, and its place there."""

    ask: Ask
    rank: float


@dataclass(frozen=True)
class Seen:
    """What the database holds that decides who is next, all of one moment."""

    time: float
    """By the database's clock."""
    claims: int
    """How many claims there have been (`CLAIMS`)."""
    typical: float
    """Seconds that an attempt is expected to run."""
    shares: dict[str, Share]
    """Every project with its weight, quotas, use and what it holds, by its name."""
    held: list[Ask]
    """The searches that hold something: those that are with Ray."""
    heads: dict[str, list[Queued]]
    """The first `HEADS` of a project's queue, in order, where they were read with the rest."""


def look(session: Session) -> Seen:
    """What decides who is next, in one statement."""
    return seen(rows_of(session))


def rows_of(session: Session) -> "Sequence[Row[Any]]":
    """The rows that say what decides who is next."""
    return session.execute(_SEEN[session.get_bind().dialect.name]).all()


def seen(rows: "Sequence[Row[Any]]", without: Collection[str] = ()) -> Seen:
    """What `rows` say, or would say if the searches of these ids had just ended."""
    parts: dict[str, list[Row[Any]]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(row)
    [clock] = parts["clock"]
    time, typical = float(clock.first), _typical(clock.third)
    shares = {
        row.project: Share(
            row.project, row.first, row.workers, row.second, scheduling.decayed(row.third, time - row.fourth)
        )
        for row in sorted(parts.get("project", ()), key=attrgetter("project"))
    }
    held = []
    for row in parts.get("held", ()):
        share, age = shares[row.project], time - row.second
        share.used += scheduling.usage(row.first, age)
        if row.id in without:
            continue
        held.append(Ask(row.id, row.workers, row.cpus, row.gpus, accelerator_type=row.accelerator_type))
        share.running += 1
        share.held += row.first
        share.ahead += row.first * max(0.0, typical - age)
    heads: dict[str, list[Queued]] = {}
    for row in sorted(parts.get("queued", ()), key=attrgetter("first", "id")):
        heads.setdefault(row.project, []).append(Queued(ask_of(row), row.first))
    return Seen(time, int(clock.second or 0), typical, shares, held, heads)


def judge(session: Session, capacity: Capacity, limit: int) -> Verdict:
    """Whom `scheduling.admit` would launch now, by what the database holds."""
    return judged(session, look(session), capacity, limit)


def judged(session: Session, seen: Seen, capacity: Capacity, limit: int) -> Verdict:
    """Whom `scheduling.admit` would launch by what was seen."""
    return scheduling.admit(
        list(seen.shares.values()),
        lambda project: _queue(session, project, seen, limit),
        capacity,
        seen.held,
        seen.typical,
        limit,
    )


def _queue(session: Session, project: str, seen: Seen, size: int) -> Iterator[Ask]:
    """The searches of a project's queue that may be launched, in order; those behind its heads by `size` and more."""
    together = seen.heads.get(project, [])
    more = len(together) == HEADS or session.get_bind().dialect.name != "postgresql"
    while True:
        yield from (one.ask for one in together)
        if not more:
            return
        query = (
            select(Search.id, Search.workers, Search.cpus, Search.gpus, Search.min_workers)
            .add_columns(Search.accelerator_type, Search.rank)
            .where(Search.status == Status.QUEUED, Search.project == project, launchable(seen.time))
            .order_by(Search.rank, Search.id)
            .limit(size)
        )
        if together:
            query = query.where(tuple_(Search.rank, Search.id) > tuple_(together[-1].rank, together[-1].ask.id))
        together = [Queued(ask_of(row), row.rank) for row in session.execute(query)]
        more, size = len(together) == size, min(1000, 4 * size)


def ask_of(search: "Search | Row[Any]") -> Ask:
    """What a search needs, by its row."""
    return Ask(search.id, search.workers, search.cpus, search.gpus, search.min_workers, search.accelerator_type)


def by_transaction(engine: Engine, owner: str, capacity: Capacity) -> list[Search]:
    """Launch what `admit` chooses, in one transaction; nobody else claims meanwhile."""
    with writing(engine) as session:
        seen = look(session)
        launched = []
        for ask in judged(session, seen, capacity, AT_ONCE).admitted:
            search = changes.get(session, ask.id)
            lease(search, owner, seen.time)
            changes.resize(search, ask.workers)
            changes.move(session, search, Status.LAUNCHING, seen.time, reason=None)
            launched.append(search)
        return launched


def lease(search: Search, owner: str, time: float) -> None:
    """Give the lease of a locked search to a dispatcher."""
    search.lease_owner, search.lease_token = owner, secrets.token_hex(16)
    search.lease_beat, search.lease_expires_at = 0, time + LEASE_SECONDS


def _launch() -> "Select[Search]":
    """The statement that launches `asked`, a list in JSON, as `changes.resize` and `changes.move` would one by one.

    It takes the turn of the claim that saw so many `claims`. What its user has cancelled, paused or retried just now
    is left.
    """
    kinds = {"id": String, "workers": Integer, "cpus": Integer, "gpus": Integer, "accelerators": Float, "token": String}
    asked = (
        func.json_to_recordset(bindparam("asked", type_=JSON))
        .table_valued(*(column(name, kind) for name, kind in kinds.items()))
        .render_derived(name="asked", with_types=True)
    )
    owner, time = bindparam("owner", type_=String), bindparam("time", type_=Float)
    turn = (
        postgresql.insert(Counter)
        .values(name=CLAIMS, value=1)
        .on_conflict_do_update(
            index_elements=["name"],
            set_={"value": Counter.value + 1},
            where=Counter.value == bindparam("claims", type_=BigInteger),
        )
        .returning(Counter.value)
        .cte("turn")
    )
    free = (
        select(asked)
        .join(Search, Search.id == asked.c.id)
        .where(exists(select(turn.c.value)), Search.status == Status.QUEUED, launchable(time))
        .with_for_update(skip_locked=True, of=Search)
        .cte("free")
    )
    launched = (
        update(Search)
        .where(Search.id == free.c.id)
        .values({name: free.c[name] for name in ("workers", "cpus", "gpus", "accelerators")})
        .values(status=Status.LAUNCHING, attempt=Search.attempt + 1, reason=None)
        .values(lease_owner=owner, lease_token=free.c.token, lease_beat=0, lease_expires_at=time + LEASE_SECONDS)
        .returning(*Search.__table__.c)
        .cte("launched")
    )
    attempts = insert(Attempt).from_select(
        ["search_id", "number", "owner", "started_at"], select(launched.c.id, launched.c.attempt, owner, time)
    )
    told = func.json_build_object(
        "status", literal(Status.LAUNCHING.value), "attempt", launched.c.attempt, "workers", launched.c.workers
    )
    events = insert(Event).from_select(
        ["search_id", "time", "kind", "data"], select(launched.c.id, time, literal("status"), told)
    )
    return select(aliased(Search, launched)).add_cte(attempts.cte("attempts"), events.cte("events"))


_LAUNCH = _launch()


def by_statement(engine: Engine, owner: str, capacity: Capacity) -> list[Search]:
    """Launch what `admit` chooses, unless somebody else has claimed since its choice was prepared; on PostgreSQL."""
    with reading(engine) as session:  # each of its statements is a transaction
        seen = look(session)
        chosen = judged(session, seen, capacity, AT_ONCE).admitted
        if not chosen:
            return []
        asked = [
            {"id": ask.id, "workers": ask.workers, "cpus": ask.cpus, "gpus": ask.gpus}
            | {"accelerators": ask.accelerators, "token": secrets.token_hex(16)}
            for ask in chosen
        ]
        told = {"asked": asked, "owner": owner, "time": seen.time, "claims": seen.claims}
        launched = {one.id: one for one in session.scalars(_LAUNCH, told)}
        return [launched[ask.id] for ask in chosen if ask.id in launched]
