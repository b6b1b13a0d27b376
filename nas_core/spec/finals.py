"""What a user may decide about the finals of a search, and for how long the networks in them train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, Self, get_args

from nas_core.errors import InvalidValue, refuse_unknown
from nas_core.space import FAMILIES, Family, Origin
from nas_core.spec.checks import check, whole

BASELINES = tuple(origin for origin in get_args(Origin) if origin != "search")
"""Networks that are not searched for: what is left of the space without a search, and families of reference networks.
"""
DEFAULT_BASELINES: tuple[Family, ...] = ("resnet", "mobilenetv3")
"""What competes where a request does not say: ResNets, the best by hand on small photographs, and on larger ones a
family with depthwise convolutions."""


@dataclass(frozen=True)
class FinalsOptions:
    """Which networks a search retrains for each budget, of which the best on the validation part is delivered.

    Of its own there are `candidates`: the network that it found for the budget, and others that it passed on its way
    down, whose widths then use the budget up. Beside them compete the `baselines` (`BASELINES`, once each). Raises
    `InvalidValue` where a field cannot be used.
    """

    candidates: int = whole(1, 1, 16)
    baselines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self, "finals")
        if type(self.baselines) not in (tuple, list):
            accepted = f"a list of {', '.join(BASELINES)}, or an empty one"
            raise InvalidValue("finals.baselines", self.baselines, "not a list", accepted)
        for name in self.baselines:
            if name not in BASELINES:
                raise InvalidValue("finals.baselines", name, "no such networks", "some of " + ", ".join(BASELINES))
        object.__setattr__(self, "baselines", tuple(dict.fromkeys(self.baselines)))

    @property
    def competing(self) -> bool:
        """Whether there is more than one network for a budget."""
        return self.candidates > 1 or bool(self.baselines)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {"candidates": self.candidates, "baselines": list(self.baselines)}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The options that `to_dict` described, or what a user gives.

        Raises `InvalidValue` for an unknown option or one that cannot be used.
        """
        refuse_unknown("finals", values, [field.name for field in fields(cls)], "option")
        return cls(**values)


NO_FINALS = FinalsOptions()


REDUCTION = 2
"""Of the networks that are judged together about one in so many goes on at each rung; rungs are as much further apart.
"""
FIRST_RUNG = 4
"""No network is stopped before one part in so many of its epochs, nor in the second half, where little is left to save.

Earlier rungs save more and lose more (`benchmarks/finalists.py`).
"""
Side = Literal["search", "reference"]


def rungs(epochs: int) -> list[int]:
    """The epochs after which networks may be stopped: successive halving's rungs that lie in the first half."""
    found, rung = [], max(1, epochs // FIRST_RUNG)
    while rung <= epochs // 2:
        found.append(rung)
        rung *= REDUCTION
    return found


def side_of(origin: str) -> Side | None:
    """Among which networks of its budget one of this `origin` is judged at the rungs; None for a control."""
    return "search" if origin == "search" else "reference" if origin in FAMILIES else None


def survivors(count: int) -> int:
    """How many of so many networks that are judged together go on: the better half, and the one in the middle."""
    return -(-count // REDUCTION)


def epochs_from(count: int, targets: Sequence[int]) -> int:
    """Epochs from the first of the `targets` on, of so many networks of which the worse half stops at each."""
    epochs = 0
    for before, after in pairwise(targets):
        count = survivors(count)
        epochs += count * (after - before)
    return epochs


def planned_epochs(finals: FinalsOptions, epochs: int) -> int:
    """How many epochs the networks of one budget train together, before it is known which there are; a network that
    is not stopped trains for `epochs`."""
    sides = [side_of(name) for name in finals.baselines]
    each = [finals.candidates, sides.count("reference"), *[1] * sides.count(None)]
    targets = [0, *rungs(epochs), epochs]
    return sum(count * targets[1] + epochs_from(count, targets[1:]) for count in each)
