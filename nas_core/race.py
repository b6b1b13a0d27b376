"""The retraining of what a search has found: for each budget one network, or finals of several (`nas_core.finals`).

The networks of a budget take turns: all that are judged together are trained up to the next rung, where the worse half
of them stops. Each trains as it would alone, so that its curve does not depend on its rivals. What reaches the end is
tested and delivered, the best on the validation part first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas_core.data.loading import Data, steps_per_epoch
from nas_core.errors import Diverged
from nas_core.finals import cost_of, path, place, rungs, side_of, survivors
from nas_core.search.latency import Latency
from nas_core.space import Architecture, Reference, read_genotype
from nas_core.spec import SearchSpec
from nas_core.train.evaluation import Evaluation
from nas_core.train.retrain import Retraining, untaken


@dataclass(eq=False)
class Contender:
    """One network for a `budget`, and how far it is.

    `trial` is its number among all of the run, and `origin` where it comes from. One that could not be made has no
    `architecture`. What was measured on the way to a limit is its `latency`; `own` says whether it is what the search
    found for the budget itself. It has trained for so many `epochs` and has then `reached` scores on the validation
    part, by the names of `CHOOSE_BY`. Its `outcome` is None as long as it trains, and then "trained", "stopped" or
    "dropped", the latter with a `reason`. One that has `ended` trains no more, before the others where its patience is
    at its end. Its `retraining` is there while it is in memory; `state` is that of one which is not.
    """

    trial: int
    budget: int
    origin: str
    architecture: Architecture | Reference | None
    latency: Latency | None = None
    own: bool = False
    epochs: int = 0
    ended: bool = False
    reached: dict[str, float] = field(default_factory=dict)
    compute: int = 0
    """Multiply-adds of the forward passes of its epochs."""
    outcome: str | None = None
    reason: str | None = None
    state: dict[str, Any] | None = None
    retraining: Retraining | None = None
    result: dict[str, Any] | None = None
    """What is told of it once it is delivered."""

    @property
    def steps(self) -> int:
        """Steps that are behind it."""
        if self.retraining is not None:
            return self.retraining.step
        return int(self.state["step"]) if self.state is not None else 0

    def state_dict(self) -> dict[str, Any]:
        """All of it that the next step depends on. Raises `Diverged` where a loss is not finite."""
        return {
            "trial": self.trial,
            "budget": self.budget,
            "origin": self.origin,
            "architecture": self.architecture and self.architecture.to_dict(),
            "latency": self.latency and list(self.latency),
            "own": self.own,
            "compute": self.compute,
            "epochs": self.epochs,
            "ended": self.ended,
            "reached": self.reached,
            "outcome": self.outcome,
            "reason": self.reason,
            "state": self.retraining.state_dict() if self.retraining else self.state,
            "result": self.result,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Contender":
        """The contender that `state_dict` described."""
        return cls(
            **state
            | {
                "architecture": state["architecture"] and read_genotype(state["architecture"]),
                "latency": state["latency"] and Latency(*state["latency"]),
            }
        )


class Heat:
    """Networks for one budget that are judged together after so many epochs, the `rungs`, and trained for `epochs`."""

    def __init__(self, contenders: Sequence[Contender], rungs: Sequence[int], epochs: int) -> None:
        self.contenders, self.targets, self.judged = contenders, [*rungs, epochs], 0

    @property
    def racing(self) -> list[Contender]:
        """Those that train."""
        return [one for one in self.contenders if one.outcome is None]

    @property
    def target(self) -> int:
        """The epochs up to which they train next."""
        return self.targets[self.judged]

    @property
    def under_way(self) -> list[Contender]:
        """Those that have not come so far."""
        return [one for one in self.racing if one.epochs < self.target and not one.ended]

    def judge(self, choose_by: str) -> list[Contender]:
        """Stop the worse half, or none at the end, where all have come to the target; returns who was stopped."""
        ranked = sorted(self.racing, key=lambda one: _place(one, choose_by))
        if self.target == self.targets[-1]:
            for one in ranked:
                one.outcome = "trained"
            return []
        stopped = ranked[survivors(len(ranked)) :]
        for one in stopped:
            one.outcome = "stopped"
        self.judged += 1
        return stopped

    def steps_left(self, steps_per_epoch: int) -> int:
        """Steps that are left if as many are stopped at each rung as can be foreseen."""
        racing = self.racing
        if not racing:
            return 0
        left = sum(max(0, self.target * steps_per_epoch - one.steps) for one in self.under_way)
        return left + _planned(len(racing), self.targets[self.judged :]) * steps_per_epoch


class Delivered(NamedTuple):
    """A network that is trained and tested, with its weights on the CPU."""

    contender: Contender
    weights: dict[str, Tensor]
    evaluation: Evaluation


class Race:
    """The retraining of all `contenders`, budget by budget, as one resumable sequence of steps.

    `start` gives the state from which the training of a search's own network starts, or None; that search has computed
    `search_compute` multiply-adds. `delivered` is the network that was tested last.
    """

    def __init__(
        self,
        spec: SearchSpec,
        contenders: Sequence[Contender],
        data: Data,
        device: torch.device | str,
        start: Callable[[int], Mapping[str, Tensor] | None],
        search_compute: int | None,
    ) -> None:
        self.spec, self.contenders, self.data, self.device = spec, contenders, data, device
        self.start, self.search_compute = start, search_compute
        self.competing, self.choose_by = spec.finals.competing, spec.settings.choose_by
        self.heats = heats(spec, contenders)
        self.begun: list[int] = []
        """Budgets whose networks have begun."""
        self.untold: list[dict[str, Any]] = []
        """Lines that belong to no step."""
        self.running: Retraining | None = None
        """What the last step was of, if that goes on."""
        self.delivered: Delivered | None = None

    @property
    def done(self) -> bool:
        """Whether all is delivered."""
        return not any(one.outcome in (None, "trained") and one.result is None for one in self.contenders)

    @property
    def compute(self) -> int:
        """The multiply-adds of all forward passes behind."""
        return sum(one.retraining.compute if one.retraining else one.compute for one in self.contenders)

    @property
    def steps_left(self) -> int:
        """Steps that are left, as far as that can be foreseen."""
        each = steps_per_epoch(len(self.data.training), self.spec.settings.retrain_batch_size)
        return sum(heat.steps_left(each) for budget in self.heats.values() for heat in budget)

    def advance(self) -> list[dict[str, Any]]:
        """Take one step, or deliver a network that waits for it; returns the journal lines of it.

        Raises `Diverged` where no network is left for a budget.
        """
        lines, self.untold = self.untold, []
        budget = next(budget for budget in self.spec.budgets if self._open(budget))
        if any(heat.under_way for heat in self.heats[budget]):
            lines += self._step(budget)
        lines += self._judge(budget)
        if all(one.outcome is not None for one in self._of(budget)):
            lines += self._deliver(budget)
        return lines

    def _of(self, budget: int) -> list[Contender]:
        return [one for one in self.contenders if one.budget == budget]

    def _open(self, budget: int) -> bool:
        return any(one.outcome in (None, "trained") and one.result is None for one in self._of(budget))

    def told(self, contender: Contender) -> dict[str, Any]:
        """What lines and results tell of a contender: its budget, and which it is where there are several."""
        own = {"trial": contender.trial, "origin": contender.origin, "seed": self.spec.seed} if self.competing else {}
        return own | {"budget": contender.budget}

    def _step(self, budget: int) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        if budget not in self.begun:
            self.begun.append(budget)
            lines.append({"kind": "phase", "phase": "retrain", "budget": budget})
            dropped = [one for one in self._of(budget) if one.outcome == "dropped"]
            lines += [{"kind": "warning", "message": one.reason} | self.told(one) for one in dropped]
        waiting = [(heat.target, one.trial, one) for heat in self.heats[budget] for one in heat.under_way]
        _, _, contender = min(waiting, key=lambda one: one[:2])
        if self.competing and contender.retraining is None and contender.state is None:
            lines.append({"kind": "began"} | self.told(contender))
        try:
            told = self.live(contender).advance()
        except Diverged as error:
            return lines + self._drop(contender, error)
        self.running = contender.retraining
        if told and contender.retraining is not None:
            contender.epochs, contender.ended = contender.retraining.epochs, contender.retraining.done
            contender.reached, contender.compute = contender.retraining.validated, contender.retraining.compute
        return lines + [line | self.told(contender) for line in told]

    def live(self, contender: Contender) -> Retraining:
        """The retraining of a contender, from where it was."""
        if contender.retraining is None:
            assert contender.architecture is not None
            start = self.start(contender.budget) if contender.own and contender.state is None else None
            contender.retraining = Retraining(self.spec, contender.architecture, self.data, self.device, start)
            if contender.state is not None:
                contender.retraining.load_state_dict(contender.state)
                contender.state = None
        return contender.retraining

    def _drop(self, contender: Contender, error: Diverged) -> list[dict[str, Any]]:
        """Go on without a contender that has diverged. Raises the error where nobody else is left."""
        contender.outcome, contender.reason = "dropped", str(error)
        if not self._open(contender.budget):
            raise error
        contender.retraining = contender.state = self.running = None
        return [{"kind": "warning", "message": str(error)} | self.told(contender)]

    def _judge(self, budget: int) -> list[dict[str, Any]]:
        lines = []
        for heat in self.heats[budget]:
            while heat.racing and not heat.under_way:
                for one in heat.judge(self.choose_by):
                    lines.append(
                        {"kind": "stopped", "epoch": one.epochs, "accuracy": one.reached["accuracy"]} | self.told(one)
                    )
                    one.retraining = one.state = None
        return lines

    def _deliver(self, budget: int) -> list[dict[str, Any]]:
        """Test the best network of a budget that is not delivered yet."""
        trained = sorted((one for one in self._of(budget) if one.outcome == "trained"),
                         key=lambda one: _place(one, self.choose_by))  # fmt: skip
        contender = next(one for one in trained if one.result is None)
        retraining, architecture = self.live(contender), contender.architecture
        assert architecture is not None
        evaluation = retraining.test()
        weights = {name: tensor.detach().cpu().clone() for name, tensor in retraining.delivered.state_dict().items()}
        self.delivered = Delivered(contender, weights, evaluation)
        result = {"budget": budget, "epochs": contender.epochs, "start": retraining.start}
        result |= {"compute": {"search": self.search_compute, "training": contender.compute}}
        result |= cost_of(architecture) | evaluation.summary()
        where = path(budget)
        if self.competing:
            where = path(budget) if contender is trained[0] else path(budget, contender.trial)
            result = outcome(self.told(contender), contender) | result | {"path": where}
            if isinstance(architecture, Reference):
                missing = untaken(architecture, self.spec.settings)
                result |= {"variant": architecture.variant, "recipe_without": missing}
        contender.result = result
        contender.retraining = contender.state = self.running = None
        return [{"kind": "retrained", "epoch": contender.epochs, "path": where} | result]

    @property
    def results(self) -> list[dict[str, Any]]:
        """What is told of those that are delivered, by budget, the best of each first."""
        found = [one for one in self.contenders if one.result is not None]
        found.sort(key=lambda one: (one.budget, _place(one, self.choose_by)))
        return [one.result for one in found if one.result is not None]

    def trials(self) -> list[dict[str, Any]]:
        """What became of every contender: the results of those that are delivered, and of others why not."""
        return [
            one.result if one.result is not None else outcome(self.told(one), one)
            for one in self.contenders
            if one.result is not None or one.outcome in ("stopped", "dropped")
        ]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on. Raises `Diverged` where no network is left for a budget."""
        states = []
        for one in self.contenders:
            try:
                state = one.state_dict()
            except Diverged as error:
                self.untold += self._drop(one, error)
                state = one.state_dict()
            states.append(state)
        judged = {budget: [heat.judged for heat in found] for budget, found in self.heats.items()}
        return {"contenders": states, "judged": judged, "begun": list(self.begun), "untold": list(self.untold)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the race that `state_dict` described."""
        self.contenders = [Contender.from_dict(one) for one in state["contenders"]]
        self.heats = heats(self.spec, self.contenders)
        for budget, judged in state["judged"].items():
            for heat, number in zip(self.heats[budget], judged, strict=True):
                heat.judged = number
        self.begun, self.untold = list(state["begun"]), list(state["untold"])
        self.running = self.delivered = None


def heats(spec: SearchSpec, contenders: Sequence[Contender]) -> dict[int, list[Heat]]:
    """Who is judged together, by budget: the searched networks, the reference networks, and each control by itself."""
    epochs = spec.settings.retrain_epochs
    found: dict[int, dict[str, list[Contender]]] = {budget: {} for budget in spec.budgets}
    for one in contenders:
        found[one.budget].setdefault(side_of(one.origin) or one.origin, []).append(one)
    return {budget: [Heat(some, rungs(epochs), epochs) for some in sides.values()] for budget, sides in found.items()}


def planned_epochs(spec: SearchSpec) -> int:
    """How many epochs the networks of all budgets are trained together, before it is known which there are."""
    epochs = spec.settings.retrain_epochs
    sides = [side_of(name) for name in spec.finals.baselines]
    each = [spec.finals.candidates, sides.count("reference"), *[1] * sides.count(None)]
    targets = [0, *rungs(epochs), epochs]
    return len(spec.budgets) * sum(count * targets[1] + _planned(count, targets[1:]) for count in each)


def _planned(count: int, targets: Sequence[int]) -> int:
    """Epochs from the first of the `targets` on, of so many networks of which the worse half stops at each."""
    epochs = 0
    for before, after in pairwise(targets):
        count = survivors(count)
        epochs += count * (after - before)
    return epochs


def outcome(told: Mapping[str, Any], contender: Contender) -> dict[str, Any]:
    """How a contender ended, as `result.json` tells it, with what is `told` of it anyway."""
    reason = {} if contender.reason is None else {"reason": contender.reason}
    scores = {f"validation_{name}": value for name, value in contender.reached.items()}
    return {**told, "source": None, "epochs": contender.epochs, **scores, "outcome": contender.outcome, **reason}


def _place(contender: Contender, choose_by: str) -> tuple[float, int, int]:
    assert contender.architecture is not None
    return place(contender.reached[choose_by], contender.architecture.multiply_adds, contender.trial)
