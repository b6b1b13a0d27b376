"""Idempotency keys, retries, projects and their quotas, and the view of the cluster, through the API."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.domain.lifecycle import MAX_ATTEMPTS, Status
from tests import seeding

GOOD: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def submit(http: httpx.Client, key: str | None = None, **fields: Any) -> httpx.Response:
    """Post a search."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return http.post("/api/v1/searches", json=GOOD | fields, headers=headers)


def test_a_request_that_is_sent_again_is_answered_as_before_and_done_once(http: httpx.Client) -> None:
    first = submit(http, "monday-1")
    http.post(f"/api/v1/searches/{first.json()['id']}/cancel")
    again = submit(http, "monday-1")
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers and again.headers["idempotency-replayed"] == "true"
    assert submit(http, "monday-2").json()["id"] != first.json()["id"]
    assert len(http.get("/api/v1/searches").json()["items"]) == 2


def test_the_order_of_fields_makes_no_other_request(http: httpx.Client) -> None:
    first = submit(http, "k", seed=1, name="n")
    body = '{"name": "n",   "seed": 1, "budgets": ["300k"], "dataset": "digits"}'
    again = http.post(
        "/api/v1/searches", content=body, headers={"Idempotency-Key": "k", "Content-Type": "application/json"}
    )
    assert again.json() == first.json()


def test_another_request_under_the_same_key_is_refused_naming_both(http: httpx.Client) -> None:
    search_id = submit(http, "k").json()["id"]
    other = submit(http, "k", seed=1)
    assert other.status_code == 422 and other.json()["title"] == "Idempotency key used for another request"
    elsewhere = http.post(f"/api/v1/searches/{search_id}/cancel", headers={"Idempotency-Key": "k"})
    assert elsewhere.status_code == 422
    for named in ("'k'", "POST /api/v1/searches ", f"POST /api/v1/searches/{search_id}/cancel"):
        assert named in elsewhere.json()["detail"]
    assert http.get(f"/api/v1/searches/{search_id}").json()["status"] == "queued"
    assert len(http.get("/api/v1/searches").json()["items"]) == 1


def test_a_refused_request_leaves_its_key_free(http: httpx.Client) -> None:
    assert submit(http, "k", budgets=[1]).status_code == 422
    assert submit(http, "k").status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(http: httpx.Client, key: str) -> None:
    told = submit(http, key)
    assert told.status_code == 422 and told.json()["errors"][0]["field"] == "Idempotency-Key"


def test_many_that_send_the_same_at_once_get_one_search(http: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: submit(http, "same"), range(16)))
    assert {one.status_code for one in told} == {201} and len({one.json()["id"] for one in told}) == 1
    assert len(http.get("/api/v1/searches").json()["items"]) == 1


def test_cancelling_under_a_key_is_replayed_too(http: httpx.Client) -> None:
    search_id = submit(http).json()["id"]
    told = [http.post(f"/api/v1/searches/{search_id}/cancel", headers={"Idempotency-Key": "stop"}).json() for _ in "ab"]
    assert told[0] == told[1] and told[0]["status"] == "cancelled"


def test_keys_of_different_tokens_are_different_keys(tmp_path: Path) -> None:
    tokens = {"a-token-of-sixteen": "vision", "another-of-sixteen": "audio", "the-operators-token": "*"}
    app = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        ids = set()
        for token in list(tokens)[:2]:
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
            ids.add(http.post("/api/v1/searches", json=GOOD, headers=headers).json()["id"])
        assert len(ids) == 2
        operator = {"Authorization": "Bearer the-operators-token"}
        assert {one["id"] for one in http.get("/api/v1/searches", headers=operator).json()["items"]} == ids
        vision = {"Authorization": "Bearer a-token-of-sixteen"}
        refused = http.patch("/api/v1/projects/vision", json={"weight": 9.0}, headers=vision)
        assert refused.status_code == 403 and "operator" in refused.json()["detail"]
        assert http.patch("/api/v1/projects/vision", json={"weight": 9.0}, headers=operator).json()["weight"] == 9.0
        assert [one["name"] for one in http.get("/api/v1/projects", headers=vision).json()] == ["vision"]
        seen = http.get("/api/v1/cluster", headers=vision).json()
        assert [(one["place"], one["project"]) for one in seen["queue"]] == [(1, "vision")]
        assert "audio" not in str(seen) and seen["queued"] == 1
    seeding.parts(app).searches.engine.dispose()


def test_what_failed_can_be_queued_again_with_its_attempts_kept(app: FastAPI, http: httpx.Client) -> None:
    search_id = submit(http).json()["id"]
    refused = http.post(f"/api/v1/searches/{search_id}/retry")
    assert refused.status_code == 409 and "is queued; only a failed or cancelled one" in refused.json()["detail"]
    run = seeding.Run(app, search_id).start()
    run.move(Status.FAILED, error={"kind": "job", "message": "lost", "attempt": 1})
    again = http.post(f"/api/v1/searches/{search_id}/retry").json()
    assert (again["status"], again["error"], again["ended_at"], again["attempt"]) == ("queued", None, None, 1)
    [attempt] = http.get(f"/api/v1/searches/{search_id}/attempts").json()
    assert (attempt["number"], attempt["outcome"], attempt["error"]["message"]) == (1, "failed", "lost")
    assert seeding.parts(app).searches.get(search_id).last_attempt == 1 + MAX_ATTEMPTS
    seeding.Run(app, search_id)
    assert [one["number"] for one in http.get(f"/api/v1/searches/{search_id}/attempts").json()] == [1, 2]


