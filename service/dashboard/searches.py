"""The searches: their list, and each one's page."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError

from nas_core.data.summary import in_words
from nas_core.space import Architecture
from nas_core.storage import StorageUnavailable
from nas_core.wording import number_of
from service import formats
from service.answers import FieldError
from service.dashboard.advice import ADVICE
from service.dashboard.copies import as_command, as_curl, as_python
from service.dashboard.frame import PICTURE_HEADERS, ViewerDep, hints, missing, page, part, swapped
from service.dashboard.network import picture
from service.dashboard.submit import FormDep, description_of
from service.dashboard.timeline import timeline
from service.domain.lifecycle import TERMINAL, Status
from service.domain.request import NewDescription, Text
from service.folders.model import folder_of
from service.store.changes import UnknownSearch
from service.store.models import Event, Search
from service.store.searches import LOOKED_THROUGH, Order, Snapshot, Wanted
from service.use_cases import searches
from service.use_cases.errors import NotFound
from service.use_cases.networks import finalists
from service.use_cases.searches import Kind, seen
from service.use_cases.views import place, position, seconds_left, stalled_for
from service.web.checks import CHECKED
from service.web.context import Context, ContextDep, Words, steered
from service.web.events import Seq
from service.web.problems import field_errors

PAGE_SIZE = 50
NOTABLE = ("status", "started", "phase", "architecture", "began", "retrained", "stopped", "warning")
"""The kinds of events that people read; the others are curves and pictures."""
TRIAL = ("trial", "budget", "origin", "label", "seed", "source", "name")
"""What is known of a network of finals from the beginning."""
FOR_EVER = PICTURE_HEADERS | {"Cache-Control": "private, max-age=31536000, immutable"}
"""The headers of a picture that never changes: an event stays what it was."""
TABS = (None, Status.QUEUED, Status.RUNNING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)
KINDS = get_args(Kind)
ORDERS: dict[Order, str] = {"newest": "newest first", "oldest": "oldest first", "accuracy": "most accurate first"}
router = APIRouter(include_in_schema=False)


def _seen(request: Request, search_id: Text, service: ContextDep, project: ViewerDep) -> Search:
    found = seen(service, project, search_id)
    steered(request, found.submitted_by)
    return found


SeenDep = Annotated[Search, Depends(_seen)]


@dataclass(frozen=True)
class Filters:
    """Which searches the list shows, and how, by what its address says; what it says that is none is passed over."""

    status: Status | None
    words: str
    project: str | None
    kind: str | None
    tag: str | None
    order: Order
    by_sweep: bool
    """Whether searches of a sweep stand together on a page."""

    def query(self, **changed: str | None) -> str:
        """The address' query, with some of it changed."""
        pairs = {"status": self.status, "q": self.words, "project": self.project, "kind": self.kind, "tag": self.tag}
        pairs |= {"sort": self.order if self.order != "newest" else None, "group": "sweep" if self.by_sweep else None}
        return urlencode({key: value for key, value in (pairs | changed).items() if value})

    @property
    def any(self) -> bool:
        """Whether some searches are left out."""
        return any((self.status, self.words, self.project, self.kind, self.tag))

    @property
    def wanted(self) -> Wanted:
        """What it is for the store."""
        return Wanted(self.status, self.project, self.kind, self.words, self.tag, self.order)


async def _filters(
    status: Text | None = None,
    words: Words = "",
    of: Annotated[Text | None, Query(alias="project")] = None,
    kind: Text | None = None,
    tag: Text | None = None,
    sort: Text = "newest",
    group: Text | None = None,
) -> Filters:
    return Filters(
        Status(status) if status in set(Status) else None,
        words.strip(),
        of or None,
        kind if kind in KINDS else None,
        tag or None,
        next((order for order in ORDERS if order == sort), "newest"),
        group == "sweep",
    )


FiltersDep = Annotated[Filters, Depends(_filters)]


