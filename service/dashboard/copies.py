"""A request as its user could make it again: with curl, on the command line, and from Python."""

import json
import shlex
from collections.abc import Mapping
from pprint import pformat
from typing import Any

OPTIONS = {
    "seed": "--seed",
    "workers": "--workers",
    "cpus_per_worker": "--cpus-per-worker",
    "gpus_per_worker": "--gpus-per-worker",
    "accelerator_type": "--accelerator-type",
    "project": "--project",
    "priority": "--priority",
    "max_wait": "--max-wait",
    "max_run": "--max-run",
    "time": "--time",
    "name": "--name",
}
"""The options of `yoso submit` that take a field as it is."""


def as_curl(url: str, request: Mapping[str, Any], token: bool) -> str:
    """A curl command; with `token` it sends the one in YOSO_TOKEN."""
    lines = [f"curl --fail-with-body {shlex.quote(url + '/api/v1/searches')}"]
    if token:
        lines.append('-H "Authorization: Bearer $YOSO_TOKEN"')
    lines.append("-H 'Content-Type: application/json'")
    lines.append("--data-binary " + shlex.quote(json.dumps(request, indent=1)))
    return " \\\n  ".join(lines)


def as_command(url: str, request: Mapping[str, Any]) -> str | None:
    """A `yoso submit` command; None where it has no options for all that was asked."""
    space, rest = dict(request.get("space") or {}), dict(request)
    words = [shlex.quote(rest.pop("dataset"))]
    words += [f"--budget {shlex.quote(str(budget))}" for budget in rest.pop("budgets", None) or ()]
    words += [_pair("--limit", *limit) for limit in rest.pop("limits", {}).items()]
    words += [_pair("--set", *setting) for setting in rest.pop("settings", {}).items()]
    words += [_pair("--engine", *option) for option in rest.pop("engine", {}).items()]
    if (normalise := (export := dict(rest.pop("export", None) or {})).pop("normalise", None)) is not None:
        words.append("--normalise" if normalise else "--no-normalise")
    words += [f"--{name} {shlex.quote(str(value))}" for name, value in export.items()]
    finals = dict(rest.pop("finals", None) or {})
    if (candidates := finals.pop("candidates", None)) is not None:
        words.append(f"--candidates {shlex.quote(str(candidates))}")
    if (baselines := finals.pop("baselines", None)) is not None:
        words.append(f"--baseline {shlex.quote(','.join(baselines) or 'none')}")
    if (preset := space.pop("preset", None)) is not None:
        words.append(f"--preset {shlex.quote(preset)}")
    if (share := space.pop("share", None)) is not None:
        words.append("--share" if share else "--full")
    if (operations := space.pop("operations", None)) is not None:
        names = operations if isinstance(operations, str) else ",".join(operations)
        words.append(f"--operations {shlex.quote(names)}")
    rest.pop("space", None)
    data = dict(rest.pop("data", None) or {})
    if (size := space.pop("image_size", None)) is not None:
        data["image_size"] = size
    for field, value in data.items():
        given = value if isinstance(value, list) else [value]
        words += [f"--{field.replace('_', '-')}={shlex.quote(str(one))}" for one in given if one is not None]
    if isinstance(workers := rest.get("workers"), Mapping):
        rest["workers"] = f"{workers['min']}-{workers['max']}"
    if rest.pop("confirmed", False):
        words.append("--yes")
    if rest.pop("preempts", False):
        words.append("--preempt")
    words += [_pair("--space", field, value) for field, value in space.items() if value is not None]
    for field, option in OPTIONS.items():
        if field in rest and isinstance(rest[field], str | int | float):
            words.append(f"{option}={shlex.quote(str(rest.pop(field)))}")
    if rest:
        return None
    return " \\\n  ".join([f"YOSO_URL={shlex.quote(url)} yoso submit {words[0]}", *words[1:]])


def as_python(url: str, request: Mapping[str, Any]) -> str:
    """A Python program; it finds a token in YOSO_TOKEN by itself."""
    fields = pformat(dict(request), width=100, sort_dicts=False)
    return (
        "import yoso\n\n"
        f"request = {fields}\n"
        f"with yoso.Client({url!r}) as client:\n"
        "    search = client.submit(**request)\n"
        '    print(search["id"])\n'
    )


def _pair(option: str, name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{option} {shlex.quote(f'{name}={text}')}"
