"""Pictures of every page of the dashboard, for docs/dashboard.md: `make screenshots`.

A service in this process shows a made-up morning: searches, a sweep and finals as `tests.seeding` plays them, with
believable curves and networks. Its clock, its ids and the browser's clock are set, so that pictures change only where
the pages do (or the machine's fonts). `--whole` leaves pages at their full length.
"""

import argparse
import io
import json
import math
import random
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from sqlite3 import Connection
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock
from urllib.parse import urlsplit

from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page
from sqlalchemy import event

from nas_core.files import FILES
from nas_core.search.baselines import random_architecture
from nas_core.space import Architecture, SearchSpace
from nas_core.train.evaluation import Evaluation
from service.dashboard import frame
from service.domain.lifecycle import Status
from service.domain.scheduling import Capacity, Node
from service.store.work import Work
from tests import browsing, seeding

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
NOW = 1_778_578_200.0
"""A Tuesday morning in May 2026, in seconds since 1970."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SIZES = {"wide": (1280, 1100), "phone": (390, 1100)}
"""The width of the window, and how much of a page is shown at most."""
TEST_IMAGES = 359
NODES = [Node("10.0.4.11", 16, 2, ("A100",)), Node("10.0.4.12", 16, 2, ("A100",)), Node("10.0.4.20", 8, 0)]
TRACEBACK = """Traceback (most recent call last):
  File "worker/training.py", line 208, in train
    loss.backward()
ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.4.20) was 30.9GB / 32.0GB (0.96), which exceeds the memory usage threshold of 0.95."""
LOG = """2026-05-12 08:41:03,118 INFO worker.job: search {id}, attempt 1: digits for 1,000,000
2026-05-12 08:41:03,402 INFO worker.job: waiting for 4 workers of 2 CPU
2026-05-12 08:41:17,890 INFO worker.training: 4 workers of 2 CPU on 3 nodes, gloo
2026-05-12 08:41:18,004 INFO worker.training: pretrain: 12 epochs, batches of 4096
2026-05-12 08:41:20,611 INFO worker.training: pretrain: epoch 1/12, loss 2.174, accuracy 38.2 %
2026-05-12 08:41:22,340 INFO worker.training: pretrain: epoch 2/12, loss 1.561, accuracy 57.9 %
2026-05-12 08:41:24,102 INFO worker.training: pretrain: epoch 3/12, loss 1.022, accuracy 71.5 %
2026-05-12 08:41:25,377 WARNING ray: memory on node 10.0.4.20 is 0.93 of 32.0GB
2026-05-12 08:41:26,015 ERROR ray: the worker of rank 2 was killed: out of memory (30.9GB / 32.0GB)
2026-05-12 08:41:26,130 ERROR worker.job: the worker was killed: out of memory"""


clock = SimpleNamespace(now=NOW)
"""The time of the made-up morning; it stands still until somebody sets it."""


class Lived(seeding.Run):
    """A run whose steps take time, and whose curves are not smooth."""

    def move(self, *states: Status, **changes: Any) -> "Lived":
        """Go through `states`, each a second after the other; `changes` come with the last."""
        for state in states:
            clock.now += 1
            super().move(state, **(changes if state == states[-1] else {}))
        return self

    def tell(self, *lines: dict[str, Any]) -> "Lived":
        """Write lines to the journal, each at its own time."""
        told = []
        for line in lines:
            clock.now += line.get("seconds", 0.4)
            told.append({"time": clock.now} | line | (believable(line) if line["kind"] == "epoch" else {}))
        super().tell(*told)
        return self


def believable(line: dict[str, Any]) -> dict[str, float]:
    """Numbers of an epoch such as real searches on the digits have."""
    budget, number = line.get("budget"), line["epoch"]
    trial = line.get("trial", 0)
    noise = random.Random(f"{line['phase']} {budget} {trial} {number}")
    start, end, pace = {
        "pretrain": (0.25, 0.93, 3.0),
        "search": (0.9, 0.965, 9.0),
        "retrain": (0.3, accuracy(budget or 0, trial) - 0.01 * (trial % 4), 3.0 + trial % 4 / 2),
    }[line["phase"]]
    left = math.exp(-number / pace)
    reached = end - (end - start) * left + noise.gauss(0, 0.004 + 0.03 * left * (line["phase"] != "search"))
    share = 1.0 if line["phase"] == "pretrain" else number / line["epochs"]
    numbers = {"accuracy": min(reached, 0.995), "loss": (2.3 * (1 - reached) + 0.02) * math.exp(noise.gauss(0, 0.06))}
    if line["phase"] == "search":
        numbers["l1_weight"] = 0.002 * share * math.exp(noise.gauss(0, 0.25))
    return numbers


def accuracy(budget: int, seed: int = 0) -> float:
    """What the network for a budget reaches on test data: more with its cost, and a little by chance."""
    reached = 0.988 - 0.012 * math.exp(-(budget - 100_000) / 150_000) - 0.02 * math.exp(-(budget - 100_000) / 60_000)
    right = round(TEST_IMAGES * (reached + random.Random(f"{budget} {seed}").gauss(0, 0.004)))
    return min(right, TEST_IMAGES - 1) / TEST_IMAGES


def test_of(budget: int, seed: int = 0) -> Evaluation:
    """The test of the network for a budget: it takes digits for such as look like them."""
    labels = [number % 10 for number in range(TEST_IMAGES)]
    chance = random.Random(f"{budget} {seed}")
    predicted = list(labels)
    for number in chance.sample(range(TEST_IMAGES), TEST_IMAGES - round(accuracy(budget, seed) * TEST_IMAGES)):
        predicted[number] = int(chance.choice(("6", "7", "37", "89", "9", "36", "5", "1", "133", "37")[labels[number]]))
    return Evaluation.of(labels, predicted, tuple("0123456789"))


def result(budget: int, seed: int = 0) -> dict[str, Any]:
    """What `result.json` says of the network for a budget."""
    told = {"files": FILES, "latency_ms": 0.11 + budget / 2.6e6} | test_of(budget, seed).summary()
    return {"budget": budget} | seeding.cost(budget) | told


@cache
def network(budget: int) -> Architecture:
    """A network such as a search finds for a budget."""
    return random_architecture(SearchSpace.preset("digits"), budget, seed=3)


@contextmanager
def made_up() -> Iterator[None]:
    """Time and ids that are the same every time, and runs that are played as if they were lived."""
    played: dict[str, Any] = {"OWNER": "scheduler-0-4711-9c2e", "Run": Lived, "network": network, "result": result}
    with (
        mock.patch.multiple(seeding, **played),
        mock.patch.object(time, "time", lambda: clock.now),
        mock.patch.object(secrets, "token_bytes", random.Random(2).randbytes),
        mock.patch.dict(frame.TEMPLATES.globals, {"clock": lambda: clock.now}),
    ):
        yield


def service(folder: Path) -> FastAPI:
    """A service whose database goes by the made-up clock too."""

    def set_clock(connection: Connection, _: object) -> None:
        connection.create_function("julianday", 1, lambda _: clock.now / 86400 + 2440587.5)

    made = seeding.make_app(folder)
    engine = seeding.parts(made).searches.engine
    event.listen(engine, "connect", set_clock)
    engine.dispose()
    return made


def finished(app: FastAPI, search_id: str, seed: int = 0, only: bool = False) -> None:
    """Play a search to its end."""
    run = Lived(app, search_id, only).start().pretrain().search()
    budgets = seeding.parts(app).searches.get(search_id).spec["budgets"]
    for budget in reversed(budgets):
        run.snapshot(min(2 * budget, 2_000_000)).find(budget)
    for budget in budgets:
        run.retrain(budget)
        run.write(budget, FILES["evaluation"], json.dumps(test_of(budget, seed).to_dict()).encode())
    run.move(Status.FINISHING)
    run.work.succeed(run.id, run.token, {"architectures": [result(budget, seed) for budget in budgets]})


def morning(app: FastAPI) -> dict[str, str]:
    """Play the morning; returns the addresses of the pages by name; one with a fragment is of that part."""
    inside = seeding.parts(app)
    clock.now = NOW - 80_000
    seeding.seed_sweep(app, name="last night's", seeds=[0, 1])
    clock.now = NOW - 7000
    succeeded = seeding.queue(app, name="first steps")
    clock.now += 2
    finished(app, succeeded)
    clock.now = NOW - 2937
    failed = seeding.queue(app, name="too large a batch", budgets=["1M"], project="vision", workers=4)
    error = {"kind": "out_of_memory", "message": "the worker was killed: out of memory", "attempt": 1}
    Lived(app, failed).start().pretrain(3).move(Status.FAILED, error=error | {"traceback": TRACEBACK})
    log = Path(inside.runs.path(failed, "logs/driver-0001.log"))
    log.parent.mkdir(parents=True)
    log.write_text(LOG.format(id=failed))
    clock.now += 95
    inside.searches.cancel(seeding.queue(app, name="the same again, by mistake", budgets=["1M"], project="vision"))
    clock.now = NOW - 640
    sweep = seeding.sweep(app, name="all sizes", seeds=[0, 1, 2])
    first, second, third = (one.id for one in inside.sweeps.searches(sweep, 3))
    finished(app, first, 0, only=True)
    finished(app, second, 1, only=True)
    under_way = Lived(app, third, only=True).start().pretrain().search(18)
    clock.now = NOW - 170
    finals = seeding.seed_finals(app)
    clock.now = NOW - 40
    running = seeding.queue(app, name="door camera", project="vision", workers=4, cpus_per_worker=2)
    clock.now += 3
    run = Lived(app, running).start().pretrain().tell({"kind": "phase", "phase": "search"})
    for last, cost in ((4, 1_900_000), (9, 1_500_000), (13, 1_200_000), (18, 900_000), (23, 640_000)):
        run.tell(*(seeding.epoch("search", one, 30, 0.12 + one / 100) for one in range(last - 3, last + 1)))
        run.snapshot(cost)
    run.find(seeding.BUDGETS[1])
    clock.now = NOW - 12
    under_way.tell(seeding.epoch("search", 19, 30, 0.31))
    large = {"budgets": ["100k", "200k", "400k", "800k"], "workers": 8, "cpus_per_worker": 4, "project": "vision"}
    seeding.queue(app, name="door camera, all sizes", **large)
    seeding.queue(app, name="keypad", workers=8, gpus_per_worker=1)
    clock.now = NOW
    inside.cluster.report(seeding.OWNER, NODES, None)
    Work(inside.searches.engine).claim(seeding.OWNER, Capacity.of(NODES))
    networks = ((first, 181_145), (first, 594_398), (succeeded, 600_000))
    return {
        "searches": "/searches",
        "running": f"/searches/{running}",
        "succeeded": f"/searches/{succeeded}",
        "shrinking": f"/searches/{running}#snapshots",
        "curves": f"/searches/{succeeded}#curves",
        "architecture": f"/searches/{succeeded}#architecture",
        "failed": f"/searches/{failed}",
        "finals": f"/searches/{finals}",
        "sweeps": "/sweeps",
        "sweep": f"/sweeps/{sweep}",
        "compare": "/compare?" + "&".join(f"id={search}-{budget}" for search, budget in networks),
        "cluster": "/cluster",
        "submit": "/submit?dataset=digits&budgets=300k, 600k&name=keypad&workers=1-4&settings.retrain_epochs=90",
        "network": f"/searches/{succeeded}/networks/300000",
        "log": f"/searches/{failed}/logs/1?q=memory",
        "missing": "/searches/notthereatall",
    }


def shoot(page: Page, path: Path, most: int | None) -> None:
    """A picture of the page, or of its upper part, or of the part that its address names, as lossless WebP."""
    if page.locator("[data-chart]").count():
        page.locator(".charts canvas").first.wait_for(state="attached")
    page.evaluate("Promise.all([...document.images].filter(one => one.checkVisibility()).map(one => one.decode()))")
    page.evaluate("document.activeElement.blur()")
    part = urlsplit(page.url).fragment
    left, top, width, height = page.evaluate(
        """part => {
            const box = document.getElementById(part || "main").getBoundingClientRect();
            if (!part) return [0, 0, innerWidth, box.bottom + scrollY];
            return [box.left - 12, box.top + scrollY - 12, box.width + 24, box.height + 24];
        }""",
        part,
    )
    clip: Any = {"x": left, "y": top, "width": width, "height": min(height, most or height)}
    taken = page.screenshot(full_page=True, clip=clip, animations="disabled")
    Image.open(io.BytesIO(taken)).convert("RGB").save(path, lossless=True, quality=100, method=4)


def visit(browser: Browser, url: str, pages: dict[str, str], folder: Path, whole: bool) -> None:
    """Pictures of some pages of the service at `url`, light and dark, wide and narrow."""
    for scheme in SCHEMES:
        for size, (width, most) in SIZES.items():
            context = browser.new_context(
                base_url=url, viewport={"width": width, "height": 900}, color_scheme=scheme,
                reduced_motion="reduce", locale="en-GB", timezone_id="UTC",
            )  # fmt: skip
            page = context.new_page()
            page.clock.set_fixed_time(NOW)
            for name, path in pages.items():
                page.goto(path)
                shoot(page, folder / f"{name}-{size}-{scheme}.webp", None if whole else most)
            context.close()


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, help="the folder (docs/screenshots)")
    parser.add_argument("--whole", action="store_true", help="leave pages at their full length")
    asked = parser.parse_args()
    asked.to.mkdir(parents=True, exist_ok=True)
    with made_up(), browsing.chromium() as browser, tempfile.TemporaryDirectory() as folder:
        app = service(Path(folder))
        pages = morning(app)
        with seeding.serving(app) as url:
            visit(browser, url, pages, asked.to, asked.whole)
        guarded = seeding.make_app(Path(folder), tokens={"a" * 20: "vision"})
        with seeding.serving(guarded) as url:
            visit(browser, url, {"sign-in": "/login"}, asked.to, asked.whole)
    taken = sorted(asked.to.glob("*.webp"))
    print(f"{len(taken)} pictures in {asked.to}, {sum(one.stat().st_size for one in taken) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
