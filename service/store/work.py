"""What a dispatcher reads and writes: claims with a lease, and changes that only the lease's holder may make.

Every write names the token of the lease. Where the token no longer holds, the write raises `LostLease` and nothing is
changed: what a stale dispatcher found out must not overwrite what the new one knows.
"""

import math
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, case, delete, exists, false, func, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from service.domain import scheduling
from service.domain.lifecycle import LONGEST_BACKOFF, MAX_ATTEMPTS, TERMINAL, WITH_RAY, Status
from service.domain.retention import NOTHING, Kept, Part
from service.domain.scheduling import Ask, Capacity, Share, Verdict
from service.store import changes
from service.store.database import reading, writing
from service.store.models import (
    ArchitectureRow,
    Attempt,
    AuditEntry,
    Deletion,
    Event,
    IdempotencyKey,
    Project,
    Search,
    now,
)

LEASE_SECONDS = 30.0
TAKEN_AT_ONCE = 4
SHARE_TAKEN = 8
"""Of the leases that may be taken over, a turn takes one in so many, or `TAKEN_AT_ONCE`: the rest is for others."""
CLAIMED_AT_ONCE = 16
"""At most so many in one claim, so that several dispatchers share what comes."""

RECENT_ATTEMPTS = 50
UNKNOWN_SECONDS = 600.0
"""How long a search is expected to run while none has ended yet."""

KEY_SECONDS = 7 * 86400.0
"""How long an idempotency key is remembered."""

LONG = ("per_class", "confused")
"""What a result tells class by class: it stays in the run's folder, whence a network's page reads it; lists of searches
read every network's row."""

_CLAIM_LOCK = 7_364_201_812
"""The key of the advisory lock under which PostgreSQL's clients claim; any number that nobody else uses."""

# What every turn of a dispatcher asks: to build a statement takes longer than to send it.
_source = aliased(Search)
_AWAIT_NOTHING = and_(
    Search.kind == "finals",
    Search.status == Status.QUEUED,
    Search.awaiting,
    ~exists().where(_source.finals_id == Search.id, _source.status.not_in(TERMINAL)),
)
_RELEASABLE = select(Search.id).where(_AWAIT_NOTHING).with_for_update(skip_locked=True, of=Search)
_RELEASE_FINALS = (
    update(Search)
    .where(_AWAIT_NOTHING)
    .values(awaiting=False, reason=case((Search.paused, changes.PAUSED_REASON), else_=None))
    .values(start_by=now() + Search.max_wait)
    .execution_options(synchronize_session=False)
)
_WITH_QUEUE = select(Project.name).where(
    exists(select(1).where(Search.status == Status.QUEUED, Search.project == Project.name))
)
_WITH_RAY = (
    select(Search.project, Search.accelerators, Search.id, Search.workers, Search.cpus, Search.gpus)
    .add_columns(Search.accelerator_type, Attempt.started_at)
    .join(Attempt, (Attempt.search_id == Search.id) & (Attempt.number == Search.attempt))
    .where(Search.status.in_(WITH_RAY))
)
_newest = (
    select(Attempt.ended_at, Attempt.started_at)
    .where(Attempt.ended_at.is_not(None))
    .order_by(Attempt.ended_at.desc())
    .limit(RECENT_ATTEMPTS)
    .subquery()
)
_MEAN_SECONDS = select(func.avg(_newest.c.ended_at - _newest.c.started_at))


class LostLease(RuntimeError):
    """A write by a dispatcher whose lease has gone to another."""


