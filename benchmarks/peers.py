"""`make bench-peers`: is a searched network better on photographs than what people draw, or take from the literature?

Every arm yields a network for a budget and a seed; all are trained by the same recipe for as many epochs, and compared
by Welch's t-test. `compute` is what a network took, its search included, in units of 10¹² multiply-adds of forward
passes. With `--total` the networks that nobody searched for are trained a second time, for so many epochs that they
take as much compute as a search and the training of what it finds. What was measured so far is kept in a file, so that
a run which is cut goes on.
"""

import argparse
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t, ttest_ind
from torch import Tensor

from benchmarks.common import MATCHED, by_hand, data_of, run_all
from benchmarks.recipes import PHOTOGRAPHS, add_data, first_of, space_of
from nas_core import Architecture, Search
from nas_core.search.baselines import matched_architecture, random_architecture
from nas_core.search.references import fit_reference
from nas_core.seeds import generator
from nas_core.space import FAMILIES, Reference, SearchSpace
from nas_core.spec import SearchSpec, Settings
from nas_core.supernet.inherit import inherited
from nas_core.train.retrain import Retraining

SUPERNETS = {1_500_000: 16, 5_000_000: 32, 15_000_000: 56}
"""For each budget the channels of the supernet that is searched, which costs about three and a half times as much."""
SCRATCH = "searched, from scratch"
"""What a search found, trained without what its supernet had learned."""
FASTNAS, FASTNAS_FROM_SCRATCH = "FastNAS", "FastNAS, from scratch"
"""What `benchmarks/fastnas.py` adds: a larger ResNet, cut to the budget, with its weights and without."""
FULL = "full convolutions"
"""By hand too, with a full 3×3 convolution a block, which is no operation of the space that is searched."""
OPPONENTS = ("by hand", FULL, "random", *FAMILIES)
"""Networks that nobody searched for."""
ARMS = ("searched", *OPPONENTS)
SHOWN = (*ARMS, SCRATCH, MATCHED, FASTNAS, FASTNAS_FROM_SCRATCH)


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--budgets", nargs="+", type=int, choices=list(SUPERNETS), default=list(SUPERNETS))
    parser.add_argument("--epochs", type=int, default=15, help="of training; a search takes 6 and 12")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--total", action="store_true", help="compare at the same total compute too")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    first_of(options.data, parser)
    file, records = options.results / "peers.jsonl", list[dict[str, Any]]()

    def measure(jobs: Iterable[dict[str, Any]]) -> None:
        nonlocal records
        records = run_all(run, jobs, file)

    # Seed by seed rather than arm by arm, so that a run which is cut has something to compare.
    measure(
        {"arm": arm, "budget": budget, "seed": seed, "epochs": options.epochs}
        for budget in options.budgets
        for seed in options.seeds
        for arm in options.arms
    )
    longer = {budget: as_long(budget, options.epochs, records) for budget in options.budgets} if options.total else {}
    measure(
        {"arm": arm, "budget": budget, "seed": seed, "epochs": epochs}
        for budget, by_arm in longer.items()
        for seed in options.seeds
        for arm, epochs in by_arm.items()
        if arm in options.arms
    )
    for budget in options.budgets:
        own = [one for one in records if one["budget"] == budget]
        print(f"\n### {budget:,} multiply-adds, {options.epochs} epochs each\n")
        print(report([one for one in own if one["epochs"] == options.epochs]))
        if longer:
            print(f"\n### {budget:,} multiply-adds, the same compute for all\n")
            as_many = longer[budget] | {"searched": options.epochs}
            print(report([one for one in own if one["epochs"] == as_many.get(one["arm"])]))


def as_long(budget: int, epochs: int, records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """For how many epochs each opponent takes the compute of a search and `epochs` of training, as `records` tell."""
    own = [one for one in records if (one["budget"], one["epochs"]) == (budget, epochs)]
    took = {arm: [one["compute"] for one in own if one["arm"] == arm] for arm in ARMS}
    if not took["searched"]:
        return {}
    searched = statistics.mean(took["searched"])
    return {arm: round(epochs * searched / statistics.mean(took[arm])) for arm in OPPONENTS if took[arm]}


def spec_of(budget: int, seed: int, epochs: int) -> SearchSpec:
    """A search on photographs, and how what comes of it is trained."""
    schedule = {"pretrain_epochs": 6, "search_epochs": 12, "batch_size": 64, "retrain_epochs": epochs}
    settings = Settings.preset("cifar10", recipe="standard", **schedule)
    return SearchSpec(str(PHOTOGRAPHS), (budget,), space_of(SUPERNETS[budget]), settings, seed=seed)


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One network: found, drawn or scaled, trained and tested.

    A search also brings what it found, trained from scratch, and the random network matched to that.
    """
    torch.set_num_threads(1)
    spec = spec_of(job["budget"], job["seed"], job["epochs"])
    start = None
    if job["arm"] == "searched":
        search = Search(spec, data_of(spec), "cpu")
        while not search.done:
            search.advance()
        network = search.architectures[job["budget"]]
        if job["budget"] in search.candidates:
            supernet = search.candidates[job["budget"]].supernet()
            start = inherited(network, supernet, generator(spec.seed, "start", job["budget"]))
        took, matched = search.compute or 0, matched_architecture(network, job["budget"], job["seed"])
        return [
            trained(job, spec, network, took, start),
            trained(job | {"arm": SCRATCH}, spec, network, took),
            trained(job | {"arm": MATCHED}, spec, matched, 0),
        ]
    return [trained(job, spec, opponent(job, spec.space), 0)]


def opponent(job: dict[str, Any], space: SearchSpace) -> Architecture | Reference:
    """A network that nobody searched for."""
    match job["arm"]:
        case "by hand":
            return by_hand(space, job["budget"])
        case "full convolutions":
            return by_hand(replace(space, operations=("convolution3",)), job["budget"], "convolution3")
        case "random":
            return random_architecture(space, job["budget"], job["seed"])
        case family:
            return fit_reference(family, space, job["budget"])


def trained(
    job: dict[str, Any],
    spec: SearchSpec,
    network: Architecture | Reference,
    took: int,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """The record of a network that took so many multiply-adds to be found: trained from `start`, and tested."""
    training = Retraining(spec, network, data_of(spec), "cpu", start)
    while not training.done:
        training.advance()
    compute = (took + training.compute) / 1e12
    found = {"multiply_adds": network.multiply_adds, "parameters": network.parameters, "compute": compute}
    return job | found | {"accuracy": training.test().accuracy}


def report(records: list[dict[str, Any]]) -> str:
    """The arms at a budget as a table in Markdown, the best first."""
    reached = {arm: [one["accuracy"] for one in records if one["arm"] == arm] for arm in SHOWN}
    searched = reached["searched"]
    lines = [
        "| network | n | test accuracy | deviation | 95 % interval | searched − it | p (Welch) | compute |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in sorted((arm for arm in reached if reached[arm]), key=lambda arm: -statistics.mean(reached[arm])):
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
