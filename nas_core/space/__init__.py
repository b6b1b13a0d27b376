"""Which networks a search chooses from, what each is, and what it costs."""

from nas_core.space.blocks import Block, Edge, Reduction, branches, live
from nas_core.space.skeleton import MOST_OPERATIONS
from nas_core.space.space import PRESETS, Architecture, SearchSpace, schema

__all__ = [
    "MOST_OPERATIONS",
    "PRESETS",
    "Architecture",
    "Block",
    "Edge",
    "Reduction",
    "SearchSpace",
    "branches",
    "live",
    "schema",
]
