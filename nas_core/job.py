"""One job from beginning to end: the search, then the retraining of each budget's architecture."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from nas_core import parallel
from nas_core.data.loading import Data, steps_per_epoch
from nas_core.errors import InvalidValue
from nas_core.finals import baseline, check_latency, cost_of, path
from nas_core.race import Contender, Delivered, Race
from nas_core.search.latency import Latency
from nas_core.search.search import Search, supernet_per_image
from nas_core.search.spending import WIDE, divisor_of
from nas_core.seeds import generator
from nas_core.space import Architecture, Reference
from nas_core.spec import SearchSpec
from nas_core.spec.finals import planned_epochs
from nas_core.supernet.inherit import inherited
from nas_core.train.retrain import trainee_per_image

VERSION = 5
"""Of what `SearchJob.state_dict` gives. Before version 5 one network at a time was retrained; before 4 the fixed L1
could take the cost ahead of the schedule, which ended with the search; before 3 BN was Yoso's own, and before 2 every
block's λ a tensor."""

INDIFFERENT = ("workers", "min_workers", "cpus_per_worker", "gpus_per_worker", "accelerator_type", "export")
"""The fields of a specification that change nothing of what a search finds."""
PARTS = ("space", "settings", "engine", "finals")
"""Those that have fields of their own, each of which does."""

SPREAD, FURTHEST = 1.25, 8
"""How far apart on the way of a search, as ratios of cost, the networks lie that compete for a budget besides its own,
and how far off at most, as a power of that."""


