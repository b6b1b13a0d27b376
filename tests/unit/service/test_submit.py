"""The form that queues a search."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas_core.space.operations import OPERATIONS
from nas_core.spec import BALANCES, BASELINES, PRECISIONS
from nas_core.spec.augmentation import CROPS
from service.dashboard.submit import FIELDS, SHARED, again, body
from service.domain.request import DataRequest, SearchRequest, SpaceRequest
from service.domain.sweep import SweepRequest
from tests import seeding
from tests.unit.service.test_dashboard import TOKEN, text

ASKED = {"dataset": "digits", "budgets": "300k, 600000", "seed": "3", "name": "by form"}


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    """A browser without scripts."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def guarded_app(tmp_path: Path) -> Iterator[FastAPI]:
    """A service that asks for tokens and knows where data lie."""
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        (tmp_path / "pets" / label / "1.png").write_bytes(b"")
    app = seeding.make_app(tmp_path / "guarded", tokens={TOKEN: "vision"}, data_roots=(str(tmp_path),))
    yield app
    seeding.parts(app).searches.engine.dispose()


def key(html: str) -> str:
    """The idempotency key that a form carries."""
    found = re.search(r'name="key" value="([^"]{16,})"', html)
    assert found is not None
    return found[1]


def beside(html: str, field: str) -> str:
    """What stands beside a field as wrong with it."""
    found = re.search(rf'id="wrong-{field.replace(".", "-")}"[^>]*>(.*?)</p>', html, re.DOTALL)
    assert found is not None
    return unescape(text(found[1])).strip()


def searches(app: FastAPI) -> list[Any]:
    return list(seeding.parts(app).searches.page(10)[0])


def sweeps(app: FastAPI) -> list[Any]:
    return list(seeding.parts(app).sweeps.page(10, None, None))


def test_the_form_queues_what_the_api_would_and_leads_to_the_search(app: FastAPI, browser: httpx.Client) -> None:
    seeding.report(app)
    html = browser.get("/submit").text
    filled: dict[str, Any] = ASKED | {
        "key": key(html),
        "space.preset": "digits",
        "space.share": "true",
        "space.blocks": "2, 2",
    }
    filled |= {"settings.retrain_epochs": "5", "limits.parameters": "90k", "workers": "1-2", "priority": "-1"}
    filled |= {"export.opset": "18", "export.normalise": "false", "engine.synchronised_bn": "false"}
    filled |= {"engine.precision": "bfloat16", "engine.recompute": "true"}
    filled |= {"settings.recipe": "standard", "settings.retrain_patience": "3", "settings.balance": "loss"}
    filled |= {"settings.retrain_start": "supernet"}
    filled |= {"space.stem": "2, 1", "space.operations": ["mobile", "identity"]}
    filled |= {"settings.lr": "0.05", "project": " vision "}
    sent = browser.post("/submit", data=filled)
    assert sent.status_code == 303, text(sent.text)
    (search,) = searches(app)
    assert sent.headers["location"] == f"/searches/{search.id}"
    by_api = {
        "dataset": "digits", "budgets": ["300k", "600000"], "seed": 3, "name": "by form", "project": "vision",
        "space": {"preset": "digits", "share": True, "blocks": [2, 2], "stem": [2, 1],
                  "operations": ["mobile", "identity"]},
        "settings": {"recipe": "standard", "retrain_epochs": 5, "retrain_patience": 3, "balance": "loss", "lr": 0.05,
                     "retrain_start": "supernet"},
        "export": {"opset": 18, "normalise": False}, "limits": {"parameters": "90k"},
        "engine": {"synchronised_bn": False, "precision": "bfloat16", "recompute": True},
        "workers": {"min": 1, "max": 2}, "priority": -1,
    }  # fmt: skip
    assert search.request == by_api
    made = browser.post("/api/v1/searches", json=by_api)
    assert made.status_code == 201
    first, second = searches(app)
    assert first.spec == second.spec and (first.project, first.priority) == (second.project, second.priority)


def test_a_double_click_queues_one_search_and_another_form_another(app: FastAPI, browser: httpx.Client) -> None:
    filled = ASKED | {"key": key(browser.get("/submit").text)}
    first, second = browser.post("/submit", data=filled), browser.post("/submit", data=filled)
    assert first.status_code == second.status_code == 303
    assert first.headers["location"] == second.headers["location"] and len(searches(app)) == 1
    changed = browser.post("/submit", data=filled | {"seed": "4"})
    assert changed.status_code == 422 and "has queued another search before" in text(changed.text)
    assert len(searches(app)) == 1
    again = browser.post("/submit", data=filled | {"seed": "4", "key": key(changed.text)})
    assert again.status_code == 303 and len(searches(app)) == 2


