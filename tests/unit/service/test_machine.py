"""Submit, claim, launch, heartbeat, expire, finish, cancel, retry and crash in any order, on both databases.

A hypothesis state machine plays users, three dispatchers, Ray and time. Ray is a double with faults, whose drivers
claim their attempts and write as a worker does. There is one time, which stands still until it is told to pass: so an
example is the same every time. The clocks of the database and of the machines are put forward and back by an hour. The
database is restored from an earlier time while folders, jobs and dispatchers are further.

A dispatcher's turn can be cut before anything that it does to, or asks of, something that others see too: a statement
to the database, wherever in a transaction, a commit, a request to Ray, an operation on the storage, a look at a clock.
It dies there, or it stays there and goes on later with what it knew then. What it does in between is its own.

Who stays in a transaction on PostgreSQL keeps its locks until the server ends the transaction, after as much of the
time as `LIMITS` says, and finds its connection lost; others wait for such a lock for some milliseconds in the place of
seconds, and get an error. SQLite is for one process (a second one is refused, `test_processes.py`), and several
dispatchers in one are but cheap here. Who sleeps there in a transaction that writes sleeps with the whole process: time
passes, and nobody else does anything.
"""

import copy
import functools
import itertools
import json
import logging
import math
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, Engine, create_engine, delete, event, insert, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.dispatch import dispatcher as dispatcher_module
from service.dispatch.dispatcher import SWEEP_SECONDS, Dispatcher
from service.dispatch.executors.ray_jobs import RayJobs
from service.domain.lifecycle import TERMINAL, TRANSITIONS, WITH_RAY, Status
from service.domain.request import SearchRequest, check
from service.domain.scheduling import HALF_LIFE_SECONDS
from service.domain.sweep import SweepRequest, expand
from service.folders.runs import Runs
from service.folders.storage import Storage
from service.store import claims
from service.store import work as work_module
from service.store.database import LIMITS, Turns, connect, migrate, reading, writing
from service.store.idempotency import Answer, Key, KeyReused, once
from service.store.models import ArchitectureRow, Attempt, Base, Event, IdempotencyKey, Project, Search
from service.store.projects import Projects
from service.store.searches import NotEnded, Searches
from service.store.sweeps import Sweeps
from tests.ray_double import BrokenConnection, Faults, RayDouble
from tests.thoroughness import THOROUGH, some

pytestmark = pytest.mark.slow

BEGIN = 1_800_000_000.0
TICK = 0.01
CPUS, GPUS = 4, 1
BUDGETS = [300_000]
SIZES: list[dict[str, Any]] = [
    {"workers": 1},
    {"workers": 2},
    {"workers": 4},
    {"workers": 1, "gpus_per_worker": 1},
    {"workers": {"min": 1, "max": 4}},
]
SPECS = {str(size): check(SearchRequest(dataset="digits", budgets=BUDGETS, **size), (), True) for size in SIZES}
SWEEP = SweepRequest(search={"dataset": "digits"}, budgets=BUDGETS, seeds=[0, 1], project="a")
POINTS_OF_SWEEP = [[(one, check(one, (), True, alone=False)) for one in group] for group in expand(SWEEP, BUDGETS)]
DISPATCHERS = 3
WHO = st.integers(0, DISPATCHERS - 1)
POINTS = st.integers(1, 25)
MOST = 8
PROJECTS = ("a", "b", "c")
FAULTS = [
    *((fault, method) for fault in ("broken", "error_before", "error_after") for method in ("GET", "POST", "DELETE")),
    *((fault, "GET") for fault in ("false_failure", "forgotten", "no_nodes")),
    *((fault, "POST") for fault in ("crash", "error", "fatal")),
]
FAILING = Faults(false_failure=0.3, crash=0.2, error=0.2, fatal=0.1)
UNRELIABLE = Faults(broken=0.05, error_before=0.05, error_after=0.05, forgotten=0.01, no_nodes=0.05, crash=0.1)
ROUNDS = 400
"""After so many turns of every dispatcher without new faults, all must have ended."""

