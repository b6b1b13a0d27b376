"""Searches as they appear in a real MLflow server, whatever happens to it, to the database and to who mirrors."""

import contextlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, text

from nas_core.errors import InvalidValue
from nas_core.train.evaluation import Evaluation
from service.app import create_app
from service.dispatch import follower, mlflow
from service.dispatch.local_ray import free_ports
from service.dispatch.mlflow import Mirror
from service.dispatch.process import Dispatching
from service.domain.lifecycle import Status
from service.settings import Settings
from service.store import news
from service.store.models import Event, now
from service.store.work import Work
from tests import seeding
from tests.seeding import BUDGETS, parts

if TYPE_CHECKING:  # not by every process that collects tests
    from mlflow import MlflowClient
    from mlflow.entities import Run

PATIENCE = 100


class Server:
    """MLflow's own server, with a database in `folder`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=self.url)

    def start(self) -> "Server":
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", self.url.rpartition(":")[2]]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)
        give_up = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < give_up, (self.folder / "mlflow.log").read_text()
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        """Whether it does."""
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def runs(self, search_id: str) -> "list[Run]":
        """The runs of a search."""
        from mlflow.entities import ViewType

        everywhere = [one.experiment_id for one in self.client.search_experiments(view_type=ViewType.ALL)]
        found = self.client.search_runs(everywhere, f"tags.`yoso.search` = '{search_id}'", run_view_type=ViewType.ALL)
        return list(found)

    def run(self, search_id: str) -> "Run":
        """The one run of a search."""
        [run] = self.runs(search_id)
        return run

    def curve(self, run: "Run", name: str) -> list[tuple[int, float]]:
        """Steps and values of a metric, in order."""
        points = self.client.get_metric_history(run.info.run_id, name)
        return [(one.step, one.value) for one in sorted(points, key=lambda one: (one.timestamp, one.step))]


class Door:
    """A port in front of a server, that can be shut: then nobody listens, and whoever was connected is cut off."""

    def __init__(self, server: Server) -> None:
        self.inside = int(server.url.rpartition(":")[2])
        [self.port] = free_ports(1)
        self.sockets: list[socket.socket] = []
        self.listening: socket.socket | None = None

    def open(self) -> None:
        """Let everybody through from now on."""
        self.listening = socket.create_server(("127.0.0.1", self.port))
        self.sockets = [self.listening]
        threading.Thread(target=self._let_in, args=(self.listening,), daemon=True).start()

    def _let_in(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is shut
            while True:
                outer, inner = listening.accept()[0], socket.create_connection(("127.0.0.1", self.inside))
                self.sockets += [outer, inner]
                for one, other in ((outer, inner), (inner, outer)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):  # whoever hangs up first ends both
            while some := one.recv(65536):
                other.sendall(some)
            other.shutdown(socket.SHUT_RDWR)

    def shut(self) -> None:
        """Let nobody through, and those who were let in no more."""
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """MLflow's client as the service has it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mlflow.SETTINGS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, patience: None) -> Iterator[Server]:
    """A server for all tests: each has searches of its own."""
    [port] = free_ports(1)
    made = Server(tmp_path_factory.mktemp("mlflow"), port).start()
    yield made
    made.stop()


@pytest.fixture
def mirror(app: FastAPI, server: Server) -> Iterator[Mirror]:
    """A mirror of the service's searches."""
    made = Mirror(parts(app).searches, server.url)
    yield made
    made.news.let_go()


def catch_up(mirror: Mirror) -> None:
    """Turns until nothing is new. PostgreSQL frees the lock of a connection some time after it was closed."""
    while mirror.turn() or not mirror.held:
        time.sleep(0.01)


def milliseconds(seconds: float | None) -> int:
    assert seconds is not None
    return round(seconds * 1000)


