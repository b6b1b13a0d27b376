"""`make bench-never-worse`: is what a search delivers ever worse than a network drawn by people?

Whole searches as they are by default: what each finds competes with reference networks, and the best on the validation
part is delivered. The best network of either side is trained to the end, so that the delivered one can be held against
the best reference network on the test part, which decides nothing.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_1samp

from benchmarks.common import TASKS, data, run_all
from nas_core.job import SearchJob
from nas_core.spec import FinalsOptions
from nas_core.spec.finals import side_of

BASELINES = ("resnet", "mobilenetv3")
"""What every search is up against unless its request says otherwise."""


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    jobs = [{"task": task, "seed": seed} for seed in options.seeds for task in options.tasks]
    records = run_all(run, jobs, options.results / "never_worse.jsonl")
    print(report([one for one in records if one["task"] in options.tasks and one["seed"] in options.seeds]))


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One search to its end: for each budget what was delivered, and the best searched and reference network."""
    torch.set_num_threads(1)
    task = TASKS[job["task"]]
    spec = replace(task.spec(job["seed"]), finals=FinalsOptions(baselines=BASELINES))
    searching = SearchJob(spec, data(task), "cpu")
    while not searching.done:
        searching.advance()
    records = []
    for budget in spec.budgets:
        own = [one for one in searching.results if one["budget"] == budget]
        sides = {side_of(one["origin"]): _scores(one) for one in reversed(own)}
        records.append(job | {"budget": budget, "delivered": _scores(own[0]), "sides": sides})
    return records


def _scores(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("origin", "validation_accuracy", "accuracy", "multiply_adds")}


def report(records: Sequence[dict[str, Any]]) -> str:
    """For each task and budget how the delivered networks compare with the best reference and searched ones."""
    lines = [
        "| task | budget | searches | searched delivered | worse on validation | delivered − reference, test | "
        "95 % interval | worse, equal, better on test | delivered − searched, test |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, budget in dict.fromkeys((one["task"], one["budget"]) for one in records):
        some = [
            one for one in records if (one["task"], one["budget"]) == (task, budget) and "reference" in one["sides"]
        ]
        if not some:
            lines.append(f"| {task} | {budget:,} | 0: no reference network is as small | | | | | | |")
            continue
        gains = [one["delivered"]["accuracy"] - one["sides"]["reference"]["accuracy"] for one in some]
        own = statistics.mean(one["delivered"]["accuracy"] - one["sides"]["search"]["accuracy"] for one in some)
        worse = sum(
            one["delivered"]["validation_accuracy"] < one["sides"]["reference"]["validation_accuracy"] for one in some
        )
        searched = sum(one["delivered"]["origin"] == "search" for one in some)
        interval = ttest_1samp(gains, 0).confidence_interval() if len(gains) > 1 else (float("nan"),) * 2
        signs = (sum(g < 0 for g in gains), sum(g == 0 for g in gains), sum(g > 0 for g in gains))
        lines.append(
            f"| {task} | {budget:,} | {len(some)} | {searched} | {worse} | {statistics.mean(gains):+.4f} | "
            f"{interval[0]:+.4f} – {interval[1]:+.4f} | {', '.join(map(str, signs))} | {own:+.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
