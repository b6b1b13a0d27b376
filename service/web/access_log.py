"""Every request by an id of its own: in its answer, in what is logged while it is answered, and in how long it took."""

import logging
import re
import secrets
import time

from prometheus_client import CollectorRegistry, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import ACCESS, REQUEST
from service.store import changes

log = logging.getLogger(ACCESS)
HEADER = "x-request-id"
_TAKEN = "yoso.route"
"""Where in a request's scope its route is noted, for whoever is further out."""
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class AccessLog:
    """ASGI middleware, the outermost, that gives requests ids, logs them and measures them.

    An id that a proxy has given is kept, if it is one (letters, digits, ".", "_" and "-", 64 at most). Neither queries,
    which may sign somebody in, nor bodies are logged. With `traced`, events name the request that caused them.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, traced: bool) -> None:
        self.app, self.traced = app, traced
        self.seconds = Histogram(
            "yoso_http_request_seconds",
            "Time from a request to the start of its answer, by route.",
            ("method", "route", "status"),
            registry=registry,
            buckets=SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and tell of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        number = given if _GIVEN.fullmatch(given) else secrets.token_hex(8)
        began, status, noted = time.perf_counter(), 500, dict[str, str]()
        answered = began
        token = REQUEST.set(number)
        if self.traced:
            told = {"id": number, "method": scope["method"], "path": scope["path"][:500], "began": time.time()}
            parent = headers.get("traceparent")
            changes.CAUSE.set(told if parent is None else told | {"traceparent": parent[:100]})

        async def sending(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], time.perf_counter()
                MutableHeaders(scope=message)[HEADER] = number
            await send(message)

        try:
            await self.app({**scope, _TAKEN: noted}, receive, sending)
        finally:
            route = noted.get("route", "none")
            self.seconds.labels(scope["method"], route, str(status)).observe(max(0.0, answered - began))
            fields = {
                "method": scope["method"],
                "path": scope["path"][:500],
                "status": status,
                "milliseconds": round((time.perf_counter() - began) * 1000, 1),
                "client": str((scope.get("client") or ("",))[0]),
                "caller": noted.get("caller"),
            }
            log.info("%s %s %d", scope["method"], scope["path"][:500], status, extra={"fields": fields})
            REQUEST.reset(token)


class Routes:
    """ASGI middleware, the innermost, that notes which route a request takes, and who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and note the route that was found."""
        try:
            await self.app(scope, receive, send)
        finally:
            if (noted := scope.get(_TAKEN)) is not None:
                noted["route"] = getattr(scope.get("route"), "path", "files" if "endpoint" in scope else "none")
                if (caller := scope.get("state", {}).get("caller")) is not None:
                    noted["caller"] = caller.name
