"""Searches in every state, written through the store as a dispatcher would, without Ray and without training."""

import functools
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from sqlalchemy import update
from starlette.types import ASGIApp

from nas_core.data.contact_sheet import contact_sheet, thumbnails
from nas_core.files import FILES
from nas_core.search.spending import fit_widths
from nas_core.space import Architecture, SearchSpace
from nas_core.space.picture import draw
from nas_core.train.evaluation import Evaluation, Mistake
from service.app import create_app
from service.connections import Connection
from service.domain.grants import Grant
from service.domain.lifecycle import WITH_RAY, Status
from service.domain.request import SearchRequest, check
from service.domain.scheduling import Capacity, Node
from service.domain.sweep import SweepRequest, expand, sorted_budgets
from service.folders.runs import CONTACT_SHEET
from service.settings import Settings
from service.store.database import connect, migrate, writing
from service.store.models import Search
from service.store.work import Work
from service.web.context import Context

OWNER = "tests"
BUDGETS = [300_000, 600_000]
EVENT_FILE = "events.out.tfevents.0001-000001"
LARGE = Capacity.of([Node("large", 10_000, 10_000)])


@functools.cache
def _empty_tables() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="yoso-tests-")
    make_tables(f"sqlite:///{folder.name}/yoso.db")
    return folder


def make_tables(url: str) -> None:
    """Bring the database at `url` up to date."""
    engine = connect(url)
    migrate(engine)
    engine.dispose()


def sqlite_url(folder: Path) -> str:
    """A database in a file in `folder`; a new one has empty tables, which are copied sooner than made."""
    path = folder / "yoso.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(_empty_tables().name) / path.name, path)
    return f"sqlite:///{path}"


def make_app(folder: Path, database_url: str | None = None, **settings: Any) -> FastAPI:
    """A service in `folder`, on SQLite unless told otherwise, that accepts and shows, and launches nothing."""
    if "tokens" in settings:
        settings["tokens"] = {token: Grant.parse(grant) for token, grant in settings["tokens"].items()}
    return create_app(Settings(str(folder), database_url or sqlite_url(folder), **settings), dispatch=False)


def parts(app: FastAPI) -> Context:
    """The inside of a service."""
    context = app.state.context
    assert isinstance(context, Context)
    return context


def report(
    app: FastAPI, cpus: float = 8, gpus: float = 0, error: str | None = None, types: tuple[str, ...] = ()
) -> None:
    """Report a cluster of one node as a dispatcher would; no node where there is an `error`."""
    parts(app).cluster.report(OWNER, None if error else [Node("node", cpus, gpus, types)], error)


def queue(app: FastAPI, **fields: Any) -> str:
    """Queue a search on the digits; returns its id."""
    request = SearchRequest(**({"dataset": "digits", "budgets": BUDGETS} | fields))
    return parts(app).searches.create(request, check(request, (), True)).id


def images(folder: Path, *classes: str, each: int = 9, size: int = 16) -> Path:
    """An image folder of noise: grey PNG files in folders of these paths, each other's like in nothing."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            Image.effect_noise((size, size), 80).save(folder / name / f"{number}.png")
    return folder


def count_looks(app: FastAPI) -> list[str]:
    """The datasets that processes have been started to look at from now on, as they are."""
    started: list[str] = []
    inspections = parts(app).inspections
    look = inspections._looked

    def counted(one: Any) -> Any:
        started.append(one.dataset)
        return look(one)

    inspections._looked = counted  # type: ignore[method-assign, assignment]
    return started


def form(client: httpx.Client, filled: Mapping[str, str]) -> str:
    """What the form says of itself, filled in so, when it has looked at the dataset."""
    while "Inspecting the dataset" in (told := client.post("/fragments/submit", data=filled).text):
        time.sleep(0.05)
    return told


def claims(app: FastAPI, capacity: Capacity = LARGE) -> list[str]:
    """The searches that a dispatcher with such a cluster claims now."""
    return [one.id for one in Work(parts(app).searches.engine).claim(OWNER, capacity)]


def change(app: FastAPI, search_id: str, **columns: Any) -> None:
    """Change a search behind everybody's back, as time or a crash would."""
    with writing(parts(app).searches.engine) as session:
        session.execute(update(Search).where(Search.id == search_id).values(**columns))


ONNX = {
    kind: {
        "bytes": size, "accuracy": 0.75, "test_images": 360, "latency_ms": 1.25, "latency_low_ms": 1.0,
        "latency_high_ms": 2.5, "latency_device": "A CPU (CPU), CPU threads: 1",
    }
    for kind, size in (("onnx", 40_000), ("onnx_fp16", 24_000), ("onnx_int8", 31_000))
}  # fmt: skip
"""What is told of a network's ONNX files."""


