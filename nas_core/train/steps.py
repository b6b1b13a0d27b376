"""What pretraining, search and retraining have in common."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nas_core import parallel
from nas_core.data.loading import Data
from nas_core.errors import Diverged
from nas_core.supernet.layers import BN_MOMENTUM
from nas_core.train.evaluation import MOST_MISTAKES, Evaluation, Mistake, names_of
from nas_core.train.gradients import summed

CALIBRATION_BATCHES = 8
MOST_UNREAD = 50
"""Losses are read after so many steps at the latest, so that a search that has diverged does not go on for an epoch."""


def weight_optimizer(
    weights: Iterable[nn.Parameter],
    lr: float,
    momentum: float,
    weight_decay: float,
    undecayed: Iterable[nn.Parameter] = (),
) -> torch.optim.SGD:
    """Nesterov's SGD with coupled weight decay, as the published code trains W; those of `weights` that are
    `undecayed`, there the scales of BN (`bn_scales`), are a parameter group without it.
    """
    together, apart = list(weights), {id(parameter) for parameter in undecayed}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in together if id(parameter) not in apart]},
        {"params": [parameter for parameter in together if id(parameter) in apart], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=True
    )


def bn_scales(module: nn.Module) -> list[nn.Parameter]:
    """The scales that the BN layers of `module` learn."""
    norms = (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    return [norm.weight for norm in norms if norm.weight.requires_grad]


def vectors(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of `module` with one dimension: scales and shifts of BN, and biases."""
    return [parameter for parameter in module.parameters() if parameter.ndim == 1]


class Losses:
    """The losses of an epoch so far, which stay on the device until they are read: to read is to wait for it."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values = list(values)
        self._unread: list[tuple[str, int, Tensor]] = []

    def add(self, phase: str, step: int, loss: Tensor) -> None:
        """Take in the loss () of a step. Raises as `read`, once in `MOST_UNREAD` steps."""
        self._unread.append((phase, step, loss))
        if len(self._unread) >= MOST_UNREAD:
            self.read()

    def read(self) -> list[float]:
        """Read them. Raises `Diverged`, with its phase and step, for the first that is NaN or infinite."""
        if self._unread:
            read = torch.stack([loss for _, _, loss in self._unread]).tolist()
            for (phase, step, _), value in zip(self._unread, read, strict=True):
                if not math.isfinite(value):
                    raise Diverged(phase, step, value)
            self.values += read
            self._unread = []
        return self.values

    def mean(self) -> float:
        """Their mean. Raises as `read`."""
        self.read()
        return sum(self.values) / len(self.values)


def backward(loss: Tensor, size: int, wanted: list[nn.Parameter], add: bool = False) -> Tensor:
    """Put the gradients of the mean loss over a batch of `size` images into `wanted`, or `add` them to what is there;
    returns that loss.

    `loss` () is the mean over this worker's share, and counts for as many images as that has: weighted before it is
    differentiated, since BN's statistics carry gradients from every share to the others. What is returned is the same
    on all workers, and on the device.
    """
    weight = parallel.weight(size)
    mean = loss.detach() * weight
    before = [parameter.grad if add else None for parameter in wanted]
    for parameter in wanted:
        parameter.grad = None
    with summed(wanted, mean):
        torch.autograd.backward(loss * weight, inputs=wanted)
    for parameter, gradient in zip(wanted, before, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
    return mean


@torch.no_grad()
def calibrate(module: nn.Module, data: Data, indices: Tensor, batch_size: int) -> None:
    """Estimate BN's running statistics anew from a few batches of `indices`.

    While λ shrinks, and after parts are removed, running statistics lag behind the network; judged by them a good
    network looks broken. The result is the plain mean over a worker's batches, and over the workers by the images of
    each.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    training = module.training
    module.train()
    chosen = indices[:: max(1, len(indices) // (CALIBRATION_BATCHES * batch_size))]
    shares = data.shares(chosen, batch_size)[:CALIBRATION_BATCHES]
    for number, (images, _) in enumerate(data.each(shares)):
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        module(images)
    for norm in norms:
        norm.momentum = BN_MOMENTUM
    parallel.average_buffers(module, sum(map(len, shares)))
    module.train(training)


@torch.no_grad()
def evaluate(module: nn.Module, data: Data, indices: Tensor) -> Evaluation:
    """What `module` answers for the images at `indices`, over all workers, and the same on each."""
    training = module.training
    module.eval()
    # Of every image the answer, whether its class is among the first five, and the confidence in ten-thousandths;
    # each worker fills its share in.
    found = torch.zeros(3, len(indices), dtype=torch.long, device=data.device)
    start, workers = parallel.world()
    for images, wanted in data.each(data.shares(indices)):
        logits = module(images).float()
        first = logits.topk(min(5, logits.shape[1])).indices
        own = slice(start, start + workers * len(wanted), workers)
        found[0, own], found[1, own] = logits.argmax(1), (first == wanted[:, None]).any(1).long()
        found[2, own] = (logits.softmax(1).amax(1) * 10_000).round().long()
        start += workers * len(wanted)
    parallel.sum_([found])
    module.train(training)
    labels, names = data.labels[indices].tolist(), names_of(data.classes, data.class_names)
    predicted, top5, confidence = found.cpu()
    mistakes = _mistakes(data, indices, predicted, confidence)
    return Evaluation.of(labels, predicted.tolist(), names, int(top5.sum()), mistakes)


def _mistakes(data: Data, indices: Tensor, predicted: Tensor, confidence: Tensor) -> list[Mistake]:
    """The wrongly classified images of `indices` with the highest `confidence` (in ten-thousandths; of equal ones those
    that come first)."""
    wrong = (predicted != data.labels[indices].cpu()).nonzero().flatten()
    chosen = wrong[confidence[wrong].argsort(descending=True, stable=True)[:MOST_MISTAKES]]
    answers = zip(predicted[chosen].tolist(), confidence[chosen].tolist(), indices[chosen].tolist(), strict=True)
    return [
        Mistake(int(data.labels[image]), answer, share / 10_000, image, data.file(image))
        for answer, share, image in answers
    ]
