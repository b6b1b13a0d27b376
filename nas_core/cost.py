"""What a network costs: multiply-adds, parameters and memory access, counted without building it.

One multiply-add counts 1; convolutions and the classifier count, BN, ReLU and pools do not (what the paper calls
FLOPs). Memory access is the paper's eq. 10: the activations an operation reads and writes plus its weights.

Widths may be integers or numpy integer arrays, in which case the costs are arrays too: the fit of the widths to a
budget counts thousands of candidates at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_core.operations import OPERATIONS, Convolution

if TYPE_CHECKING:
    from nas_core.architecture import Architecture


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, parameters (all trainable ones) and memory access (elements) of a part of a network."""

    multiply_adds: Any = 0
    parameters: Any = 0
    memory_access: Any = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.multiply_adds + other.multiply_adds,
            self.parameters + other.parameters,
            self.memory_access + other.memory_access,
        )


def convolution(kernel: int, channels_in: Any, channels_out: Any, size: int, stride: int = 1, groups: Any = 1) -> Cost:
    """A convolution without bias on `size`×`size` outputs."""
    weights = kernel * kernel * channels_in * channels_out // groups
    return Cost(
        multiply_adds=size * size * weights,
        parameters=weights,
        memory_access=(size * stride) ** 2 * channels_in + size * size * channels_out + weights,
    )


def normalisation(channels: Any) -> Cost:
    """BN with a learned scale and shift; its arithmetic folds into the convolution before it."""
    return Cost(parameters=2 * channels)


def operation(name: str, width: Any, size: int) -> Cost:
    """A candidate operation with its closing BN, on `width` channels of `size`×`size` pixels."""
    total = normalisation(width)
    for layer in OPERATIONS[name]:
        if isinstance(layer, Convolution):
            total += convolution(layer.kernel, width, width, size, groups=width if layer.depthwise else 1)
        else:
            total += Cost(memory_access=2 * size * size * width)
    return total


def output_edge(width: Any, size: int) -> Cost:
    """One operation's share of the block's output: its own 1×1 convolution."""
    return convolution(1, width, width, size)


def parts(architecture: Architecture, widths: Any = None) -> list[tuple[str, Cost]]:
    """The network's parts in order, by name, each with its cost; `widths` replaces the architecture's own."""
    space = architecture.space
    widths = architecture.widths if widths is None else widths
    counted: list[tuple[str, Cost]] = []

    channels, size = space.channels_in, space.image_size
    stem = Cost()
    for index, stride in enumerate(space.stem):
        out = widths[0] if index == len(space.stem) - 1 else widths[0] // 2
        size = -(-size // stride)
        stem += convolution(3, channels, out, size, stride) + normalisation(out)
        channels = out
    counted.append(("stem", stem))

    stages = space.stage_of_block
    for index, block in enumerate(architecture.blocks):
        stage = stages[index]
        width, size = widths[stage], space.resolution(stage)
        first = index == 0 or stages[index - 1] != stage
        total = convolution(1, width, width, size) + normalisation(width) if first else Cost()
        for node in block.operations:
            total += operation(space.operation(node), width, size)
        for _ in block.outputs:
            total += output_edge(width, size)
        if block.outputs:
            total += normalisation(width)
        counted.append((f"block{index + 1}", total))
        if stage + 1 < len(space.blocks) and (index + 1 == len(stages) or stages[index + 1] != stage):
            small, wide = space.resolution(stage + 1), widths[stage + 1]
            total = Cost()
            for kernel, strength in zip((1, 3), architecture.reductions[stage].strengths, strict=True):
                if strength > 0:
                    total += convolution(kernel, width, wide, small, 2) + normalisation(wide)
            counted.append((f"reduction{stage + 1}", total))

    last = widths[-1]
    head = Cost(multiply_adds=last * space.classes, parameters=last * space.classes + space.classes)
    counted.append(("head", head + normalisation(last)))
    return counted


def total(architecture: Architecture, widths: Any = None) -> Cost:
    """The whole network's cost; `widths` replaces the architecture's own."""
    return sum((cost for _, cost in parts(architecture, widths)), Cost())
