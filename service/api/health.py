"""Is the service alive, and can it do its work?"""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from nas_core.errors import InvalidValue
from service.store.database import reading, revision_of
from service.web.context import ContextDep

REPORT_SECONDS = 60.0
"""How old the dispatchers' last report of the cluster may be: they write one every ten seconds."""

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={503: {"description": "The dispatcher of this process is stuck."}})
async def alive(service: ContextDep) -> JSONResponse:
    """Whether the process answers and its dispatcher, if it has one, works. If not, restart it."""
    stuck = service.launches is not None and service.launches.stuck and not service.stopping.is_set()
    return JSONResponse({"status": "stuck" if stuck else "alive"}, 503 if stuck else 200)


@router.get("/readyz", responses={503: {"description": "Something is unavailable; the answer says what."}})
def ready(service: ContextDep) -> JSONResponse:
    """Whether database and storage can be used, and Ray answered a dispatcher lately.

    The answer is 200, or 503 with what is unavailable.
    """
    problems = {}
    if service.stopping.is_set():
        problems["service"] = "stopping"
    if (storage := service.runs.problem()) is not None:
        problems["storage"] = storage
    try:
        with reading(service.searches.engine) as session:
            revision_of(session.connection())
        state = service.cluster.read()
    except SQLAlchemyError as error:
        problems["database"] = type(error).__name__
    except InvalidValue as error:
        problems["database"] = error.reason
    else:
        if state is None:
            problems["dispatcher"] = "none has reported yet"
        elif state.age > REPORT_SECONDS:
            problems["dispatcher"] = f"none has reported for {state.age:.0f} s"
        elif state.error is not None:
            problems["ray"] = state.error
        elif not state.nodes or state.capacity.cpus <= 0:
            problems["ray"] = "it has no CPUs yet"
    return JSONResponse({"status": "not ready" if problems else "ready"} | problems, 503 if problems else 200)
