"""`make soak`: is anything lost when what runs the searches is killed and put to sleep again and again?

Four dispatchers (real processes, on PostgreSQL and on a double of Ray with faults) are killed with SIGKILL, or stopped
with SIGSTOP for longer than a lease, at random moments, also in the middle of a transaction, while searches are
submitted, cancelled and tried again. The double's drivers claim their attempts and write as the product's do. With
`--s3` the storage is a bucket, whose server goes away, falls silent or breaks off for dispatchers. With `--real N`
there are N searches by a real service on a real Ray instead, and in each the service, the driver, a worker or Ray's
head is killed; what was measured is kept, so that a run which is cut goes on.
"""

import argparse
import contextlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sqlalchemy import Engine, func, select

from nas_core.spec import SearchSpec
from service import processes
from service.client import Client
from service.dispatch import dispatcher
from service.dispatch.local_ray import LocalRay, free_ports, session_members
from service.domain.lifecycle import TERMINAL, TRANSITIONS, WITH_RAY, Status
from service.domain.request import SearchRequest, check
from service.settings import Settings
from service.store import claims, database
from service.store.database import connect, migrate, reading
from service.store.idempotency import Answer, Key, once
from service.store.models import ArchitectureRow, Attempt, Event, Search
from service.store.searches import NotEnded, Searches
from tests.ray_double import TOKEN
from tests.s3 import KEYS, Line, s3_server

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
DISPATCHERS = 4
OPEN = 40
"""At most so many searches at a time that have not ended."""
LEASE_SECONDS = 1.5
"""Instead of 30, so that a thousand deaths take minutes."""
LIMITS = {"lock_timeout": 0.25, "idle_in_transaction_session_timeout": 0.5}
"""Seconds that PostgreSQL gives a dispatcher, in the same proportion to a lease as the product's."""
PAUSE_SECONDS = (1.2 * LEASE_SECONDS, 3 * LEASE_SECONDS)
"""How long a dispatcher that is stopped sleeps: others have taken over what it had."""
SPOILT, SPOILT_SECONDS = 0.25, (0.2, 3.0)
"""With what chance the bucket's server fails before the next kill, and for how long."""
STORAGE_SECONDS = 2.0
"""How long the storage is waited for, instead of a minute."""
AWAKE = 2
"""At least so many dispatchers are not stopped."""
END_SECONDS = 300.0
FAULTS = {
    "broken": 0.02,
    "error_before": 0.02,
    "error_after": 0.02,
    "false_failure": 0.05,
    "forgotten": 0.002,
    "restart": 0.0005,
    "no_nodes": 0.02,
    "crash": 0.05,
    "error": 0.05,
    "fatal": 0.03,
}
BUDGET = 300_000
VICTIMS = ("service", "driver", "worker", "ray")
SMALL: dict[str, Any] = {
    "dataset": "digits",
    "budgets": [60_000],
    "space": {"preset": "digits", "channels": 8, "blocks": [1, 1], "levels": 2},
    "settings": {"pretrain_epochs": 1, "search_epochs": 40, "retrain_epochs": 2},
}