@router.get("/searches")
def list_page(
    request: Request, service: ContextDep, project: ViewerDep, filters: FiltersDep, after: Text | None = None
) -> Response:
    """The list of searches."""
    # Asked before the rows are read, so that what happens in between is hinted at.
    newest = service.searches.newest_seq(project=project)
    tabs = TABS if filters.status in TABS else (*TABS, filters.status)
    told = page(
        "searches.html", request, **listed(service, project, filters, after),
        tabs=[(tab, filters.query(status=tab)) for tab in tabs],
        projects=service.projects.names() if project is None else [],
        orders=ORDERS,
        query=filters.query(after=after),
        newest=newest,
    )  # fmt: skip
    return swapped(told, request, "/searches", filters.query())


@router.get("/fragments/searches")
def list_fragment(
    request: Request, service: ContextDep, project: ViewerDep, filters: FiltersDep, after: Text | None = None
) -> Response:
    """The list's rows."""
    mark = service.searches.mark()
    values = partial(listed, service, project, filters, after)
    return part("searches_parts.html", request, project, filters, after, mark, values=values)


@router.get("/searches/{search_id}")
def search_page(
    request: Request, service: ContextDep, project: ViewerDep, search_id: Text, snapshot: Seq = 0
) -> Response:
    """One search; of the snapshots of its supernet that one is shown which is asked for, or the newest."""
    return _page(request, service, project, search_id, snapshot)


@router.post("/searches/{search_id}/describe", dependencies=[CHECKED])
def describe(request: Request, service: ContextDep, project: ViewerDep, search: SeenDep, form: FormDep) -> Response:
    """Give a search the name, tags and description of a form; the page with what is wrong where that cannot be."""
    try:
        searches.describe(service, search, NewDescription.model_validate(description_of(form)))
    except ValidationError as error:
        problems = field_errors(error.errors(), NewDescription)
        return _page(request, service, project, search.id, code=422, problems=problems)
    return RedirectResponse(f"/searches/{search.id}", 303)


def _page(
    request: Request,
    service: Context,
    project: str | None,
    search_id: str,
    snapshot: int = 0,
    code: int = 200,
    problems: Sequence[FieldError] = (),
) -> Response:
    # Asked before anything is read, so that what happens in between is hinted at.
    newest = service.searches.newest_seq(search_id)
    try:
        search = seen(service, project, search_id)
    except UnknownSearch:
        return missing(request, "search", search_id)
    found, pictured = service.searches.snapshots(search.id), False
    with suppress(StorageUnavailable):  # the page tells of all else
        pictured = search.attempt > 0 and service.runs.has_contact_sheet(search.id)
    url, tokens = service.settings.public_url or str(request.base_url).rstrip("/"), service.settings.guarded
    return page(
        "search.html", request, code, **shown(service, search),
        problems=problems,
        snapshots=found,
        chosen=next((one for one in found if one.seq == snapshot), found[-1] if found else None),
        copies=copies(url, search.request, tokens) if search.kind == "search" else [],
        request_text=json.dumps(search.request, indent=2),
        facts=in_words(search.spec["inspection"]) if search.spec.get("inspection") else [],
        pictured=pictured,
        newest=newest,
    )  # fmt: skip


@router.get("/fragments/searches/{search_id}")
def search_fragment(request: Request, service: ContextDep, project: ViewerDep, search_id: Text) -> Response:
    """The moving parts of one search's page."""
    search = seen(service, project, search_id)
    mark = service.searches.mark_of(search.id)

    def values() -> dict[str, Any]:
        return shown(service, service.searches.get(search.id)) | {"swap": True}

    return part("search_parts.html", request, search.id, mark, values=values)


@router.get("/searches/{search_id}/snapshots")
def snapshots(service: ContextDep, search: SeenDep, after: Seq = 0) -> list[Snapshot]:
    """The snapshots of the supernet behind the number `after`, without their architectures."""
    return list(service.searches.snapshots(search.id, after))