WRONG: list[tuple[dict[str, str], dict[str, Any], str]] = [
    ({"budgets": "1, 300k"}, {"budgets": ["1", "300k"]}, "budgets"),
    ({"budgets": "few"}, {"budgets": ["few"]}, "budgets"),
    ({"dataset": "dogs"}, {"dataset": "dogs"}, "dataset"),
    ({"workers": "two"}, {"workers": "two"}, "workers"),
    ({"workers": "99"}, {"workers": 99}, "workers"),
    ({"priority": "11"}, {"priority": 11}, "priority"),
    ({"project": "a b"}, {"project": "a b"}, "project"),
    ({"space.blocks": "2 x"}, {"space": {"blocks": [2, "x"]}}, "space.blocks"),
    ({"space.levels": "9"}, {"space": {"levels": 9}}, "space.levels"),
    ({"settings.lr": "nan"}, {"settings": {"lr": "nan"}}, "settings.lr"),
    ({"settings.batch_size": "1"}, {"settings": {"batch_size": 1}}, "settings.batch_size"),
    ({"limits.parameters": "3"}, {"limits": {"parameters": "3"}}, "limits.parameters"),
]


@pytest.mark.parametrize(("form", "body", "field"), WRONG)
def test_what_is_wrong_stands_beside_its_field_in_the_words_of_the_api(
    app: FastAPI, browser: httpx.Client, form: dict[str, str], body: dict[str, Any], field: str
) -> None:
    seeding.report(app)
    refused = browser.post("/api/v1/searches", json={"dataset": "digits", "budgets": ["300k"]} | body)
    assert refused.status_code == 422
    (problem,) = refused.json()["errors"]
    filled = {"dataset": "digits", "budgets": "300k"} | form
    sent = browser.post("/submit", data=filled)
    shown = browser.post("/fragments/submit", data=filled)
    assert sent.status_code == 422 and shown.status_code == 200
    for html in (sent.text, shown.text):
        said = beside(html, field)
        assert problem["reason"] in said and problem["accepted"] in said
        assert all(beside(html, other) == "" for other in FIELDS if other != field)
    marked = re.search(rf'name="{field}"[^>]*>', sent.text)
    assert marked is not None and 'aria-invalid="true"' in marked[0] and f"wrong-{field.replace('.', '-')}" in marked[0]
    for value in filled.values():
        assert f'value="{value}"' in sent.text, "what was filled in is kept"
    folded = [part for part in re.findall(r"<details.*?</details>", sent.text, re.DOTALL) if f'name="{field}"' in part]
    assert all(part.startswith('<details class="panel" open>') for part in folded), "it is not folded away"
    assert searches(app) == []


SWEPT: dict[str, Any] = ASKED | {
    "seed": "0, 1", "sweep.strategy": "independent", "sweep.finals": "true", "sweep.baselines": "random",
    "sweep.grid": '{"space.share": [true, false]}', "project": "vision", "priority": "2", "max_run": "12h",
}  # fmt: skip


def test_the_form_queues_a_sweep_as_the_api_would_and_its_page_fills_the_form_in_again(
    app: FastAPI, browser: httpx.Client
) -> None:
    filled = SWEPT | {"key": key(browser.get("/submit").text)}
    told = browser.post("/fragments/submit", data=filled).text
    assert "8 searches, and finals that retrain what they find" in text(told) and "Time of a search" in text(told)
    first, second = browser.post("/submit", data=filled), browser.post("/submit", data=filled)
    assert first.status_code == second.status_code == 303, text(first.text)
    assert first.headers["location"] == second.headers["location"]
    (sweep,) = sweeps(app)
    assert first.headers["location"] == f"/sweeps/{sweep.id}"
    by_api: dict[str, Any] = {
        "search": {"dataset": "digits", "max_run": "12h"}, "budgets": ["300k", "600000"], "seeds": [0, 1],
        "strategy": "independent", "finals": True, "baselines": ["random"], "grid": {"space.share": [True, False]},
        "project": "vision", "priority": 2, "name": "by form",
    }  # fmt: skip
    assert sweep.request == by_api
    made = browser.post("/api/v1/sweeps", json=by_api)
    assert made.status_code == 201
    of_form, of_api = (
        [one.spec for one in seeding.parts(app).sweeps.searches(made_by, 99) if one.kind == "search"]
        for made_by in (sweep.id, made.json()["id"])
    )
    assert of_form == of_api and len(of_form) == 8
    duplicate = re.search(r'href="([^"]+)">Duplicate', browser.get(f"/sweeps/{sweep.id}").text)
    assert duplicate is not None
    html = browser.get(unescape(duplicate[1])).text
    assert "<h1>New sweep</h1>" in html and "Queue the sweep" in html
    sent = browser.post("/submit", data=filled_in(html))
    assert sent.status_code == 303, text(sent.text)
    again = {one.id: one for one in sweeps(app)}[sent.headers["location"].rpartition("/")[2]]
    assert again.request == by_api | {"budgets": ["300000", "600000"], "search": AS_THE_FORM | by_api["search"]}


