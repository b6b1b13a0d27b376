"""Searches that take as many workers as there is room for, from the queue to the run's folder, on both databases."""

from typing import Any

import pytest
from fastapi import FastAPI

from service.dispatch.dispatcher import Dispatcher
from service.domain.lifecycle import Status
from service.domain.scheduling import Capacity, Node
from service.store.cluster import ClusterStore
from service.store.database import writing
from service.store.models import ClusterRow, Search
from service.store.work import Work
from tests import seeding
from tests.ray_double import RayDouble

ONE_TO_SIX = {"min": 1, "max": 6}


def room(cpus: float, *types: str) -> Capacity:
    """A cluster of one node."""
    return Capacity.of([Node("n", cpus, 0, types)])


def claim(app: FastAPI, capacity: Capacity) -> dict[str, Search]:
    """What a dispatcher claims now, by id."""
    return {search.id: search for search in Work(seeding.parts(app).searches.engine).claim("tests", capacity)}


def holds(search: Search) -> tuple[int, int, float]:
    """The workers, CPUs and accelerators of a row."""
    return search.workers, search.cpus, search.accelerators


def test_a_search_holds_what_it_was_granted_and_asks_for_its_most_again(app: FastAPI) -> None:
    searches = seeding.parts(app).searches
    search_id = seeding.queue(app, workers=ONE_TO_SIX, cpus_per_worker=2)
    assert holds(searches.get(search_id)) == (6, 12, 1.5)
    claimed = claim(app, room(9))[search_id]
    assert holds(claimed) == (4, 8, 1.0) and claimed.min_workers == 1
    [shown] = seeding.parts(app).projects.standings()
    assert shown.share.held == 1.0
    work = Work(searches.engine)
    work.move(search_id, claimed.lease_token or "", Status.WAITING)
    work.try_again(search_id, claimed.lease_token or "", 0.0)
    assert holds(searches.get(search_id)) == (6, 12, 1.5)
    again = claim(app, room(3))[search_id]
    assert holds(again) == (1, 2, 0.25)
    work.move(search_id, again.lease_token or "", Status.FAILED)
    assert holds(searches.get(search_id)) == (1, 2, 0.25)
    assert holds(searches.retry(search_id)) == (6, 12, 1.5)


def test_a_project_pays_for_what_was_granted_and_not_for_what_was_asked(app: FastAPI) -> None:
    searches, projects = seeding.parts(app).searches, seeding.parts(app).projects
    search_id = seeding.queue(app, workers=ONE_TO_SIX, cpus_per_worker=8)
    claimed = claim(app, room(8))[search_id]
    work = Work(searches.engine)
    work.move(search_id, claimed.lease_token or "", Status.WAITING)
    work.try_again(search_id, claimed.lease_token or "", 0.0)
    [attempt] = searches.attempts(search_id)
    assert attempt.ended_at is not None
    lasted = attempt.ended_at - attempt.started_at
    [standing] = projects.standings()
    assert standing.share.used == pytest.approx(lasted, abs=1e-3), "one worker of eight CPUs is an accelerator"


def test_those_that_come_later_have_what_is_left(app: FastAPI) -> None:
    first, second = seeding.queue(app, workers=ONE_TO_SIX), seeding.queue(app, workers={"min": 2, "max": 4})
    claimed = claim(app, room(8))
    assert (claimed[first].workers, claimed[second].workers) == (6, 2)


def test_a_search_of_a_type_waits_for_nodes_that_have_it(app: FastAPI) -> None:
    search_id = seeding.queue(app, workers=2, accelerator_type="A100")
    assert claim(app, room(8, "T4")) == {}
    nodes = Capacity.of([Node("a", 2, 0, ("A100",)), Node("t", 8, 0, ("T4",))])
    assert set(claim(app, nodes)) == {search_id}
    second = seeding.queue(app, accelerator_type="A100")
    anywhere = seeding.queue(app)
    assert claim(app, nodes) == {}, "the first of the project waits for the A100s that the other holds"
    seeding.parts(app).searches.cancel(second)
    assert set(claim(app, nodes)) == {anywhere}


def test_a_cluster_that_an_older_dispatcher_reported_has_no_types(app: FastAPI) -> None:
    store = ClusterStore(seeding.parts(app).searches.engine)
    store.report("new", [Node("n", 4, 1, ("A100",))], None)
    seen = store.read()
    assert seen is not None and seen.nodes == (Node("n", 4, 1, ("A100",)),)
    with writing(store.engine) as session:
        session.get_one(ClusterRow, 1).nodes = [{"name": "n", "cpus": 4, "gpus": 1}]
    seen = ClusterStore(store.engine).read()
    assert seen is not None and seen.nodes == (Node("n", 4, 1),)


def spec_of(app: FastAPI, search_id: str) -> Any:
    """What the worker is told."""
    return seeding.parts(app).runs.read_json(search_id, "spec.json")


def test_the_worker_is_told_how_many_workers_were_granted(app: FastAPI) -> None:
    double = RayDouble(cpus=3)
    double.accelerator_types = ("A100",)
    jobs = double.ray_jobs()
    context = seeding.parts(app)
    search_id = seeding.queue(app, workers=ONE_TO_SIX, accelerator_type="A100")
    dispatcher = Dispatcher(context.searches, context.runs, jobs, python="python")
    dispatcher.turn()
    told = spec_of(app, search_id)
    assert (told["workers"], told["min_workers"], told["accelerator_type"]) == (3, 1, "A100")
    assert context.searches.get(search_id).spec["workers"] == 6, "what was asked for stays"
    reason = context.searches.get(search_id).reason or ""
    assert "3 workers of 1 CPU and 0 GPUs on nodes with A100" in reason and double.violations == []
    double.cpus = 8
    double.end(search_id, "FAILED")
    dispatcher._measured = float("-inf")
    dispatcher.turn()
    assert context.searches.get(search_id).status == "queued"
    with writing(context.searches.engine) as session:
        session.get_one(Search, search_id).not_before = 0.0
    dispatcher.turn()
    assert spec_of(app, search_id)["workers"] == 6 and spec_of(app, search_id)["attempt"] == 2
    jobs.close()
