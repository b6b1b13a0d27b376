"""Connections, transactions and migrations, on SQLite and PostgreSQL."""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session

from nas_core.errors import InvalidValue

log = logging.getLogger(__name__)
BUSY_SECONDS = 30
CONNECT_SECONDS = 5
FRESH_SECONDS = 1.0
"""How old what nearly every request asks for, and others change, may be."""
LIMITS: dict[str, float] = {"statement_timeout": 30, "lock_timeout": 5, "idle_in_transaction_session_timeout": 10}
"""Seconds after which PostgreSQL gives up a statement, a wait for a lock, and a transaction whose client is silent: so
nobody who sleeps, or has lost power, keeps what others wait for."""
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""After how long a connection whose other end is gone is given up (libpq's names; the last in milliseconds)."""
MIGRATIONS = Path(__file__).parent / "migrations"
GOES_ON = (
    "a newer version of Yoso upgraded the database to revision %s; this version needs %s and can still use it, but "
    "should be replaced"
)
_MIGRATION_LOCK = 7_364_201_811
"""The key of the advisory lock under which PostgreSQL is migrated; any number that nobody else uses."""


class Turns:
    """A lock that threads get in the order in which they ask for it.

    Writers to SQLite take it, which is for one process: waiting for the database's own lock is asking again and again,
    and where many do so, one can ask for half a minute and never be lucky.
    """

    def __init__(self) -> None:
        self.taken = False
        self._waiting: deque[threading.Lock] = deque()
        self._guard = threading.Lock()

    def __len__(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def __enter__(self) -> None:
        turn = threading.Lock()
        with self._guard:
            if not self.taken:
                self.taken = True
                return
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()  # released by whoever is before

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self.taken = False


def connect(url: str) -> Engine:
    """An engine for `url`. Raises `InvalidValue` for a database that is neither SQLite nor PostgreSQL."""
    try:
        parsed = make_url(url)
    except Exception as error:
        raise InvalidValue(
            "YOSO_DATABASE_URL", "…", "not a database URL", "sqlite:///PATH or postgresql://…"
        ) from error
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        waits = {"connect_timeout": CONNECT_SECONDS} | KEEPALIVES
        pool: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 10, "max_overflow": 20}
        engine = create_engine(parsed, **pool, connect_args=waits, hide_parameters=True)
        event.listen(engine, "connect", _limit)
        return engine
    if parsed.get_backend_name() != "sqlite":
        raise InvalidValue(
            "YOSO_DATABASE_URL", parsed.drivername, "no such database here", "sqlite:///PATH or postgresql://…"
        )
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed,
        connect_args={"timeout": BUSY_SECONDS},
        execution_options={"turns": Turns()},
        hide_parameters=True,  # errors are logged, and webhooks' secrets are among what is written
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy says BEGIN itself, below
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that will write takes the lock at once: one that began by reading could only fail later.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _limit(connection: Any, record: Any) -> None:
    """Tell PostgreSQL how long a connection may keep others waiting."""
    before, connection.autocommit = connection.autocommit, True
    with connection.cursor() as cursor:
        cursor.execute("; ".join(f"SET {name} = '{seconds}s'" for name, seconds in LIMITS.items()))
    connection.autocommit = before


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have SQLite log ahead. It does not wait by itself for one that is writing to a new file just now."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte; the rest says why
            if not busy or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that only reads.

    On PostgreSQL each statement sees what is committed by then, as it would in a transaction of its default level;
    without one there is nothing to begin and to roll back, which halves the exchanges of most readings.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session whose changes are committed together at its end, or not at all."""
    turn = engine.get_execution_options().get("turns", nullcontext())
    with turn, Session(engine.execution_options(writes=True), expire_on_commit=False) as session, session.begin():
        yield session


def insert(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say ON CONFLICT, in the session's dialect."""
    return (postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert)(table)


def migrations(connection: Connection) -> Config:
    """Alembic's configuration for the database behind `connection`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> None:
    """Bring the tables up to date; several processes may call this at once.

    A database that a newer version has brought up to its own date stays as it is. Raises `InvalidValue` where this
    version cannot use it.
    """
    with rebuilding(engine) as connection:
        revision, newest = revision_of(connection)
        if is_newer(revision):
            log.warning(GOES_ON, revision, newest)
        else:
            command.upgrade(migrations(connection), "head")


@contextmanager
def rebuilding(engine: Engine) -> Iterator[Connection]:
    """A transaction in which tables may be changed: nobody else does meanwhile, and it may take as long as it takes."""
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        unlimited(connection)
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        yield connection


def unlimited(connection: Connection) -> None:
    """Let a connection's transaction, and each of its statements, take as long as it takes."""
    if connection.dialect.name == "postgresql":
        for name in LIMITS:
            connection.execute(text(f"SET LOCAL {name} = 0"))


def prepare(engine: Engine) -> None:
    """Make the database usable for a process that starts.

    One in a file, which is for one process, is set up and brought up to date. PostgreSQL is left to `yoso migrate`:
    replicas of the version before may be using it. Raises `InvalidValue` where it is empty or older than this version,
    or newer and no longer for it, and then leaves no connection open.
    """
    try:
        # On PostgreSQL without a transaction, which would be ended where this process sleeps in it.
        with reading(engine) as session:
            revision, newest = revision_of(session.connection())
    except InvalidValue:
        engine.dispose()
        raise
    if revision == newest:
        return
    if is_newer(revision):
        log.warning(GOES_ON, revision, newest)
        return
    if engine.dialect.name == "postgresql":
        found = "no tables" if revision is None else f"revision {revision}"
        told = "the database is empty" if revision is None else "the database is older than this version"
        engine.dispose()
        raise InvalidValue("YOSO_DATABASE_URL", found, told, f"{newest}: run `yoso migrate` once")
    migrate(engine)


def revision_of(connection: Connection) -> tuple[str | None, str]:
    """The revision of the database, None where it is empty, and the one that this version needs.

    The former may be newer than the latter. Raises `InvalidValue` where this version cannot use what a newer one has
    made of the database.
    """
    newest = revisions()[0]
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and oldest_for(revision) not in {one.partition("_")[0] for one in revisions()}:
        raise InvalidValue(
            "YOSO_DATABASE_URL",
            f"revision {revision}",
            "the database was upgraded by a newer version of Yoso",
            f"a database of revision {newest} or older, or that newer version",
        )
    return revision, newest


def is_newer(revision: str | None) -> bool:
    """Whether this version does not have that revision, so that a newer one must have made it."""
    return revision is not None and revision not in revisions()


def oldest_for(revision: str) -> str:
    """The number of the oldest revision whose version can use a database of this one: 0019 of 0021_0019.

    So a version tells whether it can use what it does not know, of which the database holds no more than the name. Of
    0021 it is 0021: only versions that know it can.
    """
    return revision.rpartition("_")[2]


@cache
def revisions() -> tuple[str, ...]:
    """The revisions that this version has, the newest first; their files are read once."""
    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database is gone, full or busy, and not that we asked for nonsense."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # SQLite calls a missing table an operational error as well.
    nonsense = getattr(getattr(error, "orig", None), "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return isinstance(error, (OperationalError, InterfaceError)) and not nonsense