class Run:
    """A dispatcher's and a worker's part in one search, played step by step."""

    def __init__(self, app: FastAPI, search_id: str, only: bool = False) -> None:
        """Claim the search; with `only`, which asks for a CPU, in a cluster that has room for no other besides."""
        self.work, self.runs, self.id = Work(parts(app).searches.engine), parts(app).runs, search_id
        room = LARGE
        if only:
            busy = sum(one.cpus for one in parts(app).searches.page(100)[0] if one.status in WITH_RAY)
            room = Capacity.of([Node("small", busy + 1, 0)])
        self.token = next(one.lease_token or "" for one in self.work.claim(OWNER, room) if one.id == search_id)
        self.chunk = 0

    def move(self, *states: Status, **changes: Any) -> "Run":
        """Go through `states`; `changes` come with the last."""
        for state in states:
            self.work.move(self.id, self.token, state, **(changes if state == states[-1] else {}))
        return self

    def start(self) -> "Run":
        """Launch the first attempt and have its workers begin."""
        self.move(Status.WAITING, Status.RUNNING)
        row = ("0", "training, 142", [np.full((1, 8, 8), 20 * number, dtype=np.uint8) for number in range(10)])
        self.runs.write(self.id, CONTACT_SHEET, contact_sheet("digits", [row]))
        return self.tell({"kind": "started", "workers": 1, "device": "cpu", "resumed": False})

    def tell(self, *lines: dict[str, Any]) -> "Run":
        """Write lines to the journal."""
        self.chunk += 1
        told = [{"time": time.time(), "attempt": 1} | line for line in lines]
        self.work.follow(self.id, self.token, f"0001-{self.chunk:06d}.jsonl", told)
        return self

    def pretrain(self, epochs: int = 12) -> "Run":
        """Pretrain for some epochs."""
        self.tell({"kind": "phase", "phase": "pretrain"})
        return self.tell(*(epoch("pretrain", number, 12, number / 100) for number in range(1, epochs + 1)))

    def search(self, epochs: int = 30) -> "Run":
        """Search for some epochs, with a snapshot of the complete supernet."""
        complete = SearchSpace.preset("digits").complete()
        self.tell({"kind": "phase", "phase": "search"})
        self.tell(*(epoch("search", number, 30, 0.12 + number / 100) for number in range(1, epochs + 1)))
        shown = {"architecture": complete.to_dict(), "live_edges": complete.live_edges}
        return self.tell({"kind": "snapshot", "multiply_adds": complete.multiply_adds} | shown)

    def snapshot(self, multiply_adds: int) -> "Run":
        """A snapshot of a supernet that costs so much, or a little less."""
        shown = network(multiply_adds)
        told = {"multiply_adds": shown.multiply_adds, "live_edges": shown.live_edges}
        return self.tell({"kind": "snapshot", "architecture": shown.to_dict()} | told)

    def find(self, budget: int) -> "Run":
        """Derive the network for a budget."""
        self.write(budget, "architecture.json", network(budget).to_json().encode())
        self.write(budget, "picture.svg", draw(network(budget)).encode())
        return self.tell({"kind": "architecture", "budget": budget} | cost(budget))

    def retrain(self, budget: int) -> "Run":
        """Retrain the network for a budget."""
        for kind in ("weights", "onnx", "onnx_fp16", "onnx_int8", "torch_export", "python", "predict", "card"):
            self.write(budget, FILES[kind], kind.encode())
        self.test(budget)
        self.tell({"kind": "phase", "phase": "retrain", "budget": budget})
        self.tell(*(epoch("retrain", number, 60, 0.9, budget) for number in range(1, 61)))
        return self.tell({"kind": "retrained"} | result(budget))

    def succeed(self, files: dict[str, str] = FILES, accuracy: float = 0.975, test: Evaluation | None = None) -> None:
        """Everything that is left, to the end; the result names `files` and an `accuracy`, or what the `test` tells."""
        self.start().pretrain().search().find(BUDGETS[1]).find(BUDGETS[0])
        for budget in BUDGETS:
            self.retrain(budget)
        for folder in ("search", *(f"networks/{budget}" for budget in BUDGETS)):
            self.runs.write(self.id, f"tensorboard/{folder}/{EVENT_FILE}", folder.encode())
        self.move(Status.FINISHING)
        told = {"accuracy": accuracy} if test is None else test.summary()
        if test is not None:
            for budget in BUDGETS:
                self.write(budget, FILES["evaluation"], json.dumps(test.to_dict()).encode())
        found = [result(budget) | {"files": files, "onnx": ONNX} | told for budget in BUDGETS]
        self.work.succeed(self.id, self.token, {"architectures": found})

    def reach(self, accuracies: Mapping[int, float]) -> None:
        """Everything that is left, to the end, with a network of these accuracies for each budget."""
        for budget in accuracies:
            self.find(budget)
        found = [
            result(budget) | reached(accuracy) | {"files": FILES, "latency_ms": 0.4 + budget / 1e6}
            for budget, accuracy in accuracies.items()
        ]
        self.move(Status.FINISHING)
        self.work.succeed(self.id, self.token, {"architectures": found})

    def test(self, budget: int | str) -> None:
        """Write what the test of a network leaves."""
        self.write(budget, FILES["evaluation"], json.dumps(tested().to_dict()).encode())
        wrong = [np.full((1, 8, 8), 20 * number, dtype=np.uint8) for number in range(9)]
        self.write(budget, FILES["mistakes"], thumbnails(wrong))

    def write(self, budget: int | str, name: str, content: bytes) -> None:
        """Write one of a network's files."""
        path = Path(self.runs.path(self.id, f"architectures/{budget}/{name}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@functools.cache
def network(budget: int) -> Architecture:
    """A network that uses `budget` up."""
    return fit_widths(SearchSpace.preset("digits").cheapest(), budget)


def cost(budget: int) -> dict[str, Any]:
    """What an `architecture` line says of a budget's network."""
    found = network(budget)
    path = f"architectures/{budget}"
    counted = {"multiply_adds": found.multiply_adds, "parameters": found.parameters}
    return counted | {"activations": found.peak_activations, "path": path}


def result(budget: int) -> dict[str, Any]:
    """What `result.json` says of a budget's network, but for its files."""
    accuracy = {"accuracy": 0.975, "accuracy_low": 0.953, "accuracy_high": 0.987, "test_images": 359}
    return {"budget": budget} | cost(budget) | tested().summary() | accuracy


@functools.cache
def tested() -> Evaluation:
    """The test of a network that is right about 350 of 359 digits, and takes an eight for a one now and then."""
    labels = [number % 10 for number in range(359)]
    wrong = [number for number, label in enumerate(labels) if label == 8][:9]
    answers = [1 if number in wrong else label for number, label in enumerate(labels)]
    mistakes = [Mistake(8, 1, 0.99 - place / 20, number, None) for place, number in enumerate(wrong)]
    return Evaluation.of(labels, answers, tuple("0123456789"), mistakes=mistakes)


def reached(accuracy: float) -> dict[str, float]:
    """An accuracy on test data with about its interval."""
    return {"accuracy": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.011}


def epoch(phase: str, number: int, epochs: int, progress: float, budget: int | None = None) -> dict[str, Any]:
    """An `epoch` line with believable numbers."""
    line: dict[str, Any] = {"kind": "epoch", "phase": phase, "epoch": number, "epochs": epochs, "progress": progress}
    line |= {"loss": 2.0 / number, "accuracy": 1 - 0.9 / (number + 1), "seconds": 0.5}
    if budget is not None:
        return line | {"budget": budget}
    fallen = 2_114_880 if phase == "pretrain" else round(2_114_880 - 1_830_000 * number / epochs)
    return line | {
        "multiply_adds": fallen,
        "live_edges": fallen // 10_000,
        "l1_weight": number / 1000 if phase == "search" else 0.0,
    }


def seed(app: FastAPI) -> dict[str, str]:
    """One search in every state that a page shows differently; returns their ids by state."""
    ids = {"succeeded": queue(app, name="first steps")}
    Run(app, ids["succeeded"]).succeed()
    ids["failed"] = queue(app, name="too large a batch", budgets=["1M"])
    error = {"kind": "out_of_memory", "message": "the worker was killed: out of memory", "attempt": 1}
    Run(app, ids["failed"]).start().pretrain(3).move(Status.FAILED, error=error | {"traceback": "Traceback:\n  <here>"})
    ids["cancelled"] = queue(app)
    parts(app).searches.cancel(ids["cancelled"])
    ids["running"] = queue(app, name="narrow", project="vision")
    Run(app, ids["running"]).start().pretrain().search(18).find(BUDGETS[1])
    ids["queued"] = queue(app, name="<b>later</b>", budgets=["100k", "200k", "400k", "800k"])
    return ids


def sweep(app: FastAPI, **fields: Any) -> str:
    """Queue a sweep on the digits; returns its id."""
    given = {"search": {"dataset": "digits"}, "budgets": {"from": "100k", "to": "800k", "count": 8}, "seeds": [0, 1, 2]}
    request = SweepRequest.model_validate(given | {"finals": False} | fields)
    budgets, _ = sorted_budgets(request)
    groups = [[(point, check(point, (), True, alone=False)) for point in group] for group in expand(request, budgets)]
    with writing(parts(app).sweeps.engine) as session:
        return parts(app).sweeps.create(session, request, budgets, groups).id


def seed_sweep(app: FastAPI, **fields: Any) -> str:
    """A sweep of which the first search has succeeded, the second has failed, and the others are queued."""
    sweep_id = sweep(app, **{"name": "over night"} | fields)
    first, second, *_ = parts(app).sweeps.searches(sweep_id, 2)
    accuracies = dict(zip(first.spec["budgets"], (0.93, 0.951, 0.963, 0.969, 0.961, 0.976, 0.981, 0.983), strict=False))
    Run(app, first.id, only=True).start().reach(accuracies)
    error = {"kind": "out_of_memory", "message": "the worker was killed: out of memory", "attempt": 1}
    Run(app, second.id, only=True).start().move(Status.FAILED, error=error)
    return sweep_id


def seed_finals(app: FastAPI, ended: bool = False) -> str:
    """Finals of a sweep over two seeds, with random networks beside them; returns their id.

    Of those for 300,000 one network is retrained and one was stopped; the last is to come, and the others train. With
    `ended` all but the one that was stopped are retrained.
    """
    fields: dict[str, Any] = {"budgets": ["300k", "600k"], "seeds": [0, 1], "baselines": ["random"], "finals": True}
    *searches, finals = parts(app).sweeps.searches(sweep(app, name="night", **fields), 3)
    for search in searches:
        run = Run(app, search.id, only=True).start().pretrain().search()
        for budget in reversed(BUDGETS):
            run.find(budget)
        found = [{"budget": budget} | cost(budget) for budget in BUDGETS]
        run.move(Status.FINISHING).work.succeed(run.id, run.token, {"architectures": found})
    runs = parts(app).runs
    finalists = runs.finalists(finals.spec)
    runs.write_spec(finals.id, finals.spec | {"attempt": 1, "finalists": finalists}, ())
    Work(parts(app).searches.engine).release_finals()
    run = Run(app, finals.id).start()
    run.tell({"kind": "phase", "phase": "retrain", "finalists": len(finalists)})
    results = []
    accuracies = (0.972, 0.8875, 0.958, 0.961, 0.986, 0.983, 0.969, 0.972)
    for trial, one in enumerate(finalists):
        own = {"trial": trial, "origin": one["origin"], "budget": one["budget"], "seed": one["seed"]}
        last = 7 if trial == 1 else 60 if trial == 0 or ended else 0 if trial == len(finalists) - 1 else 20
        if last == 0:
            continue
        run.tell({"kind": "began"} | own)
        run.tell(*(epoch("retrain", number, 60, 0.5, one["budget"]) | own for number in range(1, last + 1)))
        event_file = f"tensorboard/networks/{one['budget']}-{trial}-{one['origin']}/{EVENT_FILE}"
        runs.write(finals.id, event_file, b"events")
        if trial == 1:
            run.tell({"kind": "stopped", "epoch": 7, "accuracy": accuracies[trial]} | own)
        if last == 60:
            path = f"architectures/{one['budget']}-{trial}"
            for kind in ("weights", "onnx", "onnx_fp16", "onnx_int8", "torch_export", "python", "predict", "card"):
                run.write(path.rpartition("/")[2], FILES[kind], kind.encode())
            run.test(path.rpartition("/")[2])
            run.write(path.rpartition("/")[2], "architecture.json", network(one["budget"]).to_json().encode())
            winner = trial in (0, 4)
            name = str(one["budget"]) if winner else path.rpartition("/")[2]
            told = own | {"path": path, "name": name, "winner": winner, "source": one.get("source"), "files": FILES}
            accuracy = reached(accuracies[trial])
            results.append(result(one["budget"]) | told | accuracy)
            run.tell({"kind": "retrained"} | result(one["budget"]) | accuracy | own | {"path": path})
    if ended:
        run.move(Status.FINISHING).work.succeed(run.id, run.token, {"architectures": results})
    return finals.id


@contextmanager
def serving(app: FastAPI, port: int = 0, proxy: ASGIApp | None = None) -> Iterator[str]:
    """`app`, or a proxy in front of it, behind a real socket, in a thread; its URL. Port 0 is any free one."""
    server = uvicorn.Server(
        uvicorn.Config(proxy or app, port=port, log_level="warning", timeout_graceful_shutdown=2, http=Connection)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        parts(app).stopping.set()
        server.should_exit = True
        thread.join()
