"""What the drivers of a search's attempts have printed: as they run, from Ray, and afterwards what was kept."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from service.api.context import Context, ContextDep
from service.api.problems import ProblemError
from service.api.searches import PROBLEMS, UNKNOWN, SeenDep, operation_id
from service.dispatch.dispatcher import driver_log, submission_id
from service.dispatch.executors.port import RayUnavailable
from service.dispatch.executors.ray_jobs import MOST_LOG
from service.domain.retention import Part
from service.store.models import Attempt, Search

MOST_READ = 4 * 1024 * 1024
"""Bytes of a log that are read at a time."""

router = APIRouter(prefix="/api/v1/searches", tags=["searches"], responses=PROBLEMS | UNKNOWN,
                   generate_unique_id_function=operation_id)  # fmt: skip


class LogView(BaseModel):
    """A part of what the driver of an attempt has printed, which `begin` bytes of the log precede.

    `end` is what to give as `after` for what comes next. While the attempt is `running` there may be more; `note` says
    why there is nothing to read, or not all.
    """

    attempt: int
    running: bool
    begin: int
    end: int
    text: str
    note: str | None


@router.get("/{search_id}/log")
def log(
    search: SeenDep,
    service: ContextDep,
    number: Annotated[int | None, Query(alias="attempt", ge=1, le=10**6, description="Default: the newest.")] = None,
    after: Annotated[
        int | None, Query(ge=0, le=2**40, description="Bytes to leave out; default: all but the log's last 4 MiB.")
    ] = None,
) -> LogView:
    """A part of an attempt's log, at most 4 MiB."""
    attempts = service.searches.attempts(search.id)
    found = [one for one in attempts if number in (None, one.number)]
    if not found:
        told = f"attempts are 1 to {len(attempts)}" if attempts else "it has not been launched yet"
        raise ProblemError(404, "No such attempt", f"{search.id} has no log of that attempt: {told}.")
    return read(service, search, found[-1], after)


def read(service: Context, search: Search, attempt: Attempt, after: int | None = None) -> LogView:
    """The log of an attempt from byte `after` on, or its end: `MOST_READ` bytes at most, cut at the end of a line."""
    running, note, content, begin = attempt.ended_at is None, None, b"", after or 0
    try:
        content, begin = _running(service, search, after) if running else _kept(service, search, attempt.number, after)
    except RayUnavailable as error:
        note = f"Ray cannot be asked: {error}"
    except FileNotFoundError:
        note = "Nothing was kept: its job never began, or Ray had forgotten it."
        if search.pruned & Part.LOGS:
            note = "It was removed, as logs are that are older than they are kept."
    except OSError as error:
        note = f"The storage cannot be read: {error.strerror or error}"
    if running and service.dispatching is None:
        note = "It runs, and its log is with Ray, which this process has no connection to. It is kept when it ends."
    if len(content) > MOST_READ:
        content = content[: content.rfind(b"\n", 0, MOST_READ) + 1 or MOST_READ]
    text = content.decode(errors="replace")
    return LogView(attempt=attempt.number, running=running, begin=begin, end=begin + len(content), text=text, note=note)


def _running(service: Context, search: Search, after: int | None) -> tuple[bytes, int]:
    """What the driver of the attempt that lasts has printed after so many bytes, and how many these are."""
    content = service.dispatching.jobs.logs(submission_id(search)).encode() if service.dispatching else b""
    begin = _begin(len(content), after)
    return content[begin:], begin


def _kept(service: Context, search: Search, number: int, after: int | None) -> tuple[bytes, int]:
    """What was kept of a driver's log after so many bytes, and how many these are."""
    size = service.runs.open(search.id, driver_log(number), 2 * MOST_LOG).size
    begin = _begin(size, after)
    return service.runs.tail(search.id, driver_log(number), size - begin), begin


def _begin(size: int, after: int | None) -> int:
    return max(0, size - MOST_READ) if after is None else min(after, size)
