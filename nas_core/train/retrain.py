"""Training the network of an architecture: what is reported of a search is what this reaches."""

import math
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nas_core import parallel
from nas_core.data.augmentation import Augment
from nas_core.data.loading import Data, steps_per_epoch
from nas_core.seeds import generator
from nas_core.space import Architecture, Reference
from nas_core.spec import CHOOSE_BY, SearchSpec, Settings
from nas_core.supernet.layers import auxiliary_head
from nas_core.supernet.network import Network, NetworkBlock
from nas_core.supernet.passes import pass_through
from nas_core.supernet.quick import quicken
from nas_core.supernet.references import ReferenceNetwork, ReferencePart, build
from nas_core.train.engine import Engine
from nas_core.train.evaluation import Evaluation
from nas_core.train.footprint import batch_named, kept_per_image
from nas_core.train.steps import Losses, backward, bn_scales, calibrate, evaluate, vectors, weight_optimizer

WARMUP_START = 0.2
"""The share of the learning rate that warm-up starts from: 0.1 of 0.5 in the published code."""
SHORTEST_CYCLE = 10
"""Epochs of the first cosine cycle in the published code, of which each next one is twice as long."""
RESTARTS_END = 1e-4
"""The learning rate at the end of each of these cycles."""


def learning_rate(settings: Settings, epoch: float) -> float:
    """The learning rate of retraining after `epoch` epochs, whole or not.

    It rises in a straight line from a fifth of `retrain_lr` to all of it while warm-up lasts. In the epochs that are
    left it falls to zero along half a cosine ("cosine") or a straight line ("linear"), or it falls to 1e-4 along
    cosines of which each lasts twice as long as the one before ("cosine_restarts"; Loshchilov and Hutter, arXiv
    1608.03983). There are as many of these as fit when the first lasts 10 epochs or more, and they end with the
    training: 630 epochs are 10 + 20 + … + 320.
    """
    top, warmup = settings.retrain_lr, settings.retrain_warmup_epochs
    if epoch < warmup:
        return top * (WARMUP_START + (1 - WARMUP_START) * epoch / warmup)
    done, length, bottom = epoch - warmup, float(settings.retrain_epochs - warmup), 0.0
    if settings.retrain_schedule == "linear":
        return top * (1 - done / length)
    if settings.retrain_schedule == "cosine_restarts":
        bottom = min(RESTARTS_END, top)
        cycles = max(1, math.floor(math.log2(length / SHORTEST_CYCLE + 1)))
        length /= 2**cycles - 1
        while done >= length:
            done, length = done - length, length * 2
    return bottom + (top - bottom) * (1 + math.cos(math.pi * done / length)) / 2


def keep_factors(drop: Tensor, images: int, random: torch.Generator) -> Tensor:
    """What to multiply by so that things are dropped at random and their mean stays: (n,) → (n, images).

    Each is 0 with its probability `drop`, and otherwise 1 / (1 − drop).
    """
    kept = torch.rand(len(drop), images, generator=random) >= drop[:, None]
    return kept / (1 - drop[:, None])


def moving_average(network: nn.Module, steps: float) -> AveragedModel:
    """The exponential moving average of weights and BN's statistics of `network` over about so many `steps`.

    It begins at the first step that it is told of, and each later one makes 1 / `steps` of it, all below one step.
    """
    decay = 1 - 1 / max(1.0, steps)
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """What images of each class are to count (classes,), so that classes count alike and the mean over `labels` is 1.

    A class without an image gets what one with a single image would.
    """
    return len(labels) / (classes * labels.bincount(minlength=classes).clamp(min=1).float())


def untaken(genotype: Architecture | Reference, settings: Settings) -> list[str]:
    """What of a recipe finds nothing to act on in a network, in words."""
    if settings.drop_path and isinstance(genotype, Reference) and not genotype.has_shortcuts:
        return ["drop path, since it has no shortcuts"]
    return []


