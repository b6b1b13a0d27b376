"""What of a journal line is a metric."""

from typing import Any

import pytest

from nas_core.metrics import Metrics, metrics_of

EPOCH = {"kind": "epoch", "phase": "retrain", "epoch": 3, "epochs": 9, "budget": 300, "progress": 0.5, "seconds": 2}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (EPOCH, Metrics("300", "retrain", 3, {"seconds": 2.0})),
        (EPOCH | {"trial": 4, "origin": "thin"}, Metrics("300-4-thin", "retrain", 3, {"seconds": 2.0})),
        (EPOCH | {"trial": 4}, Metrics("300-4-search", "retrain", 3, {"seconds": 2.0})),
        (EPOCH | {"loss": float("nan"), "accuracy": None}, Metrics("300", "retrain", 3, {"seconds": 2.0})),
        (
            {"kind": "epoch", "phase": "search", "epoch": 1, "multiply_adds": 7},
            Metrics(None, "search", 1, {"multiply_adds": 7}),
        ),
        (
            {"kind": "architecture", "budget": 300, "parameters": 5},
            Metrics("300", "network", 0, {"parameters": 5.0}),
        ),
        (
            {"kind": "retrained", "epoch": 9, "budget": 300, "accuracy": 0.5, "test_images": 99},
            Metrics("300", "network", 9, {"test_accuracy": 0.5}),
        ),
        ({"kind": "stopped", "epoch": 4, "accuracy": 0.5, "trial": 1, "budget": 300}, None),
        ({"kind": "started", "workers": 2}, None),
        ({"kind": "epoch", "phase": "search", "epoch": 1}, None),
        ({"kind": "epoch", "epoch": 1, "loss": 1.0}, None),
        (EPOCH | {"epoch": None}, None),
        ({}, None),
    ],
)
def test_a_line_measures(line: dict[str, Any], told: Metrics | None) -> None:
    assert metrics_of(line) == told
