"""What one search is asked to do: the content of a run's `spec.json`."""

from nas_core.spec.engine import NO_ENGINE_OPTIONS, PRECISIONS, EngineOptions
from nas_core.spec.finals import BASELINES, DEFAULT_BASELINES, NO_FINALS, FinalsOptions
from nas_core.spec.limits import NO_LIMITS, Limits, infeasible, parse_count, unmet
from nas_core.spec.options import NEWEST_IR, NO_EXPORT_OPTIONS, NO_OPTIONS, OPSETS, DataOptions, ExportOptions
from nas_core.spec.settings import BALANCES, CHOOSE_BY, FORMS, PENALTIES, RECIPES, SCHEDULES, STARTS, Settings
from nas_core.spec.specification import SearchSpec

__all__ = [
    "BALANCES",
    "BASELINES",
    "CHOOSE_BY",
    "DEFAULT_BASELINES",
    "FORMS",
    "NEWEST_IR",
    "NO_ENGINE_OPTIONS",
    "NO_EXPORT_OPTIONS",
    "NO_FINALS",
    "NO_LIMITS",
    "NO_OPTIONS",
    "OPSETS",
    "PENALTIES",
    "PRECISIONS",
    "RECIPES",
    "SCHEDULES",
    "STARTS",
    "DataOptions",
    "EngineOptions",
    "ExportOptions",
    "FinalsOptions",
    "Limits",
    "SearchSpec",
    "Settings",
    "infeasible",
    "parse_count",
    "unmet",
]
