"""The Python client against a real service behind a real socket."""

import threading
import time
from pathlib import Path

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