@router.get("/searches/{search_id}/snapshots/{seq}.svg")
def snapshot_picture(service: ContextDep, project: ViewerDep, search_id: Text, seq: Seq) -> Response:
    """The picture of what lived of the supernet at one of its snapshots."""
    seen(service, project, search_id)
    found = service.searches.events(search_id, seq - 1, "snapshot", 1)
    if not found or found[0].seq != seq:
        raise NotFound("No picture", f"There is no snapshot {seq}.")
    return picture(Architecture.from_dict(found[0].data["architecture"]), FOR_EVER)


@router.get("/searches/{search_id}/contact-sheet.png")
def contact_sheet(service: ContextDep, search: SeenDep) -> Response:
    """What the search's networks see of its dataset."""
    content = service.runs.contact_sheet(search.id)
    if content is None:
        raise NotFound("No picture", "Its workers have not inspected the dataset yet.")
    return Response(content, media_type="image/png", headers=PICTURE_HEADERS)


@router.get("/live/searches", response_class=EventSourceResponse)
async def live_list(
    service: ContextDep, project: ViewerDep, after: int = 0, last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """A hint whenever anything has happened to any search that the visitor may see."""
    async for hint in hints(service, service.searches.marks(project), lambda mark: False, after, last_event_id):
        yield hint


@router.get("/live/searches/{search_id}", response_class=EventSourceResponse)
async def live_search(
    service: ContextDep,
    search: SeenDep,
    after: int = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """A hint whenever something has happened to one search, until it has ended."""
    mark = partial(service.searches.mark_of, search.id)
    async for hint in hints(service, mark, lambda mark: mark.status in TERMINAL, after, last_event_id):
        yield hint


def listed(service: Context, project: str | None, filters: Filters, after: str | None) -> dict[str, Any]:
    """One page of those searches that are asked for."""
    wanted = replace(filters.wanted, project=project or filters.project)
    rows, further = service.searches.page(PAGE_SIZE, place(after, wanted.order) if after else None, wanted)
    further_on = position(*further, wanted.order) if further else None
    together: dict[str | None, list[tuple[Search, float | None]]] = {}
    for search in rows:
        together.setdefault(search.sweep_id if filters.by_sweep else None, []).append((search, seconds_left(search)))
    return {
        "groups": together,
        "capacity": service.capacity(),
        "filters": filters,
        "further": filters.query(after=further_on) if further_on else None,
        "looked_through": (
            LOOKED_THROUGH if (filters.words or filters.tag) and further_on and len(rows) < PAGE_SIZE else None
        ),
        "paged": after is not None,
        "ray_error": service.ray_error(),
    }


def shown(service: Context, search: Search) -> dict[str, Any]:
    """What one search's page shows."""
    events = service.searches.events_of(search.id, NOTABLE)
    return {
        "search": search,
        "capacity": service.capacity(),
        "ended": Status(search.status) in TERMINAL,
        "steps": timeline(search, events),
        "networks": networks(service, search, events),
        "attempts": service.searches.attempts(search.id),
        "advice": ADVICE.get((search.error or {}).get("kind", "")),
        "events": [(event, sentence(event)) for event in events],
        "seconds_left": seconds_left(search),
        "stalled_for": stalled_for(search),
    }


def networks(service: Context, search: Search, events: Sequence[Event]) -> list[dict[str, Any]]:
    """A row for every budget, or where several networks compete for every trial: what is known of it so far.

    `name` is its folder, `anchor` where the page shows it, and `outcome` says how it ended where that was early. In
    finals `begun` is the last attempt that has begun to retrain it.
    """
    finals = search.kind == "finals"
    rows: dict[int | str, dict[str, Any]] = {}
    if finals:
        rows = {one["trial"]: {key: one.get(key) for key in TRIAL} for one in finalists(service, search)}
    else:
        rows = {f"found {budget}": {"budget": budget, "name": str(budget)} for budget in search.spec["budgets"]}

    def row(data: dict[str, Any]) -> dict[str, Any]:
        found = f"found {data['budget']}"
        if "trial" not in data:
            return rows[found]
        if found in rows and data["origin"] == "search":
            # The first that competes is what the search has found for the budget.
            rows[data["trial"]] = rows.pop(found) | {key: data.get(key) for key in TRIAL if key != "name"}
        own = {key: data.get(key) for key in TRIAL} | {"name": f"{data['budget']}-{data['trial']}"}
        return rows.setdefault(data["trial"], own)

    for event in events:
        match event.kind:
            case "architecture" | "retrained":
                row(event.data).update(event.data)
            case "began":
                row(event.data)["begun"] = event.data["attempt"]
            case "stopped":
                reached = formats.percent(event.data["accuracy"])
                row(event.data)["outcome"] = f"stopped after epoch {event.data['epoch']}, {reached} on validation data"
            case "warning" if "trial" in event.data:
                row(event.data)["outcome"] = event.data["message"]
    for architecture in service.searches.architectures([search.id])[search.id]:
        folder = folder_of(architecture.result)
        known = row(
            {"budget": architecture.budget}
            | {
                key: architecture.result[key]
                for key in ("trial", "origin", "label", "seed")
                if key in architecture.result
            }
        )
        known.update(architecture.result | {"id": architecture.id, "name": folder})
        known["anchor"] = architecture.id.removeprefix(f"{search.id}-")
    for one in rows.values():
        one.setdefault("anchor", one["name"])
    return sorted(rows.values(), key=lambda one: (one["budget"], not one.get("winner", False)))


@router.post("/searches/{search_id}/delete")
def delete(service: ContextDep, search: SeenDep) -> Response:
    """Delete a search that has ended, and go to the list of the others."""
    searches.delete(service, search)
    return Response(status_code=204, headers={"HX-Redirect": "/"})


def copies(url: str, request: dict[str, Any], tokens: bool) -> list[tuple[str, str | None]]:
    """Ways to make a request again by itself, as a title and a text; without a text where that way cannot."""
    alone = (request.get("finals") or {}).get("baselines") == []  # and so was judged in the finals of its sweep
    if alone and "choose_by" in (request.get("settings") or {}):
        request = {**request, "settings": {**request["settings"]}}
        del request["settings"]["choose_by"]
    return [
        ("curl", as_curl(url, request, tokens)),
        ("Command line", as_command(url, request)),
        ("Python", as_python(url, request)),
    ]


def sentence(event: Event) -> str:
    """An event in words."""
    data = event.data
    match event.kind:
        case "status":
            attempt = f", attempt {data['attempt']}" if data.get("attempt", 0) > 1 else ""
            by = f" by {data['by']}" if data.get("by") else ""
            why = data.get("reason") or (data.get("error") or {}).get("message")
            return f"{data['status']}{by}{attempt}" + (f": {why}" if why else "")
        case "started":
            how = "resumed from a checkpoint" if data.get("resumed") else "started"
            device = f" on {data['device']}" if data.get("device") else ""
            precision = f" in {data['precision']}" if data.get("precision") else ""
            return f"{how} with {number_of(data['workers'], 'worker')}{device}{precision}"
        case "phase":
            budget = f" for {formats.exact(data['budget'])}" if data.get("budget") else ""
            several = f" of {data['finalists']} networks" if data.get("finalists") else ""
            return f"{data['phase']}{budget}{several} began"
        case "architecture":
            share = formats.percent(data["multiply_adds"] / data["budget"])
            return (
                f"found a network of {formats.exact(data['multiply_adds'])} multiply-adds, {share} of the budget of "
                f"{formats.exact(data['budget'])}"
            )
        case "began":
            return f"began to retrain the network for {formats.exact(data['budget'])}{formats.rival(data)}"
        case "retrained":
            return (
                f"retrained the network for {formats.exact(data['budget'])}{formats.rival(data)}: "
                f"{formats.percent(data['accuracy'])} of {data['test_images']} test images right"
            )
        case "stopped":
            return (
                f"stopped the network for {formats.exact(data['budget'])}{formats.rival(data)} "
                f"after epoch {data['epoch']}: {formats.percent(data['accuracy'])} on validation data"
            )
        case _:
            return str(data.get("message", ""))
