"""Projects: their weights and quotas, what they hold, and what they have used."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service import answers
from service.callers import Caller
from service.domain.grants import NotAllowed, Role
from service.store.idempotency import Key
from service.store.projects import Standing
from service.use_cases.once import Done, once
from service.use_cases.service import Service


def browse(service: Service, project: str | None) -> list[answers.Project]:
    """All projects that ever had a search, by name; for a caller of `project` that one alone."""
    return [view for view in views(service.projects.standings()) if project in (None, view["name"])]


def change(
    service: Service, caller: Caller, name: str, changed: Mapping[str, Any], key: Key | None = None
) -> Done[answers.Project]:
    """Change a project's weight and quotas: those of `changed`, by the names of its fields.

    Raises `NotAllowed` where the caller is no operator, and `KeyReused`.
    """
    if caller.project is not None or caller.role != Role.ADMIN:
        raise NotAllowed("Changing weights and quotas needs an operator's token.")

    def do(session: Session) -> answers.Project:
        service.projects.set(name, dict(changed), session)
        session.flush()
        return next(view for view in views(service.projects.standings(session)) if view["name"] == name)

    return once(service, key, do)


def views(standings: Sequence[Standing]) -> list[answers.Project]:
    """What is told of projects."""
    busy = [one for one in standings if one.queued or one.share.running]
    weights = sum(one.share.weight for one in busy)
    return [
        answers.Project(
            name=one.share.project,
            weight=one.share.weight,
            max_running=one.share.max_running,
            max_accelerators=one.share.max_accelerators,
            max_queued=one.max_queued,
            max_stored=one.max_stored,
            running=one.share.running,
            queued=one.queued,
            accelerators=one.share.held,
            used=one.share.used,
            share=one.share.weight / weights if one in busy else 0.0,
            stored=one.stored,
        )
        for one in standings
    ]
