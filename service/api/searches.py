"""Searches: submit, look at, cancel, and follow as they happen."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from typing_extensions import Buffer

from service import answers
from service.domain.deadlines import NewDeadlines
from service.domain.lifecycle import TERMINAL, Status
from service.domain.request import NewDescription, SearchRequest, Text
from service.domain.retention import Part
from service.folders.model import BadFolder
from service.folders.runs import Runs
from service.store.models import Event, Search
from service.store.searches import Order, Wanted
from service.use_cases import searches
from service.use_cases.views import iso, view_attempt
from service.web.checks import CHECKED
from service.web.context import ContextDep, ProjectDep, Words, steered
from service.web.described import NOT_ENDED, PROBLEMS, QUOTA, UNKNOWN, Responses, created, operation_id
from service.web.events import Seq, last_seen
from service.web.idempotency import KeyDep, created_at, done
from service.web.problems import ProblemError

CREATED = created(
    "searches",
    "search_id",
    ("look", "cancel", "retry", "describe", "delete", "attempts", "log", "journal", "events", "tensorboard"),
)
LISTED: Responses = {
    200: {
        "links": {
            "next": {"operationId": "searches_browse", "parameters": {"after": "$response.body#/next"}},
            "look": {"operationId": "searches_look", "parameters": {"search_id": "$response.body#/items/0/id"}},
        }
    }
}
FOUND: Responses = {
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
KEEP_ALIVE_TURNS = 30


def _seen(request: Request, search_id: Text, service: ContextDep, project: ProjectDep) -> Search:
    found = searches.seen(service, project, search_id)
    steered(request, found.submitted_by)
    return found


# A dependency, because a stream has answered 200 before its own code runs.
SeenDep = Annotated[Search, Depends(_seen)]


router = APIRouter(
    prefix="/api/v1/searches", tags=["searches"], responses=PROBLEMS, generate_unique_id_function=operation_id
)


@router.post("", status_code=201, response_model=answers.Search, responses=QUOTA | CREATED, dependencies=[CHECKED])
def submit(request: SearchRequest, service: ContextDep, project: ProjectDep, key: KeyDep) -> Response:
    """Queue a search. A request with errors is refused before anything is queued."""
    return created_at("/api/v1/searches/", searches.submit(service, request, project, key))


@router.get("", responses=LISTED)
def browse(
    service: ContextDep,
    project: ProjectDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Text | None = None,
    status: Status | None = None,
    only: Annotated[Text | None, Query(alias="project")] = None,
    kind: searches.Kind | None = None,
    words: Words = "",
    tag: Text | None = None,
    sort: Annotated[Order, Query(description="`accuracy`: those that have one, the highest first.")] = "newest",
) -> answers.SearchPage:
    """Searches, newest first unless `sort` says otherwise, a page at a time.

    With `q` or `tag`, a page may hold fewer than `limit` or none: there are more as long as `next` is set.
    """
    return searches.browse(service, limit, after, Wanted(status, project or only, kind, words.strip(), tag, sort))


@router.get("/{search_id}", responses=UNKNOWN | FOUND)
def look(search: SeenDep, service: ContextDep) -> answers.Search:
    """One search."""
    return searches.view(service, search)


@router.post("/{search_id}/cancel", response_model=answers.Search, responses=UNKNOWN)
def cancel(search: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Cancel a search. A finished search does not change."""
    return done(searches.cancel(service, search, key))


@router.post("/{search_id}/retry", response_model=answers.Search, responses=UNKNOWN | QUOTA | NOT_ENDED)
def retry(search: SeenDep, service: ContextDep, key: KeyDep, changed: NewDeadlines | None = None) -> Response:
    """Queue a failed or cancelled search again. It resumes from its last checkpoint, if it has one.

    Limits on queue and running time start again from zero; the request may change them.
    """
    return done(searches.retry(service, search, changed.parse() if changed is not None else {}, key))


@router.patch("/{search_id}", response_model=answers.Search, responses=UNKNOWN)
def describe(search: SeenDep, described: NewDescription, service: ContextDep, key: KeyDep) -> Response:
    """Change the name, the tags or the description of a search. Fields that are left out stay as they are."""
    return done(searches.describe(service, search, described, key))


@router.delete("/{search_id}", response_model=answers.Deleted, responses=UNKNOWN | NOT_ENDED)
def delete(search: SeenDep, service: ContextDep, key: KeyDep) -> Response:
    """Delete a finished search with its networks, events and files. This cannot be undone.

    Refused while finals may still retrain its networks.
    """
    return done(searches.delete(service, search, key))


@router.get("/{search_id}/attempts", responses=UNKNOWN)
def attempts(search: SeenDep, service: ContextDep) -> list[answers.Attempt]:
    """The attempts of a search, in order."""
    return [view_attempt(attempt) for attempt in service.searches.attempts(search.id)]


@router.get("/{search_id}/journal", responses=UNKNOWN)
def journal(
    search: SeenDep,
    service: ContextDep,
    kind: Text | None = None,
    after: Seq = 0,
    limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> list[dict[str, Any]]:
    """The events of a search so far, in order; `kind` selects one kind, such as `epoch`."""
    return [line(event) for event in service.searches.events(search.id, after, kind, limit)]


@router.get("/{search_id}/events", response_class=EventSourceResponse, responses=UNKNOWN)
async def events(
    search: SeenDep,
    service: ContextDep,
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """The events of a search as server-sent events, whose ids continue after a reconnection.

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
    """A zip of event files for TensorBoard, with a folder for each phase and network."""
    files = service.runs.event_files(search.id)
    if not files:
        why = "it has no measurements yet."
        if search.pruned & Part.EVENTS:
            why = "they were removed when their retention ended."
        elif search.accuracy is not None:
            why = (
                "the first ones are not written yet, or it ran with a release that wrote none, or they were removed. "
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


def line(event: Event) -> dict[str, Any]:
    """An event as the API tells it."""
    return event.data | {"seq": event.seq, "time": iso(event.time), "kind": event.kind}
