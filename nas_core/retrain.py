"""Training an architecture from scratch: what is reported of a search is what this reaches."""

import math
import time
from typing import Any

import torch

from nas_core import parallel
from nas_core.architecture import Architecture
from nas_core.data import Augment, Data, generator, steps_per_epoch
from nas_core.network import Network
from nas_core.spec import SearchSpec
from nas_core.training import backward, evaluate, weight_optimizer, wilson


class Retraining:
    """Trains the network of `architecture` on all training data of `data`, λ discarded (paper, section 3.2).

    Advanced one step at a time and resumable between any two, like `Search`. The learning rate falls from
    `settings.retrain_lr` to zero along a cosine.
    """

    def __init__(self, spec: SearchSpec, architecture: Architecture, data: Data, device: torch.device | str) -> None:
        self.settings, self.seed, self.data = spec.settings, spec.seed, data
        self.architecture, self.device = architecture, torch.device(device)
        self.purpose = f"retrain {architecture.multiply_adds}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(spec.seed, self.purpose).initial_seed())
            self.network = Network(architecture)
        self.network.to(self.device)
        self.weights = list(self.network.parameters())
        self.optimizer = weight_optimizer(
            self.weights, self.settings.retrain_lr, self.settings.momentum, self.settings.retrain_weight_decay
        )
        self.augment = Augment.of(self.settings, retraining=True)
        self.step = 0
        self.losses: list[float] = []
        self.started = time.monotonic()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training data."""
        return steps_per_epoch(len(self.data.training), self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Steps in the whole retraining."""
        return self.steps_per_epoch * self.settings.retrain_epochs

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.steps

    def advance(self) -> list[dict[str, Any]]:
        """Take one step; returns the journal lines it gives rise to."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.retrain_lr * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        images, labels = self.data.batch(
            self.data.training, self.step, self.settings.batch_size, self.seed, self.purpose, self.augment
        )
        loss = backward(self.network, images, labels, self.weights, self.settings.label_smoothing)
        self.optimizer.step()
        self.losses.append(loss.item())
        self.step += 1
        if self.step % self.steps_per_epoch:
            return []
        parallel.average_buffers(self.network)
        right, _ = evaluate(self.network, self.data, self.data.parts["validation"])
        mean = torch.tensor([sum(self.losses) / len(self.losses)], device=self.device)
        parallel.average_([mean])
        self.losses = []
        now = time.monotonic()
        seconds, self.started = now - self.started, now
        return [
            {
                "kind": "epoch",
                "phase": "retrain",
                "epoch": self.step // self.steps_per_epoch,
                "epochs": self.settings.retrain_epochs,
                "loss": mean.item(),
                "accuracy": right / len(self.data.parts["validation"]),
                "seconds": seconds,
            }
        ]

    def test(self) -> dict[str, Any]:
        """Accuracy on the test part with its 95 % interval, as the keys of a `retrained` journal line."""
        indices = self.data.parts["test"]
        right, _ = evaluate(self.network, self.data, indices)
        low, high = wilson(right, len(indices))
        return {
            "accuracy": right / len(indices),
            "accuracy_low": low,
            "accuracy_high": high,
            "test_images": len(indices),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the retraining that `state_dict` described."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], list(state["losses"])
