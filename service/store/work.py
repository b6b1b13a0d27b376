"""What a dispatcher reads and writes: claims with a lease, and changes that only the lease's holder may make.

Every write names the token of the lease. Where the token no longer holds, the write raises `LostLease` and nothing is
changed: what a stale dispatcher found out must not overwrite what the new one knows.
"""

import math
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, case, delete, exists, false, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from service.domain.lifecycle import MAX_ATTEMPTS, TERMINAL, WITH_RAY, Status
from service.domain.retention import NOTHING, Kept, Part
from service.domain.scheduling import Capacity
from service.store import changes, claims
from service.store.database import reading, writing
from service.store.models import (
    ArchitectureRow,
    AuditEntry,
    Deletion,
    Event,
    IdempotencyKey,
    Search,
    now,
)

TAKEN_AT_ONCE = 4
SHARE_TAKEN = 8
"""Of the leases that may be taken over, a turn takes one in so many, or `TAKEN_AT_ONCE`: the rest is for others."""
KEY_SECONDS = 7 * 86400.0
"""How long an idempotency key is remembered."""

LONG = ("per_class", "confused")
"""What a result tells class by class: it stays in the run's folder, whence a network's page reads it; lists of searches
read every network's row."""

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

        That is so where this process has seen no beat for `claims.LEASE_SECONDS`. A turn takes only a share of them.
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
                claims.lease(search, owner, now)
            return taken

    def _silent(self) -> dict[str, tuple[str | None, int]]:
        """Token and beat of the leases that may be taken over."""
        before, asked = self._seen, time.monotonic()
        query = select(Search.id, Search.lease_token, Search.lease_beat).where(Search.status.in_(WITH_RAY))
        with reading(self.engine) as session:
            rows = session.execute(query).all()
        seen = time.monotonic()  # and not before: this process may have slept for longer than a lease in between
        self._seen = {}
        for search_id, token, beat in rows:
            known = before.get(search_id)
            since = known[2] if known is not None and known[:2] == (token, beat) else seen
            self._seen[search_id] = token, beat, since
        return {
            search_id: (token, beat)
            for search_id, (token, beat, since) in self._seen.items()
            if token is None or asked - since > claims.LEASE_SECONDS
        }

    def claim(self, owner: str, capacity: Capacity) -> list[Search]:
        """Launch queued searches as `admit` decides; none where another dispatcher has claimed meanwhile.

        A search that is claimed is `launching`, in a new attempt and with the workers that it is granted, when this
        returns.
        """
        claim = claims.by_statement if self.engine.dialect.name == "postgresql" else claims.by_transaction
        return claim(self.engine, owner, capacity)

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
                    .values(lease_beat=Search.lease_beat + 1, lease_expires_at=now() + claims.LEASE_SECONDS)
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
        """Let a search's attempt be none of those after which it is given up, and say why. Raises `LostLease`.

        Where it was to make room for another, that is noted to be done.
        """
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            search.last_attempt += 1
            search.reason, search.yields_to = reason, None

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


def _held(session: Session, search_id: str, token: str) -> Search:
    search = changes.get(session, search_id, lock=True)
    if search.lease_token != token:
        raise LostLease(search_id)
    return search
