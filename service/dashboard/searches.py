"""The pages.

A page is rendered whole by the server. Where it is live, it holds open a stream of hints (`/live/…`), at most one a
second, and answers each by asking for its moving parts again (`/fragments/…`); the curves ask the API's journal for
the epochs that they have not drawn. So everything shown comes from one place, and a stream that breaks and comes
back has lost nothing.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from nas_core.architecture import Architecture
from nas_core.picture import draw
from service import formats
from service.api.context import Context, ContextDep, authorised
from service.api.problems import ProblemError
from service.api.searches import last_seen, seen
from service.api.tokens import COOKIE, project_of
from service.api.views import Seq, cursor, iso, limits, place
from service.dashboard.timeline import timeline
from service.domain.lifecycle import TERMINAL, Status
from service.domain.request import Text
from service.store.changes import UnknownSearch
from service.store.models import Event, Search

STATIC = Path(__file__).parent / "static"
PAGE_SIZE = 50
HINT_SECONDS = 1.0
NOTABLE = ("status", "started", "phase", "architecture", "retrained", "warning")
"""The kinds of events that people read; the others are curves and pictures."""
TABS = (None, Status.QUEUED, Status.RUNNING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
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

router = APIRouter(include_in_schema=False)


class SignInNeededError(Exception):
    """A page was asked for without a valid token."""


def add_dashboard(app: FastAPI) -> None:
    """Add the pages and their static files to the service."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.exception_handler(SignInNeededError)
    def sign_in_first(request: Request, error: SignInNeededError) -> Response:
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": "/login"})
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?{urlencode({'next': back})}", 303)


def viewer(request: Request) -> str | None:
    """The project whose searches the visitor may see, None for all. Raises `SignInNeededError`."""
    try:
        return authorised(request)
    except ProblemError as error:
        raise SignInNeededError from error


ViewerDep = Annotated[str | None, Depends(viewer)]


def _seen(search_id: Text, service: ContextDep, project: ViewerDep) -> Search:
    return seen(service, project, search_id)


SeenDep = Annotated[Search, Depends(_seen)]


@router.get("/")
def home() -> Response:
    """The searches."""
    return RedirectResponse("/searches", 307)


@router.get("/searches")
def list_page(
    request: Request, service: ContextDep, project: ViewerDep, status: str | None = None, after: str | None = None
) -> Response:
    """The list of searches."""
    return page("searches.html", request, **listed(service, project, status, after))


@router.get("/fragments/searches")
def list_fragment(
    request: Request, service: ContextDep, project: ViewerDep, status: str | None = None, after: str | None = None
) -> Response:
    """The list's rows."""
    return page("searches_parts.html", request, **listed(service, project, status, after))


@router.get("/searches/{search_id}")
def search_page(request: Request, service: ContextDep, project: ViewerDep, search_id: Text) -> Response:
    """One search."""
    try:
        search = seen(service, project, search_id)
    except UnknownSearch:
        return page("missing.html", request, 404, search_id=search_id)
    return page("search.html", request, **shown(service, search))


@router.get("/fragments/searches/{search_id}")
def search_fragment(request: Request, service: ContextDep, project: ViewerDep, search_id: Text) -> Response:
    """The moving parts of one search's page."""
    return page("search_parts.html", request, swap=True, **shown(service, seen(service, project, search_id)))


@router.get("/searches/{search_id}/networks/{budget}.svg")
def network_picture(service: ContextDep, project: ViewerDep, search_id: Text, budget: int) -> Response:
    """The picture of a network as soon as it is found, long before it is retrained."""
    seen(service, project, search_id)
    try:
        content = service.runs.read(search_id, f"architectures/{budget}/architecture.json")
    except FileNotFoundError as error:
        raise ProblemError(404, "No picture", f"There is no network for {budget} yet.") from error
    return picture(json.loads(content))


@router.get("/searches/{search_id}/snapshots/{seq}.svg")
def snapshot_picture(service: ContextDep, project: ViewerDep, search_id: Text, seq: Seq) -> Response:
    """The picture of what lived of the supernet at one of its snapshots."""
    seen(service, project, search_id)
    found = service.searches.events(search_id, seq - 1, "snapshot", 1)
    if not found or found[0].seq != seq:
        raise ProblemError(404, "No picture", f"There is no snapshot {seq}.")
    return picture(found[0].data["architecture"])