def main() -> int:
    """Run what is asked for and print the tables; 1 where anything was lost, repeated or leaked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="how often a dispatcher is killed or stopped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true", help="keep the storage in a bucket whose server fails, too")
    parser.add_argument("--real", type=int, default=0, metavar="N", help="searches on a real Ray, in its place")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.real:
        records = real(options.real, options.results / "soak-real.jsonl")
        print(real_report(records))
        return 0 if all(record["wrong"] == [] for record in records) else 1
    record = soak(options.rounds, options.seed, options.s3)
    (options.results / f"soak{'-s3' * options.s3}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(report(record))
    return 0 if not any(record[name] for name in WRONG) else 1


# Dispatchers, PostgreSQL and a double of Ray

WRONG = {
    "lost": "lost: accepted and not there, or not ended",
    "repeated_keys": "two searches for one key",
    "illegal": "ended twice, or another change that the table of states does not know",
    "committed_twice": "results committed twice, or without success",
    "two_writers": "two writers of one folder",
    "violations": "two jobs of a search at once, or more than the cluster has",
    "fallen": "dispatchers that ended by themselves",
    "leases_left": "leases left",
    "attempts_open": "attempts left open",
    "slots_leaked": "CPUs that the cluster's jobs still hold",
}
"""What must be zero."""


def soak(rounds: int, seed: int, s3: bool) -> dict[str, Any]:
    """Kill or stop a dispatcher `rounds` times, let everything end, and count."""
    from tests.postgres import postgres_server_in  # not in every dispatcher, which loads this module too

    chance, begin = random.Random(seed), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="yoso-soak-", ignore_cleanup_errors=True) as name,
        postgres_server_in(Path(name) / "postgres") as server,
        bucket(Path(name)) if s3 else contextlib.nullcontext((f"{name}/storage", None)) as (storage, line),
    ):
        folder, engine = Path(name), connect(server.get_uri())
        migrate(engine)
        with ray_double(storage, seed, line) as ray:
            settings = Settings(storage, server.get_uri(), ray)
            users = Users(engine, random.Random(seed))
            users.start()
            disturbed = disturb(settings, f"{folder}/log", rounds, chance, users, line)
            seen = httpx.get(f"{ray}/double").json()
        record: dict[str, Any] = {"rounds": rounds} | disturbed
        record |= {"seconds": round(time.monotonic() - begin), "faults": seen["faults"]}
        record["two_writers"] = seen["two_writers"] + len(misplaced(storage))
        record |= {"cpus_at_most": seen["peak_cpus"], "violations": len(seen["violations"])}
        record |= {"violations_in_words": seen["violations"][:5], "slots_leaked": seen["cpus_in_use"]}
        record |= count(engine, users)
        engine.dispose()
        return record


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[tuple[str, Line]]:
    """A bucket for the storage, and the connection to its server, for this process and those that it starts."""
    with s3_server(folder / "s3.log") as port, contextlib.closing(Line(port)) as line:
        httpx.put(f"http://127.0.0.1:{port}/soak").raise_for_status()
        os.environ |= KEYS | {"AWS_ENDPOINT_URL": line.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
        os.environ["YOSO_STORAGE_SECONDS"] = str(STORAGE_SECONDS)
        yield "s3://soak/yoso", line


@contextlib.contextmanager
def ray_double(storage: str, seed: int, line: Line | None) -> Iterator[str]:
    """A double of Ray as a process; its URL. Of the bucket's server it sees no faults: its drivers know no way out."""
    times = {"run": 0.3, "stop": 0.2, "start": 0.05, "end": 0.05, "linger": 0.1}
    command = [sys.executable, "-m", "tests.ray_double", "--storage", storage, "--seed", str(seed)]
    command += [f"--{name}-seconds={seconds}" for name, seconds in times.items()]
    environment = dict(os.environ)
    if line is not None:
        environment |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.server}", "YOSO_STORAGE_SECONDS": "60"}
    command += ["--faults", json.dumps(FAULTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def dispatch(settings: Settings, log: str) -> None:
    """A dispatcher's process: the product's own, with shorter times."""
    logging.basicConfig(filename=log, level=logging.WARNING)
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    claims.LEASE_SECONDS = LEASE_SECONDS
    database.LIMITS |= LIMITS
    dispatcher.HEARTBEAT_SECONDS = LEASE_SECONDS / 3
    dispatcher.POLL_SECONDS = 0.05
    dispatcher.SWEEP_SECONDS = dispatcher.STOP_AGAIN_SECONDS = dispatcher.LEAVE_SECONDS = 5.0
    processes.dispatch(settings)


def disturb(
    settings: Settings, log: str, rounds: int, chance: random.Random, users: "Users", line: Line | None
) -> dict[str, int]:
    """Keep dispatchers running, kill or stop one after the other, spoil the `line` now and then, and let all end.

    Returns how many were killed, were stopped, and ended by themselves, and how often the line was spoiled.
    """
    # Forked from a process that has loaded what they need: each is a process of its own and starts at once.
    spawn = multiprocessing.get_context("forkserver")
    spawn.set_forkserver_preload(["psycopg", "rich.progress", "service.processes", "tests.ray_double"])

    def start() -> Any:
        process = spawn.Process(target=dispatch, args=(settings, log))
        process.start()
        return process

    running = [start() for _ in range(DISPATCHERS)]
    asleep: dict[int, float] = {}
    """Until when those sleep that are stopped, by their places among those that run."""
    killed = paused = fallen = spoilt = 0
    mended_at = math.inf
    try:
        with Progress(*COLUMNS, TimeRemainingColumn()) as bar:
            shown = bar.add_task("killed or stopped", total=rounds)
            while killed + paused < rounds:
                time.sleep(chance.expovariate(1 / 0.3))
                for which in [one for one, until in asleep.items() if until < time.monotonic()]:
                    os.kill(running[which].pid, signal.SIGCONT)
                    del asleep[which]
                if line is not None and mended_at < time.monotonic():
                    line.spoil(None)
                    mended_at = math.inf
                elif line is not None and mended_at == math.inf and chance.random() < SPOILT:
                    line.spoil(chance.choice(("away", "silent", "torn")), whole=chance.randrange(400))
                    mended_at, spoilt = time.monotonic() + chance.uniform(*SPOILT_SECONDS), spoilt + 1
                which = chance.randrange(DISPATCHERS)
                if not running[which].is_alive():
                    fallen += 1
                    asleep.pop(which, None)
                    running[which] = start()
                elif which not in asleep and DISPATCHERS - len(asleep) > AWAKE and chance.random() < 0.7:
                    os.kill(running[which].pid, signal.SIGSTOP)
                    asleep[which] = time.monotonic() + chance.uniform(*PAUSE_SECONDS)
                    paused += 1
                else:
                    running[which].kill()
                    running[which].join()
                    asleep.pop(which, None)
                    killed += 1
                    running[which] = start()
                bar.update(shown, completed=killed + paused)
        for which in asleep:
            os.kill(running[which].pid, signal.SIGCONT)
        if line is not None:
            line.spoil(None)
        users.stop()
        httpx.post(f"{settings.ray_address}/double", json={"faults": dict.fromkeys(FAULTS, 0.0)})
        give_up = time.monotonic() + END_SECONDS
        while time.monotonic() < give_up and (users.open() or held(settings)):
            time.sleep(0.2)
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.terminate()
        for process in running:
            process.join(20)
            process.kill()
    return {"killed": killed, "paused": paused, "fallen": fallen, "storage_spoilt": spoilt}


def misplaced(storage: str) -> list[str]:
    """The files in the runs' folders that an attempt wrote where another one writes."""
    found = []
    files, root = fsspec.url_to_fs(storage)
    files.invalidate_cache()
    for path in files.glob(f"{root}/searches/*/attempts/*/*.json"):
        if json.loads(files.cat_file(path))["attempt"] != int(path.split("/")[-2]):
            found.append(path)
    for path in files.glob(f"{root}/searches/*/journal/*.jsonl"):
        lines = [json.loads(line) for line in files.cat_file(path).splitlines()]
        if any(line["attempt"] != int(path.rpartition("/")[2][:4]) for line in lines):
            found.append(path)
    return found


def held(settings: Settings) -> float:
    """The CPUs that jobs hold in the double."""
    return float(httpx.get(f"{settings.ray_address}/double").json()["cpus_in_use"])


class Users(threading.Thread):
    """Submit, cancel and try again, and remember what they were told."""

    def __init__(self, engine: Engine, chance: random.Random) -> None:
        super().__init__(name="users", daemon=True)
        self.engine, self.chance, self.searches = engine, chance, Searches(engine)
        self.accepted: dict[str, str] = {}
        """Searches by the keys that they were submitted under."""
        self.cancels = 0
        self.retries: Counter[str] = Counter()
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        request = SearchRequest(dataset="digits", budgets=[BUDGET])
        self.spec = check(request, (), True)

    def run(self) -> None:
        """Go on until stopped."""
        try:
            while not self.stopping.wait(0.03):
                self.step()
        except BaseException as error:
            self.error = error

    def step(self) -> None:
        """One thing that a user does."""
        known, dice = list(self.accepted.values())[-60:], self.chance.random()
        if dice < 0.7 and self.open() < OPEN:
            key = f"key-{len(self.accepted)}"
            self.accepted[key] = self.submit(key)
        elif dice < 0.75 and known:
            key = self.chance.choice(list(self.accepted))
            assert self.submit(key) == self.accepted[key], "a key was answered with another search"
        elif dice < 0.85 and known:
            self.searches.cancel(self.chance.choice(known))
            self.cancels += 1
        elif known:
            search_id = self.chance.choice(known)
            try:
                self.searches.retry(search_id)
            except NotEnded:
                return
            self.retries[search_id] += 1

    def submit(self, key: str) -> str:
        """Submit a search under a key; returns its id. What it asks for follows from the key."""
        chance = random.Random(key)
        sizes: dict[str, Any] = {"workers": chance.choice((1, 1, 2, 4))}
        request = SearchRequest(dataset="digits", budgets=[BUDGET], project=chance.choice("abc"), **sizes)
        spec = SearchSpec.from_dict(self.spec.to_dict() | sizes)
        named = Key("", key, "POST /api/v1/searches", key)
        answer = once(self.engine, named, lambda s: Answer(201, self.searches.create(request, spec, s).id))
        return str(answer.body)

    def open(self) -> int:
        """How many searches have not ended."""
        query = select(func.count()).where(Search.status.not_in(TERMINAL))
        with reading(self.engine) as session:
            return int(session.execute(query).scalar_one())

    def stop(self) -> None:
        """Stop; raises what went wrong."""
        self.stopping.set()
        self.join()
        if self.error is not None:
            raise self.error


def count(engine: Engine, users: Users) -> dict[str, Any]:
    """What has become of the searches that were accepted."""
    with reading(engine) as session:
        searches = {row.id: row for row in session.scalars(select(Search))}
        attempts = list(session.scalars(select(Attempt)))
        networks = Counter(session.scalars(select(ArchitectureRow.search_id)))
        paths: dict[str, list[Status]] = {search_id: [] for search_id in searches}
        for row in session.scalars(select(Event).where(Event.kind == "status").order_by(Event.seq)):
            paths[row.search_id].append(Status(row.data["status"]))
    accepted = set(users.accepted.values())
    ended = {search_id for search_id in accepted & set(searches) if searches[search_id].status in TERMINAL}
    illegal = committed = 0
    for search_id, search in searches.items():
        ways = list(itertools.pairwise(paths[search_id]))
        illegal += any(after not in TRANSITIONS[before] for before, after in ways) or (
            sum(before in TERMINAL for before, _ in ways) != users.retries[search_id]
        )
        succeeded = search.status == Status.SUCCEEDED
        committed += networks[search_id] != succeeded or paths[search_id].count(Status.SUCCEEDED) != succeeded
    return {
        "submitted": len(accepted),
        "ended": dict(Counter(searches[search_id].status for search_id in sorted(ended))),
        "cancels": users.cancels,
        "retries": users.retries.total(),
        "attempts": len(attempts),
        "lost": len(accepted - ended),
        "repeated_keys": len(searches) - len(accepted),
        "illegal": illegal,
        "committed_twice": committed,
        "leases_left": sum(one.lease_token is not None or one.status in WITH_RAY for one in searches.values()),
        "attempts_open": sum(one.ended_at is None for one in attempts),
    }


def report(record: dict[str, Any]) -> str:
    """The table of what happened."""
    ended = ", ".join(f"{count:,} {state}" for state, count in sorted(record["ended"].items()))
    struck = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in record["faults"].items())
    rows = {
        "dispatchers killed": f"{record['killed']:,}",
        "dispatchers stopped for longer than a lease, or until they were killed": f"{record['paused']:,}",
        "searches submitted": f"{record['submitted']:,}",
        "ended": ended,
        "cancelled and tried again by users": f"{record['cancels']:,} and {record['retries']:,} times",
        "attempts": f"{record['attempts']:,}",
        "failures of the storage's server": f"{record['storage_spoilt']:,}",
        "faults of Ray": struck,
    }
    rows |= {words: f"{record[name]:g}" for name, words in WRONG.items()}
    lines = [f"{record['seconds']:,} s\n", "| what | how many |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])


# A real service on a real Ray


class Service:
    """A `yoso serve` with a Ray of its own, both of which can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, folder / "storage"
        self.port = free_ports(1)[0]
        self.client = Client(f"http://127.0.0.1:{self.port}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the service and wait until it is ready."""
        settings = {"YOSO_STORAGE": str(self.storage), "YOSO_PORT": str(self.port)}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("YOSO_", "RAY_"))}
        with (self.folder / "service.log").open("ab") as log:
            command = [sys.executable, "-m", "service.cli", "serve"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=inherited | settings)
        until(self.client.ready)

    def kill(self, victim: str, search_id: str) -> None:
        """Kill one of the processes that work on a search; a service is started again."""
        if victim == "service":
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            self.start()
        elif victim == "driver":
            kill(processes_with("worker.job", search_id))
        elif victim == "worker":
            kill([self.journal(search_id, "started")[-1]["pid"]])
        else:
            head = int(json.loads((self.storage / "ray.json").read_text())["pid"])
            kill([head, *(set(processes_with("gcs_server")) & set(session_members(head)))])

    def stop(self) -> None:
        """Stop the service and its Ray."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        LocalRay(self.storage).stop()

    def journal(self, search_id: str, kind: str) -> list[dict[str, Any]]:
        """The journal's lines of one kind."""
        chunks = sorted((self.storage / "searches" / search_id / "journal").glob("*.jsonl"))
        lines = [json.loads(line) for chunk in chunks for line in chunk.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]