class SearchJob:
    """A search and the retraining of what it finds, as one resumable sequence of steps.

    `architectures` fills by budget while the search runs; `weights` (state dicts on the CPU) and `results` fill as
    networks are retrained, the smallest budget first; where `spec.retrain` is off, `results` tells what was found.
    Where several networks compete for a budget, the one in `weights` is the best on the validation part, and `results`
    has all that were trained to the end, the best of each budget first. With torch.distributed initialised, all workers
    go through it in step.
    """

    def __init__(self, spec: SearchSpec, data: Data, device: torch.device | str) -> None:
        self.spec, self.data, self.device = spec, data, torch.device(device)
        self.search = Search(spec, data, device)
        self.snapshots: list[dict[str, Any]] = []
        """What lived of the supernet on its way down, where other networks than those of the budgets may compete."""
        self.race: Race | None = None
        """The retraining, once the search has ended."""
        self.weights: dict[int, dict[str, Tensor]] = {}
        complete = spec.space.complete()
        self.supernet_cost = {"multiply_adds": complete.multiply_adds, "parameters": complete.parameters}

    @property
    def architectures(self) -> dict[int, Architecture]:
        """The architectures found so far, by budget."""
        return self.search.architectures

    @property
    def compute(self) -> dict[str, int | None]:
        """The multiply-adds of all forward passes behind, of the search and of training what competes."""
        return {"search": self.search.compute, "training": self.race.compute if self.race else 0}

    @property
    def delivered(self) -> Delivered | None:
        """The network that was retrained and tested last."""
        return self.race.delivered if self.race is not None else None

    @property
    def results(self) -> list[dict[str, Any]]:
        """What is told of the networks that are delivered, or found where none is retrained."""
        if self.race is not None:
            return self.race.results
        if self.search.done and not self.spec.retrain:
            return [{"budget": budget} | cost_of(self.architectures[budget]) for budget in self.spec.budgets]
        return []

    @property
    def done(self) -> bool:
        """Whether the last network is retrained, or found where none is."""
        if self.race is not None:
            return self.race.done
        return self.search.done and not self.spec.retrain

    @property
    def progress(self) -> float:
        """The share of the job that is done, by estimated work: 0 … 1.

        A step of the supernet counts as eight of a derived network, as measured on the digits.
        """
        epochs = planned_epochs(self.spec.finals, self.spec.settings.retrain_epochs) if self.spec.retrain else 0
        planned = len(self.spec.budgets) * epochs
        retraining = planned * steps_per_epoch(len(self.data.training), self.spec.settings.retrain_batch_size)
        whole = 8 * self.search.steps + retraining
        left = 8 * (self.search.steps - self.search.step) + (self.race.steps_left if self.race else retraining)
        return max(0.0, (whole - left) / whole)

    def advance(self) -> list[dict[str, Any]]:
        """Take one step; returns the journal lines it gives rise to, the same on every worker."""
        lines = self._search_step() if not self.search.done else self._retraining_step()
        for line in lines:
            if line["kind"] == "epoch":
                line["progress"] = self.progress
        return lines

    def _search_step(self) -> list[dict[str, Any]]:
        lines = self.search.advance()
        for line in lines:
            if line["kind"] == "architecture":
                architecture = self.architectures[line["budget"]]
                line |= cost_of(architecture) | {"path": path(line["budget"])}
        for budget in [line["budget"] for line in lines if line["kind"] == "architecture"]:
            asked, widths = self.spec.settings.width_divisor, self.architectures[budget].widths
            if (divisor := divisor_of(widths, asked)) < asked:
                told = ", ".join(map(str, widths))
                message = (
                    f"the network for {budget} has {told} channels: multiples of {divisor} from {WIDE} on, since with "
                    f"multiples of {asked} its stages would be out of proportion, or leave more of the budget"
                )
                lines.append({"kind": "warning", "message": message})
        if self.spec.finals.candidates > 1:
            self.snapshots += [line["architecture"] for line in lines if line["kind"] == "snapshot"]
        return lines

    def _retraining_step(self) -> list[dict[str, Any]]:
        if self.race is None:
            self.race = self._race(self._contenders())
        lines = self.race.advance()
        if (delivered := self.race.delivered) is not None:
            self.weights.setdefault(delivered.contender.budget, delivered.weights)  # the best comes first
        return lines

    def _race(self, contenders: Sequence[Contender]) -> Race:
        # A worker that trains alone computes as all do, whatever its own device could.
        engine = replace(self.spec.engine, precision=self.search.engine.precision)
        spec = replace(self.spec, engine=engine)
        return Race(spec, contenders, self.data, self.device, self._start, self.search.compute, self._fits)

    def _fits(self, network: Architecture | Reference) -> bool:
        """Whether a worker that trains a network alone keeps no more for its backward pass than in the search."""
        space, settings, engine = self.spec.space, self.spec.settings, self.search.engine
        searched = min(settings.batch_size, len(self.data.parts["weights"])) // parallel.world()[1]
        trained = -(-min(settings.retrain_batch_size, len(self.data.training)) // settings.retrain_accumulation)
        return trainee_per_image(network, settings, engine) * trained <= supernet_per_image(space, engine) * searched

    def _contenders(self) -> list[Contender]:
        """The networks that are retrained, by budget: what was found for it, others that were passed, and baselines."""
        found = list[Contender]()
        for budget in self.spec.budgets:
            latency, passed = self.search.fitting.latencies.get(budget), self._passed(budget)
            found.append(Contender(len(found), budget, "search", self.architectures[budget], latency, own=True))
            found[-1].label = "searched" if passed else None
            for number, (other, took, times) in enumerate(passed, start=2):
                label = f"searched {number}: cut at {times:.3g} × the budget"
                found.append(Contender(len(found), budget, "search", other, took, label=label))
            for origin in self.spec.finals.baselines:
                contender = Contender(len(found), budget, origin, None)
                try:
                    contender.architecture = baseline(origin, self.spec, budget, self.spec.seed)
                    check_latency(contender.architecture, origin, self.spec, self.device)
                except ValueError as error:
                    contender.outcome, contender.reason = "dropped", f"no {origin} network for {budget}: {error}"
                found.append(contender)
        return found

    def _passed(self, budget: int) -> list[tuple[Architecture, Latency | None, float]]:
        """Up to `candidates` − 1 networks besides a budget's own that use it up, with their latency where it counts,
        and how many times the budget the search cost then.

        They are what lived when the search cost `SPREAD` times the budget, a `SPREAD`th, and so on outwards.
        """
        passed = [Architecture.from_dict(one) for one in self.snapshots]
        known = [self.architectures[budget].parts()]
        found: list[tuple[Architecture, Latency | None, float]] = []
        for times in chain.from_iterable((SPREAD**far, SPREAD**-far) for far in range(1, FURTHEST + 1)):
            wanted = times * budget
            # On the other side of that cost than the budget.
            beyond = [one for one in passed if (one.multiply_adds - wanted) * (times - 1) >= 0]
            if len(found) == self.spec.finals.candidates - 1 or not beyond:
                continue
            nearest = min(beyond, key=lambda one: abs(one.multiply_adds - wanted))
            with suppress(ValueError):  # where what lived then cannot be made small or fast enough
                fitted, took = self.search.fitting.measured(nearest, budget)
                if fitted.parts() not in known:
                    known.append(fitted.parts())
                    found.append((fitted, took, nearest.multiply_adds / budget))
        return found

    def _start(self, budget: int) -> dict[str, Tensor] | None:
        """The state that the retraining of a budget's own network starts from, the same on all workers.

        None is from scratch, which every network starts from that was not cut from the supernet.
        """
        if self.spec.settings.retrain_start == "scratch" or budget not in self.search.candidates:
            return None
        candidate, random = self.search.candidates[budget], generator(self.spec.seed, "start", budget)
        return parallel.first(lambda: inherited(self.architectures[budget], candidate.supernet(), random))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what is already found."""
        return {
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "search": self.search.state_dict(),
            "snapshots": self.snapshots,
            "race": self.race.state_dict() if self.race else None,
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the job that `state_dict` described.

        Raises `InvalidValue` where that is of another version or specification; only the workers may be others, since a
        step takes the same images however many share them.
        """
        if (version := state.get("version", 1)) != VERSION:
            reason = "of an incompatible version of Yoso"
            raise InvalidValue("checkpoint", f"version {version}", reason, f"version {VERSION}; start a new search")
        # Read and written again, it has the fields that are younger than the checkpoint.
        theirs, ours = (_deciding(spec.to_dict()) for spec in (SearchSpec.from_dict(state["spec"]), self.spec))
        differing = sorted(field for field in theirs | ours if theirs.get(field) != ours.get(field))
        if differing:
            given, wanted = ({field: values.get(field) for field in differing} for values in (theirs, ours))
            reason = "of a search with other values of " + ", ".join(differing)
            raise InvalidValue("checkpoint", given, reason, f"one of a search with {wanted}")
        self.search.load_state_dict(state["search"])
        self.weights, self.snapshots = dict(state["weights"]), list(state["snapshots"])
        self.race = None
        if state["race"] is not None:
            self.race = self._race([])
            self.race.load_state_dict(state["race"])


def _deciding(spec: dict[str, Any]) -> dict[str, Any]:
    """All of a specification (JSON values) but its workers, by field: `seed`, `space.share`, `settings.gamma`."""
    fields = {name: value for name, value in spec.items() if name not in (*PARTS, *INDIFFERENT)}
    for part in PARTS:
        fields |= {f"{part}.{name}": value for name, value in spec[part].items()}
    return fields