class Trainee(nn.Module):
    """`network` with what only its training has: drop path, dropout, and an auxiliary head.

    Drop path cuts, image by image, inputs of operations that read others too, and connections to a block's output; of
    a reference network what blocks add to their shortcuts. Its probability grows in a straight line with a block's
    depth, up to `settings.drop_path` in the last, and with the progress of the training. The auxiliary head reads what
    the last reduction gives out, or the first block of a reference network's last stage with a stride. Evaluation is
    `network`'s own affair, and it is what is saved.
    """

    def __init__(self, network: Network | ReferenceNetwork, settings: Settings) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        quicken(network)
        genotype = network.architecture
        self.tapped = genotype.tapped
        entered = {part.name: after for part, after in pairwise(genotype.parts())}
        self.auxiliary: nn.Module | None = None
        if settings.auxiliary_weight and self.tapped is not None:
            after = entered[self.tapped]
            self.auxiliary = auxiliary_head(after.channels, after.size, genotype.outputs)
        blocks = [part for part in network.body if isinstance(part, (NetworkBlock, ReferencePart))]
        self.depth = torch.tensor(
            [(index + 1) / len(blocks) for index, block in enumerate(blocks) for _ in range(block.droppable)]
        )
        """The depth of the block of each droppable connection, above 0 and up to 1."""

    def forward(
        self, images: Tensor, random: torch.Generator, size: int, share: slice, progress: float
    ) -> tuple[Tensor, Tensor | None]:
        """Class logits (B, classes) of the network and, where there is one, of the auxiliary head.

        `images` (B, C, H, W) are the `share` of a batch of `size`, for all of which `random` draws what is dropped;
        `progress` (0 … 1) is that of the training.
        """
        settings, head = self.settings, self.network.head
        factors: Tensor | None = None
        if settings.drop_path:
            factors = keep_factors(settings.drop_path * progress * self.depth, size, random)[:, share].to(images)
        x, start = self.network.stem(images).contiguous(memory_format=torch.channels_last), 0
        logits: Tensor | None = None
        for name, part in self.network.body.named_children():
            if isinstance(part, (NetworkBlock, ReferencePart)):
                x = pass_through(part, x, None if factors is None else factors[start : start + part.droppable])
                start += part.droppable
            else:
                x = part(x)
            if self.auxiliary is not None and name == self.tapped:
                logits = self.auxiliary(x)
        features = head.features(x)
        if settings.dropout:
            drop = torch.full((features.shape[1],), settings.dropout)
            features = features * keep_factors(drop, size, random)[:, share].T.to(features)
        return head.classifier(features), logits


def trainee_per_image(architecture: Architecture | Reference, settings: Settings, engine: Engine) -> int:
    """The bytes that a step of training a network keeps for each image."""
    random = generator("memory")

    def passes(trainee: Trainee, images: Tensor) -> object:
        return trainee(images, random, len(images), slice(0, len(images)), 1.0)

    def make() -> Trainee:
        return Trainee(build(architecture), settings)

    return kept_per_image(make, passes, architecture.input_shape, engine)


