"""Which token a request carries, and which project that opens."""

import hmac

from starlette.requests import HTTPConnection

from service.settings import Settings

COOKIE = "yoso_token"
"""The cookie that carries the dashboard's token."""


def token_of(request: HTTPConnection) -> str:
    """The bearer token of a request, else the dashboard's cookie; empty where there is neither."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")


def project_of(settings: Settings, token: str) -> str | None:
    """The project that a token opens, or None; takes equally long for every wrong token."""
    project = None
    for known, name in settings.tokens.items():
        if hmac.compare_digest(known.encode(), token.encode()):
            project = name
    return project
