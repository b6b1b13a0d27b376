"""Writers to SQLite, which take turns."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service.store.database import KEEPALIVES, LIMITS, Turns, _write_ahead, connect, writing

WRITERS = 12


def test_threads_get_their_turn_in_the_order_in_which_they_ask() -> None:
    turns, order = Turns(), list[int]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        threads = [threading.Thread(target=take, args=(number,)) for number in range(WRITERS)]
        for number, thread in enumerate(threads):
            thread.start()
            give_up = time.monotonic() + 60
            while len(turns) <= number:
                assert time.monotonic() < give_up
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(WRITERS))
    with turns:  # which is free again
        pass


def test_a_writer_that_fails_gives_its_turn_on(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/yoso.db")
    for statement in (
        "CREATE TABLE notes (text TEXT)",
        "INSERT INTO nowhere VALUES (1)",
        "INSERT INTO notes VALUES ('')",
    ):
        try:
            with writing(engine) as session:
                session.execute(text(statement))
        except Exception:
            assert "nowhere" in statement
    with writing(engine) as session:
        assert session.execute(text("SELECT count(*) FROM notes")).scalar_one() == 1
    engine.dispose()


def test_no_writer_waits_for_the_databases_own_lock(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/yoso.db")
    with writing(engine) as session:
        session.execute(text("CREATE TABLE notes (text TEXT)"))
    began, inside = threading.Barrier(WRITERS), list[int]()

    def write() -> None:
        began.wait(60)
        for _ in range(20):
            with writing(engine) as session:
                inside.append(1)
                session.execute(text("INSERT INTO notes VALUES ('')"))
                assert inside == [1]  # alone, from before the transaction begins
                inside.pop()

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with writing(engine) as session:
        assert session.execute(text("SELECT count(*) FROM notes")).scalar_one() == WRITERS * 20
    engine.dispose()


def test_what_was_committed_to_a_file_outlives_a_power_cut(tmp_path: Path) -> None:
    """With less than FULL (2) the log is not on the disk when a commit returns."""
    engine = connect(f"sqlite:///{tmp_path}/yoso.db")
    with writing(engine) as session, engine.connect() as other:
        for connection in (session.connection(), other):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    engine.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_connection_to_postgresql_may_keep_others_waiting_for_long(database_url: str) -> None:
    engine = connect(database_url)
    with engine.connect() as connection:
        for name, seconds in LIMITS.items():
            value = text("SELECT setting::int FROM pg_settings WHERE name = :name")
            assert connection.execute(value, {"name": name}).scalar_one() == seconds * 1000
        driver: Any = connection.connection.driver_connection
        given = driver.info.get_parameters()
        assert {name: int(given[name]) for name in KEEPALIVES} == KEEPALIVES
    engine.dispose()


def test_a_new_file_that_another_is_writing_to_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "yoso.db", isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE numbers (number INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    written = threading.Timer(0.3, other.execute, ["COMMIT"])
    written.start()
    engine = connect(f"sqlite:///{tmp_path}/yoso.db")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    written.join()
    engine.dispose()
    other.close()


def test_a_file_that_cannot_be_written_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sqlite3.connect(tmp_path / "yoso.db")
    made.execute("CREATE TABLE numbers (number INTEGER)")
    made.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    connection = sqlite3.connect(f"file:{tmp_path}/yoso.db?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        _write_ahead(connection)
    connection.close()
