"""The search: pretrain W, then learn W and λ in turn while the cost is pressed down to the budgets.

One object, advanced one optimiser step at a time, whose whole state can be saved between any two steps and loaded
again: what it then returns is what it would have returned, bit for bit on a CPU.
"""

import copy
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_core.data.augmentation import Augment
from nas_core.data.loading import Data, steps_per_epoch
from nas_core.search.fitting import Fitting
from nas_core.search.liveness import Liveness, Pressed, branches_above
from nas_core.search.press import Edges, Press
from nas_core.search.prices import memory_access_weights
from nas_core.search.proximal import ApgNag, soft_threshold
from nas_core.search.schedule import Schedule
from nas_core.search.spending import FLOOR
from nas_core.seeds import generator
from nas_core.space import Architecture, SearchSpace
from nas_core.spec import NO_LIMITS, SearchSpec
from nas_core.supernet.supernet import Replacement, Supernet, follow
from nas_core.train.engine import Engine, apart_from
from nas_core.train.footprint import batch_named, kept_per_image
from nas_core.train.steps import Losses, backward, bn_scales, calibrate, evaluate, weight_optimizer

SNAPSHOT_SHARE = 0.97
"""A picture of the supernet is due when its cost has fallen to this share of the last one's."""

READ_STEPS = 8
"""After so many λ steps the host reads what the device has found meanwhile. To read is to wait for the device."""

REBUILD_SHARE = 0.9
"""The supernet is rebuilt without what is dead when its cost has fallen to this share of what it was built for. Until
then the dead are multiplied by zero: a shape that lives long is compiled, captured and tuned once."""


class Candidate(NamedTuple):
    """What was alive of the supernet when its cost passed a budget, and its state, λ and W, to start from."""

    live: Architecture
    state: dict[str, Tensor]

    def supernet(self) -> Supernet:
        """The supernet as it was then, on the CPU."""
        supernet = Supernet(self.live.space)
        supernet.prune(self.live)
        supernet.load_state_dict(self.state)
        return supernet


def supernet_per_image(space: SearchSpace, engine: Engine) -> int:
    """The bytes that a step of W keeps for each image while all of the supernet lives."""
    return kept_per_image(lambda: Supernet(space), lambda supernet, images: supernet(images), space.input_shape, engine)


