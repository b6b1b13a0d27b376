"""The rules of finals: which networks compete for a budget, when the weaker stop, and who wins.

A budget has networks of several origins: those that searches have found, reference networks that people have drawn, and
controls that nobody chose (random ones, and the complete network with fewer channels). Searched networks are judged
among themselves and reference networks among themselves, so that the best of both reach the end, where they meet: what
is delivered is never worse on the validation part than the best reference network. Controls are trained to the end.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nas_core import parallel
from nas_core.search.baselines import random_architecture, thin_complete
from nas_core.search.latency import measure_latency
from nas_core.search.references import fit_reference
from nas_core.space import FAMILIES, Architecture, Genotype, Reference
from nas_core.spec import SearchSpec
from nas_core.supernet.references import build
from nas_core.train.evaluation import Evaluation
from nas_core.train.retrain import Retraining, untaken


def place(score: float, multiply_adds: int, trial: int) -> tuple[float, int, int]:
    """What networks for one budget are sorted by, the best first: their score on the validation part; of equals the
    cheaper one is better, and then the one with the lower number."""
    return -score, multiply_adds, trial


def winners(trained: Iterable[Mapping[str, Any]], choose_by: str) -> set[int]:
    """The trials that won their budgets, one each: of any origin the best on the validation part.

    `trained` are results of networks that were trained to the end; `choose_by` is one of `CHOOSE_BY`. What the test
    part says decides nothing.
    """
    best: dict[int, int] = {}
    for one in sorted(
        trained, key=lambda one: place(one[f"validation_{choose_by}"], one["multiply_adds"], one["trial"])
    ):
        best.setdefault(one["budget"], one["trial"])
    return set(best.values())


def path(budget: int, trial: int | None = None) -> str:
    """Where a network's files are, below the run's folder: those of a budget's one network, or of one of several."""
    return f"architectures/{budget}" if trial is None else f"architectures/{budget}-{trial}"


def cost_of(architecture: Genotype) -> dict[str, int]:
    """What a network costs, as a journal line or a result tells it."""
    return {
        "multiply_adds": architecture.multiply_adds,
        "parameters": architecture.parameters,
        "activations": architecture.peak_activations,
    }


FEW_STEPS = 500
"""Steps of training below which a result warns that they were few."""


def delivered(retraining: Retraining, tested: Evaluation) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is told of a network that was retrained and `tested`, and its weights on the CPU."""
    network = retraining.architecture
    told: dict[str, Any] = {"epochs": retraining.epochs, "start": retraining.start}
    told |= {"compute": {"training": retraining.compute}} | cost_of(network) | tested.summary()
    if retraining.step < FEW_STEPS:
        told["warnings"] = [*told["warnings"], (
            f"The network was trained for few steps: {retraining.step:,}, in epochs of {retraining.steps_per_epoch:,}. "
            "It may do better with more images, more epochs (retrain_epochs) or smaller batches (retrain_batch_size)."
        )]  # fmt: skip
    if isinstance(network, Reference):
        told |= {"variant": network.variant, "recipe_without": untaken(network, retraining.settings)}
    return told, {name: tensor.detach().cpu().clone() for name, tensor in retraining.delivered.state_dict().items()}


def baseline(origin: str, spec: SearchSpec, budget: int, seed: int) -> Architecture | Reference:
    """The network of an `origin` that was not searched for, within `budget` and the limits of `spec`.

    Raises `ValueError` where it cannot be made small enough, with the least that it costs. Latency is not judged
    (`check_latency`).
    """
    divisor, limits = spec.settings.width_divisor, spec.limits
    if origin in FAMILIES:
        return fit_reference(origin, spec.space, budget, limits, divisor)
    if origin == "random":
        return random_architecture(spec.space, budget, seed, divisor, limits)
    return thin_complete(spec.space, budget, divisor, limits)


def check_latency(network: Architecture | Reference, origin: str, spec: SearchSpec, device: torch.device | str) -> None:
    """Raise `ValueError` on all workers where the first one's `device` takes too long for a network of an `origin`."""
    limit, threads = spec.limits.latency_ms, spec.cpus_per_worker
    if limit is not None:
        took = parallel.first(lambda: measure_latency(build(network), threads, device=device).median)
        if took > limit:
            named = network.variant if isinstance(network, Reference) else origin
            raise ValueError(f"{named} takes {took:.3g} ms, over the limit of {limit:g} ms")
