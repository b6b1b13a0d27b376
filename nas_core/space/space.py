"""A search space, and the networks in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Self

from nas_core.errors import InvalidValue, did_you_mean, refuse_unknown
from nas_core.space import topology
from nas_core.space.blocks import Block, Edge, Reduction, live
from nas_core.space.genotype import Genotype
from nas_core.space.operations import in_full
from nas_core.space.references import Reference
from nas_core.space.skeleton import Skeleton
from nas_core.space.topology import Part


@dataclass(frozen=True)
class SearchSpace(Skeleton):
    """The set of networks that one search chooses from; `Skeleton` says what its fields are."""

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The space called `name` (see `PRESETS`) with some of its fields replaced.

        `operations` may name sets of them (`OPERATION_SETS`), or be the name of one. Raises `InvalidValue` for an
        unknown name or field.
        """
        if name not in PRESETS:
            raise InvalidValue(
                "space.preset", name, "no such preset" + did_you_mean(name, PRESETS), "one of " + ", ".join(PRESETS)
            )
        refuse_unknown("space", overrides, [field.name for field in fields(cls) if field.name != "name"])
        overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
        if isinstance(operations := overrides.get("operations"), str | tuple):
            overrides["operations"] = in_full(operations)
        return replace(cls(**PRESETS[name]), **overrides)

    def complete(self) -> "Architecture":
        """The network with every edge alive."""
        return _complete(self)

    def single_paths(self) -> list["Architecture"]:
        """The smallest networks that are no bare chain of shortcuts.

        One block (every block, where they share their edges) holds a single operation; reductions are their 1×1
        branch. That block is the first or the second of a stage: what comes behind costs what the second does.
        """
        output = self.nodes + 1
        empty = Block(())
        count = sum(self.blocks)
        stages = self.stage_of_block
        telling = [block for block in range(count) if block < 2 or stages[block] != stages[block - 2]]
        candidates = []
        for node in range(1, len(self.operations) + 1):
            path = Block((Edge(0, node, 1.0), Edge(node, output, 1.0)))
            layouts = (
                [(path,) * count]
                if self.share
                else [tuple(path if b == full else empty for b in range(count)) for full in telling]
            )
            candidates += [
                Architecture(self, self.widths, blocks, (Reduction(1.0, 0.0),) * (len(self.blocks) - 1))
                for blocks in layouts
            ]
        return candidates

    def cheapest(self) -> "Architecture":
        """Of the `single_paths` the one of the fewest multiply-adds."""
        return min(self.single_paths(), key=lambda architecture: architecture.multiply_adds)

    def feasible_budgets(self) -> tuple[int, int]:
        """The smallest and the largest budget, in multiply-adds, for which this space holds a network."""
        return _feasible_budgets(self)

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON values."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The space that `to_dict` described. Raises `InvalidValue` where a field is missing, unknown or unusable."""
        known = {field.name for field in fields(cls)}
        for field in sorted(known ^ set(values)):
            raise InvalidValue(
                f"space.{field}",
                values.get(field),
                "missing" if field in known else "no such field",
                "exactly " + ", ".join(sorted(known)),
            )
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)


@lru_cache(maxsize=256)
def _complete(space: SearchSpace) -> "Architecture":
    """Kept with its cost, which a request is held to at several doors."""
    block = Block(tuple(Edge(source, target, 1.0) for source, target in space.edges()))
    return Architecture(
        space=space,
        widths=space.widths,
        blocks=(block,) * sum(space.blocks),
        reductions=(Reduction(1.0, 1.0),) * (len(space.blocks) - 1),
    )


@lru_cache(maxsize=256)
def _feasible_budgets(space: SearchSpace) -> tuple[int, int]:
    """Kept too: a large space takes a tenth of a second."""
    return space.cheapest().multiply_adds, space.complete().multiply_adds


PRESETS: dict[str, dict[str, Any]] = {
    # 8×8 grey scans of digits: a space that two CPU cores search in a minute or two.
    "digits": dict(name="digits", channels_in=1, image_size=8, classes=10, stem=(1,), channels=16, blocks=(2, 2)),
    # Paper, section 4.1: three stages of eight blocks; 48 channels in the published search.
    "cifar10": dict(name="cifar10", channels_in=3, image_size=32, classes=10, stem=(1,), channels=48, blocks=(8, 8, 8)),
    # Paper, section 4.1: stages of 2, 2, 13 and 6 blocks; 28 channels in the published search.
    "imagenet": dict(
        name="imagenet", channels_in=3, image_size=224, classes=1000, stem=(2, 2), channels=28, blocks=(2, 2, 13, 6)
    ),
}

