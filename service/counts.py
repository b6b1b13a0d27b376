"""Requests and wrong tokens by client, counted in a Redis for all replicas together, or in this process's memory."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from nas_core.errors import InvalidValue

log = logging.getLogger(__name__)
ANSWER_SECONDS = 0.5
"""How long the Redis may take to connect or to answer before it counts as unavailable."""
AWAY_SECONDS = 10.0
"""After how long an unavailable Redis is tried again."""
Counted = TypeVar("Counted")
Storage = MemoryStorage | RedisStorage


class Counts:
    """The Redis at `url` where one is given, and the memory of this process otherwise or while that is unavailable.

    Raises `InvalidValue`, without the URL, where a Redis is given and its client is not installed.
    """

    def __init__(self, url: str | None = None) -> None:
        self.memory = MemoryStorage()
        self._redis: RedisStorage | None = None
        self._away, self._try_at = False, 0.0
        self._lock = threading.Lock()
        if url is not None:
            try:
                self._redis = RedisStorage(
                    url,
                    key_prefix="yoso",
                    wrap_exceptions=True,
                    socket_connect_timeout=ANSWER_SECONDS,
                    socket_timeout=ANSWER_SECONDS,
                )
            except ConfigurationError as error:
                accepted = "unset, or set after pip install yoso[redis]"
                raise InvalidValue("YOSO_RATE_STORAGE", "…", "Redis' client is not installed", accepted) from error

    def use(self, count: Callable[[Storage], Counted]) -> Counted:
        """What `count` makes of the Redis, or of the memory."""
        if self._redis is not None and self._is_due():
            try:
                counted = count(self._redis)
            except StorageError as error:
                self._tell(away=True, why=type(error.storage_error).__name__)
            else:
                self._tell(away=False)
                return counted
        return count(self.memory)

    async def wait(self, most: RateLimitItem, client: str) -> int:
        """Count a request of `client`: 0 where it is within `most`, otherwise the seconds until the next may be."""
        if self._redis is None:
            return wait(most, client, self.memory)
        return await asyncio.to_thread(self.use, lambda storage: wait(most, client, storage))

    def problem(self) -> str | None:
        """Why the Redis cannot count, where one is given; None where it can."""
        try:
            if self._redis is not None:
                self._redis.incr("checks", expiry=60)
        except StorageError as error:
            return type(error.storage_error).__name__
        return None

    def _is_due(self) -> bool:
        """Whether to try the Redis: while it is away, one caller does from time to time, and no other waits for it."""
        with self._lock:
            now = time.monotonic()
            if now < self._try_at:
                return False
            if self._away:
                self._try_at = now + AWAY_SECONDS
            return True

    def _tell(self, away: bool, why: str = "") -> None:
        """Log when the Redis becomes unavailable, and when it is back."""
        with self._lock:
            changed, self._away = away != self._away, away
            self._try_at = time.monotonic() + AWAY_SECONDS if away else 0.0
        if changed and away:
            log.warning("YOSO_RATE_STORAGE is unavailable (%s): this replica limits clients on its own", why)
        elif changed:
            log.warning("YOSO_RATE_STORAGE is available again: the replicas limit clients together")


def at_most(rate: float, burst: int) -> RateLimitItem:
    """`rate` requests a second on average and `burst` at once: as many as that makes in `burst / rate` seconds.

    The seconds are rounded up to whole ones, which is what a Redis takes, and the requests grow with them.
    """
    seconds = max(1, math.ceil(round(burst / rate, 6)))
    return RateLimitItemPerSecond(max(burst, int(rate * seconds)), seconds)


def wait(most: RateLimitItem, client: str, storage: Storage) -> int:
    """`Counts.wait` in one storage.

    The window slides (https://limits.readthedocs.io/en/stable/strategies.html#sliding-window-counter), so that a client
    that has used it up goes on at the rate, and not with the next burst.
    """
    limiter = SlidingWindowCounterRateLimiter(storage)
    if limiter.hit(most, client):
        return 0
    return max(1, math.ceil(limiter.get_window_stats(most, client).reset_time - time.time()))
