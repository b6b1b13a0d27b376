"""Every revision with data in it, up and down, on both databases."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import cli, doctor
from service.doctor import State
from service.domain.lifecycle import Status
from service.settings import Settings
from service.store import database
from service.store.database import connect, migrate, prepare
from service.store.models import Base
from service.store.searches import Searches
from service.store.work import Work
from tests.seeding import LARGE


@pytest.fixture
def engine(bare_url: str) -> Iterator[Engine]:
    """An empty database."""
    made = connect(bare_url)
    yield made
    made.dispose()


def go(engine: Engine, revision: str, up: bool = True) -> None:
    """Migrate to a revision."""
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        config = database.migrations(connection)
        (command.upgrade if up else command.downgrade)(config, revision)


def revisions() -> list[str]:
    """All revisions, the oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    return config


def insert_first(connection: Connection, search_id: str, status: str, workers: int) -> None:
    """A search as the first revision knew it."""
    values: dict[str, Any] = {
        "id": search_id,
        "project": "vision",
        "name": "old",
        "dataset": "digits",
        "request": json.dumps({"dataset": "digits"}),
        "spec": json.dumps({"workers": workers, "budgets": [300000]}),
        "cpus": 2 * workers,
        "gpus": 0,
        "supernet_multiply_adds": 2_114_880,
        "status": status,
        "progress": 0.5,
        "attempt": 0 if status == "queued" else 1,
        "not_before": 0.0,
        "journal_cursor": "",
        "created_at": 1000.0 + workers,
        "lease_owner": "before" if status == "running" else None,
    }
    names = ", ".join(values)
    given = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO searches ({names}) VALUES ({given})"), values)
    connection.execute(
        text("INSERT INTO events (search_id, time, kind, data) VALUES (:id, 1.0, 'status', '{}')"), {"id": search_id}
    )


def test_data_of_the_first_revision_is_carried_up_worked_with_and_carried_down(engine: Engine) -> None:
    go(engine, "0001")
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        insert_first(connection, "waits", "queued", workers=4)
        insert_first(connection, "runs", "running", workers=1)
        insert_first(connection, "done", "succeeded", workers=2)
    migrate(engine)
    searches, work = Searches(engine), Work(engine)
    waits = searches.get("waits")
    assert (waits.workers, waits.accelerators, waits.rank, waits.priority) == (4, 1.0, 1004.0, 0)
    assert (waits.min_workers, waits.accelerator_type) == (4, None), "it takes all or none"
    claimed = {search.id: search for search in (*work.take_over("now"), *work.claim("now", LARGE))}
    assert {search_id: search.status for search_id, search in claimed.items()} == {
        "waits": "launching",
        "runs": "running",
    }
    work.move("runs", claimed["runs"].lease_token or "", Status.QUEUED, not_before=0.0)
    assert [(one.number, one.owner, one.outcome) for one in searches.attempts("runs")] == [(1, "before", "queued")]
    for revision in reversed(revisions()[:-1]):
        go(engine, revision, up=False)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT id, status, name FROM searches ORDER BY id")).all()
        assert [tuple(row) for row in kept] == [
            ("done", "succeeded", "old"),
            ("runs", "queued", "old"),
            ("waits", "launching", "old"),
        ]
        assert connection.execute(text("SELECT count(*) FROM events")).scalar_one() >= 3
    migrate(engine)
    assert searches.get("waits").workers == 4


def test_the_migrations_make_the_tables_that_the_code_expects_and_leave_none(engine: Engine) -> None:
    migrate(engine)
    seen = inspect(engine)
    assert set(seen.get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    for name, table in Base.metadata.tables.items():
        assert {column["name"] for column in seen.get_columns(name)} == set(table.columns.keys())
        nullable = {column["name"] for column in seen.get_columns(name) if column["nullable"]}
        assert nullable == {column.name for column in table.columns if column.nullable}
        assert {index["name"] for index in seen.get_indexes(name)} == {index.name for index in table.indexes}
    go(engine, "base", up=False)
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}


