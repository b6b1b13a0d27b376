"""Is the service alive, and can it do its work?"""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.api.context import ContextDep
from service.store.database import reading

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
def ready(service: ContextDep) -> JSONResponse:
    """Whether database and Ray answer: 200, or 503 with what is missing."""
    problems = {}
    try:
        with reading(service.searches.engine) as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        problems["database"] = type(error).__name__
    else:
        if (told := service.ray_error()) is not None:
            problems["ray"] = told
        elif service.capacity() is None:
            problems["ray"] = "not there yet"
    return JSONResponse({"status": "not ready" if problems else "ready"} | problems, 503 if problems else 200)
