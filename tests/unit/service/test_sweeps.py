"""Sweeps through the API: what they make, what they refuse, and how they are steered."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from nas_core.train.evaluation import Evaluation
from service.domain.lifecycle import Status
from service.domain.pareto import front
from service.domain.sweep import BudgetRange, SweepRequest, expand, sorted_budgets
from tests import seeding

GOOD: dict[str, Any] = {
    "search": {"dataset": "digits"},
    "budgets": ["300k", "600k"],
    "seeds": [0, 1, 2],
    "finals": False,
}


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def sweep(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Post a sweep that is accepted."""
    made = http.post("/api/v1/sweeps", json=GOOD | fields)
    assert made.status_code == 201, made.text
    return dict(made.json())


def searches(http: httpx.Client, sweep_id: str) -> list[dict[str, Any]]:
    """The searches of a sweep."""
    found, after = [], None
    while True:
        asked = {"limit": 2} | ({"after": after} if after else {})
        page = http.get(f"/api/v1/sweeps/{sweep_id}/searches", params=asked).json()
        found += page["items"]
        after = page["next"]
        if after is None:
            return found


def test_by_path_a_search_a_seed_serves_all_budgets(app: FastAPI, http: httpx.Client) -> None:
    seeding.report(app)
    made = sweep(http, name="over night", budgets=["600k", 300_000, "3e5"])
    assert (made["searches"], made["counts"], made["strategy"]) == (3, {"queued": 3}, "path")
    assert made["budgets"] == [300_000, 600_000]
    assert made["notes"] == ["the budgets were sorted", "3 budgets became 2: equal ones were merged"]
    found = searches(http, made["id"])
    assert [one["seed"] for one in found] == [0, 1, 2]
    assert all(one["budgets"] == [300_000, 600_000] and one["sweep"] == made["id"] for one in found)
    assert http.get(f"/api/v1/sweeps/{made['id']}").json() == made | {"notes": []}
    assert [one["id"] for one in http.get("/api/v1/sweeps").json()["items"]] == [made["id"]]


def test_independent_searches_have_a_budget_each_and_a_grid_multiplies(http: httpx.Client) -> None:
    grid = {"space.share": [True, False], "settings.gamma": [0.0, 0.01]}
    made = sweep(http, strategy="independent", grid=grid, seeds=[4])
    found = searches(http, made["id"])
    varied = [(one["space"]["share"], one["settings"]["gamma"], one["budgets"]) for one in found]
    budgets = ([300_000], [600_000])
    assert varied == [(share, gamma, b) for share in (True, False) for gamma in (0.0, 0.01) for b in budgets]


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"budgets": {"from": "600k", "to": "300k", "count": 3}}, "budgets.to", "below the first"),
        ({"budgets": {"from": "1k", "to": "300k", "count": 3}}, "budgets", "not feasible"),
        ({"budgets": ["300k", "many"]}, "budgets", "not a number"),
        ({"grid": {"name": ["a"]}}, "grid.name", "cannot be varied"),
        ({"grid": {"space": [{}]}}, "grid.space", "cannot be varied"),
        ({"grid": {"settings.learning": [1]}}, "settings.learning", "no such field"),
        ({"grid": {"space.share": ["yes"]}}, "search.space.share", "valid boolean"),
        ({"seeds": list(range(101)), "grid": {"settings.lr": [x / 1000 for x in range(1, 101)]}}, "grid", "too many"),
        ({"seeds": [-1]}, "seed", "0 to"),
        ({"search": {"dataset": "digits", "seed": 3}}, "search.seed", "the sweep's"),
        ({"search": {"dataset": "/no/such/folder"}}, "dataset", "no such folder"),
        ({"search": {}}, "search.dataset", "required"),
        ({"strategy": "best"}, "strategy", ""),
        ({"baselines": ["random"]}, "baselines", "without finals"),
    ],
)
def test_what_cannot_be_swept_is_refused_and_nothing_is_queued(
    http: httpx.Client, change: dict[str, Any], field: str, told: str
) -> None:
    refused = http.post("/api/v1/sweeps", json=GOOD | change)
    assert refused.status_code == 422, refused.text
    error = next(one for one in refused.json()["errors"] if one["field"] == field)
    assert told in error["reason"] + error["accepted"] and (error["value"] is None or field != "search.dataset")
    assert http.get("/api/v1/searches").json()["items"] == [] and http.get("/api/v1/sweeps").json()["items"] == []


