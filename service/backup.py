"""`yoso backup` and `yoso restore`: the database as one file, the same for SQLite and PostgreSQL.

A backup is JSON lines, compressed by gzip: a line that says what it is; for each table a line that names its columns,
and its rows behind it; the folders that the storage held; and the SHA-256 of all lines before. It is read in one
transaction, so it shows the database at one moment, while the service goes on. It holds no runs' files, and neither
browsers' sessions nor what was last seen of the cluster.

A restore fills an empty database, all or nothing, in the revision of the backup, and then migrates it: nobody uses it
yet. Folders may be further than it: searches that were with Ray lose their leases, so that a dispatcher takes them up
at once and goes on behind what it finds in their folders (`Dispatcher._catch_up`). Events are numbered far behind all
that anybody may have seen, for clients and MLflow's mirror go by these numbers.
"""

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from alembic import command

from nas_core.errors import InvalidValue
from service.domain.lifecycle import WITH_RAY
from service.folders.runs import Runs
from service.settings import Settings
from service.store.audit import Action
from service.store.database import connect, is_newer, migrations, rebuilding, revision_of, revisions, unlimited
from service.store.models import AuditEntry, Base, Event, Search, now
from service.store.single import hold

VERSION = 1
LEFT_OUT = ("cluster", "logins")
"""Tables of what is true for the moment, or of one browser."""
ROWS = 500
"""Rows that are in memory at a time."""
FAR = 10**9
"""By how much numbers go on behind the last one of a backup."""
WHOLE = "a complete file written by `yoso backup`"


@dataclass(frozen=True)
class Contents:
    """What a backup holds: by which release it was made and when, and how many rows of each table."""

    release: str
    revision: str
    made_at: str
    rows: dict[str, int]
    folders: int
    """How many searches had a folder in the storage."""


@dataclass(frozen=True)
class Restored:
    """What was restored, in which revision it is now, and how the storage differs from what the database knows."""

    contents: Contents
    revision: str
    missing: list[str]
    """Searches that had a folder when the backup was made, and have none now."""
    unknown: list[str]
    """Folders of searches that are not in the backup."""


def backup(settings: Settings, release: str, path: Path) -> Contents:
    """Write the database, and which folders the storage holds, to the file `path`, whole or not at all.

    Raises `InvalidValue` for a database that is empty or newer than this version, and where `path` exists.
    """
    if path.exists():
        raise InvalidValue("FILE", str(path), "it exists", "a new file")
    with _reading(settings) as connection, _new_file(path) as file, gzip.GzipFile("", "wb", fileobj=file) as packed:
        revision = _own(connection)
        if revision is None:
            raise InvalidValue("YOSO_DATABASE_URL", "…", "the database is empty", "one that Yoso has used")
        out = _Lines(packed)
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        out.write({"yoso": "backup", "version": VERSION, "release": release, "revision": revision, "made_at": made_at})
        rows = {name: _write_table(connection, out, name) for name in _tables(connection) if name not in LEFT_OUT}
        folders = Runs(settings.storage).folders()
        for some in _batches(folders):
            out.write({"folders": some})
        out.end()
    return Contents(release, revision, made_at, rows, len(folders))


def restore(settings: Settings, path: Path) -> Restored:
    """Fill the empty database of the settings from a backup, and bring it up to date.

    Raises `InvalidValue`, and changes nothing, for a file that is no whole backup, one of a newer version, and a
    database that is not empty.
    """
    _check(path)
    present = set(Runs(settings.storage).folders())
    with hold(settings.database_url):
        engine = connect(settings.database_url)
        try:
            with rebuilding(engine) as connection:
                head = next(_lines(path))
                _make_tables(connection, head)
                rows, folders = _load(connection, path)
                command.upgrade(migrations(connection), "head")
                _settle(connection, head)
                _, revision = revision_of(connection)
                known = set(connection.scalars(sa.select(Search.id)))
        finally:
            engine.dispose()
    contents = Contents(head["release"], head["revision"], head["made_at"], rows, len(folders))
    return Restored(contents, revision, sorted((folders & known) - present), sorted(present - known))


