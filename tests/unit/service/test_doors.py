"""Who is let in: by which host's name, from which site's page, and as whom."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from nas_core.errors import InvalidValue
from service.domain.grants import Grant
from service.settings import Settings
from service.web.doors import is_own
from tests import seeding

PATH = "/api/v1/searches"
ASKED: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"]}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = seeding.make_app(tmp_path)
    yield made
    seeding.parts(made).searches.engine.dispose()


@pytest.fixture
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


FOREIGN = (
    "evil.example",
    "evil.example:8765",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.7:8765",
    "0.0.0.0:8765",
    "a b",
    "x@localhost",
    "localhost/",
    "2130706433",
)


def test_another_hosts_name_is_refused_with_what_to_set(http: httpx.Client) -> None:
    for host in FOREIGN:
        for path in ("/searches", PATH, "/healthz", "/static/yoso.js", "/openapi.json", "/login"):
            told = http.get(path, headers={"Host": host})
            assert told.status_code == 421 and told.headers["content-type"] == "application/problem+json", (host, path)
            assert "YOSO_PUBLIC_URL" in told.json()["detail"] and "YOSO_ALLOWED_HOSTS" in told.json()["detail"]


def test_loopback_is_the_services_own_under_any_port(http: httpx.Client) -> None:
    for host in ("localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.2:1", "[::1]:8765", "[::1]", "localhost."):
        assert http.get(PATH, headers={"Host": host}).status_code == 200, host


def test_what_is_set_is_known_and_where_it_listens() -> None:
    def known(named: str, **fields: Any) -> bool:
        tokens = {"a-token-of-sixteen": Grant("vision")}
        return is_own(named, Settings("/s", "sqlite:////s/db", tokens=tokens, data_roots=("/data",), **fields))

    assert known("yoso.example.org", public_url="https://yoso.example.org/below")
    assert known("yoso.example.org:8443", public_url="https://yoso.example.org:8443")
    assert not known("yoso.example.org:8444", public_url="https://yoso.example.org:8443")
    assert known("api-1:8765", allowed_hosts=("api-1:8765",)) and not known("api-1", allowed_hosts=("api-1:8765",))
    assert known("api-1:8765", allowed_hosts=("api-1",)) and known("API-1", allowed_hosts=("api-1",))
    assert known("box:8765", host="box") and not known("box:8765")
    assert known("192.168.1.5:8765", host="0.0.0.0") and known("[fe80::1]:8765", host="::")
    assert not known("evil.example:8765", host="0.0.0.0") and not known("192.168.1.5:8765", host="192.168.1.4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("YOSO_PUBLIC_URL", "yoso.example.org"),
        ("YOSO_PUBLIC_URL", "ftp://yoso.example.org"),
        ("YOSO_PUBLIC_URL", "https://user:secret@yoso.example.org"),
        ("YOSO_PUBLIC_URL", "https://yoso.example.org:99999"),
        ("YOSO_PUBLIC_URL", "https://yoso.example.org/?a=b"),
        ("YOSO_ALLOWED_HOSTS", "https://yoso.example.org"),
        ("YOSO_ALLOWED_HOSTS", "a,*.example.org"),
    ],
)
def test_a_host_that_is_none_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.from_environment({"YOSO_STORAGE": "/data", name: text})
    assert refused.value.field == name


def test_hosts_come_from_the_environment() -> None:
    given = {"YOSO_PUBLIC_URL": "https://yoso.example.org/", "YOSO_ALLOWED_HOSTS": "API-1:8765, api-2"}
    settings = Settings.from_environment({"YOSO_STORAGE": "/data"} | given)
    assert settings.public_url == "https://yoso.example.org" and settings.allowed_hosts == ("api-1:8765", "api-2")


ELSEWHERE = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
)


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_a_page_of_another_site_changes_nothing(app: FastAPI, http: httpx.Client, headers: dict[str, str]) -> None:
    search_id = seeding.queue(app)
    for method, path in [
        ("POST", f"{PATH}/{search_id}/cancel"),
        ("POST", PATH),
        ("POST", "/api/v1/sweeps"),
        ("PATCH", "/api/v1/projects/default"),
        ("POST", "/submit"),
        ("POST", "/login"),
        ("POST", "/logout"),
        ("DELETE", f"{PATH}/{search_id}"),
    ]:
        told = http.request(method, path, headers=headers, content=json.dumps(ASKED))
        assert told.status_code == 403 and "another site" in told.json()["title"], (method, path)
    assert http.get(f"{PATH}/{search_id}").json()["status"] == "queued" and len(http.get(PATH).json()["items"]) == 1


def test_its_own_pages_and_programs_are_let_in(app: FastAPI, http: httpx.Client) -> None:
    own = str(http.base_url).rstrip("/")
    for headers in ({}, {"Origin": own}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"},
                    {"Origin": "https://yoso.example", "Sec-Fetch-Site": "same-origin"}):  # fmt: skip
        assert http.post(PATH, json=ASKED, headers=headers).status_code == 201


def test_a_page_at_the_public_url_is_its_own_though_a_proxy_changes_the_host(tmp_path: Path) -> None:
    app = seeding.make_app(tmp_path, public_url="https://yoso.example.org")
    with seeding.serving(app) as url:
        for origin, status in (("https://yoso.example.org", 201), ("https://evil.example.org", 403)):
            assert httpx.post(url + PATH, json=ASKED, headers={"Origin": origin}).status_code == status
    seeding.parts(app).searches.engine.dispose()


def test_a_head_tells_what_get_would_and_nothing_more(app: FastAPI, http: httpx.Client) -> None:
    search_id = seeding.queue(app)
    paths = ("/healthz", "/readyz", "/searches", PATH, f"{PATH}/{search_id}", f"{PATH}/none", "/static/yoso.css")
    for path in paths:
        head, whole = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (whole.status_code, b"") and whole.content, path
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert http.head(f"{PATH}/{search_id}/events").headers["content-type"].startswith("text/event-stream")
    assert http.head(f"{PATH}/{search_id}/cancel").status_code == 405
    assert http.get(f"{PATH}/{search_id}").json()["status"] == "queued"
    assert not seeding.parts(app).streams and http.head("/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_one_client_cannot_take_the_streams_of_another(tmp_path: Path) -> None:
    tokens = {"a-token-of-sixteen": "vision", "another-of-sixteen": "audio"}
    app = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),), max_streams=2)
    vision, audio = ({"Authorization": f"Bearer {token}"} for token in tokens)
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http, ExitStack() as stack:
        ids = {project: seeding.queue(app, project=project) for project in ("vision", "audio")}
        path = f"{PATH}/{ids['vision']}/events"
        lines = [stack.enter_context(http.stream("GET", path, headers=vision)).iter_lines() for _ in range(2)]
        assert [next(some) for some in lines] == ["event: status"] * 2
        assert http.get(path, headers=vision).status_code == 503
        with http.stream("GET", f"{PATH}/{ids['audio']}/events", headers=audio) as other:
            assert other.status_code == 200


def test_what_is_shown_of_the_settings_has_no_password_in_it() -> None:
    settings = Settings("/s", "postgresql://yoso:a-hidden-password@db/yoso", mlflow_uri="https://u:a-hidden-password@m")
    assert "a-hidden-password" not in repr(settings) + str(settings)


def test_one_projects_answers_have_no_word_of_another(tmp_path: Path) -> None:
    tokens = {"a-token-of-sixteen": "vision", "another-of-sixteen": "secretproject"}
    app = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),))
    seeding.report(app, cpus=2)
    theirs = [seeding.queue(app, project="secretproject", name="secretname", workers=2) for _ in range(3)]
    seeding.Run(app, theirs[0]).start()
    mine = seeding.queue(app, project="vision", workers=2)
    vision = {"Authorization": "Bearer a-token-of-sixteen"}
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60, headers=vision) as http:
        described = http.get("/openapi.json").json()["paths"]
        shown = ["/api/v1/cluster", "/api/v1/projects", PATH, "/api/v1/sweeps", f"{PATH}/{mine}", "/readyz"]
        for path in [*shown, f"{PATH}?project=secretproject", "/api/v1/sweeps?project=secretproject"]:
            told = http.get(path).text
            assert "secret" not in told and not any(one in told for one in theirs), path
        seen = http.get("/api/v1/cluster").json()
        assert [(one["id"], one["place"]) for one in seen["queue"]] == [(mine, 1)] and seen["queued"] == 1
        for path in [path for path in described if "{search_id}" in path]:
            for method in described[path]:
                for search_id in (theirs[0], "aaaaaaaaaaaa"):
                    told_ = http.request(method, path.replace("{search_id}", search_id))
                    assert told_.status_code == 404, path
                    assert told_.json()["detail"] == f"There is no search {search_id!r}."
    seeding.parts(app).searches.engine.dispose()


def test_a_project_has_data_roots_of_its_own(tmp_path: Path) -> None:
    given = {"YOSO_STORAGE": "/s", "YOSO_DATA_ROOTS": "/shared:vision=/data/vision:audio=/data/a=b:/x=y:vision=/more"}
    settings = Settings.from_environment(given)
    assert settings.data_roots == ("/shared", "/x=y") and not settings.any_folder
    assert settings.roots_of("vision") == ("/data/vision", "/more", "/shared", "/x=y")
    assert settings.roots_of("audio") == ("/data/a=b", "/shared", "/x=y") and settings.roots_of("other") == (
        "/shared",
        "/x=y",
    )
    assert settings.roots_of(None) == ("/data/vision", "/more", "/data/a=b", "/shared", "/x=y")


def test_a_projects_data_are_for_nobody_else_at_any_door(tmp_path: Path) -> None:
    own, other = (seeding.images(tmp_path / name / "pets", "cats", "dogs") for name in ("vision", "audio"))
    roots = {"vision": (str(own.parent),), "audio": (str(other.parent),)}
    tokens = {"a-token-of-sixteen": "vision", "the-operators-token": "*"}
    app = seeding.make_app(tmp_path, tokens=tokens, project_roots=roots)
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:

        def asked(folder: Path, token: str, **more: str) -> Iterator[httpx.Response]:
            headers = {"Authorization": f"Bearer {token}"}
            search = {"dataset": str(folder), "budgets": ["3M"]}
            yield http.post("/api/v1/datasets/inspect", json={"dataset": str(folder)}, headers=headers)
            yield http.get("/api/v1/datasets/contact-sheet", params={"dataset": str(folder)}, headers=headers)
            yield http.post(PATH, json=search | more, headers=headers)
            swept = {"search": {"dataset": str(folder)}, "budgets": ["3M"]}
            yield http.post("/api/v1/sweeps", json=swept | more, headers=headers)

        def told(token: str, **more: str) -> list[int]:
            return [one.status_code for one in asked(own, token, **more)]

        for folder in (other, other.parent, other / "cats"):
            for refused in asked(folder, "a-token-of-sixteen"):
                assert refused.status_code == 422 and "outside the data roots" in refused.text, refused.request.url
        form = http.post(
            "/fragments/submit",
            data={"dataset": str(other), "budgets": "3M"},
            headers={"Authorization": "Bearer a-token-of-sixteen"},
        )
        assert "outside the data roots" in form.text and "cats" not in form.text
        while told("a-token-of-sixteen")[0] == 202:
            pass
        assert told("a-token-of-sixteen") == [200, 200, 201, 201]
        assert told("the-operators-token", project="vision")[2:] == [201, 201]
        assert told("the-operators-token", project="audio")[2:] == [422, 422], "whoever asks, for whom counts"
    seeding.parts(app).searches.engine.dispose()


def test_what_was_queued_before_is_held_to_the_roots_of_today(tmp_path: Path) -> None:
    pets = seeding.images(tmp_path / "vision" / "pets", "cats", "dogs")
    paths = []
    app = seeding.make_app(tmp_path, data_roots=(str(pets.parent),))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        search = {"dataset": str(pets), "budgets": ["3M"]}
        while http.post("/api/v1/datasets/inspect", json={"dataset": str(pets)}).status_code == 202:
            pass
        for path, body in ((PATH, search), ("/api/v1/sweeps", {"search": {"dataset": str(pets)}, "budgets": ["3M"]})):
            paths.append(f"{path}/{http.post(path, json=body).json()['id']}")
            http.post(f"{paths[-1]}/cancel").raise_for_status()
            assert http.post(f"{paths[-1]}/retry").status_code == 200
            http.post(f"{paths[-1]}/cancel").raise_for_status()
    seeding.parts(app).searches.engine.dispose()
    app = seeding.make_app(tmp_path, data_roots=(str(tmp_path / "audio"),))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        for asked in (*(f"{path}/retry" for path in paths), f"{paths[1]}/networks"):
            refused = http.post(asked, json={"budgets": ["4M"]} if "networks" in asked else None)
            assert refused.status_code == 422 and "outside the data roots" in refused.text, asked
    seeding.parts(app).searches.engine.dispose()


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_description_is_for_those_who_are_signed_in(tmp_path: Path, path: str) -> None:
    app = seeding.make_app(tmp_path, tokens={"a-token-of-sixteen": "vision"}, data_roots=(str(tmp_path),))
    with seeding.serving(app) as url:
        assert httpx.get(url + path).status_code in (303, 401)
        told = httpx.get(url + path, headers={"Authorization": "Bearer a-token-of-sixteen"})
        assert told.status_code == 200 and "http" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', told.text))
        if path == "/docs":
            assert "script-src 'self'" in told.headers["content-security-policy"]
            assert httpx.get(url + "/redoc").headers["location"] == "/docs"
    seeding.parts(app).searches.engine.dispose()
