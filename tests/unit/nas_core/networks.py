"""Random spaces and architectures for property tests, and the smallest search that is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from nas_core.data.images import TensorImages
from nas_core.data.loading import Data, split
from nas_core.seeds import generator
from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, live
from nas_core.space.operations import OPERATIONS, Convolution, Layer, Normalise, Pool, SqueezeExcite, register
from nas_core.spec import SearchSpec, Settings


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
