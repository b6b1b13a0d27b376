"""What a network costs under a budget and limits, and how it uses them up: by its widths above all."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, combinations, islice
from typing import Any, TypeVar

import numpy as np

from nas_core.space import Architecture, Block, Edge, Reference, cost, live, memory
from nas_core.spec import NO_LIMITS, Limits

FLOOR = 1e-3
"""What is left of a λ that the press would have zeroed but must spare."""

Fitted = TypeVar("Fitted", Architecture, Reference)

LEAST_USED = 0.97
"""The share of a budget that a network is to use."""

WIDE, FURTHEST = 32, 0.9
"""Widths of so many channels or more are multiples of a divisor, where that moves none further than to such a part of
what it would be without, or back: a network whose stages are out of proportion learns worse."""

RELATIVES = 200
"""How many lighter relatives of a network are tried for it, and five times as many in all."""


def effective_cost(
    architecture: Fitted,
    budget: int | float,
    limits: Limits,
    estimate: Callable[[Fitted], float] | None = None,
    widths: Any = None,
) -> Any:
    """The multiply-adds of `architecture`, or `budget` times the largest share of a limit where that is more.

    It is at most `budget` where budget and limits are kept. Latency counts where there is an `estimate` of it, in
    milliseconds; `widths`, as in `Architecture.parts`, do not change that one.
    """
    parts = architecture.parts(widths)
    total = cost.total(parts)
    effective = total.multiply_adds
    if limits.parameters is not None:
        effective = np.maximum(effective, total.parameters / limits.parameters * budget)
    if limits.activations is not None:
        peak = memory.peak_activations(parts)
        effective = np.maximum(effective, peak / limits.activations * budget)
    if limits.latency_ms is not None and estimate is not None:
        effective = np.maximum(effective, estimate(architecture) / limits.latency_ms * budget)
    return effective


def narrowest(architecture: Architecture) -> Architecture:
    """The architecture with the fewest channels that it can have."""
    return replace(architecture, widths=architecture.fewest)


def spend(architecture: Architecture, budget: int, limits: Limits = NO_LIMITS, divisor: int = 1) -> Architecture:
    """The network of `architecture` that uses at least `LEAST_USED` of the budget or of a limit, and passes none.

    The widths do it (`fit_widths`) wherever a channel is a small part of the network. Where it is not, in small spaces,
    a near relative does: without its weakest edges, and so wider; or else with an operation or two more as well. Where
    none does, the one that uses most. Raises `ValueError` as `fit_widths` does.
    """
    best = fit_widths(architecture, budget, limits, divisor)
    if effective_cost(best, budget, limits) >= LEAST_USED * budget:
        return best
    bases = [architecture, *islice(lighter(architecture), RELATIVES)]
    for relative in islice(chain(bases[1:], chain.from_iterable(map(heavier, bases))), 5 * RELATIVES):
        with suppress(ValueError):
            best = max(
                best,
                fit_widths(relative, budget, limits, divisor),
                key=lambda a: effective_cost(a, budget, limits),
            )
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


def divisor_of(widths: Iterable[int], most: int) -> int:
    """The first of `most`, its half, its quarter … that all of the `widths` that are `WIDE` are multiples of."""
    while any(width % most for width in widths if width >= WIDE):
        most //= 2
    return most


def fit_widths(architecture: Fitted, budget: int, limits: Limits = NO_LIMITS, divisor: int = 1) -> Fitted:
    """The network with the widths that use up `budget` or one of the `limits` on parameters and activations.

    Those that are `WIDE` are multiples of `divisor`, or of its half, its quarter … where that would leave more than
    `LEAST_USED` allows, or move one further than `FURTHEST`. Raises `ValueError` where the architecture is over the
    budget or a limit even with the fewest channels.
    """
    finest = _fit_widths(architecture, budget, limits, 1)
    if max(finest.widths) < WIDE or effective_cost(finest, budget, limits) < LEAST_USED * budget:
        return finest
    while divisor > 1:
        fitted = _fit_widths(architecture, budget, limits, divisor)
        moved = [one / other for one, other in zip(fitted.widths, finest.widths, strict=True)]
        in_shape = min(moved) >= FURTHEST and max(moved) <= 1 / FURTHEST
        if in_shape and effective_cost(fitted, budget, limits) >= LEAST_USED * budget:
            return fitted
        divisor //= 2
    return finest


def _fit_widths(architecture: Fitted, budget: int, limits: Limits, divisor: int) -> Fitted:
    """The network with widths, those that are `WIDE` multiples of `divisor`, that come closest to `budget`.

    All stages are scaled by the same factor, and then moved apart by a few steps where that comes closer to the
    tightest of them. Taken are the widths nearest to equal scaling that leave at most 2 % of it, since a network whose
    stages are out of proportion learns worse; where there are none, those that leave least, and of these the largest.
    Raises `ValueError` where the network is over the budget or a limit even with the fewest channels.
    """
    widths, fewest, fine = architecture.widths, architecture.fewest, architecture.step
    coarse = math.lcm(divisor, fine)

    def rounded(width: float) -> int:
        return finely if (finely := round(width / fine) * fine) < WIDE else round(width / coarse) * coarse

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(max(least, rounded(width * factor)) for least, width in zip(fewest, widths, strict=True))

    def costs(chosen: Any) -> Any:
        return effective_cost(architecture, budget, limits, widths=chosen)

    if costs(fewest) > budget:
        limited = "" if limits == NO_LIMITS else f", or a limit of {limits} is passed"
        least = cost.total(architecture.parts(fewest)).multiply_adds
        raise ValueError(f"at least {least} multiply-adds are over the budget of {budget}{limited}")
    low, high = 0.0, 1.0
    while costs(scaled(high)) <= budget:
        low, high = high, high * 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if costs(scaled(middle)) <= budget else (low, middle)
    # Steps in each direction, fewer where there are many widths: all combinations are counted at once.
    reach = 4 if len(widths) <= 3 else 3 if len(widths) <= 6 else 1

    def near(middle: int, least: int) -> list[int]:
        around = range(max(least, middle - reach * coarse), middle + reach * coarse + 1)
        allowed = [width for width in around if width == rounded(width)]
        at = allowed.index(middle)
        return allowed[max(0, at - reach) : at + reach + 1]

    ranges = [np.array(near(middle, least)) for least, middle in zip(fewest, scaled(low), strict=True)]
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
        best = fullest[np.argmax(cost.total(architecture.parts(grid)).multiply_adds[fullest])]
    return replace(architecture, widths=tuple(int(axis[best]) for axis in grid))
