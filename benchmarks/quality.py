"""`make bench-quality`: does a search choose better than chance, and what does the L1 add?

Every arm yields an architecture for each budget and seed, all are retrained in the same way, and the test accuracies
are compared by Welch's t-test. What was measured so far is kept in a file, so that a run which is cut goes on.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import nct, t, ttest_ind

from benchmarks.common import ARMS, MATCHED, TASKS, Task, arm_run, run_all

RESULTS = Path("docs/benchmarks")
REPORTED = ("searched", MATCHED, *(arm for arm in ARMS if arm != "searched"))
POWER, SIGNIFICANCE = 0.8, 0.05


def main() -> None:
    """Measure what is missing, print the tables, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=12, help="runs of each arm")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where measurements are kept")
    options = parser.parse_args()
    # Seed by seed rather than arm by arm, so that a run which is cut has something to compare.
    jobs = [
        {"task": task, "arm": arm, "seed": seed}
        for task in options.tasks
        for seed in range(options.seeds)
        for arm in ARMS
    ]
    records = run_all(arm_run, jobs, options.results / "quality.jsonl")
    records = [record for record in records if record["seed"] < options.seeds]
    for task in options.tasks:
        print(report(TASKS[task], [record for record in records if record["task"] == task]))
    draw([TASKS[task] for task in options.tasks], records, options.results / "quality.svg")


def accuracies(records: list[dict[str, Any]], arm: str, budget: int) -> list[float]:
    """The test accuracies of an arm at a budget."""
    return [record["accuracy"] for record in records if record["arm"] == arm and record["budget"] == budget]


def report(task: Task, records: list[dict[str, Any]]) -> str:
    """For each budget a table of the arms measured twice or more, and each one's difference from the searched."""
    lines = []
    for share, budget in zip(sorted(task.shares), task.budgets, strict=True):
        searched = accuracies(records, "searched", budget)
        lines += [
            f"\n### {task.name}, {budget:,} multiply-adds ({share:.0%} of the supernet)\n",
            "| arm | n | mean | deviation | median | from – to | used | searched − arm, 95 % interval | p (Welch) |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for arm in REPORTED:
            own = accuracies(records, arm, budget)
            if len(own) < 2:
                continue
            used = statistics.mean(
                r["multiply_adds"] / budget for r in records if r["arm"] == arm and r["budget"] == budget
            )
            cells = [arm, str(len(own)), f"{statistics.mean(own):.4f}", f"{statistics.stdev(own):.4f}"]
            cells += [f"{statistics.median(own):.4f}", f"{min(own):.4f} – {max(own):.4f}", f"{used:.1%}"]
            if arm == "searched":
                cells += ["", ""]
            else:
                test = ttest_ind(searched, own, equal_var=False)
                low, high = test.confidence_interval(0.95)
                difference = statistics.mean(searched) - statistics.mean(own)
                cells += [f"{difference:+.4f} ({low:+.4f} to {high:+.4f})", f"{test.pvalue:.2g}"]
            lines.append("| " + " | ".join(cells) + " |")
        random = accuracies(records, "random", budget)
        pooled = math.sqrt((statistics.variance(searched) + statistics.variance(random)) / 2)
        above = sum(accuracy > max(random[:10]) for accuracy in searched)
        lines.append(
            f"\n{above} of {len(searched)} searched lie above the best of the first ten random. With n = "
            f"{len(searched)}, a difference from random of {detectable(len(searched), pooled):.3f} is found in "
            f"{POWER:.0%} of trials."
        )
    return "\n".join(lines)


def detectable(n: int, deviation: float) -> float:
    """The smallest difference between two means of n that a two-sided t-test finds with probability `POWER`."""
    critical = t.ppf(1 - SIGNIFICANCE / 2, 2 * n - 2)
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        found = 1 - nct.cdf(critical, 2 * n - 2, middle * math.sqrt(n / 2))
        low, high = (middle, high) if found < POWER else (low, middle)
    return high * deviation


def draw(tasks: list[Task], records: list[dict[str, Any]], file: Path) -> None:
    """Every accuracy as a point, an arm a row; the bar is the mean."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "yoso"
    from matplotlib import pyplot

    panels = [(task, budget) for task in tasks for budget in task.budgets]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 2.6), squeeze=False, sharey=True)
    for axis, (task, budget) in zip(axes[0], panels, strict=True):
        own = [record for record in records if record["task"] == task.name]
        for row, arm in enumerate(reversed(REPORTED)):
            values = accuracies(own, arm, budget)
            if not values:
                continue
            axis.plot(values, [row] * len(values), "o", alpha=0.5, markersize=4)
            axis.plot(statistics.mean(values), row, "k|", markersize=18)
        axis.set_yticks(range(len(REPORTED)), list(reversed(REPORTED)))
        axis.set_title(f"{task.name}, {budget:,}", fontsize=9)
        axis.set_xlabel("test accuracy after retraining", fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
