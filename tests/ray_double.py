"""Ray as a double: its Jobs and state interfaces, with jobs that play a worker's part, and with faults.

It runs nothing. A job that it "runs" takes a stated time and then leaves in its run's folder what a worker would. It
behaves as Ray 2.60 was seen to: it refuses the id of a job that it knows, and takes it again once the job is deleted.

    double = RayDouble(run_seconds=5)             in the process, on a clock of its own: double.advance(1)
    with ray_double() as double:                  behind a socket
    python -m tests.ray_double --run-seconds 5    as a process, which prints its port

As a process it tells `report()` at GET /double and takes settings at POST /double: `set` (attributes), `faults`
(probabilities), `once` (names of faults), `restart` (true).
"""

import argparse
import functools
import heapq
import itertools
import json
import random
import re
import shlex
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from nas_core.files import FILES, set_apart
from nas_core.space.picture import draw
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.folders.runs import Runs
from tests import seeding
from worker.run_folder import CLAIMED, CLOSED, GaveWay, RunFolder

TOKEN = "token"
EPOCHS = 3


class BrokenConnection(Exception):
    """The caller is to get no answer."""


@dataclass
class Faults:
    """How likely each fault is, from 0 to 1, whenever it could happen."""

    broken: float = 0.0
    """A request is done, and its connection breaks instead of an answer."""
    error_before: float = 0.0
    """A request is answered with 500 and not done."""
    error_after: float = 0.0
    """A request is done and answered with 500."""
    false_failure: float = 0.0
    """A job that succeeds, with its result in the folder, is said to have failed."""
    forgotten: float = 0.0
    """A job is unknown from the moment it is asked for, and goes on running."""
    restart: float = 0.0
    """Before a request the whole cluster starts anew: all jobs die and are unknown."""
    no_nodes: float = 0.0
    """The list of nodes is empty."""
    crash: float = 0.0
    """A job fails halfway without a word."""
    error: float = 0.0
    """A job fails halfway with an `error.json` that may be tried again."""
    fatal: float = 0.0
    """A job fails halfway with an `error.json` that may not."""