def test_several_that_migrate_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    errors: list[BaseException] = []

    def one() -> None:
        own = connect(engine.url.render_as_string(hide_password=False))
        try:
            migrate(own)
        except BaseException as error:
            errors.append(error)
        finally:
            own.dispose()

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert revision(engine) == revisions()[-1]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM searches")).scalar_one() == 0


def name_revision(engine: Engine, name: str) -> None:
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = :name"), {"name": name})


@pytest.mark.parametrize("newer", ["9999", "9999_9998"])
def test_a_database_that_is_newer_than_the_code_is_refused_in_words(
    newer: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(engine)
    name_revision(engine, newer)
    for start in (migrate, prepare):
        with pytest.raises(
            InvalidValue, match=rf"newer version of Yoso \(got 'revision {newer}'; accepted: a database of revision"
        ):
            start(engine)
    monkeypatch.setenv("YOSO_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("YOSO_STORAGE", str(tmp_path))
    for command_ in (["serve"], ["dispatch"], ["migrate"], ["backup", str(tmp_path / "backup")]):
        told = CliRunner().invoke(cli.app, command_)
        assert told.exit_code == 2 and "newer version of Yoso" in " ".join(told.stderr.split()), told.output
        assert "Traceback" not in told.output and isinstance(told.exception, SystemExit)


def test_a_database_that_is_newer_and_still_for_this_code_is_used_with_a_warning(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica of the release before starts anew after the migration, or somebody goes back to that release."""
    migrate(engine)
    newer = f"9999_{revisions()[-1].partition('_')[0]}"
    name_revision(engine, newer)
    for start in (migrate, prepare):
        caplog.clear()
        start(engine)
        assert f"upgraded the database to revision {newer}; this version needs {revisions()[-1]}" in caplog.text
    assert revision(engine) == newer
    settings = Settings(str(tmp_path), engine.url.render_as_string(hide_password=False))
    (found, *_) = doctor.database(settings)
    assert found.state is State.UNSURE and f"revision {newer} of a newer version" in found.told
    monkeypatch.setenv("YOSO_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("YOSO_STORAGE", str(tmp_path))
    told = CliRunner().invoke(cli.app, ["backup", str(tmp_path / "backup")])
    assert told.exit_code == 2 and "whose tables this one does not know" in " ".join(told.stderr.split())
    assert not (tmp_path / "backup").exists(), "half a backup would be taken for a whole one"


def test_a_start_brings_up_to_date_what_is_its_own_alone(engine: Engine) -> None:
    """A process of the version before may be using the same PostgreSQL, and somebody decides when to migrate it."""
    if engine.dialect.name == "postgresql":
        with pytest.raises(InvalidValue, match=r"the database is empty .*: run `yoso migrate` once"):
            prepare(engine)
        assert inspect(engine).get_table_names() == []
    go(engine, revisions()[-2])
    if engine.dialect.name == "postgresql":
        with pytest.raises(InvalidValue, match=r"older than this version .*: run `yoso migrate` once"):
            prepare(engine)
        assert revision(engine) == revisions()[-2]
        migrate(engine)
    prepare(engine)
    assert revision(engine) == revisions()[-1]
    prepare(engine)


class Shape(NamedTuple):
    """What code can rely on, and what it must obey, of a database."""

    tables: frozenset[str]
    columns: dict[tuple[str, str], tuple[str, bool, bool]]
    """Of each table and column the type, whether it may be NULL, and whether INSERTs may leave it out."""
    rules: frozenset[tuple[str, str]]
    """Of each table its unique indexes, foreign keys and checks, as text."""

    @classmethod
    def of(cls, engine: Engine) -> "Shape":
        """That of a database at this moment."""
        seen = inspect(engine)
        tables = [name for name in seen.get_table_names() if name != "alembic_version"]
        columns = {
            (table, one["name"]): (
                str(one["type"]),
                one["nullable"],
                one["nullable"] or one["default"] is not None or bool(one.get("autoincrement") is True),
            )
            for table in tables
            for one in seen.get_columns(table)
        }
        rules = {(table, str(one)) for table in tables for one in seen.get_indexes(table) if one["unique"]}
        for found in (seen.get_unique_constraints, seen.get_foreign_keys, seen.get_check_constraints):
            rules |= {(table, str(one)) for table in tables for one in found(table)}
        return cls(frozenset(tables), columns, frozenset(rules))


def taken_away(before: Shape, after: Shape) -> list[str]:
    """What code that was written for `before` trips over in `after`."""
    told = [f"the table {name} is gone" for name in sorted(before.tables - after.tables)]
    for (table, name), (kind, nullable, optional) in sorted(before.columns.items()):
        now = after.columns.get((table, name))
        if table not in after.tables:
            continue
        if now is None:
            told.append(f"{table}.{name} is gone")
        elif now[0] != kind:
            told.append(f"{table}.{name} was {kind} and is {now[0]}")
        elif nullable != now[1] or (optional and not now[2]):
            told.append(f"{table}.{name} has another rule for NULL, or lost its default")
    for (table, name), (_, _, optional) in sorted(after.columns.items()):
        if table in before.tables and (table, name) not in before.columns and not optional:
            told.append(f"{table}.{name} is new and must be given")
    told += [
        f"{table} has a new rule: {rule}"
        for table, rule in sorted(after.rules - before.rules)
        if table in before.tables
    ]
    return told


LAST_WITH_ONE_NUMBER = "0019"


def test_a_migration_says_from_which_revision_on_code_can_use_what_it_makes(engine: Engine) -> None:
    """Expand and contract, as CONTRIBUTING.md says: what takes away is for no version that does not know it.

    Replicas of the release before go on beside the new ones, on the tables that are migrated already.
    """
    oldest = LAST_WITH_ONE_NUMBER
    for one in revisions():
        before = Shape.of(engine)
        go(engine, one)
        lost = taken_away(before, Shape.of(engine))
        number, _, named = one.partition("_")
        if number <= LAST_WITH_ONE_NUMBER:
            assert one == number and not lost
            continue
        if lost:
            assert named == number, f"{one} takes away, so it must be {number}_{number} (contract): {lost}"
        assert named in (oldest, number), f"{one} must be {number}_{oldest} (expand) or {number}_{number} (contract)"
        oldest = named


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ("DROP TABLE deletions", ["the table deletions is gone"]),
        ("ALTER TABLE searches DROP COLUMN reason", ["searches.reason is gone"]),
        ("ALTER TABLE searches RENAME COLUMN reason TO why", ["searches.reason is gone"]),
        ("ALTER TABLE searches ADD COLUMN why TEXT NOT NULL DEFAULT ''", []),
        ("CREATE TABLE more (name TEXT NOT NULL)", []),
        ("CREATE INDEX by_name ON searches (name)", []),
        ("CREATE UNIQUE INDEX by_name ON searches (name)", ["searches has a new rule"]),
        ("ALTER TABLE searches ALTER COLUMN reason SET NOT NULL", ["searches.reason has another rule for NULL"]),
        ("ALTER TABLE searches ALTER COLUMN reason TYPE VARCHAR(9)", ["searches.reason was TEXT and is VARCHAR(9)"]),
        ("ALTER TABLE searches ALTER COLUMN kind DROP DEFAULT", ["searches.kind has another rule for NULL, or lost"]),
        ("ALTER TABLE searches ADD COLUMN why TEXT NOT NULL", ["searches.why is new and must be given"]),
    ],
)
def test_what_a_migration_takes_away_is_seen(change: str, lost: list[str], engine: Engine) -> None:
    if engine.dialect.name == "sqlite" and ("ALTER COLUMN" in change or change.endswith("why TEXT NOT NULL")):
        change, lost = "SELECT 1", []  # SQLite cannot do it
    migrate(engine)
    before = Shape.of(engine)
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        connection.execute(text(change))
    found = taken_away(before, Shape.of(engine))
    assert len(found) == len(lost) and all(map(str.startswith, found, lost)), found


def revision(engine: Engine) -> str | None:
    """The revision that a database is at."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
