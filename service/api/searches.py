"""Searches: submit, look at, cancel, and follow as they happen."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from sqlalchemy.orm import Session
from typing_extensions import Buffer

from service.api.checks import CHECKED
from service.api.context import Context, ContextDep, ProjectDep, confined, steered, still_open
from service.api.idempotency import KeyDep, given, once
from service.api.problems import Problem, ProblemError
from service.api.views import AttemptView, Page, SearchView, Seq, iso, place, position, view_attempt, view_search
from service.dispatch.folder_model import BadFolder
from service.dispatch.runs import Runs
from service.domain.deadlines import NewDeadlines
from service.domain.estimates import estimate, warnings
from service.domain.lifecycle import TERMINAL, Status
from service.domain.references import left_out
from service.domain.request import SearchRequest, Text, check
from service.domain.retention import Part
from service.store.changes import UnknownSearch
from service.store.idempotency import Answer
from service.store.models import Event, Search
from service.store.searches import Wanted

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON, or a header is malformed."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    408: {"model": Problem, "description": "The body came too slowly."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "A field cannot be used; `errors` says which, and what would be accepted."},
    429: {"model": Problem, "description": "Too many requests; `Retry-After` says when to come back."},
    503: {
        "model": Problem,
        "description": "The database is unavailable, streams are full, or the dataset is still being inspected "
        "(`type` is then `urn:yoso:still-looking`); `Retry-After` says when to come back.",
    },
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such resource."}}
QUOTA: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "The project has as much in its queue, or in the storage, as it may have."}
}
NOT_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "It has not ended so."}}


def created(tag: str, parameter: str, operations: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """The answer to a POST that made something: where it is, and by its id in `parameter` what can be done with it."""
    return {
        201: {
            "headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}},
            "links": {
                name: {"operationId": f"{tag}_{name}", "parameters": {parameter: "$response.body#/id"}}
                for name in operations
            },
        }
    }


CREATED = created(
    "searches",
    "search_id",
    ("look", "cancel", "retry", "delete", "attempts", "log", "journal", "events", "tensorboard"),
)
LISTED: dict[int | str, dict[str, Any]] = {
    200: {
        "links": {
            "next": {"operationId": "searches_browse", "parameters": {"after": "$response.body#/next"}},
            "look": {"operationId": "searches_look", "parameters": {"search_id": "$response.body#/items/0/id"}},
        }
    }
}
FOUND: dict[int | str, dict[str, Any]] = {
    200: {
        "links": {
            name: {
                "operationId": f"architectures_{name}",
                "parameters": {"architecture_id": "$response.body#/architectures/0/id"},
            }
            for name in ("look", "picture", "weights")
        }
    }
}
EVENT_SECONDS = 0.5
MOST_EVENT_FILE = 64 * 1024 * 1024
"""Bytes of one of the files for TensorBoard."""
Kind = Literal["search", "finals"]
KEEP_ALIVE_TURNS = 30


class Deleted(BaseModel):
    """What is left of a search that was deleted."""

    id: str


def seen(service: Context, project: str | None, search_id: str) -> Search:
    """The search, if the caller's project may see it. Raises `UnknownSearch`."""
    search = service.searches.get(search_id)
    if project is not None and search.project != project:
        raise UnknownSearch(search_id)
    return search


def _seen(request: Request, search_id: Text, service: ContextDep, project: ProjectDep) -> Search:
    found = seen(service, project, search_id)
    steered(request, found.submitted_by)
    return found


# A dependency, because a stream has answered 200 before its own code runs.
SeenDep = Annotated[Search, Depends(_seen)]


def operation_id(route: APIRoute) -> str:
    """What an operation is called in links and in clients that are made from the API's description."""
    return f"{route.tags[0]}_{route.name}"


router = APIRouter(
    prefix="/api/v1/searches", tags=["searches"], responses=PROBLEMS, generate_unique_id_function=operation_id
)


