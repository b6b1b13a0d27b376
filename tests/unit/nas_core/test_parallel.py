"""Several data-parallel workers find what one finds with the same batch: real processes, joined by gloo.

Three share the batches unevenly: 5, 5 and 6 of 16 images, 21, 21 and 22 of 64.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from nas_core import Search
from nas_core.data.loading import Data
from nas_core.errors import Diverged
from nas_core.finals import baseline
from nas_core.parallel import average_buffers, each, share, world
from nas_core.race import Contender, Race
from nas_core.spec import EngineOptions, FinalsOptions
from nas_core.supernet.layers import batch_norm
from nas_core.train import gradients
from nas_core.train.batch_norm import synchronise
from nas_core.train.retrain import Retraining
from nas_core.train.steps import evaluate
from tests.unit.nas_core.networks import tiny_data, tiny_spec


class Precise(Data):
    """Images in double precision."""

    def load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = super().load(indices)
        return images.double(), labels


SIXTY_FOUR = {"batch_size": 64, "retrain_batch_size": 64}
Found = Callable[[], dict[str, Any]]


def found(steps: int | None, precise: bool, images: int = 150, **settings: Any) -> dict[str, Any]:
    """What a search holds after some steps, or at its end."""
    data = tiny_data(count=images)
    search = Search(tiny_spec(settings=settings), Precise(**vars(data)) if precise else data, "cpu")
    if precise:
        search.supernet.double()
        search._optimizers()
    while not search.done and (steps is None or search.step < steps):
        search.advance()
    return {
        "λ": torch.cat([parameter.detach().flatten() for parameter in search.supernet.scaling_factors()]),
        "W": torch.cat([parameter.detach().flatten() for parameter in search.supernet.weights()]),
        "statistics": torch.cat(
            [buffer.flatten().double() for buffer in search.supernet.buffers() if buffer.is_floating_point()]
        ),
        "networks": [
            (a.widths, [[edge[:2] for edge in block.edges] for block in a.blocks])
            for a in search.architectures.values()
        ],
    }


def retrained() -> dict[str, Any]:
    """What retraining holds after two steps, with all that it may have besides: with the batch at once, and in parts,
    which hold other images where there are other workers, so that BN must not look at them.
    """
    besides: dict[str, Any] = {"drop_path": 0.3, "dropout": 0.2, "auxiliary_weight": 0.4, "label_smoothing": 0.1}
    held: dict[str, Any] = {}
    for parts in (1, 3):
        besides |= {"ema_share": 0.2, "retrain_accumulation": parts, "balance": "none" if parts == 1 else "loss"}
        spec = tiny_spec(settings=SIXTY_FOUR | besides)
        training = Retraining(spec, spec.space.complete(), tiny_data(count=600), "cpu")
        training.trainee.train(parts == 1)
        losses: list[float] = []
        for _ in range(2):
            training.advance()
            losses += training.losses.read()
        held[f"loss {parts}"] = torch.tensor(losses)
        for name, weights in (("W", training.weights), ("average", training.delivered.parameters())):
            held[f"{name} {parts}"] = torch.cat([weight.detach().flatten() for weight in weights])
    return held


def looked() -> dict[str, Any]:
    """BN's running mean, after the first worker has seen an image of 0, the second two of 1, the third three of 2."""
    rank, _ = world()
    norm = batch_norm(1)
    norm.running_mean.fill_(rank)
    average_buffers(norm, images=rank + 1)
    return {"mean": norm.running_mean}


def normalised() -> dict[str, Any]:
    """What BN makes of values far from zero, its gradients and its statistics: of 7 images, by shares of 2, 2 and 3."""
    random = torch.Generator().manual_seed(0)
    images, wanted = (torch.randn(7, 3, 4, 4, generator=random) for _ in range(2))
    norm = nn.Sequential(batch_norm(3))
    norm[0].weight.data.copy_(torch.tensor([0.5, 1.0, 2.0]))
    synchronise(norm, EngineOptions())
    own = (images + 1000)[share(7)].requires_grad_()
    given = norm(own)
    (given * wanted[share(7)]).sum().backward()
    parts = each((given.detach(), own.grad, norm[0].weight.grad, norm[0].bias.grad))
    given, of_images, of_scale, of_shift = zip(*parts, strict=True)
    return {
        "output": torch.cat(given),
        "images": torch.cat(of_images),
        "scale": sum(of_scale),
        "shift": sum(of_shift),
        "mean": norm[0].running_mean,
        "variance": norm[0].running_var,
        "batches": norm[0].num_batches_tracked,
    }


def judged() -> dict[str, Any]:
    """What a network answers for 149 images."""
    spec = tiny_spec()
    training = Retraining(spec, spec.space.complete(), tiny_data(), "cpu")
    return evaluate(training.network, training.data, torch.arange(1, 150)).to_dict()


