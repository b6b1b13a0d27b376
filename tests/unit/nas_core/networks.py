"""Random spaces and architectures for property tests, and the smallest search that is one."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from nas_core.data.images import TensorImages
from nas_core.data.loading import Data, split
from nas_core.seeds import generator
from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, live
from nas_core.space.operations import OPERATIONS, Convolution, Layer, Normalise, Pool, SqueezeExcite, register
from nas_core.spec import SearchSpec, Settings
from nas_core.supernet.network import Network
from nas_core.supernet.references import ReferenceNetwork


@st.composite
def layers(draw: st.DrawFn) -> tuple[Layer, ...]:
    """The layers of any operation that can be registered."""
    flowing: list[Layer] = []
    multiple = 1
    for kind in draw(st.lists(st.sampled_from(["full", "depthwise", "pool", "normalise", "gate"]), max_size=4)):
        kernel, dilation = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 3))
        if kind == "full":
            multiple = draw(st.integers(1, 3))
        layer: dict[str, Layer] = {
            "full": Convolution(kernel, dilation=dilation, multiple=multiple),
            "depthwise": Convolution(kernel, depthwise=True, dilation=dilation, multiple=multiple),
            "pool": Pool(draw(st.sampled_from(["max", "average"]))),
            "normalise": Normalise(),
            "gate": SqueezeExcite(draw(st.integers(1, 8))),
        }
        flowing.append(layer[kind])
    return (*flowing, Convolution(1)) if multiple != 1 or draw(st.booleans()) else tuple(flowing)


@contextmanager
def registered(operations: dict[str, tuple[Layer, ...]]) -> Iterator[None]:
    """Have `operations` registered for a while."""
    before = dict(OPERATIONS)
    try:
        for name, given in operations.items():
            register(name, given)
        yield
    finally:
        OPERATIONS.clear()
        OPERATIONS.update(before)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """A small space of any shape."""
    names = draw(st.lists(st.sampled_from(list(OPERATIONS)), min_size=1, max_size=3, unique=True))
    return SearchSpace(
        name="random",
        channels_in=draw(st.integers(1, 3)),
        image_size=draw(st.integers(5, 12)),
        classes=draw(st.integers(2, 5)),
        stem=draw(st.sampled_from([(1,), (2,), (2, 1)])),
        channels=draw(st.integers(2, 6)),
        blocks=tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))),
        levels=draw(st.integers(1, 3)),
        operations=tuple(names),
        share=draw(st.booleans()),
    )


@st.composite
def architectures(draw: st.DrawFn, searchable: bool = False) -> Architecture:
    """Any network of any space; a `searchable` one is what a search over its space could hold."""
    space = draw(spaces())
    strengths = st.floats(0.01, 2)

    def block() -> Block:
        chosen = draw(st.lists(st.sampled_from(space.edges()), unique=True))
        kept = sorted(live(chosen, space.nodes + 1), key=space.edges().index)
        return Block(tuple(Edge(*edge, draw(strengths)) for edge in kept))

    count = sum(space.blocks)
    blocks = (block(),) * count if searchable and space.share else tuple(block() for _ in range(count))
    branches = st.tuples(strengths, strengths).map(lambda pair: Reduction(*pair))
    branches |= strengths.map(lambda one: Reduction(one, 0.0)) | strengths.map(lambda one: Reduction(0.0, one))
    reductions = tuple(draw(branches) for _ in space.blocks[1:])
    widths = space.widths if searchable else tuple(draw(st.integers(2, 9)) for _ in space.blocks)
    return Architecture(space, widths, blocks, reductions)


ELEMENTWISE = {
    *(nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.BatchNorm2d),
    *(F.relu, operator.add, operator.mul),
}
VIEWS = {nn.Flatten, "flatten", operator.getitem}


def peak_of_execution(network: Network | ReferenceNetwork) -> int:
    """The most elements held at once when the steps of the network's own trace run one after the other."""
    traced = fx.symbolic_trace(network)
    ShapeProp(traced).propagate(torch.empty(1, *network.architecture.input_shape, device="meta"))
    nodes = [node for node in traced.graph.nodes if node.op not in ("get_attr", "output")]
    does = {
        node: type(network.get_submodule(node.target)) if node.op == "call_module" else node.target for node in nodes
    }
    viewed: dict[fx.Node, fx.Node] = {}
    """Of what is only another look at a tensor, that tensor."""

    def reads(node: fx.Node) -> list[fx.Node]:
        return [viewed.get(read, read) for read in node.all_input_nodes]

    def shape(node: fx.Node) -> torch.Size:
        return torch.Size(node.meta["tensor_meta"].shape)

    for node in nodes:
        if does[node] in VIEWS:
            [viewed[node]] = reads(node)
    steps = [node for node in nodes if node not in viewed]
    last = {read: step for step in steps for read in reads(step)}
    held: list[fx.Node] = []
    peak = 0
    for step in steps:
        over = reads(step) if does[step] != operator.mul else reads(step)[:1]
        for read in over:
            if does[step] in ELEMENTWISE and read in held and last[read] is step and shape(read) == shape(step):
                held.remove(read)
                break
        held.append(step)
        peak = max(peak, sum(shape(node).numel() for node in held))
        held = [node for node in held if last.get(node) is not step]
    return peak


def tiny_spec(**changes: Any) -> SearchSpec:
    """A search of a second or two on one core."""
    shape: dict[str, Any] = {"channels": 4, "blocks": (1, 1), "levels": 2, "classes": 3}
    space = SearchSpace.preset("digits", **shape, share=changes.pop("share", False))
    smallest, largest = space.feasible_budgets()
    schedule: dict[str, Any] = {"pretrain_epochs": 1, "search_epochs": 3, "retrain_epochs": 2, "batch_size": 16}
    schedule["retrain_batch_size"] = 16
    settings = Settings.preset("digits", **schedule | changes.pop("settings", {}))
    budgets = tuple(round(smallest + share * (largest - smallest)) for share in (0.2, 0.5))
    return replace(SearchSpec("digits", budgets, space, settings), **changes)


def tiny_data(seed: int = 0, count: int = 150) -> Data:
    """Three kinds of stripes in noise: (count, 1, 8, 8)."""
    random = generator("tiny", seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=random)
    images[labels == 1, :, ::2] += 120
    images[labels == 2, :, :, ::2] += 120
    parts = split(images.to(torch.uint8), labels, 0.5)
    return Data("stripes", 3, TensorImages(images.to(torch.uint8)), labels, parts, "stripes", torch.device("cpu"))
