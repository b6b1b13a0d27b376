"""Who may knock: requests by a name that is the service's own, and from its own pages.

A browser sends a page's requests to wherever the page's host name leads (DNS rebinding), and cookies along with forms
of other sites. Both are told by headers that a page cannot choose: `Host`, `Origin` and `Sec-Fetch-Site`
(https://fetch.spec.whatwg.org/, https://www.w3.org/TR/fetch-metadata/).
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import HOST, Settings, checked_url, is_loopback
from service.web.problems import answer

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""The methods that change nothing (RFC 9110, section 9.2.1)."""


class Doors:
    """ASGI middleware that refuses requests by another host's name (421) and from another site (403)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or refuse it with a problem document that says what to set."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host")
            if host is not None and not is_own(host, self.settings):
                told = (
                    f"This service is not known as {host[:100]!r}. If it should be, set YOSO_PUBLIC_URL to the URL "
                    "that users open, or add the name to YOSO_ALLOWED_HOSTS."
                )
                await answer(421, "Unknown host", told)(scope, receive, send)
                return
            if scope["method"] not in SAFE and is_from_elsewhere(headers, self.settings):
                told = (
                    "This request comes from another site's page. Send it from the service's own pages, or with a "
                    "token (Authorization: Bearer …). If these are its own pages, set YOSO_PUBLIC_URL to their address."
                )
                await answer(403, "From another site", told)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_own(host: str, settings: Settings) -> bool:
    """Whether a `Host` header names this service.

    Loopback is its own under any port, as tunnels have it. Where it listens at all addresses, so is every address: a
    page cannot be of one that is not its server's. Names must be known.
    """
    host = host.lower()
    if not HOST.fullmatch(host):
        return False
    name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    known = {*settings.allowed_hosts, settings.host.lower()}
    if settings.public_url is not None:
        known.add(checked_url(settings.public_url).netloc.lower())
    if is_loopback(name) or host in known or name in known:
        return True
    return settings.host in ("0.0.0.0", "::") and is_address(name)


def is_address(name: str) -> bool:
    """Whether a host is told by its address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_from_elsewhere(headers: Headers, settings: Settings) -> bool:
    """Whether a browser sends a request for another site's page.

    A token that a page's script sends is the page's own, since no browser adds one by itself. Programs that are no
    browser say nothing of where a request comes from. A browser that does (`Sec-Fetch-Site`) is believed, since a
    proxy may have changed the `Host`; others are held to `Origin`.
    """
    if headers.get("authorization", "").lower().startswith("bearer "):
        return False
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    if (origin := headers.get("origin")) is None:
        return False
    own = {headers.get("host", "").lower()}
    if settings.public_url is not None:
        own.add(checked_url(settings.public_url).netloc.lower())
    return urlsplit(origin).netloc.lower() not in own


def bearer(request: HTTPConnection) -> str | None:
    """The bearer token that a request carries, if it does."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
