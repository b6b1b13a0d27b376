"""A worker that leaves in its run's folder whatever it likes: its own search fails, and it gets nothing for it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from nas_core.files import FILES
from service.dispatch.dispatcher import Dispatcher
from service.folders.model import MOST_LINES, clean
from service.folders.runs import of_attempt
from tests import hostile, seeding
from tests.hostile import SECRET, Victim
from tests.ray_double import RayDouble
from tests.unit.service.test_dispatcher import Service, begin


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path)
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def service(lite: FastAPI, ray: RayDouble) -> Iterator[Service]:
    made = Service(lite, ray)
    yield made
    made.close()


def victim(service: Service, search_id: str, tmp_path: Path) -> Victim:
    """A run whose network is found, and a secret beside the storage."""
    folder = Path(seeding.parts(service.app).runs.path(search_id, "journal")).parent
    own = folder / of_attempt(1, "").rstrip("/")
    own.mkdir(parents=True, exist_ok=True)
    budget = seeding.BUDGETS[0]
    hostile.put(tmp_path / "outside" / "secret", SECRET)
    made = Victim(folder, own, budget, tmp_path / "outside" / "secret")
    hostile.network_of(made, seeding.network(budget).to_json())
    return made


def end(service: Service, dispatcher: Dispatcher, search_id: str) -> None:
    """Let the job stop, as it was told or by itself, and the dispatcher learn of it."""
    dispatcher.turn()
    service.ray.end(search_id, "SUCCEEDED")
    for _ in range(2):
        dispatcher.turn()


@pytest.mark.parametrize("attack", hostile.ENDING, ids=lambda attack: attack.__name__)
def test_what_no_worker_leaves_ends_its_search_with_the_reason(
    service: Service, tmp_path: Path, attack: hostile.Attack
) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    attack(victim(service, search_id, tmp_path))
    end(service, dispatcher, search_id)
    search = service.searches.get(search_id)
    assert search.status == "failed" and search.error is not None, search.reason
    assert search.error["kind"] == "folder"
    assert "accepted:" in search.error["message"] and SECRET not in json.dumps(search.error)
    assert len(search.error["message"]) < 1200
    assert dispatcher.held == {} and service.ray.jobs == {}
    assert service.searches.architectures([search_id]) == {search_id: []}


@pytest.mark.parametrize("attack", hostile.HARMLESS, ids=lambda attack: attack.__name__)
def test_nothing_but_its_own_is_given_out(service: Service, tmp_path: Path, attack: hostile.Attack) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    attack(found := victim(service, search_id, tmp_path))
    if not (found.own / "result.json").exists():
        hostile.result(found)
    end(service, dispatcher, search_id)
    assert service.status(search_id) == "succeeded", service.searches.get(search_id).error
    network = f"/api/v1/architectures/{search_id}-{found.budget}"
    asked = [f"/api/v1/searches/{search_id}", f"/api/v1/searches/{search_id}/tensorboard", network, f"{network}.svg"]
    asked += [f"{network}/weights", f"/searches/{search_id}", f"/searches/{search_id}/logs/1"]
    asked += [f"{network}/files/{kind}" for kind in FILES]
    asked += [f"/searches/{search_id}/networks/{found.budget}{suffix}" for suffix in ("", ".svg")]
    with seeding.serving(service.app) as url, httpx.Client(base_url=url) as http:
        for path in asked:
            answer = http.get(path)
            assert answer.status_code in (200, 404), (path, answer.text)
            assert SECRET.encode() not in answer.content and b"PATH=" not in answer.content, path
            assert b"alert(" not in answer.content, path
    assert "driver-0001.log" not in os.listdir(found.secret.parent)
    assert found.secret.read_text() == SECRET


@pytest.mark.parametrize("name", ["foto-\udce9.png", "a\x00b", "\x1b[2Jred\x1b]0;title\x07", "x\u202egnp.exe"])
def test_an_error_of_odd_characters_is_told_without_them(app: FastAPI, ray: RayDouble, name: str) -> None:
    service = Service(app, ray)
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    told = {"attempt": 1, "kind": "data", "message": f"cannot read {name}", "retryable": False, "traceback": name}
    hostile.put(service.folder(search_id) / "error.json", json.dumps(told))
    service.ray.end(search_id, "FAILED")
    dispatcher.turn()
    error = service.searches.get(search_id).error
    assert error is not None and error["kind"] == "data" and error["message"] == f"cannot read {clean(name)}"
    assert all(letter.isprintable() for letter in error["message"])
    service.close()


def test_a_flood_of_lines_is_cut_and_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.journal(search_id, "0001-000002", *({"kind": "checkpoint", "step": n} for n in range(MOST_LINES + 7)))
    dispatcher.turn()
    assert service.searches.events(search_id, kind="dropped")[0].data["count"] == 7
    known = service.searches.count_events(search_id)
    monkeypatch.setattr("service.dispatch.dispatcher.MOST_EVENTS", known + 2)
    service.journal(search_id, "0001-000003", *({"kind": "checkpoint", "step": n} for n in range(9)))
    dispatcher.turn()
    kept = service.searches.count_events(search_id) - known - 1
    assert kept <= 3 and service.searches.events(search_id, kind="dropped")[1].data["count"] == 9 - kept


def test_a_search_that_the_service_fails_on_does_not_hold_its_place_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.dispatch.dispatcher.LONGEST_WAIT_SECONDS", 0.0)
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)

    def fail(*arguments: object) -> None:
        raise ArithmeticError("nobody thought of this")

    monkeypatch.setattr(dispatcher.runs, "result", fail)
    dispatcher.turn()
    assert "nobody thought of this" in (service.searches.get(search_id).reason or "")
    for _ in range(5):
        dispatcher.turn()
    end(service, dispatcher, search_id)
    search = service.searches.get(search_id)
    assert search.status == "failed" and search.error is not None and search.error["kind"] == "internal"


def test_a_cancelled_search_ends_whatever_its_folder_holds(service: Service, tmp_path: Path) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.searches.cancel(search_id)
    hostile.link_for_result(victim(service, search_id, tmp_path))
    end(service, dispatcher, search_id)
    assert service.status(search_id) == "cancelled"
