"""`make bench-peers`: is a searched network better on photographs than what people draw, or take from the literature?

Every arm yields a network for a budget and a seed; all are trained by the same recipe for as many epochs, and compared
by Welch's t-test. `compute` is what a network took, its search included, in units of 10¹² multiply-adds of forward
passes. What was measured so far is kept in a file, so that a run which is cut goes on.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t, ttest_ind

from benchmarks.common import MATCHED, by_hand, data_of, run_all
from benchmarks.recipes import PHOTOGRAPHS, add_data, first_of, space_of
from nas_core import Architecture, Search
from nas_core.search.baselines import matched_architecture, random_architecture
from nas_core.search.references import fit_reference
from nas_core.space import FAMILIES, Reference
from nas_core.spec import SearchSpec, Settings
from nas_core.train.retrain import Retraining

FILE = Path("docs/benchmarks/peers.jsonl")
SUPERNETS = {1_500_000: 16, 5_000_000: 32, 15_000_000: 56}
"""For each budget the channels of the supernet that is searched, which costs about three and a half times as much."""
ARMS = ("searched", "by hand", "random", *FAMILIES)


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--budgets", nargs="+", type=int, choices=list(SUPERNETS), default=list(SUPERNETS))
    parser.add_argument("--epochs", type=int, default=15, help="of training; a search takes 6 and 12")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    options = parser.parse_args()
    first_of(options.data, parser)
    # Seed by seed rather than arm by arm, so that a run which is cut has something to compare.
    jobs = [
        {"arm": arm, "budget": budget, "seed": seed, "epochs": options.epochs}
        for budget in options.budgets
        for seed in options.seeds
        for arm in options.arms
    ]
    records = [one for one in run_all(run, jobs, FILE) if one["epochs"] == options.epochs]
    for budget in options.budgets:
        print(report(budget, [one for one in records if one["budget"] == budget]))


def spec_of(budget: int, seed: int, epochs: int) -> SearchSpec:
    """A search on photographs, and how what comes of it is trained."""
    schedule = {"pretrain_epochs": 6, "search_epochs": 12, "batch_size": 64, "retrain_epochs": epochs}
    settings = Settings.preset("cifar10", recipe="standard", **schedule)
    return SearchSpec(str(PHOTOGRAPHS), (budget,), space_of(SUPERNETS[budget]), settings, seed=seed)


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One network: found, drawn or scaled, trained and tested. What is searched brings its matched random one along."""
    torch.set_num_threads(1)
    spec = spec_of(job["budget"], job["seed"], job["epochs"])
    match job["arm"]:
        case "searched":
            search = Search(spec, data_of(spec), "cpu")
            while not search.done:
                search.advance()
            network = search.architectures[job["budget"]]
            matched = matched_architecture(network, job["budget"], job["seed"])
            of_search = trained(job, spec, network, search.compute or 0)
            return [of_search, trained(job | {"arm": MATCHED}, spec, matched)]
        case "by hand":
            return [trained(job, spec, by_hand(spec.space, job["budget"]))]
        case "random":
            return [trained(job, spec, random_architecture(spec.space, job["budget"], job["seed"]))]
        case family:
            return [trained(job, spec, fit_reference(family, spec.space, job["budget"]))]


def trained(
    job: dict[str, Any], spec: SearchSpec, network: Architecture | Reference, compute: float = 0.0
) -> dict[str, Any]:
    """A record of how well `network` does when it is trained, which took `compute` to find."""
    data = data_of(spec)
    training = Retraining(spec, network, data, "cpu")
    while not training.done:
        training.advance()
    compute += training.compute
    found = {"multiply_adds": network.multiply_adds, "parameters": network.parameters, "compute": compute / 1e12}
    return job | found | {"accuracy": training.test().accuracy}


def report(budget: int, records: list[dict[str, Any]]) -> str:
    """The arms at a budget as a table in Markdown, the best first."""
    arms = (MATCHED, *ARMS)
    reached = {arm: [one["accuracy"] for one in records if one["arm"] == arm] for arm in arms}
    searched = reached["searched"]
    lines = [
        f"\n### {budget:,} multiply-adds\n",
        "| network | n | test accuracy | deviation | 95 % interval | searched − it | p (Welch) | compute |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in sorted((arm for arm in arms if reached[arm]), key=lambda arm: -statistics.mean(reached[arm])):
        own = reached[arm]
        mean, count = statistics.mean(own), len(own)
        cells = [arm, str(count), f"{mean:.4f}", "", "", "", ""]
        if count > 1:
            deviation = statistics.stdev(own)
            half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
            cells[3:5] = [f"{deviation:.4f}", f"{mean - half:.4f} – {mean + half:.4f}"]
        if arm != "searched" and searched:
            cells[5] = f"{statistics.mean(searched) - mean:+.4f}"
            if min(count, len(searched)) > 1:
                cells[6] = f"{ttest_ind(searched, own, equal_var=False).pvalue:.2g}"
        cells.append(f"{statistics.mean(one['compute'] for one in records if one['arm'] == arm):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
