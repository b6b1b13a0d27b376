"""Projects: their weights and quotas, what they hold and have used, and who waits behind whom."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import Engine, bindparam, func, select
from sqlalchemy.orm import Session

from service.domain.lifecycle import LONGEST_BACKOFF, TERMINAL, WITH_RAY, Status
from service.domain.scheduling import Capacity, Share, Verdict, too_large
from service.formats import in_bytes
from service.store import audit, changes
from service.store.audit import Action
from service.store.claims import ask_of, judge, look
from service.store.database import insert, reading
from service.store.models import Project, Search, now

LARGEST = 3
"""Searches that are named to whoever must delete some."""
FULL = "all resources of the cluster are in use or reserved"
_QUOTA = select(Project.max_queued, Project.stored, Project.max_stored, now().label("time")).where(
    Project.name == bindparam("project")
)


def why(search: Search, capacity: Capacity | None) -> str | None:
    """Why a search waits, or what it waits for: what is noted of it, or that the cluster's nodes could never run it."""
    if search.status != Status.QUEUED or search.paused or search.awaiting or capacity is None:
        return search.reason
    ask = ask_of(search)
    return too_large(ask.least, capacity.of_type(ask.accelerator_type)) or search.reason


class OverQuota(RuntimeError):
    """A project has as much as it may have: `told` says of what, and `accepted` what would make room."""

    def __init__(self, project: str, told: str, accepted: str) -> None:
        super().__init__(f"project {project} {told}")
        self.project, self.accepted = project, accepted


def admit_to_queue(session: Session, name: str, count: int = 1) -> float:
    """Make sure that the project is known and may queue `count` more searches, if any; the database's time.

    Raises `OverQuota`.
    """
    known = session.execute(_QUOTA, {"project": name}).one_or_none()
    if known is None:
        values = {"name": name, "weight": 1.0, "used": 0.0, "used_at": 0.0}
        session.execute(insert(session, Project).values(values).on_conflict_do_nothing())
        # Somebody else may just have made it, with a quota.
        known = session.execute(_QUOTA, {"project": name}).one()
    if count and known.max_stored is not None and known.stored >= known.max_stored:
        _refuse_to_store(session, name, known.stored, known.max_stored)
    if known.max_queued is None:
        return float(known.time)
    # One at a time, so that two submissions cannot take the last place both.
    limit = session.execute(_QUOTA.with_for_update(), {"project": name}).one().max_queued
    queued = changes.queued(session, name)
    if limit is not None and queued + count > limit:
        accepted = "a new search once some of them have started, or a larger max_queued of the project"
        raise OverQuota(name, f"has {queued} queued searches and may have {limit}", accepted)
    return float(known.time)


def _refuse_to_store(session: Session, name: str, stored: int, limit: int) -> NoReturn:
    query = (
        select(Search.id, Search.stored)
        .where(Search.project == name, Search.status.in_(TERMINAL), Search.stored > 0)
        .order_by(Search.stored.desc(), Search.id)
        .limit(LARGEST)
    )
    largest = ", ".join(f"{one.id} with {in_bytes(one.stored)}" for one in session.execute(query))
    told = f" (the largest: {largest})" if largest else ""
    raise OverQuota(
        name,
        f"holds {in_bytes(stored)} in the storage and may hold {in_bytes(limit)}",
        f"a new search once searches that have ended are deleted{told}, or a larger max_stored of the project",
    )


@dataclass(frozen=True)
class Standing:
    """A project's share, how many of its searches are queued, and how many bytes they hold in the storage."""

    share: Share
    max_queued: int | None
    queued: int
    max_stored: int | None
    stored: int


@dataclass(frozen=True)
class Queue:
    """Who holds what, and who would be launched next if everything came free: the first of the queue, in order."""

    holders: Sequence[Search]
    next: Sequence[Search]
    verdict: Verdict
    """What would be decided now."""
    time: float

    def reason(self, search: Search) -> str:
        """Why a search of `next` waits."""
        if search.paused or search.awaiting or 0 < search.not_before - self.time <= LONGEST_BACKOFF:
            return search.reason or "it will be tried again"
        if search.id in self.verdict.waiting:
            return self.verdict.waiting[search.id]
        if any(ask.id == search.id for ask in self.verdict.admitted):
            return "resources are free; it is launched next"
        first = next((one for one in self.next if one.project == search.project), search)
        return f"behind {first.id} in project {search.project}" if first is not search else FULL


class Projects:
    """The projects in the database behind `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def names(self) -> Sequence[str]:
        """All projects' names, in order."""
        with reading(self.engine) as session:
            return session.scalars(select(Project.name).order_by(Project.name)).all()

    def standings(self, within: Session | None = None) -> list[Standing]:
        """All projects, by name."""
        with reading(self.engine) if within is None else nullcontext(within) as session:
            shares = look(session).shares.values()
            per_project = (
                select(Search.project, func.count()).where(Search.status == Status.QUEUED).group_by(Search.project)
            )
            queued = dict(session.execute(per_project).all())
            columns = select(Project.name, Project.max_queued, Project.max_stored, Project.stored)
            kept = {row.name: row for row in session.execute(columns)}
        return [
            Standing(share, one.max_queued, queued.get(one.name, 0), one.max_stored, one.stored)
            for share in shares
            for one in (kept[share.project],)
        ]

    def set(self, name: str, changed: dict[str, Any], within: Session) -> None:
        """Change a project's weight and quotas, whether it had a search yet or not."""
        admit_to_queue(within, name, 0)
        project = within.get_one(Project, name, with_for_update=True, populate_existing=True)
        told = {column: {"from": getattr(project, column), "to": value} for column, value in changed.items()}
        for column, value in changed.items():
            setattr(project, column, value)
        audit.note(within, Action.PROJECT_CHANGED, name, f"project/{name}", told)

    def queue(self, capacity: Capacity, limit: int) -> Queue:
        """Who holds the cluster, and at most `limit` of those who wait, in the order that they would be launched."""
        with reading(self.engine) as session:
            time = changes.time_of(session)
            holders = session.scalars(
                select(Search).where(Search.status.in_(WITH_RAY)).order_by(Search.project, Search.id)
            ).all()
            verdict = judge(session, capacity, limit)
            order = [ask.id for ask in judge(session, Capacity(), limit).admitted]
            found = {one.id: one for one in session.scalars(select(Search).where(Search.id.in_(order)))}
        return Queue(holders, [found[one] for one in order if one in found], verdict, time)
