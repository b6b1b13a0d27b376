"""How long could a step take at the least, if a processor did nothing but its arithmetic at the rates it has?

The floor of a piece is walked along its topology: its full convolutions at the rate of a matrix product of their shape,
its depthwise ones at the rate of their forward pass, and what memory bounds (BN with ReLU, pools, sums over λ) at the
rate of a copy. Nothing is counted that a perfect program would not do: no conversion, no copy, no optimiser.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F

from nas_core.space import SearchSpace
from nas_core.space.operations import Convolution, Normalise, flow
from nas_core.space.operations import Pool as PoolLayer
from nas_core.space.topology import Classify, ConvBnAct, Join, Operate, Part, Pool

LEAST_SECONDS = 0.02
"""A rate is measured for at least so long."""

OPERATIONS = 16
"""In a block."""


class Gradients(NamedTuple):
    """What is differentiated: W, λ or both. Gradients of activations always are."""

    weights: bool
    scaling: bool


BOTH, OF_W, OF_SCALING = Gradients(True, True), Gradients(True, False), Gradients(False, True)


@dataclass
class Work:
    """What has to be done: products (rows, inner, columns), depthwise convolutions (kernel, channels, size), each with
    how often a forward pass's worth of it is needed, and floats that are read or written.
    """

    batch: int
    products: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    depthwise: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    floats: int = 0
    largest: int = 0
    """Floats of the largest activation."""

    def add(self, parts: Iterable[Part], wanted: Gradients) -> None:
        """Add a forward and a backward pass of `parts`."""
        passes = 2 + wanted.weights
        for part in parts:
            mixed: set[tuple[str, ...]] = set()
            for step in part.steps:
                match step:
                    case ConvBnAct():
                        self._product(step.kernel**2 * step.channels_in, step.channels, step.size, passes)
                        self._normalise(step.channels, step.size)
                    case Operate(channels=width, size=size):
                        one = self.batch * size**2 * width
                        # A level's operations read the same, once for all of them; so do their gradients.
                        if step.reads not in mixed:
                            mixed.add(step.reads)
                            self.floats += (2 + wanted.scaling) * len(step.reads) * one
                        self.floats += 2 * one
                        self._operation(step.operation, width, size, passes)
                    case Join(reads=reads, channels=width, size=size):
                        # The gradient of λ needs the product that W's gradient is made of.
                        self._product(width, width, size, 3 * len(reads))
                        self._normalise(width, size)
                        self.floats += self.batch * size**2 * width
                    case Pool(channels=channels, size=size):
                        self._normalise(channels, size)
                    case Classify():
                        self.products[self.batch, step.channels, step.classes] += passes

    def _operation(self, name: str, width: int, size: int, passes: int) -> None:
        for layer, multiple in flow(name):
            channels = multiple * width
            match layer:
                case Convolution(kernel, True):
                    self.depthwise[kernel, channels, size] += passes
                case Convolution(kernel):
                    self._product(kernel**2 * channels, layer.multiple * width, size, passes)
                case PoolLayer():
                    self.floats += 4 * self.batch * size**2 * channels
                case Normalise():
                    self._normalise(channels, size)
                case _:
                    raise ValueError(f"no floor is known for {layer}")
        self._normalise(width, size)

    def _product(self, inner: int, columns: int, size: int, passes: int) -> None:
        self.products[self.batch * size**2, inner, columns] += passes
        self.largest = max(self.largest, self.batch * size**2 * columns)

    def _normalise(self, channels: int, size: int) -> None:
        """BN and ReLU: forward it reads twice and writes once, backward it reads two tensors twice and writes one."""
        self.floats += 8 * self.batch * size**2 * channels


class Floor(NamedTuple):
    """The least seconds of products and of depthwise convolutions, and of memory as if what a block's operations give
    out were copied, which no cache holds at CIFAR-10's sizes, and as if what one gives out were, which caches hold.
    """

    products: float
    depthwise: float
    memory: float
    cached: float

    def seconds(self, cached: bool) -> float:
        """In all, with memory at one of the two rates."""
        return self.products + self.depthwise + (self.cached if cached else self.memory)


def floor(work: Work) -> Floor:
    """Measure what each kind of `work` takes on this machine, now."""
    products = sum(often * product_seconds(*shape) for shape, often in work.products.items())
    depthwise = sum(often * depthwise_seconds(work.batch, *shape) for shape, often in work.depthwise.items())
    least, most = (4 * work.floats / copied_bytes(size) for size in (work.largest, OPERATIONS * work.largest))
    return Floor(products, depthwise, max(least, most), min(least, most))


def block_work(space: SearchSpace, batch: int) -> Work:
    """A forward and a backward pass of the first stage's second block, for W and λ."""
    work = Work(batch)
    work.add([[part for part in space.complete().parts() if part.kind == "block"][1]], BOTH)
    return work


def iteration_work(space: SearchSpace, batch: int) -> Work:
    """One step of W and one of λ."""
    work = Work(batch)
    for wanted in (OF_W, OF_SCALING):
        work.add(space.complete().parts(), wanted)
    return work


def product_seconds(rows: int, inner: int, columns: int) -> float:
    """A matrix product, or the 1×1 convolution that it is, whichever is faster."""
    x, weight, out = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
    image = x.T.view(1, inner, rows, 1)
    kernel = weight.T.reshape(columns, inner, 1, 1)
    return min(_seconds(lambda: torch.mm(x, weight, out=out)), _seconds(lambda: F.conv2d(image, kernel)))


def depthwise_seconds(batch: int, kernel: int, channels: int, size: int) -> float:
    """The forward pass of a depthwise convolution."""
    x = torch.randn(batch, channels, size, size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel)
    return _seconds(lambda: F.conv2d(x, weight, padding=kernel // 2, groups=channels))


def copied_bytes(floats: int) -> float:
    """How many bytes a second are read and written when so many floats are copied."""
    x = torch.randn(floats)
    out = torch.empty_like(x)
    return 8 * floats / _seconds(lambda: out.copy_(x))


def _seconds(work: Callable[[], object]) -> float:
    """The processor time of one call, of as many as take `LEAST_SECONDS`, after one that is not counted."""
    work()
    calls, begin = 0, time.process_time()
    while (passed := time.process_time() - begin) < LEAST_SECONDS:
        work()
        calls += 1
    return passed / calls
