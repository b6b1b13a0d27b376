"""Changes of state: every one goes through `move`, which notes it as an event in the same transaction."""

import base64
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.domain import lifecycle, scheduling
from service.domain.lifecycle import TERMINAL, WITH_RAY, Status
from service.store import outbox
from service.store.database import insert
from service.store.models import Attempt, Counter, Event, Project, Search, now

PAUSED_REASON = "its sweep is paused"
AWAITING_REASON = "waits for the searches of its sweep"
_TIME = select(now())
BY = ContextVar[str | None]("BY", default=None)
"""In whose name the database is changed: that of the token of a user's request; None for what nobody asked for."""
CAUSE = ContextVar[dict[str, Any] | None]("CAUSE", default=None)
"""The user's request that changes the database, where requests are traced: its `id`, `method` and `path`, the time when
it `began`, in seconds since 1970, and its `traceparent` if it has one."""
TAKEOVERS = "lease_takeovers"
"""The counter of leases that had run out and were taken over."""


class UnknownSearch(LookupError):
    """No search of that id."""


def new_id() -> str:
    """The id of a new search or sweep: twelve letters and digits that cannot be guessed."""
    return base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]


def time_of(session: Session) -> float:
    """The database's time."""
    return float(session.execute(_TIME).scalar_one())


def get(session: Session, search_id: str, lock: bool = False) -> Search:
    """The search of that id, with its row locked until the transaction's end if wanted. Raises `UnknownSearch`."""
    search = session.get(Search, search_id, with_for_update=lock or None)
    if search is None:
        raise UnknownSearch(search_id)
    return search


def note(session: Session, search_id: str, kind: str, data: dict[str, Any], time: float | None = None) -> None:
    """Append an event."""
    time = time_of(session) if time is None else time
    session.add(Event(search_id=search_id, time=time, kind=kind, data=signed(data)))


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """What an event tells, in whose name it was caused, and by which request."""
    caused = {"by": BY.get(), "request": CAUSE.get()}
    return data | {name: value for name, value in caused.items() if value is not None}


def move(session: Session, search: Search, status: Status, time: float | None = None, **changes: Any) -> None:
    """Change the state of a locked search, and columns with it.

    Going to `launching` begins an attempt; leaving Ray ends it, charges the project for it, and gives up the lease. In
    the queue it asks for the most workers that it wants, however many it was granted last, which the event of the
    launch tells. The database's `time` need not be asked for where the transaction knows it. Raises
    `lifecycle.IllegalTransition`.
    """
    before = Status(search.status)
    lifecycle.check(before, status)
    time = time_of(session) if time is None else time
    search.status = status
    for column, value in changes.items():
        setattr(search, column, value)
    if status == Status.LAUNCHING:
        search.attempt += 1
        owner = search.lease_owner or ""
        session.add(Attempt(search_id=search.id, number=search.attempt, owner=owner, started_at=time))
    if before in WITH_RAY and status not in WITH_RAY:
        _end_attempt(session, search, status, time)
        search.lease_owner = search.lease_token = search.lease_expires_at = search.yields_to = None
    if status == Status.QUEUED:
        resize(search, search.spec["workers"])
        if search.paused and search.reason is None:
            search.reason = PAUSED_REASON
    if status not in (Status.QUEUED, Status.LAUNCHING, Status.WAITING):
        search.start_by = None
    if search.stop_by is not None and before == Status.RUNNING:
        search.run_left = max(0.0, search.stop_by - time)
    search.stop_by = time + search.run_left if status == Status.RUNNING and search.run_left is not None else None
    if status == Status.RUNNING and search.started_at is None:
        search.started_at = time
    search.ended_at = time if status in TERMINAL else None
    data: dict[str, Any] = {"status": status, "attempt": search.attempt}
    if status == Status.LAUNCHING:
        data["workers"] = search.workers
    data |= {key: changes[key] for key in ("reason", "error") if changes.get(key)}
    note(session, search.id, "status", data, time)
    told = {"id": search.id, "kind": search.kind, "name": search.name, "started_at": search.started_at}
    outbox.tell(session, search.project, search.sweep_id, status, [told], time)


def measured(session: Session, search: Search, size: int) -> None:
    """Note how many bytes a locked search holds in the storage, of its own and of its project's."""
    project = session.get_one(Project, search.project, with_for_update=True, populate_existing=True)
    project.stored += size - search.stored
    search.stored, search.measured_at = size, time_of(session)


def resize(search: Search, workers: int) -> None:
    """Let a locked search ask for, or hold, as many workers as that, and what they need."""
    cpus, gpus = search.cpus // search.workers, search.gpus // search.workers
    search.workers, search.cpus, search.gpus = workers, workers * cpus, workers * gpus
    search.accelerators = scheduling.accelerators(search.cpus, search.gpus)


def queue_again(session: Session, search: Search, deadlines: Mapping[str, float | None]) -> None:
    """Queue a locked search that failed or was cancelled again, with as many attempts, and as much time to wait and to
    run, as a new one has; `deadlines` are those that are to differ from what it had.

    Finals wait once more for the searches whose networks they retrain, also where one of these is queued again before
    they have begun.
    """
    last = search.attempt + lifecycle.MAX_ATTEMPTS
    awaiting = search.kind == "finals"
    reason = AWAITING_REASON if awaiting else None
    held = {"awaiting": awaiting, "not_before": 0.0, "last_attempt": last}
    time = time_of(session)
    move(session, search, Status.QUEUED, time, reason=reason, error=None, **deadlines, **held)
    search.run_left = search.max_run
    search.start_by = None if awaiting or search.max_wait is None else time + search.max_wait
    if search.finals_id is not None:
        finals = session.get(Search, search.finals_id, with_for_update=True, populate_existing=True)
        if finals is not None and finals.status == Status.QUEUED:
            finals.awaiting, finals.reason, finals.start_by = True, AWAITING_REASON, None


def _end_attempt(session: Session, search: Search, status: Status, time: float) -> None:
    attempt = session.get_one(Attempt, (search.id, search.attempt))
    attempt.ended_at, attempt.outcome, attempt.error = time, status, search.error
    project = session.get_one(Project, search.project, with_for_update=True)
    spent = scheduling.usage(search.accelerators, time - attempt.started_at)
    project.used = scheduling.decayed(project.used, time - project.used_at) + spent
    project.used_at = time
    search.measured_at, search.pruned = None, 0


def count(session: Session, name: str, more: int) -> None:
    """Add to a counter."""
    first = insert(session, Counter).values(name=name, value=more)
    session.execute(first.on_conflict_do_update(index_elements=["name"], set_={"value": Counter.value + more}))


def queued(session: Session, project: str) -> int:
    """How many searches of a project are queued."""
    query = select(func.count()).where(Search.status == Status.QUEUED, Search.project == project)
    return session.execute(query).scalar_one()