class _Lines:
    """JSON values written to a file, a line each, with the SHA-256 of all at the end."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, value: Any) -> None:
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        self.digest.update(line)
        self.file.write(line)

    def end(self) -> None:
        self.write({"sha256": self.digest.hexdigest()})


def _check(path: Path) -> None:
    """Raise `InvalidValue` unless the file is what `_Lines` wrote, to the last bit."""
    digest, last = hashlib.sha256(), b""
    try:
        with gzip.open(path) as file:
            for line in file:
                digest.update(last)
                last = line
        whole = json.loads(last)["sha256"] == digest.hexdigest()
    except (gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InvalidValue(
            "FILE", str(path), "not a complete backup: truncated, changed, or another kind of file", WHOLE
        )


def _lines(path: Path) -> Iterator[Any]:
    """The values that `_Lines` wrote."""
    with gzip.open(path) as file:
        yield from map(json.loads, file)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for its owner alone, that is there when all is written, and on the disk."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except BaseException:
        part.unlink()
        raise


@contextmanager
def _reading(settings: Settings) -> Iterator[sa.Connection]:
    """A transaction that sees the database as it is at its beginning, however long it lasts."""
    file = settings.database_url.removeprefix("sqlite:///")
    if file != settings.database_url and not Path(file).exists():
        raise InvalidValue("YOSO_DATABASE_URL", settings.database_url, "there is no such file", "an existing database")
    engine = connect(settings.database_url)
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with engine.connect() as connection, connection.begin():
            unlimited(connection)
            yield connection
    finally:
        engine.dispose()


def _own(connection: sa.Connection) -> str | None:
    """The database's revision. Raises `InvalidValue` where it is newer: there would be tables that are not known."""
    revision, newest = revision_of(connection)
    if is_newer(revision):
        told = "the database was upgraded by a newer version of Yoso, whose tables this one does not know"
        accepted = f"a database of revision {newest} or older, or that newer version"
        raise InvalidValue("YOSO_DATABASE_URL", f"revision {revision}", told, accepted)
    return revision


def _tables(connection: sa.Connection) -> list[str]:
    """Yoso's tables that the database has, each behind those that it refers to."""
    there = set(sa.inspect(connection).get_table_names())
    return [one.name for one in Base.metadata.sorted_tables if one.name in there]


def _write_table(connection: sa.Connection, out: _Lines, name: str) -> int:
    """Write a table as it is in the database's own revision, JSON as the text that it is; returns its rows."""
    found = sa.MetaData()
    found.reflect(connection, only=[name])
    columns = found.tables[name].columns
    out.write({"table": name, "columns": columns.keys()})
    shown = [sa.cast(one, sa.Text) if isinstance(one.type, sa.JSON) else one for one in columns]
    streamed = {"stream_results": True, "yield_per": ROWS}
    count = 0
    for row in connection.execute(sa.select(*shown), execution_options=streamed):
        out.write(list(row))
        count += 1
    return count


def _make_tables(connection: sa.Connection, head: dict[str, Any]) -> None:
    """Make the empty tables of a backup, in place of those of any revision.

    Raises `InvalidValue` where these hold something, and for a backup of a newer version.
    """
    before = _own(connection)
    if head["version"] > VERSION or is_newer(head["revision"]):
        told = f"made by a newer release of Yoso, {head['release']}"
        accepted = f"a backup of database revision {revisions()[0]} or older, or that release"
        raise InvalidValue("FILE", f"revision {head['revision']}", told, accepted)
    for name in _tables(connection):
        if name not in LEFT_OUT and (rows := connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name)))):
            told = f"the database is not empty: {name} has {rows:,} rows"
            raise InvalidValue("YOSO_DATABASE_URL", connection.engine.url.render_as_string(), told, "an empty database")
    if before is not None:
        command.downgrade(migrations(connection), "base")
    command.upgrade(migrations(connection), head["revision"])


def _load(connection: sa.Connection, path: Path) -> tuple[dict[str, int], set[str]]:
    """Insert all rows of a backup; returns how many there are of each table, and the folders that there were."""
    count, folders = dict[str, int](), set[str]()
    name, columns, some = "", list[str](), list[dict[str, Any]]()
    for line in _lines(path):
        is_row = isinstance(line, list)
        if is_row:
            some.append(dict(zip(columns, line, strict=True)))
        if some and (len(some) == ROWS or not is_row):
            # Without types: each database takes texts as the JSON that its columns hold.
            connection.execute(sa.insert(sa.table(name, *map(sa.column, columns))), some)
            count[name] += len(some)
            some = []
        if is_row:
            continue
        if "table" in line:
            name, columns = line["table"], line["columns"]
            count[name] = 0
        elif "folders" in line:
            folders.update(line["folders"])
    return count, folders


def _settle(connection: sa.Connection, head: dict[str, Any]) -> None:
    """Have dispatchers take up at once what was with Ray, number on far behind, and note it in the audit log."""
    nobody = {"lease_owner": None, "lease_token": None, "lease_expires_at": None}
    connection.execute(sa.update(Search).where(Search.status.in_(WITH_RAY)).values(nobody))
    for key in (Event.seq, AuditEntry.id):
        name = key.class_.__tablename__
        last = FAR + (connection.scalar(sa.select(sa.func.max(key))) or 0)
        if connection.dialect.name == "postgresql":
            sequence = sa.func.pg_get_serial_sequence(name, key.key)
            connection.execute(sa.select(sa.func.setval(sequence, last)))
        else:
            connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
            values = {"name": name, "last": last}
            connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
    data = {key: head[key] for key in ("release", "revision", "made_at")}
    connection.execute(sa.insert(AuditEntry).values(time=now(), action=Action.RESTORED, data=data))


def _batches(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values, some at a time."""
    left = iter(values)
    while some := list(islice(left, ROWS)):
        yield some
