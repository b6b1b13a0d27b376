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
from nas_core.retrain import Retraining
from worker.tuning import asha, rungs

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
        records.append(job | {"budget": budget, "curve": curve, "accuracy": training.test()["accuracy"]})
    return records


@dataclass(frozen=True)
class Outcome:
    """What came of one final: the epochs spent, and the winner's place among the curves."""

    epochs: int
    winner: int


def replay(shown: Sequence[Sequence[float]], at_once: int, scheduler: ASHAScheduler | None) -> Outcome:
    """Finals whose trials follow the curves `shown`, as many `at_once`; without a scheduler all go to the end.

    A trial takes as long for an epoch as any other. The winner is the best at its end of those that reach it.
    """
    epochs, judged = len(shown[0]), rungs(len(shown[0]))
    waiting, running, spent, ended = list(range(len(shown))), dict[int, int](), 0, list[int]()
    trials: list[Any] = [SimpleNamespace(trial_id=str(number)) for number in range(len(shown))]
    while waiting or running:
        while waiting and len(running) < at_once:
            number = waiting.pop(0)
            running[number] = 0
            if scheduler:
                scheduler.on_trial_add(None, trials[number])  # type: ignore[arg-type]
        for number in list(running):
            running[number] += 1
            spent += 1
            epoch, accuracy = running[number], shown[number][running[number] - 1]
            goes_on = True
            if scheduler and epoch in judged:
                told = {"epoch": epoch, "accuracy": accuracy}
                goes_on = scheduler.on_trial_result(None, trials[number], told) == TrialScheduler.CONTINUE  # type: ignore[arg-type]
            if epoch == epochs:
                ended.append(number)
            if epoch == epochs or not goes_on:
                del running[number]
    return Outcome(spent, max(ended, key=lambda number: (shown[number][-1], -number)))


def finals(records: Sequence[dict[str, Any]], of: int) -> Iterator[list[dict[str, Any]]]:
    """Every choice of `of` networks for one task and budget, each in some orders."""
    draw = random.Random(0)
    key = lambda record: (record["task"], record["budget"])  # noqa: E731
    for _, group in itertools.groupby(sorted(records, key=key), key=key):
        for chosen in itertools.combinations(group, of):
            for _ in range(ORDERS):
                yield draw.sample(chosen, of)


def report(records: list[dict[str, Any]], sizes: Sequence[int]) -> str:
    """For each task and number of networks what was saved and lost by stopping early."""
    lines = [
        "| task | networks | at once | finals | epochs spent | same winner | validation lost | test lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(record["task"] for record in records):
        for of in sizes:
            for at_once in (1, of):
                outcomes = [
                    compare(chosen, at_once)
                    for chosen in finals([record for record in records if record["task"] == task], of)
                ]
                spent, same, validation, test = (statistics.mean(column) for column in zip(*outcomes, strict=True))
                lines.append(
                    f"| {task} | {of} | {at_once} | {len(outcomes)} | {spent:.0%} | {same:.0%} | {validation:+.4f} | "
                    f"{test:+.4f} |"
                )
    return "\n".join(lines)


def compare(chosen: Sequence[dict[str, Any]], at_once: int) -> tuple[float, bool, float, float]:
    """Of one final the share of all epochs that was spent, whether the same wins, and what was lost in accuracy."""
    shown = [record["curve"] for record in chosen]
    full, early = replay(shown, at_once, None), replay(shown, at_once, asha(len(shown[0])))
    best, won = chosen[full.winner], chosen[early.winner]
    lost = best["curve"][-1] - won["curve"][-1], best["accuracy"] - won["accuracy"]
    # Networks that are equally good at their end on the validation part are as good a choice.
    return early.epochs / full.epochs, lost[0] == 0, *lost


if __name__ == "__main__":
    main()
