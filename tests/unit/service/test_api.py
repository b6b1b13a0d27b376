"""The REST interface: what it accepts, what it refuses and how, and its stream of events."""

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from nas_core.data.datasets import DATASETS
from nas_core.files import FILES
from nas_core.space import Architecture
from nas_core.space.operations import OPERATION_SETS, OPERATIONS
from nas_core.train.evaluation import Evaluation
from service.domain.lifecycle import Status
from tests import seeding

GOOD: dict[str, Any] = {"dataset": "digits", "budgets": ["300k", 600000]}


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_a_search_is_queued_and_found_again(app: FastAPI, http: httpx.Client) -> None:
    seeding.report(app)
    asked = GOOD | {"space": {"preset": "digits", "share": True}, "seed": 5, "workers": 1, "project": "p", "name": "n"}
    made = http.post("/api/v1/searches", json=asked)
    assert made.status_code == 201
    search = made.json()
    assert made.headers["location"] == f"/api/v1/searches/{search['id']}"
    assert (search["status"], search["budgets"], search["seed"]) == ("queued", [300_000, 600_000], 5)
    assert search["space"]["share"] is True and search["architectures"] == [] and search["error"] is None
    assert http.get(made.headers["location"]).json() == search
    assert search in http.get("/api/v1/searches").json()["items"]


