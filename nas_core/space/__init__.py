"""Which networks a search chooses from, what each is, and what it costs."""

from nas_core.space.blocks import Block, Edge, Reduction, branches, live
from nas_core.space.genotype import Genotype
from nas_core.space.references import BESIDE, FAMILIES, Family, Origin, Reference
from nas_core.space.skeleton import MOST_OPERATIONS
from nas_core.space.space import PRESETS, Architecture, SearchSpace, read_genotype, schema

__all__ = [
    "BESIDE",
    "FAMILIES",
    "MOST_OPERATIONS",
    "PRESETS",
    "Architecture",
    "Block",
    "Edge",
    "Family",
    "Genotype",
    "Origin",
    "Reduction",
    "Reference",
    "SearchSpace",
    "branches",
    "live",
    "read_genotype",
    "schema",
]