@router.post("", status_code=201, response_model=SearchView, responses=QUOTA | CREATED, dependencies=[CHECKED])
def submit(request: SearchRequest, service: ContextDep, project: ProjectDep, key: KeyDep) -> Response:
    """Queue a search. Everything that can be known to be wrong is refused here, before anything is queued."""
    if (answered := given(service, key)) is not None:
        return answered
    settings, before = service.settings, service.history.searches()
    request = confined(request, project)
    roots = settings.roots_of(request.project)
    spec = check(request, roots, settings.any_folder, service.capacity(), service.look(), before=before)
    notes = left_out(spec, spec.budgets, spec.finals.baselines) + warnings(estimate(spec, before))

    def create(session: Session) -> Answer:
        search = service.searches.create(request, spec, session)
        shown = view_search(search, []).model_copy(update={"notes": notes}).model_dump(mode="json")
        return Answer(201, shown, {"Location": f"/api/v1/searches/{search.id}"})

    return once(service, key, create)


@router.get("", responses=LISTED)
def browse(
    service: ContextDep,
    project: ProjectDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Text | None = None,
    status: Status | None = None,
    only: Annotated[Text | None, Query(alias="project")] = None,
    kind: Kind | None = None,
    words: Annotated[Text, Query(alias="q", max_length=200, description="In the name, the id or the dataset.")] = "",
) -> Page:
    """Searches, newest first, a page at a time.

    With `q`, a page may hold fewer than `limit`, or none, and there be more behind it: as long as there is a `next`.
    """
    wanted = Wanted(status, project or only, kind, words.strip())
    shown, further = service.searches.page(limit, place(after) if after else None, wanted)
    networks, capacity = service.searches.architectures(search.id for search in shown), service.capacity()
    return Page(
        items=[view_search(search, networks[search.id], capacity) for search in shown],
        next=position(*further) if further else None,
    )


@router.get("/{search_id}", responses=UNKNOWN | FOUND)
def look(search: SeenDep, service: ContextDep) -> SearchView:
    """One search."""
    return view(service, search)