@pytest.mark.parametrize(
    ("change", "field", "value", "accepted"),
    [
        ({"budgets": ["66879"]}, "budgets", 66879, "66880 to 2114880"),
        ({"budgets": [300_000, 2_114_881]}, "budgets", 2_114_881, "66880 to 2114880"),
        ({"budgets": [0]}, "budgets", 0, "600M"),
        ({"budgets": [-5]}, "budgets", -5, "600M"),
        ({"budgets": ["lots"]}, "budgets", "lots", "600M"),
        ({"budgets": [None]}, "budgets", None, "600M"),
        ({"budgets": []}, "budgets", [], "at least one"),
        ({"budgets": "300k"}, "budgets", "300k", "a list"),
        ({"dataset": "digitz"}, "dataset", "digitz", "digits, cifar10, cifar100, imagenet"),
        ({"dataset": "/no/such/folder"}, "dataset", "/no/such/folder", "a folder"),
        ({"dataset": "cifar10"}, "dataset", "cifar10", "cifar-10-batches-py"),
        ({"dataset": 7}, "dataset", 7, "a text"),
        ({"space": {"preset": "mnist"}}, "space.preset", "mnist", "digits, cifar10, imagenet"),
        ({"space": {"levels": 99}}, "space.levels", 99, "1 to 8"),
        ({"space": {"width": 3}}, "space.width", 3, "one of preset"),
        ({"settings": {"lr": 0}}, "settings.lr", 0, "above 0"),
        ({"settings": {"epochs": 1}}, "settings.epochs", 1, "search_epochs"),
        ({"settings": {"choose_by": "f1"}}, "settings.choose_by", "f1", "accuracy, balanced_accuracy"),
        ({"export": {"opset": 12}}, "export.opset", 12, "15 to 23"),
        ({"export": {"opset": 21, "ir": 9}}, "export.ir", 9, "10 to 11"),
        ({"export": {"normalise": 1}}, "export.normalise", 1, "true or false"),
        ({"export": {"opsets": 17}}, "export.opsets", 17, "opset, ir, normalise"),
        ({"engine": {"synchronised_bn": 1}}, "engine.synchronised_bn", 1, "true or false"),
        ({"engine": {"precision": "float16"}}, "engine.precision", "float16", "auto, float32, tf32, bfloat16"),
        ({"engine": {"precision": "tf32"}}, "engine.precision", "tf32", "gpus_per_worker 1"),
        ({"engine": {"compile": "yes"}}, "engine.compile", "yes", "true or false"),
        ({"engine": {"batch_norm": 1}}, "engine.batch_norm", 1, "synchronised_bn"),
        ({"workers": 0}, "workers", 0, "1 to 4096"),
        ({"workers": 9}, "workers", 9, "at most 8 such workers"),
        ({"workers": 1.5}, "workers", 1.5, "a whole number"),
        ({"workers": "2"}, "workers", "2", "a whole number"),
        ({"workers": {"min": 0, "max": 2}}, "workers.min", 0, "1 to 2"),
        ({"workers": {"min": 3, "max": 2}}, "workers.min", 3, "1 to 2"),
        ({"workers": {"min": 1, "max": 5000}}, "workers", 5000, "1 to 4096"),
        ({"workers": {"min": 1, "max": 40}}, "settings.batch_size", 64, "80 or more"),
        ({"workers": {"min": 9, "max": 12}}, "workers.min", 9, "at most 8 such workers"),
        ({"workers": {"min": 1.5, "max": 2}}, "workers.min", 1.5, "a whole number"),
        ({"workers": {"min": 1}}, "workers.max", None, "a value for this field"),
        ({"workers": {"min": 1, "max": 2, "most": 3}}, "workers.most", 3, "one of min, max"),
        ({"accelerator_type": "A100"}, "accelerator_type", "A100", "none: no node says what it has"),
        ({"accelerator_type": 100}, "accelerator_type", 100, "a text"),
        ({"gpus_per_worker": 1}, "gpus_per_worker", 1, "at most 0 such workers"),
        ({"seed": -1}, "seed", -1, "0 to"),
        ({"budgets": None}, "budgets", None, "or limits"),
        ({"budgets": None, "limits": {"parameters": None}}, "budgets", None, "or limits"),
        ({"limits": {"parameters": "2841"}}, "limits.parameters", 2841, "2842 or more"),
        ({"limits": {"activations": 2047}}, "limits.activations", 2047, "2048 or more"),
        (
            {"limits": {"parameters": 3000, "activations": 2500}},
            "limits",
            {"parameters": 3000, "activations": 2500, "budget": 300_000},
            "for example parameters 3674 with activations 2048 with budget",
        ),
        ({"limits": {"activations": "few"}}, "limits.activations", "few", "number of elements"),
        ({"limits": {"latency_ms": 0}}, "limits.latency_ms", 0, "above 0"),
        ({"limits": {"flops": 1}}, "limits.flops", 1, "parameters, activations, latency_ms"),
        ({"limits": 7}, "limits", 7, ""),
        ({"budget": 1}, "budget", 1, "one of dataset, budgets"),
    ],
)
def test_what_cannot_be_done_is_refused_with_field_value_and_what_would_do(
    app: FastAPI, http: httpx.Client, change: dict[str, Any], field: str, value: Any, accepted: str
) -> None:
    seeding.report(app, cpus=8)
    told = http.post("/api/v1/searches", json=GOOD | change)
    assert told.status_code == 422, told.text
    assert told.headers["content-type"] == "application/problem+json"
    problem = told.json()
    assert problem["status"] == 422 and problem["title"]
    [error] = [one for one in problem["errors"] if one["field"] == field]
    assert error["value"] == value and accepted in error["accepted"] and error["reason"]
    assert http.get("/api/v1/searches").json()["items"] == []


def test_a_type_of_accelerator_that_no_node_has_is_refused_with_those_that_there_are(
    app: FastAPI, http: httpx.Client
) -> None:
    assert http.post("/api/v1/searches", json=GOOD | {"accelerator_type": "T4"}).status_code == 201, "nodes may come"
    seeding.report(app, cpus=8, types=("A100", "H100"))
    [error] = http.post("/api/v1/searches", json=GOOD | {"accelerator_type": "T4"}).json()["errors"]
    assert (error["field"], error["value"], error["accepted"]) == ("accelerator_type", "T4", "one of A100, H100")
    assert http.post("/api/v1/searches", json=GOOD | {"accelerator_type": "H100"}).status_code == 201
    many = http.post("/api/v1/searches", json=GOOD | {"accelerator_type": "H100", "workers": 9}).json()["errors"]
    assert "at most 8 such workers" in many[0]["accepted"] and "with H100" in many[0]["accepted"]