class Work:
    """The searches in the database behind `engine`, as dispatchers see them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._seen: dict[str, tuple[str | None, int, float]] = {}
        """Of each search with Ray its lease's token and beat, and since when they have been so by this machine's clock,
        which nobody can change."""

    def take_over(self, owner: str) -> list[Search]:
        """Take the leases of some of the searches with Ray that nobody has, or whose holder has been silent.

        That is so where this process has seen no beat for `LEASE_SECONDS`. A turn takes only a share of them.
        """
        silent = self._silent()
        # Each dispatcher in an order of its own, so that two at once seldom want the same.
        order = sorted(silent, key=lambda search_id: zlib.crc32(f"{owner} {search_id}".encode()))
        chosen = order[: max(TAKEN_AT_ONCE, math.ceil(len(order) / SHARE_TAKEN))]
        if not chosen:
            return []
        with writing(self.engine) as session:
            now = changes.time_of(session)
            adrift = select(Search).where(Search.id.in_(chosen), Search.status.in_(WITH_RAY))
            rows = session.scalars(adrift.order_by(Search.id).with_for_update(skip_locked=True))
            taken = [one for one in rows if (one.lease_token, one.lease_beat) == silent[one.id]]
            if lost := sum(search.lease_token is not None for search in taken):
                changes.count(session, changes.TAKEOVERS, lost)
            for search in taken:
                _lease(search, owner, now)
            return taken

    def _silent(self) -> dict[str, tuple[str | None, int]]:
        """Token and beat of the leases that may be taken over."""
        before, now = self._seen, time.monotonic()  # before the database is asked: it may take long to answer
        query = select(Search.id, Search.lease_token, Search.lease_beat).where(Search.status.in_(WITH_RAY))
        self._seen = {}
        with reading(self.engine) as session:
            for search_id, token, beat in session.execute(query):
                known = before.get(search_id)
                since = known[2] if known is not None and known[:2] == (token, beat) else now
                self._seen[search_id] = token, beat, since
        return {
            search_id: (token, beat)
            for search_id, (token, beat, since) in self._seen.items()
            if token is None or now - since > LEASE_SECONDS
        }

    def claim(self, owner: str, capacity: Capacity) -> list[Search]:
        """Launch queued searches as `admit` decides; none while another dispatcher claims.

        A search that is claimed is `launching`, in a new attempt and with the workers that it is granted, when this
        returns.
        """
        with writing(self.engine) as session:
            time = _turn(session)
            if time is None:
                return []
            asks = judge(session, capacity, CLAIMED_AT_ONCE, time).admitted
            if not asks:
                return []
            # Its user may have cancelled, paused or retried it just now.
            still = (Search.status == Status.QUEUED, launchable(time))
            chosen = select(Search).where(Search.id.in_([ask.id for ask in asks]), *still)
            found = {one.id: one for one in session.scalars(chosen.with_for_update(skip_locked=True))}
            claimed = []
            for ask in (ask for ask in asks if ask.id in found):
                search = found[ask.id]
                _lease(search, owner, time)
                changes.resize(search, ask.workers)
                changes.move(session, search, Status.LAUNCHING, time, reason=None)
                claimed.append(search)
            return claimed

    def release_finals(self) -> None:
        """Let finals be launched whose searches have all ended, unless their sweep is paused."""
        with writing(self.engine) as session:
            # Who queues one of their searches again locks the finals: whether all have ended is asked after that.
            if found := session.scalars(_RELEASABLE).all():
                session.execute(_RELEASE_FINALS.where(Search.id.in_(found)))

    def renew(self, tokens: Iterable[str]) -> set[str]:
        """Prolong leases by their tokens; returns the tokens that still hold."""
        with writing(self.engine) as session:
            return set(
                session.scalars(
                    update(Search)
                    .where(Search.lease_token.in_(list(tokens)), Search.status.in_(WITH_RAY))
                    .values(lease_beat=Search.lease_beat + 1, lease_expires_at=now() + LEASE_SECONDS)
                    .returning(Search.lease_token)
                    .execution_options(synchronize_session=False)
                )
            )

    def hand_back(self, tokens: Iterable[str]) -> None:
        """Give leases back, so that another dispatcher need not wait for them to expire."""
        with writing(self.engine) as session:
            session.execute(
                update(Search)
                .where(Search.lease_token.in_(list(tokens)), Search.status.in_(WITH_RAY))
                .values(lease_owner=None, lease_token=None, lease_expires_at=None)
            )

    def move(self, search_id: str, token: str, status: Status, **columns: Any) -> Search:
        """Change a search's state, and columns with it, and note the change as an event.

        Raises `LostLease`, and `lifecycle.IllegalTransition` for a change that the table does not know, such as one
        that a user's cancelling has overtaken.
        """
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            changes.move(session, search, status, **columns)
            return search

    def try_again(self, search_id: str, token: str, seconds: float, **columns: Any) -> Search:
        """Queue a search whose attempt failed, to be launched in `seconds` at the earliest. Raises as `move`."""
        return self.move(search_id, token, Status.QUEUED, not_before=now() + seconds, **columns)

    def catch_up(self, search_id: str, token: str, newest: int, reason: str) -> None:
        """Queue a search that is being launched again, to go on behind the attempt `newest`. Raises as `move`.

        That is what its folder shows where the database was restored from an earlier day: it knows of fewer attempts.
        """
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            changes.move(session, search, Status.QUEUED, reason=reason)
            search.attempt, search.last_attempt = newest, newest + MAX_ATTEMPTS

    def excuse(self, search_id: str, token: str, reason: str) -> None:
        """Let a search's attempt be none of those after which it is given up, and say why. Raises `LostLease`."""
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            search.last_attempt += 1
            search.reason = reason

    def explain(self, search_id: str, token: str, reason: str | None) -> None:
        """Say why a search does not get on; changes nothing else. Raises `LostLease`."""
        with writing(self.engine) as session:
            _held(session, search_id, token).reason = reason

    def follow(self, search_id: str, token: str, cursor: str, lines: Sequence[dict[str, Any]]) -> Search:
        """Append journal lines as events and move the cursor past them, in one transaction. Raises `LostLease`.

        A search that waits is `running` with the line that says that its attempt has started: nobody reads it twice.
        """
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            for line in lines:
                data = {key: value for key, value in line.items() if key not in ("kind", "time")}
                changes.note(session, search_id, line["kind"], data, line["time"])
                search.phase = line.get("phase", search.phase)
                search.progress = line.get("progress", search.progress)
                if line["kind"] == "epoch":
                    search.accuracy = line.get("accuracy", search.accuracy)
            search.journal_cursor = cursor
            if lines:
                search.heard_at = changes.time_of(session)
                search.ingest_lag = max(0.0, search.heard_at - min(line["time"] for line in lines))
            started = any(line["kind"] == "started" and line.get("attempt") == search.attempt for line in lines)
            if started and search.status == Status.WAITING:
                changes.move(session, search, Status.RUNNING, reason=None)
            return search

    def succeed(self, search_id: str, token: str, result: dict[str, Any]) -> None:
        """Take over the result and end the search, in one transaction. Raises `LostLease`.

        Networks that are found and not retrained stay in the folder, where finals find them. The search's accuracy is
        that of the best of those that won their budgets.
        """
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            trained = [one for one in result["architectures"] if "accuracy" in one]
            for one in trained:
                row_id = f"{search_id}-{one.get('name', one['budget'])}"
                row = {key: value for key, value in one.items() if key not in LONG}
                session.add(ArchitectureRow(id=row_id, search_id=search_id, budget=one["budget"], result=row))
            found = [one["accuracy"] for one in trained if one.get("winner", True)]
            best = max(found, default=search.accuracy)
            changes.move(session, search, Status.SUCCEEDED, progress=1.0, accuracy=best, reason=None, error=None)

    def current_attempts(self, search_ids: Iterable[str]) -> dict[str, int | None]:
        """Of the searches among these that exist: the attempt that may be with Ray, or None where none may."""
        query = select(Search.id, Search.attempt, Search.status).where(Search.id.in_(list(search_ids)))
        with reading(self.engine) as session:
            return {row.id: row.attempt if row.status in WITH_RAY else None for row in session.execute(query)}

    def old(self, kept: Kept, after: tuple[float, str], limit: int) -> list[tuple[float, str]]:
        """At most `limit` searches behind `after` that ended longer ago than they are kept, in order: end and id."""
        with reading(self.engine) as session:
            query = (
                select(Search.ended_at, Search.id)
                .where(*_past(kept, changes.time_of(session)), tuple_(Search.ended_at, Search.id) > tuple_(*after))
                .order_by(Search.ended_at, Search.id)
                .limit(limit)
            )
            return [(float(row.ended_at or 0.0), row.id) for row in session.execute(query)]

    def prune(self, part: Part, kept: Kept) -> str | None:
        """Give up a part of some search that ended longer ago than that is kept; returns its id, None where none has.

        What the database has of it goes at once. Its files are removed before the search is measured again
        (`unmeasured`).
        """
        with writing(self.engine) as session:
            found = select(Search).where(*_past(kept, changes.time_of(session), part)).limit(1)
            search = session.scalars(found.with_for_update(skip_locked=True)).first()
            if search is None:
                return None
            search.pruned |= part
            search.measured_at = None
            if part == Part.EVENTS:
                session.execute(delete(Event).where(Event.search_id == search.id, Event.kind == "epoch"))
            return search.id

    def unmeasured(self, limit: int) -> Sequence[Search]:
        """At most `limit` searches that have no attempt now, and whose folder was not measured since the last, or since
        a part of it was given up.
        """
        query = select(Search).where(Search.measured_at.is_(None), Search.status.not_in(WITH_RAY)).limit(limit)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def measured(self, seen: Search, size: int) -> None:
        """Note how many bytes a search holds, unless it has changed since it was `seen`, or was deleted."""
        with writing(self.engine) as session:
            search = session.get(Search, seen.id, with_for_update=True)
            if search is not None and (search.attempt, search.pruned) == (seen.attempt, seen.pruned):
                changes.measured(session, search, size)

    def deleted(self, seconds: float, limit: int) -> list[str]:
        """At most `limit` searches that were deleted at least `seconds` ago and whose folders are still there."""
        with reading(self.engine) as session:
            before = changes.time_of(session) - seconds
            query = select(Deletion.search_id).where(Deletion.deleted_at <= before).order_by(Deletion.deleted_at)
            return list(session.scalars(query.limit(limit)))

    def forget(self, search_id: str) -> None:
        """Note that the folder of a search that was deleted is gone."""
        with writing(self.engine) as session:
            session.execute(delete(Deletion).where(Deletion.search_id == search_id))

    def forget_old_keys(self) -> None:
        """Delete idempotency keys that are older than `KEY_SECONDS`."""
        with writing(self.engine) as session:
            oldest = changes.time_of(session) - KEY_SECONDS
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < oldest))

    def forget_old_audit(self, days: float, limit: int) -> None:
        """Delete at most `limit` entries of the audit log that are older than `days`, the oldest."""
        with writing(self.engine) as session:
            past = AuditEntry.time < changes.time_of(session) - days * 86400.0
            oldest = select(AuditEntry.id).where(past).order_by(AuditEntry.time, AuditEntry.id).limit(limit)
            session.execute(delete(AuditEntry).where(AuditEntry.id.in_(oldest.scalar_subquery())))


