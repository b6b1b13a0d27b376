"""What is refused, as a page for people: the same that programs are told in a problem document."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from service.dashboard.frame import page
from service.web.problems import wants_page


def install(app: FastAPI) -> None:
    """Make `app` answer browsers that ask for a page with one, where `service.web.problems` would with a document."""
    for kind, handler in list(app.exception_handlers.items()):
        if not asyncio.iscoroutinefunction(handler):
            app.add_exception_handler(kind, readable(handler))


def readable(handler: Callable[[Request, Any], Any]) -> Callable[[Request, Any], Response]:
    """A handler that answers what `handler` does, and people with a page that says the same."""

    def told(request: Request, error: Any) -> Response:
        answer: Response = handler(request, error)
        if not wants_page(request):
            return answer
        problem = json.loads(bytes(answer.body))
        shown = page("refused.html", request, answer.status_code, title=problem["title"], detail=problem["detail"])
        if "retry-after" in answer.headers:
            shown.headers["retry-after"] = answer.headers["retry-after"]
        return shown

    return told
