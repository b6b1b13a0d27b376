"""`make bench-service`: what does the service cost, beside references that are measured in the same run?

Everything runs on this machine: the service as `yoso serve` in a process of its own, PostgreSQL from the pip package.
A part is measured alone with `--only`; what the others gave before is kept.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from benchmarks import client
from benchmarks.client import timed
from service.client import Bearer
from service.dispatch.dispatcher import THREADS, Dispatcher
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.dispatch.local_ray import LocalRay, free_ports
from service.domain.lifecycle import IllegalTransition, Status
from service.domain.request import SearchRequest, check
from service.domain.scheduling import Capacity, Node
from service.store.cluster import ClusterStore
from service.store.database import connect, migrate, reading
from service.store.models import ArchitectureRow, Attempt, Base, Event, Search
from service.store.searches import Searches
from service.store.work import LostLease, Work
from service.use_cases.views import position
from tests import seeding
from tests.postgres import postgres_server_in
from tests.ray_double import TOKEN

MANY = 100_000
FEW = 100
HELD = (10, 100, 1000)
"""Running searches of one dispatcher."""
PROJECTS = 20
REQUEST: dict[str, Any] = {"dataset": "digits", "budgets": ["300k", "600k"]}
REFERENCE = Path("build/procrastinate")
"""The virtual environment of the reference's own."""
PROCRASTINATE = ("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9")
LARGE = Node("large", 10_000, 10_000)

Results = dict[str, dict[str, Any]]
"""What one part has measured, by name; times in milliseconds."""


