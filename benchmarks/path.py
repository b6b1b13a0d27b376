"""`make bench-path`: what does one search for eight budgets cost, and are its networks as good as those of eight?

The cost is counted in multiply-adds of the training steps (which no noise of the machine touches) and in seconds of
processor time, the search for eight budgets and that for the smallest alone in the same process.
"""

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from benchmarks.common import TASKS, Task, data, retrained, run_all
from nas_core import Search

SHARES = (0.10, 0.17, 0.24, 0.31, 0.38, 0.45, 0.52, 0.60)


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    jobs = [{"task": options.task, "seed": seed, "shares": list(SHARES)} for seed in range(options.seeds)]
    jobs += [
        {"task": options.task, "seed": seed, "shares": [share]} for seed in range(options.seeds) for share in SHARES
    ]
    records = run_all(path_run, jobs, options.results / "path.jsonl")
    print(report([r for r in records if r["task"] == options.task and r["seed"] < options.seeds]))


def path_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One search for some budgets and the retraining of what it found, a record for each budget."""
    torch.set_num_threads(1)
    task = replace(TASKS[job["task"]], shares=tuple(job["shares"]))
    found, cost, seconds = counted(task, job["seed"])
    compared = {}
    if len(job["shares"]) > 1:
        _, alone, alone_seconds = counted(replace(task, shares=(min(job["shares"]),)), job["seed"])
        compared = {"cost_ratio": cost / alone, "seconds_ratio": seconds / alone_seconds}
    return [
        job | compared | {"share": share, "accuracy": retrained(task, found.architectures[budget], job["seed"])}
        for share, budget in zip(sorted(task.shares), task.budgets, strict=True)
    ]


def counted(task: Task, seed: int) -> tuple[Search, int, float]:
    """A finished search, the multiply-adds of its steps' forward passes for one image, and its processor seconds."""
    search, cost, begin = Search(task.spec(seed), data(task), "cpu"), 0, time.process_time()
    while not search.done:
        cost += search.live.multiply_adds * (2 if search.searching else 1)
        search.advance()
    return search, cost, time.process_time() - begin


def report(records: list[dict[str, Any]]) -> str:
    """The costs' ratios, and for each budget the accuracies of both ways."""
    together = {(r["seed"], r["share"]): r for r in records if len(r["shares"]) > 1}
    apart = {(r["seed"], r["share"]): r for r in records if len(r["shares"]) == 1}
    first = [record for (_, share), record in sorted(together.items()) if share == SHARES[0]]
    ratios = ", ".join(f"{record['seconds_ratio']:.2f}" for record in first)
    lines = [
        f"One search for {len(SHARES)} budgets costs {statistics.mean(r['cost_ratio'] for r in first):.3f} times the "
        f"multiply-adds of one for the smallest budget alone; processor time, seed by seed: {ratios} times.\n",
        "| share of the supernet | one search | a search each | difference |",
        "|---|---|---|---|",
    ]
    for share in SHARES:
        one, each = (
            statistics.mean(record["accuracy"] for key, record in some.items() if key[1] == share)
            for some in (together, apart)
        )
        lines.append(f"| {share:.0%} | {one:.4f} | {each:.4f} | {one - each:+.4f} |")
    differences = [together[key]["accuracy"] - apart[key]["accuracy"] for key in together]
    mean, n = statistics.mean(differences), len(differences)
    reach = t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    lines.append(
        f"\nMean difference over {n} pairs: {mean:+.4f}, 95 % interval {mean - reach:+.4f} to {mean + reach:+.4f}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