STATEMENT, COMMIT, COMMITTED, RAY, FOLDER, CLOCK = "statement", "commit", "committed", "ray", "folder", "clock"
ANYWHERE = (STATEMENT, COMMIT, RAY, FOLDER, CLOCK)
CUTS = {"die": (COMMIT, RAY, FOLDER), "stay": ANYWHERE, "lose": (STATEMENT, COMMIT, COMMITTED)}
"""Where a turn can be cut. Who dies before a commit leaves nothing of its transaction, wherever in it that was, and
where it only reads nothing anyway. What is lost is the connection to the database, or the answer to a commit."""
EVERY = (
    {"die": (5, 11), "stay": (13, 19), "lose": (11, 13)}
    if THOROUGH
    else {"die": (23, 43), "stay": (53, 79), "lose": (43, 53)}
)
"""One in how many points is tried in repeatable examples, on SQLite and on PostgreSQL, where they take twice as long;
in exploration every one is."""
IDLE_SECONDS = LIMITS["idle_in_transaction_session_timeout"]
HOUR = 3600.0


class Death(BaseException):
    """The process ends here."""


@dataclass
class Clock:
    """The one time, in seconds since the beginning, and the clocks that are to show it.

    By `database` and `machines` they are wrong; `tell` tells its own to a database that cannot look.
    """

    passed: float = 0.0
    database: float = 0.0
    machines: float = 0.0
    tell: Callable[[float], None] = lambda time: None

    @property
    def face(self) -> float:
        """What the database's clock shows."""
        return BEGIN + self.passed + self.database

    def monotonic(self) -> float:
        reached(CLOCK)
        return self.passed

    def time(self) -> float:
        reached(CLOCK)
        return BEGIN + self.passed + self.machines

    def advance(self, seconds: float) -> None:
        self.passed += seconds
        self.tell(self.face)


@dataclass
class World:
    """What all examples of a test share: an empty database on `clock`, and a folder."""

    engine: Engine
    clock: Clock
    folder: Path
    admin: Connection | None = None
    """To PostgreSQL, beside all others."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def clear(self) -> None:
        self.clock.passed = self.clock.database = self.clock.machines = 0.0
        self.clock.advance(0)
        self.restore({})

    def save(self) -> dict[str, list[dict[str, Any]]]:
        """All rows, by table."""
        with reading(self.engine) as session:
            tables = Base.metadata.sorted_tables
            return {one.name: [dict(row) for row in session.execute(select(one)).mappings()] for one in tables}

    def restore(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Have these rows and no others."""
        with writing(self.engine) as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
            for table in Base.metadata.sorted_tables:
                if rows.get(table.name):
                    session.execute(insert(table), rows[table.name])

    @property
    def writes(self) -> bool:
        """Whether a transaction is open that writes to SQLite."""
        turns: Turns | None = self.engine.get_execution_options().get("turns")
        return turns is not None and turns.taken

    def end(self, process: int) -> None:
        """Have PostgreSQL end one of its processes, which takes back what its transaction did and lets its locks go."""
        assert self.admin is not None
        self.admin.execute(text("SELECT pg_terminate_backend(:process, 10000)"), {"process": process})


_acting = threading.local()
"""Who is at work in this thread."""


def _connections() -> list[Any]:
    """The connections to the database that whoever is at work in this thread has now."""
    if not hasattr(_acting, "connections"):
        _acting.connections = []
    found: list[Any] = _acting.connections
    return found


def reached(point: str) -> None:
    """Where whoever is at work may be cut."""
    told: Callable[[str], None] | None = getattr(_acting, "reached", None)
    if told is not None:
        told(point)


@contextmanager
def acting(told: Callable[[str], None] | None) -> Iterator[None]:
    """In this thread, `told` is to know where it gets to."""
    before, _acting.reached = getattr(_acting, "reached", None), told
    try:
        yield
    finally:
        _acting.reached = before


class Watched:
    """A storage that tells before it does something."""

    def __init__(self, files: Storage) -> None:
        self.files = files

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def do(*arguments: Any) -> Any:
            reached(FOLDER)
            return getattr(self.files, name)(*arguments)

        return do


