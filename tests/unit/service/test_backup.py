"""Backups: the same database again on either kind, all or nothing, and from yesterday into today's folders."""

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Text, cast, select, text
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import backup as backups
from service import cli
from service.app import create_app
from service.backup import FAR, LEFT_OUT, backup, restore
from service.domain.lifecycle import WITH_RAY
from service.settings import Settings
from service.store.database import connect, migrate, reading, revision_of, writing
from service.store.models import Base
from service.store.searches import Searches
from service.store.single import hold
from tests import seeding
from tests.postgres import postgres_database
from tests.unit.service.test_leases import Stage
from tests.unit.service.test_migrations import go, insert_first, revisions

NEWEST = revisions()[-1]


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[str]:
    """A second database, of the kind of the first, without tables."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/second.db"
        return
    with postgres_database(request.getfixturevalue("postgres")) as url:
        yield url


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that a database holds, as it is written there."""
    engine, found = connect(url), {}
    with reading(engine) as session:
        for table in Base.metadata.sorted_tables:
            columns = [cast(one, Text) if str(one.type) == "JSON" else one for one in table.columns]
            found[table.name] = sorted(map(tuple, session.execute(select(*columns))), key=repr)
    engine.dispose()
    return found


def revision(url: str) -> str | None:
    engine = connect(url)
    with engine.connect() as connection:
        found, _ = revision_of(connection)
    engine.dispose()
    return found


