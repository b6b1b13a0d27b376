"""How a network is joined together, told once: as steps, for whoever counts, times, draws, builds or writes it.

A network is a row of parts: its stem, blocks with a reduction where a new stage begins, and its head. What enters a
part is called "input" there. Each step of a part reads the sum of its input or of earlier steps (`Join`: them side by
side), and the sum of the part's leaves enters the next one.

Channels may be integers or numpy integer arrays, for many widths at once; `size` is the height and width in pixels of
what a step gives out.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from nas_core.space.blocks import Block, Reduction
from nas_core.space.skeleton import Skeleton

INPUT = "input"


Activation = Literal["none", "relu", "relu6", "hard_swish"]


class ConvBnAct(NamedTuple):
    """A convolution with a stride, in groups of channels, BN and an activation."""

    name: str
    reads: tuple[str, ...]
    kernel: int
    channels_in: Any
    channels: Any
    size: int
    stride: int = 1
    groups: Any = 1
    activation: Activation = "relu"


class Operate(NamedTuple):
    """A candidate operation, the one at `node` of its block, with its closing BN and ReLU."""

    name: str
    reads: tuple[str, ...]
    node: int
    operation: str
    channels: Any
    size: int


class Join(NamedTuple):
    """A 1×1 convolution over what is read side by side, BN and ReLU."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    size: int


class Pool(NamedTuple):
    """BN, ReLU and the mean over all of `size`² pixels."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    size: int


class Classify(NamedTuple):
    """A matrix with a bias, from channels to classes."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    classes: int


class Activate(NamedTuple):
    """ReLU of the sum of what is read."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    size: int


class Gate(NamedTuple):
    """Every channel times a gate that the means of all decide on: 1×1 convolution with a bias to `squeezed` channels,
    ReLU, another one back, hard sigmoid.
    """

    name: str
    reads: tuple[str, ...]
    channels: Any
    squeezed: Any
    size: int


class MaxPool(NamedTuple):
    """The largest of 3×3 pixels, with stride 2."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    size: int


class Half(NamedTuple):
    """So many channels that are read, the first half (0) or the second (1); nothing is copied."""

    name: str
    reads: tuple[str, ...]
    half: int
    channels: Any


class Shuffle(NamedTuple):
    """What is read of two, channel by channel in turn."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    size: int


class Mean(NamedTuple):
    """The mean over all of `size`² pixels."""

    name: str
    reads: tuple[str, ...]
    channels: Any
    size: int


class Dense(NamedTuple):
    """A matrix with a bias between two numbers of channels, and hard swish."""

    name: str
    reads: tuple[str, ...]
    channels_in: Any
    channels: Any


Step = ConvBnAct | Operate | Join | Pool | Classify | Activate | Gate | MaxPool | Half | Shuffle | Mean | Dense


class Part(NamedTuple):
    """A part of a network: what enters it has `channels` of `size`² pixels, and the sum of its `leaves` goes on.

    A block stands in its `stage`, a reduction ends it.
    """

    name: str
    kind: Literal["stem", "block", "reduction", "head"]
    stage: int
    channels: Any
    size: int
    steps: tuple[Step, ...]
    leaves: tuple[str, ...]


def parts(
    skeleton: Skeleton, widths: Sequence[Any], blocks: Sequence[Block], reductions: Sequence[Reduction]
) -> Iterator[Part]:
    """The parts of a network on `skeleton` in order, with `widths` channels per stage and what lives of its blocks and
    reductions.
    """
    yield stem(skeleton, widths[0])
    before = 0
    for number, (stage, block) in enumerate(zip(skeleton.stage_of_block, blocks, strict=True), start=1):
        if stage > before:
            yield _reduction(skeleton, widths, before, reductions[before])
        first = number == 1 or stage > before
        yield _block(f"block{number}", skeleton, stage, widths[stage], block, first)
        before = stage
    width, size = widths[-1], skeleton.resolution(before)
    pool = Pool("normalisation", (INPUT,), width, size)
    classifier = Classify("classifier", (pool.name,), width, skeleton.classes)
    yield Part("head", "head", before, width, size, (pool, classifier), (classifier.name,))


def stem(skeleton: Skeleton, width: Any) -> Part:
    """The stem of a network whose first stage has `width` channels: all but its last convolution have half of them."""
    steps: list[Step] = []
    name, channels, size = INPUT, skeleton.channels_in, skeleton.image_size
    for index, stride in enumerate(skeleton.stem, start=1):
        out = width if index == len(skeleton.stem) else width // 2
        step = ConvBnAct(f"conv3 {index}", (name,), 3, channels, out, -(-size // stride), stride)
        steps.append(step)
        name, channels, size = step.name, out, step.size
    return Part("stem", "stem", 0, skeleton.channels_in, skeleton.image_size, tuple(steps), (name,))


def _block(name: str, skeleton: Skeleton, stage: int, width: Any, block: Block, first: bool) -> Part:
    size = skeleton.resolution(stage)
    steps: list[Step] = []
    shortcut = INPUT
    if first:
        shortcut = "shortcut"
        steps.append(ConvBnAct(shortcut, (INPUT,), 1, width, width, size))
    names = {node: skeleton.node_name(node) for node in (0, *block.operations)}
    for node in block.operations:
        reads = tuple(names[source] for source in block.inputs(node))
        steps.append(Operate(names[node], reads, node, skeleton.operation(node), width, size))
    if not block.outputs:
        return Part(name, "block", stage, width, size, tuple(steps), (shortcut,))
    joined = Join("output", tuple(names[node] for node in block.outputs), width, size)
    return Part(name, "block", stage, width, size, (*steps, joined), (shortcut, joined.name))


def _reduction(skeleton: Skeleton, widths: Sequence[Any], stage: int, reduction: Reduction) -> Part:
    """The live branches that end `stage`."""
    width, wide = widths[stage], widths[stage + 1]
    steps = tuple(
        ConvBnAct(f"conv{kernel}", (INPUT,), kernel, width, wide, skeleton.resolution(stage + 1), stride=2)
        for kernel, strength in zip((1, 3), reduction.strengths, strict=True)
        if strength > 0
    )
    leaves = tuple(step.name for step in steps)
    return Part(f"reduction{stage + 1}", "reduction", stage, width, skeleton.resolution(stage), steps, leaves)
