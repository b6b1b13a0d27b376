"""Which λ are alive, what that costs, and where to press, as tensors for all blocks at once.

The same answers as `press.Press`, `press.strongest_path` and `blocks.live` give edge by edge, without reading
anything back to the host: what a search asks at every λ step. The λ of a space are one tensor (G, E): one row for each
block, or a single one where the blocks share theirs, and one column for each edge in the order of
`SearchSpace.edges()`. That order keeps the edges into a level together, as a matrix of its operations by all nodes
below, so that reachability goes level by level.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nas_core.search.prices import Prices
from nas_core.space import SearchSpace
from nas_core.space.cost import Cost

PROBES = 16
"""How many levels one round of the press tries at once."""


class Pressed(NamedTuple):
    """Where to press: the level (), the edges (G, E) that then live, and those that are spared although they are not
    above it.
    """

    level: Tensor
    alive: Tensor
    spared: Tensor


class Liveness:
    """The liveness of the λ of `space`, on `device`."""

    def __init__(self, space: SearchSpace, device: torch.device | str) -> None:
        kinds, nodes = len(space.operations), space.nodes
        self.output = slice(len(space.edges()) - nodes, len(space.edges()))
        self.levels: list[tuple[slice, slice, int]] = []
        """Of each level its edges, its nodes, and how many nodes lie below."""
        begin = 0
        for level in range(space.levels):
            below = 1 + level * kinds
            self.levels.append((slice(begin, begin + kinds * below), slice(below, below + kinds), below))
            begin += kinds * below
        prices = Prices(space)
        self.fixed = prices.fixed.multiply_adds

        def counts(values: Sequence[Sequence[Cost]]) -> Tensor:
            return torch.tensor(
                [[one.multiply_adds for one in row] for row in values], dtype=torch.int64, device=device
            )

        self.of_nodes = counts(prices.of_nodes)
        self.of_output = counts([[one] for one in prices.of_output])
        self.complete = self.of_nodes.sum(1) + nodes * self.of_output[:, 0]
        self.of_branches = counts(prices.of_branches).view(-1, 2)
        self.rows = torch.arange(len(self.of_nodes), device=device)
        paths = [
            sum(max(row[below].multiply_adds for below in range(own.start, own.stop)) for _, own, _ in self.levels)
            + one.multiply_adds
            for row, one in zip(prices.of_nodes, prices.of_output, strict=True)
        ]
        wide = (max(pair.multiply_adds for pair in pairs) for pairs in prices.of_branches)
        self.heaviest = self.fixed + max(paths) + sum(wide)
        """The most that a single path costs, with one branch of each reduction."""

    def reach(self, alive: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes (…, G, 1 + N) on a path of `alive` edges (…, G, E) from input to output, and the edges that are.

        This is `blocks.live`: the input's node is on a path where any is.
        """
        to_output = alive[..., self.output]
        above = torch.cat([torch.zeros_like(alive[..., :1]), to_output], -1)
        for edges, nodes, below in reversed(self.levels):
            matrix = self._matrix(alive, edges, below)
            above[..., :below] |= (matrix & above[..., nodes, None]).any(-2)
        on_path = above  # and now what the input reaches, too
        for edges, nodes, below in self.levels:
            matrix = self._matrix(alive, edges, below)
            on_path[..., nodes] &= (matrix & on_path[..., None, :below]).any(-1)
        kept = torch.cat(
            [(on_path[..., nodes, None] & on_path[..., None, :below]).flatten(-2) for _, nodes, below in self.levels]
            + [on_path[..., 1:]],
            -1,
        )
        return on_path, alive & kept

    def group_costs(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Multiply-adds (…, G) of each row's live `nodes` and `edges`, as `reach` gives them."""
        outputs = edges[..., self.output].sum(-1, keepdim=True)
        return (nodes * self.of_nodes).sum(-1) + (outputs * self.of_output)[..., 0]

    def cost(self, alive: Tensor, reductions: Tensor, level: Tensor) -> Tensor:
        """Multiply-adds (…) of the network with `alive` edges (…, G, E) and the branches of the `reductions` (R, 2)
        above the levels (…).
        """
        in_blocks = self.group_costs(*self.reach(alive)).sum(-1)
        branches = branches_above(reductions, level[..., None, None])
        return self.fixed + in_blocks + (branches * self.of_branches).sum((-1, -2))

    def alive_shares(self, scaling: Tensor) -> Tensor:
        """Adaptive FLOPs (paper, eq. 9): the share (G,) of each row's complete cost that is alive."""
        return self.group_costs(*self.reach(scaling > 0)) / self.complete

    def strongest_paths(self, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row the path whose weakest edge is strongest, as a mask (G, E), and that edge's strength (G,).

        Edges with a strength of 0 are dead; where there is no path the mask is empty and the strength −∞.
        """
        strength = strength.masked_fill(strength <= 0, -math.inf)
        weakest = torch.full_like(self.of_nodes, -math.inf, dtype=strength.dtype)
        weakest[:, 0] = math.inf
        before = torch.zeros_like(self.of_nodes)
        edge_before = torch.zeros_like(self.of_nodes)
        for edges, nodes, below in self.levels:
            best, source = torch.minimum(self._matrix(strength, edges, below), weakest[:, None, :below]).max(-1)
            weakest[:, nodes], before[:, nodes] = best, source
            first = torch.arange(edges.start, edges.stop, below, device=strength.device)
            edge_before[:, nodes] = first + source
        found, last = torch.minimum(strength[:, self.output], weakest[:, 1:]).max(-1)
        there = found > -math.inf
        # A column more takes what is no edge of the path.
        path = torch.zeros(strength.shape[0], strength.shape[1] + 1, dtype=torch.bool, device=strength.device)
        nowhere = strength.shape[1]
        path[self.rows, torch.where(there, self.output.start + last, nowhere)] = True
        node = torch.where(there, last + 1, 0)
        for _ in self.levels:
            path[self.rows, torch.where(node > 0, edge_before[self.rows, node], nowhere)] = True
            node = before[self.rows, node]
        return path[:, :-1], found

    def favour(self, scaling: Tensor, reductions: Tensor, weights: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """`scaling` and `reductions` with those raised above all others that must stay for the cost to reach `least`.

        The press spares the strongest path of all, and of each reduction the stronger branch. Where these cost more
        than `least`, so would what is left in the end. Then the strongest path is raised of those that do not, whose
        weakest λ / weight is largest; and of the reductions the stronger branches stay from the strongest on, the
        lighter of the others. Nothing is raised where even the lightest of what lives is over.
        """
        if least >= self.heaviest:
            return scaling, reductions
        times = (scaling.double() / weights.double().clamp(min=1e-9)).clamp(min=0)
        top = torch.maximum(times.max(), reductions.max() if len(reductions) else times.max()) + 1
        to, _ = self._lightest(times > 0)
        lightest = to.min()
        costs = torch.where(reductions > 0, self.of_branches, math.inf)
        stronger = branches_above(reductions, math.inf)
        light = costs.min(1).values
        more = torch.where(stronger, costs, 0).sum(1) - light
        left = least - self.fixed - light.sum() - lightest
        lighter = torch.zeros_like(stronger[:, 0])
        for number in reductions.max(1).values.argsort(descending=True, stable=True) if len(reductions) else ():
            this = torch.arange(len(reductions), device=reductions.device) == number
            lighter |= this & (more > left)
            left = left - torch.where(this & ~lighter, more, 0).sum()
        raised = lighter[:, None] & (costs == light[:, None])
        left = left + lightest
        # Of the strongest block's strongest path nothing is raised where it fits.
        paths, weakest = self.strongest_paths(times)
        first = self.rows == len(weakest) - 1 - weakest.flip(0).argmax()
        fits = (torch.where(first, self.group_costs(*self.reach(paths)), 0) <= left).all()
        # The strongest of those that fit is the lightest of the edges that are as strong as some level.
        levels = times.flatten().sort(descending=True).values
        best = self._first_within(
            levels, lambda level: self._lightest((times >= level[:, None, None]) & (times > 0))[0].min(-1).values > left
        )
        costs_of_rows, tight = self._lightest((times >= best) & (times > 0))
        row = self.rows == costs_of_rows.argmin()
        path, _ = self.strongest_paths(torch.where(tight & row[:, None], times, 0))
        possible = costs_of_rows.min() <= left
        path &= possible & ~fits
        raised &= possible
        return torch.where(path, top * weights, scaling), torch.where(raised, top, reductions.double())

    def _lightest(self, alive: Tensor) -> tuple[Tensor, Tensor]:
        """What the lightest path costs (…, G) of the `alive` edges (…, G, E), ∞ where there is none, and the edges
        that lie on one so light.
        """
        inner = self.of_nodes.double()
        to = torch.full(alive.shape[:-1] + inner.shape[1:], math.inf, dtype=torch.double, device=alive.device)
        to[..., 0] = 0
        for edges, nodes, below in self.levels:
            before = to[..., None, :below].masked_fill(~self._matrix(alive, edges, below), math.inf)
            to[..., nodes] = before.min(-1).values + inner[:, nodes]
        of_output = self.of_output.double()
        # And from each node, itself left out, to the output.
        onward = torch.where(alive[..., self.output], of_output, math.inf)
        onward = torch.cat([torch.full_like(onward[..., :1], math.inf), onward], -1)
        for edges, nodes, below in reversed(self.levels):
            after = (onward[..., nodes] + inner[:, nodes])[..., None]
            after = after.masked_fill(~self._matrix(alive, edges, below), math.inf)
            onward[..., :below] = torch.minimum(onward[..., :below], after.min(-2).values)
        whole = onward[..., :1]
        tight = torch.cat(
            [
                (to[..., None, :below] + (inner[:, nodes] + onward[..., nodes])[..., None] <= whole[..., None]).flatten(
                    -2
                )
                for _, nodes, below in self.levels
            ]
            + [to[..., 1:] + of_output <= whole],
            -1,
        )
        return whole[..., 0], alive & tight

    def press(self, scaling: Tensor, reductions: Tensor, weights: Tensor, target: float) -> Pressed:
        """The smallest level τ for which λ > τ·weight keeps the cost at or below `target`; see `press.Press.solve`.

        `scaling` and `weights` are (G, E), `reductions` (R, 2).
        """
        times = (scaling.double() / weights.double().clamp(min=1e-9)).clamp(min=0)
        reductions = reductions.double()
        paths, weakest = self.strongest_paths(times)
        spared = paths & self._affordable(paths, weakest, reductions, target)[:, None]
        # Level 0, which presses nothing, is among them.
        zero = times.new_zeros(1)
        levels = torch.cat([zero, times.flatten(), reductions.clamp(min=0).flatten()]).sort().values
        level = self._first_within(
            levels,
            lambda level: self.cost((times > level[:, None, None]) | spared, reductions, level) > target,
        )
        _, alive = self.reach((times > level) | spared)
        return Pressed(level, alive, spared & (level > 0))

    @staticmethod
    def _first_within(levels: Tensor, over: Callable[[Tensor], Tensor]) -> Tensor:
        """The first () of the `levels` (L,) that is not `over`, as those before it are and none behind it is.

        The last one where all are. `over` judges some levels at once.
        """
        low = levels.new_full((1,), -1, dtype=torch.long)
        high = levels.new_full((1,), len(levels) - 1, dtype=torch.long)
        steps = torch.arange(1, PROBES + 1, device=levels.device)
        for _ in range(math.ceil(math.log(len(levels) + 1, PROBES + 1))):
            between = (low + (high - low) * steps // (PROBES + 1)).clamp(min=0)
            tried = torch.cat([low, between, high])
            passed = over(levels[between]).sum().view(1)
            low, high = tried[passed], tried[passed + 1]
        return levels[high][0]

    def _affordable(self, paths: Tensor, weakest: Tensor, reductions: Tensor, target: float) -> Tensor:
        """The rows (G,) whose strongest path stays: from the strongest on as many as `target` allows, and one at
        least.
        """
        there = weakest > -math.inf
        costs = torch.where(there, self.group_costs(*self.reach(paths)), 0)
        left = target - self.fixed - (branches_above(reductions, math.inf) * self.of_branches).sum()
        # The strongest first; of equals the last first.
        order = weakest.flip(0).sort(descending=True, stable=True).indices
        order = len(order) - 1 - order
        fits = costs[order].cumsum(0) <= left
        fits[0] = True
        kept = torch.zeros_like(there)
        kept[order] = fits.cummin(0).values
        return kept & there

    @staticmethod
    def _matrix(edges: Tensor, level: slice, below: int) -> Tensor:
        return edges[..., level].unflatten(-1, (-1, below))


def branches_above(reductions: Tensor, level: Tensor | float) -> Tensor:
    """Which branches (…, R, 2) of the `reductions` (R, 2) live at levels (…), as `blocks.branches` has it."""
    above = reductions > level
    larger = reductions[..., :1] > reductions[..., 1:]
    stronger = torch.cat([larger, ~larger], -1)
    return above | (stronger & ~above.any(-1, keepdim=True))
