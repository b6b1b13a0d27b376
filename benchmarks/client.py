"""A client in a process of its own, which waits for nothing but the answer."""

import time
from collections.abc import Callable

import httpx

from service.client import Bearer

_http: httpx.Client | None = None


def open(url: str) -> None:
    """Be a client of the service at `url`."""
    global _http
    _http = httpx.Client(base_url=url, timeout=60, auth=Bearer())


def get(path: str) -> float:
    """How many milliseconds the whole answer takes. Raises `httpx.HTTPStatusError`."""
    assert _http is not None
    http = _http
    return timed(lambda: http.get(path).raise_for_status())


def timed(do: Callable[[], object]) -> float:
    """How many milliseconds it takes."""
    begin = time.perf_counter()
    do()
    return (time.perf_counter() - begin) * 1000
