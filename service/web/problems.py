"""Errors as RFC 9457 problem documents that say which field, what was wrong, and what would be right."""

import logging
from collections.abc import Sequence
from html import escape
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from nas_core.errors import InvalidValue, did_you_mean
from nas_core.storage import StorageUnavailable
from service.answers import FieldError, Problem
from service.domain.grants import NotAllowed
from service.domain.patience import OutOfPatience
from service.domain.request import InvalidRequest
from service.folders.model import BadFolder
from service.inspections import StillLooking
from service.store.changes import UnknownSearch
from service.store.database import is_away
from service.store.idempotency import KeyReused
from service.store.projects import OverQuota
from service.store.searches import NotEnded
from service.store.sweeps import UnknownSweep
from service.store.tokens import NameTaken, UnknownToken
from service.store.webhooks import UnknownWebhook
from service.use_cases.errors import NotFound, NotNow, error_of, errors_of, field_error, legible
from service.web.below import path_above
from service.web.described import MEDIA_TYPE

log = logging.getLogger(__name__)
RETRY_SECONDS = 5
"""When to ask again where the database is away."""
AWAY = "The database is unavailable. Try again in a few seconds."
STILL_LOOKING = "urn:yoso:still-looking"
"""The type of the problem that a dataset has not been looked at yet: the same request can be answered later."""
LOOK_AGAIN_SECONDS = 1


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Yoso</title>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{detail}</p>
</main>
</body>
</html>
"""


def wants_page(request: HTTPConnection) -> bool:
    """Whether a person opens a page: the request is neither a script's nor the API's."""
    path = request.url.path.removeprefix(path_above(request))
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and "hx-request" not in request.headers and not path.startswith("/api/")


class ProblemResponse(JSONResponse):
    """A problem document. People get it as a plain page where the dashboard has none: from the middleware."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem, status, headers)
        self.problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the document, or the page."""
        if not wants_page(HTTPConnection(scope)):
            await super().__call__(scope, receive, send)
            return
        text = PAGE.format(title=escape(self.problem["title"]), detail=escape(self.problem["detail"]))
        headers = {name: self.headers[name] for name in ("retry-after", "connection") if name in self.headers}
        headers |= {"content-security-policy": "default-src 'none'", "cache-control": "no-store"}
        await HTMLResponse(text, self.status_code, headers)(scope, receive, send)


class ProblemError(Exception):
    """A refusal, to be answered with a problem document."""

    def __init__(self, status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers


def answer(
    status: int,
    title: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
    kind: str = "about:blank",
) -> JSONResponse:
    """The response that carries a problem document."""
    problem = Problem(type=kind, title=title, status=status, detail=legible(detail), errors=list(errors))
    return ProblemResponse(problem, status, headers)


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""

    @app.exception_handler(ProblemError)
    def refused(request: Request, error: ProblemError) -> JSONResponse:
        return answer(error.status, error.title, error.detail, headers=error.headers)

    @app.exception_handler(InvalidRequest)
    def invalid(request: Request, error: InvalidRequest) -> JSONResponse:
        return invalid_fields(error.problems)

    @app.exception_handler(InvalidValue)
    def invalid_value(request: Request, error: InvalidValue) -> JSONResponse:
        return invalid_fields([error])

    @app.exception_handler(StillLooking)
    def looking(request: Request, error: StillLooking) -> JSONResponse:
        later = {"Retry-After": str(LOOK_AGAIN_SECONDS)}
        return answer(503, "Still inspecting the dataset", f"{error}. Try again.", headers=later, kind=STILL_LOOKING)

    @app.exception_handler(UnknownSearch)
    def unknown(request: Request, error: UnknownSearch) -> JSONResponse:
        return answer(404, "No such search", f"There is no search {error.args[0]!r}.")

    @app.exception_handler(NotFound)
    def not_found(request: Request, error: NotFound) -> JSONResponse:
        return answer(404, error.title, str(error))

    @app.exception_handler(NotNow)
    def not_now(request: Request, error: NotNow) -> JSONResponse:
        return answer(409, error.title, str(error))

    @app.exception_handler(UnknownSweep)
    def unknown_sweep(request: Request, error: UnknownSweep) -> JSONResponse:
        return answer(404, "No such sweep", f"There is no sweep {error.args[0]!r}.")

    @app.exception_handler(NotAllowed)
    def not_allowed(request: Request, error: NotAllowed) -> JSONResponse:
        return answer(403, "Not allowed", str(error))

    @app.exception_handler(NameTaken)
    def name_taken(request: Request, error: NameTaken) -> JSONResponse:
        told = f"There is a token named {error.args[0]!r}. Choose another name, or revoke that one first."
        return answer(409, "Name taken", told)

    @app.exception_handler(UnknownToken)
    def unknown_token(request: Request, error: UnknownToken) -> JSONResponse:
        return answer(404, "No such token", f"There is no token named {error.args[0]!r}.")

    @app.exception_handler(UnknownWebhook)
    def unknown_webhook(request: Request, error: UnknownWebhook) -> JSONResponse:
        return answer(404, "No such webhook", f"There is no webhook {error.args[0]!r}.")

    @app.exception_handler(NotEnded)
    def not_ended(request: Request, error: NotEnded) -> JSONResponse:
        return answer(409, "Not ended", str(error))

    @app.exception_handler(KeyReused)
    def key_reused(request: Request, error: KeyReused) -> JSONResponse:
        return answer(422, "Idempotency key used for another request", str(error))

    @app.exception_handler(OverQuota)
    def over_quota(request: Request, error: OverQuota) -> JSONResponse:
        return answer(403, "Over quota", str(error), errors_of(error))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        body = getattr(request.scope.get("route"), "body_field", None)
        return malformed_fields(error.errors(), body.field_info.annotation if body is not None else None)

    @app.exception_handler(OutOfPatience)
    def too_long(request: Request, error: OutOfPatience) -> JSONResponse:
        accepted = "fewer points in a sweep, a smaller search space, or a smaller dataset"
        return answer(422, "Too much work", f"{error}; accepted: {accepted}")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        title = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, "Refused")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return answer(error.status_code, title, detail, headers=dict(error.headers or {}))

    @app.exception_handler(DBAPIError)
    @app.exception_handler(PoolTimeout)
    def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        if not is_away(error):
            raise error
        log.warning("the database is unavailable: %s", str(getattr(error, "orig", None) or error).strip())
        return answer(503, "Database unavailable", AWAY, headers={"Retry-After": str(RETRY_SECONDS)})

    @app.exception_handler(StorageUnavailable)
    def storage(request: Request, error: StorageUnavailable) -> JSONResponse:
        log.warning("the storage is unavailable: %s", error)
        told = f"The storage is unavailable: {error.strerror or error}. Try again in a few seconds."
        return answer(503, "Storage unavailable", told, headers={"Retry-After": str(RETRY_SECONDS)})

    @app.exception_handler(BadFolder)
    def bad_folder(request: Request, error: BadFolder) -> JSONResponse:
        log.warning("%s: %s", request.url.path, error)
        return answer(404, "File unusable", f"The run's folder holds what cannot be used: {error}")

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "Internal error", "The service failed on this request; its log has details.")


def invalid_fields(problems: Sequence[InvalidValue]) -> JSONResponse:
    """422 for values that cannot be used."""
    errors = [error_of(problem) for problem in problems]
    detail = "; ".join(f"{one['field']}: {one['reason']}; accepted: {one['accepted']}" for one in errors)
    return answer(422, "Invalid request", detail, errors)


def field_errors(found: Sequence[Any], model: Any = None) -> list[FieldError]:
    """What pydantic has found wrong with a body that is a `model`, field by field."""
    errors = []
    for error in found:
        place = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
        value = None if error["type"] == "missing" else error.get("input")
        reason, accepted = error["msg"], _ACCEPTED.get(error["type"], "see /docs")
        if error["type"] == "extra_forbidden" and (names := _fields(model, place[:-1])):
            reason, accepted = f"no such field{did_you_mean(place[-1], names)}", f"one of {', '.join(names)}"
        known = isinstance(value, (str, int, float, bool, list, dict, type(None)))
        errors.append(field_error(".".join(place) or "body", value if known else str(value), reason, accepted))
    return errors


def _fields(kind: Any, place: Sequence[str]) -> list[str]:
    """The names of the fields that a value of a type has at a place in it; none where it is no object there."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        inner = (_fields(one, place) for one in get_args(kind))
        return next(filter(None, inner), [])
    known = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    if not place:
        return list(known)
    return _fields(known.get(place[0]), place[1:])


def malformed_fields(found: Sequence[Any], model: Any = None) -> JSONResponse:
    """400 for a body that is not JSON, 422 for one whose fields are missing, unknown or of the wrong kind."""
    if any(error["type"] == "json_invalid" for error in found):
        return answer(400, "Not JSON", "The body is not JSON: " + str(found[0].get("ctx", {}).get("error", "")))
    errors = field_errors(found, model)
    return answer(422, "Invalid request", "; ".join(f"{one['field']}: {one['reason']}" for one in errors), errors)


_ACCEPTED = {
    "missing": "a value for this field",
    "extra_forbidden": "only the fields that the API describes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "too_short": "at least one",
}