def real(rounds: int, file: Path) -> list[dict[str, Any]]:
    """Run the searches that `file` does not hold yet; returns all records."""
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    folder = Path(tempfile.mkdtemp(prefix="yoso-soak-"))
    service = Service(folder)
    try:
        if len(records) < rounds:
            service.start()
        with Progress(*COLUMNS, TimeRemainingColumn()) as bar:
            for number in bar.track(range(len(records), rounds), description="searches"):
                records.append({"round": number} | one_search(service, VICTIMS[number % len(VICTIMS)]))
                with file.open("a") as out:
                    out.write(json.dumps(records[-1]) + "\n")
    finally:
        service.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return records


def one_search(service: Service, victim: str) -> dict[str, Any]:
    """Run a search, kill what is to be killed while it searches, wait for its end, and look for what is wrong."""
    begin = time.monotonic()
    search_id = service.client.submit(**SMALL)["id"]
    until(lambda: service.client.get(search_id)["phase"] == "search")
    killed = time.monotonic()
    service.kill(victim, search_id)
    until(lambda: asked(service, search_id) in TERMINAL)
    ended = time.monotonic()
    search = service.client.get(search_id)
    states = [Status(one.data["status"]) for one in service.client.events(search_id) if one.kind == "status"]
    wrong = [] if search["status"] == "succeeded" else [f"it has {search['status']}: {search['error']}"]
    if any(after not in TRANSITIONS[before] for before, after in itertools.pairwise(states)):
        wrong.append(f"illegal states: {states}")
    if states.count(Status.SUCCEEDED) != 1 or len(search["architectures"]) != len(SMALL["budgets"]):
        wrong.append("its result was not committed once")
    holders = service.client.cluster()["holders"]
    left = processes_with("worker.job", search_id)
    if holders or left:
        wrong.append(f"leaked: {len(holders)} slots, {len(left)} drivers")
    return {
        "victim": victim,
        "status": search["status"],
        "attempts": search["attempt"],
        "seconds_before": round(killed - begin, 1),
        "seconds_after": round(ended - killed, 1),
        "wrong": wrong,
    }