def test_a_quota_refuses_the_whole_sweep(http: httpx.Client) -> None:
    http.patch("/api/v1/projects/default", json={"max_queued": 2})
    assert http.post("/api/v1/sweeps", json=GOOD).status_code == 403
    assert http.get("/api/v1/searches").json()["items"] == []


def test_a_sweep_sent_again_under_its_key_is_queued_once(http: httpx.Client) -> None:
    told = [http.post("/api/v1/sweeps", json=GOOD, headers={"Idempotency-Key": "k"}).json()["id"] for _ in "ab"]
    assert told[0] == told[1] and len(http.get("/api/v1/searches").json()["items"]) == 3


def test_cancelling_a_sweep_cancels_what_waits_and_stops_what_runs(app: FastAPI, http: httpx.Client) -> None:
    made = sweep(http)
    first, *others = (one["id"] for one in searches(http, made["id"]))
    run = seeding.Run(app, first, only=True).start()
    seen = http.post(f"/api/v1/sweeps/{made['id']}/cancel").json()
    assert seen["counts"] == {"cancelling": 1, "cancelled": 2} and not seen["done"]
    run.move(Status.CANCELLED)
    assert http.get(f"/api/v1/sweeps/{made['id']}").json()["done"]
    for search_id in others:
        statuses = [one["status"] for one in http.get(f"/api/v1/searches/{search_id}/journal?kind=status").json()]
        assert statuses == ["queued", "cancelled"]


def test_a_paused_sweep_launches_no_more_until_it_is_resumed(app: FastAPI, http: httpx.Client) -> None:
    made = sweep(http)
    assert http.post(f"/api/v1/sweeps/{made['id']}/pause").json()["paused"] is True
    assert seeding.claims(app) == []
    assert {one["reason"] for one in searches(http, made["id"])} == {"its sweep is paused"}
    assert http.post(f"/api/v1/sweeps/{made['id']}/resume").json()["paused"] is False
    assert len(seeding.claims(app)) == 3


def test_what_failed_of_a_sweep_is_queued_again_and_nothing_else(app: FastAPI, http: httpx.Client) -> None:
    made = sweep(http)
    first, second, _ = (one["id"] for one in searches(http, made["id"]))
    error = {"kind": "job", "message": "lost", "attempt": 1}
    seeding.Run(app, first, only=True).start().move(Status.FAILED, error=error)
    http.post(f"/api/v1/searches/{second}/cancel")
    seen = http.post(f"/api/v1/sweeps/{made['id']}/retry").json()
    assert seen["counts"] == {"queued": 2, "cancelled": 1} and seen["notes"] == ["1 search queued again"]


def test_the_front_holds_what_no_other_network_beats(app: FastAPI, http: httpx.Client) -> None:
    made = sweep(http, seeds=[0, 1])
    path = f"/api/v1/sweeps/{made['id']}/pareto"
    assert http.get(path).json() == {"cost": "multiply_adds", "by": "accuracy", "points": []}
    first, second = (one["id"] for one in searches(http, made["id"]))
    seeding.Run(app, first, only=True).succeed()
    seeding.Run(app, second, only=True).succeed(accuracy=0.9)
    seen = http.get(path).json()["points"]
    assert [(one["search"], one["budget"], one["on_front"]) for one in seen] == [
        (first, 300_000, True),
        (second, 300_000, False),
        (first, 600_000, False),
        (second, 600_000, False),
    ]
    assert seen[0]["seed"] == 0 and seen[0]["accuracy_low"] < seen[0]["accuracy"] < seen[0]["accuracy_high"]
    assert len(http.get(path, params={"cost": "parameters"}).json()["points"]) == 4
    assert http.get(path, params={"cost": "latency_ms"}).json()["points"] == [], "none was measured"
    assert http.get(path, params={"cost": "price"}).status_code == 422
    table = http.get(path, params={"csv": True})
    assert table.headers["content-type"].startswith("text/csv") and len(table.text.splitlines()) == 5


