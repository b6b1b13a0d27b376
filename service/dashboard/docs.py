"""The API's description, for programs and for people: from this service alone, and for those who are signed in."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from service.dashboard.frame import ViewerDep, page
from service.web.below import path_above
from service.web.context import ProjectDep

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs_page(request: Request, project: ViewerDep) -> Response:
    """The description as a page (Swagger UI)."""
    return page("docs.html", request)


@router.get("/redoc")
def redoc() -> Response:
    """Where another page with the same description was once."""
    return RedirectResponse("/docs", 307)


@router.get("/openapi.json")
def description(request: Request, project: ProjectDep) -> JSONResponse:
    """The description, in OpenAPI."""
    described: dict[str, Any] = request.app.openapi()
    path = path_above(request)
    return JSONResponse(described | ({"servers": [{"url": path}]} if path else {}))
