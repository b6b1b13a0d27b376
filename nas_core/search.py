"""The search: pretrain W, then learn W and λ in turn while the cost is pressed down to the budgets.

One object, advanced one optimiser step at a time, whose whole state can be saved between any two steps and loaded
again: what it then returns is bit for bit what it would have returned.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_core import cost, latency, parallel
from nas_core.architecture import Architecture
from nas_core.budget import FLOOR, Edges, Press, branches, effective_cost, fit_widths, narrowest, spend, strongest_path
from nas_core.data import Augment, Data, generator, steps_per_epoch
from nas_core.errors import InvalidValue
from nas_core.network import Network
from nas_core.proximal import ApgNag, soft_threshold
from nas_core.spec import NO_LIMITS, SearchSpec
from nas_core.supernet import Replacement, Supernet, follow
from nas_core.training import backward, bn_scales, calibrate, evaluate, weight_optimizer

SNAPSHOT_SHARE = 0.97
"""A picture of the supernet is due when its cost has fallen to this share of the last one's."""

NARROWINGS = 6
"""How often widths between the fewest and those of the budget are halved, in search of those fast enough."""


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


class Search:
    """Finds an architecture for each budget of `spec` on `data`.

    `advance` takes one step and returns the journal lines it gives rise to; `architectures` fills by budget, from
    the largest to the smallest, as the cost passes them, and so do the `candidates` that they were made from.
    """

    def __init__(self, spec: SearchSpec, data: Data, device: torch.device | str) -> None:
        self.spec, self.data, self.settings = spec, data, spec.settings
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(spec.seed, "supernet").initial_seed())
            self.supernet = Supernet(spec.space)
        self.supernet.to(self.device)
        self.augment = Augment.of(self.settings, retraining=False)
        self.press = Press(spec.space)
        self.output = spec.space.nodes + 1
        self.edge_factors = [[1.0] * len(self.press.edges) for _ in self.press.groups]
        if self.settings.penalty == "memory":
            self.edge_factors = cost.memory_access_weights(spec.space)
        self.latency_table: latency.LatencyTable | None = None
        self.latencies: dict[int, latency.Latency] = {}
        self._optimizers()
        self.architectures: dict[int, Architecture] = {}
        self.candidates: dict[int, Candidate] = {}
        self.live = spec.space.complete()
        self.step = 0
        self.gamma = 0.0
        self.snapshot_cost = self.live.multiply_adds
        self.losses: list[float] = []
        self.started = time.monotonic()

    def _optimizers(self) -> None:
        settings = self.settings
        self.weight_step = weight_optimizer(
            self.supernet.weights(),
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
        if self.latency_table is None and (self.settings.penalty == "latency" or self.spec.limits.latency_ms):
            self._measure_parts()
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
        if searching and (done_here % self.settings.ratio == 0 or self.done):
            self._scaling_step(done_here // self.settings.ratio)
            lines += self._press(done_here / (self.steps_per_epoch * epochs))
        if done_here % self.steps_per_epoch == 0:
            lines.append(self._epoch_line(phase, done_here // self.steps_per_epoch, epochs))
        return lines

    def _measure_parts(self) -> None:
        """Make the table of latencies, and refuse a limit that no network keeps before any time is spent on it."""
        space, limit, threads = self.spec.space, self.spec.limits.latency_ms, self.spec.cpus_per_worker
        self._use(parallel.first(lambda: latency.measure_table(space, self.device, threads)))
        if limit is not None:
            fastest = self._time(self._lightest(self.spec.budgets[0])).median
            if fastest > limit:
                reason = f"no network of this search space is that fast on {self.device} with {threads} threads"
                raise InvalidValue("limits.latency_ms", limit, reason, f"{fastest:.3g} or more")

    def _use(self, table: latency.LatencyTable) -> None:
        self.latency_table = table
        if self.settings.penalty == "latency":
            self.edge_factors = table.penalty_weights(self.spec.space)

    def _time(self, architecture: Architecture) -> latency.Latency:
        """How long worker 0 takes for one image with a network of `architecture`."""

        def measure() -> latency.Latency:
            with torch.random.fork_rng(devices=[]):
                network = Network(architecture)
            return latency.measure_latency(network, self.spec.cpus_per_worker, device=self.device)

        return parallel.first(measure)

    def _cost(self, architecture: Architecture, budget: float) -> Any:
        """What `architecture` costs by the budget and the limits, in terms of `budget` (`effective_cost`)."""
        estimate = self.latency_table.estimate if self.latency_table else None
        return effective_cost(architecture, budget, self.spec.limits, estimate)

    def _lightest(self, budget: int) -> Architecture:
        """The network of the space that uses the least of `budget` and the limits."""
        return min(self.spec.space.single_paths(), key=lambda architecture: self._cost(architecture, budget))

    def _fit(self, architecture: Architecture, budget: int) -> Architecture:
        """What `spend` makes of the architecture for `budget` and the limits; latency is measured."""
        limits = self.spec.limits
        fitted = spend(architecture, budget, limits)
        if limits.latency_ms is None:
            return fitted
        architecture = replace(fitted, widths=self.spec.space.widths)
        measured = self._time(fitted)
        if measured.median > limits.latency_ms:
            low, high = narrowest(architecture).multiply_adds, fitted.multiply_adds
            fitted = narrowest(architecture)
            measured = self._time(fitted)
            if measured.median > limits.latency_ms:
                reason = f"the network found for {budget} multiply-adds takes longer even with the fewest channels"
                raise InvalidValue("limits.latency_ms", limits.latency_ms, reason, f"{measured.median:.3g} or more")
            for _ in range(NARROWINGS):
                middle = round(math.sqrt(low * high))
                wider = fit_widths(architecture, middle, limits)
                tried = self._time(wider)
                if tried.median <= limits.latency_ms:
                    low, fitted, measured = middle, wider, tried
                else:
                    high = middle
        self.latencies[budget] = measured
        return fitted

    def _weight_step(self) -> None:
        """One step of W on its own part of the data."""
        settings, parts = self.settings, self.data.parts
        images, labels = self.data.batch(
            parts["weights"], self.step, settings.batch_size, self.spec.seed, "weights", self.augment
        )
        weights = self.supernet.weights()
        phase = "search" if self.searching else "pretrain"
        size = min(settings.batch_size, len(parts["weights"]))
        self.losses.append(backward(F.cross_entropy(self.supernet(images), labels), size, weights, phase, self.step))
        torch.nn.utils.clip_grad_value_(weights, settings.clip)
        self.weight_step.step()

    def _scaling_step(self, number: int) -> None:
        """One step of λ on its own part of the data: APG-NAG under the standing γ, weighted by adaptive FLOPs."""
        settings, parts = self.settings, self.data.parts
        images, labels = self.data.batch(
            parts["scaling"], number, settings.batch_size, self.spec.seed, "scaling", self.augment
        )
        factors = self.supernet.scaling_factors()
        size = min(settings.batch_size, len(parts["scaling"]))
        backward(F.cross_entropy(self.supernet(images), labels), size, factors, "search", self.step)
        for parameter, weights in zip(self.supernet.block_scaling, self._penalty_weights(), strict=True):
            parameter.gamma_scale = torch.tensor(weights, device=self.device)
        paths = [strongest_path(self._strengths(parameter), self.output) for parameter in self.supernet.block_scaling]
        stronger = [int(parameter.argmax()) for parameter in self.supernet.reduction_scaling]
        self.scaling_step.step()
        # The gradient may not empty a block or a reduction: only the budget may, and of a reduction never the rest.
        for parameter, path in zip(self.supernet.block_scaling, paths, strict=True):
            if path and not strongest_path(self._strengths(parameter), self.output):
                self._spare(parameter, path)
        for parameter, branch in zip(self.supernet.reduction_scaling, stronger, strict=True):
            if not parameter.any():
                parameter.data[branch] = FLOOR

    def _strengths(self, parameter: Tensor) -> dict[tuple[int, int], float]:
        return {edge: value for edge, value in zip(self.press.edges, parameter.tolist(), strict=True) if value > 0}

    @torch.no_grad()
    def _spare(self, parameter: Tensor, path: Iterable[tuple[int, int]]) -> None:
        """Keep the λ of a path's edges above zero."""
        chosen = set(path)
        keep = torch.tensor([edge in chosen for edge in self.press.edges], device=self.device)
        parameter.copy_(torch.where(keep, parameter.clamp(min=FLOOR), parameter))

    def _penalty_weights(self) -> list[list[float]]:
        """The factor of the L1 weight for every λ of every group of blocks."""
        blocks = self.live.blocks[:1] if self.spec.space.share else self.live.blocks
        weights = []
        for group, block in enumerate(blocks):
            edges = [(edge.source, edge.target) for edge in block.edges]
            share = self.press.alive_share(group, edges) if self.settings.penalty == "flops" else 1.0
            weights.append([share * factor for factor in self.edge_factors[group]])
        return weights

    @torch.no_grad()
    def _press(self, progress: float) -> list[dict[str, Any]]:
        """Bring the cost down to where the schedule wants it at `progress` (0 … 1), and note the budgets passed."""
        # In terms of the largest budget, so that the limits are kept when that is reached, and not at one blow.
        complete = self._cost(self.spec.space.complete(), self.spec.budgets[-1])
        if progress >= 1:
            target = float(self.spec.budgets[0])
        elif self.settings.form == "paper":
            target = float(complete)
        else:
            target = complete + (self.spec.budgets[0] - complete) * progress
        # Budgets between here and the target are stops on the way, so that each gets an architecture of its own.
        lines: list[dict[str, Any]] = []
        stops = [budget for budget in reversed(self.spec.budgets) if budget not in self.architectures]
        for stop in [*(budget for budget in stops if budget >= target), target]:
            self._press_to(stop)
            for budget in stops:
                if budget not in self.architectures and self._cost(self.live, budget) <= budget:
                    self.architectures[budget] = self._fit(self.live, budget)
                    state = {name: tensor.cpu().clone() for name, tensor in self.supernet.state_dict().items()}
                    self.candidates[budget] = Candidate(self.live, state)
                    lines.append({"kind": "architecture", "budget": budget})
        if progress >= 1:
            # Where even a single path of what lives is over the budget or a limit, the space holds a lighter network.
            for budget in stops:
                if budget not in self.architectures:
                    self.architectures[budget] = self._fit(self._lightest(budget), budget)
                    lines.append({"kind": "architecture", "budget": budget})
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

    def _press_to(self, target: float) -> None:
        """The smallest proximal step that brings the cost to `target`; what it zeroes is removed for good."""
        vectors = [parameter.tolist() for parameter in self.supernet.block_scaling]
        pairs = [parameter.tolist() for parameter in self.supernet.reduction_scaling]
        weights = self._penalty_weights()
        reference = min(target, self.spec.budgets[-1])

        def cost_of(alive: Sequence[Edges], reductions: Sequence[Sequence[float]], level: float) -> Any:
            return self._cost(self.press.architecture(alive, reductions, level), reference)

        limited = self.spec.limits != NO_LIMITS
        level, alive, spared = self.press.solve(vectors, pairs, weights, target, cost_of if limited else None)
        self.gamma = self.settings.gamma + level / self.settings.scaling_lr
        for parameter, weight, kept, edges in zip(self.supernet.block_scaling, weights, spared, alive, strict=True):
            if self.settings.form != "cut":
                parameter.copy_(soft_threshold(parameter, level * torch.tensor(weight, device=self.device)))
            self._spare(parameter, kept)
            stays = set(edges)
            parameter.mul_(torch.tensor([edge in stays for edge in self.press.edges], device=self.device))
        for parameter, pair in zip(self.supernet.reduction_scaling, pairs, strict=True):
            stays_here = torch.tensor(branches(pair, level), device=self.device)
            if self.settings.form != "cut":
                parameter.copy_(soft_threshold(parameter, level))
            parameter.copy_(parameter.clamp(min=FLOOR) * stays_here)
        self.live = self.supernet.architecture()
        self._remove(self.live)

    def _remove(self, architecture: Architecture) -> None:
        replaced: list[Replacement] = self.supernet.prune(architecture)
        follow(self.weight_step, replaced)
        follow(self.scaling_step, replaced)

    def _epoch_line(self, phase: str, epoch: int, epochs: int) -> dict[str, Any]:
        parts = self.data.parts
        calibrate(self.supernet, self.data, parts["weights"], self.settings.batch_size)
        validation = evaluate(self.supernet, self.data, parts["validation"])
        loss = torch.tensor(self.losses).mean().item()  # each is the mean over a whole batch already
        self.losses = []
        now, self.started = time.monotonic(), time.monotonic() - self.started
        seconds, self.started = self.started, now
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

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "live": self.live.to_dict(),
            "supernet": self.supernet.state_dict(),
            "weight_step": self.weight_step.state_dict(),
            "scaling_step": self.scaling_step.state_dict(),
            "architectures": {budget: a.to_dict() for budget, a in self.architectures.items()},
            "candidates": {budget: (c.live.to_dict(), c.state) for budget, c in self.candidates.items()},
            "gamma": self.gamma,
            "snapshot_cost": self.snapshot_cost,
            "losses": self.losses,
            "latency_table": self.latency_table.to_dict() if self.latency_table else None,
            "latencies": {budget: list(measured) for budget, measured in self.latencies.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the search that `state_dict` described; it must be one of the same specification."""
        self.live = Architecture.from_dict(state["live"])
        self.supernet.prune(self.live)
        self.supernet.load_state_dict(state["supernet"])
        self._optimizers()
        self.weight_step.load_state_dict(state["weight_step"])
        self.scaling_step.load_state_dict(state["scaling_step"])
        self.architectures = {b: Architecture.from_dict(a) for b, a in state["architectures"].items()}
        self.candidates = {
            budget: Candidate(Architecture.from_dict(live), weights)
            for budget, (live, weights) in state["candidates"].items()
        }
        self.step, self.gamma = state["step"], state["gamma"]
        self.snapshot_cost, self.losses = state["snapshot_cost"], list(state["losses"])
        if state["latency_table"]:
            self._use(latency.LatencyTable.from_dict(state["latency_table"]))
        self.latencies = {budget: latency.Latency(*measured) for budget, measured in state["latencies"].items()}
