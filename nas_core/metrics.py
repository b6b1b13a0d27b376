"""The numbers in a journal line, under the names that tools which draw metrics show them by."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

_COST = {"multiply_adds": "multiply_adds", "parameters": "parameters", "activations": "activations"}
_NAMES = {
    "epoch": {name: name for name in ("loss", "accuracy", "multiply_adds", "live_edges", "l1_weight", "seconds")},
    "architecture": _COST,
    "retrained": _COST | {name: f"test_{name}" for name in ("accuracy", "accuracy_low", "accuracy_high")},
}
"""Of each kind of line the fields that are metrics, and what they are called. (What a `snapshot` counts, the next
`epoch` counts too.)"""


class Metrics(NamedTuple):
    """What one line measures.

    `network` is the network that it is about, by its budget, in finals with the trial's number and the origin, such as
    "300000" and "300000-4-random"; None for the supernet. `group` is the phase ("pretrain", "search", "retrain") of
    which `step` counts the epochs, or "network" for what a network costs and how it did in the test.
    """

    network: str | None
    group: str
    step: int
    values: dict[str, float]


def metrics_of(line: Mapping[str, Any]) -> Metrics | None:
    """What a journal line measures, or None where that is nothing."""
    kind = line.get("kind", "")
    given = ((name, line.get(field)) for field, name in _NAMES.get(kind, {}).items())
    values = {name: float(value) for name, value in given if isinstance(value, int | float) and math.isfinite(value)}
    group, step = line.get("phase") if kind == "epoch" else "network", line.get("epoch", 0)
    if not values or not isinstance(group, str) or not isinstance(step, int):
        return None
    network = str(line["budget"]) if "budget" in line else None
    if network is not None and "trial" in line:
        network = f"{network}-{line['trial']}-{line.get('origin', 'search')}"
    return Metrics(network, group, step, values)
