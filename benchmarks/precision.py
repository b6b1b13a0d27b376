"""`make bench-precision`: does a search in bfloat16 find networks as good as one in float32?

Searches and retrainings of the same seeds in either precision; the test accuracies are compared by Welch's t-test. What
was measured so far is kept in a file, so that a run which is cut goes on.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import ttest_ind

from benchmarks.common import TASKS, measure, run_all, search
from nas_core.spec import EngineOptions

FILE = Path("docs/benchmarks/precision.jsonl")
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), default="digits")
    parser.add_argument("--seeds", type=int, default=6, help="runs in each precision")
    options = parser.parse_args()
    jobs = [
        {"task": options.task, "precision": precision, "seed": seed}
        for seed in range(options.seeds)
        for precision in PRECISIONS
    ]
    records = run_all(run, jobs, FILE)
    print(report(options.task, [one for one in records if one["task"] == options.task]))


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One seed in one precision."""
    task, engine = TASKS[job["task"]], EngineOptions(precision=job["precision"])
    return measure(job, task, lambda task, seed: search(task, task.spec(seed, engine=engine)).architectures, engine)


def report(task: str, records: list[dict[str, Any]]) -> str:
    """Mean and deviation of either precision at each budget, and how likely chance alone would tell them apart so."""
    lines = ["| task, multiply-adds | runs | float32 | bfloat16 | p (Welch) |", "|---|---|---|---|---|"]
    for budget in TASKS[task].budgets:
        float32, bfloat16 = (
            [one["accuracy"] for one in records if (one["budget"], one["precision"]) == (budget, precision)]
            for precision in PRECISIONS
        )
        told = [f"{statistics.mean(own):.2%} ± {statistics.stdev(own):.2%}" for own in (float32, bfloat16)]
        p = ttest_ind(float32, bfloat16, equal_var=False).pvalue
        lines.append(f"| {task}, {budget:,} | {len(float32)} each | {told[0]} | {told[1]} | {p:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
