"""What a user may decide about how a search is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from nas_core.errors import refuse_unknown
from nas_core.spec.checks import check, choice, switch

PRECISIONS = ("auto", "float32", "tf32", "bfloat16")
"""In which precision a training step multiplies: what suits the device (`auto`: bfloat16 on GPUs that have it, and
otherwise float32); float32; float32 with factors rounded to 10 bits, on GPUs (`tf32`); or bfloat16 wherever torch's
autocast allows it. Weights, λ, their gradients and their steps are float32 in all of them."""


@dataclass(frozen=True)
class EngineOptions:
    """How a search is computed. Raises `InvalidValue` where a field cannot be used.

    With `synchronised_bn` BN normalises a training step by the statistics of all workers' images, so that the number of
    workers changes nothing; without, each worker by its own share, which needs no message within a pass, and is
    another training for another number of workers.

    `precision` is one of `PRECISIONS`. With `compile` torch.compile compiles each block for training, anew after each
    removal of what is dead; with `recompute` a block keeps its input alone for the backward pass and computes the
    rest a second time, so that larger batches fit. What a device cannot do, only the worker on it can tell
    (`nas_core.train.engine`).
    """

    synchronised_bn: bool = switch(True)
    precision: str = choice("auto", PRECISIONS)
    compile: bool = switch(False)
    recompute: bool = switch(False)

    def __post_init__(self) -> None:
        check(self, "engine")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The options that a user gives. Raises `InvalidValue` for an unknown option or one that cannot be used."""
        refuse_unknown("engine", values, [field.name for field in fields(cls)], "option")
        return cls(**values)


NO_ENGINE_OPTIONS = EngineOptions()
