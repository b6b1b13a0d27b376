"""The API keeps to its own description: schemathesis asks for everything in it, right and wrong and along its links."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import settings

from nas_core.files import FILES
from service.api.architectures import MEDIA_TYPES
from tests import seeding
from tests.thoroughness import THOROUGH

MOST_EXAMPLES = "100" if settings.get_current_profile_name() == "explore" else "4" if THOROUGH else "1"
CONFIG = """
[checks]
# Rules between fields, such as that a budget must be feasible, are more than a description can say.
positive_data_acceptance.enabled = false
# Starlette names the methods of one of a path's routes.
allow_header_conformance.enabled = false

[[operations]]
include-path = "/readyz"
# 503 is what it is for.
checks.not_a_server_error.enabled = false
"""


@pytest.fixture
def still(app: FastAPI, seeds: dict[str, str]) -> None:
    """Searches in every state and a cluster, in a service whose streams end when they have told what there is."""
    seeding.report(app)
    seeding.parts(app).stopping.set()


@pytest.fixture
def http(still: None, url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # which refuses more than SQLite
def test_every_answer_is_as_described(http: httpx.Client, url: str, tmp_path: Path) -> None:
    described = http.get("/openapi.json").json()["paths"]  # first, since schemathesis waits ten seconds at most for it
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["run", f"{url}/openapi.json", "--max-examples", MOST_EXAMPLES, "--no-color"]
    command += ["--generation-deterministic", "--request-timeout", "30", "--suppress-health-check", "all"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"Tested: {sum(map(len, described.values()))}" in found.stdout and "API Links:" in found.stdout


def test_fields_are_described_with_those_that_an_answer_has_from_another(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    described = {
        name: {field for field, one in schema.get("properties", {}).items() if "description" in one}
        for name, schema in schemas.items()
    }
    assert {"stored", "pruned"} <= described["Search"] and "id" not in described["Search"]
    assert described["Architecture"] >= {"origin", "activations"} <= described["ArchitectureDetail"]
    assert schemas["Token"]["properties"]["project"]["description"] == "`*` for all projects."


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        ("/api/v1/searches", "search_id", {"dataset": "digits", "budgets": ["300k"]}),
        ("/api/v1/sweeps", "sweep_id", {"search": {"dataset": "digits"}, "budgets": ["300k"]}),
    ],
)
def test_links_lead_to_all_that_can_be_done_with_what_was_made(
    http: httpx.Client, path: str, name: str, body: dict[str, Any]
) -> None:
    described = http.get("/openapi.json").json()["paths"]
    operations = {
        operation["operationId"]: (method, below)
        for below, methods in described.items()
        for method, operation in methods.items()
    }
    created = described[path]["post"]["responses"]["201"]
    answer = http.post(path, json=body)
    assert "Location" in created["headers"] and http.get(answer.headers["location"]).status_code == 200
    linked = {operations[link["operationId"]] for link in created["links"].values()}
    assert linked == {one for one in operations.values() if one[1].startswith(f"{path}/{{{name}}}")}
    assert all(link["parameters"] == {name: "$response.body#/id"} for link in created["links"].values())


def test_problems_are_described_under_their_own_media_type(http: httpx.Client) -> None:
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if path.startswith("/api/") and int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]


def test_every_kind_of_file_is_described(http: httpx.Client) -> None:
    path = "/api/v1/architectures/{architecture_id}/files/{kind}"
    described = http.get("/openapi.json").json()["paths"][path]["get"]["responses"]["200"]["content"]
    assert {MEDIA_TYPES.get(kind, "application/octet-stream") for kind in FILES} <= set(described)


DEEP = "[" * 500 + "]" * 500
HUGE = "1" + "0" * 400
GOOD = '"dataset": "digits", "budgets": ["300k"]'


BODIES = [
    f'{{{GOOD}, "name": "a\\u0000b"}}',
    f'{{{GOOD}, "name": "\\ud800"}}',
    f'{{{GOOD}, "\\ud800": 1}}',
    f'{{{GOOD}, "settings": {{"\\ud800": "\\ud800"}}}}',
    f'{{{GOOD}, "settings": {{"lr": {DEEP}}}}}',
    f'{{{GOOD}, "settings": {{"weight_decay": {HUGE}}}}}',
    f'{{{GOOD}, "limits": {{"latency_ms": {HUGE}}}}}',
    f'{{{GOOD}, "limits": {{"parameters": {HUGE}}}}}',
    f'{{{GOOD}, "seed": {HUGE}}}',
    '{"dataset": "a\\u0000b", "budgets": ["300k"]}',
    '{"dataset": "\\ud800", "budgets": ["300k"]}',
    '{"dataset": "digits", "budgets": ["\\ud800"]}',
    f'{{"dataset": "digits", "budgets": [{HUGE}]}}',
    '{"dataset": "digits", "budgets": [1e308, NaN, Infinity]}',
]
PATHS = [
    "/api/v1/searches/a%00b",
    "/api/v1/searches?project=a%00b",
    "/api/v1/searches?after=NSBhAGI=",  # the place (5.0, "a\0b")
    "/api/v1/searches/{id}/journal?kind=a%00b",
    f"/api/v1/searches/{{id}}/journal?after={HUGE}",
    "/api/v1/architectures/a%00b",
    "/api/v1/sweeps/a%00b",
    "/api/v1/sweeps?project=a%00b",
    "/searches/a%00b",
    f"/searches/{{id}}/snapshots/{HUGE}.svg",
]


def test_what_no_database_and_no_answer_can_carry_is_refused(http: httpx.Client, seeds: dict[str, str]) -> None:
    for body in BODIES:
        answer = http.post("/api/v1/searches", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, (body, answer.text)
        told: dict[str, Any] = json.loads(answer.content.decode())  # whatever was sent, the answer is UTF-8
        assert told["errors"] and all(error["field"] and error["reason"] for error in told["errors"]), body
    for made in ('"name": "a\\u0000b"', f'"seeds": [{HUGE}]', f'"grid": {{"settings.lr": [{HUGE}]}}'):
        body = f'{{"search": {{"dataset": "digits"}}, "budgets": ["300k"], {made}}}'
        answer = http.post("/api/v1/sweeps", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422 and answer.json()["errors"], (body, answer.text)
    for path in PATHS:
        answer = http.get(path.format(id=seeds["succeeded"]))
        assert answer.status_code == 422 and answer.json()["errors"], (path, answer.text)


def test_a_last_event_id_that_was_never_sent_is_ignored(http: httpx.Client, seeds: dict[str, str]) -> None:
    for number in (HUGE, "²", "9" * 5000, "-1", "nothing"):
        headers = {b"Last-Event-ID": number.encode("latin-1")}
        events = http.get(f"/api/v1/searches/{seeds['succeeded']}/events", headers=headers)
        assert events.status_code == 200 and '"seq": 1,' in events.text, (number, events.text)
        assert http.get(f"/live/searches/{seeds['succeeded']}", headers=headers).status_code == 200, number