AS_THE_FORM: dict[str, Any] = {"workers": 1, "cpus_per_worker": 1}
"""What the form has filled in from the beginning."""


def filled_in(html: str) -> dict[str, Any]:
    """What a browser would send of a form, as it is filled in."""
    form = html[html.index('<form class="submit"') :]
    inputs = re.findall(r'<input (?:id="[^"]*"|type="hidden") name="([^"]+)" value="([^"]*)"', form)
    chosen = re.findall(r'<select[^>]* name="([^"]+)"[^>]*>[^§]*?<option value="([^"]*)" selected>', form)
    written = re.findall(r'<textarea[^>]* name="([^"]+)"[^>]*>([^<]*)<', form)
    sent: dict[str, Any] = {name: unescape(value) for name, value in [*inputs, *chosen, *written]}
    for name, value in re.findall(r'<input type="checkbox" name="([^"]+)" value="([^"]*)" checked>', form):
        sent.setdefault(name, []).append(unescape(value))
    return sent


@pytest.mark.parametrize(
    ("form", "field", "said"),
    [
        ({"sweep.strategy": "greedy"}, "sweep.strategy", "'path' or 'independent'"),
        ({"seed": "0, one"}, "seed", "one : Input should be a valid integer"),
        ({"seed": " ".join(map(str, range(5001)))}, "sweep.grid", "20004 : too many searches. Accepted: at most 10000"),
        ({"budgets": ""}, "budgets", "Field required"),
        ({"dataset": ""}, "dataset", "Field required"),
        ({"budgets": "1, 300k"}, "budgets", "not feasible: too small for this search space"),
        ({"budgets": "few"}, "budgets", "few : "),
        ({"sweep.baselines": "best"}, "sweep.baselines", "Input should be 'random'"),
        ({"sweep.finals": "false"}, "sweep.baselines", "without finals"),
        ({"finals.candidates": "2"}, "sweep.finals", "has no effect: the finals of the sweep retrain"),
        ({"sweep.grid": "share"}, "sweep.grid", "share : Input should be a valid dictionary. Accepted: an object"),
        ({"sweep.grid": '{"budgets": [1]}'}, "sweep.grid", "cannot be varied"),
        ({"sweep.grid": '{"space.levels": [9]}'}, "space.levels", "9 : "),
        ({"workers": "99"}, "workers", "more than the cluster can ever have"),
    ],
)
def test_what_is_wrong_with_a_sweep_stands_beside_its_field(
    app: FastAPI, browser: httpx.Client, form: dict[str, str], field: str, said: str
) -> None:
    seeding.report(app)
    sent, shown = browser.post("/submit", data=SWEPT | form), browser.post("/fragments/submit", data=SWEPT | form)
    assert sent.status_code == 422 and shown.status_code == 200
    assert said in beside(sent.text, field) and (said in beside(shown.text, field) or not all(form.values()))
    assert "Nothing was queued" in sent.text and sweeps(app) == []


def test_while_one_types_the_feasible_budgets_and_the_supernets_cost_are_told(browser: httpx.Client) -> None:
    empty = browser.post("/fragments/submit", data={"dataset": "", "budgets": ""}).text
    assert "Choose a dataset to see feasible budgets" in text(empty)
    assert all(beside(empty, field) == "" for field in FIELDS), "nobody is blamed for what they have not come to"
    words = text(browser.post("/fragments/submit", data={"dataset": "digits"}).text)
    assert "66,880 to 2,114,880 multiply-adds are feasible" in words
    assert "2,114,880 multiply-adds, 84,954 parameters, 33,792 activations at its peak" in words
    wider = {"dataset": "digits", "budgets": "1", "space.channels": "32"}
    words = text(browser.post("/fragments/submit", data=wider).text)
    assert "66,880" not in words and "multiply-adds are feasible" in words, "told also while a budget is not"
    as_no_address_can_be = ASKED | {"description": " " * 100_000}
    assert "300,000, 600,000" in text(browser.post("/fragments/submit", data=as_no_address_can_be).text)