class Player:
    """A dispatcher, whose turns are taken in a thread of their own so that they can stay in the middle."""

    def __init__(
        self, world: World, ray: RayDouble, searches: Searches, runs: Runs, sleep: Callable[[float], None]
    ) -> None:
        self.world, self.ray, self.sleep = world, ray, sleep
        self.jobs = RayJobs(lambda: ray.endpoint, transport=httpx.MockTransport(self.carry))
        self.dispatcher = Dispatcher(searches, runs, self.jobs, python="python")
        self.owner = self.dispatcher.owner = f"dispatcher-{next(world.numbers)}"
        self.cut: str | None = None
        self.points = 0
        self.thread: threading.Thread | None = None
        self.here, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.staying = self.dead = False
        self.within: tuple[int, float] | None = None
        """In whose transaction it stays, PostgreSQL's process, and since when."""
        self.unexpected: BaseException | None = None

    def carry(self, request: httpx.Request) -> httpx.Response:
        """Bring a request to the double."""
        reached(RAY)
        token = request.headers.get("Authorization")
        try:
            status, values = self.ray.respond(request.method, str(request.url), token, request.content)
        except BrokenConnection as error:
            raise httpx.RemoteProtocolError("the double broke the connection") from error
        return httpx.Response(status, json=values)

    def reached(self, point: str) -> None:
        connections: list[Any] = _acting.connections
        assert point not in (RAY, FOLDER) or not connections, "it talks to others and keeps a connection"
        if self.cut is None or point not in CUTS[self.cut]:
            return
        self.points -= 1
        if self.points > 0:
            return
        cut, self.cut = self.cut, None
        process = next((one.info.backend_pid for one in connections if not self.world.sqlite), None)
        if cut == "die":
            if process is not None:
                connections[0].rollback()  # as the server does, but now
            raise Death
        if cut == "lose":
            if process is not None and point != COMMITTED:
                self.world.end(process)
                return
            raise lost_connection(self.world.engine)
        if self.world.writes:
            self.sleep(2 * claims.LEASE_SECONDS + 1)
            return
        if process is not None and connections[0].info.transaction_status:
            self.within = process, self.world.clock.passed
        self.staying = True
        self.here.release()
        self.go.acquire()
        self.staying, self.within = False, None

    def wait_no_longer(self, at_once: bool = False) -> None:
        """End the transaction in which it stays, if that is due."""
        if self.within is not None and (at_once or self.world.clock.passed - self.within[1] > IDLE_SECONDS):
            self.world.end(self.within[0])
            self.within = None

    def cut_after(self, cut: str, points: int) -> None:
        """Have this or a later turn cut, so many points from here."""
        self.cut, self.points = cut, points

    def turn(self) -> None:
        """Take a turn, or go on with the one in which it stayed, to its end or to where it is cut."""
        if self.staying:
            self.go.release()
            self.here.acquire()
            return
        self.thread = threading.Thread(target=self._turn)
        self.thread.start()
        self.here.acquire()

    def _turn(self) -> None:
        _acting.connections = []
        try:
            with acting(self.reached):
                self.dispatcher.turn()
        except Death:
            self.dead = True
        except SQLAlchemyError:
            pass  # as `Dispatcher.run` goes on
        except BaseException as error:
            self.unexpected = error
        self.here.release()

    def end(self) -> None:
        """Die, in the middle of a turn or between two."""
        while self.staying:
            self.cut_after("die", 0)
            self.turn()
        self.jobs.close()


