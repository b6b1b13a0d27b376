"""What the parts of a network that a search decides on hold: a block its live edges, a reduction its branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


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
        return self.inputs(max(self._inputs, default=0))

    def inputs(self, node: int) -> tuple[int, ...]:
        """The nodes that `node` reads, ascending."""
        return tuple(self._inputs.get(node, ()))

    @cached_property
    def _inputs(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for source, target, _ in sorted(self.edges):
            found.setdefault(target, []).append(source)
        return found


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


def branches(pair: Sequence[float], level: float) -> tuple[bool, bool]:
    """Which branches of a reduction live at a level, 1×1 and 3×3; the stronger one, of equals the 3×3, always does."""
    small, wide = pair[0] > level, pair[1] > level
    if not small and not wide:
        small, wide = pair[0] > pair[1], pair[0] <= pair[1]
    return small, wide
