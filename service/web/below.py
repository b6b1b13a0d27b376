"""Serving below a path, such as https://example.org/yoso/, whether the proxy in front strips the path or not.

The path is that of YOSO_PUBLIC_URL, or else the `root_path` that the server was started with. Inside, every request
has it in its path and as its `root_path` (https://asgi.readthedocs.io/en/latest/specs/www.html); answers get it in the
headers that name a place. Pages get it from `service.dashboard.frame`. What asks without it, such as a probe of
/healthz, is answered as well.
"""

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.settings import Settings, checked_url

PLACES = ("location", "hx-redirect", "hx-replace-url")


class Below:
    """ASGI middleware that serves the application below a path."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.path = checked_url(settings.public_url).path.rstrip("/") if settings.public_url else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the path in front of every place that is named."""
        path = self.path or scope.get("root_path", "").rstrip("/")
        if scope["type"] != "http" or not path:
            await self.app(scope, receive, send)
            return
        asked = scope["path"]
        if asked == path:
            asked += "/"
        elif not asked.startswith(f"{path}/"):
            asked = path + asked

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in PLACES:
                    place = headers.get(name, "")
                    if place.startswith("/") and not place.startswith((f"{path}/", "//")):
                        headers[name] = path + place
            await send(message)

        await self.app({**scope, "root_path": path, "path": asked}, receive, sending)


def path_above(request: HTTPConnection) -> str:
    """The path that the service is served below; empty where it has a host for itself."""
    return str(request.scope.get("app_root_path", request.scope.get("root_path", ""))).rstrip("/")
