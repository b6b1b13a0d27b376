"""Life and readiness, told truly: of the database, of the dispatchers, and of Ray."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, text

from service.api import health
from service.app import create_app
from service.dispatch.process import STUCK_SECONDS
from service.settings import Settings
from service.store.database import revisions, writing
from tests import seeding

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'away'"


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_a_replica_is_ready_when_a_dispatcher_has_lately_found_ray_well(
    app: FastAPI, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = http.get("/readyz")
    assert told.status_code == 503 and told.json()["dispatcher"] == "none has reported yet"
    seeding.report(app)
    assert http.get("/readyz").json() == {"status": "ready"}
    seeding.report(app, error="Ray does not answer")
    told = http.get("/readyz")
    assert told.status_code == 503 and told.json()["ray"] == "Ray does not answer"
    seeding.report(app, cpus=0)
    told = http.get("/readyz")
    assert told.status_code == 503 and told.json()["ray"] == "it has no CPUs yet"
    asked = http.post("/api/v1/searches", json={"dataset": "digits", "budgets": ["300k"]})
    assert asked.status_code == 201, "workers may still come"
    seeding.report(app)
    monkeypatch.setattr(health, "REPORT_SECONDS", -1.0)
    told = http.get("/readyz")
    assert told.status_code == 503 and "none has reported for" in told.json()["dispatcher"]


def test_a_replica_whose_tables_a_newer_release_has_taken_away_is_not_ready(app: FastAPI, http: httpx.Client) -> None:
    seeding.report(app)
    engine = seeding.parts(app).searches.engine
    newest = revisions()[0].partition("_")[0]
    for revision, status in ((f"9999_{newest}", 200), ("9999_9999", 503)):
        with writing(engine) as session:
            session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        told = http.get("/readyz")
        assert told.status_code == status and ("newer version" in told.json().get("database", "")) is (status == 503)


def test_a_service_that_stops_is_alive_and_not_ready(app: FastAPI, http: httpx.Client) -> None:
    seeding.report(app)
    seeding.parts(app).stopping.set()
    told = http.get("/readyz")
    assert told.status_code == 503 and told.json()["service"] == "stopping"
    assert http.get("/healthz").json() == {"status": "alive"}


def test_without_its_database_a_replica_is_alive_not_ready_and_asks_for_patience(
    tmp_path: Path, postgres: str, postgres_tables: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE away TEMPLATE {postgres_tables}"))
    app = seeding.make_app(tmp_path, postgres.replace("/postgres?", "/away?"))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        seeding.report(app)
        assert client.get("/readyz").status_code == 200
        path = f"/api/v1/searches/{seeding.queue(app)}/events"
        with ExitStack() as stack:
            lines = [stack.enter_context(client.stream("GET", url)).iter_lines() for url in (path, "/live/searches")]
            assert all(next(some) for some in lines)
            with admin.connect() as connection:
                connection.execute(text("ALTER DATABASE away ALLOW_CONNECTIONS false"))
                connection.execute(text(TERMINATE))
            assert [list(some)[-2:] for some in lines] == [["retry: 2000", ""]] * 2
        assert "Traceback" not in caplog.text
        with admin.connect() as connection:
            connection.execute(text(TERMINATE))
        told = client.get("/readyz")
        assert told.status_code == 503 and told.json()["database"] == "OperationalError"
        assert client.get("/healthz").status_code == 200
        for asked in (
            client.get("/api/v1/searches"),
            client.post("/api/v1/searches", json={"dataset": "digits", "budgets": ["300k"]}),
        ):
            assert asked.status_code == 503 and int(asked.headers["retry-after"]) > 0
            assert asked.headers["content-type"] == "application/problem+json"
        with admin.connect() as connection:
            connection.execute(text("ALTER DATABASE away ALLOW_CONNECTIONS true"))
        assert client.get("/readyz").status_code == 200
        assert client.post("/api/v1/searches", json={"dataset": "digits", "budgets": ["300k"]}).status_code == 201
    seeding.parts(app).searches.engine.dispose()
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE away WITH (FORCE)"))
    admin.dispose()


def test_a_process_whose_dispatcher_is_stuck_is_not_alive(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path), f"sqlite:///{tmp_path}/yoso.db", ray_address="http://127.0.0.1:1")
    app = create_app(settings)
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        dispatching = app.state.dispatching
        assert dispatching.drain()
        dispatching.dispatcher.last_turn = time.monotonic() - STUCK_SECONDS - 1
        told = client.get("/healthz")
        assert told.status_code == 503 and told.json() == {"status": "stuck"}
