"""The command line's options that describe a search, the same for `submit`, `sweep` and `run`.

They say what a request of the REST API says. What is not given is left out, so that the service's defaults hold, and
so that options override the fields of a request from a file.
"""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nas_core.data.datasets import DATASETS
from nas_core.errors import InvalidValue
from nas_core.space import FAMILIES, PRESETS
from nas_core.space.operations import OPERATION_SETS
from nas_core.spec import CHOOSE_BY, DEFAULT_BASELINES, OPSETS, SCHEDULES, ExportOptions
from service.data_options import OPTIONS as DATA_OPTIONS

SPACE, TRAINING, WORKERS, QUEUE, NETWORKS = (
    "Search space",
    "Training",
    "Workers",
    "Queue",
    "Finals and files",
)
"""The groups in which `--help` shows them."""

Baselines = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline", metavar="NAME,NAME", rich_help_panel=NETWORKS,
        help=f"Baselines that compete with the search's networks: random, thin, {', '.join(FAMILIES)}; or none "
        f"(default: {','.join(DEFAULT_BASELINES)}).",
    ),
]  # fmt: skip
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", "-b", help="Maximum multiply-adds of a network, such as 300k or 600M; may be repeated."),
]
OPTIONS: dict[str, Any] = {
    "budget": Budgets,
    "file": Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE",
            help="The request as YAML or JSON, with the fields of the REST API; options override its fields.",
        ),
    ],
    "limit": Annotated[
        list[str] | None,
        typer.Option(
            "--limit", metavar="NAME=VALUE",
            help="Another limit for every network: parameters=20k, activations=9k (peak number of elements) or "
            "latency_ms=2.5 (one image, on the search's device); may be repeated.",
        ),
    ],
    "preset": Annotated[
        str | None,
        typer.Option(
            help=f"Search space and schedule: {', '.join(PRESETS)}; or {', '.join(SCHEDULES)}, which are schedules for "
            "the space that suits the images (default: what suits the images).",
            rich_help_panel=SPACE,
        ),
    ],
    "share": Annotated[
        bool | None,
        typer.Option("--share/--full", help="One set of edges for all blocks, or one for each.", rich_help_panel=SPACE),
    ],
    "operations": Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,NAME", rich_help_panel=SPACE,
            help=f"Candidate operations, or a set of them: {', '.join(OPERATION_SETS)} (default: paper); may be "
            "repeated.",
        ),
    ],
    "space": Annotated[
        list[str] | None,
        typer.Option(
            "--space", metavar="FIELD=VALUE", rich_help_panel=SPACE,
            help="A field of the search space, such as channels=8 or blocks=[1,1]; may be repeated.",
        ),
    ],
    "time": Annotated[
        str | None,
        typer.Option(
            metavar="TIME", rich_help_panel=TRAINING,
            help="Time for the search, such as 2h; epochs are cut to fit (default: the preset's schedule).",
        ),
    ],
    "setting": Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", rich_help_panel=TRAINING,
            help="A field of the schedule, such as retrain_epochs=30 or recipe=standard; may be repeated.",
        ),
    ],
    "engine": Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE", rich_help_panel=TRAINING,
            help="An option of the engine, such as precision=bfloat16; may be repeated.",
        ),
    ],
    "seed": Annotated[
        int | None, typer.Option(help="The random seed (default: 0).", rich_help_panel=TRAINING)
    ],
    "workers": Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN-MAX", rich_help_panel=WORKERS,
            help="Data-parallel workers (default: 1); a range such as 1-8 uses as many as there are resources for.",
        ),
    ],
    "cpus": Annotated[
        int | None,
        typer.Option(
            "--cpus-per-worker", help="CPU threads of each worker (default: 1).", rich_help_panel=WORKERS
        ),
    ],
    "gpus": Annotated[
        str | None,
        typer.Option(
            "--gpus-per-worker", metavar="0|1|auto", rich_help_panel=WORKERS,
            help="GPUs of each worker (default: auto, which is 1 if the cluster has GPUs).",
        ),
    ],
    "accelerator_type": Annotated[
        str | None,
        typer.Option(
            "--accelerator-type", rich_help_panel=WORKERS,
            help="The accelerator that nodes must have, by its name in Ray, such as A100 (default: any).",
        ),
    ],
    "project": Annotated[
        str | None,
        typer.Option(help="The project (default: the token's own, else default).", rich_help_panel=QUEUE),
    ],
    "priority": Annotated[
        int | None,
        typer.Option(
            min=-10, max=10, rich_help_panel=QUEUE,
            help="Each level is worth one hour in the project's queue (default: 0).",
        ),
    ],
    "preempt": Annotated[
        bool,
        typer.Option(
            "--preempt", rich_help_panel=QUEUE,
            help="Stop running searches of a lower priority to make room; they resume from their checkpoints later.",
        ),
    ],
    "max_wait": Annotated[
        str | None,
        typer.Option(
            metavar="TIME", rich_help_panel=QUEUE,
            help="Give up if the search has not started after this time, such as 30min, 2h or 1d (default: no limit).",
        ),
    ],
    "max_run": Annotated[
        str | None,
        typer.Option(
            metavar="TIME", rich_help_panel=QUEUE,
            help="Stop the search after this time in all attempts together, such as 12h; `yoso retry` resumes it.",
        ),
    ],
    "yes": Annotated[
        bool,
        typer.Option(
            "--yes", rich_help_panel=QUEUE, help="Queue the search even if it is expected to take over 30 days."
        ),
    ],
    "name": Annotated[str | None, typer.Option(help="A name for the search or sweep.", rich_help_panel=QUEUE)],
    "tag": Annotated[
        list[str] | None,
        typer.Option("--tag", help="A tag, to filter lists by; may be repeated.", rich_help_panel=QUEUE),
    ],
    "description": Annotated[str | None, typer.Option(help="What it is for.", rich_help_panel=QUEUE)],
    "baseline": Baselines,
    "candidates": Annotated[
        int | None,
        typer.Option(
            "--candidates", rich_help_panel=NETWORKS,
            help="How many of the search's networks compete for each budget (default: 1).",
        ),
    ],
    "choose_by": Annotated[
        str | None,
        typer.Option(
            "--choose-by", help="The metric that decides the finals: " + " or ".join(CHOOSE_BY) + ".",
            rich_help_panel=NETWORKS,
        ),
    ],
    "opset": Annotated[
        int | None,
        typer.Option(
            help=f"ONNX operator set, {min(OPSETS)} to {max(OPSETS)} (default: {ExportOptions.opset}).",
            rich_help_panel=NETWORKS,
        ),
    ],
    "ir": Annotated[
        int | None,
        typer.Option(
            "--ir", help="IR version of the ONNX file (default: the oldest that the opset allows).",
            rich_help_panel=NETWORKS,
        ),
    ],
    "normalise": Annotated[
        bool | None,
        typer.Option(
            "--normalise/--no-normalise", rich_help_panel=NETWORKS,
            help="Whether the ONNX model takes pixel values of 0 to 255 (default) or normalised images.",
        ),
    ],
    **DATA_OPTIONS,
}  # fmt: skip
DATASET = Annotated[
    str | None,
    typer.Argument(metavar="DATASET", help=", ".join(DATASETS) + ", or the path of an image folder."),
]


