"""Who makes room for a search of a higher priority that may ask for that; any dispatcher decides it, whoever holds the
leases, and the holders let go (`Search.yields_to`)."""

from collections.abc import Collection

from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import Session

from service.domain import scheduling
from service.domain.lifecycle import WITH_RAY, Status
from service.domain.scheduling import Capacity
from service.store import changes, claims
from service.store.database import reading, writing
from service.store.models import PREEMPTING, Attempt, Search

COUNTED = "preemptions"
"""The counter of searches that were told to make room; whoever decides has it locked."""
_ASKING = select(Search).where(PREEMPTING)


def make_room(engine: Engine, capacity: Capacity) -> list[Search]:
    """Tell running searches to make room for those that wait for it and preempt them; returns whom that was told.

    A search waits so where `admit` would launch it, before others of its project, if some of these were gone: of lower
    priority, behind it in the queue, and running or waiting in Ray. As few as that takes make room, of the lowest
    priority first, and of these who has started last.
    """
    with reading(engine) as session:
        if session.scalars(_ASKING.limit(1)).first() is None:
            return []
    with writing(engine) as session:
        changes.count(session, COUNTED, 0)
        asking = session.scalars(_ASKING.order_by(Search.rank, Search.id).limit(claims.AT_ONCE)).all()
        told = [one for search in asking for one in _make_room(session, search, capacity)]
        if told:
            changes.count(session, COUNTED, len(told))
        return told


def _make_room(session: Session, search: Search, capacity: Capacity) -> list[Search]:
    """Tell others to make room for a search."""
    rows = claims.rows_of(session)
    ending = or_(Search.yields_to.is_not(None), Search.status.in_((Status.FINISHING, Status.CANCELLING)))
    leaving = set(session.scalars(select(Search.id).where(Search.status.in_(WITH_RAY), ending)))

    def next_of_project(gone: Collection[str]) -> list[str]:
        seen = claims.seen(rows, leaving.union(gone))
        admitted = [ask.id for ask in claims.judged(session, seen, capacity, claims.AT_ONCE).admitted]
        of_project = select(Search.id).where(Search.id.in_(admitted), Search.project == search.project)
        own = set(session.scalars(of_project))
        return [one for one in admitted if one in own][:1]

    query = (
        select(Search)
        .join(Attempt, (Attempt.search_id == Search.id) & (Attempt.number == Search.attempt))
        .where(Search.project == search.project, Search.status.in_((Status.WAITING, Status.RUNNING)))
        .where(Search.priority < search.priority, Search.rank > search.rank, Search.yields_to.is_(None))
        .order_by(Search.priority, Attempt.started_at.desc(), Search.id)
        .with_for_update(of=Search)
    )
    candidates = {one.id: one for one in session.scalars(query)}
    told = [candidates[one] for one in scheduling.yielding(search.id, list(candidates), next_of_project)]
    for one in told:
        one.yields_to = search.id
    session.flush()
    return told
