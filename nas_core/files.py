"""The files that a search leaves for each network, by kind: their names in a run's folder and wherever it is taken."""

from collections.abc import Mapping
from typing import Any

FILES = {
    "architecture": "architecture.json",
    "picture": "picture.svg",
    "weights": "weights.safetensors",
    "onnx": "network.onnx",
    "onnx_fp16": "network.fp16.onnx",
    "onnx_int8": "network.int8.onnx",
    "torch_export": "network.pt2",
    "python": "network.py",
    "predict": "predict.py",
    "card": "README.md",
    "evaluation": "evaluation.json",
    "mistakes": "mistakes.png",
}

NEW_KINDS = ("onnx_fp16", "onnx_int8", "mistakes")
"""Kinds that the last release does not know: its dispatchers refuse a result that names them among its files."""


def set_apart(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a result tells of a network, with what is of a new kind under `of_new_kinds`, which the last release reads
    over. `files` and `not_exported` are by kind. With the next release, a kind that is unknown is no longer refused."""
    known, new = dict(told), {}
    for field in ("files", "not_exported"):
        known[field] = {kind: one for kind, one in told[field].items() if kind not in NEW_KINDS}
        new[field] = {kind: one for kind, one in told[field].items() if kind in NEW_KINDS}
    return known | {"of_new_kinds": new}
