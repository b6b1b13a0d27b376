"""What a network may cost: budgets, and limits besides them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from nas_core.errors import InvalidValue, refuse_unknown
from nas_core.space import SearchSpace
from nas_core.spec.checks import LARGEST

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_COUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e\+?([0-9]{1,2}))?\s*([kmg]?)\s*", re.IGNORECASE)


def parse_count(value: Any, field: str = "budgets", unit: str = "multiply-adds") -> int:
    """A number of `unit`: 600000000, 6e8, "6e8" and "600M" are the same; k, M and G are powers of 1000.

    Raises `InvalidValue` for anything that is not a positive number.
    """
    accepted = f'a positive number of {unit} such as 600000000, 6e8 or "600M"'
    number: float | None = None
    if isinstance(value, str) and (match := _COUNT.fullmatch(value)):
        number = float(f"{match[1]}e{match[2] or 0}") * _SUFFIXES[match[3].lower()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    if number is None or not abs(number) < 2**63:  # as many as a database counts
        raise InvalidValue(field, value, f"not a number of {unit}", accepted)
    if round(number) <= 0:
        raise InvalidValue(field, value, "not above zero", accepted)
    return round(number)


def infeasible(budget: int, space: SearchSpace) -> InvalidValue | None:
    """What is wrong with a budget for which `space` holds no network, or None where it holds one."""
    smallest, largest = space.feasible_budgets()
    if smallest <= budget <= largest:
        return None
    reason = f"not feasible: too {'small' if budget < smallest else 'large'} for this search space"
    return InvalidValue("budgets", budget, reason, f"{smallest} to {largest} multiply-adds")


@dataclass(frozen=True)
class Limits:
    """What every network of a search keeps besides its budget; None is no limit.

    `parameters` trainable ones; `activations` the elements that inference of one image holds at once
    (`Architecture.peak_activations`); `latency_ms` the milliseconds that one image takes on the search's device, with
    the threads of one worker. Raises `InvalidValue` where a limit cannot be used.
    """

    parameters: int | None = None
    activations: int | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "activations"):
            count = getattr(self, name)
            if count is not None and (type(count) is not int or count < 1):
                raise InvalidValue(f"limits.{name}", count, "not a usable number", "an integer above 0")
        latency = self.latency_ms
        if latency is not None and (type(latency) not in (int, float) or not 0 < latency <= LARGEST):
            raise InvalidValue(
                "limits.latency_ms", latency, "not a usable number", f"milliseconds, above 0 and at most {LARGEST:g}"
            )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The limits that a user gives; counts may be written as `parse_count` reads them.

        Raises `InvalidValue` for an unknown limit or one that cannot be used.
        """
        refuse_unknown("limits", values, [field.name for field in fields(cls)], "limit")
        units = {"parameters": "parameters", "activations": "elements"}
        counts = {
            name: parse_count(values[name], f"limits.{name}", unit)
            for name, unit in units.items()
            if values.get(name) is not None
        }
        return cls(**{**values, **counts})


NO_LIMITS = Limits()


def unmet(limits: Limits, budget: int, space: SearchSpace) -> list[InvalidValue]:
    """What is wrong with limits that no network of `space` keeps, alone or together with a feasible budget.

    Latency is not judged: that takes the device (`nas_core.search.search`).
    """
    if limits.parameters is None and limits.activations is None:
        return []
    networks = space.single_paths()
    costs = [{"parameters": one.parameters, "activations": one.peak_activations} for one in networks]
    given = {name: limit for name in costs[0] if (limit := getattr(limits, name)) is not None}
    problems = []
    for name, limit in given.items():
        smallest = min(cost[name] for cost in costs)
        if limit < smallest:
            reason = "not feasible: too small for this search space"
            problems.append(InvalidValue(f"limits.{name}", limit, reason, f"{smallest} or more"))
    if problems:
        return problems
    together = given | {"budget": budget}
    costs = [cost | {"budget": one.multiply_adds} for cost, one in zip(costs, networks, strict=True)]
    nearest = min(costs, key=lambda cost: max(cost[name] / limit for name, limit in together.items()))
    if all(nearest[name] <= limit for name, limit in together.items()):
        return []
    accepted = "for example " + " with ".join(f"{name} {nearest[name]}" for name in together)
    return [InvalidValue("limits", together, "not feasible: no network of this search space keeps all", accepted)]
