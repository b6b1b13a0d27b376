"""A storage that fails in its own ways: it is told as one thing, tried again, and never a crash."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from nas_core.storage import StorageUnavailable
from service import cli
from service.folders.model import BadFolder
from service.folders.runs import Runs
from tests import seeding
from tests.unit.service.test_dispatcher import Service
from worker.run_folder import RunFolder


class EndpointConnectionError(Exception):
    """As botocore's: no OSError."""


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """An object store whose server is away."""

    protocol = "failing"
    store: dict[str, Any] = {}  # noqa: RUF012

    def _fail(self, *arguments: Any, **options: Any) -> Any:
        raise EndpointConnectionError('Could not connect to the endpoint URL: "http://s3"')

    ls = cat_file = pipe_file = info = exists = isfile = rm = _fail


fsspec.register_implementation("failing", Failing, clobber=True)


def test_every_error_of_a_storage_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOSO_STORAGE_SECONDS", "0.1")
    runs = Runs("failing://bucket/yoso")
    calls: list[Callable[[], object]] = [
        lambda: runs.read_json("s", "spec.json"),
        lambda: runs.write("s", "spec.json", b"{}"),
        lambda: runs.create("s", "spec.json", b"{}"),
        lambda: list(runs.chunks("s", "")),
        lambda: runs.tail("s", "logs/driver-0001.log", 9),
        lambda: runs.event_files("s"),
        lambda: runs.open("s", "journal/x"),
        lambda: runs.remove("s"),
        lambda: RunFolder("failing://bucket/yoso/s").read("spec.json"),
        lambda: RunFolder("failing://bucket/yoso/s").attempts(),
        lambda: RunFolder("failing://bucket/yoso/s").write("x", b""),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable, match="EndpointConnectionError: Could not connect"):
            call()
    assert "EndpointConnectionError" in (runs.problem() or "")


def test_a_search_waits_for_its_storage_and_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    with monkeypatch.context() as patched:
        patched.setattr(dispatcher, "runs", Runs("failing://bucket/yoso"))
        for _ in range(3):
            dispatcher.turn()
    search = service.searches.get(search_id)
    assert search.status == "launching" and "EndpointConnectionError" in (search.reason or "")
    assert dispatcher._troubles[search_id].times == 2, "the third turn is too early"


def test_the_api_answers_503_and_is_not_ready(tmp_path: Path, database_url: str) -> None:
    app = seeding.make_app(tmp_path, database_url)
    ids = seeding.seed(app)
    seeding.parts(app).runs.files = Runs("failing://bucket/yoso").files
    with seeding.serving(app) as url, httpx.Client(base_url=url) as client:
        answer = client.get(f"/api/v1/architectures/{ids['succeeded']}-{seeding.BUDGETS[0]}/weights")
        assert answer.status_code == 503 and "Retry-After" in answer.headers
        assert "EndpointConnectionError" in client.get("/readyz").json()["storage"]
    seeding.parts(app).searches.engine.dispose()


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(InvalidValue, match="YOSO_STORAGE"):
        Runs("nonsense://bucket")


@pytest.mark.parametrize(("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_storage_whose_package_is_missing_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(_registry, scheme, raising=False)  # what fsspec has imported before
    monkeypatch.setenv("YOSO_STORAGE", f"{scheme}://bucket/yoso")
    monkeypatch.setenv("YOSO_DATABASE_URL", f"sqlite:///{tmp_path}/yoso.db")
    monkeypatch.chdir(tmp_path)
    for command in ("serve", "dispatch"):
        told = CliRunner().invoke(cli.app, [command])
        assert told.exit_code == 2 and f"pip install yoso[{extra}]" in " ".join(told.stderr.split()), told.output
        assert "Traceback" not in told.output and isinstance(told.exception, SystemExit)
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} <= {"yoso"}, "no folder is named like a URL"


@pytest.mark.parametrize("name", ["../x", "a/../b", "/etc/passwd", "a//b", "a/\x00", ".", "s/a b"])
def test_no_name_leads_out_of_the_storage(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFolder):
        Runs(str(tmp_path)).files.read(name, 9)


def test_a_folder_that_is_swapped_for_a_link_gives_nothing_away(tmp_path: Path) -> None:
    runs = Runs(str(tmp_path / "storage"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "result.json").write_text('{"secret": 1}')
    runs.write("s", "own/result.json", b"{}")
    own = Path(runs.path("s", "own"))
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            own.rename(own.with_name("aside"))
            own.symlink_to(outside)
            os.unlink(own)
            own.with_name("aside").rename(own)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(2000):
            try:
                assert runs.files.read("s/own/result.json", 99) == b"{}"
            except (BadFolder, FileNotFoundError):
                continue
    finally:
        stop.set()
        swapping.join()


def test_a_file_that_is_just_being_created_is_no_hard_link(tmp_path: Path) -> None:
    runs = Runs(str(tmp_path))
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for name in runs.files.names("s/journal"):
                if not name.endswith(".tmp"):
                    runs.files.read(f"s/journal/{name}", 99)

    failed: list[BaseException] = []

    def reading() -> None:
        try:
            read()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=reading)
    thread.start()
    for number in range(200):
        runs.create("s", f"journal/{number}", b"x")
    stop.set()
    thread.join()
    assert failed == []