def asked(service: Service, search_id: str) -> str | None:
    """A search's state as the service shows it; None while the service is away."""
    try:
        return service.client.get(search_id).status
    except Exception:
        return None


def kill(victims: list[int]) -> None:
    """Kill processes, of which there must be one."""
    assert victims, "nothing was found to kill"
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_with(*words: str) -> list[int]:
    """The processes whose command line has all of `words`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if all(word in command for word in words):
                found.append(int(entry.name))
    return found


def until(holds: Callable[[], object], seconds: float = 400.0) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise RuntimeError(f"nothing has happened for {seconds:g} s")
        time.sleep(0.1)


def real_report(records: list[dict[str, Any]]) -> str:
    """The table of searches by what was killed."""
    lines = [
        "| killed | searches | succeeded | attempts | seconds from the kill to the end | lost, repeated or leaked |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for victim in VICTIMS:
        some = [record for record in records if record["victim"] == victim]
        if some:
            after = sorted(record["seconds_after"] for record in some)
            succeeded = sum(record["status"] == "succeeded" for record in some)
            attempts = sum(record["attempts"] for record in some)
            wrong = sum(bool(record["wrong"]) for record in some)
            times = f"{after[0]:g} – {after[-1]:g}, median {after[len(after) // 2]:g}"
            lines.append(f"| {victim} | {len(some)} | {succeeded} | {attempts} | {times} | {wrong} |")
    lines += [f"\nRound {one['round']}, {one['victim']}: {wrong}" for one in records for wrong in one["wrong"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
