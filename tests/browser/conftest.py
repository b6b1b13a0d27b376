"""The service whose pages a real browser shows."""

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
def url(app: FastAPI) -> Iterator[str]:
    """The service behind a real socket."""
    with seeding.serving(app) as address:
        yield address
