"""The dashboard's pages, as a browser without scripts sees them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.domain.lifecycle import Status
from tests import seeding

TOKEN = "a-token-of-sixteen"


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    """A browser of sorts."""
    with httpx.Client(base_url=url) as client:
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
    with seeding.serving(guarded_app) as url, httpx.Client(base_url=url) as client:
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
    assert "Supernet now" in words and "found a network of" in words and "after retraining" in words
    snapshot = re.search(r'src="(/searches/\w+/snapshots/\d+\.svg)"', html)
    assert snapshot is not None
    for picture in (snapshot[1], f"/searches/{seeds['running']}/networks/600000.svg"):
        told = browser.get(picture)
        assert told.headers["content-type"] == "image/svg+xml" and told.text.startswith("<svg")


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
        assert sorted(swapped) == ["actions", "events", "networks", "summary"]
        assert all(page.count(f'id="{part}"') == 1 for part in swapped)
    assert seeds["running"] in browser.get("/fragments/searches?status=running").text


def test_hints_name_the_newest_event_and_end_with_the_search(browser: httpx.Client, seeds: dict[str, str]) -> None:
    told = browser.get(f"/live/searches/{seeds['succeeded']}").text
    newest = browser.get(f"/api/v1/searches/{seeds['succeeded']}/journal?limit=5000").json()[-1]["seq"]
    assert re.findall(r"event: (\w+)", told) == ["change", "end"] and f"id: {newest}" in told
    caught_up = {"Last-Event-ID": str(newest)}
    again = browser.get(f"/live/searches/{seeds['succeeded']}", headers=caught_up).text
    assert re.findall(r"event: (\w+)", again) == ["end"]


def test_every_page_is_strict_and_refers_to_this_site_alone(browser: httpx.Client, seeds: dict[str, str]) -> None:
    for path in ("/searches", f"/searches/{seeds['running']}", "/searches/nosuchsearch"):
        told = browser.get(path)
        policy = told.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy
        assert not re.search(r"<style|style=|<script>|\son\w+=|javascript:|(?:src|href)=\"(?:https?:)?//", told.text)
        for link in re.findall(r'(?:href|src)="(/static/[^"]*)"', told.text):
            assert browser.get(link).status_code == 200


def test_pages_need_a_token_where_there_are_tokens(guarded: httpx.Client) -> None:
    for path in ("/searches", "/searches/x", "/fragments/searches", "/live/searches", "/searches/x/networks/1.svg"):
        told = guarded.get(path)
        assert told.status_code == 303 and told.headers["location"].startswith("/login?next=%2F")
    told = guarded.get("/fragments/searches", headers={"HX-Request": "true"})
    assert told.status_code == 401 and told.headers["hx-redirect"] == "/login"


def test_a_token_is_exchanged_for_a_cookie(guarded: httpx.Client) -> None:
    assert 'type="password"' in guarded.get("/login").text
    wrong = guarded.post("/login", data={"token": "wrong", "next": "/searches"})
    assert wrong.status_code == 401 and "No project has this token" in wrong.text and "set-cookie" not in wrong.headers
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
    own, other = seeding.queue(guarded_app, project="vision"), seeding.queue(guarded_app, project="other")
    guarded.post("/login", data={"token": TOKEN})
    html = guarded.get("/searches").text
    assert own in html and other not in html
    assert guarded.get(f"/searches/{other}").status_code == 404
    assert guarded.get(f"/live/searches/{other}").status_code == 404


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