@dataclass
class Execution:
    """A job as the cluster has it, whether or not Ray remembers the job."""

    submission_id: str
    driver: str
    runs: Runs
    search_id: str
    attempt: int
    workers: int
    cpus: float
    gpus: float
    spec: dict[str, Any]
    supervised: bool = True
    """Its driver is alive."""
    released: bool = False
    """Its actors and its placement group are gone."""
    stopping: bool = False
    forgotten: bool = False
    uncounted: bool = False
    """Nobody can know of it: the database was restored from before its launch."""
    folder: RunFolder | None = None
    """The run's folder, once its driver has begun: the worker's own, which sees to it that it may write."""
    chunks: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class RayDouble:
    """What the cluster knows, what it has run, and how it is to misbehave.

    `run_seconds` is how long a job runs, and `stop_seconds` how long it takes to stop; where they are None, a job stays
    as it is until `end` is called. Its actors stay for `linger_seconds` after its end, and it goes on for
    `end_seconds` after it has left its result. Without a `clock` time stands still but for `advance`. Jobs whose folder
    lies outside `storage`, where it is given, are refused, and a violation.
    """

    def __init__(
        self,
        run_seconds: float | None = None,
        stop_seconds: float | None = None,
        linger_seconds: float = 0.0,
        start_seconds: float = 0.0,
        end_seconds: float = 0.0,
        cpus: float = 8.0,
        gpus: float = 0.0,
        storage: str | None = None,
        seed: int = 0,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.run_seconds, self.stop_seconds = run_seconds, stop_seconds
        self.linger_seconds, self.start_seconds, self.end_seconds = linger_seconds, start_seconds, end_seconds
        self.cpus, self.gpus, self.storage = cpus, gpus, storage
        self.accelerator_types: tuple[str, ...] = ()
        self.labels: dict[str, str] = {}
        """Of its one node."""
        self.random, self.clock, self.advanced = random.Random(seed), clock, 0.0
        self.faults = Faults()
        self.drop_answers = False
        """Do what is asked, but break the connection instead of answering."""
        self.endpoint = Endpoint("http://ray.invalid", TOKEN)

        self.jobs: dict[str, dict[str, Any]] = {}
        """The jobs that Ray knows, by submission id."""
        self.logs: dict[str, str] = {}
        """What drivers have printed, by submission id; nothing by default."""
        self.submitted: list[str] = []
        """The submissions that were accepted, in order."""
        self.stopped: list[str] = []
        self.executions: list[Execution] = []
        """All jobs that were ever started, in order."""
        self.violations: list[str] = []
        """What a dispatcher must never let happen: two jobs of one search at once, more CPUs or GPUs than there are."""
        self.struck: dict[str, int] = defaultdict(int)
        """How often each fault has happened."""
        self.peak_cpus = 0.0
        self.writers: dict[str, tuple[int, str]] = {}
        """Of each search the newest attempt that has written into its folder, and that one's driver."""
        self.two_writers = 0
        """How often a driver has written after that of a later attempt, or another of the same, had begun to."""

        self._lock = threading.RLock()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._moment: float | None = None
        """When what is happening was due, which may be earlier than now."""
        self._numbers = itertools.count(1)
        self._once: list[tuple[str, str | None]] = []
        self._live: list[Execution] = []

    # What a test does

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self.advanced += seconds
            self._catch_up()

    def once(self, fault: str, method: str | None = None) -> None:
        """Let a fault happen at the next occasion, or at the next request of a method."""
        if fault not in Faults.__dataclass_fields__:
            raise ValueError(f"no fault {fault!r}; there are {', '.join(Faults.__dataclass_fields__)}")
        with self._lock:
            self._once.append((fault, method))

    def end(self, search_id: str, status: str, attempt: int = 1, message: str = "") -> None:
        """Let a search's job end, without a word in its folder; its actors stay a while only if it was stopped."""
        with self._lock:
            submission_id = f"yoso-{search_id}-{attempt}"
            self.jobs[submission_id] |= {"status": status, "message": message}
            for execution in list(self._live):
                if execution.submission_id == submission_id and status == "STOPPED":
                    self._stop(execution)
                elif execution.submission_id == submission_id:
                    self._release(execution)
            self._catch_up()

    def forget(self, submission_id: str) -> None:
        """Know a job no more, though it goes on running."""
        with self._lock:
            del self.jobs[submission_id]
            for execution in self._live:
                execution.forgotten |= execution.submission_id == submission_id

    def restart(self) -> None:
        """Start the cluster anew: every job dies where it stands, and none is known any more."""
        with self._lock:
            self.jobs.clear()
            for execution in self._live:
                execution.supervised, execution.released = False, True
            self._live = []
            self._due = []

    def in_use(self) -> tuple[float, float]:
        """The CPUs and GPUs that jobs hold."""
        return sum(one.cpus for one in self._live), sum(one.gpus for one in self._live)

    def report(self) -> dict[str, Any]:
        """What has happened: by search, what was submitted and what ran; the faults; the violations."""
        with self._lock:
            self._catch_up()
            searches: dict[str, dict[str, Any]] = defaultdict(lambda: {"submitted": [], "ran": [], "running": 0})
            for submission_id in self.submitted:
                searches[_search_of(submission_id)]["submitted"].append(submission_id)
            for one in self.executions:
                searches[one.search_id]["ran"].append(one.submission_id)
                searches[one.search_id]["running"] += not one.released
            cpus, gpus = self.in_use()
            return {
                "searches": dict(searches),
                "violations": list(self.violations),
                "faults": dict(self.struck),
                "cpus_in_use": cpus,
                "gpus_in_use": gpus,
                "peak_cpus": self.peak_cpus,
                "two_writers": self.two_writers,
            }

    def configure(self, values: dict[str, Any]) -> None:
        """Change settings by name, as POST /double takes them."""
        with self._lock:
            for name, value in values.get("set", {}).items():
                setattr(self, name, value)
            self.faults = Faults(**(asdict(self.faults) | values.get("faults", {})))
            for name in values.get("once", ()):
                self.once(name)
            if values.get("restart"):
                self.restart()

    def ray_jobs(self) -> RayJobs:
        """A client of this double, without sockets."""

        def handle(request: httpx.Request) -> httpx.Response:
            token = request.headers.get("Authorization")
            try:
                status, values = self.respond(request.method, str(request.url), token, request.content)
            except BrokenConnection as error:
                raise httpx.RemoteProtocolError("the double broke the connection") from error
            return httpx.Response(status, json=values)

        return RayJobs(lambda: self.endpoint, transport=httpx.MockTransport(handle))

    # What Ray does

    def respond(self, method: str, url: str, token: str | None, content: bytes) -> tuple[int, Any]:
        """Status and JSON for an HTTP request. Raises `BrokenConnection` where there is to be no answer."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        body = json.loads(content or b"{}")
        if parts.path == "/double":
            if method == "POST":
                self.configure(body)
            return 200, self.report()
        if token != f"Bearer {TOKEN}":
            return 401, "no token"
        return self.answer(method, path, body)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON for a request, with faults. Raises `BrokenConnection` where there is to be no answer."""
        with self._lock:
            self._catch_up()
            if self._strikes("restart", method):
                self.restart()
            if self._strikes("error_before", method):
                return 500, "the dashboard's agent is not available"
            status, values = self._answer(method, path, body)
            self._catch_up()
            if self.drop_answers or self._strikes("broken", method):
                raise BrokenConnection
            if self._strikes("error_after", method):
                return 500, "the dashboard's agent went away"
            return status, values

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        if path.startswith("/api/v0/"):
            return self._state(path.rpartition("/")[2], parse_qs(query))
        if (method, path) == ("GET", "/api/jobs/"):
            return 200, list(self.jobs.values())
        if (method, path) == ("POST", "/api/jobs/"):
            return self._submit(body)
        match = re.fullmatch(r"/api/jobs/([\w-]+)(/stop|/logs)?", path)
        if match is not None and match[1] in self.jobs and method == "GET" and self._strikes("forgotten", method):
            self.forget(match[1])
        if match is None or match[1] not in self.jobs:
            return 404, "no such job"
        job = self.jobs[match[1]]
        running = job["status"] in ("PENDING", "RUNNING")
        if match[2] == "/stop":
            self.stopped.append(match[1])
            for execution in self._live:
                if execution.submission_id == match[1] and running and not execution.stopping:
                    execution.stopping = True
                    if self.stop_seconds is not None:
                        self._after(self.stop_seconds, functools.partial(self._stop, execution))
            return 200, {"stopped": running}
        if match[2] == "/logs":
            return 200, {"logs": self.logs.get(match[1], "")}
        if method == "DELETE":
            if running:
                return 500, f"Attempted to delete job '{match[1]}', but it is in a non-terminal state {job['status']}."
            del self.jobs[match[1]]
            return 200, {"deleted": True}
        return 200, dict(job)

    def _submit(self, body: dict[str, Any]) -> tuple[int, Any]:
        submission_id = body["submission_id"]
        if submission_id in self.jobs:
            return 500, f"Job with submission_id {submission_id} already exists"
        storage, _, search_id = shlex.split(body["entrypoint"])[-1].rpartition("/searches/")
        if self.storage is not None and storage != self.storage.rstrip("/"):
            self.violations.append(f"{submission_id} is to run outside of the storage, in {storage}")
            return 400, "outside of the storage"
        attempt = int(body["runtime_env"]["env_vars"]["YOSO_ATTEMPT"])
        folder = RunFolder(_runs(storage).url(search_id), attempt)
        try:
            spec = folder.read_json("spec.json")
        except FileNotFoundError:
            self.violations.append(f"{submission_id} was launched without a specification")
            return 400, "no specification"
        job = {"status": "PENDING", "message": "", "job_id": None, "submission_id": submission_id, "body": body}
        self.jobs[submission_id] = job
        if any(one.submission_id == submission_id and one.supervised for one in self._live):
            # A supervisor goes by its job's name, and this name is taken by one that was forgotten.
            job |= {"status": "FAILED", "message": "Failed to start supervisor actor"}
            return 200, {"submission_id": submission_id}
        self.submitted.append(submission_id)
        # A driver that will give way, since a dispatcher had been asleep before it launched it, starts no workers.
        workers = 0 if _is_over(folder) else spec["workers"] * spec.get("at_once", 1)
        execution = Execution(
            submission_id,
            f"{next(self._numbers):04x}0000",
            _runs(storage),
            search_id,
            attempt,
            workers,
            workers * spec["cpus_per_worker"],
            workers * spec["gpus_per_worker"],
            spec,
        )
        if self.start_seconds > 0:
            self._after(self.start_seconds, functools.partial(self._start, execution))
        else:
            self._start(execution)
        # Its resources are the job's from the launch on: a dispatcher must count them from then.
        self._admit(execution)
        return 200, {"job_id": submission_id, "submission_id": submission_id}

    def _admit(self, execution: Execution) -> None:
        """Give a job what it needs, and note what ought not to be."""
        for other in self._live:
            counted = not (other.forgotten or other.uncounted) and other.workers and execution.workers
            if other.search_id == execution.search_id and counted:
                self.violations.append(f"{execution.submission_id} was launched while {other.submission_id} was there")
        self._live.append(execution)
        self.executions.append(execution)
        cpus, gpus = self.in_use()
        self.peak_cpus = max(self.peak_cpus, cpus)
        # Nobody can count what Ray itself has forgotten.
        known = [one for one in self._live if not (one.forgotten or one.uncounted)]
        cpus, gpus = sum(one.cpus for one in known), sum(one.gpus for one in known)
        if cpus > self.cpus or gpus > self.gpus:
            self.violations.append(
                f"{execution.submission_id} was launched and {cpus:g} CPUs and {gpus:g} GPUs are in use, "
                f"of {self.cpus:g} and {self.gpus:g}"
            )

    def _state(self, what: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        rows: list[dict[str, Any]] = []
        values = query.get("filter_values", [])
        # A shortcut through what is filtered below anyway: of thousands of jobs, those that are named.
        asked = [one for one in self.executions if not values or {one.driver, _supervisor(one)} & set(values)]
        if what == "nodes" and not self._strikes("no_nodes", "GET"):
            resources = {"CPU": self.cpus, "GPU": self.gpus, "memory": 8e9}
            resources |= {f"accelerator_type:{name}": 1.0 for name in self.accelerator_types}
            named = {"node_id": "0" * 56, "node_ip": "127.0.0.1", "node_name": "127.0.0.1", "is_head_node": True}
            rows.append(named | {"state": "ALIVE", "resources_total": resources, "labels": self.labels})
        elif what == "actors":
            rows = [row for one in asked for row in _actors(one)]
        elif what == "placement_groups":
            rows = [
                {
                    "placement_group_id": f"group-{one.driver}",
                    "name": "",
                    "creator_job_id": one.driver,
                    "state": "REMOVED" if one.released else "CREATED",
                }
                for one in asked
            ]
        filters = zip(*(query.get(f"filter_{name}", []) for name in ("keys", "predicates", "values")), strict=True)
        for key, predicate, value in filters:
            rows = [row for row in rows if (row[key] == value) == (predicate == "=")]
        return 200, {"result": True, "msg": "", "data": {"result": {"total": len(rows), "result": rows}}}

    # What time does

    def now(self) -> float:
        """The cluster's time in seconds."""
        return self.clock() + self.advanced

    def catch_up(self) -> None:
        """Do what is due by now."""
        with self._lock:
            self._catch_up()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        begin = self.now() if self._moment is None else self._moment
        heapq.heappush(self._due, (begin + seconds, next(self._numbers), action))

    def _catch_up(self) -> None:
        while self._due and self._due[0][0] <= self.now():
            self._moment, _, action = heapq.heappop(self._due)
            try:
                action()
            finally:
                self._moment = None

    def _start(self, execution: Execution) -> None:
        """The driver connects, and its workers begin."""
        if not execution.supervised:
            return
        self._tell(execution, status="RUNNING", message="running", job_id=execution.driver)
        if self.run_seconds is None:
            return
        execution.folder = RunFolder(execution.runs.url(execution.search_id), execution.attempt)
        if execution.folder.result() is not None:
            self._after(self.end_seconds, functools.partial(self._end, execution))
            return
        try:
            execution.folder.begin()
        except GaveWay:
            self._give_way(execution)
            return
        self._note_writer(execution)
        started = {"kind": "started", "workers": execution.workers, "device": "cpu", "resumed": execution.attempt > 1}
        self._after(0, functools.partial(self._journal, execution, started))
        for number in range(1, EPOCHS + 1):
            line = seeding.epoch("search", number, EPOCHS, number / (EPOCHS + 1))
            self._after(self.run_seconds * number / (EPOCHS + 1), functools.partial(self._journal, execution, line))
        end = next((fault for fault in ("crash", "error", "fatal") if self._strikes(fault, "POST")), None)
        if end is None:
            self._after(self.run_seconds, functools.partial(self._finish, execution))
        else:
            self._after(self.run_seconds / 2, functools.partial(self._fail, execution, end))

    def _journal(self, execution: Execution, line: dict[str, Any]) -> None:
        if execution.supervised:
            told = {"time": time.time(), "attempt": execution.attempt} | line
            name = f"journal/{execution.attempt:04d}-{next(execution.chunks):06d}.jsonl"
            self._write(execution, name, json.dumps(told).encode() + b"\n")

    def _write(self, execution: Execution, name: str, content: bytes) -> None:
        """What the worker writes; where it may not write any more, it ends."""
        assert execution.folder is not None
        if not execution.supervised:
            return
        try:
            execution.folder.write(name, content)
        except GaveWay:
            self._give_way(execution)
        else:
            self._note_writer(execution)

    def _note_writer(self, execution: Execution) -> None:
        """Note that a driver has written, and where a later or another one has before: two writers."""
        own = execution.attempt, execution.driver
        newest = self.writers.setdefault(execution.search_id, own)
        if newest > own or (newest[0] == own[0] and newest != own):
            self.two_writers += 1
            self.violations.append(
                f"{execution.submission_id} wrote after a driver of attempt {newest[0]} had begun to"
            )
        self.writers[execution.search_id] = max(newest, own)

    def _give_way(self, execution: Execution) -> None:
        self._tell(execution, status="FAILED", message="Job entrypoint command failed with exit code 75")
        self._leave(execution)

    def _finish(self, execution: Execution) -> None:
        """The worker leaves its result, and the job will end well, whatever Ray says."""
        if not execution.supervised:
            return
        retrained = execution.spec.get("retrain", True)
        found = []
        for budget in execution.spec["budgets"]:
            for path, content in _files(budget).items():
                self._write(execution, path, content)
            if retrained:
                self._journal(execution, {"kind": "retrained"} | seeding.result(budget))
            told = (seeding.result if retrained else seeding.cost)(budget)
            found.append(told | set_apart({"budget": budget, "files": FILES, "not_exported": {}}))
        if "finalists" in execution.spec:
            found = [one | {"trial": n, "name": str(one["budget"]), "winner": True} for n, one in enumerate(found)]
        values = {"version": 1, "search_id": execution.search_id, "attempt": execution.attempt, "architectures": found}
        self._write(execution, "result.json", json.dumps(values, indent=1).encode())
        if not execution.supervised:
            return
        if self.end_seconds > 0:
            self._after(self.end_seconds, functools.partial(self._end, execution))
        else:
            self._end(execution)

    def _end(self, execution: Execution) -> None:
        if not execution.supervised:
            return
        status, message = "SUCCEEDED", "Job finished successfully."
        if execution.stopping:
            status, message = "STOPPED", "Job was intentionally stopped."
        elif self._strikes("false_failure", "GET"):
            status, message = "FAILED", "Job supervisor actor died: the node is lost"
        self._tell(execution, status=status, message=message)
        self._leave(execution)

    def _fail(self, execution: Execution, how: str) -> None:
        if not execution.supervised:
            return
        if how != "crash":
            told = {"version": 1, "attempt": execution.attempt, "kind": "worker_failed", "message": "a worker died"}
            told |= {"traceback": "", "retryable": how == "error"}
            self._write(execution, "error.json", json.dumps(told).encode())
            if not execution.supervised:
                return
        self._tell(execution, status="FAILED", message="Job entrypoint command failed with exit code 1")
        self._leave(execution)

    def _stop(self, execution: Execution) -> None:
        if execution.supervised:
            self._tell(execution, status="STOPPED", message="Job was intentionally stopped.")
            self._leave(execution)

    def _leave(self, execution: Execution) -> None:
        """The driver ends; what it had started goes later."""
        execution.supervised = False
        if self.linger_seconds > 0:
            self._after(self.linger_seconds, functools.partial(self._release, execution))
        else:
            self._release(execution)

    def _release(self, execution: Execution) -> None:
        execution.supervised, execution.released = False, True
        self._live = [one for one in self._live if one is not execution]

    def _tell(self, execution: Execution, **values: Any) -> None:
        """Change what Ray says of a job, if it has not forgotten the job."""
        if not execution.forgotten and execution.submission_id in self.jobs:
            self.jobs[execution.submission_id] |= values

    def _strikes(self, fault: str, method: str) -> bool:
        """Whether a fault happens now."""
        wanted = next((one for one in self._once if one[0] == fault and one[1] in (None, method)), None)
        if wanted is not None:
            self._once.remove(wanted)
        probability = getattr(self.faults, fault)
        strikes = wanted is not None or (probability > 0 and self.random.random() < probability)
        self.struck[fault] += strikes
        return strikes


def _search_of(submission_id: str) -> str:
    return submission_id.removeprefix("yoso-").rpartition("-")[0]


def _is_over(folder: RunFolder) -> bool:
    """Whether a driver that were to begin now would find another that has, a later attempt, or that it is closed."""
    newest = max(folder.attempts(), default=0)
    return bool(folder.own) and (newest > int(folder.own[-4:]) or folder.exists(CLAIMED) or folder.exists(CLOSED))


def _supervisor(execution: Execution) -> str:
    return f"_ray_internal_job_actor_{execution.submission_id}"


def _actors(execution: Execution) -> list[dict[str, Any]]:
    """The actors of a job, as Ray lists them with all details."""

    def row(number: int, class_name: str, alive: bool, **values: Any) -> dict[str, Any]:
        told: dict[str, Any] = {
            "actor_id": f"{number:02x}{execution.driver}",
            "class_name": class_name,
            "job_id": execution.driver,
        }
        told |= {"state": "ALIVE" if alive else "DEAD", "name": "", "is_detached": False, "required_resources": {}}
        return told | values

    alive = not execution.released
    return [
        row(0, "JobSupervisor", execution.supervised, name=_supervisor(execution), is_detached=True, job_id="01000000"),
        row(1, "AutoscalingCoordinator", True, name="AutoscalingCoordinator", is_detached=True),
        row(2, "PlacementGroupCleaner", alive, is_detached=True),
        row(3, "TrainController", execution.supervised),
        *(row(4 + n, "RayTrainWorker", alive, required_resources={"CPU": 1}) for n in range(execution.workers)),
    ]


@functools.cache
def _runs(storage: str) -> Runs:
    return Runs(storage)


@functools.lru_cache(maxsize=1000)
def _files(budget: int) -> dict[str, bytes]:
    """The files of the network for a budget, by path in the run's folder."""
    network = seeding.network(budget)
    content = {kind: kind.encode() for kind in FILES}
    content |= {"architecture": network.to_json().encode(), "picture": draw(network).encode()}
    return {f"architectures/{budget}/{name}": content[kind] for kind, name in FILES.items()}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a caller who was killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _serve(double: RayDouble, port: int = 0) -> _Server:
    """A server that answers for `double`, not started yet."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, values = double.respond(self.command, self.path, self.headers.get("Authorization"), content)
            except BrokenConnection:
                self.close_connection = True
                return
            answer = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", port), Handler)
    double.endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", TOKEN)
    return server


@contextmanager
def ray_double(double: RayDouble | None = None) -> Iterator[RayDouble]:
    """A double that listens while the context lasts."""
    double = double or RayDouble()
    server = _serve(double)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))  # how often it looks whether to stop
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    """Listen until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.ray_double", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--storage", help="refuse jobs whose folder lies elsewhere")
    for name, default in {"cpus": 8.0, "gpus": 0.0, "run-seconds": 5.0, "stop-seconds": 1.0}.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    for name in ("linger-seconds", "start-seconds", "end-seconds"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=json.loads, default={}, help='as JSON: {"broken": 0.05}')
    values = vars(parser.parse_args())
    port, faults = values.pop("port"), values.pop("faults")
    double = RayDouble(**values, clock=time.monotonic)
    double.faults = Faults(**faults)
    server = _serve(double, port)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(0.05)
        double.catch_up()


if __name__ == "__main__":
    main()
