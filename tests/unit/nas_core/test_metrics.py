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
        (
            {
                "kind": "retrained",
                "epoch": 9,
                "budget": 300,
                "balanced_accuracy": 0.25,
                "top5_accuracy": None,
                "per_class": {"names": ["cat", "a/b%", "fox"], "recall": [0.5, 0.0, None]},
            },
            Metrics(
                "300",
                "network",
                9,
                {
                    "test_balanced_accuracy": 0.25,
                    "test_lowest_recall": 0.0,
                    "test_recall/0-cat": 0.5,
                    "test_recall/1-a_b_": 0.0,
                },
            ),
        ),
        (
            {
                "kind": "retrained",
                "epoch": 9,
                "budget": 300,
                "top5_accuracy": 0.5,
                "per_class": {"names": ["x"] * 51, "recall": [0.25] * 51},
            },
            Metrics("300", "network", 9, {"test_top5_accuracy": 0.5, "test_lowest_recall": 0.25}),
        ),
        ({"kind": "retrained", "budget": 3, "per_class": {"names": 3, "recall": [0.5]}}, None),
        ({"kind": "retrained", "budget": 3, "per_class": {"names": ["a"], "recall": ["0.5", 0.5]}}, None),
        ({"kind": "retrained", "budget": 3, "per_class": [1]}, None),
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
