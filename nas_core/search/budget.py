"""How the cost comes down to a budget and stays there.

Two things keep the promise "at most the budget". While λ is learned, `Press` finds, at each λ step, the smallest
level of the proximal step for which what stays alive costs no more than the schedule allows: the L1 weight is the
multiplier of the budget's constraint, solved for rather than tuned. And when a budget is reached, `spend` uses
up what is left of it, by the widths of the derived network above all.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, combinations, islice
from typing import Any

import numpy as np

from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, cost, live
from nas_core.spec import NO_LIMITS, Limits

FLOOR = 1e-3
"""What is left of a λ that the press would have zeroed but must spare."""

LEAST_USED = 0.97
"""The share of a budget that a network is to use."""

RELATIVES = 200
"""How many lighter relatives of a network are tried for it, and five times as many in all."""

Edges = list[tuple[int, int]]
CostOf = Callable[[Sequence[Edges], Sequence[Sequence[float]], float], Any]
"""What live edges of each group cost, with the reductions' branches above a level."""


def effective_cost(
    architecture: Architecture,
    budget: int | float,
    limits: Limits,
    estimate: Callable[[Architecture], float] | None = None,
    widths: Any = None,
) -> Any:
    """The multiply-adds of `architecture`, or `budget` times the largest share of a limit where that is more.

    It is at most `budget` where budget and limits are kept. Latency counts where there is an `estimate` of it, in
    milliseconds; `widths`, as in `cost.total`, does not change that one.
    """
    total = cost.total(architecture, widths)
    effective = total.multiply_adds
    if limits.parameters is not None:
        effective = np.maximum(effective, total.parameters / limits.parameters * budget)
    if limits.activations is not None:
        peak = cost.peak_activations(architecture, widths)
        effective = np.maximum(effective, peak / limits.activations * budget)
    if limits.latency_ms is not None and estimate is not None:
        effective = np.maximum(effective, estimate(architecture) / limits.latency_ms * budget)
    return effective


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


def narrowest(architecture: Architecture) -> Architecture:
    """The architecture with the fewest channels that it can have."""
    # Half of the first stage's channels must be at least one, where the stem has several convolutions.
    first = 1 if len(architecture.space.stem) == 1 else 2
    return replace(architecture, widths=(first, *[1] * (len(architecture.widths) - 1)))


def spend(architecture: Architecture, budget: int, limits: Limits = NO_LIMITS) -> Architecture:
    """The network of `architecture` that uses at least `LEAST_USED` of the budget or of a limit, and passes none.

    The widths do it (`fit_widths`) wherever a channel is a small part of the network. Where it is not, in small spaces,
    a near relative does: without its weakest edges, and so wider; or else with an operation or two more as well. Where
    none does, the one that uses most. Raises `ValueError` as `fit_widths` does.
    """
    best = fit_widths(architecture, budget, limits)
    if effective_cost(best, budget, limits) >= LEAST_USED * budget:
        return best
    bases = [architecture, *islice(lighter(architecture), RELATIVES)]
    for relative in islice(chain(bases[1:], chain.from_iterable(map(heavier, bases))), 5 * RELATIVES):
        with suppress(ValueError):
            best = max(best, fit_widths(relative, budget, limits), key=lambda a: effective_cost(a, budget, limits))
            if effective_cost(best, budget, limits) >= LEAST_USED * budget:
                break
    return best


def lighter(architecture: Architecture) -> Iterator[Architecture]:
    """The architecture without its weakest edge, without its two weakest, …, as long as every block keeps a path."""
    space, output = architecture.space, architecture.space.nodes + 1
    weakest_first = sorted(
        {(edge.strength, edge[:2], i) for i, b in enumerate(architecture.blocks) for edge in b.edges}
    )
    blocks = list(architecture.blocks)
    for _, pair, index in weakest_first:
        changed = range(len(blocks)) if space.share else [index]
        left = [edge for edge in blocks[index].edges if edge[:2] != pair]
        kept = set(live([edge[:2] for edge in left], output))
        if kept and len(left) < len(blocks[index].edges):
            smaller = Block(tuple(edge for edge in left if edge[:2] in kept))
            blocks = [smaller if i in changed else block for i, block in enumerate(blocks)]
            yield replace(architecture, blocks=tuple(blocks))


def heavier(architecture: Architecture) -> Iterator[Architecture]:
    """The architecture with one or two more operations of the first level in a block, in all where they share edges."""
    space, output = architecture.space, architecture.space.nodes + 1
    first_level = range(1, len(space.operations) + 1)
    for count in (1, 2):
        for index, block in enumerate(architecture.blocks[:1] if space.share else architecture.blocks):
            for nodes in combinations([node for node in first_level if node not in block.operations], count):
                more = tuple(Edge(*pair, FLOOR) for node in nodes for pair in ((0, node), (node, output)))
                larger = Block(tuple(sorted(block.edges + more, key=lambda edge: (edge.target, edge.source))))
                yield replace(
                    architecture,
                    blocks=tuple(larger if space.share or i == index else b for i, b in enumerate(architecture.blocks)),
                )


def fit_widths(architecture: Architecture, budget: int, limits: Limits = NO_LIMITS) -> Architecture:
    """The architecture with the widths that use up `budget` or one of the `limits` on parameters and activations.

    All stages are scaled by the same factor, and then moved apart by single channels where that comes closer to the
    tightest of them. Taken are the widths nearest to equal scaling that leave at most 2 % of it, since a network whose
    stages are out of proportion learns worse; where there are none, those that leave least, and of these the largest.
    Raises `ValueError` where the architecture is over the budget or a limit even with the fewest channels.
    """
    widths, fewest = architecture.widths, narrowest(architecture).widths

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(max(least, round(width * factor)) for least, width in zip(fewest, widths, strict=True))

    def costs(chosen: Any) -> Any:
        return effective_cost(architecture, budget, limits, widths=chosen)

    if costs(fewest) > budget:
        limited = "" if limits == NO_LIMITS else f", or a limit of {limits} is passed"
        least = cost.total(architecture, fewest).multiply_adds
        raise ValueError(f"at least {least} multiply-adds are over the budget of {budget}{limited}")
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
    if close.any():
        best = np.flatnonzero(close)[np.argmin(distortion[close])]
    else:
        fullest = np.flatnonzero(within & (totals == totals[within].max()))
        best = fullest[np.argmax(cost.total(architecture, grid).multiply_adds[fullest])]
    return replace(architecture, widths=tuple(int(axis[best]) for axis in grid))
