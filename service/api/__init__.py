"""The REST API under /api/v1, in which every answer is one of `service.answers`."""

from typing import Any

from pydantic import ConfigDict

from service import answers

SEARCH: dict[str, Any] = {
    "id": "k3v9qa2m7xw4",
    "kind": "search",
    "project": "default",
    "sweep": None,
    "name": "first steps",
    "tags": ["phone"],
    "description": "",
    "submitted_by": "vision:admin",
    "status": "running",
    "reason": None,
    "phase": "search",
    "progress": 0.42,
    "seconds_left": 140.5,
    "stalled_for": None,
    "accuracy": 0.97,
    "dataset": "digits",
    "dataset_report": None,
    "budgets": [300000, 600000],
    "limits": {"parameters": 20000},
    "seed": 0,
    "workers": 4,
    "min_workers": 2,
    "max_workers": 8,
    "accelerator_type": "A100",
    "priority": 0,
    "preempts": False,
    "max_wait": 7200.0,
    "max_run": 43200.0,
    "start_by": None,
    "stop_by": "2026-01-02T00:00:05Z",
    "attempt": 1,
    "supernet_multiply_adds": 2114880,
    "created_at": "2026-01-01T12:00:00Z",
    "started_at": "2026-01-01T12:00:05Z",
    "heard_at": "2026-01-01T12:01:40Z",
    "ended_at": None,
    "stored": 0,
    "pruned": [],
    "error": None,
    "architectures": [],
    "notes": [],
    "request": {"dataset": "digits", "budgets": ["300k", 600000]},
    "space": {},
    "settings": {},
}
"""A search as it may look, for the API's description."""

answers.Search.__pydantic_config__ = ConfigDict(json_schema_extra={"examples": [SEARCH]})  # type: ignore[attr-defined]