class Machine(RuleBasedStateMachine):
    """A queue in the hands of users, dispatchers, Ray and time, all of whom do as they please."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.clock, self.engine = world, world.clock, world.engine
        world.clear()
        self.folder = world.folder / f"storage{next(world.numbers)}"
        self.runs = Runs(str(self.folder))
        self.runs.files = cast(Storage, Watched(self.runs.files))
        self.searches, self.projects = Searches(world.engine), Projects(world.engine)
        self.ray = RayDouble(
            run_seconds=4,
            stop_seconds=2,
            linger_seconds=1,
            start_seconds=0.5,
            end_seconds=1,
            cpus=CPUS,
            gpus=GPUS,
            storage=self.runs.storage,
            clock=lambda: self.clock.passed,
        )
        self.players = [self.player() for _ in range(DISPATCHERS)]
        self.submitted: list[str] = []
        self.keys: dict[str, tuple[str, str]] = {}
        """By key: the request that it stands for, and the search."""
        self.retries: Counter[str] = Counter()
        self.told: dict[str, list[Any]] = {}
        """The events that were seen, by search."""
        self.sweeps = Sweeps(world.engine)
        self.swept: list[str] = []
        self.saved: tuple[dict[str, Any], Any] | None = None
        """The database as it was, and what was known of it."""
        self.restored = False
        self.specs: dict[tuple[str, int], str] = {}
        """What each attempt of each search was told."""
        self.ahead = 0.0
        """By how much clocks were put forward in all."""
        self.beats: dict[str, tuple[tuple[str | None, int], float]] = {}
        """Of each search the token and beat of its lease, and since when they were seen to be so."""
        self.errors = Errors()
        logging.getLogger(dispatcher_module.__name__).addHandler(self.errors)

    def player(self) -> Player:
        """A dispatcher that has just been started."""
        return Player(self.world, self.ray, self.searches, self.runs, self.advance)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A user asks for something, and is told to come again where somebody sleeps who keeps what it takes."""
        try:
            yield
        except OperationalError:
            if all(player.within is None for player in self.players):
                raise

    # What users do

    @initialize(
        weights=st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3),
        sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=5),
        faults=st.sampled_from([Faults(), FAILING, UNRELIABLE]),
        seed=st.integers(0, 9),
    )
    def begin(self, weights: tuple[float, ...], sizes: list[dict[str, Any]], faults: Faults, seed: int) -> None:
        self.ray.faults, self.ray.random = faults, random.Random(seed)
        with writing(self.engine) as session:
            for project, weight in zip(PROJECTS, weights, strict=True):
                self.projects.set(project, {"weight": weight}, session)
        for number, size in enumerate(sizes):
            self.submit(PROJECTS[number % len(PROJECTS)], size, 0)

    @rule(project=st.sampled_from(PROJECTS), quota=st.sampled_from([None, 1, 2]))
    def limit(self, project: str, quota: int | None) -> None:
        with self.asking(), writing(self.engine) as session:
            self.projects.set(project, {"max_running": quota}, session)

    @precondition(lambda self: len(self.submitted) < MOST)
    @rule(project=st.sampled_from(PROJECTS), size=st.sampled_from(SIZES), priority=st.integers(-1, 1))
    def submit(self, project: str, size: dict[str, Any], priority: int) -> None:
        self.submitted.append(self.ask(None, project=project, priority=priority, **size))

    @precondition(lambda self: len(self.submitted) < MOST)
    @rule(
        key=st.sampled_from(["k1", "k2", "k3"]),
        size=st.sampled_from(SIZES[:2]),
        lost=st.sampled_from([None, COMMIT, COMMITTED]),
    )
    def submit_once(self, key: str, size: dict[str, Any], lost: str | None) -> None:
        """A search is submitted under a key, perhaps again, and until there is an answer."""
        asked = str(size)
        if key in self.keys and self.keys[key][0] != asked:
            with pytest.raises(KeyReused):
                self.ask(key, **size)
            return
        if lost is not None:
            with acting(losing(self.engine, lost)), pytest.raises(OperationalError):
                self.ask(key, **size)
        search_id = self.ask(key, **size)
        if key not in self.keys:
            self.submitted.append(search_id)
        assert self.keys.setdefault(key, (asked, search_id)) == (asked, search_id)

    def ask(self, key: str | None, **fields: Any) -> str:
        """Submit a search; returns its id."""
        request = SearchRequest(dataset="digits", budgets=BUDGETS, **fields)
        named = None if key is None else Key("", key, "POST /api/v1/searches", str(fields))
        size = {name: value for name, value in fields.items() if name in ("workers", "gpus_per_worker")}
        spec = SPECS[str(size or SIZES[0])]
        answer = once(self.engine, named, lambda s: Answer(201, self.searches.create(request, spec, s).id))
        self.clock.advance(TICK)  # no two are of the same moment
        return str(answer.body)

    @rule(which=st.integers(0, 7))
    def cancel(self, which: int) -> None:
        if self.submitted:
            with self.asking():
                self.searches.cancel(self.submitted[-1 - which % len(self.submitted)])

    @rule(which=st.integers(0, 7))
    def retry(self, which: int) -> None:
        if self.submitted:
            search_id = self.submitted[-1 - which % len(self.submitted)]
            with self.asking(), suppress(NotEnded):
                self.searches.retry(search_id)
                self.retries[search_id] += 1

    @precondition(lambda self: not self.swept)
    @rule()
    def sweep(self) -> None:
        """Two searches, which finals wait for."""
        with writing(self.engine) as session:
            self.swept.append(self.sweeps.create(session, SWEEP, BUDGETS, POINTS_OF_SWEEP).id)
        self.submitted += [one.id for one in self.sweeps.searches(self.swept[-1], 10)]
        self.clock.advance(TICK)

    @precondition(lambda self: self.swept)
    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        with self.asking(), writing(self.engine) as session:
            self.sweeps.pause(session, self.swept[0], paused)

    # What dispatchers do

    @rule(who=WHO)
    def turn(self, who: int) -> None:
        self.act(who)

    @rule(rounds=st.integers(1, 6), seconds=st.sampled_from([0.5, 2.0]))
    def get_on(self, rounds: int, seconds: float) -> None:
        """For a while all goes well."""
        for _ in range(rounds):
            for who in range(DISPATCHERS):
                self.heartbeat(who)
                self.act(who)
            self.advance(seconds)

    @rule(who=WHO, points=POINTS)
    def die_in_a_turn(self, who: int, points: int) -> None:
        self.act(who, "die", points)

    @rule(who=WHO, points=POINTS)
    def stay_in_a_turn(self, who: int, points: int) -> None:
        self.act(who, "stay", points)

    @rule(who=WHO, points=POINTS, rounds=st.integers(1, 6), retried=st.booleans())
    def stay_and_be_overtaken(self, who: int, points: int, rounds: int, retried: bool) -> None:
        """Whoever has all the work stays; the leases run out, the others go on with it, and then it wakes up."""
        self.advance(31)
        self.act(who, "stay", points)
        self.advance(31)
        for _ in range(rounds):
            for other in range(DISPATCHERS):
                if other != who:
                    self.act(other)
            self.advance(3)
        if retried:
            self.cancel(0)
            self.retry(0)
        self.act(who)

    @rule(who=WHO, points=POINTS)
    def lose_the_database_in_a_turn(self, who: int, points: int) -> None:
        self.act(who, "lose", points)

    @rule(who=WHO)
    def heartbeat(self, who: int) -> None:
        with self.asking():
            self.players[who].dispatcher.renew()

    @rule(who=WHO)
    def die(self, who: int) -> None:
        """Killed; a new one comes in its place."""
        self.players[who].end()
        self.players[who] = self.player()

    def act(self, who: int, cut: str | None = None, points: int = 0) -> None:
        """Let a dispatcher take a turn, or go on with the one in which it stayed."""
        player, before, begun = self.players[who], self.seen(), self.clock.passed
        if cut is not None:
            player.cut_after(cut, points)
        player.turn()
        if player.unexpected is not None:
            raise player.unexpected
        assert self.errors.texts == []
        if player.dead:
            self.die(who)
        for search_id, (told, _, _, _) in self.seen().items():
            told_before, owner, beat, paused = before[search_id]
            last = self.beats.get(search_id)
            # Time may pass in a turn, and what it finds at its beginning it may have seen from then on.
            since = last[1] if last is not None and last[0] == beat else begun
            self.beats[search_id] = beat, since
            adrift = told_before[0] in WITH_RAY and (owner is None or self.clock.passed - since > claims.LEASE_SECONDS)
            launched = told_before[0] == Status.QUEUED and told[1] > told_before[1]
            assert not (launched and paused), f"{search_id} was launched, which is paused"
            assert not launched or self.awaits(search_id) <= TERMINAL, f"{search_id} was launched before what it awaits"
            allowed = owner == player.owner or adrift or told_before[0] == Status.QUEUED
            assert told == told_before or allowed, f"{player.owner} changed {search_id}, whose lease {owner} has"

    def seen(self) -> dict[str, Any]:
        """Of each search what only the lease's holder may change, the holder, its beat, and whether it is paused."""
        columns = (Search.status, Search.attempt, Search.reason, Search.progress, Search.journal_cursor, Search.error)
        lease = (Search.lease_owner, Search.lease_token, Search.lease_beat)
        query = select(Search.id, *lease, Search.paused, *columns)
        with reading(self.engine) as session:
            return {row[0]: (row[5:], row[1], (row[2], row[3]), row[4]) for row in session.execute(query)}

    def awaits(self, search_id: str) -> set[str]:
        """The states of what a search waits for, if it is finals."""
        with reading(self.engine) as session:
            return set(session.scalars(select(Search.status).where(Search.finals_id == search_id)))

    # What Ray and time do

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 2, 5, 12, 31, 61]))
    def advance(self, seconds: float) -> None:
        """Time passes; where it is much, leases run out, and so does PostgreSQL's patience."""
        self.clock.advance(seconds)
        for player in self.players:
            player.wait_no_longer()
        self.ray.catch_up()

    @rule(whose=st.sampled_from(["database", "machines"]), seconds=st.sampled_from([-HOUR, HOUR]))
    def set_a_clock(self, whose: str, seconds: float) -> None:
        """A clock is put forward or back, and no time passes."""
        setattr(self.clock, whose, getattr(self.clock, whose) + seconds)
        self.clock.advance(0)
        self.ahead += max(0.0, seconds)

    @rule()
    def save(self) -> None:
        """The database is saved."""
        known = (self.submitted, self.keys, self.retries, self.told, self.swept)
        self.saved = self.world.save(), copy.deepcopy(known)

    @precondition(lambda self: self.saved)
    @rule()
    def restore(self) -> None:
        """The database is as it was when it was saved; folders and jobs are further, and dispatchers know more."""
        assert self.saved is not None
        for player in self.players:
            player.wait_no_longer(at_once=True)
        rows, known = self.saved
        self.world.restore(rows)
        self.submitted, self.keys, self.retries, self.told, self.swept = copy.deepcopy(known)
        self.restored = True
        # A dispatcher may have seen the same beat long ago, and nothing of what came in between.
        self.beats = {search_id: (beat, -math.inf) for search_id, (_, _, beat, _) in self.seen().items()}
        for execution in self.ray.executions:
            execution.uncounted = not execution.released

    @rule(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3), who=WHO)
    def misbehave(self, faults: list[tuple[str, str]], who: int) -> None:
        for fault in faults:
            self.ray.once(*fault)
        self.act(who)

    @rule()
    def restart(self) -> None:
        self.ray.restart()

    # What must hold

    @invariant()
    def all_holds(self) -> None:
        """Nothing is lost, nothing ends twice, nothing is held by nobody."""
        with reading(self.engine) as session:
            searches = {row.id: row for row in session.scalars(select(Search))}
            events = grouped(session.scalars(select(Event).order_by(Event.seq)))
            attempts = grouped(session.scalars(select(Attempt).order_by(Attempt.number)))
            networks = grouped(session.scalars(select(ArchitectureRow)))
            projects = {row.name: row for row in session.scalars(select(Project))}
        assert set(searches) == set(self.submitted)
        for search in searches.values():
            self.check(search, events[search.id], attempts[search.id], networks[search.id])
        holders = [one for one in searches.values() if one.status in WITH_RAY]
        assert sum(one.cpus for one in holders) <= CPUS and sum(one.gpus for one in holders) <= GPUS
        assert self.ray.violations == []
        for name, project in projects.items():
            ended = [one for search in searches.values() if search.project == name for one in attempts[search.id]]
            granted = {
                (event.search_id, event.data["attempt"]): event.data["workers"]
                for search in searches.values()
                for event in events[search.id]
                if event.kind == "status" and event.data["status"] == Status.LAUNCHING
            }
            used = sum(
                searches[one.search_id].accelerators
                / searches[one.search_id].workers
                * granted[one.search_id, one.number]
                * max(0.0, one.ended_at - one.started_at)
                for one in ended
                if one.ended_at
            )
            # Half of it is forgotten in six hours, and an example takes some minutes.
            least = 0.8 * used * 2.0 ** (-self.ahead / HALF_LIFE_SECONDS)
            assert least - 0.01 <= project.used <= 1.2 * used + 0.01

    def check(
        self, search: Search, events: list[Event], attempts: list[Attempt], networks: list[ArchitectureRow]
    ) -> None:
        """What must hold for one search."""
        told = [(one.seq, one.kind, one.data) for one in events]
        assert told[: len(self.told.get(search.id, []))] == self.told.get(search.id, []), "history was changed"
        self.told[search.id] = told
        states = [Status(one.data["status"]) for one in events if one.kind == "status"]
        assert states[0] == Status.QUEUED and states[-1] == search.status
        ways = list(itertools.pairwise(states))
        assert all(after in TRANSITIONS[before] for before, after in ways), states
        assert sum(before in TERMINAL for before, _ in ways) == self.retries[search.id], "ended twice"
        assert states.count(Status.SUCCEEDED) <= 1

        lines = Counter((one.data["attempt"], one.data["epoch"]) for one in events if one.kind == "epoch")
        assert all(count == 1 for count in lines.values()), "a line of the journal was told twice"
        started = {one.data["attempt"] for one in events if one.kind == "started"}
        assert search.status != Status.WAITING or search.attempt not in started, "it says that it waits, and it runs"

        retrained = search.status == Status.SUCCEEDED and search.spec["retrain"]
        assert [one.budget for one in networks] == (BUDGETS if retrained else [])
        assert search.lease_token is None or search.status in WITH_RAY

        numbers = [one.number for one in attempts]
        assert self.restored or numbers == list(range(1, search.attempt + 1))
        assert numbers[-1:] <= [search.attempt] and search.attempt <= search.last_attempt
        left = [after for before, after in ways if before in WITH_RAY and after not in WITH_RAY]
        assert [one.outcome for one in attempts] == left + [None] * (search.status in WITH_RAY)
        assert all((one.ended_at is None) == (one.outcome is None) for one in attempts)

        if search.kind == "finals" and search.status == Status.QUEUED and not search.awaiting:
            assert self.awaits(search.id) <= TERMINAL, "finals may begin before what they wait for has ended"
        for path in (self.folder / "searches" / search.id / "attempts").glob("*/spec.json"):
            told_now = path.read_text()
            told_first = self.specs.setdefault((search.id, int(path.parent.name)), told_now)
            assert told_now == told_first and json.loads(told_now)["attempt"] == int(path.parent.name)

    def teardown(self) -> None:
        """Without new faults and deaths, everything ends, and nothing is left."""
        try:
            if sys.exc_info()[0] is None:
                self.end()
        finally:
            self.close()

    def close(self) -> None:
        """Kill all dispatchers."""
        for player in self.players:
            player.end()
        logging.getLogger(dispatcher_module.__name__).removeHandler(self.errors)

    def end(self) -> None:
        """Let everything end."""
        self.ray.faults, self.ray._once = Faults(), []
        for player in self.players:
            player.cut = None
            player.wait_no_longer(at_once=True)
        for sweep_id in self.swept:
            with writing(self.engine) as session:
                self.sweeps.pause(session, sweep_id, False)
        rounds = 0
        while not all(row[0][0] in TERMINAL for row in self.seen().values()):
            rounds += 1
            assert rounds < ROUNDS, self.seen()
            self.get_on(1, 3.0)
            self.all_holds()
        # What nobody waits for is found by a sweep, and a job takes a while to stop.
        self.advance(SWEEP_SECONDS)
        self.get_on(3, 5.0)
        assert self.ray.in_use() == (0, 0)
        assert all(standing.share.running == standing.share.held == 0 for standing in self.projects.standings())
        with reading(self.engine) as session:
            found = {row.key: row.body for row in session.scalars(select(IdempotencyKey))}
        assert found == {key: search_id for key, (_, search_id) in self.keys.items()}


