"""What a network is, without its weights: what is joined together, and what that costs."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from nas_core.errors import InvalidValue
from nas_core.space import cost, memory
from nas_core.space.topology import Part


class Genotype(ABC):
    """A network without its weights, which tells its `parts`; all costs are counted on them.

    `widths` are the channels that it may be scaled by.
    """

    widths: tuple[int, ...]

    @abstractmethod
    def parts(self, widths: Sequence[Any] | None = None) -> tuple[Part, ...]:
        """The network's parts in order; `widths`, which may be arrays of them, replace its own."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many classes it tells apart."""

    @property
    @abstractmethod
    def fewest(self) -> tuple[int, ...]:
        """The smallest widths that it may have."""

    @property
    @abstractmethod
    def tapped(self) -> str | None:
        """The part whose output an auxiliary head reads in training; None where none would do."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The network as JSON values."""

    @classmethod
    @abstractmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The network that `to_dict` described. Raises `InvalidValue`."""

    @cached_property
    def cost(self) -> cost.Cost:
        """Multiply-adds, parameters and memory access of the network for one image."""
        return cost.total(self.parts())

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass: convolutions and the classifier."""
        return int(self.cost.multiply_adds)

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return int(self.cost.parameters)

    @property
    def peak_activations(self) -> int:
        """The most elements of activations that inference of one image holds at once; see `memory.peak_activations`."""
        return int(memory.peak_activations(self.parts()))

    def to_json(self) -> str:
        """The network as a JSON text that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The network in a JSON text. Raises `InvalidValue` where the text is not one."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidValue("architecture", str(error), "not JSON", "what to_json wrote") from error
        return cls.from_dict(values)
