"""`make bench-fastnas`: FastNAS beside the arms of `make bench-peers`, in an environment of its own.

FastNAS (NVIDIA Model Optimizer, `modelopt.torch.prune`) cuts channels of a trained network until it is within a budget.
Here it cuts a ResNet of twice the budget, which was trained like all others, and what it finds is trained for as many
epochs again: from the weights that it kept ("FastNAS"), and from scratch. What is measured goes into the file of
`make bench-peers`, whose tables show it.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import data_of, run_all
from benchmarks.peers import FASTNAS, FASTNAS_FROM_SCRATCH, SUPERNETS, report, spec_of
from benchmarks.recipes import add_data, first_of
from nas_core.data.loading import Data
from nas_core.search.references import fit_reference
from nas_core.supernet.layers import he_normal_
from nas_core.supernet.references import ReferenceNetwork, build
from nas_core.train.retrain import Retraining
from nas_core.train.steps import evaluate


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--budgets", nargs="+", type=int, choices=list(SUPERNETS), default=list(SUPERNETS))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    first_of(options.data, parser)
    jobs = [
        {"arm": FASTNAS, "budget": budget, "seed": seed, "epochs": options.epochs}
        for budget in options.budgets
        for seed in options.seeds
    ]
    records = run_all(run, jobs, options.results / "peers.jsonl")
    for budget in options.budgets:
        print(f"\n### {budget:,} multiply-adds, {options.epochs} epochs each\n")
        print(report([one for one in records if (one["budget"], one["epochs"]) == (budget, options.epochs)]))


@dataclass
class Cut:
    """A network that FastNAS has cut to a budget, and the multiply-adds that this took."""

    network: ReferenceNetwork
    multiply_adds: int
    compute: int


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One network of FastNAS: found, and trained on from its weights and from scratch."""
    torch.set_num_threads(1)
    spec = spec_of(job["budget"], job["seed"], job["epochs"])
    data = data_of(spec)
    large = Retraining(spec, fit_reference("resnet", spec.space, 2 * job["budget"]), data, "cpu")
    while not large.done:
        large.advance()
    cut = cut_to(job["budget"], large, data, job["seed"])
    records = []
    for arm, took in ((FASTNAS, large.compute + cut.compute), (FASTNAS_FROM_SCRATCH, cut.compute)):
        with building(cut.network, fresh=arm == FASTNAS_FROM_SCRATCH):
            training = Retraining(spec, large.architecture, data, "cpu")
        while not training.done:
            training.advance()
        compute = (took + training.step * training.batch_size * cut.multiply_adds) / 1e12
        parameters = sum(parameter.numel() for parameter in cut.network.parameters())
        found = {"multiply_adds": cut.multiply_adds, "parameters": parameters, "compute": compute}
        records.append(job | {"arm": arm} | found | {"accuracy": training.test().accuracy})
    return records


def cut_to(budget: int, large: Retraining, data: Data, seed: int) -> Cut:
    """What FastNAS makes of a trained network, judged by its accuracy on the validation part."""
    import modelopt.torch.prune as mtp  # type: ignore[import-not-found]  # this environment alone has it

    network, images = build(large.architecture), torch.zeros(1, *large.architecture.input_shape)
    network.load_state_dict(large.network.state_dict())
    validation, compute = data.parts["validation"], 0

    def accuracy(module: nn.Module) -> float:
        nonlocal compute
        compute += cost(module, images) * len(validation)
        return float(evaluate(module, data, validation).accuracy)

    batches = [data.load(some)[0] for some in data.training[: 50 * 128].split(128)]  # what its BN needs
    torch.manual_seed(seed)
    rules = {"nn.Conv2d": {"*": {"channel_divisor": 1}}, "nn.BatchNorm2d": {"*": {}}}
    found, _ = mtp.prune(
        network,
        mode=[("fastnas", rules)],
        constraints={"flops": 2 * budget},  # it counts a multiply-add as two
        dummy_input=images,
        config={"score_func": accuracy, "data_loader": batches, "collect_func": lambda batch: batch},
    )
    return Cut(found, cost(found, images), compute)


def cost(network: nn.Module, images: Tensor) -> int:
    """The multiply-adds of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops()) // 2 // len(images)


@contextmanager
def building(network: ReferenceNetwork, fresh: bool) -> Iterator[None]:
    """Have `Retraining` train this network instead of one that it builds: as it is, or with weights drawn anew."""

    def built(_: object) -> ReferenceNetwork:
        if fresh:
            for part in network.modules():
                if isinstance(part, nn.Conv2d):
                    he_normal_(part.weight.data)
                elif isinstance(part, nn.BatchNorm2d):
                    part.reset_parameters()
                elif isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=0.01)
                    nn.init.zeros_(part.bias)
        return network

    with mock.patch("nas_core.train.retrain.build", built):
        yield


if __name__ == "__main__":
    main()
