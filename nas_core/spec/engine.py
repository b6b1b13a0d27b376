"""What a user may decide about how a search is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from nas_core.errors import refuse_unknown
from nas_core.spec.checks import check, switch


@dataclass(frozen=True)
class EngineOptions:
    """How a search is computed. Raises `InvalidValue` where a field cannot be used.

    With `synchronised_bn` BN normalises a training step by the statistics of all workers' images, so that the number of
    workers changes nothing; without, each worker by its own share, which needs no message within a pass, and is
    another training for another number of workers.
    """

    synchronised_bn: bool = switch(True)

    def __post_init__(self) -> None:
        check(self, "engine")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The options that a user gives. Raises `InvalidValue` for an unknown option or one that cannot be used."""
        refuse_unknown("engine", values, [field.name for field in fields(cls)], "option")
        return cls(**values)


NO_ENGINE_OPTIONS = EngineOptions()
