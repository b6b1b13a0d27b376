"""A service on SQLite or PostgreSQL, in the process and behind a socket, with searches in every state."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, make_url, text

from tests import seeding
from tests.postgres import postgres_database, postgres_server_in
from tests.ray_double import RayDouble, ray_double
from tests.unit.service.test_dispatcher import Service

MEMORY = 4 << 30
"""Bytes that must be free for several processes of tests with a server each."""


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is room in it, otherwise on the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < MEMORY:
        yield tmp_path_factory.mktemp("disk")
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="yoso-tests-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(memory: Path) -> Iterator[str]:
    """A real PostgreSQL server; its URL.

    A database is 350 files, which to make takes a disk's file system up to a quarter of a second of a core.
    """
    with postgres_server_in(memory / "postgres") as server:
        url = server.get_uri(driver="psycopg")
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            # No test pulls the plug, and waiting for the disk at every commit takes most of a test's time.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        admin.dispose()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with empty tables."""
    if request.param == "sqlite":
        return seeding.sqlite_url(tmp_path)
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/yoso.db"
        return
    with postgres_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture
def postgres_url(postgres: str, postgres_tables: str) -> Iterator[str]:
    """A database on PostgreSQL with empty tables."""
    with postgres_database(postgres, postgres_tables) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_tables(postgres: str) -> Iterator[str]:
    """The name of a database to be copied."""
    with postgres_database(postgres) as url:
        seeding.make_tables(url)
        yield str(make_url(url).database)


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[FastAPI]:
    """An empty service that launches nothing."""
    made = seeding.make_app(tmp_path, database_url)
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def seeds(app: FastAPI) -> dict[str, str]:
    """Searches in the states that pages show differently: ids by state."""
    return seeding.seed(app)


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """The service behind a real socket."""
    with seeding.serving(app) as address:
        yield address


@pytest.fixture
def ray() -> Iterator[RayDouble]:
    with ray_double() as double:
        yield double


@pytest.fixture
def service(app: FastAPI, ray: RayDouble) -> Iterator[Service]:
    made = Service(app, ray)
    yield made
    made.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are cleared as soon as they may be."""
    monkeypatch.setattr("service.dispatch.dispatcher.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("service.dispatch.dispatcher.CLEAR_SECONDS", 0.0)
