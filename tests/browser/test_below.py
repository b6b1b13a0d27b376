"""The dashboard below a path, as https://example.org/yoso/, behind proxies that strip it and that do not."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from service.client import Client
from tests import seeding

TOKEN = "operator-0123456789"
ADDRESSES = """nodes => nodes.flatMap(node => [...node.attributes].filter(one => one.value.startsWith("/") &&
    !["value", "title", "content"].includes(one.name)).map(one => one.value))"""


class Proxy:
    """A reverse proxy that has Yoso at /yoso/, and something else everywhere else."""

    def __init__(self, app: ASGIApp, strips: bool) -> None:
        self.app, self.strips = app, strips
        self.elsewhere: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not (scope["path"] + "/").startswith("/yoso/"):
                self.elsewhere.append(scope["path"])
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b"something else"})
                return
            if self.strips:
                path = scope["path"].removeprefix("/yoso") or "/"
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


@contextmanager
def proxied(folder: Path, strips: bool, **settings: Any) -> Iterator[tuple[FastAPI, str, Proxy]]:
    app = seeding.make_app(folder, public_url="http://localhost/yoso", **settings)
    proxy = Proxy(app, strips)
    with seeding.serving(app, proxy=proxy) as address:
        yield app, f"{address}/yoso", proxy
    seeding.parts(app).searches.engine.dispose()


@pytest.fixture(params=[True, False], ids=["stripped", "kept"])
def below(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[FastAPI, str, Proxy]]:
    """A service that a proxy serves at /yoso/, its URL, and the proxy."""
    with proxied(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def url(below: tuple[FastAPI, str, Proxy]) -> str:
    return below[1]


def test_every_address_on_every_page_answers(below: tuple[FastAPI, str, Proxy], page: Page) -> None:
    app, url, proxy = below
    seeding.seed_finals(app, ended=True)
    seeding.seed_sweep(app)
    seeding.seed(app)
    host = url.removesuffix("/yoso")
    ahead, seen, pages = [f"{url}/", f"{url}/docs"], set[str](), set[str]()
    asked = httpx.Client(timeout=30)
    while ahead:
        address = ahead.pop()
        # Of pages of one kind one is enough, and of what moves on a page too.
        kind = re.sub(r"[a-z0-9]{12,}|\d+", "*", urlsplit(address).path)
        if kind in seen:
            continue
        seen.add(kind)
        posted = "/(logout|cancel|retry|pause|resume|networks|describe|fragments/submit)$"
        if "/live/" in address or re.search(posted, address):
            continue  # streams, and what is only posted
        answer = asked.get(address, follow_redirects=True)
        gone = answer.status_code == 404 and re.search("/(logs|files|weights|tensorboard)", address)  # seeds have none
        assert answer.status_code < 400 or gone, f"{address}: {answer.text[:300]}"
        assert str(answer.url).startswith(f"{url}/"), address
        if answer.headers.get("content-type", "").startswith("text/html") and "/fragments/" not in address:
            pages.add(kind)
            page.goto(str(answer.url))
            found = page.locator("*").evaluate_all(ADDRESSES)
            assert all(one.startswith("/yoso/") for one in found), found
            ahead += [urljoin(host, one.partition("#")[0]) for one in found]
    asked.close()
    assert len(pages) >= 9 and proxy.elsewhere == [], pages
    assert any("/sweeps/" in kind for kind in seen) and any("/static/" in kind for kind in seen)


def test_pages_are_live_and_forms_lead_somewhere(below: tuple[FastAPI, str, Proxy], page: Page) -> None:
    app, url, proxy = below
    search = seeding.queue(app, name="live")
    page.goto(f"{url}/searches/{search}")
    with Client(url) as client:
        assert client.list()["items"][0]["id"] == search
        client.cancel(search)
        assert [event.data["status"] for event in client.events(search)] == ["queued", "cancelled"]
    expect(page.locator("h1 ~ *, main").first).to_contain_text("cancelled")
    page.goto(f"{url}/submit?dataset=digits&budgets=300k")
    page.get_by_role("button", name="Queue the search").click()
    page.wait_for_url(re.compile(re.escape(url) + r"/searches/\w+$"))
    assert proxy.elsewhere == []


def test_the_api_names_places_below_the_path(below: tuple[FastAPI, str, Proxy]) -> None:
    _, url, proxy = below
    with httpx.Client() as http:
        made = http.post(f"{url}/api/v1/searches", json={"dataset": "digits", "budgets": ["300k"]})
        assert made.headers["location"] == f"/yoso/api/v1/searches/{made.json()['id']}"
        assert http.get(urljoin(url, made.headers["location"])).json()["id"] == made.json()["id"]
        assert http.get(f"{url}/openapi.json").json()["servers"] == [{"url": "/yoso"}]
        assert "/yoso/openapi.json" in http.get(f"{url}/docs").text
        assert http.get(url, follow_redirects=True).url == f"{url}/searches"
        assert http.get(f"{url}/healthz").status_code == 200
    assert proxy.elsewhere == []


@pytest.mark.parametrize("strips", [True, False])
def test_signing_in_leads_back_with_a_cookie_for_the_path_alone(tmp_path: Path, strips: bool) -> None:
    roots = (str(tmp_path),)
    with proxied(tmp_path, strips, tokens={TOKEN: "*"}, data_roots=roots) as (_, url, proxy), httpx.Client() as http:
        sent = http.get(f"{url}/sweeps?cost=parameters")
        assert sent.headers["location"] == "/yoso/login?next=%2Fyoso%2Fsweeps%3Fcost%3Dparameters"
        form = http.get(urljoin(url, sent.headers["location"])).text
        assert 'action="/yoso/login"' in form and 'value="/yoso/sweeps?cost=parameters"' in form
        back = http.post(f"{url}/login", data={"token": TOKEN, "next": "/yoso/sweeps?cost=parameters"})
        assert back.headers["location"] == "/yoso/sweeps?cost=parameters"
        assert "path=/yoso" in back.headers["set-cookie"].lower()
        assert http.get(f"{url}/sweeps").status_code == 200
        out = http.post(f"{url}/logout")
        assert out.headers["location"] == "/yoso/login" and "path=/yoso" in out.headers["set-cookie"].lower()
        assert http.get(f"{url}/sweeps").status_code == 303
        hinted = http.get(f"{url}/fragments/searches", headers={"HX-Request": "true"})
        assert hinted.headers["hx-redirect"] == "/yoso/login" and proxy.elsewhere == []