def test_the_form_names_baselines_that_cannot_be_as_small_as_a_budget(browser: httpx.Client) -> None:
    asked = ASKED | {"budgets": "100k, 600k", "finals.baselines": "resnet, mobilenetv2"}
    words = text(browser.post("/fragments/submit", data=asked).text)
    assert re.search(r"mobilenetv2 takes at least [\d,]+ multiply-adds.* it is left out for 100,000\b", words)
    assert "resnet takes at least" not in words


def test_a_folder_is_not_looked_at_anew_with_every_letter(guarded_app: FastAPI, tmp_path: Path) -> None:
    pets = str(tmp_path / "pets")
    for label in ("cat", "dog"):
        for number in range(8):
            Image.effect_noise((8, 8), 60).convert("RGB").save(f"{pets}/{label}/{number}.png")
        (tmp_path / "pets" / label / "1.png").replace(tmp_path / "pets" / label / "8.png")
    started = seeding.count_looks(guarded_app)
    with seeding.serving(guarded_app) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/login", data={"token": TOKEN})
        for budgets in ("", "3", "30", "300k"):
            told = seeding.form(client, {"dataset": pets, "budgets": budgets})
            assert "8 × 8 pixels, 1 channel, 2 classes" in text(told)
        assert len(started) == 1
        for folder in ("cat", "dog"):
            (tmp_path / "pets" / folder / "0.png").unlink()
        sent = client.post("/submit", data={"dataset": pets, "budgets": "300k"})
        assert sent.status_code == 422, "what is queued is held to what is there now"
        assert "at least 8 training images per class" in beside(sent.text, "dataset")
        assert len(started) == 2


