"""Parts of the API's description that resources share."""

import ast
import functools
import inspect
from collections.abc import Sequence
from typing import Any

from fastapi.routing import APIRoute

from service import answers
from service.answers import Problem

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON, or a header is malformed."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    408: {"model": Problem, "description": "The body came too slowly."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {
        "model": Problem,
        "description": "A field cannot be used; `errors` says which, and what would be accepted.",
    },
    429: {"model": Problem, "description": "Too many requests; `Retry-After` says when to come back."},
    503: {
        "model": Problem,
        "description": "The database is unavailable, streams are full, or the dataset is still being inspected "
        "(`type` is then `urn:yoso:still-looking`); `Retry-After` says when to come back.",
    },
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such resource."}}
QUOTA: dict[int | str, dict[str, Any]] = {
    403: {
        "model": Problem,
        "description": "The project has as much in its queue, or in the storage, as it may have.",
    }
}
NOT_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "It has not ended so."}}


def created(tag: str, parameter: str, operations: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """The answer to a POST that made something: where it is, and by its id in `parameter` what can be done with it."""
    return {
        201: {
            "headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}},
            "links": {
                name: {"operationId": f"{tag}_{name}", "parameters": {parameter: "$response.body#/id"}}
                for name in operations
            },
        }
    }


def operation_id(route: APIRoute) -> str:
    """What an operation is called in links and in clients that are made from the API's description."""
    return f"{route.tags[0]}_{route.name}"


def describe_fields(schemas: dict[str, Any]) -> None:
    """Say of each field of an answer among `schemas` what `service.answers` says of it.

    Pydantic can do so too (`use_attribute_docstrings`), but reads the file again for each operation that answers with
    the class, which took the first request of a service seven seconds.
    """
    for name, fields in _said().items():
        for field, shown in schemas.get(name, {}).get("properties", {}).items():
            if field in fields:
                shown.setdefault("description", fields[field])


@functools.cache
def _said() -> dict[str, dict[str, str]]:
    """What the docstrings of fields in `service.answers` say: by class and field, with those that a class inherits."""
    said: dict[str, dict[str, str]] = {}
    for made in ast.parse(inspect.getsource(answers)).body:
        if isinstance(made, ast.ClassDef):
            own = said[made.name] = {}
            for base in made.bases:
                own |= said.get(ast.unparse(base), {})
            for field, below in zip(made.body, made.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        own[name] = inspect.cleandoc(text)
    return said
