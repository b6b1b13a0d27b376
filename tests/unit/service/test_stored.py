"""What searches hold in the storage: measured when an attempt has ended, summed by project, and held to a quota."""

import os
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from nas_core.storage import StorageUnavailable
from service.dispatch.dispatcher import Dispatcher
from service.folders.runs import Runs
from tests import seeding
from tests.unit.service.test_dispatcher import Service, begin

pytestmark = pytest.mark.usefixtures("at_once")


def stored(app: FastAPI) -> dict[str, int]:
    return {one.share.project: one.stored for one in seeding.parts(app).projects.standings()}


def on_disk(service: Service, search_id: str) -> int:
    return sum(path.stat().st_size for path in service.folder(search_id).rglob("*") if path.is_file())


def test_what_a_search_holds_is_measured_when_its_attempt_has_ended(app: FastAPI, service: Service) -> None:
    search_id, dispatcher = service.queue(project="vision"), service.dispatcher()
    begin(service, search_id, dispatcher)
    assert stored(app) == {"vision": 0}, "while it runs nobody looks"
    service.result(search_id)
    (service.folder(search_id) / "attempts/0001/weights").write_bytes(bytes(10_000))
    service.ray.end(search_id, "SUCCEEDED")
    dispatcher.turn()
    assert service.status(search_id) == "succeeded"
    assert service.searches.get(search_id).stored == stored(app)["vision"] == on_disk(service, search_id) > 10_000
    (service.folder(search_id) / "more").write_bytes(bytes(10_000))
    dispatcher.turn()
    assert stored(app)["vision"] < 20_000, "it is not measured again"
    service.searches.delete(search_id)
    assert stored(app) == {"vision": 0}
    dispatcher.turn()
    assert not service.folder(search_id).exists()


def test_another_attempt_counts_when_it_has_ended_too(app: FastAPI, service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.ray.end(search_id, "FAILED")
    dispatcher.turn()
    first = on_disk(service, search_id)
    assert stored(app) == {"default": first} and service.status(search_id) == "queued"
    seen = service.searches.get(search_id)
    service.set(search_id, not_before=0.0)
    begin(service, search_id, dispatcher, attempt=2)
    (service.folder(search_id) / "attempts/0002/weights").write_bytes(bytes(10_000))
    dispatcher.turn()
    assert stored(app) == {"default": first}
    dispatcher.work.measured(seen, 5)
    assert stored(app) == {"default": first}, "a look that took too long tells nothing of the next attempt"
    service.ray.end(search_id, "FAILED", 2)
    dispatcher.turn()
    assert stored(app) == {"default": on_disk(service, search_id)}


def test_what_cannot_be_measured_now_is_measured_later(
    app: FastAPI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.searches.cancel(search_id)
    service.ray.end(search_id, "STOPPED")

    def away(search_id: str) -> int:
        raise StorageUnavailable(5, "the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(dispatcher.runs, "size", away)
        dispatcher.turn()
        assert service.status(search_id) == "cancelled" and stored(app) == {"default": 0}
    service.dispatcher("another").turn()
    assert stored(app) == {"default": on_disk(service, search_id)}


def test_a_size_is_that_of_plain_files_however_a_worker_hides_them(tmp_path: Path) -> None:
    runs, folder = Runs(str(tmp_path)), tmp_path / "searches/abc"
    assert runs.size("abc") == 0
    deep = folder / "attempts"
    deep.mkdir(parents=True)
    (deep / "odd name\udcff\n").mkdir()
    (deep / "odd name\udcff\n" / ".hidden").write_bytes(bytes(700))
    (tmp_path / "large").write_bytes(bytes(10_000))
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "large").symlink_to(tmp_path / "large")
    os.mkfifo(folder / "pipe")
    links = sum(path.lstat().st_size for path in (folder / "elsewhere", folder / "large"))
    assert runs.size("abc") == 700 + links
    before = os.getcwd()
    os.chdir(deep)
    try:
        for _ in range(2000):
            os.mkdir("deeper")
            os.chdir("deeper")
    finally:
        os.chdir(before)
    assert runs.size("abc") == 700 + links
    runs.remove("abc")


def test_a_project_that_holds_as_much_as_it_may_is_told_what_to_delete(app: FastAPI, service: Service) -> None:
    ids = [service.queue(project="vision") for _ in range(4)]
    dispatcher: Dispatcher = service.dispatcher()
    dispatcher.turn()
    for number, search_id in enumerate(ids):
        (service.folder(search_id) / "weights").write_bytes(bytes(1_000_000 * (number + 1)))
        service.searches.cancel(search_id)
        service.ray.end(search_id, "STOPPED")
    dispatcher.turn()
    asked = {"dataset": "digits", "budgets": ["300k"], "project": "vision"}
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        [shown] = http.get("/api/v1/projects").json()
        assert shown["stored"] == stored(app)["vision"] > 10_000_000 and shown["max_stored"] is None
        assert http.patch("/api/v1/projects/vision", json={"max_stored": 9_500_000}).json()["max_stored"] == 9_500_000
        refused = http.post("/api/v1/searches", json=asked)
        assert refused.status_code == 403 and refused.json()["title"] == "Over quota"
        [error] = refused.json()["errors"]
        assert (error["field"], error["value"]) == ("project", "vision")
        assert error["reason"] == "project vision holds 10 MB in the storage and may hold 9.5 MB"
        largest = ", ".join(f"{ids[number]} with {number + 1} MB" for number in (3, 2, 1))
        assert f"once searches that have ended are deleted (the largest: {largest})" in error["accepted"]
        swept = {"search": {"dataset": "digits"}, "budgets": ["300k"], "project": "vision"}
        assert http.post("/api/v1/sweeps", json=swept).status_code == 403
        assert http.post(f"/api/v1/searches/{ids[0]}/retry").status_code == 403
        assert http.post("/api/v1/searches", json=asked | {"project": "audio"}).status_code == 201
        page = http.get("/cluster").text
        assert "10 MB" in page and "of 9.5 MB" in page
        assert http.delete(f"/api/v1/searches/{ids[0]}").status_code == 200
        assert http.post("/api/v1/searches", json=asked).status_code == 201
        assert http.patch("/api/v1/projects/vision", json={"max_stored": -1}).status_code == 422