def main() -> None:
    """Measure the parts that are wanted, keep the results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="of 32 writers on SQLite, and of fifty open pages")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    file = options.results / "service.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in options.only:
        with tempfile.TemporaryDirectory(prefix="yoso-bench-") as folder, watched() as watch:
            bench = Bench(Path(folder), watch, options.minutes)
            kept[part] = {"machine": machine(), "results": PARTS[part](bench)}
        file.write_text(json.dumps(kept, indent=1) + "\n")
    print(report(kept))


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "load": round(os.getloadavg()[0], 2)}


class Bench:
    """What a part works with: a folder of its own, a progress bar, and servers."""

    def __init__(self, folder: Path, watch: Callable[[str, int], Callable[[], None]], minutes: float) -> None:
        self.folder, self.watch, self.minutes = folder, watch, minutes

    @contextlib.contextmanager
    def postgres(self, *names: str) -> Iterator[list[str]]:
        """A PostgreSQL with some empty databases; their URLs."""
        with postgres_server_in(self.folder / "postgres") as server:
            admin = create_engine(server.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")
            with admin.connect() as connection:
                for name in names:
                    connection.execute(text(f"CREATE DATABASE {name}"))
            admin.dispose()
            yield [server.get_uri(name, "psycopg") for name in names]

    @contextlib.contextmanager
    def process(self, *arguments: str, port: int, path: str, **environment: str) -> Iterator[str]:
        """`python -m …` until it has answered at `path`; its URL. It is told to stop at the end."""
        url = f"http://127.0.0.1:{port}"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("YOSO_", "RAY_"))}
        own |= {"PYTHONPATH": str(Path(__file__).parents[1]), "YOSO_PORT": str(port)} | environment
        with (self.folder / f"{port}.log").open("w+") as log:
            started = subprocess.Popen([sys.executable, "-m", *arguments], env=own, stdout=log, stderr=log)
            try:
                until(lambda: started.poll() is not None or answers(url + path), 120)
                if started.poll() is not None:
                    raise RuntimeError(f"{arguments[0]} ended: {Path(log.name).read_text()[-2000:]}")
                yield url
            finally:
                started.terminate()
                started.wait(60)

    @contextlib.contextmanager
    def serving(self, database_url: str) -> Iterator[str]:
        """`yoso serve --no-dispatch` on a database where a dispatcher has reported a large cluster; its URL."""
        engine = connect(database_url)
        migrate(engine)
        ClusterStore(engine).report("benchmark", [LARGE], None)
        engine.dispose()
        (port,) = free_ports(1)
        storage = str(self.folder / f"storage{port}")
        with self.process(
            *("service.cli", "serve", "--no-dispatch"),
            port=port,
            path="/readyz",
            YOSO_STORAGE=storage,
            YOSO_DATABASE_URL=database_url,
        ) as url:
            yield url


# Submitting


def submit(bench: Bench) -> Results:
    """Submissions of one client and of eight, in turns with an endpoint that inserts one row."""
    results: Results = {}
    with bench.postgres("yoso", "reference") as (url, reference_url):
        (port,) = free_ports(1)
        inserting = bench.process(
            *("benchmarks.service_processes", "insert", reference_url, str(port)), port=port, path="/docs"
        )
        with bench.serving(url) as service, inserting as reference:
            kinds = {"POST /api/v1/searches": f"{service}/api/v1/searches", "one row": f"{reference}/rows"}
            for clients in (1, 8):
                took: dict[str, list[float]] = {kind: [] for kind in kinds}
                seconds = dict.fromkeys(kinds, 0.0)
                rounds, each = 6, 25 * (8 // clients)
                step = bench.watch(f"submitting, {clients} clients", rounds * len(kinds))
                for number in range(rounds + 1):
                    for kind, target in kinds.items():
                        some, whole = posts(target, clients, each)
                        if number > 0:  # the first warms up
                            took[kind] += some
                            seconds[kind] += whole
                            step()
                for kind in kinds:
                    summed = summary(took[kind]) | {"per_second": round(len(took[kind]) / seconds[kind], 1)}
                    results[f"{kind}, {clients} client{'s' if clients > 1 else ''}"] = summed
    return results


def sweep(bench: Bench) -> Results:
    """A sweep of 1,000 searches in one call, in turns with one row."""
    took: dict[str, list[float]] = {"a sweep of 1,000": [], "one row": []}
    body = {"search": {"dataset": "digits"}, "budgets": ["300k"], "seeds": list(range(1000))}
    with bench.postgres("yoso", "reference") as (url, reference_url):
        (port,) = free_ports(1)
        inserting = bench.process(
            *("benchmarks.service_processes", "insert", reference_url, str(port)), port=port, path="/docs"
        )
        with bench.serving(url) as service, inserting as reference, httpx.Client(timeout=60, auth=Bearer()) as http:
            step = bench.watch("sweeps", 20)
            for number in range(21):
                for name, target, sent in (
                    ("a sweep of 1,000", f"{service}/api/v1/sweeps", body),
                    ("one row", f"{reference}/rows", REQUEST),
                ):
                    one = timed(lambda: http.post(target, json=sent).raise_for_status())  # noqa: B023
                    took[name] += [one] if number > 0 else []  # the first warms up
                step() if number > 0 else None
    return {name: summary(some) for name, some in took.items()}


def posts(url: str, clients: int, each: int) -> tuple[list[float], float]:
    """Post from some clients at once; milliseconds of every request, and seconds in all."""

    def client(number: int) -> list[float]:
        with httpx.Client(timeout=60, auth=Bearer()) as http:
            http.get(url)  # connects
            return [timed(lambda: http.post(url, json=REQUEST).raise_for_status()) for _ in range(each)]

    with ThreadPoolExecutor(clients) as pool:
        begin = time.perf_counter()
        took = [one for some in pool.map(client, range(clients)) for one in some]
        return took, time.perf_counter() - begin


# Claiming


def claim(bench: Bench) -> Results:
    """Claims of one dispatcher with 100,000 queued searches of twenty projects, beside procrastinate's fetching."""
    results: Results = {}
    with bench.postgres("yoso", "reference") as (url, reference_url):
        engine = connect(url)
        fill(engine, bench.folder, {Status.QUEUED: MANY})
        work = Work(engine)
        for name, room, times in (("room for one", 1, 200), ("room for sixteen", 16, 50), ("no room", 0, 200)):
            if room == 0:
                work.claim("benchmark", Capacity.of([Node("node", 2, 0)]))  # and keeps them: two CPUs are held
            capacity, took = Capacity.of([Node("node", room or 2, 0)]), []
            step = bench.watch(f"claiming, {name}", times)
            for _ in range(times):
                claimed: list[Search] = []
                took.append(timed(lambda: claimed.extend(work.claim("benchmark", capacity))))  # noqa: B023
                assert len(claimed) == room, len(claimed)
                for search in claimed:
                    work.move(search.id, search.lease_token or "", Status.FAILED, error={"message": "given back"})
                step()
            results[f"Yoso, {name}"] = summary(took)
        engine.dispose()
        step = bench.watch("procrastinate", 1)
        plain = reference_url.replace("+psycopg", "")
        command = [python_with_procrastinate(), "benchmarks/procrastinate_reference.py", plain, str(MANY), "200"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results["procrastinate, one job"] = summary(json.loads(done.stdout.splitlines()[-1]))
        step()
    return results


def python_with_procrastinate() -> str:
    """The interpreter of a virtual environment that has the reference, made where there is none."""
    python = REFERENCE / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", REFERENCE], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PROCRASTINATE], check=True)
    return str(python)


# Pages


def pages(bench: Bench) -> Results:
    """Pages of lists and details with 100,000 searches, in turns with the same pages with 100."""
    results: Results = {}
    with bench.postgres("many", "few") as (many_url, few_url):
        places: dict[str, dict[str, str]] = {}
        for name, url, rows in (("many", many_url, MANY), ("few", few_url, FEW)):
            engine = connect(url)
            shares = {Status.QUEUED: 0.1, Status.SUCCEEDED: 0.6, Status.FAILED: 0.2, Status.CANCELLED: 0.1}
            ids = fill(engine, bench.folder, {status: round(share * rows) for status, share in shares.items()})
            places[name] = addresses(engine, ids, rows)
            engine.dispose()
        with bench.serving(many_url) as many, bench.serving(few_url) as few:
            urls = {"many": many, "few": few}
            times, took, sizes = 100, dict[tuple[str, str], list[float]](), dict[tuple[str, str], int]()
            step = bench.watch("pages", times)
            with httpx.Client(timeout=60, auth=Bearer()) as http:
                for number in range(times + 5):
                    for page in places["many"]:
                        for name, url in urls.items():
                            begin = time.perf_counter()
                            answer = http.get(url + places[name][page]).raise_for_status()
                            if number >= 5:  # the first warm up
                                took.setdefault((page, name), []).append((time.perf_counter() - begin) * 1000)
                            sizes[page, name] = len(answer.content)
                    step() if number >= 5 else None
    for page, name in took:
        rows = MANY if name == "many" else FEW
        results[f"{page}, {rows:,} searches"] = summary(took[page, name]) | {"bytes": sizes[page, name]}
    return results


def addresses(engine: Engine, ids: dict[str, str], rows: int) -> dict[str, str]:
    """The pages that are asked for, by what they show."""
    with reading(engine) as session:
        query = select(Search).order_by(Search.created_at.desc(), Search.id.desc()).offset(rows // 2).limit(1)
        middle = session.scalars(query).one()
    deep = position(middle.created_at, middle.id)
    api, one = "/api/v1/searches", ids["succeeded"]
    return {
        "API: first page": api,
        "API: page from the middle": f"{api}?after={deep}",
        "API: failed ones": f"{api}?status=failed",
        "API: succeeded ones of a project": f"{api}?status=succeeded&project=p3",
        "API: one search": f"{api}/{one}",
        "API: its journal": f"{api}/{one}/journal",
        "API: cluster and queue": "/api/v1/cluster",
        "dashboard: first page": "/searches",
        "dashboard: page from the middle": f"/searches?after={deep}",
        "dashboard: failed ones": "/searches?status=failed",
        "dashboard: one search": f"/searches/{one}",
    }


# Watching


def watching(bench: Bench) -> Results:
    """The first page with 100,000 searches, alone and beside fifty open pages that follow sixteen running searches.

    Half of the pages show the list and half a running search; as in a browser each fetches its moving parts anew when
    it is told of a change, one at a time. Every search tells of an epoch every two seconds. `bytes` is the whole page.
    The first page is asked for by a process of its own, which waits for nothing else.
    """
    minutes, running, pages = bench.minutes, 16, 50
    with bench.postgres("yoso") as (url,):
        app = app_on(bench.folder / "storage", url)
        runs = [seeding.Run(app, seeding.queue(app, name=f"running {number}")) for number in range(running)]
        for run in runs:
            run.start().pretrain().search()
        engine = seeding.parts(app).searches.engine
        fill(engine, bench.folder, {Status.SUCCEEDED: round(0.7 * MANY), Status.FAILED: round(0.3 * MANY)})
        with (
            bench.serving(url) as service,
            httpx.Client(base_url=service, timeout=60, auth=Bearer()) as http,
            ProcessPoolExecutor(1, get_context("spawn"), client.open, (service,)) as asking,
        ):
            size = len(http.get("/searches").content)
            alone = []
            step = bench.watch("alone", 100)
            for _ in range(100):
                alone.append(asking.submit(client.get, "/searches").result())
                step()
            over = threading.Event()
            writer = threading.Thread(target=_epochs, args=(runs, 2.0, over))
            watcher = Watcher(service, [run.id for run in runs], pages, over)
            writer.start()
            watcher.start()
            try:
                until(lambda: watcher.streams == pages or not watcher.is_alive(), 60)
                beside, memory = list[float](), list[float]()
                begin, seconds = time.monotonic(), round(minutes * 60)
                step = bench.watch("beside fifty pages", seconds)
                for second in range(seconds):
                    beside.append(asking.submit(client.get, "/searches").result())
                    if second % 10 == 0:
                        memory.append(_resident(http.get("/metrics").text))
                    step()
                    time.sleep(max(0.0, begin + second + 1 - time.monotonic()))
                broken = pages - watcher.streams
            finally:
                over.set()
                writer.join()
                watcher.join()
        engine.dispose()
    quarter = max(1, len(memory) // 4)
    megabytes = {"memory": round(statistics.mean(memory[quarter : 2 * quarter] or memory), 1)}
    megabytes |= {"memory_end": round(statistics.mean(memory[-quarter:]), 1)}
    return {
        "first page, alone": summary(alone) | {"bytes": size},
        f"first page, beside {pages} open ones": summary(beside) | megabytes | {"errors": broken + watcher.errors},
        "the moving parts of an open page": summary(watcher.took),
    }


def _epochs(runs: Sequence[seeding.Run], seconds: float, over: threading.Event) -> None:
    """Every search tells of an epoch once in so many seconds."""
    for number in itertools.count(31):
        for run in runs:
            run.tell(seeding.epoch("search", number % 1000, 1000, 0.5))
            if over.wait(seconds / len(runs)):
                return


def _resident(metrics: str) -> float:
    """The MiB of memory that a process tells Prometheus of."""
    found = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1]) / 2**20


class Watcher(threading.Thread):
    """Open pages: each holds a stream and fetches its moving parts when that tells of a change."""

    def __init__(self, url: str, running: Sequence[str], pages: int, over: threading.Event) -> None:
        super().__init__()
        self.url, self.running, self.pages, self.over = url, running, pages, over
        self.streams, self.errors = 0, 0
        self.took: list[float] = []

    def run(self) -> None:
        """Keep the pages open until it is over."""
        asyncio.run(self._all())

    async def _all(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits, auth=Bearer()) as http:
            places = ["searches", *(f"searches/{search_id}" for search_id in self.running)]
            shown = [
                places[0] if number % 2 else places[1 + number // 2 % len(self.running)] for number in range(self.pages)
            ]
            tasks = [asyncio.create_task(self._page(http, place)) for place in shown]
            while not self.over.is_set():
                await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _page(self, http: httpx.AsyncClient, place: str) -> None:
        changed = asyncio.Event()
        fetching = asyncio.create_task(self._fetch(http, place, changed))
        try:
            async with http.stream("GET", f"/live/{place}") as stream:
                self.streams += 1
                async for line in stream.aiter_lines():
                    if line.startswith("event: change"):
                        changed.set()
        finally:
            self.streams -= 1
            fetching.cancel()

    async def _fetch(self, http: httpx.AsyncClient, place: str, changed: asyncio.Event) -> None:
        while await changed.wait():
            changed.clear()
            begin = time.perf_counter()
            answer = await http.get(f"/fragments/{place}")
            self.errors += answer.status_code != 200
            self.took.append((time.perf_counter() - begin) * 1000)


def app_on(folder: Path, url: str) -> FastAPI:
    """The service's app on an empty database."""
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    return seeding.make_app(folder, url)


def seeded(engine: Engine, folder: Path) -> dict[str, str]:
    """Play a search to each state in an empty database, and add twenty projects; returns the ids by state.

    The one that was running has failed since: it would hold a part of the cluster.
    """
    app = app_on(folder / "seeds", engine.url.render_as_string(hide_password=False))
    ids = seeding.seed(app)
    running = seeding.parts(app).searches.get(ids["running"])
    seeding.parts(app).searches.engine.dispose()
    Work(engine).move(running.id, running.lease_token or "", Status.FAILED, error={"message": "over"})
    projects = "INSERT INTO projects (name, weight, used, used_at) SELECT 'p' || i, 1, 0, 0 FROM "
    with engine.begin() as connection:
        connection.execute(text(f"{projects} generate_series(0, {PROJECTS - 1}) AS i"))
    return ids


def fill(engine: Engine, folder: Path, counts: dict[Status, int]) -> dict[str, str]:
    """Fill an empty database with copies of searches that were played to their state, spread over twenty projects.

    Returns the ids of those that were played, by state.
    """
    ids = seeded(engine, folder)
    first = 0
    with engine.begin() as connection:
        for status, count in counts.items():
            new = {"project": f"'p' || (i % {PROJECTS})", "created_at": "created_at - i * 10", "rank": "rank - i * 10"}
            for table, key in ((Search, "id"), (Attempt, "search_id"), (ArchitectureRow, "search_id"), (Event, None)):
                copied = new | ({key: "'s' || i"} if key else {"search_id": "'s' || i"})
                if table is ArchitectureRow:
                    copied["id"] = "'s' || i || '-' || budget"
                only = "AND kind = 'status'" if table is Event else ""
                copy(connection, table, copied, f"{key or 'search_id'} = :id {only}", ids[status], first, count)
            first += count
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return ids


def copy(
    connection: Any, table: type[Base], new: dict[str, str], where: str, search_id: str, first: int, count: int
) -> None:
    """Copy the rows of one search `count` times, with some columns anew."""
    columns = [column.name for column in table.__table__.columns if column.name != "seq"]
    values = ", ".join(new.get(column, column) for column in columns)
    connection.execute(
        text(
            f"INSERT INTO {table.__tablename__} ({', '.join(columns)}) SELECT {values} FROM {table.__tablename__}, "
            f"generate_series({first}, {first + count - 1}) AS i WHERE {where}"
        ),
        {"id": search_id},
    )


# Dispatching


def dispatch(bench: Bench) -> Results:
    """From a submission's answer until its job's program runs, in turns with the program handed to Ray alone."""
    times = 12
    started = bench.folder / "started"
    started.mkdir()
    program = bench.folder / "program"
    # The first argument that is a path is the run's folder; Ray alone gives it a name.
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ndate +%s.%N > "{started}/$(basename "$last")"\n')
    program.chmod(0o755)
    storage = bench.folder / "storage"
    took: dict[str, list[float]] = {"Yoso": [], "Ray alone": []}
    (port,) = free_ports(1)
    step = bench.watch("dispatching", times)
    with bench.postgres("yoso") as (url,):
        serving = bench.process(
            *("benchmarks.service_processes", "stub", str(program)),
            port=port,
            path="/readyz",
            YOSO_STORAGE=str(storage),
            YOSO_DATABASE_URL=url,
        )
        with serving as service, httpx.Client(base_url=service, timeout=60, auth=Bearer()) as http:
            jobs = RayJobs(LocalRay(storage).endpoint)
            for number in range(times + 1):
                time.sleep(random.uniform(0.5, 1.5))  # anywhere between two turns of the dispatcher
                search_id = http.post("/api/v1/searches", json=REQUEST).raise_for_status().json()["id"]
                posted = time.time()
                yoso = written(started / search_id) - posted
                http.post(f"/api/v1/searches/{search_id}/cancel").raise_for_status()
                until(lambda: http.get(f"/api/v1/searches/{search_id}").json()["status"] == "cancelled", 60)  # noqa: B023
                time.sleep(random.uniform(0.5, 1.5))
                posted = time.time()
                jobs.submit(f"alone-{number}", f"{program} -m worker.job alone-{number}", {})
                alone = written(started / f"alone-{number}") - posted
                if number > 0:  # the first warms up
                    took["Yoso"].append(yoso * 1000)
                    took["Ray alone"].append(alone * 1000)
                    step()
            jobs.close()
    differences = [one - other for one, other in zip(took["Yoso"], took["Ray alone"], strict=True)]
    return {kind: summary(some) for kind, some in took.items()} | {"Yoso − Ray alone": summary(differences)}


def written(path: Path) -> float:
    """The time that the program has written there."""
    until(lambda: path.exists() and path.read_text().endswith("\n"), 60)
    return float(path.read_text())


def following(bench: Bench) -> Results:
    """The turns of one dispatcher that holds many running searches, which have nothing new to tell.

    Ray is a double in a process of its own. Of the database it is told how many bytes a queued search takes.
    """
    results: Results = {}
    turns = 40
    with bench.postgres("yoso", "queued") as (url, queued_url):
        engine = connect(queued_url)
        fill(engine, bench.folder / "queued", {Status.QUEUED: MANY})
        with reading(engine) as session:
            tables = ", ".join(f"pg_total_relation_size('{table}')" for table in ("searches", "events"))
            size = sum(session.execute(text(f"SELECT {tables}")).one()) / MANY
        engine.dispose()
        storage = bench.folder / "storage"
        app = app_on(storage, url)
        double = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_double", "--cpus", "100000", "--run-seconds", "1e9"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert double.stdout is not None
        endpoint = Endpoint(f"http://127.0.0.1:{int(double.stdout.readline())}", TOKEN)
        jobs = RayJobs(lambda: endpoint)
        dispatcher = Dispatcher(seeding.parts(app).searches, seeding.parts(app).runs, jobs)
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                for count in HELD:
                    step = bench.watch(f"{count} running", count + turns)
                    for _ in range(count - len(dispatcher.held)):
                        seeding.queue(app)
                        step()
                    until(lambda: _all_run(dispatcher, pool, count), 600)  # noqa: B023
                    took, begin = [], time.process_time()
                    for _ in range(turns):
                        took.append(timed(lambda: dispatcher.turn(pool.map)))
                        step()
                    processor = (time.process_time() - begin) / turns * 1000
                    results[f"a turn with {count} running"] = summary(took) | {"processor": round(processor, 1)}
        finally:
            double.kill()
            double.wait()
            jobs.close()
            seeding.parts(app).searches.engine.dispose()
    results[f"a turn with {HELD[-1]} running"]["bytes"] = round(size)
    return results


def _all_run(dispatcher: Dispatcher, pool: ThreadPoolExecutor, count: int) -> bool:
    """Take a turn; whether so many searches are running after it."""
    dispatcher.turn(pool.map)
    with reading(dispatcher.searches.engine) as session:
        return session.scalar(select(func.count()).where(Search.status == Status.RUNNING)) == count


# SQLite


def sqlite(bench: Bench) -> Results:
    """32 writers on one SQLite database, after one alone."""
    alone = min(1.0, bench.minutes / 4)
    results = {}
    for writers, minutes in ((1, alone), (32, bench.minutes)):
        step = bench.watch(f"{writers} writers on SQLite, seconds", round(minutes * 60))
        results[f"{writers} writer{'s' if writers > 1 else ''}"] = write(
            bench.folder / f"{writers}", writers, minutes, step
        )
    return results


def write(folder: Path, writers: int, minutes: float, step: Callable[[], None]) -> dict[str, Any]:
    """Submit, cancel, and journal for some minutes from several threads."""
    engine = connect(f"sqlite:///{folder}/yoso.db")
    migrate(engine)
    searches, work = Searches(engine), Work(engine)
    request = SearchRequest(**REQUEST)
    spec = check(request, (), True)
    took: list[float] = []
    errors: list[str] = []
    lock, end = threading.Lock(), time.monotonic() + minutes * 60

    def attempt(do: Callable[[], Any]) -> Any:
        begin, told, done = time.perf_counter(), None, None
        try:
            done = do()
        except (IllegalTransition, LostLease):
            pass  # another writer was faster
        except SQLAlchemyError as error:
            told = f"{type(error).__name__}: {error.orig if isinstance(error, OperationalError) else error}"
        with lock:
            took.append((time.perf_counter() - begin) * 1000)
            errors.extend([told] if told else [])
        return done

    def writer(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            search = attempt(lambda: searches.create(request, spec))
            if search is None:
                continue
            if chance.random() < 0.5:
                attempt(lambda: searches.cancel(search.id))  # noqa: B023
                continue
            for one in attempt(lambda: work.claim(f"writer {number}", Capacity.of([LARGE]))) or ():
                held = one.id, one.lease_token or ""
                if one.status == Status.CANCELLING:
                    attempt(lambda: work.move(*held, Status.CANCELLED))  # noqa: B023
                    continue
                attempt(lambda: work.move(*held, Status.WAITING))  # noqa: B023
                attempt(lambda: work.move(*held, Status.RUNNING))  # noqa: B023
                for chunk in range(3):
                    lines = [{"time": time.time(), "attempt": 1} | seeding.epoch("search", 1, 30, 0.5)]
                    attempt(lambda: work.follow(*held, f"0001-{chunk:06d}.jsonl", lines))  # noqa: B023
                attempt(lambda: work.move(*held, Status.FAILED, error={"message": "enough"}))  # noqa: B023

    begin = time.monotonic()
    with ThreadPoolExecutor(writers) as pool:
        running = [pool.submit(writer, number) for number in range(writers)]
        while time.monotonic() < end:
            time.sleep(1)
            step()
        for one in running:
            one.result()
    seconds = time.monotonic() - begin
    engine.dispose()
    locked = sum("database is locked" in error for error in errors)
    told = {"minutes": minutes, "per_second": round(len(took) / seconds, 1)}
    return summary(took) | told | {"locked": locked, "errors": len(errors), "kinds": sorted(set(errors))[:5]}


# What all share


def summary(took: Sequence[float]) -> dict[str, Any]:
    """Number and percentiles of some milliseconds."""
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    percentiles = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": max(took)}
    return {"n": len(took)} | {name: round(value, 2) for name, value in percentiles.items()}


def until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until something holds. Raises `TimeoutError`."""
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"did not come about within {seconds:g} s")
        time.sleep(0.005)


def answers(url: str) -> bool:
    """Whether a service answers 200 there."""
    try:
        return httpx.get(url, timeout=5, auth=Bearer()).status_code == 200
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def watched() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """Show progress: a function that makes a bar of a name and a number of steps, and gives one that takes a step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:

        def watch(name: str, steps: int) -> Callable[[], None]:
            task: TaskID = bar.add_task(name, total=steps)
            return lambda: bar.advance(task)

        yield watch


PARTS: dict[str, Callable[[Bench], Results]] = {
    "submit": submit,
    "sweep": sweep,
    "claim": claim,
    "pages": pages,
    "watching": watching,
    "dispatch": dispatch,
    "following": following,
    "sqlite": sqlite,
}
EXTRAS = {
    "per_second": "a second",
    "bytes": "bytes",
    "memory": "MiB of memory in the second quarter",
    "memory_end": "in the last",
    "processor": "of it processor time",
    "locked": "`database is locked`",
    "errors": "errors",
}


def report(kept: dict[str, Any]) -> str:
    """A table for every part."""
    lines = []
    for part, found in kept.items():
        extras = [extra for extra in EXTRAS if any(extra in one for one in found["results"].values())]
        heads = ["", "n", "p50", "p95", "p99", "most", *(EXTRAS[extra] for extra in extras)]
        about = found["machine"]
        lines += [f"\n### {part}\n", f"Milliseconds, on {about['cpus']} cores, load {about['load']} before.\n"]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for name, one in found["results"].items():
            times = [f"{one[cut]:,.1f}" for cut in ("p50", "p95", "p99", "most")]
            cells = [
                name,
                f"{one['n']:,}",
                *times,
                *(f"{one.get(extra, ''):,}" if extra in one else "" for extra in extras),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