@router.post("/{search_id}/cancel", response_model=SearchView, responses=UNKNOWN)
def cancel(search: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Cancel a search; one that has ended stays as it is."""

    def do(session: Session) -> Answer:
        return Answer(200, view(service, service.searches.cancel(search.id, session), session).model_dump(mode="json"))

    return once(service, key, do)


@router.post("/{search_id}/retry", response_model=SearchView, responses=UNKNOWN | QUOTA | NOT_ENDED)
def retry(search: SeenDep, service: ContextDep, key: KeyDep, changed: NewDeadlines | None = None) -> Response:
    """Queue a search that failed or was cancelled again; it resumes from its last checkpoint, if it has one.

    Its time to wait and to run begins anew, with the deadlines that it had or those that are given.
    """
    deadlines = changed.parse() if changed is not None else {}
    still_open(service, search.project, [search.dataset])

    def do(session: Session) -> Answer:
        queued = service.searches.retry(search.id, session, deadlines)
        return Answer(200, view(service, queued, session).model_dump(mode="json"))

    return once(service, key, do)


@router.delete("/{search_id}", response_model=Deleted, responses=UNKNOWN | NOT_ENDED)
def delete(search: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Delete a search that has ended, with its networks, events and files; this cannot be undone.

    A search whose networks finals may still retrain is refused.
    """

    def do(session: Session) -> Answer:
        service.searches.delete(search.id, session)
        return Answer(200, Deleted(id=search.id).model_dump(mode="json"))

    return once(service, key, do)


@router.get("/{search_id}/attempts", responses=UNKNOWN)
def attempts(search: SeenDep, service: ContextDep) -> list[AttemptView]:
    """Its launches, in order."""
    return [view_attempt(attempt) for attempt in service.searches.attempts(search.id)]


@router.get("/{search_id}/journal", responses=UNKNOWN)
def journal(
    search: SeenDep,
    service: ContextDep,
    kind: Text | None = None,
    after: Seq = 0,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> list[dict[str, Any]]:
    """What has happened so far, in order; `kind` selects, such as `epoch`."""
    return [line(event) for event in service.searches.events(search.id, after, kind, limit)]


@router.get("/{search_id}/events", response_class=EventSourceResponse, responses=UNKNOWN)
async def events(
    search: SeenDep,
    service: ContextDep,
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens, as it happens: server-sent events whose ids continue after a reconnection.

    The stream ends after the event that ends the search.
    """
    after = last_seen(last_event_id) or 0
    turns = 0
    while True:
        # Asked before the events are read, so that nothing can come between the last of them and the end.
        search = await asyncio.to_thread(service.searches.get, search.id)
        while some := await asyncio.to_thread(service.searches.events, search.id, after):
            for event in some:
                after = event.seq
                yield ServerSentEvent(data=line(event), event=event.kind, id=str(event.seq), retry=2000)
        if Status(search.status) in TERMINAL or service.stopping.is_set():
            return
        turns += 1
        if turns % KEEP_ALIVE_TURNS == 0:
            yield ServerSentEvent(comment="still here")
        await asyncio.sleep(EVENT_SECONDS)


@router.get(
    "/{search_id}/tensorboard",
    response_class=Response,
    responses=UNKNOWN | {200: {"content": {"application/zip": {}}}},
)
def tensorboard(search: SeenDep, service: ContextDep) -> Response:
    """What it has measured so far, as event files for TensorBoard in a zip: a folder for each phase and network."""
    files = service.runs.event_files(search.id)
    if not files:
        why = "it has measured nothing yet."
        if search.pruned & Part.EVENTS:
            why = "they were removed, as those are that are older than they are kept."
        elif search.accuracy is not None:
            why = (
                "it has only just begun to measure, or it ran before there were event files, or they were removed. "
                f"Its numbers are in /api/v1/searches/{search.id}/journal?kind=epoch."
            )
        raise ProblemError(404, "No event files", f"Search {search.id} has none: {why}")
    named = {"Content-Disposition": f'attachment; filename="{search.id}-tensorboard.zip"'}
    return StreamingResponse(packed(service.runs, search.id, files), media_type="application/zip", headers=named)


def packed(runs: Runs, search_id: str, names: Sequence[str]) -> Iterator[bytes]:
    """The event files of a search as a zip, part by part; of those that cannot be used LEFT_OUT.txt in it tells why."""
    target = Outgoing()
    left_out: list[str] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            try:
                content = runs.open(search_id, f"tensorboard/{name}", MOST_EVENT_FILE)
            except (BadFolder, FileNotFoundError) as error:
                left_out.append(str(error))
                continue
            with archive.open(name, "w", force_zip64=True) as packing:
                for block in content.blocks:
                    packing.write(block)
                    yield target.take()
        if left_out:
            archive.writestr("LEFT_OUT.txt", "\n".join(left_out) + "\n")
    yield target.take()


class Outgoing(io.RawIOBase):
    """A file that can only be written, and keeps what nobody has taken yet."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        """It can be written."""
        return True

    def write(self, content: Buffer) -> int:
        """Keep `content`."""
        self.parts.append(bytes(content))
        return len(self.parts[-1])

    def take(self) -> bytes:
        """What was written since the last call."""
        taken, self.parts = b"".join(self.parts), []
        return taken


def last_seen(text: str | None) -> int | None:
    """The number in a `Last-Event-ID`; None where it is none that was ever sent."""
    return int(text) if text and text.isdecimal() and len(text) < 19 else None


def line(event: Event) -> dict[str, Any]:
    """An event as the API tells it."""
    return event.data | {"seq": event.seq, "time": iso(event.time), "kind": event.kind}


def view(service: Context, search: Search, within: Session | None = None) -> SearchView:
    """What the API says of one search."""
    capacity = service.capacity() if within is None else None  # a transaction is in the way of others as it is
    return view_search(search, service.searches.architectures([search.id], within)[search.id], capacity)
