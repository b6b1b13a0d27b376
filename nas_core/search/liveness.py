"""Which λ are alive, what that costs, and where to press, as tensors for all blocks at once.

The same answers as `press.Press`, `press.strongest_path` and `blocks.live` give edge by edge, without reading
anything back to the host: what a search asks at every λ step. The λ of a space are one tensor (G, E): one row for each
block, or a single one where the blocks share theirs, and one column for each edge in the order of
`SearchSpace.edges()`. That order keeps the edges into a level together, as a matrix of its operations by all nodes
below, so that reachability goes level by level.
"""

import math
from collections.abc import Sequence
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
        low, high = (
            levels.new_full((1,), -1, dtype=torch.long),
            levels.new_full((1,), len(levels) - 1, dtype=torch.long),
        )
        steps = torch.arange(1, PROBES + 1, device=levels.device)
        for _ in range(math.ceil(math.log(len(levels) + 1, PROBES + 1))):
            between = (low + (high - low) * steps // (PROBES + 1)).clamp(min=0)
            tried, level = torch.cat([low, between, high]), levels[between]
            alive = (times > level[:, None, None]) | spared
            over = (self.cost(alive, reductions, level) > target).sum().view(1)
            low, high = tried[over], tried[over + 1]
        level = levels[high][0]
        _, alive = self.reach((times > level) | spared)
        return Pressed(level, alive, spared & (level > 0))

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
