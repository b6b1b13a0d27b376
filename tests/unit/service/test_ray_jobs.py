"""Ray's interface as the service reads it: whatever answers, the outcome is stated."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dispatch.executors.port import Job, JobStatus
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.domain.scheduling import RayUnavailable
from tests.ray_double import ray_double

Answer = Callable[[httpx.Request], httpx.Response]
CALLS: dict[str, Callable[[RayJobs], Any]] = {
    "submit": lambda jobs: jobs.submit("a", "true", {}),
    "job": lambda jobs: jobs.job("a"),
    "remains": lambda jobs: jobs.remains("a"),
    "stop": lambda jobs: jobs.stop("a"),
    "running": lambda jobs: jobs.running(),
    "logs": lambda jobs: jobs.logs("a"),
    "delete": lambda jobs: jobs.delete("a"),
    "nodes": lambda jobs: jobs.nodes(),
}
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["ALIVE", "RUNNING"])
keys = st.sampled_from(
    ["data", "result", "status", "job_id", "state", "resources_total", "CPU", "labels", "logs", "submission_id"]
)
answers = st.recursive(scalars, lambda one: st.lists(one) | st.dictionaries(keys | st.text(), one))


def client(answer: Answer, url: str = "http://ray.invalid") -> RayJobs:
    return RayJobs(lambda: Endpoint(url, "token"), transport=httpx.MockTransport(answer))


def rows(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"result": True, "data": {"result": {"result": list(rows), "total": len(rows)}}}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, html="<html>Sign in</html>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json=None),
        httpx.Response(200, content=b'{"status": "RUNN'),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, headers={"Content-Encoding": "identity"}, content=b""),
        httpx.Response(302, headers={"Location": "http://elsewhere.invalid"}),
        httpx.Response(500, text="Traceback:\n  boom\n  ^^^^\n."),
        httpx.Response(503),
        httpx.Response(401),
    ],
    ids=lambda response: f"{response.status_code}-{response.content[:12]!r}",
)
def test_what_is_no_answer_of_ray_is_told_as_such(call: str, response: httpx.Response) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    with pytest.raises(RayUnavailable):
        CALLS[call](client(answer))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.DecodingError, httpx.PoolTimeout]
)
def test_trouble_on_the_way_is_told_as_such(call: str, error: type[httpx.RequestError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("no")

    with pytest.raises(RayUnavailable, match=error.__name__):
        CALLS[call](client(answer))


@pytest.mark.parametrize("url", ["http://[1", "http://ray.invalid:port", "ftp://ray.invalid", "", "http://\udc80"])
def test_an_address_that_is_none_is_told_as_such(url: str) -> None:
    with pytest.raises(RayUnavailable):
        RayJobs(lambda: Endpoint(url, "token")).nodes()


@given(st.sampled_from(sorted(CALLS)), st.integers(100, 599), answers)
def test_no_answer_leads_to_another_exception(call: str, status: int, values: Any) -> None:
    with contextlib.suppress(RayUnavailable):
        CALLS[call](client(lambda request: httpx.Response(status, content=json.dumps(values))))


def test_nodes_are_told_with_one_request() -> None:
    asked: list[str] = []
    listed = rows(
        {
            "node_id": "a",
            "node_ip": "10.0.0.1",
            "node_name": "head",
            "is_head_node": True,
            "state": "ALIVE",
            "resources_total": {"memory": 4e9},  # num_cpus=0
            "labels": {"ray.io/node-id": "a"},
        },
        {
            "node_ip": "10.0.0.2",
            "state": "ALIVE",
            "resources_total": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:X": 1.0},
        },
        {"node_ip": "10.0.0.3", "state": "ALIVE", "resources_total": None},
        {"node_ip": "10.0.0.4", "state": "DEAD", "resources_total": {"CPU": 64.0}},
    )

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json=listed)

    nodes = client(answer).nodes()
    assert asked == ["/api/v0/nodes"]
    assert [(node.name, node.cpus, node.gpus, node.alive, node.head) for node in nodes] == [
        ("head", 0, 0, True, True),
        ("10.0.0.2", 8, 2, True, False),
        ("10.0.0.3", 0, 0, True, False),
        ("10.0.0.4", 64, 0, False, False),
    ]
    assert [node.accelerator_types for node in nodes] == [(), ("X",), (), ()]
    assert (nodes[0].id, nodes[0].ip, nodes[0].memory, nodes[0].labels) == (
        "a", "10.0.0.1", 4e9, {"ray.io/node-id": "a"},
    )  # fmt: skip
    assert client(lambda request: httpx.Response(200, json=rows())).nodes() == [], "it has just started"


def test_a_job_is_told_with_its_driver() -> None:
    values: dict[str, Any] = {"status": "RUNNING", "message": None, "job_id": None}
    jobs = client(lambda request: httpx.Response(200, json=values))
    assert jobs.job("a") == Job(JobStatus.RUNNING, "", None)
    values |= {"job_id": "02000000", "message": "runs"}
    assert jobs.job("a") == Job(JobStatus.RUNNING, "runs", "02000000")
    assert client(lambda request: httpx.Response(404)).job("a") is None


def test_what_a_job_without_a_driver_left_is_not_asked_for() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"status": "STOPPED", "job_id": None})

    assert client(answer).remains("a") == [] and asked == ["/api/jobs/a"]
    assert client(lambda request: httpx.Response(404)).remains("a") == []


def test_ray_s_own_actors_for_the_whole_cluster_are_not_a_job_s_remains() -> None:
    shared: dict[str, Any] = {
        "class_name": "C",
        "name": "AutoscalingCoordinator",
        "state": "ALIVE",
        "is_detached": True,
    }
    shared |= {"required_resources": {}}
    actors = [
        shared,
        shared | {"name": "holds a GPU", "required_resources": {"GPU": 1.0}},
        shared | {"name": "", "class_name": "PlacementGroupCleaner"},
        shared | {"name": "mine", "is_detached": False},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params
        if request.url.path == "/api/jobs/a":
            return httpx.Response(200, json={"status": "STOPPED", "job_id": "02000000"})
        return httpx.Response(200, json=rows(*actors if "job_id" in query.get_list("filter_keys") else ()))

    assert client(answer).remains("a") == [
        "actor holds a GPU, ALIVE",
        "actor PlacementGroupCleaner, ALIVE",
        "actor mine, ALIVE",
    ]


def test_jobs_that_run_are_listed_by_the_names_they_were_given() -> None:
    listed = [
        {"submission_id": "a", "status": "RUNNING"},
        {"submission_id": "b", "status": "STOPPED"},
        {"submission_id": "c", "status": "PENDING"},
        {"submission_id": None, "status": "RUNNING"},  # a driver that nobody submitted
    ]
    assert client(lambda request: httpx.Response(200, json=listed)).running() == ["a", "c"]


@pytest.mark.parametrize(("first", "there"), [(500, True), (500, False), (400, True), (302, True)])
def test_a_submission_has_succeeded_if_the_job_is_there(first: int, there: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(first, text="Job with submission_id a already exists\n.\n")
        return httpx.Response(200, json={"status": "RUNNING"}) if there else httpx.Response(404)

    if there:
        client(answer).submit("a", "true", {})
    else:
        with pytest.raises(RayUnavailable, match="500 Job with submission_id a already exists"):
            client(answer).submit("a", "true", {})


def test_a_job_that_runs_is_not_deleted_silently() -> None:
    with pytest.raises(RayUnavailable, match="non-terminal"):
        client(lambda request: httpx.Response(500, text="in a non-terminal state RUNNING")).delete("a")
    client(lambda request: httpx.Response(404)).delete("a")


def test_several_threads_use_one_client() -> None:
    with ray_double() as double:
        jobs, wrong = RayJobs(lambda: double.endpoint), []

        def ask() -> None:
            for _ in range(30):
                if [node.cpus for node in jobs.nodes()] != [8]:
                    wrong.append(1)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        jobs.close()
    assert not wrong


def test_a_log_without_end_is_cut_at_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.dispatch.executors.ray_jobs.MOST_LOG", 1 << 20)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'{"logs": "'
        while True:
            sent += 1
            yield b'epoch \\"1\\" of C:\\\\new\\n' * 1000

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=endless()))
    log = RayJobs(lambda: Endpoint("http://ray"), transport=transport).logs("yoso-s-1")
    first, *_, last = log.splitlines()
    assert first == 'epoch "1" of C:\\new' and "left out: more than 1 MiB" in last
    assert len(log) <= (1 << 20) + 100 and sent < 100
