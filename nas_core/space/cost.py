"""What a network costs: multiply-adds, parameters and memory access, counted without building it.

One multiply-add counts 1; convolutions and the classifier count, BN, ReLU, pools, means and gates' products do not
(what the paper calls FLOPs). Memory access is the paper's eq. 10: the activations that an operation's layers read and
write plus their weights, where BN and ReLU are part of the layer before them.

Widths may be integers or numpy integer arrays, in which case the costs are arrays too: the fit of the widths to a
budget counts thousands of candidates at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nas_core.space.operations import Convolution, Normalise, SqueezeExcite, flow
from nas_core.space.topology import (
    Activate,
    Classify,
    ConvBnAct,
    Dense,
    Gate,
    Half,
    Join,
    MaxPool,
    Mean,
    Operate,
    Part,
    Pool,
    Shuffle,
    Step,
)


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, parameters (all trainable ones) and memory access (elements) of a part of a network."""

    multiply_adds: Any = 0
    parameters: Any = 0
    memory_access: Any = 0

    def __add__(self, other: "Cost") -> "Cost":
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


def dense(channels_in: Any, channels_out: Any) -> Cost:
    """A matrix with a bias."""
    weights = channels_in * channels_out
    return Cost(multiply_adds=weights, parameters=weights + channels_out)


def squeeze_excite(channels: Any, squeezed: Any, size: int) -> Cost:
    """Gates on `channels` of `size`×`size` pixels, which are read for their means and again for the product."""
    biases = squeezed + channels
    gates = convolution(1, channels, squeezed, 1) + convolution(1, squeezed, channels, 1)
    return gates + Cost(parameters=biases, memory_access=biases + 3 * size * size * channels + 2 * channels)


def operation(name: str, width: Any, size: int) -> Cost:
    """A candidate operation with its closing BN, on `width` channels of `size`×`size` pixels.

    One without any layer that its BN could be part of reads its input and writes its output for the BN alone.
    """
    total = normalisation(width)
    layers = flow(name)
    for layer, multiple in layers:
        channels = multiple * width
        match layer:
            case Convolution(kernel, depthwise):
                groups = channels if depthwise else 1
                total += convolution(kernel, channels, layer.multiple * width, size, groups=groups)
            case Normalise():
                total += normalisation(channels)
            case SqueezeExcite():
                total += squeeze_excite(channels, layer.squeezed(channels), size)
            case _:
                total += Cost(memory_access=2 * size * size * channels)
    if all(isinstance(layer, Normalise) for layer, _ in layers):
        total += Cost(memory_access=2 * size * size * width)
    return total


def output_edge(width: Any, size: int) -> Cost:
    """One operation's share of the block's output: its own 1×1 convolution."""
    return convolution(1, width, width, size)


def of(step: Step) -> Cost:
    """What a step of a network costs."""
    match step:
        case ConvBnAct():
            convolved = convolution(
                step.kernel, step.channels_in, step.channels, step.size, step.stride, groups=step.groups
            )
            return convolved + normalisation(step.channels)
        case Operate():
            return operation(step.operation, step.channels, step.size)
        case Join():
            return sum([output_edge(step.channels, step.size)] * len(step.reads), normalisation(step.channels))
        case Pool():
            return normalisation(step.channels)
        case Classify():
            return dense(step.channels, step.classes)
        case Dense():
            return dense(step.channels_in, step.channels)
        case Gate():
            return squeeze_excite(step.channels, step.squeezed, step.size)
        case MaxPool():
            return Cost(memory_access=(2 * step.size) ** 2 * step.channels + step.size**2 * step.channels)
        case Activate() | Half() | Shuffle() | Mean():
            return Cost()


def of_part(part: Part) -> Cost:
    """What a part of a network costs."""
    return sum(map(of, part.steps), Cost())


def total(parts: Iterable[Part]) -> Cost:
    """What the whole network of `parts` costs."""
    return sum(map(of_part, parts), Cost())
