"""Parts of the API's description that resources share."""

import ast
import functools
import inspect
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from service import answers
from service.answers import Problem

Responses = dict[int | str, dict[str, Any]]
"""What a route may answer beside what it returns, as FastAPI takes it, by status."""

MEDIA_TYPE = "application/problem+json"
"""That of a problem document (RFC 9457)."""


def problem(description: str) -> dict[str, Any]:
    """A response that carries a problem document.

    It refers to the schema, which `describe` adds once: with `model` FastAPI makes it anew for each route, and those
    were 500 of the 533 that it made at a service's first request.
    """
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}},
    }


PROBLEMS: Responses = {
    400: problem("The body is not JSON, or a header is malformed."),
    401: problem("The token is missing or wrong."),
    408: problem("The body came too slowly."),
    413: problem("The body is too large."),
    422: problem("A field is invalid; `errors` lists the fields and what would be accepted."),
    429: problem("Too many requests; `Retry-After` says when to try again."),
    503: problem(
        "The database is unavailable, streams are full, or the dataset is still being inspected "
        "(`type` is then `urn:yoso:still-looking`); `Retry-After` says when to try again."
    ),
}
UNKNOWN: Responses = {404: problem("The resource does not exist.")}
QUOTA: Responses = {403: problem("The project has reached its quota of queued searches or storage.")}
NOT_ENDED: Responses = {409: problem("It has not ended, or not in a state that allows this.")}


def created(tag: str, parameter: str, operations: Sequence[str]) -> Responses:
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


def describe(app: FastAPI) -> None:
    """Complete `app`'s description of its API: what problem documents are, and what the fields of answers mean.

    Pydantic can take the latter from docstrings too (`use_attribute_docstrings`), but reads the file again for each
    route, which took a service's first request seven seconds.
    """
    described = app.openapi

    @functools.cache
    def openapi() -> dict[str, Any]:
        """The API's description."""
        found = described()
        schemas = found["components"]["schemas"]
        made = TypeAdapter(Problem).json_schema(ref_template="#/components/schemas/{model}")
        schemas |= made.pop("$defs") | {Problem.__name__: made}
        for name, fields in _said().items():
            for field, shown in schemas.get(name, {}).get("properties", {}).items():
                if field in fields:
                    shown.setdefault("description", fields[field])
        return found

    app.openapi = openapi  # type: ignore[method-assign]


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
