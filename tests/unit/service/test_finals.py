"""Finals of a sweep: when they start, what they are told to retrain, and what comes of them."""

import functools
import html
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from nas_core.files import FILES
from nas_core.search.baselines import random_architecture
from nas_core.search.references import candidates, fit_reference
from nas_core.space import Architecture, SearchSpace
from nas_core.spec import DEFAULT_BASELINES, SearchSpec
from service.answers import Point
from service.dashboard.sweeps import by_budget
from service.domain.lifecycle import Status
from service.store.work import Work
from tests import seeding
from tests.ray_double import RayDouble
from tests.unit.service.test_dispatcher import Service
from worker.tuning import finalists_of

SWEEP: dict[str, Any] = {"search": {"dataset": "digits"}, "budgets": ["300k", "600k"], "seeds": [0, 1], "baselines": []}
SPACE = SearchSpace.preset("digits")


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def sweep(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Post a sweep that is accepted."""
    made = http.post("/api/v1/sweeps", json=SWEEP | fields)
    assert made.status_code == 201, made.text
    return dict(made.json())


def members(http: httpx.Client, made: dict[str, Any], kind: str) -> list[str]:
    """The ids of a sweep's searches, or of its finals, in order."""
    page = http.get(f"/api/v1/sweeps/{made['id']}/searches").json()
    return [one["id"] for one in page["items"] if one["kind"] == kind]


@functools.cache
def drawn(cost: int, seed: int) -> Architecture:
    """A random network that costs so much at most; to draw one takes a tenth of a second or more."""
    return random_architecture(SPACE, cost, seed)


def found(service: Service, search_id: str, snapshots: tuple[int, ...] = ()) -> None:
    """What a search that retrains nothing leaves: its networks, and on the way others that cost `snapshots`."""
    spec = service.searches.get(search_id).spec
    seed, budgets = spec["seed"], spec["budgets"]
    for budget in budgets:
        path = service.folder(search_id) / "architectures" / str(budget) / "architecture.json"
        path.parent.mkdir(parents=True)
        path.write_text(drawn(budget, seed).to_json())
    passed = [drawn(cost, seed) for cost in snapshots]
    service.journal(
        search_id,
        "0001-000001",
        {"kind": "started", "workers": 1, "device": "cpu", "resumed": False},
        *({"kind": "snapshot", "multiply_adds": one.multiply_adds, "architecture": one.to_dict()} for one in passed),
    )
    result = {"architectures": [{"budget": budget} | seeding.cost(budget) for budget in budgets]}
    (service.folder(search_id) / "result.json").write_text(json.dumps(result))


def turns(service: Service, ray: RayDouble, count: int = 4) -> None:
    """Some turns of a dispatcher, whose drivers leave when their result is there."""
    dispatcher = service.dispatcher()
    for _ in range(count):
        dispatcher._released = float("-inf")
        for search_id in list(dispatcher.held):
            if (service.folder(search_id) / "result.json").exists():
                ray.end(search_id, "SUCCEEDED", service.searches.get(search_id).attempt)
        dispatcher.turn()
    dispatcher.work.hand_back(dispatcher.held.values())


def told(service: Service, search_id: str) -> dict[str, Any]:
    """What the worker of a search or of finals is told."""
    return seeding.parts(service.app).runs.read_json(search_id, "spec.json") or {}


def test_finals_wait_for_all_searches_of_their_group_and_get_what_these_found(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http, baselines=["random", "thin"])
    first, second = members(http, made, "search")
    (finals,) = members(http, made, "finals")
    assert (made["counts"], made["finals"]) == ({"queued": 2}, {"queued": 1})
    assert service.searches.get(finals).reason == "waits for the searches of its sweep"
    turns(service, ray)
    assert SearchSpec.from_dict(told(service, first)).retrain is False
    found(service, first)
    turns(service, ray)
    assert (service.status(first), service.status(second)) == ("succeeded", "waiting")
    assert service.status(finals) == "queued", "one search has not ended"
    found(service, second)
    (service.folder(second) / "dataset").mkdir()
    (service.folder(second) / "dataset" / "manifest.jsonl.gz").write_bytes(b"of these files")
    turns(service, ray)
    assert service.status(finals) == "waiting"
    assert (service.folder(finals) / "dataset" / "before.jsonl.gz").read_bytes() == b"of these files"
    spec = told(service, finals)
    assert SearchSpec.from_dict(spec).retrain and spec["at_once"] >= 1
    listed = finalists_of(spec)
    assert [(one.budget, one.origin, one.seed, one.source) for one in listed] == [
        (budget, *who)
        for budget in seeding.BUDGETS
        for who in (
            ("search", 0, first), ("search", 1, second), ("random", 0, None), ("random", 1, None), ("thin", 0, None)
        )
    ]  # fmt: skip
    space = SearchSpec.from_dict(spec)
    assert listed[1].build(space).to_json() == random_architecture(SPACE, 300_000, 1).to_json()
    assert all(one.build(space).multiply_adds <= one.budget for one in listed)


def test_reference_networks_compete_in_finals_unless_none_are_to(http: httpx.Client, app: FastAPI) -> None:
    def baselines(fields: dict[str, Any]) -> list[str]:
        made = http.post("/api/v1/sweeps", json={"search": {"dataset": "digits"}, "budgets": ["300k"]} | fields).json()
        return [
            name
            for finals in members(http, made, "finals")
            for name in seeding.parts(app).searches.get(finals).spec["finals"]["baselines"]
        ]

    assert baselines({"seeds": [0, 1]}) == baselines({"finals": True}) == list(DEFAULT_BASELINES)
    assert baselines({"seeds": [0, 1], "baselines": []}) == baselines({}) == []
    assert baselines({"baselines": ["thin"]}) == ["thin"]


def test_what_the_finals_retrain_is_the_sweeps_front_with_reference_networks_and_others_beside_it(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http)
    searches, (finals,) = members(http, made, "search"), members(http, made, "finals")
    turns(service, ray)
    for search_id in searches:
        found(service, search_id)
    turns(service, ray)
    rows = [
        {"trial": 1, "name": "300000", "origin": "search", "seed": 1, "winner": True},
        {"trial": 0, "name": "300000-0", "origin": "search", "seed": 0, "winner": False, "accuracy": 0.9},
        {"trial": 2, "name": "300000-2", "origin": "random", "seed": 1, "winner": False, "accuracy": 0.99},
        {"trial": 3, "name": "300000-3", "origin": "resnet", "seed": 0, "winner": False, "accuracy": 0.98},
    ]
    rows = [{"path": f"architectures/300000-{row['trial']}"} | row for row in rows]
    networks = [seeding.result(300_000) | {"files": FILES} | row for row in rows]
    reference = fit_reference("resnet", SPACE, 300_000)
    (service.folder(finals) / "architectures" / "300000-3").mkdir(parents=True)
    (service.folder(finals) / "architectures" / "300000-3" / "architecture.json").write_text(reference.to_json())
    (service.folder(finals) / "result.json").write_text(json.dumps({"architectures": networks}))
    turns(service, ray)
    assert service.status(finals) == "succeeded" and http.get(f"/api/v1/sweeps/{made['id']}").json()["done"]
    points = http.get(f"/api/v1/sweeps/{made['id']}/pareto").json()["points"]
    assert {(one["architecture"], one["origin"], one["seed"], one["on_front"]) for one in points} == {
        (f"{finals}-300000", "search", 1, False),
        (f"{finals}-300000-0", "search", 0, False),
        (f"{finals}-300000-2", "random", 1, False),
        (f"{finals}-300000-3", "resnet", 0, True),
    }
    assert all(one["search"] == finals for one in points)
    assert http.get(f"/api/v1/searches/{finals}").json()["accuracy"] == networks[0]["accuracy"] < 0.99
    assert http.get(f"/api/v1/searches/{searches[0]}").json()["architectures"] == []
    assert http.get(f"/api/v1/architectures/{finals}-300000-3").json()["architecture"] == reference.to_dict()
    page = http.get(f"/searches/{finals}/networks/300000-3").text
    assert "live edges" not in page and ">block1" in page
    assert "resnet8: " in http.get(f"/searches/{finals}/networks/300000-3.svg").text
    sweeps_page = http.get(f"/sweeps/{made['id']}").text
    assert "Best hand-made" in sweeps_page and "98.00\N{NO-BREAK SPACE}%, resnet" in sweeps_page


def test_what_failed_takes_no_part_and_without_any_network_there_are_no_finals(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http)
    (first, second), (finals,) = members(http, made, "search"), members(http, made, "finals")
    http.post(f"/api/v1/searches/{first}/cancel")
    http.post(f"/api/v1/searches/{second}/cancel")
    turns(service, ray)
    assert service.status(finals) == "failed"
    assert service.searches.get(finals).error == {
        "kind": "finalists", "message": "none of its searches found a network", "attempt": 1
    }  # fmt: skip
    for search_id in (second, finals):
        http.post(f"/api/v1/searches/{search_id}/retry")
    turns(service, ray)
    assert service.status(finals) == "queued", "tried again, they wait again"
    found(service, second)
    turns(service, ray)
    assert {one.source for one in finalists_of(told(service, finals))} == {second}


def test_finals_wait_again_for_a_search_that_is_tried_again_before_they_have_begun(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http)
    (first, second), (finals,) = members(http, made, "search"), members(http, made, "finals")
    work = Work(service.searches.engine)
    for search_id in (first, second):
        http.post(f"/api/v1/searches/{search_id}/cancel")
    work.release_finals()
    assert service.searches.get(finals).awaiting is False
    http.post(f"/api/v1/searches/{second}/retry")
    work.release_finals()
    turns(service, ray)
    assert (service.status(second), service.status(finals)) == ("waiting", "queued")
    assert service.searches.get(finals).reason == "waits for the searches of its sweep"
    found(service, second)
    turns(service, ray)
    assert {one.source for one in finalists_of(told(service, finals))} == {second}


def test_paused_finals_wait_and_those_that_were_not_due_still_wait_when_it_goes_on(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http)
    searches, (finals,) = members(http, made, "search"), members(http, made, "finals")
    http.post(f"/api/v1/sweeps/{made['id']}/pause")
    http.post(f"/api/v1/sweeps/{made['id']}/resume")
    turns(service, ray)
    assert {service.status(one) for one in searches} == {"waiting"} and service.status(finals) == "queued"
    http.post(f"/api/v1/sweeps/{made['id']}/pause")
    for search_id in searches:
        found(service, search_id)
    turns(service, ray)
    assert service.status(finals) == "queued"
    http.post(f"/api/v1/sweeps/{made['id']}/resume")
    turns(service, ray)
    assert service.status(finals) == "waiting"


def test_every_group_of_a_grid_has_finals_of_its_own(http: httpx.Client, app: FastAPI) -> None:
    made = sweep(http, grid={"space.share": [True, False]})
    searches, finals = members(http, made, "search"), members(http, made, "finals")
    of = [[one["id"] for one in seeding.parts(app).searches.get(f).spec["finals"]["of"]] for f in finals]
    assert of == [searches[:2], searches[2:]]


def ended(service: Service, ray: RayDouble, http: httpx.Client, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    """A sweep whose searches have ended; each passed networks of 430,000 and 460,000 multiply-adds or less."""
    made = sweep(http, finals=False, **fields)
    searches = members(http, made, "search")
    turns(service, ray)
    for search_id in searches:
        found(service, search_id, (520_000, 460_000, 430_000))
    turns(service, ray)
    return made, searches


def test_a_budget_is_added_without_searching_again(service: Service, ray: RayDouble, http: httpx.Client) -> None:
    made, searches = ended(service, ray, http)
    more = http.post(f"/api/v1/sweeps/{made['id']}/networks", json={"budgets": ["470k", "300k"]})
    assert more.status_code == 200, more.text
    assert more.json()["budgets"] == [300_000, 470_000, 600_000]
    assert more.json()["notes"] == ["the budgets were sorted", "the sweep already has these budgets: 300000"]
    (finals,) = members(http, made, "finals")
    turns(service, ray)
    spec = told(service, finals)
    assert members(http, made, "search") == searches, "no search was added"
    listed = finalists_of(spec)
    assert [one.origin for one in listed] == ["search", "search", *DEFAULT_BASELINES]
    for one in listed[:2]:
        passed = random_architecture(SPACE, 460_000, one.seed)
        assert one.budget == 470_000 and one.fit and one.architecture == json.loads(passed.to_json())
        built = one.build(SearchSpec.from_dict(spec))
        assert passed.multiply_adds <= built.multiply_adds <= 470_000


def test_finals_are_repeated_when_a_search_has_succeeded_since_they_began(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http, baselines=["thin"], grid={"space.share": [True, False]})
    late, *others = members(http, made, "search")
    http.post(f"/api/v1/searches/{late}/cancel")
    turns(service, ray)
    for search_id in others:
        found(service, search_id)
    turns(service, ray)
    before = members(http, made, "finals")
    won = {"trial": 0, "name": "300000", "origin": "search", "seed": 1, "winner": True, "files": FILES}
    network = seeding.result(300_000) | won | {"path": "architectures/300000-0"}
    for finals in before:
        began = {"kind": "started", "workers": 1, "device": "cpu", "resumed": False}
        service.journal(finals, "0001-000001", began)
        (service.folder(finals) / "result.json").write_text(json.dumps({"architectures": [network]}))
    turns(service, ray)
    assert [service.status(finals) for finals in before] == ["succeeded"] * 2
    networks = f"/api/v1/sweeps/{made['id']}/networks"
    refused = http.post(networks, json={"budgets": ["300k"]})
    assert refused.status_code == 422 and "nothing new" in refused.text
    http.post(f"/api/v1/searches/{late}/retry")
    turns(service, ray)
    found(service, late)
    turns(service, ray)
    more = http.post(networks, json={"budgets": ["300k"]})
    repeated = "a search has succeeded since the finals for these budgets began; they are repeated: 300000"
    assert more.status_code == 200 and more.json()["notes"] == [repeated]
    (finals,) = set(members(http, made, "finals")) - {*before}
    turns(service, ray)
    listed = finalists_of(told(service, finals))
    assert [(one.budget, one.source) for one in listed[:2]] == [(300_000, late), (300_000, others[0])]
    refused = http.post(networks, json={"budgets": ["300k"]})
    assert refused.status_code == 422 and "nothing new" in refused.text, "they have not begun"


def test_baselines_are_added_to_compare_with(service: Service, ray: RayDouble, http: httpx.Client) -> None:
    made, _ = ended(service, ray, http)
    http.post(f"/api/v1/sweeps/{made['id']}/networks", json={"baselines": ["thin", "resnet"]})
    (finals,) = members(http, made, "finals")
    turns(service, ray)
    spec = told(service, finals)
    listed = finalists_of(spec)
    assert [(one.budget, one.origin, one.seed) for one in listed] == [
        (budget, origin, 0) for budget in (300_000, 600_000) for origin in ("thin", "resnet")
    ]
    assert [one.build(SearchSpec.from_dict(spec)).multiply_adds <= one.budget for one in listed] == [True] * 4


def test_baselines_that_are_added_say_which_are_too_dear(service: Service, ray: RayDouble, http: httpx.Client) -> None:
    made, _ = ended(service, ray, http, budgets=["100k", "600k"])
    more = {"baselines": ["resnet", "mobilenetv2"]}
    (note,) = http.post(f"/api/v1/sweeps/{made['id']}/networks", json=more).json()["notes"]
    assert note.startswith("mobilenetv2 takes at least") and note.endswith("it is left out for 100,000")


def test_a_sweep_says_which_reference_networks_cannot_be_as_small_as_its_budgets(
    app: FastAPI, http: httpx.Client
) -> None:
    seeding.report(app)
    made = sweep(http, budgets=[100_000, 600_000], baselines=["resnet", "mobilenetv2"])
    smallest = (one.narrowest() for one in candidates("mobilenetv2", SPACE))
    least = min(smallest, key=lambda one: one.multiply_adds)
    told = (
        f"mobilenetv2 takes at least {least.multiply_adds:,} multiply-adds, {least.parameters:,} parameters and "
        f"{least.peak_activations:,} activations: it is left out for 100,000"
    )
    assert 100_000 < least.multiply_adds < 600_000 and made["notes"] == [told]
    alone = sweep(http, budgets=[100_000], finals=False,
                  search={"dataset": "digits", "finals": {"baselines": ["mobilenetv2"]}})  # fmt: skip
    assert alone["notes"] == [told]
    one = {"dataset": "digits", "budgets": [100_000, 600_000], "finals": {"baselines": ["mobilenetv2"]}}
    assert http.post("/api/v1/searches", json=one).json()["notes"] == [told]
    assert http.post("/api/v1/searches", json=one | {"limits": {"parameters": least.parameters - 1}}).json()[
        "notes"
    ] == [told.replace("100,000", "100,000, 600,000")]


@pytest.mark.parametrize(
    ("asked", "status", "what"),
    [
        ({}, 422, "nothing new"),
        ({"budgets": ["300k"]}, 422, "nothing new"),
        ({"budgets": ["200k"]}, 422, "below the smallest cost of the searches"),
        ({"budgets": ["1G"]}, 422, "not feasible"),
        ({"budgets": ["some"]}, 422, "not a number"),
        ({"baselines": ["best"]}, 422, "random"),
    ],
)
def test_networks_that_cannot_be_added_are_refused(
    service: Service, ray: RayDouble, http: httpx.Client, asked: dict[str, Any], status: int, what: str
) -> None:
    made, _ = ended(service, ray, http)
    refused = http.post(f"/api/v1/sweeps/{made['id']}/networks", json=asked)
    assert refused.status_code == status and what in refused.text
    assert members(http, made, "finals") == []


def test_the_sweeps_page_adds_networks(service: Service, ray: RayDouble, http: httpx.Client) -> None:
    made, _ = ended(service, ray, http)
    page, form = f"/sweeps/{made['id']}", {"budgets": "470k", "baselines": "thin, resnet"}
    form["key"] = re.findall(r'name="key" value="([^"]+)"', http.get(page).text)[0]
    for _ in range(2):  # a button that is pressed twice queues one
        added = http.post(f"{page}/networks", data=form)
        assert added.status_code == 303 and added.headers["location"] == page
    late = http.post(f"{page}/networks", data=form | {"baselines": "random"})
    assert late.status_code == 422 and "networks were added meanwhile" in late.text
    (finals,) = members(http, made, "finals")
    turns(service, ray)
    listed = finalists_of(told(service, finals))
    assert [one.origin for one in listed] == ["search", "search", "thin", "resnet"]
    assert {one.budget for one in listed} == {470_000}


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ({}, "budgets: nothing new"),
        ({"budgets": "300k, 200k"}, "<code>200000</code>: below the smallest cost of the searches"),
        ({"budgets": "some"}, "<code>some</code>: not a number"),
        ({"baselines": "resnet, best"}, "baselines.1: <code>best</code>: Input should be"),
    ],
)
def test_the_sweeps_page_says_what_cannot_be_added_and_keeps_what_was_typed(
    service: Service, ray: RayDouble, http: httpx.Client, form: dict[str, str], what: str
) -> None:
    made, _ = ended(service, ray, http)
    refused = http.post(f"/sweeps/{made['id']}/networks", data=form)
    said = html.unescape(re.search(r'role="alert"><p>(.*)</p>', refused.text)[1])  # type: ignore[index]
    assert refused.status_code == 422 and "Nothing was queued." in said and what in said, said
    for typed in form.values():
        assert f'value="{typed}"' in refused.text
    assert members(http, made, "finals") == []


