"""What every page of the dashboard has.

A page is rendered whole by the server. Where it is live, it holds open a stream of hints (`/live/…`), about one a
second, and answers each by asking for its moving parts again (`/fragments/…`), which are rendered once for all who
have them on their screens; the curves ask the API's journal for the epochs that they have not drawn. So everything
shown comes from one place, and a stream that breaks and comes back has lost nothing.
"""

import asyncio
import hashlib
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable
from functools import cache
from html import escape
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cachetools import TTLCache, cached
from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from fastapi.sse import ServerSentEvent
from jinja2 import Environment, PackageLoader, StrictUndefined

from nas_core.deliver.comparison import headline
from service import formats
from service.domain.lifecycle import TERMINAL, Status
from service.domain.retention import Part
from service.store.models import Search
from service.store.projects import why
from service.use_cases.views import iso, limits, stalled_for
from service.web.below import path_above
from service.web.context import Context, at_once, authorised, caller, context
from service.web.events import last_seen
from service.web.problems import ProblemError

STATIC = Path(__file__).parent / "static"
HINT_SECONDS = 1.0
MOST_PARTS, PART_SECONDS = 64, 2.0
"""How many rendered parts are kept, and for how long: what has no event of its own is that old at most."""
Mark = TypeVar("Mark", bound=tuple[Any, ...])
"""What changes with every event; the number of the newest comes first."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ADDRESSES = re.compile(
    r'(\s(?:href|src|action|formaction|hx-(?:get|post|put|patch|delete)|sse-connect|data-(?:source|journal|url))=")/(?!/)'
)
"""The attributes that hold an address, where it is one of the service."""
PICTURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Cache-Control": "private, max-age=86400",
}


class SignInNeededError(Exception):
    """A page was asked for without a valid token."""


def of_a_page(ask: Callable[[Request], str | None]) -> Callable[[Request], str | None]:
    """`ask`, which raises `SignInNeededError` where nobody is known to ask."""

    def asked(request: Request) -> str | None:
        try:
            return ask(request)
        except ProblemError as error:
            if error.status != 401:
                raise
            raise SignInNeededError from error

    return asked


ViewerDep = Annotated[str | None, Depends(at_once(of_a_page(authorised)))]
"""The project whose searches the visitor may see, None for all."""
ReadingViewerDep = Annotated[str | None, Depends(at_once(of_a_page(lambda request: caller(request).project)))]
"""The same for a request that changes nothing, although its method is one that might."""


async def hints(
    service: Context, mark: Callable[[], Mark], over: Callable[[Mark], bool], after: int, last_event_id: str | None
) -> AsyncIterator[ServerSentEvent]:
    """`change` with the newest event's number whenever the mark is another, and `end` when it is over.

    Pages that were opened together do not ask together for long: each waits a little more or less every time.
    """
    after = last_seen(last_event_id) or after
    known: Mark | None = None
    ended = False
    while not service.stopping.is_set():
        now = await asyncio.to_thread(mark)
        first, changed = known is None, now != known
        known = now
        if now[0] > after if first else changed:
            after = now[0]
            yield ServerSentEvent(data=after, event="change", id=str(after), retry=2000)
        if ended:
            yield ServerSentEvent(data=after, event="end", id=str(after))
            return
        if changed and (ended := await asyncio.to_thread(over, now)):
            continue  # the mark is asked for once more, so that the hint at the last event comes before the end
        await asyncio.sleep(HINT_SECONDS * random.uniform(0.75, 1.25))


def sharing() -> Callable[[Hashable, Callable[[], str]], str]:
    """A function that makes what many ask for at once only once: its arguments are a key and how it is made."""

    def shared(key: Hashable, make: Callable[[], str]) -> str:
        return make()

    kept = TTLCache[Hashable, str](MOST_PARTS, PART_SECONDS)
    return cached(kept, key=lambda key, make: key, condition=threading.Condition())(shared)


@cache
def static(name: str) -> str:
    """The URL of a static file; it changes with the file's content, so that browsers never mix versions."""
    content = (STATIC / name).read_bytes()
    return f"/static/{name}?{hashlib.sha256(content).hexdigest()[:10]}"


def page(template: str, request: Request, code: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template with the headers that every page carries."""
    signed_in = context(request).settings.guarded
    text = TEMPLATES.get_template(template).render(signed_in=signed_in, **values)
    return HTMLResponse(below(path_above(request), text), code, HEADERS)


def part(template: str, request: Request, *key: Hashable, values: Callable[[], dict[str, Any]]) -> HTMLResponse:
    """The moving parts of a page, rendered once for all who ask for them within two seconds.

    The `key` tells apart all that can be shown: what, to whom, and under which mark.
    """

    path = path_above(request)

    def make() -> str:
        return below(path, TEMPLATES.get_template(template).render(values()))

    return HTMLResponse(request.app.state.shared((template, path, *key), make), 200, HEADERS)


def swapped(told: HTMLResponse, request: Request, path: str, query: str) -> HTMLResponse:
    """A page of which a form may show a part: then the browser's address becomes `path` with the form's `query`."""
    if "hx-request" in request.headers:
        told.headers["HX-Replace-Url"] = path + (f"?{query}" if query else "")
    return told


def below(path: str, page: str) -> str:
    """A page with `path` in front of every address of the service that an attribute holds.

    Only a template can write such an attribute: in what comes from elsewhere, quotes are escaped.
    """
    return ADDRESSES.sub(lambda found: f"{found[1]}{escape(path)}/", page) if path else page


def missing(request: Request, what: str, name: str) -> HTMLResponse:
    """The page for something that is not there, or not for this visitor."""
    return page("missing.html", request, 404, what=what, name=name)


def titled(search: Search) -> str:
    """A search's title: its name, and while it runs how far it is."""
    name = search.name or search.id
    under_way = Status(search.status) not in TERMINAL and search.progress > 0
    return f"{formats.percent(search.progress, 0)} · {name}" if under_way else name


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
    "in_bytes": formats.in_bytes,
    "pruned": lambda search: Part(search.pruned).words,
    "percent": formats.percent,
    "duration": formats.duration,
    "deadlines": lambda search: formats.deadlines(search.max_wait, search.max_run),
    "iso": iso,
    "why": why,
    "stalled_for": stalled_for,
    "titled": titled,
    "headline": headline,
    "rival": formats.rival,
    "limits": lambda search: formats.at_most(limits(search)),
}
BAR_ORDER = (
    Status.SUCCEEDED, Status.FINISHING, Status.RUNNING, Status.WAITING, Status.LAUNCHING, Status.QUEUED,
    Status.CANCELLING, Status.CANCELLED, Status.FAILED,
)  # fmt: skip
"""From what is done to what went wrong, as a bar shows it."""
TEMPLATES.globals |= {"static": static, "bar_order": BAR_ORDER, "clock": time.time}
