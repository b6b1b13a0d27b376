"""Searches that have ended can be deleted, by their users and by age; their folders go, whoever dies meanwhile."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from nas_core.errors import InvalidValue
from nas_core.storage import StorageUnavailable
from service.domain.retention import Kept, Retention
from service.settings import Settings
from service.store.searches import NotEnded
from tests import seeding
from tests.unit.service.test_dispatcher import Service

pytestmark = pytest.mark.usefixtures("at_once")


def test_a_search_that_has_ended_is_deleted_with_all_that_is_of_it(app: FastAPI, service: Service) -> None:
    seeds = seeding.seed(app)
    gone, folder = seeds["succeeded"], Path(seeding.parts(app).runs.path(seeds["succeeded"], "x")).parent
    deep = folder
    for _ in range(300):
        deep /= "deeper"
    deep.mkdir(parents=True)
    (folder / "outside").symlink_to(folder.parent)
    others = [path.name for path in folder.parent.iterdir() if path != folder]
    with seeding.serving(app) as url, httpx.Client(base_url=url) as http:
        for state in ("running", "queued"):
            refused = http.delete(f"/api/v1/searches/{seeds[state]}")
            assert refused.status_code == 409 and state in refused.text
        assert http.delete(f"/api/v1/searches/{gone}").json() == {"id": gone}
        for path in (f"/api/v1/searches/{gone}", f"/api/v1/architectures/{gone}-{seeding.BUDGETS[0]}"):
            assert http.get(path).status_code == 404
        assert http.delete(f"/api/v1/searches/{gone}").status_code == 404
        button = http.post(f"/searches/{seeds['cancelled']}/delete")
        assert button.status_code == 204 and button.headers["HX-Redirect"] == "/"
    assert folder.exists(), "a dispatcher removes it"
    service.dispatcher().turn()
    assert not folder.exists() and {*others} <= {path.name for path in folder.parent.iterdir()}
    assert service.dispatcher().work.deleted(0, 9) == []


def test_a_folder_that_cannot_be_removed_is_removed_later(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    service.searches.cancel(search_id)
    seeding.parts(service.app).runs.write(search_id, "logs/driver-0001.log", b"log")
    service.searches.delete(search_id)

    def away(search_id: str) -> None:
        raise StorageUnavailable(5, "the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(dispatcher.runs, "remove", away)
        dispatcher.turn()
        assert dispatcher.work.deleted(0, 9) == [search_id]
    service.dispatcher("another").turn()
    assert dispatcher.work.deleted(0, 9) == []
    assert not Path(seeding.parts(service.app).runs.path(search_id, "logs")).exists()


def test_what_finals_may_still_retrain_stays(app: FastAPI, service: Service) -> None:
    finals = service.searches.get(seeding.seed_finals(app))
    sources = [one["id"] for one in finals.spec["finals"]["of"]]
    with pytest.raises(NotEnded, match=finals.id):
        service.searches.delete(sources[0])
    service.set(finals.id, status="succeeded", lease_token=None)
    for search_id in [*sources, finals.id]:
        service.searches.delete(search_id)
    assert finals.sweep_id is not None
    with pytest.raises(LookupError):
        seeding.parts(app).sweeps.get(finals.sweep_id)


def test_what_is_older_than_it_is_kept_is_deleted(service: Service) -> None:
    old, new, waiting = (service.queue() for _ in range(3))
    for search_id in (old, new):
        service.searches.cancel(search_id)
    ended = service.searches.get(old).ended_at
    assert ended is not None
    service.set(old, ended_at=ended - 3 * 86400)
    dispatcher = service.dispatcher()
    dispatcher.turn()
    assert service.status(old) == "cancelled", "all is kept for ever unless it is asked for"
    dispatcher.retention = Retention(Kept(2.0))
    dispatcher.turn()
    with pytest.raises(LookupError):
        service.status(old)
    assert service.status(new) == "cancelled" and service.status(waiting) in ("launching", "waiting")


@pytest.mark.parametrize(
    ("name", "value"),
    [("YOSO_STORAGE", "memory://x"), ("YOSO_STORAGE", "s3:bucket")],
)
def test_a_setting_that_would_do_harm_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidValue, match=name):
        Settings.from_environment({"YOSO_DATABASE_URL": "sqlite:///x.db", name: value})


def test_a_ray_of_the_service_s_own_makes_no_folder_of_a_url() -> None:
    settings = Settings("s3://bucket/yoso", "sqlite:///x.db")
    assert settings.ray_folder.is_absolute() and "s3" not in str(settings.ray_folder)