def test_the_front_can_be_asked_by_balanced_accuracy(app: FastAPI, http: httpx.Client) -> None:
    """The first search's networks are right about all of 90 and none of 10, the second's about 80 and 8 of them."""
    made = sweep(http, seeds=[0, 1])
    path = f"/api/v1/sweeps/{made['id']}/pareto"
    first, second = (one["id"] for one in searches(http, made["id"]))
    labels = [0] * 90 + [1] * 10
    seeding.Run(app, first, only=True).succeed(test=Evaluation.of(labels, [0] * 100, ("usual", "rare")))
    fair = Evaluation.of(labels, [0] * 80 + [1] * 18 + [0] * 2, ("usual", "rare"))
    seeding.Run(app, second, only=True).succeed(test=fair)
    for by, best in (("accuracy", first), ("balanced_accuracy", second)):
        seen = http.get(path, params={"by": by}).json()
        assert seen["by"] == by and [one["search"] for one in seen["points"] if one["on_front"]] == [best]
        assert {one["search"]: one["balanced_accuracy"] for one in seen["points"]} == {
            first: 0.5,
            second: pytest.approx((80 / 90 + 0.8) / 2),
        }
    assert http.get(path, params={"by": "f1"}).status_code == 422
    table = http.get(path, params={"by": "balanced_accuracy", "csv": True}).text
    assert "balanced_accuracy" in table.splitlines()[0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_a_point_is_on_the_front_if_and_only_if_no_other_dominates_it(points: list[tuple[int, int]]) -> None:
    for (cost, accuracy), on in zip(points, front(points), strict=True):
        dominated = any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        assert on == (not dominated)


def test_an_unknown_sweep_is_not_found(http: httpx.Client) -> None:
    for method, path in (("GET", ""), ("GET", "/searches"), ("POST", "/cancel"), ("POST", "/pause")):
        told = http.request(method, f"/api/v1/sweeps/nope{path}")
        assert told.status_code == 404 and told.json()["title"] == "No such sweep"


@pytest.mark.proof
def test_ten_thousand_points_are_queued_in_one_call(http: httpx.Client) -> None:
    made = http.post("/api/v1/sweeps", json=GOOD | {"seeds": list(range(10_000))}, timeout=120).json()
    assert made["counts"] == {"queued": 10_000}


@given(
    st.integers(10_000, 10**9),
    st.integers(10_000, 10**9),
    st.integers(2, 100),
    st.sampled_from(["linear", "logarithmic"]),
)
def test_a_range_holds_its_ends_and_rises(first: int, last: int, count: int, scale: Any) -> None:
    first, last = sorted((first, last))
    budgets = BudgetRange(**{"from": first, "to": last, "count": count, "scale": scale}).budgets()
    assert (budgets[0], budgets[-1], len(budgets)) == (first, last, count) and budgets == sorted(budgets)


@given(st.lists(st.integers(10_000, 10**6), min_size=1, max_size=20), st.lists(st.integers(0, 99), min_size=1))
def test_points_are_every_combination_once(budgets: list[int], seeds: list[int]) -> None:
    for strategy, each in (("path", 1), ("independent", len(set(budgets)))):
        asked = SweepRequest.model_validate(GOOD | {"budgets": budgets, "seeds": seeds, "strategy": strategy})
        found, _ = sorted_budgets(asked)
        (points,) = expand(asked, found)
        assert found == sorted(set(budgets))
        assert len(points) == len({(p.seed, tuple(p.budgets or ())) for p in points}) == len(set(seeds)) * each
