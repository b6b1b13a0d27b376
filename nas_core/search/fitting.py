"""From what lives of a supernet to a network that uses its budget up and keeps the limits, latency included."""

import math
from dataclasses import replace
from typing import Any

import torch

from nas_core import parallel
from nas_core.errors import InvalidValue
from nas_core.search import latency
from nas_core.search.latency import Latency, LatencyTable
from nas_core.search.spending import effective_cost, fit_widths, narrowest, spend
from nas_core.space import Architecture
from nas_core.spec import SearchSpec
from nas_core.supernet.network import Network

NARROWINGS = 6
"""How often widths between the fewest and those of the budget are halved, in search of those fast enough."""


class Fitting:
    """Fits architectures to the budgets and limits of `spec`.

    Where latency counts there is a `table` of what each part takes on `device`, once `measure_parts` has made it, and
    `latencies` has by budget what was measured of the networks.
    """

    def __init__(self, spec: SearchSpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.table: LatencyTable | None = None
        self.latencies: dict[int, Latency] = {}

    @property
    def wants_table(self) -> bool:
        """Whether latency counts, and no part has been measured yet."""
        counts = self.spec.settings.penalty == "latency" or self.spec.limits.latency_ms is not None
        return counts and self.table is None

    def measure_parts(self) -> None:
        """Make the table. Raises `InvalidValue` where no network is as fast as the limit wants."""
        space, limit, threads = self.spec.space, self.spec.limits.latency_ms, self.spec.cpus_per_worker
        self.table = parallel.first(lambda: latency.measure_table(space, self.device, threads))
        if limit is not None:
            fastest = self._time(self.lightest(self.spec.budgets[0])).median
            if fastest > limit:
                reason = f"no network of this search space is that fast on {self.device} with {threads} threads"
                raise InvalidValue("limits.latency_ms", limit, reason, f"{fastest:.3g} or more")

    def cost(self, architecture: Architecture, budget: float) -> Any:
        """What `architecture` costs by the budget and the limits, in terms of `budget` (`effective_cost`)."""
        return effective_cost(architecture, budget, self.spec.limits, self.table.estimate if self.table else None)

    def lightest(self, budget: int) -> Architecture:
        """The network of the space that uses the least of `budget` and the limits."""
        return min(self.spec.space.single_paths(), key=lambda architecture: self.cost(architecture, budget))

    def keeps(self, architecture: Architecture, budget: int) -> bool:
        """Whether `architecture` is within `budget` and the limits, latency aside, with the fewest channels."""
        return bool(effective_cost(narrowest(architecture), budget, self.spec.limits) <= budget)

    def fit(self, architecture: Architecture, budget: int) -> Architecture:
        """What `spend` makes of the architecture for `budget` and the limits; latency is measured, and kept.

        Raises `InvalidValue` where it is too slow even with the fewest channels.
        """
        fitted, measured = self.measured(architecture, budget)
        if measured is not None:
            self.latencies[budget] = measured
        return fitted

    def measured(self, architecture: Architecture, budget: int) -> tuple[Architecture, Latency | None]:
        """The same, with the latency that was measured where that has a limit."""
        limits, divisor = self.spec.limits, self.spec.settings.width_divisor
        fitted = spend(architecture, budget, limits, divisor)
        if limits.latency_ms is None:
            return fitted, None
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
                wider = fit_widths(architecture, middle, limits, divisor)
                tried = self._time(wider)
                if tried.median <= limits.latency_ms:
                    low, fitted, measured = middle, wider, tried
                else:
                    high = middle
        return fitted, measured

    def _time(self, architecture: Architecture) -> Latency:
        """How long worker 0 takes for one image with a network of `architecture`."""

        def measure() -> Latency:
            with torch.random.fork_rng(devices=[]):
                network = Network(architecture)
            return latency.measure_latency(network, self.spec.cpus_per_worker, device=self.device)

        return parallel.first(measure)

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {
            "latency_table": self.table.to_dict() if self.table else None,
            "latencies": {budget: list(measured) for budget, measured in self.latencies.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know what `state_dict` told."""
        self.table = LatencyTable.from_dict(state["latency_table"]) if state["latency_table"] else None
        self.latencies = {budget: Latency(*measured) for budget, measured in state["latencies"].items()}
