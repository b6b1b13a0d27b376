"""Follows the events of all searches and passes them on to a server that may be away.

That delays what is passed on and nothing else; nothing is lost as long as the database is there.
"""

import hashlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque

from sqlalchemy.exc import SQLAlchemyError

from service.store.news import SETTLED_SECONDS, News
from service.store.searches import Searches

log = logging.getLogger(__name__)
POLL_SECONDS = 5.0
LONGEST_BACKOFF = 60.0
WINDOW = 10_000
"""Events that are looked through in one turn, for those who have many from before the server was there."""


def named(kind: str, server: str) -> str:
    """The name under which it is noted what a server has been sent: another server starts from the beginning."""
    return f"{kind}_{hashlib.sha256(server.encode()).hexdigest()[:16]}"


class Follower(ABC):
    """Passes what happens to searches on to `server`, as messages call it; `run` in a thread, or `turn` by turn.

    Of several processes one follows, and another goes on where it ends: `lock` is the key of an advisory lock on
    PostgreSQL, and `name` that of the counter of events that have been passed on.
    """

    def __init__(self, searches: Searches, server: str, name: str, lock: int) -> None:
        self.searches, self.server = searches, server
        self.news = News(searches.engine, name, lock)
        self.stopping = threading.Event()
        self.failures = 0
        """How often in a row the server or the database did not answer."""
        self.held = False
        self.taken: dict[str, int] = {}
        """The last event of each search that was passed on, of those that the next turn may find again."""
        self.forget()

    @abstractmethod
    def forget(self) -> None:
        """Know nothing but what the database and the server say."""

    @abstractmethod
    def take(self, search_id: str) -> None:
        """Pass on what is new of one search. Raises what the server's client raises where the server is away."""

    def begin(self) -> int:
        """The number of the event behind which to go on."""
        return self.news.seen()

    def expected(self, error: Exception) -> bool:
        """Whether the server's client raises this where the server is away."""
        return False

    def run(self) -> None:
        """Take turns until `stop` is called."""
        while not self.stopping.is_set():
            self.stopping.wait(self.attempt())
        self.news.let_go()

    def stop(self) -> None:
        """Make `run` return after what is being sent."""
        self.stopping.set()

    def attempt(self) -> float:
        """A turn, whatever goes wrong in it; returns after how many seconds the next is due."""
        try:
            more = self.turn()
        except Exception as error:
            self.news.let_go()
            self.held = False
            self.forget()
            self.failures += 1
            if self.failures == 1:
                expected = isinstance(error, SQLAlchemyError | OSError) or self.expected(error)
                told = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("%s cannot be reached; trying again: %s", self.server, told, exc_info=not expected)
            return min(LONGEST_BACKOFF, 2.0**self.failures)
        if self.failures and self.held:
            log.info("%s can be reached again", self.server)
            self.failures = 0
        return 0.0 if more else POLL_SECONDS

    def turn(self) -> bool:
        """Pass on what is new, where no other process does; returns whether there is more. Raises as `take` does."""
        if not self.news.hold():
            self.held = False
            return False
        if not self.held:
            self.forget()
            self.taken.clear()
            self.seen = self.reached = self.begin()
            self.was: deque[tuple[float, int]] = deque()
            self.held = True
        newest = self.searches.newest_seq()
        until = min(newest, self.reached + WINDOW)
        found = self.news.between(self.seen, until) if until > self.seen else {}
        for search_id, last in found.items():
            if self.stopping.is_set():
                return False
            if self.taken.get(search_id, 0) < last:
                self.take(search_id)
                self.taken[search_id] = last
        self.taken = {search_id: seq for search_id, seq in self.taken.items() if search_id in found}
        self.reached = until
        self._settle()
        return until < newest

    def _settle(self) -> None:
        """Note as seen what was reached long enough ago."""
        now, settled = time.monotonic(), self.seen
        self.was.append((now, self.reached))
        while self.was and self.was[0][0] <= now - SETTLED_SECONDS:
            settled = self.was.popleft()[1]
        if settled > self.seen:
            self.news.see(settled)
            self.seen = settled
