"""What one request may cost in time: half requests, dear checks, clients that have gone."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from service import connections
from service.domain.patience import OutOfPatience, Patience, carry_on
from service.use_cases import sweeps
from service.web import checks, turns
from tests import seeding

SWEEP = {"search": {"dataset": "digits"}, "budgets": ["300k"], "finals": False}
MANY = SWEEP | {"grid": {"settings.lr": [number / 1e6 for number in range(1, 5000)]}}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path)
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with seeding.serving(app) as address:
        yield address


def connect(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection((where.hostname or "", where.port or 0), 30)


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc", b"GET"])
def test_half_a_request_is_not_waited_for(app: FastAPI, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with seeding.serving(app) as url, connect(url) as waiting:
        waiting.sendall(begun)
        assert waiting.recv(1000) == b"", "it is closed, and says nothing"


def test_a_head_that_trickles_is_not_waited_for(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with seeding.serving(app) as url, connect(url) as waiting:
        waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(OSError):
            while True:
                waiting.sendall(b"x")
                time.sleep(0.02)


def test_whole_requests_are_waited_for(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that lasts, and a connection that is used again."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    search_id = seeding.queue(app)
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        with http.stream("GET", f"/api/v1/searches/{search_id}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            time.sleep(0.6)
            seeding.parts(app).searches.cancel(search_id)
            assert any('"cancelled"' in line for line in lines)
        assert [http.get("/healthz").status_code for _ in range(3)] == [200] * 3


def test_a_check_that_takes_too_long_is_refused_with_what_to_change(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.0)
    for path, body in (("/api/v1/searches", {"dataset": "digits", "budgets": ["300k"]}), ("/api/v1/sweeps", MANY)):
        told = httpx.post(url + path, json=body, timeout=60)
        assert told.status_code == 422 and "fewer points" in told.json()["detail"]
    assert httpx.post(url + "/fragments/submit", data={"dataset": "digits"}, timeout=60).status_code == 422


def test_the_work_for_a_client_that_has_gone_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def dear(*_: object) -> None:
        begun.set()
        try:
            while True:
                carry_on()
                time.sleep(0.01)
        except OutOfPatience:
            ended.set()
            raise

    monkeypatch.setattr(checks, "CHECK_SECONDS", 60.0)
    monkeypatch.setattr(sweeps, "specified", dear)
    content = json.dumps(SWEEP).encode()
    head = b"POST /api/v1/sweeps HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(url) as leaving:
        leaving.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        assert begun.wait(30)
        assert httpx.get(url + "/healthz", timeout=30).status_code == 200
    assert ended.wait(30)


def test_a_few_are_checked_at_a_time_and_others_wait(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, guard = 0, 0, threading.Lock()
    real = sweeps.specified

    def counted(*given: object) -> object:
        nonlocal at_once, most
        with guard:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with guard:
            at_once -= 1
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeps, "specified", counted)
    codes: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: codes.append(httpx.post(url + "/api/v1/sweeps", json=SWEEP, timeout=60).status_code)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [201] * 8 and most <= turns.OF_ONE


def test_one_client_whose_checks_are_dear_does_not_keep_the_others_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {"a-token-of-sixteen": "vision", "another-of-sixteen": "audio"}
    app = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),))
    over, begun, real = threading.Event(), threading.Semaphore(0), sweeps.specified

    def dear(service: Any, groups: Any, capacity: Any) -> Any:
        if groups[0][0].project == "vision":
            begun.release()
            over.wait(60)
        return real(service, groups, capacity)

    monkeypatch.setattr(sweeps, "specified", dear)
    with seeding.serving(app) as url:
        vision, audio = ({"Authorization": f"Bearer {token}"} for token in tokens)

        def send(headers: dict[str, str]) -> int:
            return httpx.post(url + "/api/v1/sweeps", json=SWEEP, headers=headers, timeout=60).status_code

        with ThreadPoolExecutor(turns.AT_ONCE + 2) as threads:
            sent = [threads.submit(send, vision) for _ in range(turns.AT_ONCE + 2)]
            for _ in range(turns.OF_ONE):
                assert begun.acquire(timeout=60)
            assert send(audio) == 201 and not any(one.done() for one in sent)
            over.set()
            assert [one.result() for one in sent] == [201] * len(sent)
    seeding.parts(app).searches.engine.dispose()


def test_patience_ends_and_is_forgotten() -> None:
    carry_on()
    patience = Patience(60)
    with patience.having():
        carry_on()
        patience.gone.set()
        with pytest.raises(OutOfPatience, match="disconnected"):
            carry_on()
    carry_on()
