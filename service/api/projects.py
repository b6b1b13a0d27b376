"""Projects: their weights and quotas, what they hold, and what they have used."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from service.api.context import CallerDep, ContextDep, ProjectDep
from service.api.idempotency import KeyDep, once
from service.api.problems import Problem, ProblemError
from service.api.searches import PROBLEMS
from service.domain.grants import Role
from service.store.idempotency import Answer
from service.store.projects import Standing

router = APIRouter(prefix="/api/v1/projects", tags=["projects"], responses=PROBLEMS)
FORBIDDEN: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "A project's token may not change what projects may have."}
}


class ProjectView(BaseModel):
    """A project. `share` is its part of the weights of all that have something queued or running."""

    name: str
    weight: float
    max_running: int | None
    max_accelerators: float | None
    max_queued: int | None
    max_stored: int | None
    running: int
    queued: int
    accelerators: float
    """Held now; a GPU counts 1, a search without GPUs an eighth a CPU."""
    used: float
    """Accelerator-seconds, of which half are forgotten every six hours."""
    share: float
    stored: int
    """Bytes in the storage; of searches that run, what they held when their last attempt ended."""


class ProjectChange(BaseModel):
    """What is to change of a project; null lifts a quota."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weight: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False, description="Its part in shares, beside the others'.")
    max_running: int | None = Field(None, ge=0, le=10**9, description="Searches that it may run at once.")
    max_accelerators: float | None = Field(
        None, ge=0, le=1e9, allow_inf_nan=False, description="Accelerators that it may hold at once."
    )
    max_queued: int | None = Field(None, ge=0, le=10**9, description="Searches that it may have in the queue.")
    max_stored: int | None = Field(
        None, ge=0, le=2**62, description="Bytes in the storage from which on it may queue nothing more."
    )


@router.get("")
def browse(service: ContextDep, project: ProjectDep) -> list[ProjectView]:
    """All projects that ever had a search, by name; with a project's token that one alone."""
    return [view for view in views(service.projects.standings()) if project in (None, view.name)]


@router.patch("/{name}", response_model=ProjectView, responses=FORBIDDEN)
def change(
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")],
    changed: ProjectChange,
    service: ContextDep,
    project: ProjectDep,
    caller: CallerDep,
    key: KeyDep,
) -> Response:
    """Change a project's weight and quotas: the fields that are given."""
    if project is not None or caller.role != Role.ADMIN:
        raise ProblemError(403, "Not yours to change", "Weights and quotas are changed with an operator's token.")

    def do(session: Session) -> Answer:
        service.projects.set(name, changed.model_dump(exclude_unset=True), session)
        session.flush()
        shown = next(view for view in views(service.projects.standings(session)) if view.name == name)
        return Answer(200, shown.model_dump(mode="json"))

    return once(service, key, do)


def views(standings: list[Standing]) -> list[ProjectView]:
    """What the API says of projects."""
    busy = [one for one in standings if one.queued or one.share.running]
    weights = sum(one.share.weight for one in busy)
    return [
        ProjectView(
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