@router.get("/live/searches", response_class=EventSourceResponse)
async def live_list(
    service: ContextDep, project: ViewerDep, after: int = 0, last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """A hint whenever anything has happened to any search."""
    async for hint in hints(service, None, after, last_event_id):
        yield hint


@router.get("/live/searches/{search_id}", response_class=EventSourceResponse)
async def live_search(
    service: ContextDep,
    search: SeenDep,
    after: int = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """A hint whenever something has happened to one search, until it has ended."""
    async for hint in hints(service, search.id, after, last_event_id):
        yield hint


@router.get("/login")
def login_page(request: Request, service: ContextDep, next: str = "/searches") -> Response:
    """Where a token is asked for."""
    if not service.settings.tokens:
        return RedirectResponse("/searches", 303)
    return page("login.html", request, next=local(next), wrong=False)


@router.post("/login")
async def login(request: Request, service: ContextDep) -> Response:
    """Exchange a token for a cookie that no script can read and no other site can use."""
    form = parse_qs((await request.body()).decode(errors="replace"))
    token, back = form.get("token", [""])[0].strip(), local(form.get("next", [""])[0])
    if project_of(service.settings, token) is None:
        return page("login.html", request, 401, next=back, wrong=True)
    response = RedirectResponse(back, 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout")
def logout() -> Response:
    """Forget the token."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def listed(service: Context, project: str | None, status: str | None, after: str | None) -> dict[str, Any]:
    """What the list shows: one page of searches, of one state if asked for."""
    wanted = Status(status) if status in set(Status) else None
    # Asked before the rows are read, so that what happens in between is hinted at.
    newest = service.searches.newest_seq()
    found = service.searches.page(PAGE_SIZE + 1, place(after) if after else None, wanted, project)
    rows = found[:PAGE_SIZE]
    return {
        "searches": rows,
        "status": wanted,
        "tabs": TABS if wanted in TABS else (*TABS, wanted),
        "query": urlencode({key: value for key, value in (("status", wanted), ("after", after)) if value}),
        "older": urlencode({k: v for k, v in (("status", wanted), ("after", cursor(rows[-1]))) if v})
        if len(found) > PAGE_SIZE
        else None,
        "paged": after is not None,
        "ray_error": service.ray_error(),
        "newest": newest,
        "signed_in": bool(service.settings.tokens),
    }


def shown(service: Context, search: Search) -> dict[str, Any]:
    """What one search's page shows."""
    newest = service.searches.newest_seq(search.id)
    events = service.searches.events_of(search.id, NOTABLE)
    snapshot = service.searches.newest_event(search.id, "snapshot")
    return {
        "search": search,
        "ended": Status(search.status) in TERMINAL,
        "steps": timeline(search, events),
        "networks": networks(service, search, events),
        "snapshot": snapshot,
        "events": [(event, sentence(event)) for event in events],
        "request_text": json.dumps(search.request, indent=2),
        "seconds_left": seconds_left(search),
        "newest": newest,
        "signed_in": bool(service.settings.tokens),
    }


def networks(service: Context, search: Search, events: Sequence[Event]) -> list[dict[str, Any]]:
    """A row for every budget: what is known of its network so far, from `found` to its test accuracy."""
    rows: dict[int, dict[str, Any]] = {budget: {"budget": budget} for budget in search.spec["budgets"]}
    for event in events:
        if event.kind in ("architecture", "retrained"):
            rows[event.data["budget"]] |= event.data
    for architecture in service.searches.architectures([search.id])[search.id]:
        rows[architecture.budget] |= architecture.result | {"id": architecture.id}
    return list(rows.values())


def seconds_left(search: Search) -> float | None:
    """How long it may still take, by how long it has taken so far; None where that says too little."""
    if search.status != Status.RUNNING or search.started_at is None or search.progress < 0.05:
        return None
    return (time.time() - search.started_at) * (1 - search.progress) / search.progress


def sentence(event: Event) -> str:
    """An event in words."""
    data = event.data
    match event.kind:
        case "status":
            attempt = f", attempt {data['attempt']}" if data.get("attempt", 0) > 1 else ""
            why = data.get("reason") or (data.get("error") or {}).get("message")
            return f"{data['status']}{attempt}" + (f": {why}" if why else "")
        case "started":
            how = "resumed from a checkpoint" if data.get("resumed") else "started"
            return f"{how} with {data['workers']} worker{'s' if data['workers'] > 1 else ''} on {data['device']}"
        case "phase":
            budget = f" for {formats.exact(data['budget'])}" if data.get("budget") else ""
            return f"{data['phase']}{budget} began"
        case "architecture":
            share = formats.percent(data["multiply_adds"] / data["budget"])
            return (
                f"found a network of {formats.exact(data['multiply_adds'])} multiply-adds, {share} of the budget of "
                f"{formats.exact(data['budget'])}"
            )
        case "retrained":
            return (
                f"retrained the network for {formats.exact(data['budget'])}: {formats.percent(data['accuracy'])} of "
                f"{data['test_images']} test images right"
            )
        case _:
            return str(data.get("message", ""))


async def hints(
    service: Context, search_id: str | None, after: int, last_event_id: str | None
) -> AsyncIterator[ServerSentEvent]:
    """`change` with the newest event's number whenever it has grown; `end` when the search has ended."""
    after = last_seen(last_event_id) or after
    while not service.stopping.is_set():
        # Asked before the number, so that the hint at the last event comes before the end.
        ended = search_id is not None and Status((await asyncio.to_thread(service.searches.get, search_id)).status)
        newest = await asyncio.to_thread(service.searches.newest_seq, search_id)
        if newest > after:
            after = newest
            yield ServerSentEvent(data=newest, event="change", id=str(newest), retry=2000)
        if ended in TERMINAL:
            yield ServerSentEvent(data=newest, event="end", id=str(newest))
            return
        await asyncio.sleep(HINT_SECONDS)


def picture(values: dict[str, Any]) -> Response:
    """The picture of an architecture, which never changes."""
    return Response(draw(Architecture.from_dict(values)), media_type="image/svg+xml", headers=PICTURE_HEADERS)


def local(path: str) -> str:
    """`path` if it is one of this site's, otherwise the list's."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/searches"


@cache
def static(name: str) -> str:
    """The URL of a static file; it changes with the file's content, so that browsers never mix versions."""
    content = (STATIC / name).read_bytes()
    return f"/static/{name}?{hashlib.sha256(content).hexdigest()[:10]}"


def page(template: str, request: Request, code: int = 200, **values: Any) -> HTMLResponse:
    """A rendered template with the headers that every page carries."""
    return HTMLResponse(TEMPLATES.get_template(template).render(**values), code, HEADERS)


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
TEMPLATES.globals |= {"static": static, "statuses": Status, "clock": time.time}
