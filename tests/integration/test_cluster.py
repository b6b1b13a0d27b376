"""Searches and a sweep on a real Ray of several nodes, which come and die (`make soak-cluster`)."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from service.client import Client
from service.dispatch import dispatcher
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.dispatch.local_ray import free_ports
from service.domain.lifecycle import TERMINAL
from tests import seeding
from tests.ray_starts import agent_ports, alone

pytestmark = [pytest.mark.slow, pytest.mark.proof]
PATIENCE = 480.0
SEARCH: dict[str, Any] = {
    "budgets": [60_000],
    "space": {"preset": "digits", "channels": 8, "blocks": [1, 1], "levels": 2},
    "settings": {"pretrain_epochs": 1, "search_epochs": 40, "retrain_epochs": 1},
    "workers": {"min": 1, "max": 2},
    "accelerator_type": "TEST",
}


def node(cluster: Cluster, **fields: Any) -> Any:
    """A node joins; every one has agents of its own, which want ports."""
    return cluster.add_node(**agent_ports(), **fields)


def worker_node(cluster: Cluster) -> Any:
    """A node of the type, with room for one worker."""
    return node(cluster, num_cpus=1, resources={"accelerator_type:TEST": 1})


def soon(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    """Let Ray, workers and dispatchers notice within seconds what comes and goes; `more` is for the environment too."""
    root = str(Path(__file__).parents[2])
    for name, value in {
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
        "YOSO_CHECKPOINT_SECONDS": "0.5",
        **more,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dispatcher, "CAPACITY_SECONDS", 1.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that runs no workers, and a node without the type that the search wants."""
    soon(monkeypatch)
    made = Cluster()
    with alone():
        node(made, num_cpus=0, include_dashboard=True, dashboard_port=free_ports(1)[0])
        node(made, num_cpus=2)
    yield made
    made.shutdown()  # type: ignore[no-untyped-call]


def until(holds: Callable[[], Any], told: str) -> Any:
    give_up = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < give_up, f"not yet: {told}"
        time.sleep(0.1)
    return value


@pytest.mark.timeout(1200)
def test_a_search_takes_the_nodes_that_there_are_and_outlives_them(cluster: Cluster, tmp_path: Path) -> None:
    """It begins with one, has two in its next attempt, loses one of them to SIGKILL, and ends with the other."""
    worker_node(cluster)
    app = seeding.make_app(tmp_path)
    context = seeding.parts(app)
    jobs = RayJobs(lambda: Endpoint(f"http://{cluster.webui_url}"))
    dispatching = Dispatcher(context.searches, context.runs, jobs, python=sys.executable)
    thread = threading.Thread(target=dispatching.run)
    search_id = seeding.queue(app, **SEARCH)

    def lines(kind: str) -> list[dict[str, Any]]:
        return [event.data for event in context.searches.events(search_id, kind=kind, limit=5000)]

    def starts(count: int) -> list[tuple[int, int, bool]]:
        """Attempt, workers, and whether from a checkpoint, of every start, as soon as there are so many."""

        def seen() -> list[tuple[int, int, bool]]:
            search = context.searches.get(search_id)
            assert search.status not in TERMINAL, search.error
            found = [(one["attempt"], one["workers"], one["resumed"]) for one in lines("started")]
            return found if len(found) >= count else []

        found: list[tuple[int, int, bool]] = until(seen, f"start {count}")
        return found

    def another_checkpoint() -> None:
        before = len(lines("checkpoint"))
        until(lambda: len(lines("checkpoint")) > before, "a checkpoint")

    thread.start()
    try:
        assert starts(1) == [(1, 1, False)]
        assert context.searches.get(search_id).workers == 1
        second = worker_node(cluster)
        until(lambda: dispatching.capacity and dispatching.capacity.of_type("TEST").cpus == 2, "both are seen")
        another_checkpoint()
        jobs.stop(f"yoso-{search_id}-1")
        assert starts(2)[1:] == [(2, 2, True)]
        assert context.searches.get(search_id).workers == 2
        another_checkpoint()
        cluster.remove_node(second, allow_graceful=False)
        assert starts(3)[2:] == [(2, 1, True)]
        until(lambda: context.searches.get(search_id).status in TERMINAL, "it ends")
        assert context.searches.get(search_id).status == "succeeded", context.searches.get(search_id).error
        epochs = {(one["phase"], one["epoch"]) for one in lines("epoch")}
        assert len(epochs) == 1 + SEARCH["settings"]["search_epochs"] + 1, "every epoch, whoever trained it"
    finally:
        dispatching.stop()
        thread.join()
        jobs.close()
        context.searches.engine.dispose()


def serve(folder: Path, port: int, ray: str) -> "subprocess.Popen[bytes]":
    """A service on that Ray, as a user starts it."""
    settings = {"YOSO_STORAGE": str(folder), "YOSO_PORT": str(port), "YOSO_RAY_ADDRESS": ray}
    with (folder.parent / "service.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve"], stdout=log, stderr=log, env=os.environ | settings
        )


@pytest.mark.timeout(1200)
def test_a_sweep_outlives_its_service_and_a_node_and_searches_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    """Both are killed with SIGKILL while two searches run; another node joins, and the finals end the sweep."""
    first, _ = worker_node(cluster), worker_node(cluster)
    storage, port, ray = tmp_path / "storage", free_ports(1)[0], f"http://{cluster.webui_url}"
    service = serve(storage, port, ray)
    asked = {key: value for key, value in SEARCH.items() if key not in ("budgets", "workers")}
    asked["settings"] = asked["settings"] | {"search_epochs": 60, "retrain_epochs": 4}

    def lines(search_id: str, kind: str) -> list[dict[str, Any]]:
        chunks = sorted((storage / "searches" / search_id / "journal").glob("*.jsonl"))
        told = [json.loads(line) for chunk in chunks for line in chunk.read_text().splitlines()]
        return [line for line in told if line["kind"] == kind]

    with Client(f"http://127.0.0.1:{port}") as client:
        try:
            until(client.ready, "the service")
            sweep = client.submit_sweep({"dataset": "digits"} | asked, [60_000, 90_000], seeds=[0, 1], baselines=[])
            page = client.sweep_searches(sweep["id"])["items"]
            searches = [one["id"] for one in page if one["kind"] == "search"]
            [finals] = [one["id"] for one in page if one["kind"] == "finals"]
            until(lambda: all(lines(one, "checkpoint") for one in searches), "a checkpoint of both")
            service.kill()
            service.wait()
            cluster.remove_node(first, allow_graceful=False)
            service = serve(storage, port, ray)
            worker_node(cluster)
            until(client.ready, "the service again")
            ended = client.wait_sweep(sweep["id"])
            assert (ended["counts"], ended["finals"]) == ({"succeeded": 2}, {"succeeded": 1})
            points = client.pareto(sweep["id"])["points"]
            assert {point["budget"] for point in points} == {60_000, 90_000}
            assert {point["search"] for point in points} == {finals}
        finally:
            service.terminate()
            service.wait()
    starts = {search_id: [line["resumed"] for line in lines(search_id, "started")] for search_id in searches}
    assert all(found[0] is False and all(found[1:]) for found in starts.values()), starts
    assert max(map(len, starts.values())) > 1, "the node that died had one of them"
    for search_id in searches:
        epochs = [(line["phase"], line["epoch"]) for line in lines(search_id, "epoch")]
        assert set(epochs) == {("pretrain", 1), *(("search", epoch) for epoch in range(1, 61))}
        assert len(epochs) < 1.5 * len(set(epochs)), "only what came after the last checkpoint was done again"
