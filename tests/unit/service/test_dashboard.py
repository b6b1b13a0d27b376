"""The dashboard's pages, as a browser without scripts sees them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from nas_core.files import FILES
from nas_core.space.picture import RULES
from nas_core.train.evaluation import Evaluation, Mistake
from service.answers import Point
from service.dashboard.frame import STATIC
from service.dashboard.sweeps import MOST_DRAWN, drawn
from service.domain.lifecycle import Status
from tests import seeding

TOKEN = "a-token-of-sixteen"


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    """A browser of sorts."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def guarded_app(tmp_path: Path) -> Iterator[FastAPI]:
    """A service that asks for tokens."""
    app = seeding.make_app(tmp_path / "guarded", tokens={TOKEN: "vision"}, data_roots=(str(tmp_path),))
    yield app
    seeding.parts(app).searches.engine.dispose()


@pytest.fixture
def guarded(guarded_app: FastAPI) -> Iterator[httpx.Client]:
    """A browser of a service that asks for tokens."""
    with seeding.serving(guarded_app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def text(html: str) -> str:
    """The words of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_root_leads_to_the_searches(browser: httpx.Client) -> None:
    assert browser.get("/").headers["location"] == "/searches"


def test_an_empty_list_says_how_to_begin(browser: httpx.Client) -> None:
    told = browser.get("/searches")
    assert told.status_code == 200 and "No searches yet" in told.text
    assert "yoso submit digits --budget 300k --budget 600k" in told.text


def test_the_list_shows_every_search(browser: httpx.Client, seeds: dict[str, str]) -> None:
    html = browser.get("/searches").text
    for search_id in seeds.values():
        assert f'href="/searches/{search_id}"' in html
    words = text(html)
    assert "running" in words and "97.5 %" in words and "out of memory" in words
    assert "&lt;b&gt;later&lt;/b&gt;" in html and "<b>later" not in html


def test_the_list_can_be_narrowed_to_a_state(browser: httpx.Client, seeds: dict[str, str]) -> None:
    html = browser.get("/searches?status=running").text
    assert seeds["running"] in html and seeds["failed"] not in html
    assert "No search is waiting" in text(browser.get("/searches?status=waiting").text)
    assert seeds["failed"] in browser.get("/searches?status=nonsense").text


def test_the_list_comes_in_pages(app: FastAPI, browser: httpx.Client) -> None:
    ids = [seeding.queue(app) for _ in range(53)]
    first = browser.get("/searches").text
    older = re.search(r'href="(/searches\?[^"]*)" rel="next"', first)
    assert older is not None
    second = browser.get(older[1].replace("&amp;", "&")).text
    assert [search_id in first for search_id in ids] == [False] * 3 + [True] * 50
    assert [search_id in second for search_id in ids] == [True] * 3 + [False] * 50


def listed(html: str) -> list[str]:
    """The ids of the searches in a list."""
    return re.findall(r'<a id="to-(\w+)"', html)


def test_the_list_is_searched_by_name_id_and_data_set(app: FastAPI, browser: httpx.Client) -> None:
    names = ("Night run", "night_run", "100% sure", "other")
    ids = dict(zip(names, [seeding.queue(app, name=name) for name in names], strict=True))
    for words, found in {"night": names[:2], "NIGHT R": names[:1], "t_r": names[1:2], "%": names[2:3], "'": (),
                         "digit": names, " sure ": names[2:3]}.items():  # fmt: skip
        told = browser.get("/searches", params={"q": words})
        assert listed(told.text) == [ids[name] for name in reversed(found)], words
        page = browser.get("/api/v1/searches", params={"q": words, "kind": "search"}).json()
        assert [one["id"] for one in page["items"]] == listed(told.text) and page["next"] is None, words
        assert browser.get("/api/v1/searches", params={"q": words, "kind": "finals"}).json()["items"] == []
        assert f'name="q" value="{words.strip()}"'.replace("'", "&#39;") in told.text
    assert listed(browser.get("/searches", params={"q": ids["other"]}).text) == [ids["other"]]
    assert listed(browser.get("/searches", params={"q": ids["other"][2:9]}).text) == [ids["other"]]
    assert "No search has “<i>” in its name" in browser.get("/searches?q=%3Ci%3E").text.replace("&lt;i&gt;", "<i>")


def test_many_budgets_are_told_by_the_first_and_the_last(app: FastAPI, browser: httpx.Client) -> None:
    seeding.queue(app, budgets=["100k", "200k", "400k", "800k"])
    assert text(browser.get("/searches").text).count("100k 200k 400k 800k") == 2, "wide and narrow"
    many = {"budgets": ["100k", "200k", "400k", "800k", "1M"]}
    search, sweep = seeding.queue(app, **many), seeding.sweep(app, seeds=[0], **many)
    assert text(browser.get(f"/searches/{search}").text).count("100k to 1M (5)") == 1
    assert text(browser.get("/searches").text).count("100k to 1M (5)") == 4, "two searches, wide and narrow"
    assert text(browser.get(f"/sweeps/{sweep}").text).count("100k to 1M (5)") == 2, "the sweep's and its search's"


def test_the_list_is_narrowed_by_project_and_kind_and_all_of_it_stays_in_the_address(
    app: FastAPI, browser: httpx.Client
) -> None:
    sweep_id = seeding.sweep(app, name="night", finals=True, seeds=[0, 1])
    members = seeding.parts(app).sweeps.searches(sweep_id, 10)
    finals = next(one.id for one in members if one.kind == "finals")
    other = seeding.queue(app, project="vision", name="night")
    seeding.parts(app).searches.cancel(other)
    found = browser.get("/searches?kind=finals").text
    assert listed(found) == [finals] and "finals</span>" in found
    assert set(listed(browser.get("/searches?kind=search").text)) == {one.id for one in members} - {finals} | {other}
    assert listed(browser.get("/searches?project=vision").text) == [other]
    assert listed(browser.get("/searches?project=vision&kind=finals").text) == []
    assert "No search matches the filters" in text(browser.get("/searches?project=vision&kind=finals").text)
    assert len(listed(browser.get("/searches?kind=nonsense&project=&q=").text)) == 4
    html = browser.get("/searches?project=vision&status=cancelled&q=night").text
    assert listed(html) == [other]
    assert 'href="/searches?status=failed&amp;q=night&amp;project=vision"' in html
    assert 'hx-get="/fragments/searches?status=cancelled&amp;q=night&amp;project=vision"' in html
    assert "<option selected>vision</option>" in html and 'name="status" value="cancelled"' in html
    told = browser.get("/searches?q=night&project=&kind=", headers={"HX-Request": "true"})
    assert told.headers["hx-replace-url"] == "/searches?q=night"


def test_words_are_looked_for_in_a_bounded_number_of_searches_at_a_time_and_all_are_reached(
    app: FastAPI, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.searches.LOOKED_THROUGH", 10)
    ids = [seeding.queue(app, name="rare" if number % 12 == 0 else "common") for number in range(25)]
    url, pages = "/searches?q=rare", 0
    found: list[str] = []
    while True:
        html = browser.get(url).text
        pages, found = pages + 1, found + listed(html)
        further = re.search(r'href="(/searches\?[^"]*)" rel="next">Look further', html)
        if further is None:
            break
        url = further[1].replace("&amp;", "&")
    pieces: list[list[str]] = []
    after = ""
    while after is not None:
        page = browser.get("/api/v1/searches", params={"q": "rare"} | ({"after": after} if after else {})).json()
        pieces, after = [*pieces, [one["id"] for one in page["items"]]], page["next"]
    assert pieces == [[ids[24]], [ids[12]], [ids[0]]]
    assert found == [ids[24], ids[12], ids[0]] and pages == 3
    assert listed(browser.get("/searches", params={"q": ids[0]}).text) == [ids[0]], "a whole id is found at once"
    monkeypatch.undo()
    many = [seeding.queue(app, name="many") for _ in range(52)]
    html = browser.get("/searches?q=many").text
    older = re.search(r'href="(/searches\?[^"]*)" rel="next">Older', html)
    assert older is not None and listed(html) == many[:1:-1]
    assert listed(browser.get(older[1].replace("&amp;", "&")).text) == many[1::-1]


@pytest.mark.parametrize("order", ["newest", "oldest", "accuracy"])
def test_the_list_has_every_search_once_in_its_order(
    app: FastAPI, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    accuracies = [0.5, None, 0.75, 0.5, 0.0, None, 1.0]
    ids = [seeding.queue(app, name=f"pets {accuracy}", tags=["pets"]) for accuracy in accuracies]
    for search_id, accuracy in zip(ids, accuracies, strict=True):
        seeding.change(app, search_id, accuracy=accuracy)
    by_id = dict(zip(ids, accuracies, strict=True))
    monkeypatch.setattr("service.dashboard.searches.PAGE_SIZE", 2)
    for narrowed in ("", "&tag=pets", "&q=pets"):
        url, found = f"/searches?sort={order}{narrowed}", list[str]()
        while url:
            html = browser.get(url).text
            found += listed(html)
            further = re.search(r'href="(/searches\?[^"]*)" rel="next"', html)
            url = further[1].replace("&amp;", "&") if further else ""
        if order == "accuracy":
            assert [by_id[one] for one in found] == [1.0, 0.75, 0.5, 0.5, 0.0]
            assert len({*found}) == 5 and "Searches without an accuracy so far are not shown" in html
        else:
            assert found == (ids if order == "oldest" else ids[::-1])


def test_the_list_is_filtered_by_a_tag_and_grouped_by_sweep(app: FastAPI, browser: httpx.Client) -> None:
    sweep = seeding.sweep(app, seeds=[0, 1], search={"dataset": "digits", "tags": ["a_b", "team:vision"]})
    members = [one.id for one in seeding.parts(app).sweeps.searches(sweep, 10) if one.kind == "search"]
    alone = seeding.queue(app, tags=["axb", "phone", "phone"])
    assert set(listed(browser.get("/searches?tag=a_b").text)) >= {*members}
    assert alone not in listed(browser.get("/searches?tag=a_b").text), "the underscore is no wildcard"
    assert listed(browser.get("/searches?tag=phone&q=digits").text) == [alone]
    assert browser.get("/api/v1/searches?tag=phone").json()["items"][0]["tags"] == ["axb", "phone"]
    assert listed(browser.get("/searches?tag=phon").text) == [], "a tag is a whole word"
    html = browser.get("/searches?group=sweep").text
    headings = [text(one).strip() for one in re.findall(r'<tr class="group">.*?</tr>', html)]
    assert headings == ["Without a sweep 1 on this page", f"Sweep {sweep} {len(listed(html)) - 1} on this page"]


def test_an_address_that_forms_are_sent_to_leads_to_the_page_with_the_form(app: FastAPI, browser: httpx.Client) -> None:
    search, sweep = seeding.queue(app), seeding.sweep(app, seeds=[0])
    person = {"Accept": "text/html"}
    for path, page in (
        (f"/searches/{search}/describe", f"/searches/{search}"), (f"/sweeps/{sweep}/networks", f"/sweeps/{sweep}"),
        ("/tokens/ci/revoke", "/tokens"), ("/webhooks/x/test", "/webhooks/x"), ("/fragments/submit", "/"),
    ):  # fmt: skip
        told = browser.get(path, headers=person)
        assert (told.status_code, told.headers.get("location")) == (303, page), path
        assert browser.get(path).status_code == 405, "programs are told"
    assert browser.get(f"/api/v1/searches/{search}/cancel", headers=person).status_code == 405
    assert browser.put("/searches", headers=person).status_code == 405


def test_a_page_says_which_query_parameter_it_cannot_use_and_its_value(app: FastAPI, browser: httpx.Client) -> None:
    accuracies = dict.fromkeys(seeding.BUDGETS, 0.9)
    for _ in range(2):
        seeding.Run(app, seeding.queue(app)).start().reach(accuracies)
    person = {"Accept": "text/html"}
    told = browser.get(f"/sweeps/{seeding.sweep(app, seeds=[0])}?cost=<euro>", headers=person)
    assert told.status_code == 422 and "cost: <code>&lt;euro&gt;</code>" in told.text
    places = {
        sort: browser.get("/api/v1/searches", params={"sort": sort, "limit": 1}).json()["next"]
        for sort in ("newest", "oldest", "accuracy")
    }
    for sort, after in [(sort, place) for sort in places for place in places.values()]:
        for path in ("/api/v1/searches", "/searches"):
            told = browser.get(path, params={"sort": sort, "after": after}, headers=person)
            assert told.status_code == (200 if after == places[sort] else 422), (sort, after)
            assert told.status_code == 200 or f"after: <code>{after}</code>" in told.text or path.startswith("/api")


def test_a_sweep_has_the_tags_that_all_its_searches_have(app: FastAPI, browser: httpx.Client) -> None:
    sweep = seeding.sweep(app, seeds=[0, 1], finals=True, search={"dataset": "digits", "tags": ["a_b", "old"]})
    other = seeding.sweep(app, seeds=[0], search={"dataset": "digits", "tags": ["axb"]})
    first, second, finals = (one.id for one in seeding.parts(app).sweeps.searches(sweep, 10))
    browser.patch(f"/api/v1/searches/{first}", json={"tags": ["own", "a_b", "old"]})
    page = browser.get(f"/sweeps/{sweep}").text
    assert 'href="/sweeps?tag=a_b"' in page and "own" not in page and 'value="a_b, old"' in page
    filled = {"tags": "a_b, own", "name": "night", "description": "For <the> fair."}
    saved = browser.post(f"/sweeps/{sweep}/describe", data=filled)
    assert saved.status_code == 303 and saved.headers["location"] == f"/sweeps/{sweep}"
    found = browser.get(f"/api/v1/sweeps/{sweep}").json()
    assert (found["tags"], found["name"], found["description"]) == (["a_b", "own"], "night", "For <the> fair.")
    page = browser.get(f"/sweeps/{sweep}").text
    assert "<p>For &lt;the&gt; fair.</p>" in page and "<h1>night</h1>" in page
    tags = {one.id: one.tags for one in seeding.parts(app).sweeps.searches(sweep, 10)}
    assert tags == {one: ["a_b", "own"] for one in (first, second, finals)}
    browser.patch(f"/api/v1/searches/{first}", json={"tags": ["own", *(f"t{number}" for number in range(19))]})
    for tagged, found in (("a_b", []), ("own", [sweep]), ("ow", []), ("axb", [other])):
        listed = browser.get(f"/api/v1/sweeps?tag={tagged}").json()["items"]
        assert [one["id"] for one in listed] == found, tagged
        shown = browser.get(f"/sweeps?tag={tagged}").text
        assert [one for one in (sweep, other) if f'id="to-{one}"' in shown] == found, tagged
    for path, found in (
        ("q=NIGH", [sweep]),
        (f"q={other[:8]}", [other]),
        ("q=digits&tag=axb", [other]),
        ("q=n_ght", []),
    ):
        assert [one["id"] for one in browser.get(f"/api/v1/sweeps?{path}").json()["items"]] == found, path
        shown = browser.get(f"/sweeps?{path}").text
        assert [one for one in (sweep, other) if f'id="to-{one}"' in shown] == found, path
    assert "has “n_ght” in its name" in shown and 'value="n_ght"' in shown
    for told, why in (("-x", "tags.0: <code>-x</code>"), ("own, more", f"search {first}, which has tags of its own")):
        refused = browser.post(f"/sweeps/{sweep}/describe", data=filled | {"tags": told})
        assert refused.status_code == 422 and why in refused.text, told
    assert browser.patch(f"/api/v1/sweeps/{sweep}", json={"tags": []}).json()["tags"] == []
    assert len(seeding.parts(app).searches.get(first).tags) == 19, "its own stay"
    kinds = [event.kind for event in seeding.parts(app).searches.events(second)]
    assert kinds == ["status", "described", "described"], "pages that show it hear of it"
    audited = browser.get("/api/v1/audit", params={"about": f"sweep/{sweep}", "action": "described"}).json()
    assert [one["data"]["fields"] for one in audited["items"]] == [["tags"], ["description", "name", "tags"]]


def test_a_search_gets_another_name_tags_and_a_description(app: FastAPI, browser: httpx.Client) -> None:
    search_id = seeding.queue(app, name="first", tags=["old"], description="<b>why</b>")
    page = browser.get(f"/searches/{search_id}").text
    assert "&lt;b&gt;why&lt;/b&gt;" in page and 'href="/searches?tag=old"' in page
    form = {"name": "second", "tags": "phone, team:vision phone", "description": ""}
    saved = browser.post(f"/searches/{search_id}/describe", data=form)
    assert saved.status_code == 303 and saved.headers["location"] == f"/searches/{search_id}"
    known = browser.get(f"/api/v1/searches/{search_id}").json()
    assert (known["name"], known["tags"], known["description"]) == ("second", ["phone", "team:vision"], "")
    refused = browser.post(f"/searches/{search_id}/describe", data={"name": "third", "tags": "-x"})
    assert refused.status_code == 422 and "tags.0: <code>-x</code>" in refused.text
    patched = browser.patch(f"/api/v1/searches/{search_id}", json={"description": "kept"})
    assert patched.json()["name"] == "second" and patched.json()["description"] == "kept"
    refused = browser.patch(f"/api/v1/searches/{search_id}", json={"note": "x"})
    assert refused.status_code == 422 and "one of name, tags, description" in refused.text
    refused = browser.patch(f"/api/v1/searches/{search_id}", json={"name": None})
    assert refused.status_code == 422 and "name: " in refused.text
    kinds = [event.kind for event in seeding.parts(app).searches.events(search_id)]
    assert kinds == ["status", "described", "described"], "pages that show it hear of it"
    audited = browser.get("/api/v1/audit", params={"about": f"search/{search_id}", "action": "described"}).json()
    assert [one["data"] for one in audited["items"]] == [
        {"fields": ["description"]}, {"fields": ["description", "name", "tags"]}
    ]  # fmt: skip


def test_a_place_that_is_none_is_refused(browser: httpx.Client) -> None:
    told = browser.get("/searches?after=x")
    assert told.status_code == 422 and told.json()["errors"][0]["field"] == "after"


def test_a_finished_search_offers_its_networks(browser: httpx.Client, seeds: dict[str, str]) -> None:
    html = browser.get(f"/searches/{seeds['succeeded']}").text
    words = text(html)
    assert "97.50 %" in words and "95.3 % – 98.7 %" in words and "300,000" in words
    assert "sse-connect" not in html and ">Cancel<" not in html
    links = set(re.findall(r'(?:href|src)="(/(?:api|searches/)[^"]*)"', html))
    assert {f"/api/v1/architectures/{seeds['succeeded']}-300000{kind}" for kind in ("", ".svg", "/weights")} <= links
    for kind in ("onnx", "torch_export", "python", "card"):
        assert f"/api/v1/architectures/{seeds['succeeded']}-300000/files/{kind}" in links
    for link in links:
        assert browser.get(link).status_code == 200, link


def test_a_running_search_is_live_and_shows_what_it_has(browser: httpx.Client, seeds: dict[str, str]) -> None:
    html = browser.get(f"/searches/{seeds['running']}").text
    words = text(html)
    assert f"/live/searches/{seeds['running']}?after=" in html and ">Cancel<" in html
    assert "The supernet during the search" in words and "found a network of" in words and "after retraining" in words
    snapshot = re.search(r'src="(/searches/\w+/snapshots/\d+\.svg)"', html)
    assert snapshot is not None
    for picture in (snapshot[1], f"/searches/{seeds['running']}/networks/600000.svg"):
        told = browser.get(picture)
        assert told.headers["content-type"] == "image/svg+xml" and told.text.startswith("<svg")


def test_a_picture_inside_a_page_has_its_rules_from_the_pages_stylesheet(
    browser: httpx.Client, seeds: dict[str, str]
) -> None:
    inside = browser.get(f"/searches/{seeds['running']}/networks/600000.svg?theme=page").text
    assert "<style" not in inside, "the pages' policy forbids it"
    sheet = (STATIC / "yoso.css").read_text().replace("\n", "")
    assert RULES in sheet


def test_pictures_that_are_not_there_are_not_found(browser: httpx.Client, seeds: dict[str, str]) -> None:
    for missing in ("networks/300000.svg", "snapshots/1.svg", "snapshots/999999.svg"):
        assert browser.get(f"/searches/{seeds['running']}/{missing}").status_code == 404


def test_a_failed_search_says_why(browser: httpx.Client, seeds: dict[str, str]) -> None:
    html = browser.get(f"/searches/{seeds['failed']}").text
    assert "the worker was killed: out of memory" in text(html)
    assert "&lt;here&gt;" in html


def test_an_unknown_search_gets_a_page(browser: httpx.Client) -> None:
    told = browser.get("/searches/nosuchsearch")
    assert told.status_code == 404 and "No such search" in told.text


def test_fragments_replace_parts_of_the_page(browser: httpx.Client, seeds: dict[str, str]) -> None:
    for search_id in seeds.values():
        page = browser.get(f"/searches/{search_id}").text
        swapped = re.findall(r'id="(\w+)"[^>]*hx-swap-oob', browser.get(f"/fragments/searches/{search_id}").text)
        assert sorted(swapped) == ["actions", "attempts", "events", "networks", "pictures", "summary"]
        assert all(page.count(f'id="{part}"') == 1 for part in swapped)
    assert seeds["running"] in browser.get("/fragments/searches?status=running").text


def test_hints_name_the_newest_event_and_end_with_the_search(browser: httpx.Client, seeds: dict[str, str]) -> None:
    told = browser.get(f"/live/searches/{seeds['succeeded']}").text
    newest = browser.get(f"/api/v1/searches/{seeds['succeeded']}/journal?limit=5000").json()[-1]["seq"]
    assert re.findall(r"event: (\w+)", told) == ["change", "end"] and f"id: {newest}" in told
    caught_up = {"Last-Event-ID": str(newest)}
    again = browser.get(f"/live/searches/{seeds['succeeded']}", headers=caught_up).text
    assert re.findall(r"event: (\w+)", again) == ["end"]


def test_every_page_is_strict_and_refers_to_this_site_alone(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id, seeds = seeding.seed_sweep(app), seeding.seed(app)
    search_id = seeding.parts(app).sweeps.searches(sweep_id, 1)[0].id
    compared = f"/compare?id={search_id}-100000&id={seeds['succeeded']}-300000"
    lists = ("/searches", "/sweeps", "/cluster", "/compare", "/submit?dataset=digits")
    for path in (*lists, f"/searches/{seeds['running']}", "/searches/nosuchsearch", f"/sweeps/{sweep_id}", compared):
        told = browser.get(path)
        policy = told.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
        assert not re.search(r"<style|style=|<script>|\son\w+=|javascript:|(?:src|href)=\"(?:https?:)?//", told.text)
        for section in ("searches", "sweeps", "cluster"):
            assert f'<a href="/{section}"' in told.text
        for link in re.findall(r'(?:href|src)="(/static/[^"]*)"', told.text):
            assert browser.get(link).status_code == 200


def test_pages_need_a_token_where_there_are_tokens(guarded: httpx.Client) -> None:
    searches = ("/searches", "/searches/x", "/fragments/searches", "/live/searches", "/searches/x/networks/1.svg")
    sweeps = ("/sweeps", "/sweeps/x", "/fragments/sweeps/x", "/live/sweeps/x", "/sweeps/x/front.svg")
    for path in (*searches, *sweeps, "/cluster", "/fragments/cluster", "/compare?id=x"):
        told = guarded.get(path)
        assert told.status_code == 303 and told.headers["location"].startswith("/login?next=%2F")
    told = guarded.get("/fragments/searches", headers={"HX-Request": "true"})
    assert told.status_code == 401 and told.headers["hx-redirect"] == "/login"


def test_a_token_is_exchanged_for_a_cookie(guarded: httpx.Client) -> None:
    assert 'type="password"' in guarded.get("/login").text
    wrong = guarded.post("/login", data={"token": "wrong", "next": "/searches"})
    assert (
        wrong.status_code == 401
        and "The token is unknown or has expired" in wrong.text
        and "set-cookie" not in wrong.headers
    )
    right = guarded.post("/login", data={"token": f" {TOKEN} ", "next": "/searches?status=failed"})
    assert right.status_code == 303 and right.headers["location"] == "/searches?status=failed"
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert guarded.get("/searches").status_code == 200
    assert guarded.post("/logout").headers["location"] == "/login"
    assert guarded.get("/searches").status_code == 303


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example/", "/\\evil.example", ""])
def test_signing_in_leads_nowhere_else(guarded: httpx.Client, elsewhere: str) -> None:
    told = guarded.post("/login", data={"token": TOKEN, "next": elsewhere})
    assert told.headers["location"] == "/searches"


def test_another_projects_searches_are_not_shown(guarded_app: FastAPI, guarded: httpx.Client) -> None:
    sweeps = [seeding.seed_sweep(guarded_app, project=project, seeds=[0, 1]) for project in ("vision", "other")]
    own, other = seeding.queue(guarded_app, project="vision"), seeding.queue(guarded_app, project="other")
    guarded.post("/login", data={"token": TOKEN})
    html = guarded.get("/searches").text
    assert own in html and other not in html
    for query in (f"q={other}", "q=digits", "project=other", "kind=search&project=other"):
        html = guarded.get(f"/searches?{query}").text
        assert other not in listed(html) and (own in listed(html)) == (query != f"q={other}"), query
        assert "other</option>" not in html
    assert guarded.get(f"/searches/{other}").status_code == 404
    assert guarded.get(f"/live/searches/{other}").status_code == 404
    html = guarded.get("/sweeps").text
    assert sweeps[0] in html and sweeps[1] not in html
    for path in ("/sweeps/{}", "/fragments/sweeps/{}", "/live/sweeps/{}", "/sweeps/{}/front.svg"):
        assert guarded.get(path.format(sweeps[1])).status_code == 404, path
    search_id = seeding.parts(guarded_app).sweeps.searches(sweeps[1], 1)[0].id
    assert guarded.get(f"/compare?id={search_id}-100000").status_code == 404
    html = guarded.get("/cluster").text
    assert own in html and other not in html


def test_without_tokens_there_is_nothing_to_sign_in_to(browser: httpx.Client) -> None:
    assert browser.get("/login").headers["location"] == "/searches"


def test_a_search_that_waits_says_for_what(app: FastAPI, browser: httpx.Client) -> None:
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).move(Status.WAITING, reason="no GPU is free")
    assert "no GPU is free" in browser.get(f"/searches/{search_id}").text
    assert "no GPU is free" in browser.get("/searches").text


def test_the_service_with_its_pages_loads_neither_torch_nor_ray() -> None:
    code = "import service.app, service.cli, sys; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_list_of_sweeps_says_how_to_begin_and_comes_in_pages(app: FastAPI, browser: httpx.Client) -> None:
    assert "yoso sweep digits --budgets 100k:800k:8 --seeds 0,1,2" in browser.get("/sweeps").text
    ids = [seeding.sweep(app, seeds=[0]) for _ in range(52)]
    first = browser.get("/sweeps").text
    older = re.search(r'href="(/sweeps\?[^"]*)" rel="next"', first)
    assert older is not None
    second = browser.get(older[1].replace("&amp;", "&")).text
    assert [sweep_id in first for sweep_id in ids] == [False] * 2 + [True] * 50
    assert [sweep_id in second for sweep_id in ids] == [True] * 2 + [False] * 50
    assert ids[0] in browser.get(f"/fragments{older[1]}").text


def test_the_list_of_sweeps_shows_how_many_are_in_each_state(app: FastAPI, browser: httpx.Client) -> None:
    seeding.seed_sweep(app, name="<i>night</i>", seeds=list(range(5)))
    html = browser.get("/sweeps").text
    assert 'role="img" aria-label="1 succeeded, 3 queued, 1 failed"' in html
    widths = re.findall(r'<rect class="(\w+)" x="(\d)" width="(\d)"', html)
    assert widths == [("succeeded", "0", "1"), ("queued", "1", "3"), ("failed", "4", "1")]
    assert "&lt;i&gt;night" in html and "1 succeeded" in text(html)


def test_a_sweep_shows_its_networks_by_cost_and_accuracy(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id = seeding.seed_sweep(app)
    search_id = seeding.parts(app).sweeps.searches(sweep_id, 1)[0].id
    html = browser.get(f"/sweeps/{sweep_id}").text
    words = text(html)
    assert html.count('class="search on-front"') == 14 and html.count('class="search beaten"') == 2, "wide and narrow"
    assert f'href="/searches/{search_id}#network-100000"' in html
    assert 'id="network-100000"' in browser.get(f"/searches/{search_id}").text
    for row in ("100,000 1 93.00 % 91.0 % – 94.1 % 99,926 93.00 % seed 0", "800,000 1 98.30 %", "on the front"):
        assert row in words
    assert f"/live/sweeps/{sweep_id}?after=" in html and "out of memory" in words
    for how in ("pause", "retry", "cancel"):
        assert f'hx-post="/api/v1/sweeps/{sweep_id}/{how}" hx-swap="none" hx-confirm="' in html
    for link in set(re.findall(r'href="(/(?:api|sweeps)/[^"#]*)"', html)):
        assert browser.get(link.replace("&amp;", "&")).status_code == 200, link
    assert browser.get(f"/sweeps/{sweep_id}?cost=price").status_code == 422


def test_the_kind_of_cost_is_chosen_in_the_address(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id = seeding.seed_sweep(app)
    html = browser.get(f"/sweeps/{sweep_id}?cost=latency_ms").text
    assert 'cost=latency_ms" aria-current="page"' in html and "0.5 ms" in text(html) and "1.2 ms" in text(html)
    assert f'hx-get="/fragments/sweeps/{sweep_id}?cost=latency_ms"' in html
    picture = browser.get(f"/sweeps/{sweep_id}/front.svg?cost=parameters")
    assert picture.headers["content-type"] == "image/svg+xml" and ">Parameters" in picture.text
    assert "href=" not in picture.text and "<style>" in picture.text, "it stands alone"


def test_a_sweep_that_has_ended_is_not_live_and_one_without_networks_says_so(
    app: FastAPI, browser: httpx.Client
) -> None:
    sweep_id = seeding.sweep(app, grid={"space.share": [True, False]}, seeds=[7], budgets=["300k"])
    html = browser.get(f"/sweeps/{sweep_id}").text
    assert "Networks appear when searches find them" in html and "<figure" not in html
    assert "space.share=true" in html and "space.share=false" in html
    browser.post(f"/api/v1/sweeps/{sweep_id}/pause")
    paused = browser.get(f"/sweeps/{sweep_id}").text
    assert ">Resume<" in paused and ">Pause<" not in paused and "paused: queued searches do not start" in paused
    browser.post(f"/api/v1/sweeps/{sweep_id}/cancel")
    ended = browser.get(f"/sweeps/{sweep_id}").text
    assert "sse-connect" not in ended and "hx-post" not in ended and "No network of this sweep" in ended
    told = browser.get(f"/live/sweeps/{sweep_id}").text
    assert re.findall(r"event: (\w+)", told) == ["change", "end"]


def test_the_searches_of_a_sweep_come_in_pages_in_the_order_of_its_points(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id = seeding.sweep(app, seeds=list(range(51)))
    ids = [search.id for search in seeding.parts(app).sweeps.searches(sweep_id, 51)]
    first = browser.get(f"/sweeps/{sweep_id}").text
    after = re.search(r'href="([^"]*)#searches" rel="next"', first)
    assert after is not None and [one in first for one in ids] == [True] * 50 + [False]
    second = browser.get(after[1].replace("&amp;", "&")).text
    assert [one in second for one in ids] == [False] * 50 + [True]


def test_fragments_replace_parts_of_a_sweeps_page(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id = seeding.seed_sweep(app)
    page = browser.get(f"/sweeps/{sweep_id}").text
    swapped = re.findall(r'id="(\w+)"[^>]*hx-swap-oob', browser.get(f"/fragments/sweeps/{sweep_id}").text)
    assert sorted(swapped) == ["actions", "front", "more", "searches", "summary"]
    assert all(page.count(f'id="{part}"') == 1 for part in swapped)


def test_an_unknown_sweep_gets_a_page(browser: httpx.Client) -> None:
    told = browser.get("/sweeps/nosuchsweep")
    assert told.status_code == 404 and "No such sweep" in told.text


def test_of_many_networks_the_picture_shows_the_front_and_some() -> None:
    number = MOST_DRAWN * 3
    points = [
        Point(architecture=str(n), search="s", origin="search", winner=True, seed=n, budget=1, cost=n + 1, accuracy=0.5,
              accuracy_low=0.4, accuracy_high=0.6, balanced_accuracy=None, validation_accuracy=None,
              on_front=n % 100 == 0)
        for n in range(number)
    ]  # fmt: skip
    shown = drawn(points, "multiply_adds")
    assert sum(point.on_front for point in shown) == number / 100
    assert MOST_DRAWN * 0.9 <= sum(not point.on_front for point in shown) <= MOST_DRAWN


def test_the_cluster_shows_who_holds_what_and_who_waits_why(app: FastAPI, browser: httpx.Client) -> None:
    assert "No dispatcher has reported the cluster" in browser.get("/cluster").text
    seeding.report(app, cpus=2, gpus=1)
    holder = seeding.queue(app, project="vision")
    seeding.Run(app, holder, only=True).start()
    waiting = seeding.queue(app, workers=2)
    browser.patch("/api/v1/projects/vision", json={"weight": 3, "max_running": 4, "max_queued": 9})
    for path in ("/cluster", "/fragments/cluster"):
        html = browser.get(path).text
        words = text(html)
        assert "1 of 2 CPUs held" in words and "0 of 1 GPUs held" in words and "1 waiting, 1 at work" in words
        assert f'href="/searches/{holder}"' in html and f'href="/searches/{waiting}"' in html
        reason = browser.get("/api/v1/cluster").json()["queue"][0]["reason"]
        assert f"1 {waiting} default 2 0 {reason}" in words
        assert "vision 3 75 % 1 of 4 0.125 0 of 9" in words and "node 2 1" in words
    seeding.report(app, error="<nobody> listens")
    assert "Ray does not answer" in browser.get("/cluster").text and "&lt;nobody&gt;" in browser.get("/cluster").text


def test_what_nobody_searched_for_is_told_apart(app: FastAPI, browser: httpx.Client) -> None:
    finals = seeding.seed_finals(app, ended=True)
    sweep_id = seeding.parts(app).searches.get(finals).sweep_id
    html = browser.get(f"/sweeps/{sweep_id}").text
    assert html.count('title="random, of the same cost">random</span>') == 4
    assert f'{finals}</a> <span class="tag on" title="Retrains what the searches have found">finals</span>' in html
    words = text(browser.get(f"/compare?id={finals}-300000&id={finals}-300000-3").text)
    assert "Origin found by a search random, of the same cost" in words and "Seed 0 1" in words
    assert "night for 300,000, seed 1" in words
    stopped = browser.get(f"/compare?id={finals}-300000&id={finals}-300000-3").text
    curves = re.findall(r'<path class="curve nr-(\d)" d="M([^"]*)"><title>', stopped)
    assert [number for number, _ in curves] == ["1", "2", "1", "2"]
    assert [path.count("L") + 1 for _, path in curves] == [60] * 4


def test_networks_are_compared_side_by_side(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id, seeds = seeding.seed_sweep(app), seeding.seed(app)
    search_id = seeding.parts(app).sweeps.searches(sweep_id, 1)[0].id
    small, large = f"{search_id}-100000", f"{search_id}-800000"
    html = browser.get(f"/compare?id={small}&id={large}&id={small}").text
    words = text(html)
    assert "Accuracy 93.00 % 98.30 % (best)" in words and "Multiply-adds 99,926 (best) 788,104" in words
    assert "Latency of one image 0.5 ms (best) 1.2 ms" in words and "Test images 359 359" in words
    assert "over night for 800,000 is the most accurate, beyond chance" in words
    for link in set(re.findall(r'(?:href|src)="(/api/[^"]*)"', html)):
        assert small in link or large in link
    assert "Retraining" not in words, "nothing is known of its epochs"
    html = browser.get(f"/compare?id={seeds['succeeded']}-300000&id={seeds['succeeded']}-600000").text
    assert html.count('class="curves"') == 2 and html.count('<path class="curve nr-2" d="M') == 3
    assert "The intervals overlap" in browser.get(f"/compare?id={large}&id={seeds['succeeded']}-300000").text
    assert "Select two searches or networks" in browser.get(f"/compare?id={small}").text
    assert "Select two searches or networks" in browser.get("/compare").text
    told = browser.get(f"/compare?id={small}&id=nosuch")
    assert told.status_code == 404 and "No such network" in told.text
    many = "&".join(
        f"id={one['architecture']}" for one in browser.get(f"/api/v1/sweeps/{sweep_id}/pareto").json()["points"]
    )
    assert "The first 8 networks are shown; 1 more" in text(
        browser.get(f"/compare?{many}&id={seeds['succeeded']}-300000").text
    )


def test_searches_are_compared_while_they_run(app: FastAPI, browser: httpx.Client) -> None:
    fast = seeding.queue(app, name="fast")
    seeding.Run(app, fast).start().pretrain().search(9)
    slow = seeding.queue(app, name="<b>slow")
    seeding.Run(app, slow).start().pretrain(5)
    waiting = seeding.queue(app, name="waiting")
    path = f"/compare?search={fast}&search={slow}&search={waiting}"
    html = browser.get(path).text
    assert "fast running search" in text(html) and "waiting queued" in text(html) and "<b>slow" not in html
    drawn = re.findall(r'<path class="curve nr-(\d)" d="M([^"]*)"><title>([^<]*)', html)
    epochs = {(number, title, line.count("L") + 1) for number, line, title in drawn}
    assert epochs == {("1", "fast", 21), ("2", "&lt;b&gt;slow", 5)} and len(drawn) == 6
    assert re.search(f'hx-get="{re.escape(escape(path))}" hx-trigger="every 5s"', html)
    for one in (fast, slow, waiting):
        browser.post(f"/api/v1/searches/{one}/cancel")
    claimed = seeding.parts(app).searches
    assert ("every 5s" in browser.get(path).text) == (claimed.get(slow).status == "cancelling")
    done = []
    for name in ("one", "two"):
        done.append(seeding.queue(app, name=name))
        seeding.Run(app, done[-1]).succeed()
    html = browser.get(f"/compare?search={done[0]}&search={done[1]}").text
    words = text(html)
    assert "one succeeded" in words and "every 5s" not in html and html.count('class="curves"') == 5
    assert "Networks" in words and "Accuracy on validation data by epoch" in words
    assert "Select two searches or networks" in browser.get(f"/compare?search={slow}").text


def test_curves_are_smoothed_and_zoomed_by_the_address(app: FastAPI, browser: httpx.Client) -> None:
    ids = []
    for name in ("one", "two"):
        ids.append(seeding.queue(app, name=name))
        seeding.Run(app, ids[-1]).start().pretrain().search(9)
    path = f"/compare?search={ids[0]}&search={ids[1]}&smooth=0.6&from=10&to=15"
    html = browser.get(path).text
    drawn = re.findall(r'<path class="curve (raw )?nr-1" d="M([^"]*)"><title>', html)
    assert [bool(raw) for raw, _ in drawn] == [False, True, False, True, False], "what is counted is not smoothed"
    assert {path.count("L") + 1 for _, path in drawn} == {6} and drawn[1][1] != drawn[2][1]
    assert f'hx-get="{escape(path)}"' in html, "a refresh keeps them"
    assert all(f'name="search" value="{one}"' in html for one in ids) and 'name="from" min="1" value="10"' in html
    whole = browser.get(path.replace("from=10&to=15", "from=&to=")).text
    assert len(re.findall(r'nr-\d" d="M56.0 ', whole)) == 10, "an empty field is no epoch"
    for asked, told in (
        ("smooth=1", "smooth: 1 : Input should be less than 1"),
        ("smooth=nan", "smooth: nan : Input should be"),
        ("from=0", "from: 0 : Input should be greater than or equal to 1"),
        ("to=x", "to: x : Input should be a valid integer"),
        ("to=99999999999999999999", "to: 99999999999999999999 : Input should be less than or equal to 1000000"),
        ("from=10&to=10", "to: 10 : not after epoch 10"),
        ("to=1", "to: 1 : not after epoch 1"),
    ):
        refused = browser.get(f"/compare?{asked}", headers={"Accept": "text/html"})
        assert refused.status_code == 422 and told in text(refused.text), asked


def test_a_network_shows_its_test_class_by_class(app: FastAPI, browser: httpx.Client) -> None:
    test = Evaluation.of([0] * 600 + [1] * 8, [0] * 607 + [2], ("cat", "<b>dog", "fox"))
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).succeed(test=test)
    html = browser.get(f"/searches/{search_id}/networks/300000").text
    words = text(html)
    assert "98.68 % accuracy 50.00 % balanced accuracy mean recall of the 2 classes with test images" in words
    assert "The accuracy of 98.7 % is not better than always predicting &#39;cat&#39;: 98.7 %." in words
    assert "The class &#39;&lt;b&gt;dog&#39; is never recognised: none of its 8 test images is classified" in words
    assert "<b>dog" not in html
    listed = words.index("Classes, the lowest recall first")
    assert words.index("&lt;b&gt;dog 8 0.0 % 0 never predicted", listed) < words.index("cat 600 100.0 %", listed)
    assert "fox 0 no test images 1 0.0 %" in words
    assert "network.int8.onnx 31,000 75.00 % 360 1.25 ms 1 – 2.5 ms" in words
    heat = html[html.index("Confusion matrix") :]
    assert re.findall(r'<td class="(right|wrong)-([0-9])">([0-9]*)</td>', heat) == [
        *(("right", "0", "0"), ("wrong", "8", "7"), ("wrong", "2", "1")),
        *(("wrong", "0", ""), ("right", "9", "600"), ("wrong", "0", "")),
        *(("wrong", "0", ""), ("wrong", "0", ""), ("right", "0", "0")),
    ]
    overview = text(browser.get(f"/searches/{search_id}").text)
    assert "98.68 %" in overview and "50.00 %" in overview and "is never recognised" in overview
    compared = text(browser.get(f"/compare?id={search_id}-300000&id={search_id}-600000").text)
    assert "Balanced accuracy 50.00 % 50.00 %" in compared and "Top-5" not in compared


def test_a_network_shows_its_mistakes(app: FastAPI, browser: httpx.Client) -> None:
    names, search_id = ("cat", "<b>dog"), seeding.queue(app)
    labels, answers = [0] * 30 + [1] * 30, [1] * 30 + [1] * 30
    mistakes = [Mistake(0, 1, 0.97, 7, "test/cat/<i>.png"), *(Mistake(0, 1, 0.9, 1, None) for _ in range(9))]
    seeding.Run(app, search_id).succeed(test=Evaluation.of(labels, answers, names, mistakes=mistakes))

    def section(budget: int) -> str:
        html = browser.get(f"/searches/{search_id}/networks/{budget}").text
        return html[html.index("Confusion matrix") : html.index('id="onnx-title"')]

    html = section(300_000)
    words = text(html)
    assert "The 10 of 30 wrongly classified test images with the highest confidence" in words
    assert "cat → classified as &lt;b&gt;dog 97.0 % test/cat/&lt;i&gt;.png" in words and "90.0 % image 1" in words
    assert html.count('aria-label="Image 1"') == 9 and "<i>" not in html
    assert re.findall(r'viewBox="(\d) (\d) 1 1"', html)[7:] == [("7", "0"), ("0", "1"), ("1", "1")]
    [picture] = set(re.findall(r'<image href="([^"]*)" width="8" height="2"', html))
    sheet = browser.get(picture)
    assert sheet.headers["content-type"] == "image/png" and sheet.content.startswith(b"\x89PNG")

    def rewrite(test: Evaluation) -> None:
        file = Path(seeding.parts(app).runs.path(search_id, f"architectures/600000/{FILES['evaluation']}"))
        file.write_text(json.dumps(test.to_dict()))

    rewrite(Evaluation.of(labels, labels, names, mistakes=[]))
    assert "Mistakes None. The network classifies every test image correctly." in text(section(600_000))
    rewrite(Evaluation.of(labels, answers, names))
    assert "Mistakes" not in section(600_000), "an earlier release kept none"


def test_a_sweep_says_what_its_finals_choose_by(app: FastAPI, browser: httpx.Client) -> None:
    chosen = {"dataset": "digits", "settings": {"choose_by": "balanced_accuracy"}}
    sweep_id = seeding.seed_sweep(app, search=chosen, finals=True)
    assert "The finals choose by balanced accuracy." in text(browser.get(f"/sweeps/{sweep_id}").text)
    *_, finals = seeding.parts(app).sweeps.searches(sweep_id, 9)
    assert finals.kind == "finals"
    told = text(browser.get(f"/searches/{finals.id}").text)
    assert "Winners have the highest balanced accuracy on validation data, of all origins." in told


def test_of_a_thousand_classes_those_with_the_lowest_recall_are_shown(app: FastAPI, browser: httpx.Client) -> None:
    labels = [label for label in range(1000) for _ in range(10)]
    answers = [
        (label + 1) % 1000 if label >= 990 and image < 4 else label for label in range(1000) for image in range(10)
    ]
    search_id = seeding.queue(app)
    test = Evaluation.of(labels, answers, [f"n{label:04d}" for label in range(1000)], top5_right=9_999)
    seeding.Run(app, search_id).succeed(test=test)
    html = browser.get(f"/searches/{search_id}/networks/300000").text
    words = text(html)
    assert "99.99 % top-5 accuracy" in words and "900 more classes, with a higher recall" in words
    assert "Confusion matrix of the 20 classes with the lowest recall" in words and "980 others" in words
    assert html.count('<td class="right-') == 20 and len(html) < 200_000
