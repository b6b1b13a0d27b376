"""What the drivers of a search's attempts have printed: as they run, from Ray, and afterwards what was kept."""

from typing import Annotated

from fastapi import APIRouter, Query

from service import answers
from service.api.searches import SeenDep
from service.use_cases import logs
from service.web.context import ContextDep
from service.web.described import PROBLEMS, UNKNOWN, operation_id

router = APIRouter(prefix="/api/v1/searches", tags=["searches"], responses=PROBLEMS | UNKNOWN,
                   generate_unique_id_function=operation_id)  # fmt: skip


@router.get("/{search_id}/log")
def log(
    search: SeenDep,
    service: ContextDep,
    number: Annotated[int | None, Query(alias="attempt", ge=1, le=10**6, description="Default: the newest.")] = None,
    after: Annotated[
        int | None, Query(ge=0, le=2**40, description="Bytes to skip. Default: all but the last 4 MiB.")
    ] = None,
) -> answers.Log:
    """A part of an attempt's log, at most 4 MiB."""
    return logs.read(service, search, logs.attempt_of(service, search, number), after)
