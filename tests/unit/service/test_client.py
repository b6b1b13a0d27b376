"""The Python client against a real service behind a real socket."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from nas_core.errors import InvalidValue
from service.client import Client, ClientError, Unreachable
from service.domain.lifecycle import Status
from tests import seeding


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database only: what is under test here speaks HTTP and knows none."""
    return f"sqlite:///{tmp_path}/yoso.db"


def test_submits_reads_lists_and_cancels(url: str) -> None:
    with Client(url) as client:
        search = client.submit("digits", ["300k"], name="one", seed=3)
        assert search["status"] == "queued" and search["budgets"] == [300_000]
        assert client.get(search["id"])["seed"] == 3
        second = client.submit("digits", [600_000])
        page = client.list(limit=1)
        assert [one["id"] for one in page["items"]] == [second["id"]]
        assert [one["id"] for one in client.list(after=page["next"])["items"]] == [search["id"]]
        assert client.cancel(search["id"])["status"] == "cancelled"
        assert [one["id"] for one in client.list(status="cancelled")["items"]] == [search["id"]]


def test_refusals_carry_the_problem(url: str) -> None:
    with Client(url) as client, pytest.raises(ClientError) as refused:
        client.submit("digits", ["3k", "x"])
    assert refused.value.status == 422
    assert {error["field"] for error in refused.value.problem["errors"]} == {"budgets"}


def test_events_come_in_order_and_end_with_the_search(url: str, seeds: dict[str, str]) -> None:
    with Client(url) as client:
        events = list(client.events(seeds["succeeded"]))
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        assert events[0].data["status"] == "queued" and events[-1].data["status"] == "succeeded"
        assert client.wait(seeds["succeeded"])["status"] == "succeeded"


def test_events_go_on_where_they_were_when_the_service_restarts(
    app: FastAPI, tmp_path: Path, database_url: str
) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    seen: list[int] = []
    with seeding.serving(app) as url:
        port = int(url.rsplit(":", 1)[1])
        client = Client(url)
        follower = threading.Thread(target=lambda: seen.extend(e.seq for e in client.events(search_id, patience=20)))
        follower.start()
        while not seen:
            time.sleep(0.01)
    run.pretrain()
    again = seeding.make_app(tmp_path, database_url)
    with seeding.serving(again, port):
        run.move(Status.CANCELLING, Status.CANCELLED)
        follower.join(20)
    client.close()
    told = seeding.parts(app).searches.events(search_id)
    seeding.parts(again).searches.engine.dispose()
    assert seen == [event.seq for event in told]


def test_downloads_an_architecture(url: str, seeds: dict[str, str]) -> None:
    with Client(url) as client:
        network = client.get(seeds["succeeded"])["architectures"][0]
        assert client.architecture(network["id"])["architecture"] == seeding.network(300_000).to_dict()
        assert client.download(network["files"]["weights"]) == b"weights"
        assert client.download(network["files"]["picture"]).startswith(b"<svg")


def test_an_unreachable_service_is_told() -> None:
    with Client("http://127.0.0.1:1") as client:
        assert not client.ready()
        with pytest.raises(Unreachable, match="yoso serve"):
            client.list()
        with pytest.raises(Unreachable):
            next(client.events("some", patience=0))


def test_something_else_at_the_url_is_told(url: str) -> None:
    with Client(url) as client, pytest.raises(ClientError, match="not a Yoso service"):
        client._json("GET", "/searches")


@pytest.mark.parametrize("wrong", ["localhost:8765", "nonsense", "ftp://host"])
def test_a_url_must_be_one(wrong: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Client(wrong)
    assert refused.value.field == "url"


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YOSO_URL", "YOSO_HOST", "YOSO_PORT"):
        monkeypatch.delenv(name, raising=False)
    with Client() as client:
        assert client.url == "http://127.0.0.1:8765"
    monkeypatch.setenv("YOSO_PORT", "9000")
    with Client() as client:
        assert client.url == "http://127.0.0.1:9000"
    monkeypatch.setenv("YOSO_URL", "https://yoso.example/")
    with Client() as client:
        assert client.url == "https://yoso.example"


def test_a_token_is_sent(tmp_path: Path) -> None:
    app = seeding.make_app(tmp_path, tokens={"a-token-of-sixteen": "vision"}, data_roots=(str(tmp_path),))
    with seeding.serving(app) as url:
        with Client(url) as client, pytest.raises(ClientError) as refused:
            client.list()
        assert refused.value.status == 401
        with Client(url, token="a-token-of-sixteen") as client:
            assert client.submit("digits", ["300k"])["project"] == "vision"
    seeding.parts(app).searches.engine.dispose()


@contextmanager
def losing_answers(url: str, count: int, status: int | None = None) -> Iterator[str]:
    """A way to the service that loses its first `count` answers, or gives `status` instead without asking it."""
    left = [count]

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            left[0] -= 1
            if left[0] >= 0 and status is not None:
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            answer = httpx.request(self.command, url + self.path, content=body, headers=headers)
            if left[0] >= 0:
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PATCH = handle_any

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_submission_whose_answer_is_lost_is_sent_again_and_queued_once(url: str) -> None:
    with losing_answers(url, 1) as lossy, Client(lossy) as client:
        search = client.submit("digits", ["300k"])
    with Client(url) as client:
        assert [one["id"] for one in client.list()["items"]] == [search["id"]]


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_service_puts_off_is_asked_again(url: str, status: int) -> None:
    with losing_answers(url, 3, status) as busy, Client(busy) as client:
        assert client.submit("digits", ["300k"])["status"] == "queued"
    with losing_answers(url, 1000, status) as busy, Client(busy) as client, pytest.raises(ClientError) as refused:
        client.cluster()
    assert refused.value.status == status


def test_retries_projects_and_the_cluster(app: FastAPI, url: str) -> None:
    seeding.report(app)
    with Client(url) as client:
        search_id = client.submit("digits", ["300k"], project="vision")["id"]
        client.cancel(search_id)
        assert client.retry(search_id)["status"] == "queued"
        assert client.change_project("vision", weight=2.0, max_running=3)["max_running"] == 3
        assert client.change_project("vision", max_running=None)["weight"] == 2.0
        assert [one["id"] for one in client.cluster()["queue"]] == [search_id]
