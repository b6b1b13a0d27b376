"""What ends searches that have waited or run for longer than they may: any dispatcher, whoever holds their leases."""

from typing import Any

from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import Session

from service.domain.lifecycle import Status
from service.domain.scheduling import Capacity
from service.formats import duration
from service.store import changes
from service.store.database import reading, writing
from service.store.models import UNSTARTED, Search
from service.store.projects import Projects, Queue

NOT_STARTED, DEADLINE = "not_started", "deadline"
"""The kinds of error of a search that has waited, and of one that has run, for longer than it may."""
ENDED_AT_ONCE = 100
"""Searches that are ended in one transaction, of each kind."""
LOOKED_AT = 1000
"""How far into the queue is looked for why a search was not started."""


def deadline_of(search: Search) -> dict[str, Any] | None:
    """The error with which a search ends whose job is being stopped, where that is for a deadline."""
    error = search.error or {}
    # An earlier attempt's error, which says anything, stays until the next one ends.
    return error if error.get("kind") in (NOT_STARTED, DEADLINE) and error.get("attempt") == search.attempt else None


def end_overdue(engine: Engine, capacity: Capacity | None, ray_error: str | None) -> list[Search]:
    """End some searches whose deadline is over by the database's clock; returns them.

    What is queued has failed at once; what is with Ray is `cancelling` until its job is gone, and then has failed.
    """
    with reading(engine) as session:
        time = changes.time_of(session)
        late = [
            *session.scalars(select(Search.id).where(Search.stop_by <= time).limit(ENDED_AT_ONCE)),
            *session.scalars(select(Search.id).where(UNSTARTED, Search.start_by <= time).limit(ENDED_AT_ONCE)),
        ]
        statuses = set(session.scalars(select(Search.status).where(Search.id.in_(late)))) if late else set()
    if not late:
        return []
    queue = Projects(engine).queue(capacity or Capacity(), LOOKED_AT) if Status.QUEUED in statuses else None
    with writing(engine) as session:
        time = changes.time_of(session)
        still = or_(Search.start_by <= time, Search.stop_by <= time)
        chosen = select(Search).where(Search.id.in_(late), still).order_by(Search.id)
        # Who has a row locked is changing it: it is looked at again in the next turn.
        found = session.scalars(chosen.with_for_update(skip_locked=True))
        return [search for search in found if _end(session, search, time, queue, ray_error)]


def _end(session: Session, search: Search, time: float, queue: Queue | None, ray_error: str | None) -> bool:
    """End a locked search if a deadline of its is over; another version of the service may have left one behind."""
    match Status(search.status):
        case Status.QUEUED if search.paused or search.awaiting:
            return False
        case Status.QUEUED | Status.LAUNCHING | Status.WAITING:
            search.stop_by = None
            if search.start_by is None or search.start_by > time:
                return False
            most = search.max_wait or 0.0
            told = f"its workers were not started within {duration(most)} (max_wait)"
            if (waited := time - search.start_by + most) >= most + 60.0:
                told += f"; it has waited for {duration(waited)}"
            told += f": {_why(search, queue, ray_error)}"
            _stop(session, search, time, NOT_STARTED, told)
        case Status.RUNNING:
            search.start_by = None
            if search.stop_by is None or search.stop_by > time:
                return False
            most = search.max_run or 0.0
            told = (
                f"it has run for {duration(time - search.stop_by + most)} in all, and may run for {duration(most)} "
                "(max_run); its folder keeps the last checkpoint, from which a retry resumes, for the same "
                f"time again or as `yoso retry {search.id} --max-run` says"
            )
            _stop(session, search, time, DEADLINE, told)
        case _:
            search.start_by = search.stop_by = None
            return False
    return True


def _stop(session: Session, search: Search, time: float, kind: str, told: str) -> None:
    error = {"kind": kind, "message": told, "attempt": search.attempt}
    if search.status == Status.QUEUED:
        changes.move(session, search, Status.FAILED, time, error=error, reason=None)
    else:
        changes.move(session, search, Status.CANCELLING, time, error=error, reason="its job is being stopped: " + told)


def _why(search: Search, queue: Queue | None, ray_error: str | None) -> str:
    """Why a search has not started yet."""
    if search.status != Status.QUEUED:
        return search.reason or "it was being launched"
    if ray_error is not None:
        return f"Ray does not answer: {ray_error}"
    if queue is not None:
        for queued in queue.next:
            if queued.id == search.id:
                return queue.reason(queued)
    return search.reason or f"more than {LOOKED_AT} searches of all projects are ahead of it"
