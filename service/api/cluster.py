"""The cluster: what it has, who holds it, and who waits for it."""

from typing import Annotated

from fastapi import APIRouter, Query

from service import answers
from service.use_cases import cluster
from service.web.context import ContextDep, ProjectDep
from service.web.described import PROBLEMS

router = APIRouter(prefix="/api/v1/cluster", tags=["cluster"], responses=PROBLEMS)


@router.get("")
def look(
    service: ContextDep, project: ProjectDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> answers.Cluster:
    """Capacity, the searches that use it, and the first `limit` queued searches with the reasons why they wait."""
    return cluster.look(service, project, limit)