def _past(kept: Kept, time: float, part: Part = NOTHING) -> "list[ColumnElement[bool]]":
    """Which searches ended longer before the database's `time` than they, or the `part` that they still have, are
    kept.
    """
    limits = [(Search.project == project, days) for project, days in kept.projects.items()]
    limits.append((Search.project.not_in(list(kept.projects)), kept.days))
    past = [and_(whose, Search.ended_at < time - days * 86400.0) for whose, days in limits if days is not None]
    has_it = [value for value in range(2 ** len(Part)) if not value & part]  # so that an index is walked
    return [Search.status.in_(TERMINAL), Search.pruned.in_(has_it), or_(false(), *past)]


def launchable(time: float) -> "ColumnElement[bool]":
    """Whether a queued search may be launched at the database's `time`, if there is room for it.

    Where that clock was put back, `not_before` may lie further ahead than anybody ever set it.
    """
    waited = or_(Search.not_before <= time, Search.not_before > time + LONGEST_BACKOFF)
    return and_(waited, Search.paused.is_(False), Search.awaiting.is_(False))


def _turn(session: Session) -> float | None:
    """The database's time, or None where another claim is under way.

    One claim at a time: two that looked at once could both fill the same room. Nobody waits for it: whoever has it may
    be asleep, until the database ends the transaction.
    """
    if session.get_bind().dialect.name != "postgresql":
        return changes.time_of(session)
    # In one round trip; a row's columns are computed from left to right.
    free, time = session.execute(select(func.pg_try_advisory_xact_lock(_CLAIM_LOCK), now())).one()
    return float(time) if free else None