VERSION = 1


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `Architecture.to_json` writes, for readers that are no Yoso.

    It knows shapes and kinds; whether edges form a network, and the costs, only `Architecture.from_json` can tell.
    """
    values: dict[str, Any] = json.loads((files("nas_core.space") / "architecture.schema.json").read_text())
    return values


@dataclass(frozen=True)
class Architecture(Genotype):
    """A network of a search space: `widths` channels per stage, and the live edges of each block and reduction.

    Raises `InvalidValue` where the parts do not fit the space or where an edge lies on no path.
    """

    space: SearchSpace
    widths: tuple[int, ...]
    blocks: tuple[Block, ...]
    reductions: tuple[Reduction, ...]

    def __post_init__(self) -> None:
        space = self.space
        for field, given, wanted in (
            ("widths", len(self.widths), len(space.blocks)),
            ("blocks", len(self.blocks), sum(space.blocks)),
            ("reductions", len(self.reductions), len(space.blocks) - 1),
        ):
            if given != wanted:
                raise InvalidValue(field, given, "wrong number of parts for the space", str(wanted))
        if not all(type(width) is int and width > 0 for width in self.widths):
            raise InvalidValue("widths", self.widths, "not widths", "positive integers")
        known = set(space.edges())
        for index, block in enumerate(self.blocks):
            pairs = [(edge.source, edge.target) for edge in block.edges]
            field = f"blocks[{index}].edges"
            if len(set(pairs)) != len(pairs) or not set(pairs) <= known:
                raise InvalidValue(field, pairs, "an edge twice or outside the space", "edges of the space, once each")
            if len(live(pairs, space.nodes + 1)) != len(pairs):
                raise InvalidValue(field, pairs, "an edge on no path", "edges between the block's input and output")
            if not all(edge.strength > 0 for edge in block.edges):
                raise InvalidValue(field, [e.strength for e in block.edges], "a dead edge", "strengths above 0")
        for index, reduction in enumerate(self.reductions):
            if min(reduction.strengths) < 0 or max(reduction.strengths) <= 0:
                raise InvalidValue(
                    f"reductions[{index}]", reduction.strengths, "no live branch", "one strength above 0"
                )

    def parts(self, widths: Sequence[Any] | None = None) -> tuple[Part, ...]:
        """The network's parts in order; `widths`, which may be arrays of them, replace the architecture's own."""
        widths = self.widths if widths is None else widths
        return tuple(topology.parts(self.space, widths, self.blocks, self.reductions))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.space.input_shape

    @property
    def step(self) -> int:
        """What widths must be multiples of."""
        return 1

    @property
    def outputs(self) -> int:
        """How many classes it tells apart."""
        return self.space.classes

    @property
    def fewest(self) -> tuple[int, ...]:
        """One channel a stage; half of the first stage's must be one, where the stem has several convolutions."""
        return (1 if len(self.space.stem) == 1 else 2, *[1] * (len(self.widths) - 1))

    @property
    def tapped(self) -> str | None:
        """The last reduction."""
        return f"reduction{len(self.widths) - 1}" if len(self.widths) > 1 else None

    @property
    def live_edges(self) -> int:
        """Live edges in all blocks."""
        return sum(len(block.edges) for block in self.blocks)

    def node_name(self, node: int) -> str:
        """The name of a block's node in JSON and pictures: `input`, `2.separable5` (level 2), `output`."""
        return self.space.node_name(node)

    def to_dict(self) -> dict[str, Any]:
        """The architecture as JSON values, with its costs for the reader's convenience."""
        return {
            "version": VERSION,
            "space": self.space.to_dict(),
            "widths": list(self.widths),
            "blocks": [
                {
                    "edges": [
                        {
                            "from": self.node_name(edge.source),
                            "to": self.node_name(edge.target),
                            "strength": edge.strength,
                        }
                        for edge in block.edges
                    ]
                }
                for block in self.blocks
            ],
            "reductions": [{"conv1": r.conv1, "conv3": r.conv3} for r in self.reductions],
            "multiply_adds": self.multiply_adds,
            "parameters": self.parameters,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The architecture that `to_dict` described.

        Raises `InvalidValue` where a part is missing or wrong, also where the stated costs are not the true ones.
        """
        try:
            if values["version"] != VERSION:
                newer = type(values["version"]) is int and values["version"] > VERSION
                reason = "the file is from a newer version of Yoso" if newer else "unknown version"
                raise InvalidValue("version", values["version"], reason, str(VERSION))
            space = SearchSpace.from_dict(values["space"])
            names = {"input": 0, "output": space.nodes + 1}
            for node in range(1, space.nodes + 1):
                names[f"{space.level(node)}.{space.operation(node)}"] = node
            for index, block in enumerate(values["blocks"]):
                for end in (edge[end] for edge in block["edges"] for end in ("from", "to")):
                    if end not in names:
                        raise InvalidValue(f"blocks[{index}].edges", end, "no such node", "one of " + ", ".join(names))
            architecture = cls(
                space=space,
                widths=tuple(values["widths"]),
                blocks=tuple(
                    Block(tuple(Edge(names[e["from"]], names[e["to"]], float(e["strength"])) for e in block["edges"]))
                    for block in values["blocks"]
                ),
                reductions=tuple(Reduction(float(r["conv1"]), float(r["conv3"])) for r in values["reductions"]),
            )
            stated = {name: values[name] for name in ("multiply_adds", "parameters")}
        except InvalidValue:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidValue(
                "architecture", str(error), "a part is missing or of the wrong kind", "what Architecture.to_json wrote"
            ) from error
        for name, value in stated.items():
            if value != getattr(architecture, name):
                raise InvalidValue(name, value, "not what the network costs", str(getattr(architecture, name)))
        return architecture


def read_genotype(values: dict[str, Any]) -> Architecture | Reference:
    """What a search found, or a reference, of which `to_dict` told. Raises `InvalidValue` where it is neither."""
    return (Reference if isinstance(values, dict) and "reference" in values else Architecture).from_dict(values)