def test_gpus_are_not_asked_for_unless_the_cluster_is_known_to_have_them(app: FastAPI, http: httpx.Client) -> None:
    swept = {"search": {"dataset": "digits"}, "budgets": ["300k"]}

    def asked(path: str, body: dict[str, Any]) -> tuple[int, bool]:
        made = http.post(path, json=body).json()
        newest = seeding.parts(app).searches.page(1, None)[0][0]
        return newest.gpus, "no node of the cluster has been seen yet" in "".join(made["notes"])

    reports: list[tuple[dict[str, Any], int, bool]] = [
        ({"error": "Ray does not answer"}, 0, True), ({"cpus": 8}, 0, False), ({"cpus": 8, "gpus": 1}, 1, False),
        ({"error": "Ray does not answer"}, 1, False),
    ]  # fmt: skip
    assert asked("/api/v1/searches", GOOD) == (0, True), "nothing has been reported"
    for report, gpus, told in reports:
        seeding.report(app, **report)
        assert asked("/api/v1/searches", GOOD) == asked("/api/v1/sweeps", swept) == (gpus, told), report
    assert http.post("/api/v1/searches", json=GOOD | {"gpus_per_worker": 1}).json()["notes"] == []


def test_a_search_says_how_many_workers_it_wants_at_least_and_at_most(app: FastAPI, http: httpx.Client) -> None:
    wanted = {"workers": {"min": 2, "max": 6}, "accelerator_type": "A100"}
    made = http.post("/api/v1/searches", json=GOOD | wanted).json()
    assert (made["min_workers"], made["workers"], made["max_workers"]) == (2, 6, 6)
    assert made["accelerator_type"] == "A100" and made["request"]["workers"] == wanted["workers"]
    fixed = http.post("/api/v1/searches", json=GOOD | {"workers": 2}).json()
    assert (fixed["min_workers"], fixed["workers"], fixed["max_workers"]) == (2, 2, 2)


def test_a_search_may_choose_from_every_registered_operation(http: httpx.Client) -> None:
    asked = http.post("/api/v1/searches", json=GOOD | {"space": {"operations": list(OPERATIONS)}})
    assert asked.status_code == 201, asked.text
    assert asked.json()["space"]["operations"] == list(OPERATIONS)
    of_a_set = http.post("/api/v1/searches", json=GOOD | {"space": {"operations": "mobile"}}).json()
    assert of_a_set["space"]["operations"] == list(OPERATION_SETS["mobile"])
    assert of_a_set["request"]["space"]["operations"] == "mobile"
    for named in (["separable3", "separable9"], "separable9"):
        unknown = http.post("/api/v1/searches", json=GOOD | {"space": {"operations": named}})
        [error] = unknown.json()["errors"]
        assert error["field"] == "space.operations"
        assert all(name in error["accepted"] for name in (*OPERATIONS, *OPERATION_SETS))


def test_limits_may_stand_alone_or_with_budgets(http: httpx.Client) -> None:
    limits = {"parameters": "20k", "latency_ms": 2.5}
    alone = http.post("/api/v1/searches", json={"dataset": "digits", "limits": limits}).json()
    assert alone["budgets"] == [2_114_880] and alone["limits"] == {"parameters": 20_000, "latency_ms": 2.5}
    both = http.post("/api/v1/searches", json=GOOD | {"limits": {"activations": 9000}}).json()
    assert both["budgets"] == [300_000, 600_000] and both["limits"] == {"activations": 9000}
    assert http.post("/api/v1/searches", json=GOOD).json()["limits"] == {}
    page = http.get(f"/searches/{alone['id']}").text
    assert "at most 20,000 parameters" in page and "at most 2.5\N{NO-BREAK SPACE}ms" in page


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b'{"dataset": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, body: bytes) -> None:
    told = http.post("/api/v1/searches", content=body, headers={"Content-Type": "application/json"})
    assert told.status_code in (400, 422)
    assert told.headers["content-type"] == "application/problem+json" and told.json()["detail"]


