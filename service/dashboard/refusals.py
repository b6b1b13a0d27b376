"""What is refused, as a page for people: the same that programs are told in a problem document."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.routing import Match

from service.dashboard.frame import page
from service.web.problems import wants_page


def install(app: FastAPI) -> None:
    """Make `app` answer browsers that ask for a page with one, where `service.web.problems` would with a document."""
    for kind, handler in list(app.exception_handlers.items()):
        if not asyncio.iscoroutinefunction(handler):
            app.add_exception_handler(kind, readable(handler))


def above(request: Request) -> str:
    """The page that has the form which is sent to an address: the nearest above it."""
    path: str = request.scope["path"]
    while path := path.rpartition("/")[0]:
        if any(route.matches(dict(request.scope) | {"path": path})[0] == Match.FULL for route in request.app.routes):
            return path
    return "/"


def readable(handler: Callable[[Request, Any], Any]) -> Callable[[Request, Any], Response]:
    """A handler that answers what `handler` does, and people with a page that says the same."""

    def told(request: Request, error: Any) -> Response:
        answer: Response = handler(request, error)
        if not wants_page(request):
            return answer
        if answer.status_code == 405 and request.method == "GET":
            return RedirectResponse(above(request), 303)
        problem = json.loads(bytes(answer.body))
        shown = page("refused.html", request, answer.status_code, **problem)
        if "retry-after" in answer.headers:
            shown.headers["retry-after"] = answer.headers["retry-after"]
        return shown

    return told
