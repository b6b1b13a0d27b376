"""The last release and this one at the same time, on one PostgreSQL, one storage and one Ray."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import inspect

from service.store.database import connect
from tests.postgres import postgres_database
from tests.ray_double import RayDouble, ray_double
from tests.unit.service.test_processes import Yoso

LAST_RELEASE = Path(__file__).parent / "last_release.tar.xz"
"""The packages of the last release, which no clone need have the history for: until there is a release with a tag, of
54b3ff8, with which the changelog began. CONTRIBUTING.md says how it is made."""
TABLES = """
import json
from service.store.models import Base
print(json.dumps({name: table.columns.keys() for name, table in Base.metadata.tables.items()}))
"""


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last release's code."""
    folder = tmp_path_factory.mktemp("last-release")
    with tarfile.open(LAST_RELEASE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def yoso(tmp_path: Path, postgres: str) -> Iterator[Yoso]:
    with postgres_database(postgres) as url, ray_double(RayDouble(run_seconds=3)) as ray:
        made = Yoso(tmp_path, url, ray)
        yield made
        made.end()


@pytest.mark.slow
@pytest.mark.proof
def test_replicas_and_dispatchers_of_two_releases_share_their_work(yoso: Yoso, last: Path) -> None:
    assert yoso.start("migrate", code=last).wait(60) == 0
    with ExitStack() as stack:
        older = stack.enter_context(yoso.replica("--no-dispatch", code=last)[1])
        older_dispatcher = yoso.start("dispatch", code=last)
        before = yoso.launched(older)
        assert yoso.start("migrate").wait(60) == 0, "the older ones go on meanwhile"
        newer = stack.enter_context(yoso.replica("--no-dispatch")[1])

        def both_show_success(search_id: str) -> bool:
            yoso.ray.advance(1)
            pages = [client.http.get(f"/searches/{search_id}").status_code for client in (older, newer)]
            assert pages == [200, 200]
            return all(client.get(search_id)["status"] == "succeeded" for client in (older, newer))

        by_older = yoso.launched(newer)
        for search_id in (before, by_older):
            yoso.until(partial(both_show_success, search_id))

        handed_over = yoso.launched(newer)
        yoso.start("dispatch")
        older_dispatcher.terminate()
        assert older_dispatcher.wait(60) == 0
        by_newer = yoso.launched(older)
        for search_id in (handed_over, by_newer):
            yoso.until(partial(both_show_success, search_id))
        for client in (older, newer):
            assert [one["id"] for one in client.list()["items"]] == [by_newer, handed_over, by_older, before]
    assert yoso.ray.submitted == [f"yoso-{one}-1" for one in (before, by_older, handed_over, by_newer)]


def test_nothing_is_gone_that_the_last_release_uses(last: Path, postgres_url: str) -> None:
    """A migration that contracts belongs into the release after the one that no longer needs what it removes."""
    told = subprocess.run([sys.executable, "-c", TABLES], cwd=last, capture_output=True, text=True, check=True)
    engine = connect(postgres_url)
    seen = inspect(engine)
    there = {name: {column["name"] for column in seen.get_columns(name)} for name in seen.get_table_names()}
    engine.dispose()
    gone = {name: set(columns) - there.get(name, set()) for name, columns in json.loads(told.stdout).items()}
    assert not any(gone.values()), gone
