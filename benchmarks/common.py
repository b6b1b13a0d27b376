"""The tasks that benchmarks search on, the arms that they compare, and how many runs are spread over the cores."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.glyphs import CLASSES, SIZE, write
from nas_core import Architecture, Search, SearchSpace
from nas_core.data.loading import Data, load, steps_per_epoch
from nas_core.search.baselines import matched_architecture, random_architecture, thin_complete
from nas_core.search.spending import fit_widths
from nas_core.space import Block, Edge, Reduction
from nas_core.space.operations import OPERATION_SETS
from nas_core.spec import NO_ENGINE_OPTIONS, EngineOptions, SearchSpec, Settings
from nas_core.train.retrain import Retraining

SCRATCH = Path("build/benchmarks")
"""Where made data lies; what is measured is kept in docs/benchmarks/."""


@dataclass(frozen=True)
class Task:
    """A dataset, a space and a schedule, small enough for many runs on a CPU; `shares` of the supernet's cost are
    the budgets.
    """

    name: str
    space: SearchSpace
    settings: Settings
    shares: tuple[float, ...]

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets in multiply-adds, ascending."""
        complete = self.space.complete().multiply_adds
        return tuple(sorted(round(share * complete) for share in self.shares))

    def spec(
        self,
        seed: int,
        budgets: tuple[int, ...] | None = None,
        engine: EngineOptions = NO_ENGINE_OPTIONS,
        **settings: Any,
    ) -> SearchSpec:
        """One search of this task, with some settings replaced."""
        dataset = str(write(SCRATCH / "glyphs")) if self.name == "glyphs" else self.name
        own = replace(self.settings, **settings)
        return SearchSpec(dataset, budgets or self.budgets, self.space, own, seed=seed, engine=engine)


TASKS = {
    "glyphs": Task(
        "glyphs",
        SearchSpace("glyphs", 1, SIZE, CLASSES, (2,), 8, (1, 1)),
        Settings.preset("digits", pretrain_epochs=12, search_epochs=36, retrain_epochs=16),
        (0.30, 0.50),
    ),
    "digits": Task(
        "digits",
        SearchSpace.preset("digits", channels=8, blocks=[1, 1]),
        Settings.preset("digits", pretrain_epochs=8, search_epochs=20, retrain_epochs=30),
        (0.25, 0.50),
    ),
}


@cache
def data_of(spec: SearchSpec) -> Data:
    """The data of a search, loaded once a process."""
    return load(spec, [], "cpu")


def data(task: Task, **split: Any) -> Data:
    """The data of a task, split as the settings `split` ask for."""
    return data_of(task.spec(0, **split))


def search(task: Task, spec: SearchSpec) -> Search:
    """A search, run to its end."""
    done = Search(spec, data(task, split=spec.settings.split, ratio=spec.settings.ratio), "cpu")
    while not done.done:
        done.advance()
    return done


def retrained(task: Task, architecture: Architecture, seed: int, engine: EngineOptions = NO_ENGINE_OPTIONS) -> float:
    """The test accuracy of an architecture that is trained from scratch."""
    training = Retraining(task.spec(seed, engine=engine), architecture, data(task), "cpu")
    while not training.done:
        training.advance()
    return float(training.test().accuracy)


def whole_way(task: Task) -> float:
    """The γ with which the L1 alone takes λ from 1 to 0 in the task's search: (1 − μ) / (ηT) for T steps of λ."""
    settings = task.settings
    steps = steps_per_epoch(len(data(task).parts["weights"]), settings.batch_size) * settings.search_epochs
    return (1 - settings.momentum) / (settings.scaling_lr * steps / settings.ratio)


def by_hand(space: SearchSpace, budget: int, operation: str = "separable3") -> Architecture:
    """One 3×3 convolution a block, separable or another, and 3×3 reductions, as wide as the budget allows."""
    node = space.operations.index(operation) + 1
    block = Block((Edge(0, node, 1.0), Edge(node, space.nodes + 1, 1.0)))
    reductions = (Reduction(0.0, 1.0),) * (len(space.blocks) - 1)
    return fit_widths(Architecture(space, space.widths, (block,) * sum(space.blocks), reductions), budget)


def mobile(task: Task) -> Task:
    """The task with the operations of the set mobile, and the same budgets."""
    space = replace(task.space, operations=OPERATION_SETS["mobile"])
    complete = space.complete().multiply_adds
    return replace(task, space=space, shares=tuple(budget / complete for budget in task.budgets))


Arm = Callable[[Task, int], dict[int, Architecture]]
"""How an architecture for each budget is come by, from a task and a seed."""

ARMS: dict[str, Arm] = {
    "searched": lambda task, seed: search(task, task.spec(seed)).architectures,
    "mobile": lambda task, seed: search(mobile(task), mobile(task).spec(seed)).architectures,
    "L1": lambda task, seed: search(task, task.spec(seed, gamma=whole_way(task))).architectures,
    "press": lambda task, seed: search(task, task.spec(seed, form="press")).architectures,
    "paper's form": lambda task, seed: search(task, task.spec(seed, form="paper", gamma=whole_way(task))).architectures,
    "random": lambda task, seed: {
        b: random_architecture(task.space, b, seed, task.settings.width_divisor) for b in task.budgets
    },
    "by hand": lambda task, seed: {b: by_hand(task.space, b) for b in task.budgets},
    "thin": lambda task, seed: {b: thin_complete(task.space, b, task.settings.width_divisor) for b in task.budgets},
}


MATCHED = "matched random"
"""For each network of the arm "searched" a random one with its reductions, live edges and widths."""


def arm_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One seed of one of `ARMS` on one task: what was found and how well it does, a record for each budget.

    What is searched brings its matched random networks along.
    """
    task = TASKS[job["task"]]
    torch.set_num_threads(1)
    found = ARMS[job["arm"]](task, job["seed"])
    records = measure(job, task, lambda *_: found)
    if job["arm"] == "searched":
        divisor = task.settings.width_divisor
        matched = {b: matched_architecture(own, b, job["seed"], divisor) for b, own in found.items()}
        records += measure(job | {"arm": MATCHED}, task, lambda *_: matched)
    return records


def measure(
    job: dict[str, Any], task: Task, arm: Arm, engine: EngineOptions = NO_ENGINE_OPTIONS
) -> list[dict[str, Any]]:
    """What `arm` finds with the job's seed and how well it does, retrained as `task` says; a record for each budget."""
    torch.set_num_threads(1)
    records = []
    for budget, architecture in sorted(arm(task, job["seed"]).items()):
        accuracy = retrained(task, architecture, job["seed"], engine)
        found = {"budget": budget, "multiply_adds": architecture.multiply_adds, "live_edges": architecture.live_edges}
        records.append(job | found | {"widths": list(architecture.widths), "accuracy": accuracy})
    return records


def run_all(
    run: Callable[[dict[str, Any]], list[dict[str, Any]]], jobs: Iterable[dict[str, Any]], file: Path
) -> list[dict[str, Any]]:
    """Run every job that `file` (JSON lines) does not hold yet, a process for each core that this one may use; returns
    all records.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    left = [job for job in jobs if not any(job.items() <= record.items() for record in records)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(len(os.sched_getaffinity(0)), spawn)
    with Progress(*columns, TimeRemainingColumn()) as bar, pool:
        shown = bar.add_task(file.stem, total=len(left))
        for done in as_completed([pool.submit(run, job) for job in left]):
            with file.open("a") as out:
                out.write("".join(json.dumps(record) + "\n" for record in done.result()))
            records += done.result()
            bar.advance(shown)
    return records
