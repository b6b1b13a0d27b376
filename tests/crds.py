"""Objects held strictly to the schemas of custom resources, as an API server would that refuses what it does not know.

`schemas/` has the OpenAPI schemas without their descriptions: RayCluster and RayJob v1 of KubeRay 1.7, ServiceMonitor
and PrometheusRule v1 of the Prometheus operator 0.93.
"""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).parent / "unit/deploy/schemas"


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses what it does not know, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": schema.get("pattern", "")}]}
    made = {key: strict(part) for key, part in schema.items()}
    if isinstance(pattern := schema.get("pattern"), str):
        made["pattern"] = pattern.replace("^(?i)", "(?i)^")  # as Python has it
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return made


@cache
def validator(kind: str) -> Any:
    """What tells whether an object of a kind is as its schema says; None for a kind that there is no schema of."""
    path = SCHEMAS / f"{kind}.json.gz"
    if not path.exists():
        return None
    known = json.loads(gzip.decompress(path.read_bytes()))
    known["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(strict(known))
