"""A client in a process of its own, which waits for nothing but the answer."""

import time

import httpx

_http: httpx.Client | None = None


def open(url: str) -> None:
    """Be a client of the service at `url`."""
    global _http
    _http = httpx.Client(base_url=url, timeout=60)


def get(path: str) -> float:
    """How many milliseconds the whole answer takes. Raises `httpx.HTTPStatusError`."""
    assert _http is not None
    begin = time.perf_counter()
    _http.get(path).raise_for_status()
    return (time.perf_counter() - begin) * 1000
