"""The Python clients, each by the same tests, against a real service behind a real socket."""

import inspect
import io
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, assert_type, cast

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from nas_core.errors import InvalidValue
from nas_core.files import FILES
from service import answers, objects
from service.api import SEARCH
from service.client import AsyncClient, Client, ClientError, Event, Unreachable, _unpack, ask
from service.domain.lifecycle import Status
from tests import seeding


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database only: what is under test here speaks HTTP and knows none."""
    return seeding.sqlite_url(tmp_path)


class Blocking:
    """An `AsyncClient` with the face of a `Client`: each of its words is awaited on a loop of its own, in a thread.

    The thread of the tests may have a loop already, that of a browser.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        self.client, self.thread = AsyncClient(*given, **named), start_blocking_portal()
        self.url = self.client.url

    def __enter__(self) -> Self:
        self.portal = self.thread.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.portal.call(self.client.close)
        self.thread.__exit__(None, None, None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def word(*given: Any, **named: Any) -> Any:
            asked = partial(getattr(self.client, name), *given, **named)
            return self._iterate(asked()) if name == "events" else self.portal.call(asked)

        return word

    def _iterate(self, events: AsyncIterator[Event]) -> Iterator[Event]:
        async def following() -> Event | None:
            return await anext(events, None)

        while (event := self.portal.call(following)) is not None:
            yield event


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    """What makes a client."""
    return request.param


def test_both_clients_have_the_same_words_and_types(url: str) -> None:
    def words(client: type) -> dict[str, Any]:
        public = (name for name in dir(client) if not name.startswith("_"))
        return {name: list(inspect.signature(getattr(client, name)).parameters) for name in public}

    async def asynchronously() -> None:
        client = AsyncClient(url)
        async with client:
            search = assert_type(await client.submit("digits", ["300k"]), answers.Search)
            assert_type(await client.list(limit=1), answers.SearchPage)
            assert_type(await client.wait((await client.cancel(search["id"]))["id"]), answers.Search)
            async for event in client.events(search["id"]):
                assert_type(event, Event)

    assert words(Client) == words(AsyncClient)
    with Client(url) as client:
        sweep = assert_type(client.submit_sweep({"dataset": "digits"}, ["300k"]), objects.Sweep)
        assert_type(client.list()["items"], list[objects.Search])
        assert_type(client.pareto(sweep.id).points, list[answers.Point])
        assert_type(client.cluster().nodes, list[answers.Node])
    with start_blocking_portal() as portal:
        portal.call(asynchronously)


def test_submits_reads_lists_and_cancels(connect: Any, url: str) -> None:
    with connect(url) as client:
        search = client.submit("digits", ["300k"], name="one", seed=3)
        assert search["status"] == "queued" and search["budgets"] == [300_000]
        assert client.get(search["id"])["seed"] == 3
        second = client.submit("digits", [600_000])
        page = client.list(limit=1)
        assert [one["id"] for one in page["items"]] == [second["id"]]
        assert [one["id"] for one in client.list(after=page["next"])["items"]] == [search["id"]]
        assert client.cancel(search["id"])["status"] == "cancelled"
        assert [one["id"] for one in client.list(status="cancelled")["items"]] == [search["id"]]


def test_finals_are_asked_for_by_name(connect: Any, app: FastAPI, url: str) -> None:
    seeding.report(app)
    own = {"candidates": 2, "baselines": ["resnet"]}
    with connect(url) as client:
        search = client.submit("digits", ["600k"], finals=own)
        assert client.get(search["id"])["request"]["finals"] == own and search["notes"] == []
        sweep = client.submit_sweep({"dataset": "digits", "finals": own}, ["600k"], finals=False)
        [member] = client.sweep_searches(sweep["id"])["items"]
        assert member["request"]["finals"] == own
        sweep = client.submit_sweep({"dataset": "digits"}, ["600k"], finals=True, baselines=["thin"])
        assert [one["kind"] for one in client.sweep_searches(sweep["id"])["items"]] == ["search", "finals"]


def test_refusals_carry_the_problem(connect: Any, url: str) -> None:
    with connect(url) as client, pytest.raises(ClientError) as refused:
        client.submit("digits", ["3k", "x"])
    assert refused.value.status == 422
    assert {error["field"] for error in refused.value.problem["errors"]} == {"budgets"}


def test_events_come_in_order_and_end_with_the_search(connect: Any, url: str, seeds: dict[str, str]) -> None:
    with connect(url) as client:
        events = list(client.events(seeds["succeeded"]))
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        assert events[0].data["status"] == "queued" and events[-1].data["status"] == "succeeded"
        assert client.wait(seeds["succeeded"])["status"] == "succeeded"


def test_attempts_are_told(connect: Any, url: str, seeds: dict[str, str]) -> None:
    with connect(url) as client:
        [attempt] = client.attempts(seeds["failed"])
        assert (attempt["number"], attempt["outcome"]) == (1, "failed") and client.attempts(seeds["queued"]) == []


def test_events_go_on_where_they_were_when_the_service_restarts(
    connect: Any, app: FastAPI, tmp_path: Path, database_url: str
) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    seen: list[int] = []

    def follow(url: str) -> None:
        with connect(url) as client:
            seen.extend(event.seq for event in client.events(search_id, patience=20))

    with seeding.serving(app) as url:
        port = int(url.rsplit(":", 1)[1])
        follower = threading.Thread(target=follow, args=(url,))
        follower.start()
        while not seen:
            time.sleep(0.01)
    run.pretrain()
    again = seeding.make_app(tmp_path, database_url)
    with seeding.serving(again, port):
        run.move(Status.CANCELLING, Status.CANCELLED)
        follower.join(20)
    told = seeding.parts(app).searches.events(search_id)
    seeding.parts(again).searches.engine.dispose()
    assert seen == [event.seq for event in told]


def test_downloads_an_architecture(connect: Any, url: str, seeds: dict[str, str]) -> None:
    with connect(url) as client:
        network = client.get(seeds["succeeded"])["architectures"][0]
        assert client.architecture(network["id"])["architecture"] == seeding.network(300_000).to_dict()
        assert client.download(network["files"]["weights"]) == b"weights"
        assert client.download(network["files"]["picture"]).startswith(b"<svg")


def test_an_unreachable_service_is_told(connect: Any) -> None:
    with connect("http://127.0.0.1:1") as client:
        assert not client.ready()
        with pytest.raises(Unreachable, match="yoso serve"):
            client.list()
        with pytest.raises(Unreachable):
            next(client.events("some", patience=0))


def test_something_else_at_the_url_is_told(connect: Any, url: str) -> None:
    with connect(url) as client, pytest.raises(ClientError, match="not a Yoso service"):
        client.send(ask("GET", "/searches"))


@pytest.mark.parametrize("wrong", ["localhost:8765", "nonsense", "ftp://host"])
def test_a_url_must_be_one(connect: Any, wrong: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        connect(wrong)
    assert refused.value.field == "url"


def test_the_url_comes_from_the_environment(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YOSO_URL", "YOSO_HOST", "YOSO_PORT"):
        monkeypatch.delenv(name, raising=False)
    with connect() as client:
        assert client.url == "http://127.0.0.1:8765"
    monkeypatch.setenv("YOSO_PORT", "9000")
    with connect() as client:
        assert client.url == "http://127.0.0.1:9000"
    monkeypatch.setenv("YOSO_URL", "https://yoso.example/")
    with connect() as client:
        assert client.url == "https://yoso.example"


def test_a_token_is_sent(connect: Any, tmp_path: Path) -> None:
    app = seeding.make_app(tmp_path, tokens={"a-token-of-sixteen": "vision"}, data_roots=(str(tmp_path),))
    with seeding.serving(app) as url:
        with connect(url) as client, pytest.raises(ClientError) as refused:
            client.list()
        assert refused.value.status == 401
        with connect(url, token="a-token-of-sixteen") as client:
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


def test_a_submission_whose_answer_is_lost_is_sent_again_and_queued_once(connect: Any, url: str) -> None:
    with losing_answers(url, 1) as lossy, connect(lossy) as client:
        search = client.submit("digits", ["300k"])
    with connect(url) as client:
        assert [one["id"] for one in client.list()["items"]] == [search["id"]]


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_service_puts_off_is_asked_again(connect: Any, url: str, status: int) -> None:
    with losing_answers(url, 3, status) as busy, connect(busy) as client:
        assert client.submit("digits", ["300k"])["status"] == "queued"
    with losing_answers(url, 1000, status) as busy, connect(busy) as client, pytest.raises(ClientError) as refused:
        client.cluster()
    assert refused.value.status == status


def test_retries_projects_and_the_cluster(connect: Any, app: FastAPI, url: str) -> None:
    seeding.report(app)
    with connect(url) as client:
        search_id = client.submit("digits", ["300k"], project="vision")["id"]
        client.cancel(search_id)
        assert client.retry(search_id)["status"] == "queued"
        assert client.change_project("vision", weight=2.0, max_running=3)["max_running"] == 3
        assert client.change_project("vision", max_running=None)["weight"] == 2.0
        assert [one["id"] for one in client.cluster()["queue"]] == [search_id]


def test_a_sweep_is_waited_for_with_its_progress(connect: Any, app: FastAPI, url: str) -> None:
    with connect(url) as client:
        sweep = client.submit_sweep(
            {"dataset": "digits"}, {"from": "100k", "to": "400k", "count": 3}, seeds=[0, 1], finals=False
        )
        assert sweep["budgets"] == [100_000, 200_000, 400_000]
        first, second = (one["id"] for one in client.sweep_searches(sweep["id"])["items"])
        run = seeding.Run(app, first, only=True).start()
        shown: list[dict[str, int]] = []

        def play(seen: answers.Sweep) -> None:
            shown.append(seen["counts"])
            if len(shown) == 1:
                other.cancel(second)
            elif len(shown) == 2:
                run.move(Status.FAILED, error={"kind": "job", "message": "lost", "attempt": 1})

        with Client(url) as other:
            assert client.wait_sweep(sweep["id"], play)["done"]
        assert shown == [{"queued": 1, "running": 1}, {"running": 1, "cancelled": 1}, {"failed": 1, "cancelled": 1}]
        assert client.steer_sweep(sweep["id"], "retry")["counts"] == {"queued": 1, "cancelled": 1}
        assert [one["id"] for one in client.sweeps()["items"]] == [sweep["id"]]
        assert client.pareto(sweep["id"], "parameters")["points"] == []


def test_whoever_waits_bears_a_service_that_is_away_for_a_while_but_no_refusal(connect: Any, url: str) -> None:
    with Client(url) as client:
        search_id = client.submit("digits", ["300k"])["id"]
        client.cancel(search_id)
    with losing_answers(url, 6, 503) as away, connect(away) as client:
        assert client.wait(search_id)["status"] == "cancelled"
    with losing_answers(url, 1000, 503) as away, connect(away) as client, pytest.raises(Unreachable):
        client.wait(search_id, patience=0.0)
    with connect(url) as client, pytest.raises(ClientError, match="no search"):
        client.wait("nosuchsearch")


def test_fetches_networks(connect: Any, url: str, seeds: dict[str, str], tmp_path: Path) -> None:
    with connect(url) as client:
        for formats, names in ((None, set(FILES.values())), (["onnx"], {"network.onnx"})):
            folders = client.fetch(seeds["succeeded"], tmp_path / "nets", formats)
            assert folders == {budget: str(tmp_path / "nets" / str(budget)) for budget in seeding.BUDGETS}
            for folder in folders.values():
                assert {path.name for path in Path(folder).iterdir()} == names | {"result.json"}
        for search_id, formats, field in (("succeeded", ["onyx"], "formats"), ("queued", None, "search_id")):
            with pytest.raises(InvalidValue) as refused:
                client.fetch(seeds[search_id], tmp_path / "none", formats)
            assert refused.value.field == field and not (tmp_path / "none").exists()


def test_brings_event_files_and_later_what_is_new(
    app: Any, connect: Any, url: str, seeds: dict[str, str], tmp_path: Path
) -> None:
    search_id = seeds["succeeded"]
    with connect(url) as client:
        folder = Path(client.tensorboard(search_id, tmp_path / "all"))
        assert folder == tmp_path / "all" / f"first-steps-{search_id}"
        first, second = folder / "search" / seeding.EVENT_FILE, folder / "networks" / "300000" / seeding.EVENT_FILE
        assert first.read_bytes() == b"search" and second.read_bytes() == b"networks/300000"
        before = first.stat().st_mtime_ns
        second.write_bytes(b"netw")  # a copy that was cut short
        seeding.parts(app).runs.write(search_id, "tensorboard/search/events.out.tfevents.0001-000002", b"more")
        assert client.tensorboard(search_id, tmp_path / "all") == str(folder)
        assert {path.read_bytes() for path in (folder / "search").iterdir()} == {b"search", b"more"}
        assert first.stat().st_mtime_ns == before and second.read_bytes() == b"networks/300000"
        with pytest.raises(ClientError, match="it has no measurements yet"):
            client.tensorboard(seeds["queued"], tmp_path / "all")


def test_an_archive_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../outside", b"no")
    search = cast(Any, answers.Search)(name="../..", id="s")
    assert _unpack(tmp_path / "to", search, packed.getvalue()) == str(tmp_path / "to" / "s")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "to" / "s" / "outside"]


def test_every_type_of_answer_is_described_by_the_api(app: FastAPI) -> None:
    described = app.openapi()["components"]["schemas"]
    kinds = [one for one in vars(answers).values() if isinstance(one, type) and issubclass(one, dict)]
    kinds.remove(answers.Answer)
    assert len(kinds) > 30
    for kind in kinds:
        assert described[kind.__name__]["properties"].keys() == answers.fields(kind).keys()
    assert described["Search"]["properties"]["stored"]["description"].startswith("Bytes in storage")
    assert SEARCH.keys() == described["Search"]["properties"].keys()
