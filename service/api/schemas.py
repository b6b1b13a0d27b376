"""What the API's files look like, for programs that read them; open to everybody."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from nas_core.space import schema

router = APIRouter(prefix="/api/v1/schemas", tags=["schemas"])


@router.get("/architecture", response_class=JSONResponse)
def architecture() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the genotype of what was searched for, `architecture.json`."""
    return schema()
