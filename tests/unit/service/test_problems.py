"""What the service answers when its database cannot do what it is asked, or a request has fields that there are not."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text

from tests import seeding

ASKED = {"dataset": "digits", "budgets": ["300k"], "name": "n" * 200}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return seeding.sqlite_url(tmp_path)


@contextmanager
def configured(app: FastAPI, pragma: str) -> Iterator[None]:
    """Every connection that the service takes from now on is configured so."""
    engine = seeding.parts(app).searches.engine

    def configure(connection: sqlite3.Connection, record: object, proxy: object) -> None:
        connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "checkout", configure)
    try:
        yield
    finally:
        event.remove(engine, "checkout", configure)
        engine.dispose()


def test_a_full_disk_is_a_matter_of_patience(app: FastAPI, url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as http:
        with configured(app, "max_page_count=1"):
            for _ in range(50):
                told = http.post("/api/v1/searches", json=ASKED)
                if told.status_code != 201:
                    break
            assert told.status_code == 503 and int(told.headers["retry-after"]) > 0, told.text
            assert told.headers["content-type"] == "application/problem+json"
            assert http.get("/api/v1/searches").status_code == 200, "reading needs no room"
        with configured(app, "max_page_count=1000000"):
            assert http.post("/api/v1/searches", json=ASKED).status_code == 201


def test_a_database_that_somebody_locks_is_a_matter_of_patience(app: FastAPI, url: str, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "yoso.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with httpx.Client(base_url=url, timeout=60) as http:
        with configured(app, "busy_timeout=1"):
            told = http.post("/api/v1/searches", json=ASKED)
            assert told.status_code == 503 and int(told.headers["retry-after"]) > 0
        other.execute("ROLLBACK")
        other.close()
        assert http.post("/api/v1/searches", json=ASKED).status_code == 201


def test_what_is_our_own_mistake_is_not_called_patience(app: FastAPI, url: str) -> None:
    with seeding.parts(app).searches.engine.begin() as connection:
        connection.execute(text("DROP TABLE events"))
    told = httpx.post(f"{url}/api/v1/searches", json=ASKED)
    assert told.status_code == 500 and "retry-after" not in told.headers
    assert told.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "body", "field", "meant"),
    [
        ("searches", {"dataset": "digits", "budget": ["300k"]}, "budget", "'budgets'"),
        ("searches", {"dataset": "digits", "space": {"chanels": 8}}, "space.chanels", "'channels'"),
        ("searches", {"dataset": "digits", "workers": {"min": 1, "max": 2, "most": 3}}, "workers.most", None),
        ("sweeps", {"search": {"dataset": "digits"}, "budgets": ["300k"], "grids": {}}, "grids", "'grid'"),
        ("tokens", {"name": "ci", "role": "read", "expire": "90d"}, "expire", "'expires'"),
    ],
)
def test_a_field_that_there_is_not_is_answered_with_those_that_there_are(
    url: str, path: str, body: dict[str, Any], field: str, meant: str | None
) -> None:
    refused = httpx.post(f"{url}/api/v1/{path}", json=body, timeout=60)
    errors = {one["field"].replace(".WorkerRange", ""): one for one in refused.json()["errors"]}
    assert refused.status_code == 422
    assert errors[field]["reason"] == "no such field" + (f"; did you mean {meant}?" if meant else "")
    assert errors[field]["accepted"].startswith("one of ")
