"""`make bench-finalists`: what does stopping networks early in the finals save, and does the same one win?

Networks that several searches found for a budget are all trained to the end, and their curves kept. The finals' own
scheduler is then shown these curves as if they came from trials, for every choice of some of the searches and in
several orders: how many epochs it spends, and whose network wins, against training all to the end.
"""

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from benchmarks.common import TASKS, data, run_all, search
from nas_core.spec.finals import rungs
from nas_core.train.retrain import Retraining
from worker.tuning import asha

SHARES = {"digits": (0.15, 0.30, 0.50), "glyphs": (0.30, 0.50)}
ORDERS = 10
"""In how many orders the networks of one choice start."""


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=8, help="searches of each task")
    parser.add_argument("--of", type=int, nargs="+", default=[3, 5], help="how many networks compete")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    jobs = [{"task": task, "seed": seed} for seed in range(options.seeds) for task in options.tasks]
    records = run_all(curves, jobs, options.results / "finalists.jsonl")
    print(report([r for r in records if r["task"] in options.tasks and r["seed"] < options.seeds], options.of))


def curves(job: dict[str, Any]) -> list[dict[str, Any]]:
    """A search, and the curve of every network it found: validation accuracy by epoch, and test accuracy at the end."""
    torch.set_num_threads(1)
    task = replace(TASKS[job["task"]], shares=SHARES[job["task"]])
    found = search(task, task.spec(job["seed"])).architectures
    records = []
    for budget, architecture in sorted(found.items()):
        training = Retraining(task.spec(job["seed"]), architecture, data(task), "cpu")
        curve: list[float] = []
        while not training.done:
            curve += [line["accuracy"] for line in training.advance()]
        records.append(job | {"budget": budget, "curve": curve, "accuracy": training.test().accuracy})
    return records


@dataclass(frozen=True)
class Outcome:
    """What came of one final: the epochs spent, and the winner's place among the curves."""

    epochs: int
    winner: int


def replay(shown: Sequence[Sequence[float]], scheduler: ASHAScheduler | None) -> Outcome:
    """Finals whose trials follow the curves `shown`, one after the other; without a scheduler all go to the end.

    Side by side and in step they would be judged in the same order. The winner is the best at its end of those that
    reach it.
    """
    judged = rungs(len(shown[0]))
    spent, ended = 0, list[int]()
    for number, curve in enumerate(shown):
        trial: Any = SimpleNamespace(trial_id=str(number))
        if scheduler:
            scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        for epoch, accuracy in enumerate(curve, start=1):
            spent += 1
            if scheduler and epoch in judged:
                told = {"epoch": epoch, "accuracy": accuracy}
                if scheduler.on_trial_result(None, trial, told) == TrialScheduler.STOP:  # type: ignore[arg-type]
                    break
        else:
            ended.append(number)
    return Outcome(spent, max(ended, key=lambda number: (shown[number][-1], -number)))


def finals(records: Sequence[dict[str, Any]], of: int) -> Iterator[list[dict[str, Any]]]:
    """Every choice of `of` networks for one budget, each in some orders."""
    draw = random.Random(0)
    for budget in sorted({record["budget"] for record in records}):
        for chosen in itertools.combinations([one for one in records if one["budget"] == budget], of):
            for _ in range(ORDERS):
                yield draw.sample(chosen, of)


def report(records: list[dict[str, Any]], sizes: Sequence[int]) -> str:
    """For each task and number of networks what was saved and lost by stopping early."""
    lines = [
        "| task | networks | finals | epochs spent | same winner | lost, validation | lost, test | gained, test |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(record["task"] for record in records):
        for of in sizes:
            some = [compare(chosen) for chosen in finals([one for one in records if one["task"] == task], of)]
            spent, same, validation, test, gained = (statistics.mean(column) for column in zip(*some, strict=True))
            lines.append(
                f"| {task} | {of} | {len(some)} | {spent:.0%} | {same:.0%} | {validation:+.4f} | {test:+.4f} | "
                f"{gained:+.4f} |"
            )
    return "\n".join(lines)


def compare(chosen: Sequence[dict[str, Any]]) -> tuple[float, bool, float, float, float]:
    """What became of one final: of all epochs the share that was spent, whether the same network wins as without
    stopping, what is lost of the winner's accuracy on validation and test data, and what the finals gain on test data
    over any one of the networks, on average.
    """
    shown = [record["curve"] for record in chosen]
    full, early = replay(shown, None), replay(shown, asha(len(shown[0])))
    best, won = chosen[full.winner], chosen[early.winner]
    validation, test = best["curve"][-1] - won["curve"][-1], best["accuracy"] - won["accuracy"]
    gained = won["accuracy"] - statistics.mean(record["accuracy"] for record in chosen)
    # Networks that are equally good at their end on the validation part are as good a choice.
    return early.epochs / full.epochs, validation == 0, validation, test, gained


if __name__ == "__main__":
    main()
