"""One job from beginning to end: the search, then the retraining of each budget's architecture."""

from typing import Any

import torch
from torch import Tensor

from nas_core import parallel
from nas_core.data.loading import Data, steps_per_epoch
from nas_core.errors import InvalidValue
from nas_core.search.search import Search
from nas_core.search.spending import WIDE, divisor_of
from nas_core.seeds import generator
from nas_core.space import Architecture, Genotype
from nas_core.spec import SearchSpec
from nas_core.supernet.inherit import inherited
from nas_core.train.evaluation import Evaluation
from nas_core.train.retrain import Retraining

VERSION = 4
"""Of what `SearchJob.state_dict` gives. Before version 4 the fixed L1 could take the cost ahead of the schedule, which
ended with the search; before 3 BN was Yoso's own, and before 2 every block's λ a tensor."""

INDIFFERENT = ("workers", "min_workers", "cpus_per_worker", "gpus_per_worker", "accelerator_type", "export")
"""The fields of a specification that change nothing of what a search finds."""
PARTS = ("space", "settings", "engine")
"""Those that have fields of their own, each of which does."""


class SearchJob:
    """A search and the retraining of what it finds, as one resumable sequence of steps.

    `architectures` fills by budget while the search runs; `weights` (state dicts on the CPU) and `results` fill as
    networks are retrained, the smallest budget first; where `spec.retrain` is off, `results` tells what was found. With
    torch.distributed initialised, all workers go through it in step.
    """

    def __init__(self, spec: SearchSpec, data: Data, device: torch.device | str) -> None:
        self.spec, self.data, self.device = spec, data, torch.device(device)
        self.search = Search(spec, data, device)
        self.retraining: Retraining | None = None
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.results: list[dict[str, Any]] = []
        self.evaluation: Evaluation | None = None
        """How the network that was retrained last did in the test."""
        complete = spec.space.complete()
        self.supernet_cost = {"multiply_adds": complete.multiply_adds, "parameters": complete.parameters}

    @property
    def architectures(self) -> dict[int, Architecture]:
        """The architectures found so far, by budget."""
        return self.search.architectures

    @property
    def compute(self) -> dict[str, int | None]:
        """The multiply-adds of all forward passes behind, of the search and of training what it found."""
        trained = [result["compute"]["training"] for result in self.results if "compute" in result]
        current = self.retraining.compute if self.retraining else 0
        return {"search": self.search.compute, "training": sum(trained) + current}

    @property
    def done(self) -> bool:
        """Whether the last network is retrained, or found where none is."""
        return len(self.results) == len(self.spec.budgets)

    @property
    def progress(self) -> float:
        """The share of the job that is done, by estimated work: 0 … 1.

        A step of the supernet counts as eight of a derived network, as measured on the digits.
        """
        epochs = self.spec.settings.retrain_epochs * len(self.spec.budgets) if self.spec.retrain else 0
        steps = steps_per_epoch(len(self.data.training), self.spec.settings.retrain_batch_size)
        whole = 8 * self.search.steps + steps * epochs
        retrained = len(self.results) * steps * self.spec.settings.retrain_epochs
        current = self.retraining.step if self.retraining and not self.done else 0
        return min(1.0, (8 * self.search.step + retrained + current) / whole)

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
        if self.search.done and not self.spec.retrain:
            self.results = [{"budget": budget} | cost_of(self.architectures[budget]) for budget in self.spec.budgets]
        return lines

    def _retraining_step(self) -> list[dict[str, Any]]:
        budget = self.spec.budgets[len(self.results)]
        lines: list[dict[str, Any]] = []
        if self.retraining is None:
            start = self._start(budget)
            self.retraining = Retraining(self.spec, self.architectures[budget], self.data, self.device, start)
            lines.append({"kind": "phase", "phase": "retrain", "budget": budget})
        lines += [line | {"budget": budget} for line in self.retraining.advance()]
        if self.retraining.done:
            self.evaluation = self.retraining.test()
            epochs = self.retraining.epochs
            compute = {"search": self.search.compute, "training": self.retraining.compute}
            result = {"budget": budget, "epochs": epochs, "start": self.retraining.start, "compute": compute}
            result |= cost_of(self.architectures[budget]) | self.evaluation.summary()
            state = self.retraining.delivered.state_dict()
            self.weights[budget] = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
            self.results.append(result)
            self.retraining = None
            told = {"kind": "retrained", "epoch": epochs, "path": path(budget)}
            lines.append(told | result)
        return lines

    def _start(self, budget: int) -> dict[str, Tensor] | None:
        """The state that a network's retraining starts from, the same on all workers.

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
            "retraining": self.retraining.state_dict() if self.retraining else None,
            "weights": self.weights,
            "results": self.results,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the job that `state_dict` described.

        Raises `InvalidValue` where that is of another version or specification; only the workers may be others, since a
        step takes the same images however many share them.
        """
        if (version := state.get("version", 1)) != VERSION:
            reason = "of another version of Yoso, which searched otherwise or kept its networks otherwise"
            raise InvalidValue("checkpoint", f"version {version}", reason, f"version {VERSION}; start the search anew")
        # Read and written again, it has the fields that are younger than the checkpoint.
        theirs, ours = (_deciding(spec.to_dict()) for spec in (SearchSpec.from_dict(state["spec"]), self.spec))
        differing = sorted(field for field in theirs | ours if theirs.get(field) != ours.get(field))
        if differing:
            given, wanted = ({field: values.get(field) for field in differing} for values in (theirs, ours))
            reason = "of a search with other values of " + ", ".join(differing)
            raise InvalidValue("checkpoint", given, reason, f"one of a search with {wanted}")
        self.search.load_state_dict(state["search"])
        self.weights, self.results = dict(state["weights"]), list(state["results"])
        self.retraining = None
        if state["retraining"] is not None:
            budget = self.spec.budgets[len(self.results)]
            self.retraining = Retraining(self.spec, self.architectures[budget], self.data, self.device)
            self.retraining.load_state_dict(state["retraining"])


def _deciding(spec: dict[str, Any]) -> dict[str, Any]:
    """All of a specification (JSON values) but its workers, by field: `seed`, `space.share`, `settings.gamma`."""
    fields = {name: value for name, value in spec.items() if name not in (*PARTS, *INDIFFERENT)}
    for part in PARTS:
        fields |= {f"{part}.{name}": value for name, value in spec[part].items()}
    return fields


def path(budget: int) -> str:
    """Where a budget's files are, below the run's folder."""
    return f"architectures/{budget}"


def cost_of(architecture: Genotype) -> dict[str, int]:
    """What a network costs, as a journal line or a result tells it."""
    return {
        "multiply_adds": architecture.multiply_adds,
        "parameters": architecture.parameters,
        "activations": architecture.peak_activations,
    }
