"""Searches that no node can take: now, in time, or ever."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from service import cli
from service.dispatch.dispatcher import Dispatcher
from service.domain.lifecycle import LONGEST_BACKOFF, MAX_ATTEMPTS, WAITING_SECONDS
from service.domain.scheduling import Node
from service.settings import Settings
from service.store.searches import Searches
from tests import seeding
from tests.ray_double import RayDouble


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


class Cluster:
    """A Ray that starts no workers, since others hold its nodes, and dispatchers whose time stands still."""

    def __init__(self, app: FastAPI, cpus: float = 1) -> None:
        self.app, self.ray = app, RayDouble(cpus=cpus)
        self.jobs = self.ray.ray_jobs()
        self.searches: Searches = seeding.parts(app).searches

    def dispatcher(self, waiting_seconds: float = WAITING_SECONDS) -> Dispatcher:
        runs = seeding.parts(self.app).runs
        return Dispatcher(self.searches, runs, self.jobs, python="python", waiting_seconds=waiting_seconds)

    def turn(self, dispatcher: Dispatcher, search_id: str, status: str) -> None:
        dispatcher.turn()
        assert self.searches.get(search_id).status == status

    def wait_in_vain(self, dispatcher: Dispatcher, search_id: str, attempt: int) -> None:
        """From the queue to Ray and back, as time would have it."""
        seeding.change(self.app, search_id, not_before=0.0)
        dispatcher.waiting_seconds = WAITING_SECONDS
        for _ in range(2):
            self.turn(dispatcher, search_id, "waiting")
        dispatcher.waiting_seconds = -1.0
        for _ in range(2):
            self.turn(dispatcher, search_id, "waiting")
        self.ray.end(search_id, "STOPPED", attempt)
        self.turn(dispatcher, search_id, "queued")


@pytest.fixture
def cluster(app: FastAPI) -> Iterator[Cluster]:
    made = Cluster(app)
    yield made
    made.jobs.close()
    assert made.ray.violations == []


def test_a_search_that_waits_in_ray_for_too_long_gives_its_place_back(cluster: Cluster, app: FastAPI) -> None:
    search_id, second = seeding.queue(app), seeding.queue(app)
    dispatcher = cluster.dispatcher()
    cluster.wait_in_vain(dispatcher, search_id, 1)
    assert cluster.ray.stopped == [f"yoso-{search_id}-1"]
    search = cluster.searches.get(search_id)
    assert search.reason == (
        "attempt 1 was returned to the queue and is tried again in 300 s: Ray did not start its 1 worker within -1 s; "
        "others than Yoso's searches may hold the nodes"
    )
    assert search.error is not None and (search.error["kind"], search.error["attempt"]) == ("waiting", 1)
    [attempt] = cluster.searches.attempts(search_id)
    assert attempt.ended_at is not None
    assert search.not_before == pytest.approx(attempt.ended_at + LONGEST_BACKOFF, abs=60)
    cluster.turn(dispatcher, second, "waiting")
    assert cluster.searches.get(search_id).status == "queued", "what it gave back goes to others"


def test_a_cluster_that_is_full_fails_no_search_and_its_own_failures_still_count(
    cluster: Cluster, app: FastAPI
) -> None:
    search_id, dispatcher = seeding.queue(app), cluster.dispatcher()
    in_vain = MAX_ATTEMPTS + 1
    for attempt in range(1, in_vain + 1):
        cluster.wait_in_vain(dispatcher, search_id, attempt)
    dispatcher.waiting_seconds = WAITING_SECONDS
    for attempt in range(in_vain + 1, in_vain + MAX_ATTEMPTS + 1):
        seeding.change(app, search_id, not_before=0.0)
        cluster.turn(dispatcher, search_id, "waiting")
        cluster.ray.end(search_id, "FAILED", attempt)
        cluster.turn(dispatcher, search_id, "failed" if attempt == in_vain + MAX_ATTEMPTS else "queued")


def test_who_takes_over_a_search_that_is_being_stopped_counts_no_attempt(cluster: Cluster, app: FastAPI) -> None:
    search_id, first = seeding.queue(app), cluster.dispatcher()
    cluster.turn(first, search_id, "waiting")
    seeding.change(app, search_id, last_attempt=1)
    first.waiting_seconds = -1.0
    for _ in range(2):
        cluster.turn(first, search_id, "waiting")
    assert cluster.ray.stopped == [f"yoso-{search_id}-1"]
    seeding.change(app, search_id, lease_token=None)
    cluster.ray.end(search_id, "STOPPED")
    cluster.turn(cluster.dispatcher(), search_id, "queued")


def test_workers_that_start_at_last_are_left_alone_by_who_had_given_up_on_them(cluster: Cluster, app: FastAPI) -> None:
    """The dispatcher falls asleep when it has given up; another sees the workers begin, and gives the lease back."""
    search_id, sleeper = seeding.queue(app), cluster.dispatcher()
    cluster.turn(sleeper, search_id, "waiting")
    sleeper.waiting_seconds = -1.0
    cluster.turn(sleeper, search_id, "waiting")
    assert "is returned to the queue" in (cluster.searches.get(search_id).reason or "")
    seeding.change(app, search_id, lease_token=None)
    other = cluster.dispatcher()
    line = b'{"kind": "started", "attempt": 1, "time": 1.0, "workers": 1, "device": "cpu", "resumed": false}\n'
    seeding.parts(app).runs.write(search_id, "journal/0001-000001.jsonl", line)
    for _ in range(2):
        cluster.turn(other, search_id, "running")
    sleeper.turn()
    assert sleeper.held == {}
    other.work.hand_back(other.held.values())
    for _ in range(2):
        cluster.turn(sleeper, search_id, "running")
    assert cluster.ray.stopped == []


@pytest.mark.parametrize("text", ["0", "soon", "1e9"])
def test_a_deadline_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Settings.from_environment({"YOSO_WAITING_SECONDS": text})
    assert refused.value.field == "YOSO_WAITING_SECONDS"
    assert Settings.from_environment({"YOSO_WAITING_SECONDS": "60"}).waiting_seconds == 60


NEVER = (
    "needs 2 workers of 4 CPUs and 0 GPUs, and the cluster's nodes have room for 1 such worker even when nothing else "
    "runs"
)


def test_what_the_nodes_could_never_run_says_so_wherever_it_is_looked_at(
    app: FastAPI, http: httpx.Client, url: str
) -> None:
    """Submitted while there were nodes for it, of which one was lost since."""
    context = seeding.parts(app)
    context.cluster.report("tests", [Node("one", 4, 0), Node("two", 4, 0)], None)
    asked: dict[str, Any] = {"dataset": "digits", "budgets": ["300k"], "workers": 2, "cpus_per_worker": 4}
    search_id = http.post("/api/v1/searches", json=asked).json()["id"]
    asked.pop("budgets")
    sweep = http.post("/api/v1/sweeps", json={"search": asked, "budgets": ["300k"]}).json()["id"]

    def reasons() -> list[str | None]:
        found = [http.get(f"/api/v1/searches/{search_id}").json()]
        found += http.get("/api/v1/searches").json()["items"]
        found += http.get(f"/api/v1/sweeps/{sweep}/searches").json()["items"]
        return [one["reason"] for one in found]

    def told() -> list[bool]:
        pages = ("/searches", f"/searches/{search_id}", f"/sweeps/{sweep}", "/cluster")
        shown = [http.get(page).text for page in pages]
        shown.append(re.sub(r"\s+", " ", CliRunner().invoke(cli.app, ["show", search_id, "--url", url]).stdout))
        return [NEVER.replace("'", "&#39;") in text or NEVER in text for text in shown]

    assert reasons() == [None] * 4 and told() == [False] * 5
    context.cluster.report("tests", [Node("one", 4, 0), Node("two", 3, 0)], None)
    assert reasons() == [NEVER] * 4 and told() == [True] * 5
    refused = http.post("/api/v1/searches", json=asked | {"budgets": ["300k"]})
    assert refused.status_code == 422 and [one["field"] for one in refused.json()["errors"]] == ["workers"]
    small = http.post("/api/v1/searches", json=asked | {"budgets": ["300k"], "workers": 1}).json()["id"]
    assert seeding.claims(app, context.capacity() or seeding.LARGE) == [small], "and it blocks nobody"
    context.cluster.report("tests", [Node("one", 4, 0), Node("two", 4, 0)], None)
    assert reasons()[0] is None, "a node has come back"
