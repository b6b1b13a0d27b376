"""How networks of different origins did beside each other, in words. No torch.

Networks are results of finals that were trained to the end: dictionaries with `budget`, `trial`, `origin`, `winner`, a
`variant` where people have drawn them, a `label` where their search has others of the budget, the test's scores, and on
the validation part the same as `validation_…`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nas_core.space import FAMILIES

Network = Mapping[str, Any]
LEAST_POINTS = 0.05
"""Percentage points below which a difference is told as none."""


def called(network: Network) -> str:
    """What a network is called beside others: its `label`; or resnet8, random, or searched, with its seed."""
    if "label" in network:
        return str(network["label"])
    origin = network["origin"]
    name = "searched" if origin == "search" else network.get("variant") or origin
    return name if origin in FAMILIES else f"{name}, seed {network['seed']}"


def rival_of(network: Network, networks: Sequence[Network], choose_by: str) -> Network | None:
    """What a network is to be compared with: the best on validation of those of its budget from the other side.

    That is a hand-made one for a searched network, and a searched one for any other. None where there is none.
    """
    searched = network["origin"] == "search"
    others = [
        one
        for one in networks
        if one["budget"] == network["budget"] and (one["origin"] in FAMILIES if searched else one["origin"] == "search")
    ]
    best = f"validation_{choose_by}"
    return max(others, key=lambda one: (one[best], -one["multiply_adds"], -one["trial"]), default=None)


def beside(network: Network, networks: Sequence[Network], choose_by: str) -> str | None:
    """How a network did in the test beside its rival, as in "0.9 points above the best searched network".

    `choose_by` (`CHOOSE_BY`) names the score. None where it has no rival.
    """
    if (rival := rival_of(network, networks, choose_by)) is None:
        return None
    points = 100 * (network[choose_by] - rival[choose_by])
    unit = "" if choose_by == "accuracy" else f" of {choose_by.replace('_', ' ')}"
    told = f"{abs(points):.1f} points{unit} {'above' if points > 0 else 'below'}"
    if abs(points) < LEAST_POINTS:
        told = "as good as"
    if network["origin"] != "search":
        return f"{told} the best searched network"
    return f"{told} the best hand-made network of this cost ({rival['variant']})"


def headline(winner: Network) -> str | None:
    """Which network is the best for its budget and where it comes from, in a sentence; None without a `comparison`.

    As in "The best network for 300,000 is a hand-made one: resnet8, 0.9 points above the best searched network."
    """
    origin, told = winner["origin"], winner.get("comparison")
    if told is None:
        return None
    kind = {"search": "a searched one", "random": "a random one", "thin": "the complete one with fewer channels"}
    what = kind.get(origin) or f"a hand-made one: {winner.get('variant') or origin}"
    # Validation decides; the test may order them otherwise.
    where = " in the test, but not on validation" if " below " in told else ""
    return f"The best network for {winner['budget']:,} is {what}, {told}{where}."
