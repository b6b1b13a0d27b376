"""`make bench-warm`: what is it worth to train on from the supernet's weights, rather than from scratch?

Each network that a search finds is trained in both ways, for a quarter, a half and all of the task's epochs, from the
same seed; `begin` is its accuracy on the validation part before the first step. What was measured so far is kept in a
file, so that a run which is cut goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import ttest_rel

from benchmarks.common import TASKS, data, run_all, search
from nas_core.seeds import generator
from nas_core.spec import STARTS
from nas_core.supernet.inherit import inherited
from nas_core.train.retrain import Retraining
from nas_core.train.steps import evaluate

SHARES = (0.25, 0.5, 1.0)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(4)))
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    jobs = [{"task": task, "seed": seed} for seed in options.seeds for task in options.tasks]
    records = run_all(compared, jobs, options.results / "warm.jsonl")
    print(report([one for one in records if one["task"] in options.tasks and one["seed"] in options.seeds]))


def compared(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One search, and every training of what it found that was cut from its supernet."""
    torch.set_num_threads(1)
    task, seed = TASKS[job["task"]], job["seed"]
    found, records = search(task, task.spec(seed)), []
    for budget, candidate in sorted(found.candidates.items()):
        network = found.architectures[budget]
        state = inherited(network, candidate.supernet(), generator(seed, "start", budget))
        for share in SHARES:
            epochs = max(1, round(share * task.settings.retrain_epochs))
            for start in STARTS:
                spec = task.spec(seed, retrain_epochs=epochs)
                training = Retraining(spec, network, data(task), "cpu", state if start == "supernet" else None)
                begin = evaluate(training.network, training.data, training.data.parts["validation"]).accuracy
                while not training.done:
                    training.advance()
                told = {"budget": budget, "start": start, "epochs": epochs, "begin": begin}
                records.append(job | told | {"accuracy": training.test().accuracy})
    return records


def report(records: Sequence[dict[str, Any]]) -> str:
    """For each task, budget and length what networks reach from either start, as a table in Markdown."""
    lines = [
        "| task | budget | epochs | n | before training | from the supernet | from scratch | difference | p (paired) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, budget, epochs in sorted({(one["task"], one["budget"], one["epochs"]) for one in records}):
        own = [one for one in records if (one["task"], one["budget"], one["epochs"]) == (task, budget, epochs)]
        reached = {start: {one["seed"]: one["accuracy"] for one in own if one["start"] == start} for start in STARTS}
        seeds = sorted(reached["supernet"].keys() & reached["scratch"].keys())
        warm, cold = ([reached[start][seed] for seed in seeds] for start in ("supernet", "scratch"))
        begin = mean(one["begin"] for one in own if one["start"] == "supernet")
        cells = [task, f"{budget:,}", str(epochs), str(len(seeds)), f"{begin:.3f}", f"{mean(warm):.4f}"]
        cells += [f"{mean(cold):.4f}", f"{mean(warm) - mean(cold):+.4f}"]
        cells.append(f"{ttest_rel(warm, cold).pvalue:.2g}" if len(seeds) > 1 else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
