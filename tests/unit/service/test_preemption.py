"""Searches that make room for others of a higher priority, by choice."""

from collections.abc import Collection, Iterator

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from service.dispatch.dispatcher import Dispatcher
from service.domain.lifecycle import MAX_ATTEMPTS
from service.domain.scheduling import yielding
from service.store.database import writing
from service.store.searches import Searches
from tests import seeding
from tests.ray_double import RayDouble


class Stage:
    """A cluster of two CPUs whose workers do not start by themselves, and a dispatcher that looks for room in every
    turn."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.ray = app, RayDouble(cpus=2)
        self.jobs = self.ray.ray_jobs()
        self.searches: Searches = seeding.parts(app).searches
        self.dispatcher = Dispatcher(self.searches, seeding.parts(app).runs, self.jobs, python="python")

    def queue(self, **fields: object) -> str:
        """A search in the queue; the cluster is asked to launch it."""
        search_id = seeding.queue(self.app, **fields)
        self.turn()
        return search_id

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.dispatcher._preempted = float("-inf")
            self.dispatcher.turn()

    def stopped(self, search_id: str) -> None:
        """Its job ends, as it was told to."""
        self.ray.end(search_id, "STOPPED", self.searches.get(search_id).attempt)
        self.turn(2)

    def yields(self, search_id: str) -> bool:
        """Whether its job was told to stop."""
        return f"yoso-{search_id}-{self.searches.get(search_id).attempt}" in self.ray.stopped

    def status(self, search_id: str) -> str:
        return str(self.searches.get(search_id).status)


@pytest.fixture
def stage(app: FastAPI) -> Iterator[Stage]:
    made = Stage(app)
    yield made
    made.jobs.close()
    assert made.ray.violations == []


def test_who_has_started_last_makes_room_is_queued_at_once_and_goes_on_later(stage: Stage) -> None:
    first, second = stage.queue(), stage.queue()
    urgent = stage.queue(priority=5, preempts=True)
    stage.turn(2)
    assert [stage.yields(one) for one in (first, second)] == [False, True]
    assert (stage.status(second), stage.status(urgent)) == ("waiting", "queued"), "not before its job is gone"
    told = f"it is returned to the queue: it makes room for search {urgent}"
    assert stage.searches.get(second).reason == told
    stage.stopped(second)
    assert [stage.status(one) for one in (first, second, urgent)] == ["waiting", "queued", "waiting"]
    search = stage.searches.get(second)
    assert search.reason == f"attempt 1 was returned to the queue and is tried again in 0 s: {told.partition(': ')[2]}"
    assert search.last_attempt == MAX_ATTEMPTS + 1 and search.yields_to is None
    assert search.error is not None and search.error["kind"] == "preempted"
    stage.ray.end(urgent, "FAILED")
    seeding.change(stage.app, urgent, last_attempt=1)
    stage.turn(2)
    assert (stage.status(urgent), stage.status(second)) == ("failed", "waiting")
    assert stage.searches.get(second).attempt == 2


def test_as_few_as_it_takes_of_the_lowest_priority_first(stage: Stage) -> None:
    low, lower = stage.queue(priority=1), stage.queue(priority=0)
    stage.queue(priority=5, preempts=True)
    stage.turn(2)
    assert [stage.yields(one) for one in (low, lower)] == [False, True]
    stage.queue(priority=4, preempts=True)
    stage.turn(2)
    assert not stage.yields(low), "the first that waits has room as soon as the other has gone"
    stage.stopped(lower)
    stage.turn(2)
    assert stage.yields(low), "and then the next does"


def test_two_make_room_for_one_that_needs_both(stage: Stage) -> None:
    both = [stage.queue(), stage.queue()]
    wide = stage.queue(priority=1, preempts=True, workers=2)
    stage.turn(2)
    assert [stage.yields(one) for one in both] == [True, True]
    for one in both:
        stage.stopped(one)
    assert stage.status(wide) == "waiting"


@pytest.mark.parametrize(
    ("running", "asking"),
    [
        pytest.param({}, {"priority": 5}, id="it does not ask for that"),
        pytest.param({}, {"priority": 0, "preempts": True}, id="no lower priority"),
        pytest.param({"project": "other"}, {"priority": 5, "preempts": True}, id="another project"),
        pytest.param({"rank": 0.0}, {"priority": 5, "preempts": True}, id="ahead of it in the queue"),
        pytest.param({}, {"priority": 5, "preempts": True, "workers": 3}, id="never any room"),
    ],
)
def test_nobody_makes_room_otherwise(stage: Stage, running: dict[str, object], asking: dict[str, object]) -> None:
    fields = {name: value for name, value in running.items() if name != "rank"}
    others = [stage.queue(**fields), stage.queue(**fields)]
    for one in others if "rank" in running else ():
        seeding.change(stage.app, one, rank=running["rank"])
    asked = stage.queue(**asking)
    stage.turn(2)
    assert stage.ray.stopped == [] and stage.status(asked) == "queued"


def test_nobody_makes_room_in_vain(stage: Stage) -> None:
    stage.queue(project="other")
    low = stage.queue()
    stage.queue(priority=5, preempts=True, workers=2)
    stage.turn(2)
    assert not stage.yields(low), "the other project's search would still be in the way"


def test_a_quota_of_its_project_is_room_too(stage: Stage) -> None:
    with writing(stage.searches.engine) as session:
        seeding.parts(stage.app).projects.set("default", {"max_running": 1}, session)
    low = stage.queue()
    urgent = stage.queue(priority=5, preempts=True)
    stage.turn(2)
    assert stage.yields(low)
    stage.stopped(low)
    assert stage.status(urgent) == "waiting"


def test_who_takes_over_in_between_counts_no_attempt(stage: Stage) -> None:
    stage.queue()
    low = stage.queue()
    seeding.change(stage.app, low, last_attempt=1)
    stage.queue(priority=5, preempts=True)
    stage.turn(2)
    assert stage.yields(low)
    stage.dispatcher = Dispatcher(stage.searches, seeding.parts(stage.app).runs, stage.jobs, python="python")
    seeding.change(stage.app, low, lease_token=None)
    stage.stopped(low)
    assert stage.status(low) == "queued"


def test_whether_a_search_preempts_is_told_and_checked(url: str) -> None:
    with httpx.Client(base_url=f"{url}/api/v1", timeout=60) as http:
        body = {"dataset": "digits", "budgets": ["300k"]}
        assert http.post("/searches", json=body).json()["preempts"] is False
        assert http.post("/searches", json=body | {"preempts": True}).json()["preempts"] is True
        refused = http.post("/searches", json=body | {"preempts": "yes"})
        assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "preempts"


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 12))
def test_none_of_those_who_make_room_could_have_stayed(gives: list[int], needed: int) -> None:
    def admitted(gone: Collection[str]) -> list[str]:
        return ["urgent"] if sum(gives[int(one)] for one in gone) >= needed else []

    names = [str(number) for number in range(len(gives))]
    told = yielding("urgent", names, admitted)
    if not 0 < needed <= sum(gives):
        assert told == []
    else:
        assert admitted(told) and not any(admitted([other for other in told if other != one]) for one in told)
