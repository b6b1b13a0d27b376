"""How the service does, from what the database holds: so every replica tells the same, and a restart loses nothing.

What is true now is counted when it is asked for, by an index. What has happened is tallied: each attempt is read once
by each process, when it began and when it ended, and never again.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, case, func, literal, or_, select
from sqlalchemy.orm import Session

from service.domain.lifecycle import WITH_RAY, Status
from service.store import changes
from service.store.claims import LEASE_SECONDS, launchable
from service.store.cluster import ClusterState, ClusterStore
from service.store.database import reading
from service.store.models import Attempt, Delivery, Project, Search, Webhook
from service.store.models import Counter as CounterRow
from service.store.webhooks import ABANDONED, REFUSED, SENT

LAUNCH_BOUNDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
RUN_BOUNDS = (10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 3 * 3600.0, 10 * 3600.0, 24 * 3600.0, 72 * 3600.0)
"""Seconds up to which launches and runs are counted together."""
SETTLED_SECONDS = 10.0
"""Attempts are read so long after they began or ended: nothing that is older is still to be committed."""


@dataclass
class Histogram:
    """Durations in seconds, by the bound that they do not exceed; the last count is of those above all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def copy(self) -> "Histogram":
        """As it is now."""
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(frozen=True)
class Snapshot:
    """How things stood when it was taken; projects that have nothing of a kind are not among them."""

    projects: Sequence[str]
    searches: Mapping[tuple[str, str], int]
    """By project and state."""
    held: Mapping[str, tuple[int, int]]
    """CPUs and GPUs by project."""
    oldest: float
    """Seconds that the oldest search waits which may be launched; 0 where there is none."""
    expired: int
    """Searches with Ray that no dispatcher has a lease of."""
    heartbeat: float
    """The longest time, in seconds, since a lease was renewed; 0 where there is none."""
    lag: float
    """The longest time, in seconds, that the newest lines of a search with Ray took from the worker to the database."""
    silence: float
    """The longest time, in seconds, since lines of a running search came in; 0 where none runs."""
    takeovers: int
    messages: Mapping[str, int]
    """Attempts to send messages to webhooks, by outcome: taken or refused."""
    given_up: int
    """Messages to webhooks that were given up."""
    unsent: int
    """Messages that are to be sent."""
    off: int
    """Webhooks that are switched off."""
    attempts: Mapping[str, int]
    """Launches by project."""
    launches: Mapping[str, Histogram]
    """From the submission of a search to its first launch, by project."""
    runs: Mapping[str, Histogram]
    """From the launch of an attempt to its end, by the state that its search went to."""
    cluster: ClusterState | None
    seconds: float
    """How long the database took to tell the time."""


class Statistics:
    """The tallies of this process over the database behind `engine`."""

    def __init__(self, engine: Engine, cluster: ClusterStore) -> None:
        self.engine, self.cluster = engine, cluster
        self._attempts: Counter[str] = Counter()
        self._launches: dict[str, Histogram] = defaultdict(lambda: Histogram(LAUNCH_BOUNDS))
        self._runs: dict[str, Histogram] = defaultdict(lambda: Histogram(RUN_BOUNDS))
        self._until = 0.0
        self._reading = threading.Lock()

    def read(self) -> Snapshot:
        """How things stand now. Raises `SQLAlchemyError` where the database is away."""
        with self._reading, reading(self.engine) as session:
            began = time.monotonic()
            now = changes.time_of(session)
            seconds = time.monotonic() - began
            self._tally(session, now - SETTLED_SECONDS)
            expired, heartbeat, lag, silence = _followed(session, now)
            takeovers, given_up = (session.get(CounterRow, name) for name in (changes.TAKEOVERS, ABANDONED))
            return Snapshot(
                projects=session.scalars(select(Project.name).order_by(Project.name)).all(),
                searches=_searches(session),
                held=_held(session),
                oldest=_oldest(session, now),
                expired=expired,
                heartbeat=heartbeat,
                lag=lag,
                silence=silence,
                takeovers=takeovers.value if takeovers is not None else 0,
                messages=_messages(session),
                given_up=given_up.value if given_up is not None else 0,
                unsent=_count(session, Delivery.due_at.is_not(None)),
                off=_count(session, Webhook.off_at.is_not(None)),
                attempts=dict(self._attempts),
                launches={project: one.copy() for project, one in self._launches.items()},
                runs={outcome: one.copy() for outcome, one in self._runs.items()},
                cluster=self.cluster.read(),
                seconds=seconds,
            )

    def _tally(self, session: Session, until: float) -> None:
        """Count the attempts that have begun or ended since the last time, up to the time `until`."""
        begun = (Attempt.started_at > self._until, Attempt.started_at <= until)
        # Finals wait for the searches of their sweep, which says nothing of the queue.
        first = (*begun, Attempt.number == 1, Search.kind == "search")
        ended = (Attempt.ended_at > self._until, Attempt.ended_at <= until)
        project, outcome = Search.project, func.coalesce(Attempt.outcome, "unknown")
        per_project = _of_searches(select(project, func.count()).where(*begun).group_by(project))
        attempts = session.execute(per_project).all()
        launches = _durations(session, project, Attempt.started_at - Search.created_at, LAUNCH_BOUNDS, first)
        runs = _durations(session, outcome, Attempt.ended_at - Attempt.started_at, RUN_BOUNDS, ended)
        # From here on nothing can fail, so that none is counted twice.
        for name, count in attempts:
            self._attempts[name] += count
        for known, found in ((self._launches, launches), (self._runs, runs)):
            for name, above, count, total in found:
                known[name].counts[above] += count
                known[name].total += total
        self._until = until


