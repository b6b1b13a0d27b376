"""Reference networks scaled to a budget: of which depth, with which strides, and how wide. No torch.

The choice follows a rule that was fixed before it was measured with, and looks at no accuracy. A network that is far
thinner than it was drawn is a poor opponent, and so is one that has no pixels left. So of all variants of a family, and
of all ways to halve its images down to `LEAST_PIXELS` … `MOST_PIXELS` that its strides allow, those count that are at
least `LEAST_SCALE` as wide as published; of them the one with the fewest halvings, and of these the deepest. Where
none is as wide, the widest is taken.
"""

from contextlib import suppress
from dataclasses import replace

from nas_core.search.spending import LEAST_USED, effective_cost, fit_widths
from nas_core.space import FAMILIES, Reference
from nas_core.space.references import variants_for
from nas_core.space.skeleton import Skeleton
from nas_core.spec import NO_LIMITS, Limits

LEAST_PIXELS, MOST_PIXELS = 2, 8
"""Height and width of the last activations."""
LEAST_SCALE = 0.5
"""Of the published width, as a mean over a network."""


def fit_reference(
    family: str, skeleton: Skeleton, budget: int, limits: Limits = NO_LIMITS, divisor: int = 1
) -> Reference:
    """The network of `family` for the images and classes of `skeleton` that uses `budget` or one of the `limits` up.

    Its widths are rounded by `divisor` as those of searched networks are (`fit_widths`). Raises `ValueError`, with the
    least that the family costs, where none keeps the budget and the limits. Latency is not judged, which takes the
    device.
    """
    found, least = [], []
    for drawn in candidates(family, skeleton):
        smallest = drawn.narrowest()
        least.append(smallest)
        if effective_cost(smallest, budget, limits) <= budget:
            found.append(_fitted(drawn, budget, limits, divisor))
    if not found:
        cheapest = min(least, key=lambda one: effective_cost(one, budget, limits))
        raise ValueError(
            f"{family} takes at least {cheapest.multiply_adds:,} multiply-adds, {cheapest.parameters:,} parameters and "
            f"{cheapest.peak_activations:,} activations"
        )
    wide = [one for one in found if one.scale >= LEAST_SCALE]
    if not wide:
        return max(found, key=lambda one: one.scale)
    fewest = min(one.halvings for one in wide)
    return [one for one in wide if one.halvings == fewest][-1]


def candidates(family: str, skeleton: Skeleton) -> list[Reference]:
    """The variants of a family as they were drawn, the shallowest first, each in all ways to halve the images."""
    size = skeleton.image_size
    return [
        Reference(
            family, name, skeleton.channels_in, size, skeleton.classes, halvings, 1, FAMILIES[family][name].widths
        )
        for name in variants_for(family, size)
        for halvings in ways_to_halve(size, FAMILIES[family][name].places)
    ]


def ways_to_halve(size: int, places: int) -> list[int]:
    """How often images of `size`² pixels may be halved, at `places` at most."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    ways = [number for number, left in enumerate(sizes) if LEAST_PIXELS <= left <= MOST_PIXELS and number <= places]
    return ways or [places]


def _fitted(drawn: Reference, budget: int, limits: Limits, divisor: int) -> Reference:
    """The network with the widths that use up the budget; what follows from them is rounded where it is wide enough."""
    finest = fit_widths(drawn, budget, limits, divisor)
    if finest.scale >= LEAST_SCALE:
        with suppress(ValueError):
            rounded = fit_widths(replace(drawn, divisor=8), budget, limits, divisor)
            if effective_cost(rounded, budget, limits) >= LEAST_USED * budget:
                return rounded
    return finest
