"""The numbers in a journal line, under the names that tools which draw metrics show them by."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

Key = TypeVar("Key")

_COST = {"multiply_adds": "multiply_adds", "parameters": "parameters", "activations": "activations"}
_TESTED = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "top5_accuracy")
_NAMES = {
    "epoch": {
        name: name
        for name in ("loss", "accuracy", "balanced_accuracy", "multiply_adds", "live_edges", "l1_weight", "seconds")
    },
    "architecture": _COST,
    "retrained": _COST | {name: f"test_{name}" for name in _TESTED},
}
"""Of each kind of line the fields that are metrics, and what they are called. (What a `snapshot` counts, the next
`epoch` counts too.)"""
MOST_RECALLS = 50
"""With more classes than this, only the lowest recall is a metric."""
_LONGEST = 60
_ODD = re.compile(r"[^\w.\- ]")
"""What MLflow takes in no name of a metric."""


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
    values = _numbers({name: line.get(field) for field, name in _NAMES.get(kind, {}).items()})
    if kind == "retrained":
        values |= _recalls(line.get("per_class"))
    group, step = line.get("phase") if kind == "epoch" else "network", line.get("epoch", 0)
    if not values or not isinstance(group, str) or not isinstance(step, int):
        return None
    network = str(line["budget"]) if "budget" in line else None
    if network is not None and "trial" in line:
        network = f"{network}-{line['trial']}-{line.get('origin', 'search')}"
    return Metrics(network, group, step, values)


def _recalls(per_class: Any) -> dict[str, float]:
    """The lowest recall, and that of each class under its number and name where there are few; none where unknown."""
    names, recalls = (per_class.get(key) if isinstance(per_class, Mapping) else None for key in ("names", "recall"))
    if not isinstance(names, list) or not isinstance(recalls, list):
        return {}
    known = _numbers(dict(enumerate(recalls[: len(names)])))
    values = {"test_lowest_recall": min(known.values())} if known else {}
    if len(names) <= MOST_RECALLS:
        for label, recall in known.items():
            values[f"test_recall/{label}-{_ODD.sub('_', str(names[label]))[:_LONGEST]}"] = recall
    return values


def _numbers(values: Mapping[Key, Any]) -> dict[Key, float]:
    """Those of the values that are finite numbers."""
    return {
        key: float(value) for key, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }
