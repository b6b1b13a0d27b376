"""The page of what an attempt's driver has printed, line by line."""

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.dashboard.frame import ViewerDep, missing, page, swapped
from service.domain.request import Text
from service.store.changes import UnknownSearch
from service.store.models import Attempt, Search
from service.use_cases import logs
from service.use_cases.errors import NotFound
from service.use_cases.searches import seen
from service.web.context import Context, ContextDep

MOST_SHOWN = 2000
"""Lines that are shown: the last."""
LEVELS = ("info", "warning", "error")
"""From which level on lines are shown; the first shows all."""
_LEVEL = re.compile(
    r"\b(?P<info>DEBUG|INFO)\b|\b(?P<warning>WARN|WARNING)\b|\b(?P<error>ERROR|CRITICAL|FATAL)\b"
    # as Ray's own processes write it, and Python an exception
    r"|^\[[\d\- :,.]+ (?:(?P<ray_info>[DI])|(?P<ray_warning>W)|(?P<ray_error>[EFC])) |^(?P<raised_error>Traceback )"
)

router = APIRouter(include_in_schema=False)


@router.get("/searches/{search_id}/logs/{number}")
def log_page(
    request: Request,
    service: ContextDep,
    project: ViewerDep,
    search_id: Text,
    number: Annotated[int, Path(ge=1, le=10**6)],
    words: Annotated[Text, Query(alias="q", max_length=200)] = "",
    level: Text = LEVELS[0],
) -> Response:
    """The log of one attempt: the lines that have `words` in them, from a level on."""
    try:
        search = seen(service, project, search_id)
    except UnknownSearch:
        return missing(request, "search", search_id)
    attempts = service.searches.attempts(search_id)
    attempt = next((one for one in attempts if one.number == number), None)
    if attempt is None:
        return missing(request, "attempt", f"{search_id}/{number}")
    words, level = words.strip(), level if level in LEVELS else LEVELS[0]
    query = urlencode(({"q": words} if words else {}) | ({"level": level} if level != LEVELS[0] else {}))
    told = page(
        "log.html", request, search=search, number=number, attempts=[one.number for one in attempts], query=query,
        **shown(service, search, attempt, words, level),
    )  # fmt: skip
    return swapped(told, request, request.url.path, query)


@router.get("/searches/{search_id}/logs/{number}/download")
def download(
    request: Request,
    service: ContextDep,
    project: ViewerDep,
    search_id: Text,
    number: Annotated[int, Path(ge=1, le=10**6)],
) -> Response:
    """The log of one attempt as a text file."""
    try:
        search = seen(service, project, search_id)
        text = logs.whole(service, search, logs.attempt_of(service, search, number))
    except UnknownSearch:
        return missing(request, "search", search_id)
    except NotFound:
        return missing(request, "log", f"{search_id}/{number}")
    named = {"Content-Disposition": f'attachment; filename="{search.id}-{number}.log"'}
    return StreamingResponse(text, media_type="text/plain; charset=utf-8", headers=named)


def shown(service: Context, search: Search, attempt: Attempt, words: str, level: str) -> dict[str, Any]:
    """What the page shows of an attempt's log."""
    log = logs.read(service, search, attempt)
    lines = log["text"].splitlines()
    wanted = LEVELS[LEVELS.index(level) :]
    found = [
        line for line, of in zip(lines, levels(lines), strict=True) if of in wanted and words.lower() in line.lower()
    ]
    return {
        "words": words,
        "level": level,
        "live": log["running"] and log["note"] is None,
        "why": log["note"],
        "lines": found[-MOST_SHOWN:],
        "found": len(found),
        "total": len(lines),
        "most": f"{logs.MOST_READ // 2**20} MiB" if log["begin"] else None,
    }


def levels(lines: Sequence[str]) -> list[str]:
    """The level of each line, by the first word or sign for one in it; a line without any goes on with the one before.

    So the lines of a traceback are errors like its first.
    """
    found, level = [], LEVELS[0]
    for line in lines:
        if match := _LEVEL.search(line):
            level = str(match.lastgroup).rpartition("_")[2]
        found.append(level)
    return found
