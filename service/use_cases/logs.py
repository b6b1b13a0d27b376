"""What the drivers of a search's attempts have printed: as they run, from Ray, and afterwards what was kept."""

from collections.abc import Iterator

from service import answers
from service.domain.retention import Part
from service.domain.scheduling import RayUnavailable
from service.folders.model import MOST_LOG
from service.folders.runs import driver_log
from service.store.models import Attempt, Search
from service.use_cases.errors import NotFound
from service.use_cases.service import Service

MOST_READ = 4 * 1024 * 1024
"""Bytes of a log that are read at a time."""


def attempt_of(service: Service, search: Search, number: int | None) -> Attempt:
    """An attempt of a search, the newest where none is named. Raises `NotFound`."""
    attempts = service.searches.attempts(search.id)
    found = [one for one in attempts if number in (None, one.number)]
    if not found:
        told = f"attempts are 1 to {len(attempts)}" if attempts else "it has not been launched yet"
        raise NotFound("No such attempt", f"{search.id} has no log of that attempt: {told}.")
    return found[-1]


def read(service: Service, search: Search, attempt: Attempt, after: int | None = None) -> answers.Log:
    """The log of an attempt from byte `after` on, or its end: `MOST_READ` bytes at most, cut at the end of a line."""
    running, note, content, begin = attempt.ended_at is None, None, b"", after or 0
    try:
        content, begin = _running(service, search, after) if running else _kept(service, search, attempt.number, after)
    except RayUnavailable as error:
        note = f"Ray does not answer: {error}"
    except FileNotFoundError:
        note = "There is no log: its job never started, or Ray no longer has it."
        if search.pruned & Part.LOGS:
            note = "It was removed when its retention ended."
    except OSError as error:
        note = f"The storage cannot be read: {error.strerror or error}"
    if running and service.launches is None:
        note = (
            "Ray has the log of a running search, and this process has no connection to Ray. It is stored at the end."
        )
    if len(content) > MOST_READ:
        content = content[: content.rfind(b"\n", 0, MOST_READ) + 1 or MOST_READ]
    text, end = content.decode(errors="replace"), begin + len(content)
    return answers.Log(attempt=attempt.number, running=running, begin=begin, end=end, text=text, note=note)


def whole(service: Service, search: Search, attempt: Attempt) -> Iterator[str]:
    """The log of an attempt as far as it is there, a part at a time. Raises `NotFound` where nothing of it is."""
    part = read(service, search, attempt, 0)
    if part["note"] and not part["text"]:
        raise NotFound("No log", part["note"])
    return _from(service, search, attempt, part)


def _from(service: Service, search: Search, attempt: Attempt, part: answers.Log) -> Iterator[str]:
    while part["text"]:
        yield part["text"]
        part = read(service, search, attempt, part["end"])


def _running(service: Service, search: Search, after: int | None) -> tuple[bytes, int]:
    """What the driver of the attempt that lasts has printed after so many bytes, and how many these are."""
    content = service.launches.printed(search) if service.launches else b""
    begin = _begin(len(content), after)
    return content[begin:], begin


def _kept(service: Service, search: Search, number: int, after: int | None) -> tuple[bytes, int]:
    """What was kept of a driver's log after so many bytes, and how many these are."""
    size = service.runs.open(search.id, driver_log(number), 2 * MOST_LOG).size
    begin = _begin(size, after)
    return service.runs.tail(search.id, driver_log(number), size - begin), begin


def _begin(size: int, after: int | None) -> int:
    return max(0, size - MOST_READ) if after is None else min(after, size)