def test_a_project_may_queue_only_as_many_as_its_quota(http: httpx.Client) -> None:
    assert http.patch("/api/v1/projects/vision", json={"max_queued": 1}).json()["max_queued"] == 1
    first = submit(http, project="vision").json()["id"]
    refused = submit(http, project="vision")
    assert refused.status_code == 403 and refused.json()["title"] == "Over quota"
    assert refused.json()["detail"] == "project vision has 1 queued searches and may have 1"
    assert refused.json()["errors"][0]["field"] == "project"
    assert submit(http, project="audio").status_code == 201
    http.post(f"/api/v1/searches/{first}/cancel")
    assert submit(http, project="vision").status_code == 201
    assert http.post(f"/api/v1/searches/{first}/retry").status_code == 403
    assert http.patch("/api/v1/projects/vision", json={"max_queued": None}).json()["max_queued"] is None
    assert http.post(f"/api/v1/searches/{first}/retry").status_code == 200


def test_the_last_place_of_a_quota_is_given_once(http: httpx.Client) -> None:
    http.patch("/api/v1/projects/default", json={"max_queued": 3})
    with ThreadPoolExecutor(8) as pool:
        told = [one.status_code for one in pool.map(lambda _: submit(http), range(12))]
    assert told.count(201) == 3 and told.count(403) == 9


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": "2"}, "weight"),
        ({"weight": 1e9}, "weight"),
        ({"max_running": -1}, "max_running"),
        ({"max_running": 1.5}, "max_running"),
        ({"quota": 1}, "quota"),
    ],
)
def test_what_a_project_cannot_have_is_refused(http: httpx.Client, change: dict[str, Any], field: str) -> None:
    told = http.patch("/api/v1/projects/vision", json=change)
    assert told.status_code == 422 and told.json()["errors"][0]["field"] == field
    assert http.get("/api/v1/projects").json() == []


def test_the_cluster_says_who_holds_it_and_why_others_wait(app: FastAPI, http: httpx.Client) -> None:
    ids = [submit(http, project="vision", workers=2).json()["id"]]
    assert (
        http.get("/api/v1/cluster").json()["queue"][0]["reason"] == "no dispatcher has reported the cluster's resources"
    )
    seeding.Run(app, ids[0]).start()
    seeding.report(app, cpus=3)
    ids += [submit(http, project=name, workers=2).json()["id"] for name in ("audio", "vision", "vision")]
    seen = http.get("/api/v1/cluster").json()
    assert (seen["cpus"], seen["held_cpus"], seen["queued"]) == (3, 2, 3)
    assert [(one["id"], one["project"], one["cpus"]) for one in seen["holders"]] == [(ids[0], "vision", 2)]
    assert [one["id"] for one in seen["queue"]] == ids[1:] and [one["place"] for one in seen["queue"]] == [1, 2, 3]
    assert [one["reason"] for one in seen["queue"]] == [
        "needs 2 CPUs and 0 GPUs; the cluster has 3 and 0, of which 1 and 0 are free for it",
        "all resources of the cluster are in use or reserved",
        f"behind {ids[2]} in project vision",
    ]
    assert {one["name"]: (one["running"], one["queued"]) for one in seen["projects"]} == {
        "audio": (0, 1),
        "vision": (1, 2),
    }
    seeding.report(app, error="Ray does not answer: ConnectError")
    seen = http.get("/api/v1/cluster").json()
    assert seen["error"] == "Ray does not answer: ConnectError" and seen["cpus"] == 3
    assert "Ray does not answer" in seen["queue"][0]["reason"]


def test_a_higher_priority_goes_first_within_its_project(app: FastAPI, http: httpx.Client) -> None:
    low, high = submit(http).json(), submit(http, priority=2).json()
    assert (low["priority"], high["priority"]) == (0, 2)
    seeding.report(app)
    assert [one["id"] for one in http.get("/api/v1/cluster").json()["queue"]] == [high["id"], low["id"]]
    told = submit(http, priority=11)
    assert told.status_code == 422 and told.json()["errors"][0]["field"] == "priority"


def test_use_is_charged_when_an_attempt_ends(app: FastAPI, http: httpx.Client) -> None:
    search_id = submit(http, workers=8).json()["id"]
    run = seeding.Run(app, search_id).start()
    with seeding.parts(app).searches.engine.execution_options(writes=True).connect() as connection, connection.begin():
        connection.execute(text("UPDATE attempts SET started_at = started_at - 100"))
    held = http.get("/api/v1/projects").json()[0]
    run.move(Status.FAILED, error={"kind": "job", "message": "lost", "attempt": 1})
    ended = http.get("/api/v1/projects").json()[0]
    assert held["accelerators"] == 1.0 and ended["accelerators"] == 0.0 and ended["running"] == 0
    assert 99 < held["used"] <= ended["used"] < 130
