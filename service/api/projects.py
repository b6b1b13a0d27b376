"""Projects: their weights and quotas, what they hold, and what they have used."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from service import answers
from service.use_cases import projects
from service.web.context import CallerDep, ContextDep, ProjectDep
from service.web.described import PROBLEMS, Responses, problem
from service.web.idempotency import KeyDep, done

router = APIRouter(prefix="/api/v1/projects", tags=["projects"], responses=PROBLEMS)
FORBIDDEN: Responses = {403: problem("A project's token may not change quotas and weights.")}


class ProjectChange(BaseModel):
    """What is to change of a project; null lifts a quota."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weight: float = Field(
        1.0, gt=0, le=1e6, allow_inf_nan=False, description="Its weight in the fair share between projects."
    )
    max_running: int | None = Field(None, ge=0, le=10**9, description="Maximum number of running searches.")
    max_accelerators: float | None = Field(
        None, ge=0, le=1e9, allow_inf_nan=False, description="Maximum number of accelerators in use."
    )
    max_queued: int | None = Field(None, ge=0, le=10**9, description="Maximum number of queued searches.")
    max_stored: int | None = Field(
        None, ge=0, le=2**62, description="Bytes in storage above which new searches are refused."
    )


@router.get("")
def browse(service: ContextDep, project: ProjectDep) -> list[answers.Project]:
    """All projects that have had a search, by name; with a project's token only that project."""
    return projects.browse(service, project)


@router.patch("/{name}", response_model=answers.Project, responses=FORBIDDEN)
def change(
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")],
    changed: ProjectChange,
    service: ContextDep,
    project: ProjectDep,
    caller: CallerDep,
    key: KeyDep,
) -> Response:
    """Change the given ones of a project's weight and quotas."""
    return done(projects.change(service, caller, name, changed.model_dump(exclude_unset=True), key))