def test_everything_that_is_wrong_is_told_at_once(http: httpx.Client) -> None:
    wrong = GOOD | {"budgets": [0, "x"], "settings": {"lr": -1}}
    problem = http.post("/api/v1/searches", json=wrong).json()
    assert [error["field"] for error in problem["errors"]] == ["budgets", "budgets", "settings.lr"]


@pytest.mark.parametrize("path", ["/api/v1/searches/none", "/api/v1/architectures/none", "/api/v1/none"])
def test_what_is_not_there_is_told_as_a_problem(http: httpx.Client, path: str) -> None:
    told = http.get(path)
    assert told.status_code == 404 and told.headers["content-type"] == "application/problem+json"
    assert http.delete(path).status_code in (404, 405)


def test_the_interface_describes_itself_with_examples(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    request, space = (described["components"]["schemas"][name] for name in ("SearchRequest", "SpaceRequest"))
    assert all(name in request["properties"]["dataset"]["description"] for name in DATASETS)
    assert all(name in space["properties"]["operations"]["description"] for name in OPERATIONS)
    assert http.post("/api/v1/searches", json=request["examples"][0]).status_code == 201
    for path in ("/api/v1/searches", "/api/v1/searches/{search_id}/events", "/api/v1/architectures/{architecture_id}"):
        assert path in described["paths"]


def test_pages_follow_each_other_without_gap_or_repetition(app: FastAPI, http: httpx.Client) -> None:
    ids = [seeding.queue(app) for _ in range(7)]
    seen: list[str] = []
    after: str | None = None
    while True:
        page = http.get("/api/v1/searches", params={"limit": 3} | ({"after": after} if after else {})).json()
        seen += [item["id"] for item in page["items"]]
        if not page["next"]:
            break
        after = page["next"]
        seeding.queue(app)  # what comes meanwhile is newer and disturbs nothing
    assert seen == ids[::-1]
    assert http.get("/api/v1/searches", params={"after": "nonsense"}).status_code == 422
    assert http.get("/api/v1/searches", params={"status": "sleeping"}).status_code == 422


def stream(http: httpx.Client, search_id: str, **headers: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Number, kind and data of every event until the stream ends."""
    found = []
    text = http.get(f"/api/v1/searches/{search_id}/events", headers=headers).text
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_stream_of_an_unknown_search_is_refused(http: httpx.Client) -> None:
    assert http.get("/api/v1/searches/none/events").status_code == 404


def test_a_long_history_streams_whole(app: FastAPI, http: httpx.Client) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    run.tell(*(seeding.epoch("pretrain", number, 2500, 0.1) for number in range(1, 2501)))
    run.move(Status.FAILED, error={"kind": "x", "message": "y", "attempt": 1})
    assert [data["epoch"] for _, kind, data in stream(http, search_id) if kind == "epoch"] == list(range(1, 2501))


def test_events_stream_from_the_start_and_from_where_a_reader_was(http: httpx.Client, seeds: dict[str, str]) -> None:
    events = stream(http, seeds["succeeded"])
    numbers = [number for number, _, _ in events]
    assert numbers == sorted(set(numbers))
    assert [data["status"] for _, kind, data in events if kind == "status"][-1] == "succeeded"
    assert sum(kind == "epoch" for _, kind, _ in events) == 12 + 30 + 2 * 60
    middle = len(events) // 2
    again = stream(http, seeds["succeeded"], **{"Last-Event-ID": str(numbers[middle])})
    assert again == events[middle + 1 :]


def test_the_stream_of_a_running_search_goes_on_until_it_ends(app: FastAPI, http: httpx.Client) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id)
    kinds = []
    with http.stream("GET", f"/api/v1/searches/{search_id}/events") as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
                if kinds == ["status"]:
                    run.start()
                elif kinds[-1] == "started":
                    run.tell(seeding.epoch("pretrain", 1, 12, 0.1))
                elif kinds[-1] == "epoch":
                    run.move(Status.FAILED, error={"kind": "x", "message": "y", "attempt": 1})
    assert kinds == ["status"] * 4 + ["started", "epoch", "status"]


def test_a_network_comes_as_json_picture_and_weights(http: httpx.Client, seeds: dict[str, str]) -> None:
    search = http.get(f"/api/v1/searches/{seeds['succeeded']}").json()
    assert [one["budget"] for one in search["architectures"]] == seeding.BUDGETS
    for one in search["architectures"]:
        detail = http.get(f"/api/v1/architectures/{one['id']}").json()
        assert detail["architecture"]["multiply_adds"] == detail["multiply_adds"] == one["multiply_adds"]
        picture = http.get(f"/api/v1/architectures/{one['id']}.svg")
        assert picture.headers["content-type"] == "image/svg+xml" and picture.text.startswith("<svg")
        assert http.get(one["files"]["weights"]).content == b"weights"


def test_a_network_comes_in_every_format(http: httpx.Client, seeds: dict[str, str]) -> None:
    for one in http.get(f"/api/v1/searches/{seeds['succeeded']}").json()["architectures"]:
        base = f"/api/v1/architectures/{one['id']}"
        assert one["files"] == {kind: f"{base}/files/{kind}" for kind in FILES}
        for kind, name in FILES.items():
            told = http.get(one["files"][kind])
            assert told.status_code == 200
            assert told.headers["content-disposition"] == f'attachment; filename="{one["id"]}-{name}"'
            if kind not in ("architecture", "picture", "evaluation", "mistakes"):
                assert told.content == kind.encode()
        assert Architecture.from_json(http.get(one["files"]["architecture"]).text).multiply_adds <= one["budget"]
        assert http.get(one["files"]["picture"]).headers["content-type"] == "image/svg+xml"
        assert http.get(one["files"]["card"]).headers["content-type"].startswith("text/markdown")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_large_files_are_never_whole_in_memory(app: FastAPI, http: httpx.Client, seeds: dict[str, str]) -> None:
    search_id, size = seeds["succeeded"], 48 << 20
    runs, network = seeding.parts(app).runs, f"{search_id}-{seeding.BUDGETS[0]}"
    weights = f"architectures/{seeding.BUDGETS[0]}/{FILES['weights']}"
    for name in (weights, f"tensorboard/search/{seeding.EVENT_FILE}"):
        os.truncate(runs.path(search_id, name), size)
    for path, least in (
        (f"/api/v1/architectures/{network}/files/weights", size),
        (f"/api/v1/searches/{search_id}/tensorboard", size >> 11),
    ):
        tracemalloc.start()
        with http.stream("GET", path) as answer:
            assert answer.status_code == 200
            assert sum(map(len, answer.iter_raw())) >= least
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size / 2, path


def test_a_kind_of_file_that_is_none_is_told_with_those_that_are(http: httpx.Client, seeds: dict[str, str]) -> None:
    told = http.get(f"/api/v1/architectures/{seeds['succeeded']}-300000/files/onyx")
    assert told.status_code == 404 and told.headers["content-type"] == "application/problem+json"
    assert "'onyx'" in told.json()["detail"] and ", ".join(FILES) in told.json()["detail"]


def test_a_result_of_before_there_were_formats_still_shows(app: FastAPI, http: httpx.Client) -> None:
    files = {kind: FILES[kind] for kind in ("architecture", "picture", "weights")}
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).succeed(files)
    [one, _] = http.get(f"/api/v1/searches/{search_id}").json()["architectures"]
    assert set(one["files"]) == set(files) and one["latency_ms"] is None and one["not_exported"] == {}
    assert all(http.get(link).status_code == 200 for link in one["files"].values())
    told = http.get(f"/api/v1/architectures/{one['id']}/files/onnx")
    assert told.status_code == 404 and "it has architecture, picture, weights" in told.json()["detail"]
    page = http.get(f"/searches/{search_id}").text
    assert "/weights" in page and "/files/onnx" not in page


def test_the_architectures_schema_is_served(http: httpx.Client, seeds: dict[str, str]) -> None:
    served = http.get("/api/v1/schemas/architecture").json()
    detail = http.get(f"/api/v1/architectures/{seeds['succeeded']}-300000").json()
    Draft202012Validator(served).validate(detail["architecture"])
    assert not Draft202012Validator(served).is_valid(detail["architecture"] | {"version": 2})


def test_a_lost_file_is_not_an_internal_error(app: FastAPI, http: httpx.Client, seeds: dict[str, str]) -> None:
    [first, _] = http.get(f"/api/v1/searches/{seeds['succeeded']}").json()["architectures"]
    path = f"architectures/{first['budget']}/weights.safetensors"
    Path(seeding.parts(app).runs.path(seeds["succeeded"], path)).unlink()
    assert http.get(first["files"]["weights"]).status_code == 404


def test_with_tokens_each_project_sees_its_own(tmp_path: Path) -> None:
    tokens = {"a-token-of-sixteen": "vision", "another-of-sixteen": "audio"}
    app = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        told = http.get("/api/v1/searches")
        assert told.status_code == 401 and told.headers["www-authenticate"] == "Bearer"
        vision, audio = ({"Authorization": f"Bearer {token}"} for token in tokens)
        search_id = http.post("/api/v1/searches", json=GOOD, headers=vision).json()["id"]
        assert http.get(f"/api/v1/searches/{search_id}", headers=vision).status_code == 200
        for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/journal")):
            assert http.request(method, f"/api/v1/searches/{search_id}{path}", headers=audio).status_code == 404
        assert http.get("/api/v1/searches", headers=audio).json()["items"] == []
        other = http.post("/api/v1/searches", json=GOOD | {"project": "audio"}, headers=vision)
        assert other.status_code in (403, 422) or other.json()["project"] == "vision"
        assert http.get("/healthz").status_code == 200
    seeding.parts(app).searches.engine.dispose()


def test_a_network_is_told_class_by_class(app: FastAPI, http: httpx.Client) -> None:
    test = Evaluation.of([0] * 600 + [1] * 8, [0] * 607 + [2], ("cat", "dog", "fox"))
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).succeed(test=test)
    detail = http.get(f"/api/v1/architectures/{search_id}-300000").json()
    assert detail["accuracy"] == 600 / 608 and detail["balanced_accuracy"] == 0.5 and detail["top5_accuracy"] is None
    assert detail["evaluation"] == {
        "classes": [
            {"name": "cat", "images": 600, "predicted": 607, "recall": 1.0, "precision": 600 / 607},
            {"name": "dog", "images": 8, "predicted": 0, "recall": 0.0, "precision": None},
            {"name": "fox", "images": 0, "predicted": 1, "recall": None, "precision": 0.0},
        ],
        "confusion": [[0, 0, 600], [1, 0, 7], [1, 2, 1]],
    }
    assert "not better than always predicting 'cat'" in detail["warnings"][0]
    assert "'dog' is never recognised" in detail["warnings"][1]
    assert "1 of 3 classes has no test images: 'fox'" in detail["warnings"][2]
    [one, _] = http.get(f"/api/v1/searches/{search_id}").json()["architectures"]
    assert one.items() <= detail.items() and "evaluation" not in one, "a list of searches stays small"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"class_names": ["a"], "counts": [[0, 7, 1]]}', None])
def test_a_test_that_is_lost_or_damaged_is_no_internal_error(
    app: FastAPI, http: httpx.Client, seeds: dict[str, str], content: bytes | None
) -> None:
    file = Path(seeding.parts(app).runs.path(seeds["succeeded"], "architectures/300000/evaluation.json"))
    file.unlink() if content is None else file.write_bytes(content)
    told = http.get(f"/api/v1/architectures/{seeds['succeeded']}-300000")
    assert told.status_code == 200 and told.json()["evaluation"] is None
    assert http.get(f"/searches/{seeds['succeeded']}/networks/300000").status_code == 200
