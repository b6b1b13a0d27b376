"""What a search returns: which edges live, how wide each stage is, and what that costs."""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any, NamedTuple, Self

from nas_core.errors import InvalidValue
from nas_core.space import cost
from nas_core.space.space import SearchSpace

VERSION = 1


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `Architecture.to_json` writes, for readers that are no Yoso.

    It knows shapes and kinds; whether edges form a network, and the costs, only `Architecture.from_json` can tell.
    """
    values: dict[str, Any] = json.loads((files("nas_core.space") / "architecture.schema.json").read_text())
    return values


class Edge(NamedTuple):
    """A live connection of a block; `strength` is the λ it ended the search with (> 0)."""

    source: int
    target: int
    strength: float


@dataclass(frozen=True)
class Block:
    """The live edges of one block; without any, the block is its shortcut."""

    edges: tuple[Edge, ...]

    @cached_property
    def operations(self) -> tuple[int, ...]:
        """The live operations' node numbers, ascending."""
        return tuple(sorted({edge.source for edge in self.edges} - {0}))

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """The operations that the block's output reads, ascending."""
        last = max((edge.target for edge in self.edges), default=0)
        return tuple(sorted(edge.source for edge in self.edges if edge.target == last))

    def inputs(self, node: int) -> tuple[int, ...]:
        """The nodes that operation `node` reads, ascending."""
        return tuple(sorted(edge.source for edge in self.edges if edge.target == node))


@dataclass(frozen=True)
class Reduction:
    """The strengths of a reduction's 1×1 and 3×3 branch; 0 is dead, and one of them always lives."""

    conv1: float
    conv3: float

    @property
    def strengths(self) -> tuple[float, float]:
        """Both strengths, the 1×1 branch first."""
        return self.conv1, self.conv3


def live(edges: list[tuple[int, int]], output: int) -> list[tuple[int, int]]:
    """Those of `edges` that lie on a path from node 0 to node `output`.

    This is the removal of isolated operations: one that reads nothing, or that nothing reads, goes with all its
    edges, and so on until none is left (paper, section 3.2).
    """
    forward = {0}
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        if source in forward:
            forward.add(target)
    backward = {output}
    for source, target in sorted(edges, key=lambda edge: -edge[0]):
        if target in backward:
            backward.add(source)
    reached = forward & backward
    return [(source, target) for source, target in edges if source in reached and target in reached]


@dataclass(frozen=True)
class Architecture:
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

    @cached_property
    def cost(self) -> cost.Cost:
        """Multiply-adds, parameters and memory access of the network for one image."""
        return cost.total(self)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass: convolutions and the classifier."""
        return int(self.cost.multiply_adds)

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return int(self.cost.parameters)

    @property
    def peak_activations(self) -> int:
        """The most elements of activations that inference of one image holds at once; see `cost.peak_activations`."""
        return int(cost.peak_activations(self))

    @property
    def live_edges(self) -> int:
        """Live edges in all blocks."""
        return sum(len(block.edges) for block in self.blocks)

    def node_name(self, node: int) -> str:
        """The name of a block's node in JSON and pictures: `input`, `2.separable5` (level 2), `output`."""
        if node == 0:
            return "input"
        if node == self.space.nodes + 1:
            return "output"
        return f"{self.space.level(node)}.{self.space.operation(node)}"

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

    def to_json(self) -> str:
        """The architecture as a JSON text that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The architecture that `to_dict` described.

        Raises `InvalidValue` where a part is missing or wrong, also where the stated costs are not the true ones.
        """
        try:
            if values["version"] != VERSION:
                newer = type(values["version"]) is int and values["version"] > VERSION
                reason = "this version of Yoso is older than the file's" if newer else "unknown version"
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

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The architecture in a JSON text. Raises `InvalidValue` where the text is not one."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidValue("architecture", str(error), "not JSON", "what Architecture.to_json wrote") from error
        return cls.from_dict(values)
