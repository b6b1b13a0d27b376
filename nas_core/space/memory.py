"""How much memory a network's inference holds at once, counted without building it.

Widths may be integers or numpy integer arrays, as in `cost`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from nas_core.space.operations import Convolution, Normalise, SqueezeExcite, flow
from nas_core.space.topology import (
    INPUT,
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


class _Write(NamedTuple):
    """Writes a tensor of so many elements; reads those of earlier writes and may write `over` some of them."""

    elements: Any
    reads: tuple[int, ...]
    over: tuple[int, ...]


class _Writes(list[_Write]):
    """What inference does in turn; a tensor is known by the number of what writes it."""

    def write(self, elements: Any, *reads: int, over: tuple[int, ...] = ()) -> int:
        """Add a tensor; returns its number."""
        self.append(_Write(elements, reads, over))
        return len(self) - 1

    def elementwise(self, elements: Any, *reads: int) -> int:
        """Add a tensor that may be written over anything it reads."""
        return self.write(elements, *reads, over=reads)

    def sum(self, elements: Any, terms: list[int]) -> int:
        """Add the additions of `terms`, one after the other; a single one is its own sum."""
        total, *others = terms
        for term in others:
            total = self.elementwise(elements, total, term)
        return total

    def step(self, step: Step, reads: list[int]) -> int:
        """Add what `step` writes from the tensors that it reads."""
        match step:
            case ConvBnAct(channels=channels, size=size):
                elements = channels * size * size
                return self.elementwise(elements, self.write(elements, *reads))
            case Operate(operation=name, channels=channels, size=size):
                return self.operation(name, channels, size, self.sum(channels * size * size, reads))
            case Join(channels=channels, size=size):
                elements = channels * size * size
                joined = self.write(len(reads) * elements, *reads)
                return self.elementwise(elements, self.write(elements, joined))
            case Pool(channels=channels, size=size):
                return self.write(channels, self.elementwise(channels * size * size, *reads))
            case Classify(classes=classes):
                return self.write(classes, *reads)
            case Dense(channels=channels):
                return self.elementwise(channels, self.write(channels, *reads))
            case Activate(channels=channels, size=size):
                elements = channels * size * size
                return self.elementwise(elements, self.sum(elements, reads))
            case Gate(channels=channels, squeezed=squeezed, size=size):
                return self.gate(channels, squeezed, size, *reads)
            case MaxPool(channels=channels, size=size) | Shuffle(channels=channels, size=size):
                return self.write(channels * size * size, *reads)
            case Mean(channels=channels):
                return self.write(channels, *reads)
            case Half():
                [whole] = reads
                return whole  # a view of it, which holds all of it

    def gate(self, channels: Any, squeezed: Any, size: int, x: int) -> int:
        """Add what gates on the tensor `x` write."""
        gates = self.write(channels, self.write(squeezed, self.write(channels, x)))
        return self.write(channels * size * size, x, gates, over=(x,))

    def operation(self, name: str, width: Any, size: int, x: int) -> int:
        """Add what operation `name` writes from the tensor `x`."""
        for layer, multiple in flow(name):
            channels = multiple * width
            match layer:
                case Convolution():
                    x = self.write(layer.multiple * width * size * size, x)
                case Normalise():
                    x = self.elementwise(channels * size * size, x)
                case SqueezeExcite():
                    x = self.gate(channels, layer.squeezed(channels), size, x)
                case _:
                    x = self.write(channels * size * size, x)
        return self.elementwise(width * size * size, x)


def peak_activations(parts: Iterable[Part]) -> Any:
    """The most elements of activations that inference of one image holds at once in the network of `parts`.

    Inference takes the steps in their order. A step is convolutions, pools, means, the concatenation (also of one
    operation) and the classifier, each of which writes a new tensor, and BN, ReLU, additions of two tensors and
    products with gates, which write over an input (of a product: over what is gated) if nothing later reads that, and a
    new tensor otherwise. A tensor, the image included, is held from what writes it to the last that reads it, that
    included; the peak is the largest sum over what is held at a time. Weights and what a kernel needs for itself do not
    count.
    """
    writes = _writes(parts)
    last_read = {read: number for number, write in enumerate(writes) for read in write.reads}
    held: Any = 0
    peak: Any = 0
    for number, write in enumerate(writes):
        freed = {read for read in write.reads if last_read[read] == number}
        reused = not freed.isdisjoint(write.over)
        held = held + (0 if reused else write.elements)
        peak = peak + (held - peak) * (held > peak)  # the larger one, of arrays too
        held = held + (write.elements if reused else 0) - sum(writes[read].elements for read in freed)
    return peak


def _writes(parts: Iterable[Part]) -> _Writes:
    writes = _Writes()
    for part in parts:
        if not writes:
            x = writes.write(part.channels * part.size**2)  # the image
        written = {INPUT: x}
        for step in part.steps:
            written[step.name] = writes.step(step, [written[name] for name in step.reads])
        leaves = [written[name] for name in part.leaves]
        x = writes.sum(writes[leaves[0]].elements, leaves)
    return writes
