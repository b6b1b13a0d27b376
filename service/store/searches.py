"""Every query on searches, their events and their architectures.

A dispatcher's writes name the lease token it holds; where the token no longer holds, the write raises `LostLease`
and nothing is changed: what a stale dispatcher found out must not overwrite what the new one knows.
"""

import base64
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Engine, and_, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from nas_core.spec import SearchSpec
from service.domain import lifecycle
from service.domain.lifecycle import TERMINAL, WITH_RAY, Status
from service.domain.request import Capacity, SearchRequest
from service.store.database import reading, writing
from service.store.models import ArchitectureRow, Event, Search, now

LEASE_SECONDS = 30.0


class LostLease(RuntimeError):
    """A write by a dispatcher whose lease has gone to another."""


class UnknownSearch(LookupError):
    """No search of that id."""


class Searches:
    """The searches in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # What users do

    def create(self, request: SearchRequest, spec: SearchSpec) -> Search:
        """Queue a search."""
        with writing(self.engine) as session:
            search = Search(
                id=base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12],
                project=request.project,
                name=request.name,
                dataset=request.dataset,
                request=request.model_dump(exclude_unset=True),
                spec=spec.to_dict(),
                cpus=spec.workers * spec.cpus_per_worker,
                gpus=spec.workers * spec.gpus_per_worker,
                supernet_multiply_adds=spec.space.complete().multiply_adds,
                status=Status.QUEUED,
                progress=0.0,
                attempt=0,
                not_before=0.0,
                journal_cursor="",
                created_at=_time(session),
            )
            session.add(search)
            session.flush()
            _note(session, search.id, "status", {"status": Status.QUEUED})
            return search

    def get(self, search_id: str) -> Search:
        """The search of that id. Raises `UnknownSearch`."""
        with reading(self.engine) as session:
            return _get(session, search_id)

    def page(
        self,
        limit: int,
        after: tuple[float, str] | None = None,
        status: Status | None = None,
        project: str | None = None,
    ) -> Sequence[Search]:
        """At most `limit` searches, newest first, from behind the one with the (time, id) `after`."""
        query = select(Search).order_by(Search.created_at.desc(), Search.id.desc()).limit(limit)
        if after is not None:
            query = query.where(tuple_(Search.created_at, Search.id) < tuple_(*after))
        if status is not None:
            query = query.where(Search.status == status)
        if project is not None:
            query = query.where(Search.project == project)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def cancel(self, search_id: str) -> Search:
        """Cancel a search: at once where nothing was launched, else by way of `cancelling`.

        One that has ended, or is being cancelled, stays as it is. Raises `UnknownSearch`.
        """
        with writing(self.engine) as session:
            search = _get(session, search_id, lock=True)
            status = Status(search.status)
            if status not in TERMINAL and status != Status.CANCELLING:
                launched = status != Status.QUEUED
                _move(session, search, Status.CANCELLING if launched else Status.CANCELLED, reason=None)
            return search

    def events(self, search_id: str, after: int = 0, kind: str | None = None, limit: int = 1000) -> Sequence[Event]:
        """At most `limit` events of a search behind the number `after`, in order."""
        query = select(Event).where(Event.search_id == search_id, Event.seq > after).order_by(Event.seq).limit(limit)
        if kind is not None:
            query = query.where(Event.kind == kind)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def newest_event(self, search_id: str, kind: str) -> Event | None:
        """The last event of one kind, if there is one."""
        query = (
            select(Event).where(Event.search_id == search_id, Event.kind == kind).order_by(Event.seq.desc()).limit(1)
        )
        with reading(self.engine) as session:
            return session.scalars(query).first()

    def events_of(self, search_id: str, kinds: Iterable[str]) -> Sequence[Event]:
        """All events of some kinds, in order; for kinds of which there are few."""
        query = select(Event).where(Event.search_id == search_id, Event.kind.in_(tuple(kinds))).order_by(Event.seq)
        with reading(self.engine) as session:
            return session.scalars(query).all()

    def newest_seq(self, search_id: str | None = None) -> int:
        """The number of the last event, of one search or of all; 0 where there is none."""
        query = select(func.coalesce(func.max(Event.seq), 0))
        if search_id is not None:
            query = query.where(Event.search_id == search_id)
        with reading(self.engine) as session:
            return session.execute(query).scalar_one()

    def architectures(self, search_ids: Iterable[str]) -> dict[str, Sequence[ArchitectureRow]]:
        """The networks of each search, the smallest budget first."""
        found: dict[str, list[ArchitectureRow]] = {search_id: [] for search_id in search_ids}
        query = (
            select(ArchitectureRow)
            .where(ArchitectureRow.search_id.in_(list(found)))
            .order_by(ArchitectureRow.search_id, ArchitectureRow.budget)
        )
        with reading(self.engine) as session:
            for row in session.scalars(query):
                found[row.search_id].append(row)
        return dict(found)

    def architecture(self, architecture_id: str) -> ArchitectureRow | None:
        """The network of that id, if there is one."""
        with reading(self.engine) as session:
            return session.get(ArchitectureRow, architecture_id)

    # What a dispatcher does

    def claim(self, owner: str, capacity: Capacity) -> list[Search]:
        """Take the leases of searches that nobody holds: all that are with Ray, and queued ones that fit.

        Queued searches are taken in the order of their creation, and none is passed over for a later one. What is
        held is computed from the searches themselves.
        """
        with writing(self.engine) as session:
            free = or_(Search.lease_expires_at.is_(None), Search.lease_expires_at < now())
            with_ray = Search.status.in_(WITH_RAY)
            claimed = list(session.scalars(select(Search).where(with_ray, free).with_for_update(skip_locked=True)))
            cpus, gpus = session.execute(
                select(func.coalesce(func.sum(Search.cpus), 0), func.coalesce(func.sum(Search.gpus), 0)).where(
                    or_(with_ray, and_(Search.status == Status.QUEUED, Search.lease_expires_at >= now()))
                )
            ).one()
            queued = (
                select(Search)
                .where(Search.status == Status.QUEUED, free)
                .order_by(Search.created_at, Search.id)
                .limit(100)
                .with_for_update(skip_locked=True)
            )
            time = _time(session)
            for search in session.scalars(queued):
                if search.not_before > time:
                    continue
                cpus, gpus = cpus + search.cpus, gpus + search.gpus
                if cpus > capacity.cpus or gpus > capacity.gpus:
                    search.reason = (
                        f"needs {search.cpus} CPUs and {search.gpus} GPUs; the cluster has {capacity.cpus:g} and "
                        f"{capacity.gpus:g}, of which {cpus - search.cpus:g} and {gpus - search.gpus:g} are taken"
                    )
                    break
                claimed.append(search)
            for search in claimed:
                search.lease_owner, search.lease_token = owner, secrets.token_hex(16)
                search.lease_expires_at = time + LEASE_SECONDS
            return claimed

    def renew(self, tokens: dict[str, str]) -> set[str]:
        """Prolong the leases of searches by id and token; returns the ids whose lease still holds."""
        held: set[str] = set()
        with writing(self.engine) as session:
            for search_id, token in tokens.items():
                held |= set(
                    session.scalars(
                        update(Search)
                        .where(Search.id == search_id, Search.lease_token == token)
                        .values(lease_expires_at=now() + LEASE_SECONDS)
                        .returning(Search.id)
                    )
                )
        return held

    def hand_back(self, tokens: dict[str, str]) -> None:
        """Give leases back, so that another dispatcher need not wait for them to expire."""
        with writing(self.engine) as session:
            for search_id, token in tokens.items():
                session.execute(
                    update(Search)
                    .where(Search.id == search_id, Search.lease_token == token)
                    .values(lease_owner=None, lease_token=None, lease_expires_at=None)
                )

    def move(self, search_id: str, token: str, status: Status, **changes: Any) -> Search:
        """Change a search's state, and columns with it, and note the change as an event.

        Raises `LostLease`, and `lifecycle.IllegalTransition` for a change that the table does not know, such as one
        that a user's cancelling has overtaken.
        """
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            _move(session, search, status, **changes)
            return search

    def follow(self, search_id: str, token: str, cursor: str, lines: Sequence[dict[str, Any]]) -> Search:
        """Append journal lines as events and move the cursor past them, in one transaction. Raises `LostLease`."""
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            for line in lines:
                data = {key: value for key, value in line.items() if key not in ("kind", "time")}
                _note(session, search_id, line["kind"], data, line["time"])
                search.phase = line.get("phase", search.phase)
                search.progress = line.get("progress", search.progress)
                if line["kind"] == "epoch":
                    search.accuracy = line["accuracy"]
            search.journal_cursor = cursor
            return search

    def succeed(self, search_id: str, token: str, result: dict[str, Any]) -> None:
        """Take over the result and end the search, in one transaction. Raises `LostLease`."""
        with writing(self.engine) as session:
            search = _held(session, search_id, token)
            for one in result["architectures"]:
                row_id = f"{search_id}-{one['budget']}"
                session.add(ArchitectureRow(id=row_id, search_id=search_id, budget=one["budget"], result=one))
            best = max(one["accuracy"] for one in result["architectures"])
            _move(session, search, Status.SUCCEEDED, progress=1.0, accuracy=best, reason=None, error=None)


def _time(session: Session) -> float:
    return float(session.execute(select(now())).scalar_one())


def _get(session: Session, search_id: str, lock: bool = False) -> Search:
    search = session.get(Search, search_id, with_for_update=lock or None)
    if search is None:
        raise UnknownSearch(search_id)
    return search


def _held(session: Session, search_id: str, token: str) -> Search:
    search = _get(session, search_id, lock=True)
    if search.lease_token != token:
        raise LostLease(search_id)
    return search


def _move(session: Session, search: Search, status: Status, **changes: Any) -> None:
    lifecycle.check(Status(search.status), status)
    time = _time(session)
    search.status = status
    for column, value in changes.items():
        setattr(search, column, value)
    if status == Status.RUNNING and search.started_at is None:
        search.started_at = time
    if status in TERMINAL:
        search.ended_at = time
    if status in TERMINAL or status == Status.QUEUED:
        search.lease_owner = search.lease_token = search.lease_expires_at = None
    data: dict[str, Any] = {"status": status, "attempt": search.attempt}
    data |= {key: changes[key] for key in ("reason", "error") if changes.get(key)}
    _note(session, search.id, "status", data, time)


def _note(session: Session, search_id: str, kind: str, data: dict[str, Any], time: float | None = None) -> None:
    session.add(Event(search_id=search_id, time=_time(session) if time is None else time, kind=kind, data=data))