class Search:
    """Finds an architecture for each budget of `spec` on `data`.

    `advance` takes one step and returns the journal lines it gives rise to; `architectures` fills by budget, from
    the largest to the smallest, as the cost passes them, and so do the `candidates` that they were made from. λ, what
    of it lives, what that costs and where to press stay on the device: `live` is what the host has read last, at the
    latest `READ_STEPS` λ steps ago.
    """

    def __init__(self, spec: SearchSpec, data: Data, device: torch.device | str) -> None:
        self.spec, self.data, self.settings = spec, data, spec.settings
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(spec.seed, "supernet").initial_seed())
            self.supernet = Supernet(spec.space)
        self.supernet.to(self.device)
        self.engine = Engine(spec.engine, self.device)
        self.engine.prepare(self.supernet)
        self.augment = Augment.of(self.settings, retraining=False)
        self.liveness, self.press = Liveness(spec.space, self.device), Press(spec.space)
        self.fitting = Fitting(spec, self.device)
        self._weigh_edges()
        self.architectures: dict[int, Architecture] = {}
        self.candidates: dict[int, Candidate] = {}
        self.live = self.built = spec.space.complete()
        self._optimizers()
        self.schedule: Schedule | None = None
        self.budgets = torch.tensor(spec.budgets, dtype=torch.double, device=self.device)
        self.passed = torch.zeros_like(self.budgets, dtype=torch.bool)
        """Which budgets the cost has passed, and the λ (budgets, …) of blocks and reductions as they were then."""
        self.passed_with = [
            factor.detach().expand(len(spec.budgets), *factor.shape).clone()
            for factor in self.supernet.scaling_factors()
        ]
        self.step = 0
        self.level = torch.zeros((), dtype=torch.double, device=self.device)
        """The level below which λ fell last."""
        self.snapshot_cost = self.live.multiply_adds
        self.compute: int | None = 0
        """The multiply-adds of all forward passes behind; None where a checkpoint from before they were counted did not
        tell."""
        self.losses, self.scaling_losses = Losses(), Losses()
        self.started = time.monotonic()
        """When the running epoch began, as if nothing had interrupted it."""

    def _on_device(self, values: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor(values, dtype=torch.double, device=self.device)

    def _optimizers(self) -> None:
        settings = self.settings
        self.weights = self.supernet.weights()
        self.weight_step = weight_optimizer(
            self.weights,
            settings.lr,
            settings.momentum,
            settings.weight_decay,
            bn_scales(self.supernet),
        )
        self.scaling_step = ApgNag(
            self.supernet.scaling_factors(), settings.scaling_lr, settings.momentum, settings.gamma, settings.clip
        )

    @property
    def steps_per_epoch(self) -> int:
        """Weight steps in an epoch, of pretraining and of the search alike."""
        return steps_per_epoch(len(self.data.parts["weights"]), self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Weight steps in the whole search."""
        return self.steps_per_epoch * (self.settings.pretrain_epochs + self.settings.search_epochs)

    @property
    def done(self) -> bool:
        """Whether every budget has its architecture and no step is left."""
        return self.step >= self.steps

    @property
    def searching(self) -> bool:
        """Whether pretraining is over."""
        return self.step >= self.steps_per_epoch * self.settings.pretrain_epochs

    def advance(self) -> list[dict[str, Any]]:
        """Take one weight step and, while searching, the λ step that is due after it; returns the journal lines.

        Raises `InvalidValue` where no network, or none with the edges that live, is as fast as the limit wants.
        """
        lines: list[dict[str, Any]] = []
        if self.fitting.wants_table:
            self.fitting.measure_parts()
            self._weigh_edges()
        phase, epochs = (
            ("search", self.settings.search_epochs) if self.searching else ("pretrain", self.settings.pretrain_epochs)
        )
        begin = self.steps_per_epoch * self.settings.pretrain_epochs if self.searching else 0
        if self.step == begin:
            lines.append({"kind": "phase", "phase": phase})
        searching = self.searching
        self._weight_step()
        self.step += 1
        done_here = self.step - begin
        epoch_ended = due = done_here % self.steps_per_epoch == 0
        if searching and (done_here % self.settings.ratio == 0 or self.done):
            number = done_here // self.settings.ratio
            self._scaling_step(number)
            passed = self._press(done_here / (self.steps_per_epoch * epochs))
            due = due or passed or number % READ_STEPS == 0
        if due:
            lines += self._read()
        if epoch_ended:
            lines.append(self._epoch_line(phase, done_here // self.steps_per_epoch, epochs))
        return lines

    def _weigh_edges(self) -> None:
        """Find out how the L1 weight differs between edges for good; by latency, as soon as that is measured."""
        space, penalty, table = self.spec.space, self.settings.penalty, self.fitting.table
        self.edge_factors = torch.ones_like(self.supernet.block_scaling, dtype=torch.double)
        if penalty == "memory":
            self.edge_factors = self._on_device(memory_access_weights(space))
        elif penalty == "latency" and table is not None:
            self.edge_factors = self._on_device(table.penalty_weights(space))

    def _weight_step(self) -> None:
        """One step of W on its own part of the data."""
        settings, parts = self.settings, self.data.parts
        images, labels = self.data.batch(
            parts["weights"], self.step, settings.batch_size, self.spec.seed, "weights", self.augment
        )
        phase = "search" if self.searching else "pretrain"
        size = min(settings.batch_size, len(parts["weights"]))
        self._count(size)
        with apart_from(self.supernet.scaling_factors()), self._batch_named(size):
            loss = backward(self._loss(images, labels), size, self.weights)
        self.losses.add(phase, self.step, loss)
        torch.nn.utils.clip_grad_value_(self.weights, settings.clip)
        self.weight_step.step()

    def _scaling_step(self, number: int) -> None:
        """One step of λ on its own part of the data: APG-NAG under the fixed γ, weighted by the penalty."""
        settings, parts = self.settings, self.data.parts
        images, labels = self.data.batch(
            parts["scaling"], number, settings.batch_size, self.spec.seed, "scaling", self.augment
        )
        size = min(settings.batch_size, len(parts["scaling"]))
        self._count(size)
        with apart_from(self.weights), self._batch_named(size):
            loss = backward(self._loss(images, labels), size, self.supernet.scaling_factors())
        self.scaling_losses.add("search", self.step, loss)
        self._move_scaling_factors()

    def _count(self, images: int) -> None:
        """Count the forward pass of so many images over all workers."""
        if self.compute is not None:
            self.compute += self.live.multiply_adds * images

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy () of what the supernet answers for a worker's share of a batch."""
        with self.engine.arithmetic():
            logits = self.supernet(images)
        return F.cross_entropy(logits.float(), labels)

    def _batch_named(self, size: int) -> AbstractContextManager[None]:
        return batch_named("batch_size", size, lambda: supernet_per_image(self.spec.space, self.engine))

    @torch.no_grad()
    def _move_scaling_factors(self) -> None:
        """APG-NAG along the gradient that λ have: what is dead stays dead, and what lives dies by the schedule alone.

        Where there is none, in the paper's form, it may die here, but no block and no reduction is emptied.
        """
        factors = blocks, reductions = self.supernet.scaling_factors()
        for factor in factors:
            if factor.grad is not None:
                factor.grad.mul_(factor > 0)
        blocks.gamma_scale = self._penalty_weights().float()  # type: ignore[attr-defined]
        if self.settings.form != "paper":
            # A λ that would reach zero waits where it was for the press, which takes the weakest first.
            were = [factor.clone() for factor in factors]
            self.scaling_step.step()
            for factor, was in zip(factors, were, strict=True):
                factor.copy_(torch.where(factor > 0, factor, was))
            return
        paths, before = self.liveness.strongest_paths(blocks)
        stronger = branches_above(reductions, math.inf)
        self.scaling_step.step()
        # The gradient may not empty a block or a reduction: only the budget may, and of a reduction never the rest.
        _, after = self.liveness.strongest_paths(blocks)
        emptied = (after == -math.inf) & (before > -math.inf)
        self._spare(blocks, paths & emptied[:, None])
        reductions.masked_fill_(stronger & ~(reductions > 0).any(1, keepdim=True), FLOOR)

    @staticmethod
    def _spare(factors: Tensor, chosen: Tensor) -> None:
        """Keep the chosen λ above zero."""
        factors.copy_(torch.where(chosen, factors.clamp(min=FLOOR), factors))

    def _penalty_weights(self) -> Tensor:
        """The factor of the L1 weight for every λ of the blocks, (rows, edges)."""
        if self.settings.penalty == "flops":
            return self.liveness.alive_shares(self.supernet.block_scaling)[:, None] * self.edge_factors
        return self.edge_factors

    @torch.no_grad()
    def _press(self, progress: float) -> bool:
        """Bring the cost down to where the schedule wants it at `progress` (0 … 1).

        Returns whether a budget is passed by then for certain.
        """
        if self.schedule is None:
            # In terms of the largest budget, so that the limits are kept when that is reached, and not at one blow.
            complete = float(self.fitting.cost(self.spec.space.complete(), self.spec.budgets[-1]))
            self.schedule = Schedule(complete, self.spec.budgets, gradual=self.settings.form != "paper")
        # Budgets between here and the target are stops on the way, so that each gets an architecture of its own.
        due = self.schedule.due(progress, self.architectures)
        for stop in [*due, self.schedule.target(progress)]:
            self._press_to(stop)
            self._note_passed()
        if progress >= 1:
            self._note_passed(ended=True)
        return bool(due) or progress >= 1

    def _press_to(self, target: float) -> None:
        """The smallest proximal step that brings the cost to `target`; what it zeroes stays so."""
        factors = blocks, reductions = self.supernet.scaling_factors()
        weights = self._penalty_weights()
        solve = self.liveness.press if self.spec.limits == NO_LIMITS else self._solve_within_limits
        favoured, branches = self.liveness.favour(blocks, reductions, weights, self.spec.budgets[0])
        level, alive, spared = solve(favoured, branches, weights, target)
        self.level = torch.where(level > 0, level, self.level)
        alive_branches = branches_above(branches, level)
        if self.settings.form != "cut":
            blocks.copy_(soft_threshold(blocks, (level * weights).float()))
            reductions.copy_(soft_threshold(reductions, level.float()))
        self._spare(blocks, spared)
        reductions.clamp_(min=FLOOR)
        for factor, stays in zip(factors, (alive, alive_branches), strict=True):
            factor.mul_(stays)
            if "velocity" in self.scaling_step.state[factor]:
                self.scaling_step.state[factor]["velocity"].mul_(stays)

    def _solve_within_limits(self, blocks: Tensor, reductions: Tensor, weights: Tensor, target: float) -> Pressed:
        """Where to press so that the limits are kept too, which only a whole architecture tells."""
        reference = min(target, self.spec.budgets[-1])

        def cost_of(alive: Sequence[Edges], pairs: Sequence[Sequence[float]], level: float) -> Any:
            return self.fitting.cost(self.press.architecture(alive, pairs, level), reference)

        level, alive, spared = self.press.solve(blocks.tolist(), reductions.tolist(), weights.tolist(), target, cost_of)

        def mask(rows: Iterable[Iterable[tuple[int, int]]]) -> Tensor:
            return torch.tensor(
                [[edge in own for edge in self.press.edges] for own in map(set, rows)], device=self.device
            )

        return Pressed(torch.tensor(level, dtype=torch.double, device=self.device), mask(alive), mask(spared))

    def _note_passed(self, ended: bool = False) -> None:
        """Keep λ as they are now for every budget that the cost has just passed, and for the smallest to the end.

        What is left when the search has `ended` is for the budgets that are not passed too: narrower, it may keep them.
        """
        factors = blocks, reductions = self.supernet.scaling_factors()
        if self.spec.limits == NO_LIMITS:
            costs = self.liveness.cost(blocks > 0, reductions, torch.zeros_like(self.level))
        else:
            architecture = self.supernet.architecture()
            costs = self._on_device([[self.fitting.cost(architecture, budget) for budget in self.spec.budgets]])[0]
        now = (costs <= self.budgets) | ended
        now[1:] &= ~self.passed[1:]
        self.passed_with = [
            torch.where(now.view(-1, 1, 1), factor, kept)
            for factor, kept in zip(factors, self.passed_with, strict=True)
        ]
        self.passed = self.passed | now

    @torch.no_grad()
    def _read(self) -> list[dict[str, Any]]:
        """Learn what has become of λ, and make of it what is due: architectures, a picture, a smaller supernet.

        Raises `Diverged` where a loss since the last time was not finite.
        """
        self.losses.read()
        self.scaling_losses.read()
        lines: list[dict[str, Any]] = []
        for number, passed in reversed([*enumerate(self.passed.tolist())]):
            budget = self.spec.budgets[number]
            if passed and budget not in self.architectures and (number or self.done):
                candidate = self._candidate(number)
                if self.fitting.keeps(candidate.live, budget):
                    self.candidates[budget] = candidate
                    self.architectures[budget] = self.fitting.fit(candidate.live, budget)
                else:
                    self.architectures[budget] = self.fitting.fit(self.fitting.lightest(budget), budget)
                    message = (
                        f"nothing that the search has left keeps the budget of {budget} and the limits, even with the "
                        "fewest channels: its network is the lightest of the space, which was not searched for"
                    )
                    lines.append({"kind": "warning", "message": message})
                lines.append({"kind": "architecture", "budget": budget})
        self.live = self.supernet.architecture()
        if self.live.multiply_adds <= REBUILD_SHARE * self.built.multiply_adds:
            self._remove(self.live)
        if self.live.multiply_adds <= SNAPSHOT_SHARE * self.snapshot_cost:
            self.snapshot_cost = self.live.multiply_adds
            lines.append(
                {
                    "kind": "snapshot",
                    "multiply_adds": self.live.multiply_adds,
                    "live_edges": self.live.live_edges,
                    "architecture": self.live.to_dict(),
                }
            )
        return lines

    def _candidate(self, number: int) -> Candidate:
        """What was alive when a budget was passed, with λ as they were then and W as they are."""
        supernet = copy.deepcopy(self.supernet)
        for factor, kept in zip(supernet.scaling_factors(), self.passed_with, strict=True):
            factor.copy_(kept[number])
        live = supernet.architecture()
        supernet.prune(live)
        return Candidate(live, {name: tensor.cpu().clone() for name, tensor in supernet.state_dict().items()})

    def _remove(self, architecture: Architecture) -> None:
        replaced: list[Replacement] = self.supernet.prune(architecture)
        follow(self.weight_step, replaced)
        self.built, self.weights = architecture, self.supernet.weights()

    def _epoch_line(self, phase: str, epoch: int, epochs: int) -> dict[str, Any]:
        parts = self.data.parts
        with self.engine.arithmetic():
            calibrate(self.supernet, self.data, parts["weights"], self.settings.batch_size)
            validation = evaluate(self.supernet, self.data, parts["validation"])
        loss = self.losses.mean()  # each is the mean over a whole batch already
        self.losses = Losses()
        now = time.monotonic()
        seconds, self.started = now - self.started, now
        return {
            "kind": "epoch",
            "phase": phase,
            "epoch": epoch,
            "epochs": epochs,
            "loss": loss,
            "accuracy": validation.accuracy,
            "balanced_accuracy": validation.balanced_accuracy,
            "multiply_adds": self.live.multiply_adds,
            "live_edges": self.live.live_edges,
            "l1_weight": self.gamma if phase == "search" else 0.0,
            "seconds": seconds,
        }

    @property
    def gamma(self) -> float:
        """The fixed L1 weight and what, in one step, would have taken what the press took last."""
        return self.settings.gamma + float(self.level) / self.settings.scaling_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on. Raises `Diverged` where a loss is not finite."""
        self.scaling_losses.read()
        return {
            "step": self.step,
            "live": self.live.to_dict(),
            "built": self.built.to_dict(),
            "supernet": self.supernet.state_dict(),
            "weight_step": self.weight_step.state_dict(),
            "scaling_step": self.scaling_step.state_dict(),
            "architectures": {budget: a.to_dict() for budget, a in self.architectures.items()},
            "candidates": {budget: (c.live.to_dict(), c.state) for budget, c in self.candidates.items()},
            "passed": self.passed,
            "passed_with": self.passed_with,
            "level": self.level,
            "compute": self.compute,
            "snapshot_cost": self.snapshot_cost,
            "losses": list(self.losses.read()),
            "epoch_seconds": time.monotonic() - self.started,
        } | self.fitting.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the search that `state_dict` described; it must be one of the same specification."""
        self.live, self.built = (Architecture.from_dict(state[name]) for name in ("live", "built"))
        self.supernet.prune(self.built)
        self.supernet.load_state_dict(state["supernet"])
        self._optimizers()
        self.weight_step.load_state_dict(state["weight_step"])
        self.scaling_step.load_state_dict(state["scaling_step"])
        self.architectures = {b: Architecture.from_dict(a) for b, a in state["architectures"].items()}
        self.candidates = {
            budget: Candidate(Architecture.from_dict(live), weights)
            for budget, (live, weights) in state["candidates"].items()
        }
        self.passed, self.level = (state[name].to(self.device) for name in ("passed", "level"))
        self.passed_with = [kept.to(self.device) for kept in state["passed_with"]]
        self.step, self.snapshot_cost = state["step"], state["snapshot_cost"]
        self.compute = state.get("compute")
        self.losses, self.scaling_losses = Losses(state["losses"]), Losses()
        self.started = time.monotonic() - state.get("epoch_seconds", 0.0)
        self.fitting.load_state_dict(state)
        self._weigh_edges()
