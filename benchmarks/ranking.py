"""`make bench-ranking`: does accuracy with inherited weights rank random networks as accuracy after retraining does?

Supernets are pretrained, as a search does it or with paths dropped at random, and the random networks of `make
bench-quality` judged with their weights, BN estimated anew, on images that no step of W has seen. Kendall's τ compares
that with the test accuracy that each reaches when it is trained from scratch, within each budget. What was measured so
far is kept in a file, so that a run which is cut goes on.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import kendalltau

from benchmarks.common import TASKS, arm_run, data, run_all
from nas_core.search.baselines import random_architecture
from nas_core.search.search import Search
from nas_core.space import Architecture
from nas_core.supernet.supernet import Supernet
from nas_core.train.steps import calibrate, evaluate

TASK = TASKS["glyphs"]
Kept = Callable[[float, torch.Generator], float]
"""With which probability a step of pretraining keeps each edge, from the share of pretraining that is over."""

ARMS: dict[str, Kept | None] = {
    "whole": None,
    "dropped more and more": lambda progress, random: 1 - 0.9 * progress,
    "dropped by any share": lambda progress, random: float(torch.rand((), generator=random)),
}


class Pretraining(Search):
    """A search whose pretraining trains random parts of the supernet; of each block a path stays, at least."""

    kept: Kept | None = None

    def _weight_step(self) -> None:
        if self.kept is None or self.searching:
            super()._weight_step()
            return
        factors = blocks, reductions = self.supernet.scaling_factors()
        random = torch.Generator().manual_seed(self.spec.seed * 100_003 + self.step)
        share = self.kept(self.step / (self.steps_per_epoch * self.settings.pretrain_epochs), random)
        paths, _ = self.liveness.strongest_paths(torch.rand(blocks.shape, generator=random))
        _, edges = self.liveness.reach((torch.rand(blocks.shape, generator=random) < share) | paths)
        one = torch.rand(reductions.shape, generator=random)
        branches = (torch.rand(reductions.shape, generator=random) < share) | (one == one.max(1, keepdim=True).values)
        with torch.no_grad():
            for factor, mask in zip(factors, (edges, branches), strict=True):
                factor.copy_(mask)
        super()._weight_step()
        with torch.no_grad():
            for factor in factors:
                factor.fill_(1)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=10, help="random ones at each budget")
    parser.add_argument("--supernets", type=int, default=2, help="pretrained ones of each arm")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    numbers = range(options.networks)
    drawn = [{"task": TASK.name, "arm": "random", "seed": number} for number in numbers]
    jobs = [
        {"arm": arm, "supernet": seed, "networks": options.networks}
        for seed in range(options.supernets)
        for arm in ARMS
    ]
    inherited = run_all(judged, jobs, options.results / "ranking.jsonl")
    retrained = run_all(arm_run, drawn, options.results / "quality.jsonl")
    print(report([one for one in inherited if one["networks"] == options.networks], retrained))


def judged(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The accuracy of each random network with the weights of one pretrained supernet."""
    torch.set_num_threads(1)
    pretraining = Pretraining(TASK.spec(job["supernet"]), data(TASK), "cpu")
    pretraining.kept = ARMS[job["arm"]]
    while not pretraining.searching:
        pretraining.advance()
    parts = pretraining.data.parts
    unseen = torch.cat([parts["scaling"], parts["validation"]])
    records = []
    for budget in TASK.budgets:
        for number in range(job["networks"]):
            network = within(pretraining.supernet, random_architecture(TASK.space, budget, number))
            calibrate(network, pretraining.data, parts["weights"], TASK.settings.batch_size)
            accuracy = evaluate(network, pretraining.data, unseen).accuracy
            records.append(job | {"budget": budget, "network": number, "inherited": accuracy})
    return records


def within(supernet: Supernet, architecture: Architecture) -> Supernet:
    """What `supernet` is with the edges of `architecture` alone, at its own widths."""
    part = copy.deepcopy(supernet)
    blocks, reductions = part.scaling_factors()
    edges = architecture.space.edges()
    alive = [{edge[:2] for edge in block.edges} for block in architecture.blocks]
    with torch.no_grad():
        blocks.copy_(torch.tensor([[edge in own for edge in edges] for own in alive]))
        reductions.copy_(torch.tensor([[one > 0 for one in pair.strengths] for pair in architecture.reductions]))
    part.prune(part.architecture())
    return part


def report(inherited: list[dict[str, Any]], retrained: list[dict[str, Any]]) -> str:
    """For each arm, supernet and budget Kendall's τ, as a table in Markdown."""
    reached = {
        (one["budget"], one["seed"]): one["accuracy"]
        for one in retrained
        if (one["task"], one["arm"]) == (TASK.name, "random")
    }
    lines = [
        "| pretraining | supernet | budget | networks | inherited accuracy | Kendall's τ | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        for supernet in sorted({one["supernet"] for one in inherited}):
            for budget in TASK.budgets:
                where = {"arm": arm, "supernet": supernet, "budget": budget}
                own = [one for one in inherited if where.items() <= one.items()]
                if own:
                    accuracy = [one["inherited"] for one in own]
                    tau = kendalltau(accuracy, [reached[budget, one["network"]] for one in own])
                    cells = [arm, str(supernet), f"{budget:,}", str(len(own)), f"{mean(accuracy):.3f}"]
                    lines.append("| " + " | ".join([*cells, f"{tau.statistic:+.2f}", f"{tau.pvalue:.2g}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
