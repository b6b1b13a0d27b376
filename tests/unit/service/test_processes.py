"""Real processes of the service: how they start, and how they end when they are told to."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import make_url

from service import processes
from service.client import Bearer, Client
from service.dispatch.local_ray import free_ports
from service.settings import Settings
from service.store.database import connect
from service.store.searches import Searches
from tests.postgres import postgres_database
from tests.ray_double import RayDouble, ray_double

DRAIN_SECONDS = 60
ASKED: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}


class Yoso:
    """Processes of one service on one PostgreSQL database and one Ray double."""

    def __init__(self, folder: Path, database_url: str, ray: RayDouble) -> None:
        self.folder, self.ray = folder, ray
        self.searches = Searches(connect(database_url))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOSO_", "RAY_"))} | {
            "PYTHONPATH": os.getcwd(),
            "YOSO_STORAGE": str(folder / "storage"),
            "YOSO_DATABASE_URL": database_url,
            "YOSO_RAY_ADDRESS": ray.endpoint.url,
            "RAY_AUTH_TOKEN": "token",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, code: Path | None = None, **settings: str) -> "subprocess.Popen[bytes]":
        """`yoso` with some arguments, as a process, of the `code` in a folder if not of this."""
        environment = self.environment | settings | ({} if code is None else {"PYTHONPATH": str(code)})
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "service.cli", *words]
            started = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=code)
        self.processes.append(started)
        return started

    def replica(self, *words: str, code: Path | None = None) -> "tuple[subprocess.Popen[bytes], Client]":
        """`yoso serve`, when it answers."""
        [port] = free_ports(1)
        process = self.start("serve", *words, code=code, YOSO_PORT=str(port))
        client = Client(f"http://127.0.0.1:{port}", seconds=20)
        self.until(lambda: answers(client))
        return process, client

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait until something holds; its value."""
        give_up = time.monotonic() + 60
        while not (value := holds()):
            assert time.monotonic() < give_up, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.05)
        return value

    def launched(self, client: Client) -> str:
        """Submit a search and wait until Ray has it."""
        search_id: str = client.submit(**ASKED)["id"]
        self.until(lambda: f"yoso-{search_id}-1" in self.ray.jobs)
        return search_id

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.searches.engine.dispose()


def answers(client: Client) -> bool:
    try:
        return client.http.get("/healthz").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def yoso(tmp_path: Path, postgres_url: str) -> Iterator[Yoso]:
    with ray_double() as ray:
        made = Yoso(tmp_path, postgres_url, ray)
        yield made
        made.end()


@contextmanager
def stream(client: Client, path: str) -> Iterator[tuple[threading.Thread, list[str]]]:
    """A stream of events that is read in a thread; it has begun when this returns."""
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        with httpx.stream("GET", client.url + path, timeout=60, auth=Bearer()) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                lines.append(line)
                begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(30)
    yield thread, lines
    thread.join(DRAIN_SECONDS)
    assert not thread.is_alive()


def ended_with_a_hint(lines: list[str]) -> bool:
    """Whether the last thing that a stream said, by itself, is when to come back."""
    return lines[-3:] == ["", "retry: 2000", ""]


def test_a_replica_that_is_told_to_stop_ends_in_order(yoso: Yoso) -> None:
    process, client = yoso.replica("--no-dispatch")
    search_id = client.submit(**ASKED)["id"]
    with (
        client,
        stream(client, f"/api/v1/searches/{search_id}/events") as (events, told),
        stream(client, "/live/searches") as (hints, hinted),
    ):
        process.send_signal(signal.SIGTERM)
        yoso.until(lambda: "service" in client.http.get("/readyz").json())
        assert client.http.get("/readyz").status_code == 503
        again = client.http.get(f"/api/v1/searches/{search_id}/events")
        assert again.status_code == 503 and int(again.headers["retry-after"]) > 0
        assert process.wait(DRAIN_SECONDS) == 0
        events.join(DRAIN_SECONDS)
        hints.join(DRAIN_SECONDS)
    assert ended_with_a_hint(told) and ended_with_a_hint(hinted)
    search = yoso.searches.get(search_id)
    assert search.status == "queued" and search.attempt == 0, "a replica launches nothing"


