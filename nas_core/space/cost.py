"""What a network costs: multiply-adds, parameters, memory access and memory, counted without building it.

One multiply-add counts 1; convolutions and the classifier count, BN, ReLU, pools, means and gates' products do not
(what the paper calls FLOPs). Memory access is the paper's eq. 10: the activations that an operation's layers read and
write plus their weights, where BN and ReLU are part of the layer before them.

Widths may be integers or numpy integer arrays, in which case the costs are arrays too: the fit of the widths to a
budget counts thousands of candidates at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nas_core.space.operations import Convolution, Normalise, SqueezeExcite, flow

if TYPE_CHECKING:
    from nas_core.space.space import Architecture, SearchSpace


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


def squeeze_excite(layer: SqueezeExcite, channels: Any, size: int) -> Cost:
    """Gates on `channels` of `size`×`size` pixels, which are read for their means and again for the product."""
    squeezed = layer.squeezed(channels)
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
                total += squeeze_excite(layer, channels, size)
            case _:
                total += Cost(memory_access=2 * size * size * channels)
    if all(isinstance(layer, Normalise) for layer, _ in layers):
        total += Cost(memory_access=2 * size * size * width)
    return total


def output_edge(width: Any, size: int) -> Cost:
    """One operation's share of the block's output: its own 1×1 convolution."""
    return convolution(1, width, width, size)


def pieces(architecture: Architecture, widths: Any = None) -> list[tuple[str, list[tuple[str, Cost]]]]:
    """The network's parts in order, by name, each as the pieces that it is made of, by name too.

    An operation goes by its node's name (`Architecture.node_name`). `widths` replaces the architecture's own.
    """
    space = architecture.space
    widths = architecture.widths if widths is None else widths
    found: list[tuple[str, list[tuple[str, Cost]]]] = []

    channels, size = space.channels_in, space.image_size
    stem = []
    for index, stride in enumerate(space.stem):
        out = widths[0] if index == len(space.stem) - 1 else widths[0] // 2
        size = -(-size // stride)
        stem.append((f"conv3 {index + 1}", convolution(3, channels, out, size, stride) + normalisation(out)))
        channels = out
    found.append(("stem", stem))

    stages = space.stage_of_block
    for index, block in enumerate(architecture.blocks):
        stage = stages[index]
        width, size = widths[stage], space.resolution(stage)
        first = index == 0 or stages[index - 1] != stage
        inside = [("shortcut", convolution(1, width, width, size) + normalisation(width))] if first else []
        for node in block.operations:
            inside.append((architecture.node_name(node), operation(space.operation(node), width, size)))
        if block.outputs:
            edges = [output_edge(width, size) for _ in block.outputs]
            inside.append(("output", sum(edges, normalisation(width))))
        found.append((f"block{index + 1}", inside))
        if stage + 1 < len(space.blocks) and (index + 1 == len(stages) or stages[index + 1] != stage):
            small, wide = space.resolution(stage + 1), widths[stage + 1]
            branches = [
                (f"conv{kernel}", convolution(kernel, width, wide, small, 2) + normalisation(wide))
                for kernel, strength in zip((1, 3), architecture.reductions[stage].strengths, strict=True)
                if strength > 0
            ]
            found.append((f"reduction{stage + 1}", branches))

    last = widths[-1]
    classifier = Cost(multiply_adds=last * space.classes, parameters=last * space.classes + space.classes)
    found.append(("head", [("normalisation", normalisation(last)), ("classifier", classifier)]))
    return found


def parts(architecture: Architecture, widths: Any = None) -> list[tuple[str, Cost]]:
    """The network's parts in order, by name, each with its cost; `widths` replaces the architecture's own."""
    return [(name, sum((one for _, one in inside), Cost())) for name, inside in pieces(architecture, widths)]


def total(architecture: Architecture, widths: Any = None) -> Cost:
    """The whole network's cost; `widths` replaces the architecture's own."""
    return sum((cost for _, cost in parts(architecture, widths)), Cost())


def memory_access_weights(space: SearchSpace) -> list[list[float]]:
    """The L1 weights of adaptive memory access (paper, eq. 10), for each vector of λ, in the order of `space.edges()`.

    An edge into an operation weighs that operation's memory access, and an edge into the block's output that of its
    own 1×1 convolution, over the largest of the block's operations, at the supernet's width and resolution. So the
    edges into that operation weigh 1, and only an output edge may weigh more. There is one vector a block, or one
    in all where the blocks share their λ, with the memory access of all blocks together.
    """
    stages = space.stage_of_block
    vectors = []
    for group in [stages] if space.share else [(stage,) for stage in stages]:
        places = [(space.widths[stage], space.resolution(stage)) for stage in group]
        into_operation = {
            name: sum(operation(name, width, size).memory_access for width, size in places) for name in space.operations
        }
        into_output = sum(output_edge(width, size).memory_access for width, size in places)
        largest = max(into_operation.values())
        vectors.append(
            [
                (into_output if target > space.nodes else into_operation[space.operation(target)]) / largest
                for _, target in space.edges()
            ]
        )
    return vectors


class _Step(NamedTuple):
    """Writes a tensor of so many elements; reads those of earlier steps and may write `over` some of them."""

    elements: Any
    reads: tuple[int, ...]
    over: tuple[int, ...]


class _Steps(list[_Step]):
    """What inference does in turn; a tensor is known by the number of the step that writes it."""

    def write(self, elements: Any, *reads: int, over: tuple[int, ...] = ()) -> int:
        """Add a step; returns the number of what it writes."""
        self.append(_Step(elements, reads, over))
        return len(self) - 1

    def elementwise(self, elements: Any, *reads: int) -> int:
        """Add a step that may write over anything it reads."""
        return self.write(elements, *reads, over=reads)

    def conv_bn_relu(self, elements: Any, x: int) -> int:
        """Add a convolution and what follows it."""
        return self.elementwise(elements, self.write(elements, x))

    def sum(self, elements: Any, terms: list[int]) -> int:
        """Add the additions of `terms`, one after the other; a single one is its own sum."""
        total, *others = terms
        for term in others:
            total = self.elementwise(elements, total, term)
        return total


def peak_activations(architecture: Architecture, widths: Any = None) -> Any:
    """The most elements of activations that inference of one image holds at once; `widths` as in `total`.

    Inference takes the steps of `network.Network` in its order. Steps are convolutions, pools, means, the
    concatenation (also of one operation) and the classifier, each of which writes a new tensor, and BN, ReLU,
    additions of two tensors and products with gates, which write over an input (of a product: over what is gated) if
    no later step reads that, and a new tensor otherwise. A tensor, the image included, is held from the step that
    writes it to the last that reads it, that step included; the peak is the largest sum over what is held during a
    step. Weights and what a kernel needs for itself do not count.
    """
    steps = _steps(architecture, architecture.widths if widths is None else widths)
    last_read = {read: number for number, step in enumerate(steps) for read in step.reads}
    held: Any = 0
    peak: Any = 0
    for number, step in enumerate(steps):
        freed = {read for read in step.reads if last_read[read] == number}
        reused = not freed.isdisjoint(step.over)
        held = held + (0 if reused else step.elements)
        peak = peak + (held - peak) * (held > peak)  # the larger one, of arrays too
        held = held + (step.elements if reused else 0) - sum(steps[read].elements for read in freed)
    return peak


def _steps(architecture: Architecture, widths: Any) -> _Steps:
    space, stages = architecture.space, architecture.space.stage_of_block
    steps = _Steps()
    size = space.image_size
    x = steps.write(space.channels_in * size * size)
    for index, stride in enumerate(space.stem):
        out = widths[0] if index == len(space.stem) - 1 else widths[0] // 2
        size = -(-size // stride)
        x = steps.conv_bn_relu(out * size * size, x)

    for index, (stage, block) in enumerate(zip(stages, architecture.blocks, strict=True)):
        width, size = widths[stage], space.resolution(stage)
        elements = width * size * size
        first = index == 0 or stages[index - 1] != stage
        if first and stage > 0:
            strengths = architecture.reductions[stage - 1].strengths
            x = steps.sum(elements, [steps.conv_bn_relu(elements, x) for strength in strengths if strength > 0])
        shortcut = steps.conv_bn_relu(elements, x) if first else x
        if not block.outputs:
            x = shortcut
            continue
        node_out = {0: x}
        for node in block.operations:
            entering = steps.sum(elements, [node_out[source] for source in block.inputs(node)])
            node_out[node] = _operation_steps(steps, space.operation(node), width, size, entering)
        joined = steps.write(len(block.outputs) * elements, *(node_out[node] for node in block.outputs))
        x = steps.elementwise(elements, shortcut, steps.conv_bn_relu(elements, joined))

    head = steps.elementwise(widths[-1] * size * size, x)
    steps.write(space.classes, steps.write(widths[-1], head))
    return steps


def _operation_steps(steps: _Steps, name: str, width: Any, size: int, x: int) -> int:
    for layer, multiple in flow(name):
        channels = multiple * width
        match layer:
            case Convolution():
                x = steps.write(layer.multiple * width * size * size, x)
            case Normalise():
                x = steps.elementwise(channels * size * size, x)
            case SqueezeExcite():
                squeezed = steps.write(layer.squeezed(channels), steps.write(channels, x))
                gates = steps.write(channels, squeezed)
                x = steps.write(channels * size * size, x, gates, over=(x,))
            case _:
                x = steps.write(channels * size * size, x)
    return steps.elementwise(width * size * size, x)
