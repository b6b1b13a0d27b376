"""Requests with bodies of odd shape: whatever stands where, the answer is a refusal that names the field."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import seeding
from tests.thoroughness import some

SPACE = {"preset": "digits", "share": False, "channels": 32, "blocks": [2, 2], "levels": 3, "image_size": 8}
SEARCH: dict[str, Any] = {
    "dataset": "digits",
    "limits": {"parameters": "200k", "latency_ms": 2.5},
    "space": SPACE | {"operations": ["separable3", "identity"]},
    "settings": {"search_epochs": 3, "flip": True, "lr": 0.1, "retrain_schedule": "linear"},
    "export": {"opset": 18, "ir": 9, "normalise": True},
    "engine": {"synchronised_bn": False},
    "data": {"ignore": [], "channels": 1, "image_size": 8, "background": "white"},
    "workers": {"min": 1, "max": 2},
    "accelerator_type": "A100",
}
GRID = {"space.share": [True, False], "settings.lr": [0.1], "limits.parameters": ["200k"], "workers": [1]}
RANGE = {"from": "500k", "to": "800k", "count": 3, "scale": "linear"}
GOOD: list[tuple[str, str, Any]] = [
    ("POST", "/api/v1/searches", SEARCH | {"budgets": ["500k", 600000], "seed": 0, "priority": 0, "name": "n"}),
    ("POST", "/api/v1/sweeps", {"search": SEARCH, "budgets": RANGE, "seeds": [0, 1], "grid": GRID, "finals": True}),
    ("POST", "/api/v1/sweeps", {"search": {"dataset": "digits"}, "budgets": ["300k"], "baselines": ["random"]}),
    ("POST", "/api/v1/sweeps/{sweep}/networks", {"budgets": ["450k"], "baselines": ["random"]}),
    ("PATCH", "/api/v1/projects/vision", {"weight": 2.0, "max_running": 1, "max_accelerators": 2.0, "max_queued": 3}),
    ("PATCH", "/api/v1/projects/vision", {"max_stored": 10**12}),
    ("POST", "/api/v1/datasets/inspect", {"dataset": "digits", "data": SEARCH["data"]}),
]
"""A request of every kind that has a body, and is accepted."""
MEMBERS = st.sampled_from(
    ["space", "space.share", "settings.lr", "dataset", ".", "", "search", "grid", "min", "\ud800"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([2**31, 2**63, 2**64, 10**400, 1e308])
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from(["300k", "1e999", "nan", "\x00", "\ud800", "9" * 5000, "A100"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(MEMBERS | st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture
def http(app: FastAPI, url: str) -> Iterator[httpx.Client]:
    """A client of a service with a cluster for all that is asked here."""
    seeding.report(app, types=("A100",))
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def sweep(app: FastAPI) -> str:
    """A sweep that has ended, to which networks can be added."""
    return seeding.seed_sweep(app, seeds=[0, 1], finals=True)


def places(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value, from the whole to its leaves."""
    yield ()
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in below:
        yield from ((name, *place) for place in places(one))


def replaced(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    """A JSON value with another one in a place."""
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


@settings(max_examples=some(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.sampled_from([(*one, place) for one in GOOD for place in places(one[2])]),
    new=JSON,
    more=st.none() | MEMBERS,
)
@example(("POST", "/api/v1/sweeps", GOOD[1][2], ("search", "space")), 5, None)
@example(("POST", "/api/v1/sweeps", GOOD[1][2], ("search", "space", "operations", 0)), "\ud800", None)
@example(("POST", "/api/v1/sweeps", GOOD[1][2], ("search", "limits")), [["parameters", 5]], None)
def test_what_is_of_another_type_anywhere_in_a_request_is_refused_by_field(
    http: httpx.Client, sweep: str, asked: Any, new: Any, more: str | None
) -> None:
    """Some value takes the place of one in a request that is right, or a member is added."""
    method, path, body, place = asked
    held = functools.reduce(lambda value, name: value[name], place, body)
    changed = replaced(body, place, held | {more: new} if more is not None and isinstance(held, dict) else new)
    content, kind = json.dumps(changed), {"Content-Type": "application/json"}
    answer = http.request(method, path.format(sweep=sweep), content=content, headers=kind)
    assert answer.status_code != 500, content
    if answer.status_code == 422:
        assert all(error["field"] and error["reason"] for error in answer.json()["errors"]), content
        assert answer.json()["errors"], content


@pytest.mark.parametrize("depth", [30, 300, 900, 20_000])
@pytest.mark.parametrize("open_and_close", ["[]", ('{"a":', "}")])
def test_what_nests_without_end_is_refused(http: httpx.Client, depth: int, open_and_close: str) -> None:
    nested = open_and_close[0] * depth + "1" + open_and_close[1] * depth
    for path, body in (
        ("searches", '{"dataset": "digits", "budgets": ["300k"], "settings": {"lr": %s}}'),
        ("searches", '{"dataset": "digits", "budgets": [%s]}'),
        ("sweeps", '{"search": {"dataset": "digits", "workers": %s}, "budgets": ["300k"], "grid": {"workers": [1]}}'),
        ("sweeps", '{"search": {"dataset": "digits"}, "budgets": ["300k"], "grid": {"workers": [%s]}}'),
        ("datasets/inspect", '{"dataset": "digits", "data": %s}'),
    ):
        kind = {"Content-Type": "application/json"}
        answer = http.post(f"/api/v1/{path}", content=body % nested, headers=kind)
        assert answer.status_code in (400, 422), (path, answer.text[:1000])


def test_the_requests_that_are_changed_here_are_right(http: httpx.Client, sweep: str) -> None:
    for method, path, body in GOOD:
        answer = http.request(method, path.format(sweep=sweep), json=body)
        assert answer.status_code in (200, 201), (path, answer.text)
