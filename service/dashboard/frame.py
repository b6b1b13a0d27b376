"""What every page of the dashboard has.

A page is rendered whole by the server. Where it is live, it holds open a stream of hints (`/live/…`), at most one a
second, and answers each by asking for its moving parts again (`/fragments/…`); the curves ask the API's journal for
the epochs that they have not drawn. So everything shown comes from one place, and a stream that breaks and comes
back has lost nothing.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from fastapi.sse import ServerSentEvent
from jinja2 import Environment, PackageLoader, StrictUndefined

from service import formats
from service.api.context import Context, authorised, context
from service.api.problems import ProblemError
from service.api.searches import last_seen
from service.api.views import iso, limits
from service.domain.lifecycle import Status

STATIC = Path(__file__).parent / "static"
HINT_SECONDS = 1.0
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PICTURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cache-Control": "private, max-age=86400",
}


class SignInNeededError(Exception):
    """A page was asked for without a valid token."""


def viewer(request: Request) -> str | None:
    """The project whose searches the visitor may see, None for all. Raises `SignInNeededError`."""
    try:
        return authorised(request)
    except ProblemError as error:
        raise SignInNeededError from error


ViewerDep = Annotated[str | None, Depends(viewer)]


def same_site(request: Request) -> None:
    """Refuse a form that another site sends in the visitor's name (403); programs that are no browser say neither.

    A browser keeps the cookie from such a form by itself (SameSite), but without tokens there is no cookie. One that
    says where a request comes from (Sec-Fetch-Site) is believed: a proxy may have changed the Host.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not (own if site is None else site in ("same-origin", "none")):
        raise ProblemError(403, "From another site", "This form is sent from the service's own pages.")


SameSiteDep = Annotated[None, Depends(same_site)]


async def hints(
    service: Context, newest_seq: Callable[[], int], over: Callable[[], bool], after: int, last_event_id: str | None
) -> AsyncIterator[ServerSentEvent]:
    """`change` with the newest event's number whenever it has grown; `end` when all is over."""
    after = last_seen(last_event_id) or after
    while not service.stopping.is_set():
        # Asked before the number, so that the hint at the last event comes before the end.
        ended = await asyncio.to_thread(over)
        newest = await asyncio.to_thread(newest_seq)
        if newest > after:
            after = newest
            yield ServerSentEvent(data=newest, event="change", id=str(newest), retry=2000)
        if ended:
            yield ServerSentEvent(data=newest, event="end", id=str(newest))
            return
        await asyncio.sleep(HINT_SECONDS)


@cache
def static(name: str) -> str:
    """The URL of a static file; it changes with the file's content, so that browsers never mix versions."""
    content = (STATIC / name).read_bytes()
    return f"/static/{name}?{hashlib.sha256(content).hexdigest()[:10]}"


def page(template: str, request: Request, code: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template with the headers that every page carries."""
    signed_in = bool(context(request).settings.tokens)
    return HTMLResponse(TEMPLATES.get_template(template).render(signed_in=signed_in, **values), code, HEADERS)


def missing(request: Request, what: str, name: str) -> HTMLResponse:
    """The page for something that is not there, or not for this visitor."""
    return page("missing.html", request, 404, what=what, name=name)


TEMPLATES = Environment(
    loader=PackageLoader("service.dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "short": formats.short,
    "exact": formats.exact,
    "percent": formats.percent,
    "duration": formats.duration,
    "iso": iso,
    "limits": lambda search: formats.at_most(limits(search)),
}
BAR_ORDER = (
    Status.SUCCEEDED, Status.FINISHING, Status.RUNNING, Status.WAITING, Status.LAUNCHING, Status.QUEUED,
    Status.CANCELLING, Status.CANCELLED, Status.FAILED,
)  # fmt: skip
"""From what is done to what went wrong, as a bar shows it."""
TEMPLATES.globals |= {"static": static, "bar_order": BAR_ORDER, "clock": time.time}
