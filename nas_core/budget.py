"""How the cost comes down to a budget and stays there.

Two things keep the promise "at most the budget". While λ is learned, `Press` finds, at each λ step, the smallest
level of the proximal step for which what stays alive costs no more than the schedule allows: the L1 weight is the
multiplier of the budget's constraint, solved for rather than tuned. And when a budget is reached, `fit_widths` spends
what is left of it on the widths of the derived network.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nas_core import cost
from nas_core.architecture import Architecture, Block, Reduction, live
from nas_core.space import SearchSpace

FLOOR = 1e-3
"""What is left of a λ that the press would have zeroed but must spare."""

Edges = list[tuple[int, int]]


class BlockCost:
    """What a set of live edges costs in one block of the supernet, in multiply-adds."""

    def __init__(self, space: SearchSpace, stage: int) -> None:
        width, size = space.widths[stage], space.resolution(stage)
        self.of_operation = [0] + [
            int(cost.operation(space.operation(node), width, size).multiply_adds) for node in range(1, space.nodes + 1)
        ]
        self.of_output = int(cost.output_edge(width, size).multiply_adds)
        self.output = space.nodes + 1
        self.complete = self(space.edges())

    def __call__(self, edges: Edges) -> int:
        """Multiply-adds of the operations at the ends of `edges`, all of which are live, and of the output."""
        operations = {source for source, _ in edges} - {0}
        outputs = sum(1 for _, target in edges if target == self.output)
        return sum(self.of_operation[node] for node in operations) + outputs * self.of_output


class Press:
    """Finds the proximal level that brings a supernet's cost down to a target.

    `groups` are the vectors of λ: one for each block, or a single one where the blocks share it. What is said here
    of a vector's edges is in the order of `SearchSpace.edges()`.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.edges = space.edges()
        costs = [BlockCost(space, stage) for stage in range(len(space.blocks))]
        stages = space.stage_of_block
        self.groups = [[costs[stage] for stage in stages]] if space.share else [[costs[stage]] for stage in stages]
        empty = Architecture(
            space,
            space.widths,
            (Block(()),) * len(stages),
            (Reduction(1.0, 0.0),) * (len(space.blocks) - 1),
        )
        self.of_wide_branch = [
            int(cost.convolution(3, width, wide, space.resolution(stage + 1), 2).multiply_adds)
            for stage, (width, wide) in enumerate(zip(space.widths, space.widths[1:], strict=False))
        ]
        self.of_small_branch = [weight // 9 for weight in self.of_wide_branch]
        self.fixed = empty.multiply_adds - sum(self.of_small_branch)

    def group_cost(self, group: int, edges: Edges) -> int:
        """Multiply-adds of live `edges` in every block of a group."""
        return sum(block(edges) for block in self.groups[group])

    def alive_share(self, group: int, edges: Edges) -> float:
        """Adaptive FLOPs (paper, eq. 9): the share of a group's complete cost that is alive."""
        return self.group_cost(group, edges) / sum(block.complete for block in self.groups[group])

    def solve(
        self,
        scaling: Sequence[Sequence[float]],
        reductions: Sequence[Sequence[float]],
        weights: Sequence[Sequence[float]],
        target: float,
    ) -> tuple[float, list[Edges], list[set[tuple[int, int]]]]:
        """The smallest level τ for which λ > τ·weight keeps the cost at or below `target`.

        `weights` has one for each λ of `scaling`. Returns τ, the edges that then live in each group, and those that
        were spared although their λ is not above τ·weight: as long as the target allows it every block keeps its
        strongest path (the one whose weakest edge is strongest), and of a reduction the stronger branch stays. Where
        even these paths cost more than the target, blocks are emptied, the weakest first, all but one. The cost may
        end above the target only where a single path is left.
        """
        output = self.space.nodes + 1
        times = [
            {
                edge: strength / max(weight, 1e-9)
                for edge, strength, weight in zip(self.edges, vector, of_edges, strict=True)
                if strength > 0
            }
            for vector, of_edges in zip(scaling, weights, strict=True)
        ]
        spared = [set(strongest_path(time, output)) for time in times]
        least = self._cost([list(path) for path in spared], reductions, math.inf)
        weakest_first = sorted(
            (min(time[edge] for edge in path), group)
            for group, (time, path) in enumerate(zip(times, spared, strict=True))
            if path
        )
        for _, group in weakest_first[:-1]:
            if least <= target:
                break
            least -= self.group_cost(group, list(spared[group]))
            spared[group] = set()

        def alive_at(level: float) -> list[Edges]:
            return [
                live([edge for edge in self.edges if time.get(edge, 0.0) > level or edge in kept], output)
                for time, kept in zip(times, spared, strict=True)
            ]

        levels = sorted(
            {t for time in times for t in time.values()} | {s for pair in reductions for s in pair if s > 0}
        )
        if not levels or self._cost(alive_at(0.0), reductions, 0.0) <= target:
            return 0.0, alive_at(0.0), [set() for _ in spared]
        low, high = -1, len(levels) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._cost(alive_at(levels[middle]), reductions, levels[middle]) <= target:
                high = middle
            else:
                low = middle
        return levels[high], alive_at(levels[high]), spared

    def _cost(self, alive: Sequence[Edges], reductions: Sequence[Sequence[float]], level: float) -> int:
        """Multiply-adds of the whole network with `alive` edges and the reductions' branches above `level`."""
        in_blocks = sum(self.group_cost(group, edges) for group, edges in enumerate(alive))
        in_reductions = 0
        for index, pair in enumerate(reductions):
            small, wide = branches(pair, level)
            in_reductions += small * self.of_small_branch[index] + wide * self.of_wide_branch[index]
        return self.fixed + in_blocks + in_reductions


def branches(pair: Sequence[float], level: float) -> tuple[bool, bool]:
    """Which branches of a reduction live at a level, 1×1 and 3×3; the stronger one always does."""
    small, wide = pair[0] > level, pair[1] > level
    if not small and not wide:
        small, wide = pair[0] > pair[1], pair[0] <= pair[1]
    return small, wide


def strongest_path(strength: dict[tuple[int, int], float], output: int) -> Edges:
    """The path from node 0 to `output` whose weakest edge is strongest; empty where there is no path."""
    best: dict[int, tuple[float, Edges]] = {0: (math.inf, [])}
    for source, target in sorted(strength, key=lambda edge: (edge[1], edge[0])):
        if source in best:
            weakest = min(best[source][0], strength[source, target])
            if target not in best or weakest > best[target][0]:
                best[target] = weakest, [*best[source][1], (source, target)]
    return best[output][1] if output in best else []


def fit_widths(architecture: Architecture, budget: int) -> Architecture:
    """The architecture with the widths that use `budget` up, as far as whole channels can.

    All stages are scaled by the same factor, and then moved apart by single channels where that comes closer to the
    budget. Taken are the widths nearest to equal scaling that leave at most 2 % of it, since a network whose stages
    are out of proportion learns worse; where there are none, those that leave least.
    Raises `ValueError` where the architecture costs more than the budget even with the fewest channels.
    """
    widths = architecture.widths
    # Half of the first stage's channels must be at least one, where the stem has several convolutions.
    fewest = [1 if stage or len(architecture.space.stem) == 1 else 2 for stage in range(len(widths))]

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(max(least, round(width * factor)) for least, width in zip(fewest, widths, strict=True))

    def costs(chosen: Any) -> Any:
        return cost.total(architecture, chosen).multiply_adds

    if costs(fewest) > budget:
        raise ValueError(f"at least {costs(fewest)} multiply-adds are over the budget of {budget}")
    low, high = 0.0, 1.0
    while costs(scaled(high)) <= budget:
        low, high = high, high * 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if costs(scaled(middle)) <= budget else (low, middle)
    reach = 4 if len(widths) <= 3 else 3
    ranges = [
        np.arange(max(least, middle - reach), middle + reach + 1)
        for least, middle in zip(fewest, scaled(low), strict=True)
    ]
    grid = [axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")]
    totals = costs(grid)
    ratios = np.log([axis / width for axis, width in zip(grid, widths, strict=True)])
    distortion = np.abs(ratios - ratios.mean(0)).sum(0)
    within = totals <= budget
    close = within & (totals >= 0.98 * budget)
    best = (
        np.flatnonzero(close)[np.argmin(distortion[close])]
        if close.any()
        else np.flatnonzero(within)[np.argmax(totals[within])]
    )
    return replace(architecture, widths=tuple(int(axis[best]) for axis in grid))
