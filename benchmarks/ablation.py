"""`make bench-ablation`: what split data and pretraining are worth (paper, table 3), and what chance finds (table 1).

Each row is taken with edges of every block's own ("full") and with one set for all ("share"), at the smallest budget
of the task; all that is found is retrained alike. An epoch of a search passes once over what W trains on, whatever that
is, so that the last two searches take more steps than the first two. What was measured so far is kept in a file, so
that a run which is cut goes on.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import ARMS, TASKS, Arm, measure, run_all, search

SPACES = ("full", "share")


def searched(**settings: Any) -> Arm:
    """Searches with some settings that differ from the task's."""
    return lambda task, seed: search(task, task.spec(seed, **settings)).architectures


ROWS: dict[str, Arm] = {
    "split, no pretraining, 1:1": searched(split=True, pretrain_epochs=0, ratio=1),
    "split, pretraining, 1:1": searched(split=True, ratio=1),
    "split, pretraining, 4:1": searched(split=True, ratio=4),
    "no split, pretraining": searched(split=False, ratio=1),
    "random": ARMS["random"],
}


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TASKS), default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each row; the paper's are five")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    # Seed by seed rather than row by row, so that a run which is cut has something to compare.
    jobs = [
        {"task": options.task, "space": space, "row": row, "seed": seed}
        for seed in range(options.seeds)
        for space in SPACES
        for row in ROWS
    ]
    records = run_all(ablation_run, jobs, options.results / "ablation.jsonl")
    print(report([r for r in records if r["task"] == options.task and r["seed"] < options.seeds]))


def ablation_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One seed of one row in one space: what was found and how well it does."""
    task = TASKS[job["task"]]
    space = replace(task.space, share=job["space"] == "share")
    return measure(job, replace(task, space=space, shares=(min(task.shares),)), ROWS[job["row"]])


def report(records: list[dict[str, Any]]) -> str:
    """The rows in Markdown, with the mean and the standard deviation of their test accuracies."""
    lines = [
        f"\n### {records[0]['task']}, {records[0]['budget']:,} multiply-adds\n",
        "| edges | search | n | test accuracy | used |",
        "|---|---|---|---|---|",
    ]
    for space in SPACES:
        for row in ROWS:
            own = [record for record in records if (record["space"], record["row"]) == (space, row)]
            accuracies = [record["accuracy"] for record in own]
            deviation = f" ± {statistics.stdev(accuracies):.4f}" if len(own) > 1 else ""
            used = statistics.mean(record["multiply_adds"] / record["budget"] for record in own)
            cells = [space, row, str(len(own)), f"{statistics.mean(accuracies):.4f}{deviation}", f"{used:.1%}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