def exchanged(synchronised: bool, least: int) -> dict[str, Any]:
    """The messages of a step of W and of one of λ, and whether workers then hold the same W.

    `least` are the bytes that a message of gradients holds.
    """
    search = Search(replace(tiny_spec(), engine=EngineOptions(synchronised)), tiny_data(), "cpu")
    sent, all_reduce = [], dist.all_reduce

    def counting(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent.append(tensor.numel())
        return all_reduce(tensor, *args, **options)

    steps = []
    with patch.object(dist, "all_reduce", counting), patch.object(gradients, "LEAST_BYTES", least):
        for step in (search._weight_step, partial(search._scaling_step, 1)):
            step()
            steps.append(len(sent))
            sent.clear()
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in search.supernet.modules())
    weights = torch.cat([weight.detach().flatten() for weight in search.weights])
    same = all(torch.equal(weights, other) for other in each(weights))
    return {"steps": steps, "norms": norms, "W": weights, "same": same}


def raced(cut: int | None = None, diverging: int | None = None) -> dict[str, Any]:
    """What finals of two budgets tell and hold at their end; `cut` after so many steps, they go on from their state.

    The contender `diverging` has a loss that is not finite in its third step.
    """
    spec = tiny_spec(settings={"retrain_epochs": 4, "retrain_start": "scratch", "drop_path": 0.2, "ema_share": 0.2})
    _, complete = spec.space.feasible_budgets()
    spec = replace(spec, budgets=(complete // 2, complete), finals=FinalsOptions(baselines=("resnet", "mobilenetv1")))
    data = tiny_data()

    def race(contenders: Sequence[Contender]) -> Race:
        return Race(spec, contenders, data, "cpu", lambda budget: None, 0, lambda network: True)

    names = [(budget, origin) for budget in spec.budgets for origin in ("random", "resnet", "mobilenetv1")]
    found = race(
        [
            Contender(trial, budget, "search" if origin == "random" else origin, baseline(origin, spec, budget, 0))
            for trial, (budget, origin) in enumerate(names)
        ]
    )
    real, lines, weights = Retraining.advance, list[dict[str, Any]](), dict[int, dict[str, Tensor]]()
    steps, alone = 0, {one.trial for one in found.contenders}

    def advance(self: Retraining) -> list[dict[str, Any]]:
        if self.step == 2 and diverging is not None and self.architecture == found.contenders[diverging].architecture:
            raise Diverged("retrain", 2, float("nan"))
        return real(self)

    with patch.object(Retraining, "advance", advance):
        while not found.done:
            steps += 1
            if not found.apart and world()[1] > 1:
                alone -= {one.trial for one in found.contenders if one.outcome is None}
            lines += [{key: value for key, value in line.items() if key != "seconds"} for line in found.advance()]
            if steps == cut:
                kept = BytesIO()
                torch.save(found.state_dict(), kept)
                kept.seek(0)
                found = race([])
                found.load_state_dict(torch.load(kept, weights_only=True))
            if lines and lines[-1]["kind"] == "retrained":
                assert found.delivered is not None
                weights[found.delivered.contender.trial] = found.delivered.weights
    assert each(lines) == [lines] * world()[1], "the workers tell the same"
    trials = {one["trial"]: one for one in found.trials()}
    return {"lines": lines, "weights": weights, "trials": trials, "steps": steps, "alone": alone}


def worker(rank: int, folder: Path, workers: int, find: Found) -> None:
    """One of the workers; the first leaves what it found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    result = find()
    if rank == 0:
        torch.save(result, folder / "found")
    # Neither leaves while another still listens to it.
    dist.barrier()
    dist.destroy_process_group()


def together(folder: Path, workers: int, find: Found) -> Any:
    """What several workers hold."""
    # They are forked off a process that has loaded torch, once for all of them.
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "nas_core"])
    start_processes(worker, (folder, workers, find), nprocs=workers, start_method="forkserver")
    return torch.load(folder / "found", weights_only=False)


TWO: dict[str, Found] = {
    "steps": partial(found, 2, False, 150),
    "alone in BN": partial(exchanged, False, 2**20),
}
THREE: dict[str, Found] = {
    "steps": partial(found, 2, False, 600, **SIXTY_FOUR),
    "one message": partial(exchanged, True, 2**20),
    "four messages": partial(exchanged, True, 1),
    "retrained": retrained,
    "normalised": normalised,
    "looked": looked,
    "judged": judged,
    "a whole search": partial(found, None, True),
}
"""What two and three workers look for, one thing after the other: to start them takes longer than most of it."""


def all_of(finds: dict[str, Found]) -> dict[str, Any]:
    return {name: find() for name, find in finds.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = together(tmp_path_factory.mktemp("two"), 2, partial(all_of, TWO))
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = together(tmp_path_factory.mktemp("three"), 3, partial(all_of, THREE))
    return found


def check_steps(shared: dict[str, Any], alone: dict[str, Any]) -> None:
    """Single precision: the first steps agree to rounding, BN's statistics too. Later rounding grows, as it must."""
    for name in ("λ", "W", "statistics"):
        torch.testing.assert_close(shared[name], alone[name], atol=1e-4, rtol=1e-4)


def test_two_workers_take_the_steps_of_one(two: dict[str, Any]) -> None:
    check_steps(two["steps"], TWO["steps"]())


def test_three_workers_take_the_steps_of_one(three: dict[str, Any]) -> None:
    check_steps(three["steps"], THREE["steps"]())


@pytest.mark.parametrize(("name", "messages"), [("one message", 1), ("four messages", 4)])
def test_gradients_take_few_messages_and_bn_one_each_way(three: dict[str, Any], name: str, messages: int) -> None:
    alone, shared = THREE[name](), three[name]
    of_weights, of_scaling = shared["steps"]
    assert alone["steps"] == [0, 0] and of_weights == 2 * shared["norms"] + messages
    # Below the first λ nothing is differentiated for them.
    assert shared["norms"] < of_scaling < 2 * shared["norms"] + 1
    torch.testing.assert_close(shared["W"], alone["W"], atol=1e-5, rtol=1e-5)
    assert shared["same"]


def test_bn_that_is_not_synchronised_takes_no_message(two: dict[str, Any]) -> None:
    alone, shared = TWO["alone in BN"](), two["alone in BN"]
    assert shared["steps"] == [1, 1] and shared["same"]
    assert not torch.allclose(shared["W"], alone["W"], atol=1e-5, rtol=1e-5)


def test_three_workers_take_the_steps_of_one_in_retraining(three: dict[str, Any]) -> None:
    for name, value in retrained().items():
        torch.testing.assert_close(three["retrained"][name], value, atol=5e-4, rtol=1e-4)


def test_three_workers_normalise_values_far_from_zero_as_one_does(three: dict[str, Any]) -> None:
    for name, value in normalised().items():
        torch.testing.assert_close(three["normalised"][name], value, atol=2e-3, rtol=1e-4)


def test_running_statistics_count_for_the_images_that_they_come_from(three: dict[str, Any]) -> None:
    torch.testing.assert_close(three["looked"]["mean"], torch.tensor([8 / 6]))


def test_three_workers_find_the_confusion_matrix_of_one(three: dict[str, Any]) -> None:
    alone = judged()
    assert three["judged"] == alone and sum(count for *_, count in alone["counts"]) == 149


def test_three_workers_find_the_architectures_of_one(three: dict[str, Any]) -> None:
    """Double precision, where rounding has no time to grow: the whole search agrees."""
    alone, shared = THREE["a whole search"](), three["a whole search"]
    assert shared["networks"] == alone["networks"] and len(alone["networks"]) == 2
    torch.testing.assert_close(shared["λ"], alone["λ"], atol=1e-6, rtol=1e-6)


def told_of(result: dict[str, Any], trial: int) -> list[dict[str, Any]]:
    """The lines of a contender."""
    return [line for line in result["lines"] if line.get("trial") == trial]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one worker finds in finals of two budgets, in a process like those of several."""
    found: dict[str, Any] = together(tmp_path_factory.mktemp("one"), 1, raced)
    return found


def assert_alike(shared: dict[str, Any], one_by_one: dict[str, Any]) -> None:
    """Networks that one worker trained alone are those of one worker to the bit, with all that is told of them.

    The last ones share their batches where there are fewer than workers, so that rounding differs.
    """
    assert len(shared["alone"]) >= 4 and shared["steps"] < 0.7 * one_by_one["steps"]
    for trial in shared["alone"]:
        assert shared["trials"][trial] == one_by_one["trials"][trial]
        ours, theirs = (
            sorted(str(line) for line in found["lines"] if line.get("trial") == trial) for found in (shared, one_by_one)
        )
        assert ours == theirs
        assert (trial in shared["weights"]) == (trial in one_by_one["weights"])
        for name, value in one_by_one["weights"].get(trial, {}).items():
            assert torch.equal(shared["weights"][trial][name], value)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.proof)])
def test_workers_that_train_networks_of_their_own_find_what_one_finds(
    tmp_path: Path, one_by_one: dict[str, Any], workers: int
) -> None:
    assert_alike(together(tmp_path, workers, raced), one_by_one)


@pytest.mark.proof
@pytest.mark.parametrize("cut", [1, 7])
def test_networks_apart_go_on_from_a_state_of_any_step(tmp_path: Path, one_by_one: dict[str, Any], cut: int) -> None:
    assert_alike(together(tmp_path, 2, partial(raced, cut)), one_by_one)


@pytest.mark.proof
def test_a_network_that_diverges_on_its_worker_is_left_out_by_all(tmp_path: Path) -> None:
    alone, shared = raced(None, 1), together(tmp_path, 2, partial(raced, None, 1))
    assert shared["trials"][1] == alone["trials"][1] and alone["trials"][1]["outcome"] == "dropped"
    assert shared["trials"].keys() == alone["trials"].keys()
