"""The retraining of what a search has found: for each budget one network, or finals of several (`nas_core.finals`).

The networks of a budget take turns: all that are judged together are trained up to the next rung, where the worse half
of them stops. Each trains as it would alone, so that its curve does not depend on its rivals. What reaches the end is
tested and delivered, the best on the validation part first.

As long as there are as many networks as workers or more, of all budgets together, every worker trains networks of its
own (`Race._round`): they have nothing to tell each other but how an epoch went. After that all share the batches of one
network after the other. Either way each takes the same steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BytesIO
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas_core import parallel
from nas_core.data.loading import Data, steps_per_epoch
from nas_core.errors import Diverged
from nas_core.finals import delivered, path, place
from nas_core.search.latency import Latency
from nas_core.space import Architecture, Reference, read_genotype
from nas_core.spec import SearchSpec
from nas_core.spec.finals import epochs_from, rungs, side_of, survivors
from nas_core.train.evaluation import Evaluation
from nas_core.train.retrain import Retraining

MOST_SILENT = 50
"""Workers that train networks of their own hear of each other after so many steps at the latest: a network that has
diverged does not go on for an epoch, and nobody waits until a connection is given up."""


@dataclass(eq=False)
class Contender:
    """One network for a `budget`, and how far it is.

    `trial` is its number among all of the run, and `origin` where it comes from; where several are the search's own,
    each has a `label`. One that could not be made has no `architecture`. What was measured on the way to a limit is its
    `latency`; `own` says whether it is what the search found for the budget itself. It has trained for so many `epochs`
    and has then `reached` scores on the validation part, by the names of `CHOOSE_BY`. Its `outcome` is None as long as
    it trains, and then "trained", "stopped" or "dropped", the latter with a `reason`. One that has `ended` trains no
    more, before the others where its patience is at its end. Where one worker trains it alone, that is its `home`, and
    all that the others know of it is how many `steps` it has taken and what the last epoch has told. Its `retraining`
    is there while it is in memory; `state` is that of one which is not.
    """

    trial: int
    budget: int
    origin: str
    architecture: Architecture | Reference | None
    latency: Latency | None = None
    own: bool = False
    label: str | None = None
    epochs: int = 0
    ended: bool = False
    reached: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    compute: int = 0
    """Multiply-adds of the forward passes of its steps."""
    outcome: str | None = None
    reason: str | None = None
    state: dict[str, Any] | None = None
    home: int | None = None
    retraining: Retraining | None = None
    result: dict[str, Any] | None = None
    """What is told of it once it is delivered."""

    @property
    def told(self) -> dict[str, Any]:
        """What changes with an epoch, by field, as its retraining has it."""
        training = self.retraining
        assert training is not None
        return {"epochs": training.epochs, "ended": training.done, "reached": training.validated}

    def kept(self) -> dict[str, Any] | None:
        """The state of its training on this worker. Raises `Diverged` where a loss is not finite."""
        return self.retraining.state_dict() if self.retraining else self.state

    def state_dict(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """All of it that the next step depends on, with the `state` of its training."""
        return {
            "trial": self.trial,
            "budget": self.budget,
            "origin": self.origin,
            "architecture": self.architecture and self.architecture.to_dict(),
            "latency": self.latency and list(self.latency),
            "own": self.own,
            "label": self.label,
            "compute": self.compute,
            "epochs": self.epochs,
            "ended": self.ended,
            "reached": self.reached,
            "outcome": self.outcome,
            "reason": self.reason,
            "state": state,
            "result": self.result,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Contender":
        """The contender that `state_dict` described."""
        return cls(
            **state
            | {
                "steps": state["state"]["step"] if state["state"] else 0,
                "architecture": state["architecture"] and read_genotype(state["architecture"]),
                "latency": state["latency"] and Latency(*state["latency"]),
            }
        )

    def leave(self) -> None:
        """Give up all that its training holds."""
        self.retraining = self.state = self.home = None


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
        return left + epochs_from(len(racing), self.targets[self.judged :]) * steps_per_epoch


class Delivered(NamedTuple):
    """A network that is trained and tested, with its weights on the CPU."""

    contender: Contender
    weights: dict[str, Tensor]
    evaluation: Evaluation


class Race:
    """The retraining of all `contenders`, budget by budget, as one resumable sequence of steps.

    `start` gives the state from which the training of a search's own network starts, or None; that search has computed
    `search_compute` multiply-adds. `fits` says whether a worker has the memory to train a network alone. `delivered` is
    the network that was tested last.
    """

    def __init__(
        self,
        spec: SearchSpec,
        contenders: Sequence[Contender],
        data: Data,
        device: torch.device | str,
        start: Callable[[int], Mapping[str, Tensor] | None],
        search_compute: int | None,
        fits: Callable[[Architecture | Reference], bool],
    ) -> None:
        self.spec, self.contenders, self.data, self.device = spec, contenders, data, device
        self.start, self.search_compute, self.fits = start, search_compute, fits
        self.competing, self.choose_by = spec.finals.competing, spec.settings.choose_by
        self.heats = heats(spec, contenders)
        self.begun: list[int] = []
        """Budgets whose networks have begun."""
        self.untold: list[dict[str, Any]] = []
        """Lines that belong to no step."""
        self.delivered: Delivered | None = None
        self.rounds = 0
        self.failed: Diverged | None = None
        """What has diverged on this worker since the workers last heard of each other."""

    @property
    def done(self) -> bool:
        """Whether all is delivered."""
        return not any(one.outcome in (None, "trained") and one.result is None for one in self.contenders)

    @property
    def compute(self) -> int:
        """The multiply-adds of all forward passes behind."""
        return sum(one.compute for one in self.contenders)

    @property
    def batch_size(self) -> int:
        """Images of one step."""
        return min(self.spec.settings.retrain_batch_size, len(self.data.training))

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training data, of every network."""
        return steps_per_epoch(len(self.data.training), self.batch_size)

    @property
    def steps_left(self) -> int:
        """Steps that are left, as far as that can be foreseen."""
        return sum(heat.steps_left(self.steps_per_epoch) for heat in self._all_heats)

    @property
    def apart(self) -> bool:
        """Whether every worker trains networks of its own, the same on all."""
        workers = parallel.world()[1]
        racing = sum(one.outcome is None for one in self.contenders)
        return 1 < workers <= racing and self._roomy

    @cached_property
    def _roomy(self) -> bool:
        racing = [one.architecture for one in self.contenders if one.outcome is None and one.architecture]
        return parallel.first(lambda: all(map(self.fits, racing)))

    @property
    def _all_heats(self) -> list[Heat]:
        return [heat for budget in self.heats.values() for heat in budget]

    def advance(self) -> list[dict[str, Any]]:
        """Take one step, of one network or one on every worker, or deliver a network that waits for it; returns the
        journal lines of it.

        Where all networks of a budget have diverged, the best that was stopped starts again. Raises `Diverged` where
        none was.
        """
        lines, self.untold = self.untold, []
        if self._over() is None:
            lines += self._round() if self.apart else self._step(self._waiting()[0])
        lines += self._judge()
        if (budget := self._over()) is not None:
            lines += self._deliver(budget)
        return lines

    def _of(self, budget: int) -> list[Contender]:
        return [one for one in self.contenders if one.budget == budget]

    def _open(self, budget: int) -> bool:
        return any(one.outcome in (None, "trained") and one.result is None for one in self._of(budget))

    def _over(self) -> int | None:
        """The first budget whose networks wait to be delivered."""
        over = (budget for budget in self.spec.budgets if self._open(budget))
        return next((budget for budget in over if all(one.outcome is not None for one in self._of(budget))), None)

    def _waiting(self) -> list[Contender]:
        """Those that have steps to take before they are judged, in the order in which one worker takes them."""
        waiting = [(heat.target, one) for heat in self._all_heats for one in heat.under_way]
        return [one for _, one in sorted(waiting, key=lambda each: (each[1].budget, each[0], each[1].trial))]

    def told(self, contender: Contender) -> dict[str, Any]:
        """What lines and results tell of a contender: its budget, and which it is where there are several."""
        own = {"trial": contender.trial, "origin": contender.origin, "seed": self.spec.seed} if self.competing else {}
        own |= {} if contender.label is None else {"label": contender.label}
        return own | {"budget": contender.budget}

    def _begin(self, contender: Contender) -> list[dict[str, Any]]:
        """What is told before the next step of a contender, if that begins something."""
        lines: list[dict[str, Any]] = []
        budget = contender.budget
        if budget not in self.begun:
            self.begun.append(budget)
            lines.append({"kind": "phase", "phase": "retrain", "budget": budget})
            dropped = [one for one in self._of(budget) if one.outcome == "dropped"]
            lines += [{"kind": "warning", "message": one.reason} | self.told(one) for one in dropped]
        if self.competing and not contender.steps:
            lines.append({"kind": "began"} | self.told(contender))
        return lines

    def _step(self, contender: Contender) -> list[dict[str, Any]]:
        """Take a step of a contender on all workers."""
        lines = self._begin(contender)
        try:
            self._move(contender, None)
            told = self.live(contender).advance()
        except Diverged as error:
            return lines + self._drop(contender, error)
        self._count(contender)
        return lines + self._take_in(contender, told, contender.told if told else {})

    def _round(self) -> list[dict[str, Any]]:
        """Take a step of a contender of its own on every worker that has one to train."""
        rank, _ = parallel.world()
        waiting = self._waiting()
        self._settle(waiting)
        turn: dict[int, Contender] = {}
        for one in waiting:
            assert one.home is not None
            turn.setdefault(one.home, one)
        lines = [line for worker in sorted(turn) for line in self._begin(turn[worker])]
        own, told = turn.get(rank), list[dict[str, Any]]()
        if own is not None and self.failed is None:
            try:
                with parallel.alone():
                    told = self.live(own).advance()
            except Diverged as error:
                self.failed = error
        for one in turn.values():
            self._count(one)
        self.rounds += 1
        if self.rounds % MOST_SILENT and not any(one.steps % self.steps_per_epoch == 0 for one in turn.values()):
            return lines
        news = parallel.each((self.failed, told, own.told if own and told else {}))
        self.failed = None
        for worker, (failed, told, fields) in enumerate(news):
            if failed is not None:
                lines += self._drop(turn[worker], failed)
            elif told:
                lines += self._take_in(turn[worker], told, fields)
        return lines

    def _count(self, contender: Contender) -> None:
        assert contender.architecture is not None
        contender.steps += 1
        contender.compute += contender.architecture.multiply_adds * self.batch_size

    def _take_in(
        self, contender: Contender, told: Sequence[dict[str, Any]], fields: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The lines that a contender's training has `told`, with the `fields` of it that have changed."""
        for name, value in fields.items():
            setattr(contender, name, value)
        return [line | self.told(contender) for line in told]

    def _settle(self, waiting: Sequence[Contender]) -> None:
        """Give each of those that are `waiting` a home, so that all workers have about as many steps to take.

        One moves between two epochs alone, where no loss of it is left unread.
        """
        left = {one: self._steps_to_rung(one) for one in waiting}
        load = [0] * parallel.world()[1]
        free: list[Contender] = []
        for one in waiting:
            if one.home is None or one.steps % self.steps_per_epoch == 0:
                free.append(one)
            else:
                load[one.home] += left[one]
        for one in sorted(free, key=lambda one: (-left[one], one.trial)):
            home = min(range(len(load)), key=lambda worker: (load[worker], worker != one.home))
            load[home] += left[one]
            self._move(one, home)

    def _steps_to_rung(self, contender: Contender) -> int:
        heat = next(heat for heat in self.heats[contender.budget] if contender in heat.contenders)
        return heat.target * self.steps_per_epoch - contender.steps

    def _move(self, contender: Contender, home: int | None) -> None:
        """Let another worker train a contender from now on, or all of them. Raises `Diverged` as `Contender.kept`."""
        before = contender.home
        if before == home:
            return
        state = contender.kept() if before is None else _unpacked(parallel.of(before, partial(_packed, contender)))
        contender.leave()
        contender.home = home
        contender.state = state if home in (None, parallel.world()[0]) else None

    def live(self, contender: Contender) -> Retraining:
        """The retraining of a contender on this worker, from where it was."""
        if contender.retraining is None:
            assert contender.architecture is not None
            start = self.start(contender.budget) if contender.own and contender.state is None else None
            contender.retraining = Retraining(self.spec, contender.architecture, self.data, self.device, start)
            if contender.state is not None:
                contender.retraining.load_state_dict(contender.state)
                contender.state = None
        return contender.retraining

    def _drop(self, contender: Contender, error: Diverged) -> list[dict[str, Any]]:
        """Go on without a contender that has diverged. Raises the error where nobody else is left, nor was stopped."""
        contender.outcome, contender.reason = "dropped", str(error)
        if contender.home == parallel.world()[0]:
            self.failed = None
        contender.leave()
        lines = [{"kind": "warning", "message": str(error)} | self.told(contender)]
        if self._open(contender.budget):
            return lines
        stopped = [one for one in self._of(contender.budget) if one.outcome == "stopped"]
        if not stopped:
            raise error
        # A stopped network keeps no state; from the beginning it takes the same steps again.
        best = min(stopped, key=lambda one: (-one.epochs, _place(one, self.choose_by)))
        message = (
            f"stopped after {best.epochs} epochs, it starts again: all other networks for its budget have diverged"
        )
        best.outcome, best.epochs, best.steps, best.ended, best.reached = None, 0, 0, False, {}
        return [*lines, {"kind": "warning", "message": message} | self.told(best)]

    def _judge(self) -> list[dict[str, Any]]:
        lines = []
        for heat in self._all_heats:
            while heat.racing and not heat.under_way:
                for one in heat.judge(self.choose_by):
                    lines.append(
                        {"kind": "stopped", "epoch": one.epochs, "accuracy": one.reached["accuracy"]} | self.told(one)
                    )
                    one.leave()
        return lines

    def _deliver(self, budget: int) -> list[dict[str, Any]]:
        """Test the best network of a budget that is not delivered yet."""
        trained = sorted((one for one in self._of(budget) if one.outcome == "trained"),
                         key=lambda one: _place(one, self.choose_by))  # fmt: skip
        contender = next(one for one in trained if one.result is None)
        told, weights, evaluation = self._tested(contender)
        self.delivered = Delivered(contender, weights, evaluation)
        result = {"budget": budget} | told
        result |= {"compute": {"search": self.search_compute, "training": contender.compute}}
        where = path(budget)
        if self.competing:
            where = path(budget) if contender is trained[0] else path(budget, contender.trial)
            result = outcome(self.told(contender), contender) | result | {"path": where}
        contender.result = result
        contender.leave()
        return [{"kind": "retrained", "epoch": contender.epochs, "path": where} | result]

    def _tested(self, contender: Contender) -> tuple[dict[str, Any], dict[str, Tensor], Evaluation]:
        """What is told of a trained network, its weights on the CPU, and what it answers for the test part."""

        def test() -> tuple[dict[str, Any], dict[str, Tensor], Evaluation]:
            retraining = self.live(contender)
            evaluation = retraining.test()
            return *delivered(retraining, evaluation), evaluation

        def test_alone() -> tuple[dict[str, Any], dict[str, Tensor], Evaluation]:
            with parallel.alone():
                return test()

        return test() if contender.home is None else parallel.of(contender.home, test_alone)

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
        rank, _ = parallel.world()
        away = any(one.home is not None for one in self.contenders)
        own = {one.trial: _packed(one) for one in self.contenders if one.home == rank}
        homes = {trial: state for states in (parallel.each(own) if away else []) for trial, state in states.items()}
        kept = dict[int, dict[str, Any] | None]()
        for one in self.contenders:
            try:
                kept[one.trial] = one.kept() if one.home is None else _unpacked(homes[one.trial])
            except Diverged as error:
                self.untold += self._drop(one, error)
                kept[one.trial] = None
        states = [one.state_dict(kept[one.trial]) for one in self.contenders]
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
        self.delivered = self.failed = None


def _packed(contender: Contender) -> bytes | Diverged:
    """The state of a contender's training, for other workers to unpack."""
    content = BytesIO()
    try:
        torch.save(contender.kept(), content)
    except Diverged as error:
        return error
    return content.getvalue()


def _unpacked(packed: bytes | Diverged) -> dict[str, Any] | None:
    """What was packed, on the CPU. Raises `Diverged` where packing met it."""
    if isinstance(packed, Diverged):
        raise packed
    state: dict[str, Any] | None = torch.load(BytesIO(packed), map_location="cpu", weights_only=True)
    return state


def heats(spec: SearchSpec, contenders: Sequence[Contender]) -> dict[int, list[Heat]]:
    """Who is judged together, by budget: the searched networks, the reference networks, and each control by itself."""
    epochs = spec.settings.retrain_epochs
    found: dict[int, dict[str, list[Contender]]] = {budget: {} for budget in spec.budgets}
    for one in contenders:
        found[one.budget].setdefault(side_of(one.origin) or one.origin, []).append(one)
    return {budget: [Heat(some, rungs(epochs), epochs) for some in sides.values()] for budget, sides in found.items()}


def outcome(told: Mapping[str, Any], contender: Contender) -> dict[str, Any]:
    """How a contender ended, as `result.json` tells it, with what is `told` of it anyway."""
    reason = {} if contender.reason is None else {"reason": contender.reason}
    scores = {f"validation_{name}": value for name, value in contender.reached.items()}
    return {**told, "source": None, "epochs": contender.epochs, **scores, "outcome": contender.outcome, **reason}


def _place(contender: Contender, choose_by: str) -> tuple[float, int, int]:
    assert contender.architecture is not None
    return place(contender.reached[choose_by], contender.architecture.multiply_adds, contender.trial)
