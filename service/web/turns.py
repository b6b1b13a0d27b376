"""Turns for requests whose check takes a processor."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.web.problems import ProblemError

AT_ONCE, OF_ONE = 4, 2
"""How many requests are checked at a time, and how many of them of one client."""
MOST_WAITING = 20
"""How many requests of one client may wait for their turn."""


class Checks:
    """The turns of requests that are to be checked: whoever asks for much waits for their own, and others do not."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._own: dict[str | None, asyncio.Semaphore] = {}
        self._asked: Counter[str | None] = Counter()

    @asynccontextmanager
    async def turn(self, client: str | None) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises `ProblemError` 503 where too many of the client's requests wait."""
        if self._asked[client] >= OF_ONE + MOST_WAITING:
            told = f"{MOST_WAITING} of your requests are waiting to be checked."
            raise ProblemError(503, "Busy", told, {"Retry-After": "2"})
        self._asked[client] += 1
        try:
            async with self._own.setdefault(client, asyncio.Semaphore(OF_ONE)), self._room:
                yield
        finally:
            self._asked[client] -= 1
            if not self._asked[client]:
                del self._asked[client], self._own[client]
