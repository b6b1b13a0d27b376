"""Turns for requests whose check takes a processor."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.api.problems import ProblemError

AT_ONCE = 2
"""How many requests are checked at a time."""
MOST_WAITING = 20
"""How many requests of one client may wait for their turn."""


class Checks:
    """The turns of requests that are to be checked."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waiting: Counter[str | None] = Counter()

    @asynccontextmanager
    async def turn(self, client: str | None) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises `ProblemError` 503 where too many of the client's requests wait."""
        if self._waiting[client] >= MOST_WAITING:
            told = f"{MOST_WAITING} of your requests are waiting to be checked."
            raise ProblemError(503, "Busy", told, {"Retry-After": "2"})
        self._waiting[client] += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]
        try:
            yield
        finally:
            self._room.release()
