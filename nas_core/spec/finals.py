"""What a user may decide about the finals of a search: which networks compete for each budget."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, get_args

from nas_core.errors import InvalidValue, refuse_unknown
from nas_core.space import Family, Origin
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
