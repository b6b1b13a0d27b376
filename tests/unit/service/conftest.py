"""A service on SQLite, in the process and behind a socket, with searches in every state."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from tests import seeding


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    """An empty service that launches nothing."""
    made = seeding.make_app(tmp_path)
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
