"""How the cost comes down to a target while λ are learned.

`Press` finds, at each λ step, the smallest level of the proximal step for which what stays alive costs no more than
the schedule allows: the L1 weight is the multiplier of the budget's constraint, solved for rather than tuned.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from nas_core.search.prices import Prices
from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, branches, live

Edges = list[tuple[int, int]]
CostOf = Callable[[Sequence[Edges], Sequence[Sequence[float]], float], Any]
"""What live edges of each group cost, with the reductions' branches above a level."""


class Press:
    """Finds the proximal level that brings a supernet's cost down to a target.

    `groups` are the vectors of λ: one for each block, or a single one where the blocks share it. What is said here
    of a vector's edges is in the order of `SearchSpace.edges()`.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.edges = space.edges()
        prices = Prices(space)
        self.of_nodes = [[one.multiply_adds for one in row] for row in prices.of_nodes]
        self.of_output = [one.multiply_adds for one in prices.of_output]
        self.of_branches = [(small.multiply_adds, wide.multiply_adds) for small, wide in prices.of_branches]
        self.fixed = prices.fixed.multiply_adds
        self.complete = [self.group_cost(group, self.edges) for group in range(len(self.of_nodes))]

    def group_cost(self, group: int, edges: Edges) -> int:
        """Multiply-adds of live `edges` in every block of a group; all operations at their ends are live."""
        operations = {source for source, _ in edges} - {0}
        outputs = sum(1 for _, target in edges if target > self.space.nodes)
        of_nodes = self.of_nodes[group]
        return int(sum(of_nodes[node] for node in operations) + outputs * self.of_output[group])

    def alive_share(self, group: int, edges: Edges) -> float:
        """Adaptive FLOPs (paper, eq. 9): the share of a group's complete cost that is alive."""
        return self.group_cost(group, edges) / self.complete[group]

    def solve(
        self,
        scaling: Sequence[Sequence[float]],
        reductions: Sequence[Sequence[float]],
        weights: Sequence[Sequence[float]],
        target: float,
        cost_of: CostOf | None = None,
    ) -> tuple[float, list[Edges], list[set[tuple[int, int]]]]:
        """The smallest level τ for which λ > τ·weight keeps the cost at or below `target`.

        `weights` has one for each λ of `scaling`. Returns τ, the edges that then live in each group, and those that
        were spared although their λ is not above τ·weight: as long as the target allows it every block keeps its
        strongest path (the one whose weakest edge is strongest), and of a reduction the stronger branch stays. Where
        even these paths cost more than the target, blocks are emptied, the weakest first, all but one. The cost may
        end above the target only where a single path is left.

        The cost is in multiply-adds, or what `cost_of` says, which must not rise when edges go. Then a block may be
        emptied before a weaker one which, as with a peak, adds nothing to the cost.
        """
        count = cost_of or self._cost
        output = self.space.nodes + 1
        times = [
            {
                edge: strength / max(weight, 1e-9)
                for edge, strength, weight in zip(self.edges, vector, of_edges, strict=True)
                if strength > 0
            }
            for vector, of_edges in zip(scaling, weights, strict=True)
        ]
        paths = [strongest_path(time, output) for time in times]
        weakest_first = sorted(
            (min(time[edge] for edge in path), group)
            for group, (time, path) in enumerate(zip(times, paths, strict=True))
            if path
        )

        def least(groups: Sequence[int]) -> Any:
            return count([path if group in groups else [] for group, path in enumerate(paths)], reductions, math.inf)

        kept = [group for _, group in reversed(weakest_first)]
        if least(kept) > target:
            strongest_first, kept = kept, []
            for group in strongest_first:
                if least([*kept, group]) <= target:
                    kept.append(group)
                elif cost_of is None:
                    break
            kept = kept or strongest_first[:1]
        spared = [set(path) if group in kept else set() for group, path in enumerate(paths)]

        def alive_at(level: float) -> list[Edges]:
            return [
                live([edge for edge in self.edges if time.get(edge, 0.0) > level or edge in path], output)
                for time, path in zip(times, spared, strict=True)
            ]

        levels = sorted(
            {t for time in times for t in time.values()} | {s for pair in reductions for s in pair if s > 0}
        )
        if not levels or count(alive_at(0.0), reductions, 0.0) <= target:
            return 0.0, alive_at(0.0), [set() for _ in spared]
        low, high = -1, len(levels) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if count(alive_at(levels[middle]), reductions, levels[middle]) <= target:
                high = middle
            else:
                low = middle
        return levels[high], alive_at(levels[high]), spared

    def architecture(self, alive: Sequence[Edges], reductions: Sequence[Sequence[float]], level: float) -> Architecture:
        """The network of `alive` edges and of the reductions' branches above `level`; all its strengths are 1."""
        blocks = [Block(tuple(Edge(*edge, 1.0) for edge in edges)) for edges in alive]
        if self.space.share:
            blocks *= sum(self.space.blocks)
        pairs = (Reduction(*map(float, branches(pair, level))) for pair in reductions)
        return Architecture(self.space, self.space.widths, tuple(blocks), tuple(pairs))

    def _cost(self, alive: Sequence[Edges], reductions: Sequence[Sequence[float]], level: float) -> int:
        """Multiply-adds of the whole network with `alive` edges and the reductions' branches above `level`."""
        in_blocks = sum(self.group_cost(group, edges) for group, edges in enumerate(alive))
        in_reductions = sum(
            lives * cost
            for pair, costs in zip(reductions, self.of_branches, strict=True)
            for lives, cost in zip(branches(pair, level), costs, strict=True)
        )
        return int(self.fixed + in_blocks + in_reductions)


def strongest_path(strength: dict[tuple[int, int], float], output: int) -> Edges:
    """The path from node 0 to `output` whose weakest edge is strongest; empty where there is no path."""
    best: dict[int, tuple[float, Edges]] = {0: (math.inf, [])}
    for source, target in sorted(strength, key=lambda edge: (edge[1], edge[0])):
        if source in best:
            weakest = min(best[source][0], strength[source, target])
            if target not in best or weakest > best[target][0]:
                best[target] = weakest, [*best[source][1], (source, target)]
    return best[output][1] if output in best else []
