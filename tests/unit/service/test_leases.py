"""Dispatchers that sleep, die and share, a database whose clock steps or that is restored: on both databases.

`test_machine.py` has them do so in any order; here each is seen by itself.
"""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, insert, select, update

from service.dispatch.dispatcher import Dispatcher
from service.dispatch.executors.ray_jobs import RayJobs
from service.domain import scheduling
from service.domain.scheduling import Capacity, Node
from service.folders.runs import Runs
from service.store import work
from service.store.claims import LEASE_SECONDS
from service.store.database import reading, writing
from service.store.models import Attempt, Base, Event, Project, Search
from service.store.searches import Searches
from service.store.work import Work
from tests import seeding
from tests.ray_double import RayDouble

HOUR = 3600.0


class Stage:
    """A service's database and folders, a Ray whose time stands still, and dispatchers."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.runs = app, seeding.parts(app).runs
        self.searches: Searches = seeding.parts(app).searches
        self.ray = RayDouble(run_seconds=10, storage=self.runs.storage)
        self.clients: list[RayJobs] = []

    def dispatcher(self) -> Dispatcher:
        self.clients.append(self.ray.ray_jobs())
        return Dispatcher(self.searches, Runs(self.runs.storage), self.clients[-1], python="python")

    def status(self, search_id: str) -> str:
        return str(self.searches.get(search_id).status)

    def step(self, seconds: float) -> None:
        """Let the database's clock step: by as much all that was noted lies nearer or farther."""
        with writing(self.searches.engine) as session:
            for column in (Search.not_before, Search.lease_expires_at, Search.created_at, Attempt.started_at):
                session.execute(update(column.class_).values({column: column - seconds}))


@pytest.fixture
def stage(app: FastAPI) -> Iterator[Stage]:
    made = Stage(app)
    yield made
    for client in made.clients:
        client.close()
    assert made.ray.violations == [] and made.ray.two_writers == 0