def test_the_form_of_another_site_is_refused(app: FastAPI, browser: httpx.Client, url: str) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        told = browser.post("/submit", data=ASKED, headers=headers)
        assert told.status_code == 403 and "another site" in told.json()["title"]
        assert browser.post("/logout", headers=headers).status_code == 403
    assert searches(app) == []
    elsewhere = "https://yoso.example"  # as a proxy that changes the Host makes it look
    for own in ({"Origin": url}, {"Origin": elsewhere, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert browser.post("/submit", data=ASKED, headers=own).status_code == 303


def test_a_project_that_is_full_is_told_so(app: FastAPI, browser: httpx.Client) -> None:
    browser.patch("/api/v1/projects/default", json={"max_queued": 0})
    sent = browser.post("/submit", data=ASKED)
    assert sent.status_code == 422 and "may have 0" in beside(sent.text, "project")


def test_a_key_that_is_none_and_too_many_fields_are_refused(app: FastAPI, browser: httpx.Client) -> None:
    sent = browser.post("/submit", data=ASKED | {"key": "k" * 256})
    assert sent.status_code == 422 and "printable characters" in text(sent.text)
    assert browser.post("/submit", data={f"field{number}": "1" for number in range(300)}).status_code == 422
    assert searches(app) == []


def test_with_a_projects_token_the_form_is_of_that_project_and_knows_what_lies_below_the_roots(
    guarded_app: FastAPI, tmp_path: Path
) -> None:
    with seeding.serving(guarded_app) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/submit").headers["location"].startswith("/login?next=%2F")
        assert client.post("/fragments/submit").headers["location"].startswith("/login?next=%2F")
        assert client.post("/submit", data=ASKED).headers["location"].startswith("/login")
        client.post("/login", data={"token": TOKEN})
        html = client.get("/submit").text
        assert 'name="project"' not in html and "vision" in text(html)
        assert re.findall(r'<option value="([^"]*)"></option>', html) == ["digits", str(tmp_path / "pets")]
        assert client.post("/submit", data=ASKED | {"project": "other"}).status_code == 422
        assert client.post("/submit", data=ASKED).status_code == 303
    (search,) = searches(guarded_app)
    assert search.project == "vision"


def test_a_duplicate_asks_for_all_that_was_asked_for(app: FastAPI, browser: httpx.Client) -> None:
    request: dict[str, Any] = {
        "dataset": "digits", "budgets": ["300k", "600000"], "workers": {"min": 1, "max": 8}, "priority": 3, "seed": 7,
        "space": {"share": True, "operations": ["mobile", "identity"]}, "limits": {"latency_ms": 2.5},
        "settings": {"lr": 0.05, "flip": False, "policy": "rand_augment", "balance": "none"},
        "tags": ["phone"], "name": '"quoted" & <b>', "description": "first\nsecond <i>",
    }  # fmt: skip
    made = seeding.queue(app, **request)
    html = browser.get(f"/searches/{made}").text
    assert f'<a class="button quiet" href="/submit?from={made}">Duplicate</a>' in html
    html = browser.get(f"/submit?from={made}").text
    also = ['settings.balance="none"', "settings.flip=false", 'settings.policy="rand_augment"']
    assert sorted(filled_in(html)["also"]) == also
    sent = browser.post("/submit", data=filled_in(html))
    assert sent.status_code == 303, text(sent.text)
    assert searches(app)[0].request == request | {"cpus_per_worker": 1}
    refused = browser.post("/submit", data=filled_in(html) | {"priority": "99", "also": also[2]})
    assert refused.status_code == 422 and filled_in(refused.text)["also"] == also[2:], "what was unticked is left out"
    for wrong, told in (("settings.policy=1", "settings.policy"), ("sweep=3", "sweep"), ("space=3", "space")):
        assert told in text(browser.post("/submit", data=ASKED | {"also": wrong}).text), wrong


def test_a_form_is_filled_in_with_what_its_visitor_may_see(guarded_app: FastAPI) -> None:
    elsewhere = seeding.queue(guarded_app, project="audio")
    elsewhere_too = seeding.sweep(guarded_app, project="audio", seeds=[0])
    with seeding.serving(guarded_app) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/login", data={"token": TOKEN})
        for address in (f"from={elsewhere}", f"from_sweep={elsewhere_too}", "from=x", f"from_sweep={elsewhere}"):
            assert client.get(f"/submit?{address}").status_code == 404, address


SETTINGS = {
    "settings.flip": st.booleans(), "settings.crop": st.sampled_from(CROPS), "settings.momentum": st.floats(0, 0.9),
    "settings.balance": st.sampled_from(BALANCES), "settings.lr": st.floats(1e-9, 1),
    "engine.precision": st.sampled_from(PRECISIONS), "engine.compile": st.booleans(), "export.normalise": st.booleans(),
    "finals.baselines": st.lists(st.sampled_from(BASELINES), unique=True), "finals.candidates": st.integers(1, 16),
}  # fmt: skip
WORDS = st.text(st.sampled_from("ab 1,;-\n\r\"'\u2028.é"), max_size=6)
OWN = {
    "name": WORDS, "description": WORDS, "preempts": st.booleans(), "confirmed": st.booleans(),
    "tags": st.lists(st.sampled_from(["phone", "team:mobile"]), unique=True), "priority": st.integers(-10, 10),
    "seed": st.integers(), "gpus_per_worker": st.sampled_from([0, 1, "auto"]),
    "max_run": st.sampled_from(["12h", None]),
    "workers": st.integers(1, 9) | st.fixed_dictionaries({"min": st.integers(1), "max": st.integers(1)}),
    "budgets": st.none() | st.lists(st.sampled_from(["300k", "600000"]), min_size=1),
    "data.ignore": st.lists(WORDS), "data.train": st.none() | WORDS, "data.channels": st.sampled_from([None, 1, 3]),
    "space.stem": st.lists(st.integers(1, 2)), "space.share": st.none() | st.booleans(),
    "space.operations": st.lists(st.sampled_from([*OPERATIONS]), min_size=1),
    "space.preset": st.none() | st.just("digits"),
}  # fmt: skip


@given(st.fixed_dictionaries({"dataset": WORDS}, optional=OWN | SETTINGS))
def test_whatever_a_request_holds_the_form_holds_it_too(fields: dict[str, Any]) -> None:
    request: dict[str, Any] = {}
    for field, value in fields.items():
        root, dot, rest = field.partition(".")
        request.setdefault(root, {}).update({rest: value}) if dot else request.update({root: value})
    asked, held = (SearchRequest.model_validate(one).model_dump() for one in (request, body(again(request))))
    assert held == asked


def test_the_form_asks_for_fields_that_the_api_knows() -> None:
    roots = {field.partition(".")[0] for field in FIELDS}
    assert roots == {*SearchRequest.model_fields, "sweep"}
    own = {field.partition(".")[2] for field in FIELDS if field.startswith("sweep.")}
    assert own | {*SHARED, "seeds", "search"} == set(SweepRequest.model_fields)
    of_space = {field.partition(".")[2] for field in FIELDS if field.startswith("space.")}
    assert of_space == set(SpaceRequest.model_fields) - {"image_size"}, "which is asked for as data.image_size"
    assert {f.partition(".")[2] for f in FIELDS if f.startswith("data.")} == set(DataRequest.model_fields)
