"""The method: direct sparse optimisation (DSO-NAS, arXiv 1811.01567) of image networks under a budget.

The names below are loaded when first used, so that a program which needs only the description of a search
(`SearchSpace`, `Architecture`) never pays for loading torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "SearchSpace": "space",
    "Architecture": "space",
    "Reference": "space",
    "SearchSpec": "spec",
    "Settings": "spec",
    "Supernet": "supernet.supernet",
    "Network": "supernet.network",
    "ReferenceNetwork": "supernet.references",
    "ApgNag": "search.proximal",
    "Search": "search.search",
    "Retraining": "train.retrain",
    "SearchJob": "job",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nas_core' has no attribute {name!r}")
    return getattr(import_module(f"nas_core.{_HOME[name]}"), name)