def grouped(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """Rows by the search that they belong to."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.search_id].append(row)
    return found


def losing(engine: Engine, at: str) -> Callable[[str], None]:
    """Lose the connection to the database once, before or after a commit."""
    points = [at]

    def told(point: str) -> None:
        if point in points:
            points.remove(point)
            raise lost_connection(engine)

    return told


def lost_connection(engine: Engine) -> Exception:
    """What the driver of a database raises when it has lost its connection."""
    error: Exception = engine.dialect.loaded_dbapi.OperationalError("the connection is lost")
    return error


class Errors(logging.Handler):
    """Keeps what a dispatcher did not reckon with."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@pytest.fixture
def the_world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An empty database that goes by a clock which the dispatchers go by too."""
    clock, engine = Clock(), connect(database_url)
    monkeypatch.setattr(dispatcher_module, "time", clock)
    monkeypatch.setattr(work_module, "time", clock)
    # What the clock does to PostgreSQL's patience, `Player.wait_no_longer` does.
    monkeypatch.setitem(LIMITS, "lock_timeout", 0.02)
    monkeypatch.setitem(LIMITS, "idle_in_transaction_session_timeout", 0)
    migrate(engine)
    postgresql = engine.dialect.name == "postgresql"
    if postgresql:
        # `clock_timestamp()` of this schema is found before PostgreSQL's own.
        with engine.connect() as connection, connection.begin():
            for statement in (
                "CREATE SCHEMA clock",
                f"CREATE TABLE clock.face AS SELECT {BEGIN}::double precision AS time",
                "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql "
                "AS 'SELECT to_timestamp(time) FROM clock.face'",
                f"ALTER DATABASE {engine.url.database} SET search_path = clock, pg_catalog, public",
                f"ALTER DATABASE {engine.url.database} SET synchronous_commit = off",
            ):
                connection.execute(text(statement))
    engine.dispose()
    admin: Connection | None = None
    if postgresql:
        admin = create_engine(engine.url, isolation_level="AUTOCOMMIT").connect()
        clock.tell = functools.partial(set_face, admin)
    else:
        event.listen(engine, "connect", lambda connection, record: look_at(clock, connection))
    commit = engine.dialect.do_commit

    def do_commit(connection: Any) -> None:
        reached(COMMIT)
        commit(connection)
        reached(COMMITTED)

    def do(execute: Callable[..., None], *arguments: Any) -> None:
        reached(STATEMENT)
        execute(*arguments)

    monkeypatch.setattr(engine.dialect, "do_commit", do_commit)
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        monkeypatch.setattr(engine.dialect, name, functools.partial(do, getattr(engine.dialect, name)))
    event.listen(engine, "checkout", lambda connection, record, proxy: _connections().append(connection))
    for name in ("checkin", "invalidate"):
        event.listen(engine, name, lambda *_: _connections().clear())
    yield World(engine, clock, tmp_path, admin)
    if admin is not None:
        admin.close()
        admin.engine.dispose()
    engine.dispose()


def set_face(face: Connection, time: float) -> None:
    """Make PostgreSQL's clock show a time."""
    face.execute(text("UPDATE clock.face SET time = :time"), {"time": time})


def look_at(clock: Clock, connection: Any) -> None:
    """Make SQLite go by a clock."""
    connection.create_function("julianday", 1, lambda now: clock.face / 86400 + 2440587.5)


@pytest.mark.timeout(3600)
def test_nothing_is_lost_and_nothing_ends_twice(the_world: World) -> None:
    run_state_machine_as_test(
        lambda: Machine(the_world),  # type: ignore[arg-type] # it takes any callable that makes a machine
        settings=settings(
            max_examples=some(settings().max_examples // 5),
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
            phases=set(Phase) - {Phase.explain},  # it takes every line's trace, for minutes
        ),
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cut", CUTS)
def test_a_turn_that_is_cut_at_any_point_is_made_good(the_world: World, cut: str) -> None:
    """There a dispatcher dies, loses the database, or stays until others have ended the search in a later attempt.

    Which of the points are tried says `EVERY`.
    """
    step = EVERY[cut][not the_world.sqlite] if settings().derandomize else 1
    for points in itertools.count(1, step):
        machine = Machine(the_world)
        machine.begin((1.0, 1.0, 1.0), SIZES[:1], Faults(), 0)
        machine.players[0].cut_after(cut, points)
        if cut == "stay":
            machine.ray.once("crash", "POST")  # so that the others are in a later attempt
        for _ in range(8):
            machine.act(0)
            machine.all_holds()
            if machine.players[0].cut is None:
                break
            machine.advance(2)
        struck = machine.players[0].cut is None
        if struck:
            machine.advance(31)
            for _ in range(20 if cut == "stay" else 0):
                if all(told[0] in TERMINAL for told, *_ in machine.seen().values()):
                    break
                machine.act(1)
                machine.all_holds()
                machine.advance(8)
            else:
                assert cut != "stay", "the others do not get on while it sleeps"
            machine.act(0)
            machine.all_holds()
        machine.teardown()
        if not struck:
            break


@pytest.mark.timeout(600)
def test_what_is_paused_while_a_claim_sleeps_is_not_launched(the_world: World) -> None:
    """Unless it had come so far that its user was told to try that again."""
    waiting, points = True, 0
    while waiting:
        points += 1
        machine = Machine(the_world)
        machine.begin((1.0, 1.0, 1.0), SIZES[:1], Faults(), 0)
        machine.sweep()
        machine.players[0].cut_after("stay", points)
        machine.act(0)
        waiting = all(told[0] == Status.QUEUED for told, *_ in machine.seen().values())
        if waiting:
            machine.pause(True)
            machine.act(0)
            machine.all_holds()
        machine.close()