def wait_out(dispatcher: Dispatcher) -> None:
    """Let a lease's time pass for a dispatcher that has seen who holds what."""
    seen = dispatcher.work._seen
    seen |= {name: (token, beat, since - LEASE_SECONDS - 1) for name, (token, beat, since) in seen.items()}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_sleeps_in_a_claim_keeps_nobody_waiting_and_fills_no_room_twice(
    stage: Stage, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has chosen the first of two, for the only room, when it falls asleep."""
    first, second = seeding.queue(stage.app), seeding.queue(stage.app)
    one = Capacity.of([Node("node", 1, 0)])
    asleep, wake, admit, claimed = threading.Event(), threading.Event(), scheduling.admit, list[Search]()

    def sleep(*arguments: Any) -> Any:
        verdict = admit(*arguments)
        if threading.current_thread() is thread:
            assert [ask.id for ask in verdict.admitted] == [first]
            asleep.set()
            assert wake.wait(60)
        return verdict

    monkeypatch.setattr(scheduling, "admit", sleep)
    thread = threading.Thread(target=lambda: claimed.extend(Work(stage.searches.engine).claim("sleeper", one)))
    thread.start()
    assert asleep.wait(30)
    seeding.change(stage.app, first, paused=True)
    assert seeding.claims(stage.app, one) == [second], "nobody waits for who sleeps"
    seeding.change(stage.app, first, paused=False)
    wake.set()
    thread.join()
    assert claimed == [] and stage.status(first) == "queued", "the room is full"
    assert seeding.claims(stage.app, one) == []


def test_who_sleeps_while_it_looks_for_leases_takes_none_that_it_has_just_seen(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeding.queue(stage.app)
    holder = stage.dispatcher()
    holder.turn()
    times = iter([0.0, 2 * LEASE_SECONDS, 2 * LEASE_SECONDS + 1, 2 * LEASE_SECONDS + 1])
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=times.__next__))
    sleeper = Work(stage.searches.engine)
    assert sleeper.take_over("sleeper") == [], "the lease is new to it, and it has slept before it saw it"
    assert sleeper.take_over("sleeper") == [], "that was a second ago"
    [(search_id, token)] = holder.held.items()
    assert holder.work.renew([token]) == {token}, search_id


@pytest.mark.parametrize(("part", "name"), [("runs", "write_spec"), ("jobs", "submit")])
def test_who_sleeps_in_a_launch_neither_takes_the_folder_back_nor_starts_a_second_driver(
    stage: Stage, part: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, sleeper, other = seeding.queue(stage.app), stage.dispatcher(), stage.dispatcher()
    do = getattr(getattr(sleeper, part), name)

    def sleep(*arguments: Any) -> Any:
        """Another takes the lease, sees the attempt fail, and launches the next one, which begins."""
        monkeypatch.undo()
        seeding.change(stage.app, search_id, lease_token=None)
        other.turn()
        stage.ray.end(search_id, "FAILED")
        other.turn()
        seeding.change(stage.app, search_id, not_before=0.0)
        other.turn()
        other.turn()
        assert stage.searches.get(search_id).attempt == 2 and stage.status(search_id) == "running"
        return do(*arguments)

    monkeypatch.setattr(getattr(sleeper, part), name, sleep)
    sleeper.turn()
    spec = stage.runs.read_json(search_id, "spec.json")
    assert spec is not None and spec["attempt"] == 2
    stage.ray.advance(11)
    for _ in range(3):
        sleeper.turn()
        other.turn()
    assert stage.status(search_id) == "succeeded" and stage.searches.get(search_id).attempt == 2
    assert sleeper.held == {}
    # The first job, which Ray had forgotten, was taken once more, and its driver gave way.
    drivers = [(one.attempt, one.supervised) for one in stage.ray.executions]
    assert drivers[:2] == [(1, False), (2, False)] and not any(alive for _, alive in drivers)


def test_leases_that_are_handed_back_are_shared(stage: Stage) -> None:
    ids = [seeding.queue(stage.app) for _ in range(60)]
    gone = Work(stage.searches.engine)
    held = [one.lease_token or "" for _ in range(4) for one in gone.claim("gone", seeding.LARGE)]
    assert len(held) == 60
    gone.hand_back(held)
    one, two = Work(stage.searches.engine), Work(stage.searches.engine)
    taken: dict[str, list[str]] = {"one": [], "two": []}
    for _ in range(30):
        taken["one"] += [search.id for search in one.take_over("one")]
        taken["two"] += [search.id for search in two.take_over("two")]
    assert sorted(taken["one"] + taken["two"]) == sorted(ids), "each by one of them"
    assert min(len(some) for some in taken.values()) >= 20


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_clock_that_steps_neither_keeps_a_lease_nor_breaks_one(stage: Stage, seconds: float) -> None:
    search_id, dead, other = seeding.queue(stage.app), stage.dispatcher(), stage.dispatcher()
    dead.turn()
    other.turn()
    stage.step(seconds)
    other.turn()
    assert search_id in dead.held and search_id not in other.held, "its holder is there"
    wait_out(other)
    dead.renew()
    other.turn()
    assert search_id not in other.held, "and beats"
    wait_out(other)
    other.turn()
    assert search_id in other.held
    dead.turn()
    assert dead.held == {}


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_clock_that_steps_holds_up_nobody_that_waits_to_be_tried_again(stage: Stage, seconds: float) -> None:
    search_id, dispatcher = seeding.queue(stage.app), stage.dispatcher()
    dispatcher.turn()
    stage.ray.end(search_id, "FAILED")
    dispatcher.turn()
    assert stage.status(search_id) == "queued" and stage.searches.get(search_id).not_before > 0
    stage.step(seconds)
    dispatcher.turn()
    assert stage.status(search_id) == "waiting" and stage.searches.get(search_id).attempt == 2


def test_a_database_that_was_restored_from_yesterday_carries_on(stage: Stage) -> None:
    """A search has gone on since: its folder knows of attempts of which the database does not."""
    search_id, dispatcher = seeding.queue(stage.app), stage.dispatcher()
    tables = (Project, Search, Attempt, Event)
    with reading(stage.searches.engine) as session:
        yesterday = {
            table: [dict(row) for row in session.execute(select(table.__table__)).mappings()] for table in tables
        }
    for attempt in (1, 2):
        seeding.change(stage.app, search_id, not_before=0.0)
        for _ in range(2):
            dispatcher.turn()
        assert stage.status(search_id) == "running"
        if attempt == 1:
            stage.ray.end(search_id, "FAILED")
            dispatcher.turn()
    with writing(stage.searches.engine) as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(delete(table))
        for model, rows in yesterday.items():
            if rows:
                session.execute(insert(model), rows)
    after = stage.dispatcher()
    after.turn()
    assert stage.status(search_id) == "launching", "what runs of an attempt that nobody knows is stopped first"
    assert set(stage.ray.stopped) == {f"yoso-{search_id}-2"}
    stage.ray.end(search_id, "STOPPED", 2)
    after.turn()
    search = stage.searches.get(search_id)
    assert search.attempt == 2
    for _ in range(3):
        after.turn()
    assert stage.searches.get(search_id).attempt == 3 and stage.status(search_id) == "running"
    stage.ray.advance(11)
    for _ in range(2):
        after.turn()
    assert stage.status(search_id) == "succeeded"


def test_what_is_paused_stays_paused_when_it_fails_and_when_its_user_tries_it_again(stage: Stage) -> None:
    sweep_id, dispatcher = seeding.sweep(stage.app, seeds=[0], finals=False), stage.dispatcher()
    [search] = seeding.parts(stage.app).sweeps.searches(sweep_id, 2)
    dispatcher.turn()
    dispatcher.turn()
    assert stage.status(search.id) == "running"
    with writing(stage.searches.engine) as session:
        seeding.parts(stage.app).sweeps.pause(session, sweep_id, True)
    stage.ray.end(search.id, "FAILED")
    dispatcher.turn()
    assert stage.status(search.id) == "queued"
    seeding.change(stage.app, search.id, not_before=0.0)
    assert seeding.claims(stage.app) == []
    stage.searches.cancel(search.id)
    stage.searches.retry(search.id)
    assert seeding.claims(stage.app) == [] and stage.searches.get(search.id).reason == "its sweep is paused"
    with writing(stage.searches.engine) as session:
        seeding.parts(stage.app).sweeps.pause(session, sweep_id, False)
    assert seeding.claims(stage.app) == [search.id]


class Ending(dict[str, str]):
    """What is held by a dispatcher of which another thread lets go just after it was looked at."""

    def get(self, key: str, default: Any = None) -> Any:
        return self.pop(key, default)


def test_a_lease_that_ends_while_it_is_renewed_does_not_end_the_heartbeat(stage: Stage) -> None:
    search_id, dispatcher = seeding.queue(stage.app), stage.dispatcher()
    dispatcher.turn()
    assert search_id in dispatcher.held
    seeding.change(stage.app, search_id, lease_token="another's")
    dispatcher.held = Ending(dispatcher.held)
    dispatcher.renew()
    assert dispatcher.held == {}
