"""What a search must beat: networks of the same multiply-adds that nobody searched for.

A random network goes through the very cut that a searched one goes through (`Press`, with the same spared paths, the
same fall of the cost and the same fit of the widths), only that its λ are drawn and never learned. Opponents that may
have empty blocks or waste a part of the budget would flatter the search.
"""

import torch

from nas_core.search.press import Press
from nas_core.search.spending import fit_widths, spend
from nas_core.seeds import generator
from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, branches

CUTS = 100
"""In how many equal parts the cost of a random network falls to its budget."""


def random_architecture(space: SearchSpace, budget: int, seed: int, divisor: int = 1) -> Architecture:
    """A random network within `budget` multiply-adds: λ uniform on 0 … 1, cut down in `CUTS` steps.

    Raises `ValueError` where even what the cut may not remove costs more than the budget.
    """
    press, random = Press(space), generator(seed, "random architecture")
    vectors = [torch.rand(len(press.edges), generator=random).tolist() for _ in press.of_nodes]
    pairs = [torch.rand(2, generator=random).tolist() for _ in space.blocks[1:]]
    complete = space.complete().multiply_adds
    for cut in range(1, CUTS + 1):
        alive = [[e for e, strength in zip(press.edges, vector, strict=True) if strength > 0] for vector in vectors]
        weights = [[press.alive_share(group, edges)] * len(press.edges) for group, edges in enumerate(alive)]
        level, alive, _ = press.solve(vectors, pairs, weights, complete + (budget - complete) * cut / CUTS)
        for vector, edges in zip(vectors, map(set, alive), strict=True):
            vector[:] = [s if edge in edges else 0.0 for edge, s in zip(press.edges, vector, strict=True)]
        pairs = [[s * lives for s, lives in zip(pair, branches(pair, level), strict=True)] for pair in pairs]
    strengths = [dict(zip(press.edges, vector, strict=True)) for vector in vectors]
    blocks = [
        Block(tuple(Edge(*e, strength[e]) for e in edges)) for strength, edges in zip(strengths, alive, strict=True)
    ]
    if space.share:
        blocks *= sum(space.blocks)
    reductions = tuple(Reduction(*pair) for pair in pairs)
    return spend(Architecture(space, space.widths, tuple(blocks), reductions), budget, divisor=divisor)


def thin_complete(space: SearchSpace, budget: int, divisor: int = 1) -> Architecture:
    """The complete network with all stages narrowed (or widened) alike until it costs `budget` multiply-adds.

    Raises `ValueError` where it costs more even with one channel.
    """
    return fit_widths(space.complete(), budget, divisor=divisor)
