"""Requests by their ids: in answers, in logs and in metrics."""

import io
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from nas_core.errors import InvalidValue
from service import logs
from service.logs import ACCESS, REQUEST, SEARCH, JsonFormatter
from tests import seeding


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    before, access = root.level, logging.getLogger(ACCESS)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    access.setLevel(logging.NOTSET)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


def told(stream: io.StringIO, logger: str = ACCESS) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if line["logger"] == logger]


def test_every_request_has_an_id_and_a_line(app: FastAPI, url: str, lines: io.StringIO) -> None:
    search_id = seeding.queue(app)
    with httpx.Client(base_url=url) as http:
        shown = http.get(f"/api/v1/searches/{search_id}?secret=of-the-query")
        kept = http.get("/nowhere", headers={"X-Request-Id": "from.the-proxy_1"})
        other = http.get("/healthz", headers={"X-Request-Id": "not one, since it has spaces"})
        scraped = http.get("/metrics").text
    assert kept.headers["x-request-id"] == "from.the-proxy_1"
    assert len({answer.headers["x-request-id"] for answer in (shown, kept, other)}) == 3
    assert " " not in other.headers["x-request-id"]
    first, second, third = told(lines)[:3]
    assert (first["method"], first["path"], first["status"]) == ("GET", f"/api/v1/searches/{search_id}", 200)
    assert first["request_id"] == shown.headers["x-request-id"] and first["milliseconds"] > 0
    assert (second["status"], second["request_id"]) == (404, "from.the-proxy_1") and third["status"] == 200
    assert "of-the-query" not in json.dumps(told(lines))
    one = 'yoso_http_request_seconds_count{method="GET",route="%s",status="%d"} 1.0'
    assert one % ("/api/v1/searches/{search_id}", 200) in scraped, "one label for all searches"
    assert one % ("none", 404) in scraped


def test_what_is_refused_before_the_application_has_a_line_too(url: str, lines: io.StringIO) -> None:
    answer = httpx.get(f"{url}/api/v1/searches", headers={"Host": "elsewhere.example"})
    assert answer.status_code == 421 and answer.headers["x-request-id"]
    give_up = time.monotonic() + 100
    while not told(lines):  # it is written once the answer is out
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert [line["status"] for line in told(lines)] == [421]


def test_a_line_is_one_object_whatever_is_logged(lines: io.StringIO) -> None:
    log, request, search = logging.getLogger("a.b"), REQUEST.set("r-1"), SEARCH.set("s-1")
    try:
        raise ValueError("two\nlines \N{SNOWMAN}")
    except ValueError:
        log.exception("it failed: %s", "a\nb")
    REQUEST.reset(request)
    SEARCH.reset(search)
    log.info("later")
    first, second = told(lines, "a.b")
    assert first["message"] == "it failed: a\nb" and "two\nlines \N{SNOWMAN}" in first["exception"]
    assert (first["level"], first["request_id"], first["search"]) == ("error", "r-1", "s-1")
    assert second.keys() == {"time", "level", "logger", "message"}


def test_another_format_is_refused() -> None:
    with pytest.raises(InvalidValue, match="one of text, json"):
        logs.configure("xml")