class Retraining:
    """Trains the network of `architecture` on all training data of `data`, λ discarded (paper, section 3.2): from
    scratch, or from the state `start` of its network.

    Advanced one step at a time and resumable between any two, like `Search`: what a step drops is drawn anew from
    the seed and the step, for the whole batch, of which each worker takes its share.
    """

    def __init__(
        self,
        spec: SearchSpec,
        architecture: Architecture | Reference,
        data: Data,
        device: torch.device | str,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings, self.seed, self.data = spec.settings, spec.seed, data
        self.architecture, self.device = architecture, torch.device(device)
        self.purpose = f"retrain {architecture.multiply_adds}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(spec.seed, self.purpose).initial_seed())
            self.network = build(architecture)
            self.trainee = Trainee(self.network, self.settings)
        self.trainee.to(self.device)
        length = self.settings.ema_share * self.steps
        self.average = moving_average(self.network, length) if length else None
        self.engine = Engine(spec.engine, self.device)
        self.engine.prepare(self.trainee)
        self.start = "scratch" if start is None else "supernet"
        """What the training began with, by its name among `STARTS`."""
        if start is not None:
            self.network.load_state_dict(start)
            calibrate(self.network, data, data.training, self.batch_size)
        self.weights = list(self.trainee.parameters())
        self.optimizer = weight_optimizer(
            self.weights,
            self.settings.retrain_lr,
            self.settings.momentum,
            self.settings.retrain_weight_decay,
            (bn_scales if self.settings.decay_biases else vectors)(self.trainee),
        )
        self.augment = Augment.of(self.settings, retraining=True)
        labels, balance = data.labels[data.training].cpu(), self.settings.balance
        weights = class_weights(labels, data.classes)
        self.class_weights = weights.to(self.device) if balance == "loss" else None
        self.chances = weights[labels] if balance == "sampling" else None
        self.step = 0
        self.validated: dict[str, float] = {}
        """What is delivered has reached on the validation part, by the names of `CHOOSE_BY`; empty in the first epoch.
        """
        self.best: dict[str, Any] | None = None
        """With patience the best `epoch` so far, what it `reached`, and its `weights`."""
        self.losses = Losses()
        self.started = time.monotonic()
        """When the running epoch began, as if nothing had interrupted it."""

    @property
    def batch_size(self) -> int:
        """Images of one step over all workers."""
        return min(self.settings.retrain_batch_size, len(self.data.training))

    @property
    def parts(self) -> int:
        """In how many parts a step's batch passes: fewer than were asked for where there are too few images for the
        batch, so that each worker has two or more in every one."""
        return max(1, self.batch_size * self.settings.retrain_accumulation // self.settings.retrain_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training data."""
        return steps_per_epoch(len(self.data.training), self.batch_size)

    @property
    def steps(self) -> int:
        """Steps in the whole retraining."""
        return self.steps_per_epoch * self.settings.retrain_epochs

    @property
    def epochs(self) -> int:
        """How many epochs are behind."""
        return self.step // self.steps_per_epoch

    @property
    def compute(self) -> int:
        """The multiply-adds of all forward passes behind."""
        return self.architecture.multiply_adds * self.batch_size * self.step

    @property
    def done(self) -> bool:
        """Whether no step is left, or the patience is at its end."""
        waited = self.epochs - self.best["epoch"] if self.best else 0
        return self.step >= self.steps or 0 < self.settings.retrain_patience <= waited

    @property
    def delivered(self) -> nn.Module:
        """The network that is judged, and at the end delivered: the average of the weights where there is one."""
        return self.network if self.average is None else self.average.module

    def advance(self) -> list[dict[str, Any]]:
        """Take one step; returns the journal lines it gives rise to.

        The loss that they tell is what is trained on, the auxiliary head's share included. Raises `Diverged` where
        it is NaN or infinite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step / self.steps_per_epoch)
        images, labels = self.data.batch(
            self.data.training, self.step, self.batch_size, self.seed, self.purpose, self.augment, self.chances
        )
        field = "retrain_batch_size" if self.parts == 1 else "retrain_batch_size / retrain_accumulation"
        with batch_named(field, self.batch_size // self.parts, self._per_image):
            loss = self._gradients(images, labels)
        self.losses.add("retrain", self.step, loss)
        if self.settings.retrain_clip:
            nn.utils.clip_grad_norm_(self.weights, self.settings.retrain_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step += 1
        if self.step % self.steps_per_epoch:
            return []
        validation = evaluate(self.delivered, self.data, self.data.parts["validation"])
        self._judge({name: getattr(validation, name) for name in CHOOSE_BY})
        mean = self.losses.mean()
        self.losses = Losses()
        now = time.monotonic()
        seconds, self.started = now - self.started, now
        return [
            {
                "kind": "epoch",
                "phase": "retrain",
                "epoch": self.epochs,
                "epochs": self.settings.retrain_epochs,
                "loss": mean,
                "accuracy": validation.accuracy,
                "balanced_accuracy": validation.balanced_accuracy,
                "seconds": seconds,
            }
        ]

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradients of a step, whose batch passes in parts; returns its loss ()."""
        start, losses = parallel.share(self.batch_size).start, list[Tensor]()
        for some, told in zip(images.tensor_split(self.parts), labels.tensor_split(self.parts), strict=True):
            loss = self._loss(some, told, slice(start, start + len(some))) * (len(some) / len(images))
            losses.append(backward(loss, self.batch_size, self.weights, add=bool(losses)))
            start += len(some)
        return torch.stack(losses).sum()

    def _loss(self, images: Tensor, labels: Tensor, share: slice) -> Tensor:
        """The loss of the `share` of a batch that `images` are, with the auxiliary head's part in it."""
        random = generator(self.seed, self.purpose, "drop", self.step)
        with self.engine.arithmetic():
            logits, auxiliary = self.trainee(images, random, self.batch_size, share, self.step / self.steps)
        loss = self._entropy(logits, labels)
        if auxiliary is not None:
            loss = loss + self.settings.auxiliary_weight * self._entropy(auxiliary, labels)
        return loss

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean smoothed cross-entropy () of `logits` (B, classes), weighted by class where that is asked for."""
        smoothing, weight = self.settings.label_smoothing, self.class_weights
        if weight is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        # torch's own mean would divide by the weights of this very batch.
        summed = F.cross_entropy(logits.float(), labels, weight, reduction="sum", label_smoothing=smoothing)
        return summed / len(labels)

    def _judge(self, reached: dict[str, float]) -> None:
        """Take in what an epoch has `reached`; with patience, keep the best and, at the end, return to it."""
        self.validated = reached
        if not self.settings.retrain_patience:
            return
        chosen = self.settings.choose_by
        if self.best is None or reached[chosen] > self.best["reached"][chosen]:
            weights = {name: tensor.detach().clone() for name, tensor in self.delivered.state_dict().items()}
            self.best = {"epoch": self.epochs, "reached": reached, "weights": weights}
        self.validated = self.best["reached"]
        if self.done:
            self.delivered.load_state_dict(self.best["weights"])

    def _per_image(self) -> int:
        return trainee_per_image(self.architecture, self.settings, self.engine)

    def test(self) -> Evaluation:
        """What the network that is delivered answers for the test part."""
        return evaluate(self.delivered, self.data, self.data.parts["test"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "start": self.start,
            "trainee": self.trainee.state_dict(),
            "average": self.average and self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "losses": list(self.losses.read()),
            "epoch_seconds": time.monotonic() - self.started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the retraining that `state_dict` described."""
        self.trainee.load_state_dict(state["trainee"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = state.get("best")
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], Losses(state["losses"])
        self.start = state.get("start", "scratch")
        self.started = time.monotonic() - state.get("epoch_seconds", 0.0)