def test_a_service_that_is_told_to_stop_hands_its_leases_back(yoso: Yoso) -> None:
    process, client = yoso.replica()
    with client:
        search_id = yoso.launched(client)
        assert yoso.searches.get(search_id).lease_token is not None
        with stream(client, f"/api/v1/searches/{search_id}/events") as (_, told):
            process.send_signal(signal.SIGTERM)
            assert process.wait(DRAIN_SECONDS) == 0
    assert ended_with_a_hint(told)
    assert yoso.searches.get(search_id).lease_token is None
    assert yoso.ray.stopped == [], "what runs goes on"


@pytest.mark.proof
def test_a_dispatcher_that_is_told_to_stop_hands_its_leases_back_and_another_goes_on(yoso: Yoso) -> None:
    _, client = yoso.replica("--no-dispatch")
    with client:
        first = yoso.start("dispatch")
        yoso.until(client.ready)
        search_id = yoso.launched(client)
        with stream(client, f"/api/v1/searches/{search_id}/events") as (thread, told):
            first.send_signal(signal.SIGTERM)
            assert first.wait(DRAIN_SECONDS) == 0
            assert yoso.searches.get(search_id).lease_token is None
            assert thread.is_alive() and not ended_with_a_hint(told), "the replica's streams go on"
            yoso.start("dispatch")
            yoso.until(lambda: yoso.searches.get(search_id).lease_token is not None)
            client.cancel(search_id)
            yoso.ray.end(search_id, "STOPPED")
            thread.join(30)
        assert client.get(search_id)["status"] == "cancelled"
    assert yoso.ray.submitted == [f"yoso-{search_id}-1"]


@contextmanager
def waiting_for_ray(yoso: Yoso, words: tuple[str, ...]) -> "Iterator[subprocess.Popen[bytes]]":
    """A process whose dispatcher waits for a Ray that takes its request and says nothing."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        process = yoso.start(*words, YOSO_RAY_ADDRESS=address, YOSO_PORT=str(free_ports(1)[0]))
        mute.settimeout(60)
        connection, _ = mute.accept()
        with connection:
            yield process


@pytest.mark.parametrize("words", [("serve",), ("dispatch",)])
def test_a_second_signal_ends_a_process_at_once(words: tuple[str, ...], yoso: Yoso) -> None:
    """Its first signal meets a dispatcher that waits for a Ray which says nothing."""
    with waiting_for_ray(yoso, words) as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DRAIN_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.parametrize("words", [("serve",), ("dispatch",)])
def test_a_turn_that_hangs_does_not_keep_a_process(words: tuple[str, ...], yoso: Yoso) -> None:
    with waiting_for_ray(yoso, words) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DRAIN_SECONDS) == 1


@pytest.mark.slow
@pytest.mark.proof
def test_a_second_process_on_sqlite_is_refused_and_told_what_to_use(yoso: Yoso, tmp_path: Path) -> None:
    database = tmp_path / "storage" / "yoso.db"
    yoso.environment["YOSO_DATABASE_URL"] = f"sqlite:///{database}"
    first, client = yoso.replica()
    with client:
        for second in (["serve", "--no-dispatch"], ["serve"], ["dispatch"]):
            command = [sys.executable, "-m", "service.cli", *second]
            told = subprocess.run(command, env=yoso.environment, capture_output=True, text=True, timeout=60)
            assert told.returncode == 2 and told.stderr.startswith("YOSO_DATABASE_URL: "), told.stderr
            assert f"process {first.pid} holds {database}.lock" in told.stderr.replace("\n", "")
            assert "postgresql://" in told.stderr and "listens" not in told.stderr
        assert client.http.get("/healthz").status_code == 200, "the first one is left in peace"
        first.kill()
        first.wait()
        again, other = yoso.replica()
        with other:
            again.send_signal(signal.SIGTERM)
            assert again.wait(DRAIN_SECONDS) == 0


def test_migrate_waits_for_the_database(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(postgres).set(database="later").render_as_string(hide_password=False)
    environment = os.environ | {"YOSO_STORAGE": str(tmp_path), "YOSO_DATABASE_URL": url, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "service.cli", "migrate"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1 and told.stderr.startswith("the database does not answer"), told.stderr
    assert "Traceback" not in told.stderr
    with ExitStack() as stack:
        # Whoever waits for it gets it.
        later = postgres_database(postgres, name="later")
        monkeypatch.setattr(time, "sleep", lambda _: stack.enter_context(later))
        for _ in range(2):  # the second time changes nothing
            processes.migrate(Settings(str(tmp_path), url), wait=60)
        engine = connect(url)
        assert Searches(engine).page(10) == ([], None)
        engine.dispose()
