"""Estimates: what a search would compute, and how long that would take; nothing is queued."""

from fastapi import APIRouter

from service import answers
from service.domain.request import SearchRequest
from service.use_cases import searches
from service.web.checks import CHECKED
from service.web.context import ContextDep, ReaderDep
from service.web.described import PROBLEMS, operation_id

router = APIRouter(
    prefix="/api/v1/estimates", tags=["estimates"], responses=PROBLEMS, generate_unique_id_function=operation_id
)


@router.post("", dependencies=[CHECKED])
def ask(request: SearchRequest, service: ContextDep, project: ReaderDep) -> answers.Estimate:
    """How long a search would take. The request is checked as for a submission, and nothing is queued."""
    return searches.expect(service, request, project)