def _of_searches(query: "Select[*tuple[Any, ...]]") -> "Select[*tuple[Any, ...]]":
    return query.select_from(Attempt).join(Search, Search.id == Attempt.search_id)


def _durations(
    session: Session,
    name: Any,
    seconds: ColumnElement[Any],
    bounds: Sequence[float],
    which: Iterable[Any],
) -> Sequence[Any]:
    """Of the attempts `which`, by `name` and by how many `bounds` their `seconds` exceed: count and total.

    The database counts, so that years of them are a few rows.
    """
    above = sum((case((seconds > bound, 1), else_=0) for bound in bounds), literal(0)).label("above")
    total = func.sum(case((seconds > 0, seconds), else_=0.0))
    query = select(name.label("of_what"), above, func.count(), total).where(*which).group_by("of_what", "above")
    return session.execute(_of_searches(query)).all()


def _searches(session: Session) -> dict[tuple[str, str], int]:
    query = select(Search.project, Search.status, func.count()).group_by(Search.project, Search.status)
    return {(project, status): count for project, status, count in session.execute(query)}


def _held(session: Session) -> dict[str, tuple[int, int]]:
    query = (
        select(Search.project, func.sum(Search.cpus), func.sum(Search.gpus))
        .where(Search.status.in_(WITH_RAY))
        .group_by(Search.project)
    )
    return {project: (int(cpus), int(gpus)) for project, cpus, gpus in session.execute(query)}


def _messages(session: Session) -> dict[str, int]:
    names = {SENT: "taken", REFUSED: "refused"}
    found = {row.name: row.value for row in session.scalars(select(CounterRow).where(CounterRow.name.in_(names)))}
    return {outcome: found.get(name, 0) for name, outcome in names.items()}


def _count(session: Session, which: ColumnElement[bool]) -> int:
    return session.execute(select(func.count()).where(which)).scalar_one()


def _oldest(session: Session, now: float) -> float:
    query = (
        select(Search.created_at)
        .where(Search.status == Status.QUEUED, launchable(now))
        .order_by(Search.created_at, Search.id)
        .limit(1)
    )
    created_at = session.execute(query).scalar_one_or_none()
    return 0.0 if created_at is None else max(0.0, now - created_at)


def _followed(session: Session, now: float) -> tuple[int, float, float, float]:
    """Of the searches with Ray: how many nobody follows, the oldest lease's age, the longest lag and silence."""
    with_ray = Search.status.in_(WITH_RAY)
    free = or_(Search.lease_expires_at.is_(None), Search.lease_expires_at < now)
    expired = session.execute(select(func.count()).where(with_ray, free)).scalar_one()
    heard_at = func.min(Search.heard_at).filter(Search.status == Status.RUNNING)
    query = select(func.min(Search.lease_expires_at), func.max(Search.ingest_lag), heard_at).where(with_ray)
    earliest, lag, heard = session.execute(query).one()
    heartbeat = 0.0 if earliest is None else max(0.0, now - (earliest - LEASE_SECONDS))
    return expired, heartbeat, lag or 0.0, 0.0 if heard is None else max(0.0, now - heard)
