"""Every revision with data in it, up and down, on both databases."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import cli
from service.domain.lifecycle import Status
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


def test_a_database_that_is_newer_than_the_code_is_refused_in_words(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(engine)
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for start in (migrate, prepare):
        with pytest.raises(
            InvalidValue, match=r"newer version of Yoso \(got 'revision 9999'; accepted: a database of revision"
        ):
            start(engine)
    monkeypatch.setenv("YOSO_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("YOSO_STORAGE", str(tmp_path))
    for command_ in (["serve"], ["dispatch"], ["migrate"], ["backup", str(tmp_path / "backup")]):
        told = CliRunner().invoke(cli.app, command_)
        assert told.exit_code == 2 and "newer version of Yoso" in " ".join(told.stderr.split()), told.output
        assert "Traceback" not in told.output and isinstance(told.exception, SystemExit)


def test_a_start_brings_up_to_date_what_is_empty_or_its_own_alone(engine: Engine) -> None:
    """A process of the version before may be using the same PostgreSQL, and would trip over new tables."""
    go(engine, revisions()[-2])
    if engine.dialect.name == "postgresql":
        with pytest.raises(InvalidValue, match=r"older than this version .*: run `yoso migrate` once"):
            prepare(engine)
        assert revision(engine) == revisions()[-2]
        go(engine, "base", up=False)
        with engine.execution_options(writes=True).connect() as connection, connection.begin():
            connection.execute(text("DROP TABLE alembic_version"))
    prepare(engine)
    assert revision(engine) == revisions()[-1]
    prepare(engine)


def revision(engine: Engine) -> str | None:
    """The revision that a database is at."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
