"""What a search must beat: networks of the same multiply-adds that nobody searched for.

A random network goes through the very cut that a searched one goes through (`Press`, with the same spared paths, the
same fall of the cost and the same fit of the widths), only that its λ are drawn and never learned. Opponents that may
have empty blocks or waste a part of the budget would flatter the search. Still they keep more edges than a searched
network of the same cost, and other reductions, which alone make a difference: what the choice of connections is worth
only one that is matched in both can tell.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

import torch

from nas_core.search.press import CostOf, Edges, Press
from nas_core.search.spending import LEAST_USED, fit_widths, spend
from nas_core.seeds import generator
from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, branches
from nas_core.spec import NO_LIMITS, Limits

CUTS = 100
"""In how many equal parts the cost of a random network falls to its budget."""

DRAWS = 30
"""How many random networks are drawn for one that is matched."""


def random_architecture(
    space: SearchSpace, budget: int, seed: int, divisor: int = 1, limits: Limits = NO_LIMITS
) -> Architecture:
    """A random network within `budget` multiply-adds: λ uniform on 0 … 1, cut down in `CUTS` steps.

    The `limits` are left to its widths. Raises `ValueError` where even what the cut may not remove costs more.
    """
    random = generator(seed, "random architecture")
    return spend(_drawn(space, random, space.complete().multiply_adds, budget), budget, limits, divisor)


def matched_architecture(like: Architecture, budget: int, seed: int, divisor: int = 1) -> Architecture:
    """A random network within `budget` with the reductions of `like`, as many live edges, and widths near to its own.

    λ are drawn and cut down in `CUTS` steps as for `random_architecture`, but to a number of edges. Of `DRAWS` such
    networks it is the one whose edges, then whether it uses the budget, and then widths differ least.

    Raises `ValueError` where none of them keeps the budget, even with the fewest channels.
    """
    space, random = like.space, generator(seed, "matched architecture")
    copies = sum(space.blocks) if space.share else 1
    # Above all λ that are drawn, so that they stay.
    pairs = [[2.0 * (strength > 0) for strength in reduction.strengths] for reduction in like.reductions]

    def edges(alive: Sequence[Edges], *_: object) -> int:
        return copies * sum(map(len, alive))

    def apart(other: Architecture) -> tuple[int, bool, float]:
        ratios = (math.log(one / own) for one, own in zip(other.widths, like.widths, strict=True))
        return (
            abs(other.live_edges - like.live_edges),
            other.multiply_adds < LEAST_USED * budget,
            sum(map(abs, ratios)),
        )

    fitted = []
    for _ in range(DRAWS):
        drawn = _drawn(space, random, space.complete().live_edges, like.live_edges, edges, pairs)
        with suppress(ValueError):
            fitted.append(fit_widths(drawn, budget, divisor=divisor))
    if not fitted:
        raise ValueError(f"no random network with {like.live_edges} edges keeps the budget of {budget}")
    return min(fitted, key=apart)


def _drawn(
    space: SearchSpace,
    random: torch.Generator,
    complete: int,
    least: int,
    cost_of: CostOf | None = None,
    pairs: list[list[float]] | None = None,
) -> Architecture:
    """A network at the space's widths of λ that are drawn and cut down, from a cost of `complete` to `least`.

    The cost is in multiply-adds, or what `cost_of` says as in `Press.solve`; the reductions' `pairs` are drawn too
    where none are given.
    """
    press = Press(space)
    vectors = [torch.rand(len(press.edges), generator=random).tolist() for _ in press.of_nodes]
    if pairs is None:
        pairs = [torch.rand(2, generator=random).tolist() for _ in space.blocks[1:]]
    for cut in range(1, CUTS + 1):
        alive = [[e for e, strength in zip(press.edges, vector, strict=True) if strength > 0] for vector in vectors]
        weights = [[press.alive_share(group, edges)] * len(press.edges) for group, edges in enumerate(alive)]
        target = complete + (least - complete) * cut / CUTS
        level, alive, _ = press.solve(vectors, pairs, weights, target, cost_of)
        for vector, edges in zip(vectors, map(set, alive), strict=True):
            vector[:] = [s if edge in edges else 0.0 for edge, s in zip(press.edges, vector, strict=True)]
        pairs = [[s * lives for s, lives in zip(pair, branches(pair, level), strict=True)] for pair in pairs]
    strengths = [dict(zip(press.edges, vector, strict=True)) for vector in vectors]
    blocks = [
        Block(tuple(Edge(*e, strength[e]) for e in edges)) for strength, edges in zip(strengths, alive, strict=True)
    ]
    if space.share:
        blocks *= sum(space.blocks)
    return Architecture(space, space.widths, tuple(blocks), tuple(Reduction(*pair) for pair in pairs))


def thin_complete(space: SearchSpace, budget: int, divisor: int = 1, limits: Limits = NO_LIMITS) -> Architecture:
    """The complete network, all stages narrowed (or widened) alike until it uses `budget` or one of the `limits` up.

    Raises `ValueError` where it costs more even with one channel.
    """
    return fit_widths(space.complete(), budget, limits, divisor)