def yoso(settings: Settings, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """What a command prints as JSON, in the environment that these settings stand for."""
    monkeypatch.setenv("YOSO_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("YOSO_STORAGE", settings.storage)
    told = CliRunner().invoke(cli.app, [*words, "--json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def test_what_is_restored_is_what_was_there(
    app: FastAPI, bare_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From SQLite to PostgreSQL as well, and back."""
    seeding.seed_finals(app)
    seeding.seed(app)
    parts = seeding.parts(app)
    with writing(parts.searches.engine) as session:
        parts.projects.set("vision", {"weight": 2.5, "max_running": 3}, session)
    before, file = rows(parts.settings.database_url), tmp_path / "backup"
    if bare_url == parts.settings.database_url:
        bare_url = f"sqlite:///{tmp_path}/second.db"
    made = yoso(parts.settings, monkeypatch, "backup", str(file))
    assert made["rows"]["searches"] == len(before["searches"]) and file.stat().st_mode & 0o777 == 0o600
    there = Settings(parts.settings.storage, bare_url)
    done = yoso(there, monkeypatch, "restore", str(file))
    assert done["contents"] == made and done["missing"] == done["unknown"] == []
    after = rows(bare_url)
    assert [one[3] for one in after["audit"] if one not in before["audit"]] == ["restored"]
    held = {one.name for one in Base.metadata.sorted_tables} - {*LEFT_OUT, "audit", "searches"}
    assert {name: after[name] for name in held} == {name: before[name] for name in held}
    columns = [column.name for column in Base.metadata.tables["searches"].columns]
    for one, other in zip(before["searches"], after["searches"], strict=True):
        search, same = dict(zip(columns, one, strict=True)), dict(zip(columns, other, strict=True))
        if search["status"] in WITH_RAY:
            assert search["lease_token"] is not None
            search |= {"lease_owner": None, "lease_token": None, "lease_expires_at": None}
        assert same == search
    again = create_app(there, dispatch=False)
    last = max(one[0] for one in before["events"])
    seeding.parts(again).searches.cancel(seeding.queue(again))
    assert seeding.parts(again).searches.newest_seq() > last + FAR, "nobody takes a new event for one that was seen"
    seeding.parts(again).searches.engine.dispose()


def test_a_backup_shows_one_moment_while_the_service_goes_on(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeding.seed(app)
    settings, write = seeding.parts(app).settings, backups._write_table

    def meanwhile(*arguments: Any) -> int:
        count = write(*arguments)
        seeding.parts(app).searches.cancel(seeding.queue(app))
        return count

    before = rows(settings.database_url)
    monkeypatch.setattr(backups, "_write_table", meanwhile)
    made = backup(settings, "1", tmp_path / "backup")
    assert made.rows == {name: len(some) for name, some in before.items() if name not in LEFT_OUT}


def test_what_is_not_a_whole_backup_is_refused_and_changes_nothing(
    app: FastAPI, empty_url: str, tmp_path: Path
) -> None:
    seeding.seed(app)
    good, bad = tmp_path / "good", tmp_path / "bad"
    backup(seeding.parts(app).settings, "1", good)
    content, there = good.read_bytes(), Settings(str(tmp_path), empty_url)
    damaged = [content[: len(content) * part // 7] for part in range(7)]
    damaged += [content[:-1], gzip.compress(b"[1]\n"), b"PK", gzip.compress(gzip.decompress(content)[:-80])]
    for part in range(1, 20):
        at = len(content) * part // 20
        damaged.append(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    damaged.append(gzip.compress(gzip.decompress(content).replace(b'"succeeded"', b'"cancelled"', 1)))
    for one in damaged:
        bad.write_bytes(one)
        with pytest.raises(InvalidValue, match="not a complete backup"):
            restore(there, bad)
    assert revision(empty_url) is None
    with pytest.raises(FileNotFoundError):
        restore(there, tmp_path / "none")


def rewritten(path: Path, **head: Any) -> None:
    """Change the first line of a backup, as another release would have written it."""
    lines = list(backups._lines(path))
    with gzip.GzipFile(path, "wb") as file:
        out = backups._Lines(file)
        for line in [lines[0] | head, *lines[1:-1]]:
            out.write(line)
        out.end()


@pytest.mark.parametrize("head", [{"revision": "9999"}, {"version": 2}])
def test_a_backup_of_a_newer_release_is_refused_by_name(
    app: FastAPI, empty_url: str, tmp_path: Path, head: dict[str, Any]
) -> None:
    backup(seeding.parts(app).settings, "9.1", tmp_path / "backup")
    rewritten(tmp_path / "backup", **head)
    with pytest.raises(InvalidValue, match=r"newer release of Yoso, 9\.1 .*revision .* or older, or that release"):
        restore(Settings(str(tmp_path), empty_url), tmp_path / "backup")
    assert revision(empty_url) is None


def test_a_backup_of_an_older_release_is_brought_up_to_date(bare_url: str, tmp_path: Path) -> None:
    """The database too may have been brought up to date before, as long as nothing is in it."""
    old = connect(f"sqlite:///{tmp_path}/old.db")
    go(old, "0001")
    with old.execution_options(writes=True).connect() as connection, connection.begin():
        insert_first(connection, "waits", "queued", workers=4)
        insert_first(connection, "runs", "running", workers=1)
    old.dispose()
    made = backup(Settings(str(tmp_path), f"sqlite:///{tmp_path}/old.db"), "0.0.1", tmp_path / "backup")
    assert made.revision == "0001" and made.rows["searches"] == 2
    engine = connect(bare_url)
    migrate(engine)
    done = restore(Settings(str(tmp_path), bare_url), tmp_path / "backup")
    assert done.revision == revision(bare_url) == NEWEST
    assert Searches(engine).get("waits").rank == 1004.0 and Searches(engine).get("runs").lease_token is None
    engine.dispose()


def test_a_database_that_holds_something_or_is_served_is_refused(app: FastAPI, tmp_path: Path) -> None:
    settings = seeding.parts(app).settings
    seeding.queue(app)
    backup(settings, "1", tmp_path / "backup")
    before = rows(settings.database_url)
    with pytest.raises(InvalidValue, match=r"not empty: [a-z]+ has 1 rows"):
        restore(settings, tmp_path / "backup")
    assert rows(settings.database_url) == before
    if settings.database_url.startswith("sqlite"):
        with hold(settings.database_url), pytest.raises(InvalidValue, match="serves one process only"):
            restore(settings, tmp_path / "backup")


def test_there_is_no_backup_of_nothing_nor_over_another(app: FastAPI, empty_url: str, tmp_path: Path) -> None:
    settings = seeding.parts(app).settings
    (tmp_path / "backup").write_text("precious")
    with pytest.raises(InvalidValue, match="it exists"):
        backup(settings, "1", tmp_path / "backup")
    assert (tmp_path / "backup").read_text() == "precious"
    with pytest.raises(InvalidValue, match=r"there is no such file|the database is empty"):
        backup(Settings(str(tmp_path), empty_url), "1", tmp_path / "none")
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob("*.part"))


def test_yesterdays_database_goes_on_in_todays_folders(app: FastAPI, empty_url: str, tmp_path: Path) -> None:
    """Searches have gone on since, in every way: each ends, with all that its folder tells, and none is run again that
    has a result. One that ran then and was deleted since begins anew.
    """
    stage = Stage(app)
    dispatcher, searches, ray = stage.dispatcher(), stage.searches, stage.ray
    ids = {"deleted": seeding.queue(app)}
    seeding.Run(app, ids["deleted"]).succeed()
    ids |= {
        name: seeding.queue(app, name=name) for name in ("ran on", "failed", "runs again", "last", "cancelling", "gone")
    }

    def turn(*now: str) -> None:
        """Have a dispatcher do what it can, also with these, which would wait to be tried again."""
        for name in now:
            seeding.change(app, ids[name], not_before=0.0)
        for _ in range(3):
            dispatcher.turn()

    turn()
    ray.advance(3)
    seeding.change(app, ids["last"], last_attempt=1)
    searches.cancel(ids["cancelling"])
    turn()
    ids["queued"] = seeding.queue(app)
    states = {name: stage.status(search_id) for name, search_id in ids.items()}
    assert states.pop("cancelling") == "cancelling" and states.pop("queued") == "queued"
    assert states.pop("deleted") == "succeeded" and {*states.values()} == {"running"}
    backup(seeding.parts(app).settings, "1", tmp_path / "backup")

    ids["new"] = seeding.queue(app)
    searches.cancel(ids["gone"])
    for name in ("cancelling", "gone"):
        ray.end(ids[name], "STOPPED")
    for name in ("failed", "runs again", "last"):
        ray.end(ids[name], "FAILED")
    turn()
    searches.retry(ids["last"])
    turn("failed")
    ray.advance(10)
    turn()
    done = [name for name in ids if stage.status(ids[name]) == "succeeded"]
    assert {*done} == {*ids} - {"cancelling", "gone", "runs again"}
    searches.retry(ids["cancelling"])
    turn("runs again")
    ray.advance(3)
    turn()
    assert stage.status(ids["cancelling"]) == stage.status(ids["runs again"]) == "running"
    for name in ("deleted", "gone"):
        searches.delete(ids[name])
        shutil.rmtree(Path(stage.runs.path(ids[name], "")))

    there = Settings(stage.runs.storage, empty_url)
    restored = restore(there, tmp_path / "backup")
    assert (restored.missing, restored.unknown) == (sorted([ids["deleted"], ids["gone"]]), [ids["new"]])
    before = list(ray.submitted)
    for execution in ray.executions:
        execution.uncounted = not execution.released
    ray.stop_seconds = 0.0
    app = create_app(there, dispatch=False)
    after = Stage(app)
    after.ray = ray
    dispatcher = after.dispatcher()
    turn()
    for _ in range(4):
        ray.advance(5)
        turn("runs again", "gone")
    states = {name: after.status(search_id) for name, search_id in ids.items() if name != "new"}
    assert states.pop("cancelling") == "cancelled" and {*states.values()} == {"succeeded"}
    assert {*ray.submitted[len(before) :]} == {f"yoso-{ids['runs again']}-3", f"yoso-{ids['gone']}-2"}
    assert len(ray.submitted) == len(before) + 2
    for name, last in {"queued": 1, "ran on": 1, "failed": 2, "last": 2, "gone": 2, "runs again": 3}.items():
        told = [(one.data["attempt"], one.data["epoch"]) for one in after.searches.events(ids[name], kind="epoch")]
        assert len(told) == len({*told}) and told[-3:] == [(last, 1), (last, 2), (last, 3)]
        assert len(after.searches.architectures([ids[name]])[ids[name]]) == 2
    assert ray.violations == [] and ray.two_writers == 0 and not any(ray.in_use())
    for one in (stage, after):
        for client in one.clients:
            client.close()
    after.searches.engine.dispose()


def test_a_database_of_a_newer_release_is_left_alone(app: FastAPI, tmp_path: Path) -> None:
    settings, engine = seeding.parts(app).settings, seeding.parts(app).searches.engine
    backup(settings, "1", tmp_path / "backup")
    with engine.execution_options(writes=True).connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidValue, match="by a newer version of Yoso"):
        backup(settings, "1", tmp_path / "another")
    with pytest.raises(InvalidValue, match="by a newer version of Yoso"):
        restore(settings, tmp_path / "backup")