def test_the_sweeps_page_names_the_baselines_that_it_leaves_out(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made, _ = ended(service, ray, http, budgets=["100k", "600k"])
    added = http.post(f"/sweeps/{made['id']}/networks", data={"baselines": "mobilenetv2"})
    assert added.status_code == 200 and "it is left out for 100,000." in added.text


def test_nothing_is_added_while_searches_run_or_to_searches_for_one_budget_each(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    running = sweep(http, finals=False)
    refused = http.post(f"/api/v1/sweeps/{running['id']}/networks", json={"budgets": ["400k"]})
    assert refused.status_code == 409 and "2 searches" in refused.text
    for search_id in members(http, running, "search"):
        http.post(f"/api/v1/searches/{search_id}/cancel")
    refused = http.post(f"/api/v1/sweeps/{running['id']}/networks", json={"budgets": ["400k"]})
    assert refused.status_code == 409 and "has succeeded" in refused.text
    made, _ = ended(service, ray, http, strategy="independent", budgets=["300k"])
    refused = http.post(f"/api/v1/sweeps/{made['id']}/networks", json={"budgets": ["400k"]})
    assert refused.status_code == 422 and "a single budget" in refused.text


def test_finals_are_launched_again_with_the_same_list_after_a_lost_attempt(
    service: Service, ray: RayDouble, http: httpx.Client
) -> None:
    made = sweep(http)
    searches, (finals,) = members(http, made, "search"), members(http, made, "finals")
    http.post(f"/api/v1/searches/{searches[1]}/cancel")
    turns(service, ray)
    found(service, searches[0])
    turns(service, ray)
    before = told(service, finals)
    found(service, searches[1])
    work = Work(service.searches.engine)
    token = next(one.lease_token or "" for one in work.take_over("other") if one.id == finals)
    work.move(finals, token, Status.QUEUED)
    turns(service, ray)
    after = told(service, finals)
    assert after["attempt"] == before["attempt"] + 1 and after["finalists"] == before["finalists"]


def test_of_several_winners_the_sweeps_page_shows_the_best_on_validation() -> None:
    def won(seed: int, validation_accuracy: float | None, accuracy: float) -> Point:
        return Point(
            architecture=f"s{seed}-1", search=f"s{seed}", origin="search", winner=True, seed=seed, budget=1, cost=1.0,
            accuracy=accuracy, accuracy_low=accuracy, accuracy_high=accuracy, balanced_accuracy=accuracy,
            validation_accuracy=validation_accuracy, on_front=True,
        )  # fmt: skip

    (row,) = by_budget([won(0, 0.9, 0.8), won(1, 0.8, 0.99), won(2, 0.85, 0.98)])
    assert row.best["seed"] == 0 and row.mean == pytest.approx((0.8 + 0.99 + 0.98) / 3)
    (row,) = by_budget([won(0, None, 0.8), won(1, None, 0.99)])
    assert row.best["seed"] == 1, "as a version told that told no more"