def judge(session: Session, capacity: Capacity, limit: int, time: float) -> Verdict:
    """Whom `scheduling.admit` would launch at the database's `time`, which is now, by what the database holds."""
    typical = typical_seconds(session)
    standings, held = standing(session, time, typical)
    shares = {share.project: share for share in standings}
    contenders = [shares[name] for name in session.scalars(_WITH_QUEUE)]
    first = max(4, limit // max(1, len(contenders)) + 1)  # as many as each is likely to be asked for
    return scheduling.admit(
        contenders,
        lambda project: _queue(session, project, time, first),
        capacity,
        held,
        typical,
        limit,
    )


def standing(session: Session, time: float, typical: float) -> tuple[list[Share], list[Ask]]:
    """Every project with its weight, quotas, use and what it holds; and the searches that hold something.

    What is held is computed from the searches that are with Ray now.
    """
    shares = {
        row.name: Share(
            row.name,
            row.weight,
            row.max_running,
            row.max_accelerators,
            scheduling.decayed(row.used, time - row.used_at),
        )
        for row in session.scalars(select(Project).order_by(Project.name))
    }
    held: list[Ask] = []
    for project, amount, search_id, workers, cpus, gpus, its_type, started_at in session.execute(_WITH_RAY):
        held.append(Ask(search_id, workers, cpus, gpus, accelerator_type=its_type))
        share, age = shares[project], time - started_at
        share.running += 1
        share.held += amount
        share.used += scheduling.usage(amount, age)
        share.ahead += amount * max(0.0, typical - age)
    return list(shares.values()), held


def typical_seconds(session: Session) -> float:
    """How long the newest attempts that have ended ran, on average."""
    mean = session.execute(_MEAN_SECONDS).scalar_one()
    return UNKNOWN_SECONDS if mean is None else max(0.0, float(mean))


def _queue(session: Session, project: str, time: float, size: int) -> Iterator[Ask]:
    """The searches of a project's queue that may be launched, in order; `size` of them are read first."""
    behind: tuple[float, str] | None = None
    while True:
        query = (
            select(
                Search.id,
                Search.workers,
                Search.cpus,
                Search.gpus,
                Search.min_workers,
                Search.accelerator_type,
                Search.rank,
            )
            .where(Search.status == Status.QUEUED, Search.project == project, launchable(time))
            .order_by(Search.rank, Search.id)
            .limit(size)
        )
        if behind is not None:
            query = query.where(tuple_(Search.rank, Search.id) > tuple_(*behind))
        rows = session.execute(query).all()
        for row in rows:
            yield Ask(row.id, row.workers, row.cpus, row.gpus, row.min_workers, row.accelerator_type)
        if len(rows) < size:
            return
        behind, size = (rows[-1].rank, rows[-1].id), min(1000, 4 * size)


def _lease(search: Search, owner: str, time: float) -> None:
    search.lease_owner, search.lease_token = owner, secrets.token_hex(16)
    search.lease_beat, search.lease_expires_at = 0, time + LEASE_SECONDS


def _held(session: Session, search_id: str, token: str) -> Search:
    search = changes.get(session, search_id, lock=True)
    if search.lease_token != token:
        raise LostLease(search_id)
    return search