class Asked:
    """What options ask for."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def __call__(self, shaped: Callable[[dict[str, Any]], dict[str, Any]] = dict, file: bool = True) -> dict[str, Any]:
        """The request that they describe, `shaped` as another kind of request, over that of the file if one is given.

        Without `file` it is what the options alone describe. Raises `InvalidValue`.
        """
        own, path = shaped(described(self.options)), self.options.get("file")
        return over(read(path), own) if file and path is not None else own


def describes_search(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the `OPTIONS`, without some, and the dataset; it gets what makes the request of them, `asked`."""
    names = [name for name in OPTIONS if name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            options = {name: given.pop(name) for name in ("dataset", *names)}
            command(**given, asked=Asked(options))

        own = inspect.signature(command, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = {"dataset": DATASET} | {name: OPTIONS[name] for name in names}
        # Those that are not repeated are off or not given, which is all that `described` has to know.
        first = [
            inspect.Parameter(
                name, keyword, default=False if kind.__origin__ is bool else None, annotation=kind
            )
            for name, kind in added.items()
        ]  # fmt: skip
        kept = [one.replace(kind=keyword) for one in own.parameters.values() if one.name != "asked"]
        called.__signature__ = own.replace(parameters=[*first, *kept])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in (*first, *kept)} | {"return": None}
        return called

    return decorate


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The request that options describe, by their names in `OPTIONS`. Raises `InvalidValue`."""
    given = {name: value for name, value in options.items() if value is not None and value != []}
    asked: dict[str, Any] = {}

    def take(field: str, value: Any) -> None:
        """Set a field of the request, or of a part of it."""
        part, _, name = field.rpartition(".")
        (asked.setdefault(part, {}) if part else asked)[name] = value

    if "dataset" in given:
        take("dataset", placed(given["dataset"]))
    for name, field in FIELDS.items():
        if name in given:
            take(field, given[name])
    for name, (option, part, example) in NAMED.items():
        for field, value in named_values(option, given.get(name), example).items():
            take(f"{part}.{field}", value)
    for name in DATA_OPTIONS:
        if name in given:
            take(f"data.{name}", given[name])
    if given.get("yes"):
        take("confirmed", True)
    if given.get("preempt"):
        take("preempts", True)
    if "operations" in given:
        take("space.operations", listed(given["operations"]))
    if "workers" in given:
        take("workers", number_or_range(given["workers"]))
    if "gpus" in given:
        take("gpus_per_worker", json_or_text(given["gpus"]))
    if (baselines := baselines_of(given.get("baseline"))) is not None:
        take("finals.baselines", baselines)
    return asked | deadlines_of(given.get("max_wait"), given.get("max_run"))


FIELDS = {
    "budget": "budgets",
    "preset": "space.preset",
    "share": "space.share",
    "time": "time",
    "seed": "seed",
    "cpus": "cpus_per_worker",
    "accelerator_type": "accelerator_type",
    "project": "project",
    "priority": "priority",
    "name": "name",
    "tag": "tags",
    "description": "description",
    "candidates": "finals.candidates",
    "choose_by": "settings.choose_by",
    "opset": "export.opset",
    "ir": "export.ir",
    "normalise": "export.normalise",
}
"""The fields of a request that options give as they are."""
NAMED = {
    "limit": ("--limit", "limits", "such as parameters=20k or latency_ms=2.5"),
    "space": ("--space", "space", "such as channels=8 or blocks=[1,1]"),
    "setting": ("--set", "settings", "such as retrain_epochs=30 or flip=true"),
    "engine": ("--engine", "engine", "such as precision=bfloat16"),
}
"""Options of NAME=VALUE, each with the part of a request that it fills."""


def read(file: Path) -> dict[str, Any]:
    """The request in a file. Raises `InvalidValue` where it is neither YAML nor JSON, or no request."""
    try:
        found = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidValue("--file", str(file), " ".join(str(error).split()), "YAML or JSON") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InvalidValue("--file", str(file), "holds no request", "fields and values, such as dataset: digits")
    for request in (found, found.get("search")):  # the latter in that of a sweep
        if isinstance(request, dict) and isinstance(request.get("dataset"), str):
            request["dataset"] = placed(request["dataset"])
    return found


def over(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `other` in it, part by part."""
    made = dict(base)
    for name, value in other.items():
        before = made.get(name)
        made[name] = over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return made


def placed(dataset: str) -> str:
    """The absolute path of a dataset that is a folder, or the name that it has."""
    if os.sep in dataset or (dataset not in DATASETS and Path(dataset).expanduser().is_dir()):
        return str(Path(dataset).expanduser().absolute())
    return dataset


def listed(options: list[str] | None) -> list[str]:
    """What is named by options that may be repeated, and may each name several with commas between them."""
    return [name.strip() for option in options or () for name in option.split(",")]


def baselines_of(options: list[str] | None) -> list[str] | None:
    """The baselines that are named, where any or `none` are."""
    names = listed(options)
    return None if not names else [] if names == ["none"] else names


def deadlines_of(max_wait: str | None, max_run: str | None) -> dict[str, str | None]:
    """The part of a request that says how long a search may wait and run; `none` lifts a deadline."""
    given = {"max_wait": max_wait, "max_run": max_run}
    return {name: None if text == "none" else text for name, text in given.items() if text is not None}


def number_or_range(text: str) -> int | dict[str, int]:
    """The workers that N or MIN-MAX asks for. Raises `InvalidValue`."""
    least, dash, most = text.partition("-")
    if not least.isdecimal() or (dash and not most.isdecimal()):
        raise InvalidValue("--workers", text, "neither N nor MIN-MAX", "such as 2 or 1-8")
    return {"min": int(least), "max": int(most)} if dash else int(least)


def named_values(option: str, pairs: Sequence[str] | None, example: str) -> dict[str, Any]:
    """What an option that may be repeated gives, by name: JSON values, and texts where they are none."""
    given: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not (name and equals and text):
            raise InvalidValue(option, pair, "not NAME=VALUE", example)
        given[name] = json_or_text(text)
    return given


def json_or_text(text: str) -> Any:
    """The JSON value that a text is, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