def test_a_search_is_a_run_of_its_project_with_what_was_asked_and_what_came_of_it(
    app: FastAPI, server: Server, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = seeding.seed(app)
    queued = seeding.queue(app, space={"preset": "digits", "share": False}, project="audio")
    catch_up(mirror)
    assert capsys.readouterr().out == ""

    run, search = server.run(ids["succeeded"]), parts(app).searches.get(ids["succeeded"])
    assert server.client.get_experiment(run.info.experiment_id).name == "yoso/default"
    assert (run.info.run_name, run.info.status) == ("first steps", "FINISHED")
    times = milliseconds(search.created_at), milliseconds(search.ended_at)
    assert (run.info.start_time, run.info.end_time) == times
    assert run.data.params == {"dataset": "digits", "budgets": "[300000, 600000]", "seed": "0"}
    newest = parts(app).searches.newest_seq(search.id)
    own = {name: value for name, value in run.data.tags.items() if name.startswith("yoso.")}
    assert own == {"yoso.search": search.id, "yoso.kind": "search", "yoso.status": "succeeded",
                   "yoso.event": str(newest)}  # fmt: skip
    told = [event for event in parts(app).searches.events(search.id, kind="epoch") if event.data["phase"] == "search"]
    points = server.client.get_metric_history(run.info.run_id, "search/accuracy")
    assert [(one.step, one.value, one.timestamp) for one in points] == [
        (event.data["epoch"], event.data["accuracy"], milliseconds(event.time)) for event in told
    ]
    for budget in BUDGETS:
        cost, result = seeding.cost(budget), seeding.result(budget)
        assert run.data.metrics[f"network/{budget}/multiply_adds"] == cost["multiply_adds"]
        assert run.data.metrics[f"network/{budget}/parameters"] == cost["parameters"]
        assert run.data.metrics[f"network/{budget}/test_accuracy"] == result["accuracy"]
        assert len(server.curve(run, f"retrain/{budget}/loss")) == 60

    states = {name: server.run(search_id).info.status for name, search_id in ids.items()}
    assert states == {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "running": "RUNNING",
                      "queued": "SCHEDULED"}  # fmt: skip
    run = server.run(queued)
    assert server.client.get_experiment(run.info.experiment_id).name == "yoso/audio" and run.info.run_name == queued
    assert run.data.params["space.preset"] == "digits" and run.data.params["space.share"] == "false"


def test_what_happens_is_added_to_the_run_and_nothing_is_sent_twice(
    app: FastAPI, server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = seeding.queue(app)
    mirror.turn()
    assert server.run(search_id).info.status == "SCHEDULED"
    run = seeding.Run(app, search_id).start().pretrain(3)
    mirror.turn()
    assert server.run(search_id).info.status == "RUNNING"
    assert len(server.curve(server.run(search_id), "pretrain/loss")) == 3
    after = Mirror(parts(app).searches, server.url)
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_batch", lambda *given, **named: pytest.fail("nothing is new"))
        mirror.turn()
        mirror.news.let_go()
        after.turn()
        after.news.let_go()
    parts(app).searches.cancel(search_id)
    run.move(Status.CANCELLED)
    mirror.turn()
    assert server.run(search_id).info.status == "KILLED"
    parts(app).searches.retry(search_id)
    mirror.turn()
    assert server.run(search_id).info.status == "SCHEDULED"


def test_the_recall_of_every_class_is_a_metric_whatever_it_is_called(
    app: FastAPI, server: Server, mirror: Mirror
) -> None:
    names = ("cat", "..", "a/b", "é ß", 'q"', "x" * 200, "%", "\\udcff", "", "猫")
    test = Evaluation.of(range(9), [0] * 9, names)
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    # As many as come to light in a turn, each with more metrics than usual.
    line = {"kind": "retrained", "epoch": 60, "budget": BUDGETS[0]} | test.summary()
    run.tell(*(line | {"epoch": epoch} for epoch in range(80)))
    catch_up(mirror)
    metrics = server.run(search_id).data.metrics
    prefix = f"network/{BUDGETS[0]}/test"
    assert metrics[f"{prefix}_balanced_accuracy"] == pytest.approx(1 / 9) and metrics[f"{prefix}_lowest_recall"] == 0
    recalls = {name.removeprefix(f"{prefix}_recall/"): value for name, value in metrics.items() if "_recall/" in name}
    assert sorted(recalls) == sorted(
        ["0-cat", "1-..", "2-a_b", "3-é ß", "4-q_", f"5-{'x' * 60}", "6-_", "7-_udcff", "8-"]
    )
    assert recalls["0-cat"] == 1 and sum(recalls.values()) == 1
    assert len(server.curve(server.run(search_id), f"{prefix}_recall/0-cat")) == 80


def test_an_attempt_that_repeats_epochs_has_the_last_word(app: FastAPI, server: Server, mirror: Mirror) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    began = time.time()
    for attempt, numbers in ((1, (1, 2, 3)), (2, (3, 4))):
        run.tell({"kind": "started", "attempt": attempt, "resumed": attempt > 1})
        for number in numbers:
            line = {"kind": "epoch", "phase": "search", "epoch": number, "epochs": 4, "accuracy": attempt / 4}
            run.tell(line | {"attempt": attempt, "time": began + 10 * attempt + number})
        mirror.turn()
    found = server.run(search_id)
    assert server.curve(found, "search/accuracy") == [(1, 0.25), (2, 0.25), (3, 0.25), (3, 0.5), (4, 0.5)]
    assert found.data.metrics["search/accuracy"] == 0.5


def test_a_mirror_that_dies_between_sending_and_noting_is_followed_by_one_that_loses_and_doubles_nothing(
    app: FastAPI, server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start().pretrain(3)
    whole = type(server.client).log_batch

    def die(self: "MlflowClient", run_id: str, *given: Any, **named: Any) -> None:
        if named.get("tags"):
            raise KeyboardInterrupt
        whole(self, run_id, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_batch", die)
        with pytest.raises(KeyboardInterrupt):
            mirror.turn()
    found = server.run(search_id)
    assert len(server.curve(found, "pretrain/loss")) == 3 and "yoso.event" not in found.data.tags
    mirror.news.let_go()
    run.tell(seeding.epoch("pretrain", 4, 12, 0.1))
    after = Mirror(parts(app).searches, server.url)
    catch_up(after)
    after.news.let_go()
    assert [step for step, _ in server.curve(server.run(search_id), "pretrain/loss")] == [1, 2, 3, 4]
    assert server.run(search_id).data.tags["yoso.event"] == str(parts(app).searches.newest_seq(search_id))


def test_networks_of_finals_are_runs_below_that_of_the_finals(app: FastAPI, server: Server, mirror: Mirror) -> None:
    finals = seeding.seed_finals(app, ended=True)
    catch_up(mirror)
    parent = server.run(finals)
    assert parent.info.status == "FINISHED" and parent.data.tags["yoso.sweep"]
    below = server.client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    found = {run.info.run_name: run for run in below}
    names = ["300000-0-search", "300000-1-search", "300000-2-random", "300000-3-random"]
    assert [name for name in sorted(found) if name.startswith("300000")] == names and len(found) == 8
    assert found[names[1]].info.status == "KILLED" and found[names[0]].info.status == "FINISHED"
    assert len(server.curve(found[names[1]], "retrain/accuracy")) == 7
    tested = next(event for event in parts(app).searches.events_of(finals, ["retrained"]) if event.data["trial"] == 0)
    assert found[names[0]].data.metrics["network/test_accuracy"] == tested.data["accuracy"]
    assert found[names[2]].data.tags["yoso.origin"] == "random"


def test_networks_of_finals_end_with_them_and_one_that_was_deleted_stays_so(
    app: FastAPI, server: Server, mirror: Mirror
) -> None:
    finals = seeding.seed_finals(app)
    catch_up(mirror)
    parent = server.run(finals)
    where, which = [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    below = {run.info.run_name: run for run in server.client.search_runs(where, which)}
    assert below["300000-2-random"].info.status == "RUNNING"
    server.client.delete_run(below["300000-3-random"].info.run_id)
    mirror.forget()
    work, token = Work(parts(app).searches.engine), parts(app).searches.get(finals).lease_token or ""
    own = {"trial": 3, "origin": "random", "budget": 300_000, "seed": 1}
    line = {"time": time.time(), "attempt": 1} | seeding.epoch("retrain", 21, 60, 0.5, 300_000) | own
    work.follow(finals, token, "0001-999999.jsonl", [line])
    parts(app).searches.cancel(finals)
    work.move(finals, token, Status.CANCELLED)
    catch_up(mirror)
    after = {run.info.run_name: run.info.status for run in server.client.search_runs(where, which)}
    assert after["300000-2-random"] == "KILLED" and after["300000-0-search"] == "FINISHED"
    assert "300000-3-random" not in after and server.run(finals).info.status == "KILLED"


def test_what_mlflow_refuses_is_told_and_holds_nobody_up(
    app: FastAPI, server: Server, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    project = f"gone-{parts(app).searches.engine.name}"
    deleted, gone = seeding.queue(app), seeding.queue(app, project=project)
    mirror.turn()
    server.client.delete_run(server.run(deleted).info.run_id)
    experiment = server.client.get_experiment_by_name(f"yoso/{project}")
    assert experiment is not None
    server.client.delete_experiment(experiment.experiment_id)
    mirror.forget()
    new, other = seeding.queue(app, project=project), seeding.queue(app)
    parts(app).searches.cancel(deleted)
    parts(app).searches.cancel(gone)
    caplog.set_level(logging.WARNING, "service.dispatch.mlflow")
    for _ in range(3):
        mirror.turn()
    assert server.run(other).info.status == "SCHEDULED"
    [lost] = server.runs(deleted)
    assert lost.info.lifecycle_stage == "deleted" and lost.info.status == "SCHEDULED"
    assert server.runs(new) == []
    assert [f"MLflow refuses search {new}" in record.message for record in caplog.records] == [True], "once"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_mlflow_that_is_away_is_told_of_once_and_gets_everything_when_it_is_back(
    app: FastAPI, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    door = Door(server)
    port, search_id = door.port, seeding.queue(app)
    run = seeding.Run(app, search_id).start().pretrain(2)
    mirror = Mirror(parts(app).searches, f"http://reporter:secret@127.0.0.1:{port}")
    caplog.set_level(logging.INFO)
    assert [mirror.attempt() for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    door.open()
    assert mirror.attempt() == follower.POLL_SECONDS
    assert len(server.curve(server.run(search_id), "pretrain/loss")) == 2
    door.shut()
    run.tell(seeding.epoch("pretrain", 3, 12, 0.1))
    assert mirror.attempt() == 2, "it is away again"
    door.open()
    mirror.attempt()
    assert [step for step, _ in server.curve(server.run(search_id), "pretrain/loss")] == [1, 2, 3]
    door.shut()
    mirror.news.let_go()
    told = [record.message for record in caplog.records if record.name == "service.dispatch.follower"]
    away, back = (
        f"MLflow at http://127.0.0.1:{port} cannot be reached;",
        f"MLflow at http://127.0.0.1:{port} can be reached again",
    )
    assert [away in told[0], back in told[1], away in told[2], back in told[3]] == [True] * 4 and len(told) == 4
    assert "secret" not in caplog.text and "reporter" not in caplog.text


def test_what_was_seen_long_enough_ago_is_not_looked_at_again(
    app: FastAPI, server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = seeding.queue(app)
    mirror.turn()
    assert mirror.news.seen() == 0, "a transaction that began before may still be under way"
    monkeypatch.setattr(follower, "SETTLED_SECONDS", 0.0)
    mirror.turn()
    newest = parts(app).searches.newest_seq()
    assert mirror.news.seen() == newest
    mirror.news.let_go()
    after = Mirror(parts(app).searches, server.url)
    asked: list[tuple[int, int]] = []
    whole = news.News.between

    def noted(self: news.News, after: int, until: int) -> dict[str, int]:
        asked.append((after, until))
        return whole(self, after, until)

    monkeypatch.setattr(news.News, "between", noted)
    catch_up(after)
    seeding.queue(app)
    catch_up(after)
    after.news.let_go()
    assert asked == [(newest, newest + 1)] and server.run(search_id).info.status == "SCHEDULED"
    elsewhere = Mirror(parts(app).searches, "http://127.0.0.1:9")
    assert elsewhere.news.seen() == 0, "another server has seen nothing"


def test_searches_from_before_come_too_however_many_there_are(
    app: FastAPI, server: Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "WINDOW", 2)
    monkeypatch.setattr(mlflow, "PAGE", 2)
    ids = [seeding.queue(app) for _ in range(5)]
    seeding.Run(app, ids[0], only=True).start().pretrain(7)
    count = 1
    while mirror.turn():
        count += 1
    assert count >= 5
    assert [server.run(search_id).info.status for search_id in ids] == ["RUNNING", *["SCHEDULED"] * 4]
    assert len(server.curve(server.run(ids[0]), "pretrain/loss")) == 7


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_url: str) -> Iterator[FastAPI]:
    """A service on PostgreSQL, where several processes may mirror."""
    made = seeding.make_app(tmp_path, postgres_url)
    yield made
    parts(made).searches.engine.dispose()


def test_an_event_that_is_committed_after_later_ones_is_not_missed(on_postgres: FastAPI, server: Server) -> None:
    slow, fast = seeding.queue(on_postgres), seeding.queue(on_postgres)
    mirror = Mirror(parts(on_postgres).searches, server.url)
    catch_up(mirror)
    engine = parts(on_postgres).searches.engine
    with engine.connect() as late, late.begin():
        line = {"phase": "search", "epoch": 1, "accuracy": 0.5}
        late.execute(Event.__table__.insert().values(search_id=slow, time=now(), kind="epoch", data=line))  # type: ignore[attr-defined]
        parts(on_postgres).searches.cancel(fast)
        catch_up(mirror)
        assert server.run(fast).info.status == "KILLED" and "search/accuracy" not in server.run(slow).data.metrics
    catch_up(mirror)
    assert server.run(slow).data.metrics["search/accuracy"] == 0.5
    mirror.news.let_go()


def test_one_process_mirrors_and_another_goes_on_where_it_ends(on_postgres: FastAPI, server: Server) -> None:
    first, second = (Mirror(parts(on_postgres).searches, server.url) for _ in range(2))
    search_id = seeding.queue(on_postgres)
    second.turn()
    first.turn()
    assert second.held and not first.held
    admin = create_engine(parts(on_postgres).searches.engine.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        )
    admin.dispose()

    def takes_over(mirror: Mirror) -> bool:
        mirror.turn()
        return mirror.held

    until(lambda: takes_over(first))  # a connection takes a moment to be gone
    parts(on_postgres).searches.cancel(search_id)
    assert second.attempt() == 2 and not second.held, "its lock is lost with its connection"
    second.turn()
    assert not second.held
    first.turn()
    assert first.held and server.run(search_id).info.status == "KILLED"
    first.news.let_go()
    until(lambda: takes_over(second))
    second.news.let_go()


def test_a_dispatcher_mirrors_beside_its_turns(
    app: FastAPI, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "POLL_SECONDS", 0.05)
    settings = Settings(str(tmp_path), "unused", "http://127.0.0.1:9", mlflow_uri=server.url)
    dispatching = Dispatching(settings, parts(app).searches, parts(app).runs)
    dispatching.start()
    search_id = seeding.queue(app)
    until(lambda: server.runs(search_id))
    assert dispatching.drain() and dispatching.following
    dispatching.following[0].join(PATIENCE)
    assert not dispatching.following[0].is_alive()
    dispatching.close()


def test_without_mlflows_client_the_service_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlflow" else found(name, *more)
    )
    settings = Settings(str(tmp_path), f"sqlite:///{tmp_path}/yoso.db", mlflow_uri="http://127.0.0.1:5000")
    with pytest.raises(InvalidValue, match=r"YOSO_MLFLOW_URI.*pip install yoso\[mlflow\]"):
        create_app(settings)
    parts(create_app(settings, dispatch=False)).searches.engine.dispose()


def until(holds: Callable[[], Any]) -> Any:
    """Wait until something holds; its value."""
    give_up = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    return value
