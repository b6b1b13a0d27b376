"""What a run's folder may tell the service: the one model that all of it passes.

Workers write the folder, and a worker may be broken, or hostile. What is no JSON is told as torn; what is JSON and
nothing that a worker of Yoso writes raises `BadFolder`, which ends the search with the reason. Texts are not refused:
control characters in them, halves of surrogates (file names that are not UTF-8) and marks that reorder text become
escapes, and what is too long is cut.
"""

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_core.errors import InvalidValue
from nas_core.files import FILES
from nas_core.space import Architecture, Origin, Reference, read_genotype

LARGEST = 2**63 - 1
"""What a database holds."""
MOST_JSON = 16 * 1024 * 1024
"""Bytes of a JSON file."""
MOST_CHUNK = 64 * 1024 * 1024
"""Bytes of a chunk of the journal."""
MOST_LINES = 5000
"""Lines of a chunk that are told; a chunk holds what happened in about a second."""
MOST_LINE = 64 * 1024
"""Bytes of a line."""
LONG_LINES = {"snapshot": 8 * 1024 * 1024, "retrained": 4 * 1024 * 1024, "architecture": 8 * 1024 * 1024}
"""Bytes of lines that hold a network, or something for every class."""
DEEPEST = 16
"""How far JSON may be nested."""
MOST_NETWORKS = 10_000
"""Networks in a result."""
MOST_LOG = 64 * 1024 * 1024
"""Bytes of a driver's log that are taken from Ray."""
LONGEST_TEXT = 4000
LONGEST_TRACE = 32_000
MOST_BYTES = {
    "architecture": MOST_JSON,
    "evaluation": MOST_JSON,
    "mistakes": MOST_JSON,
    "picture": MOST_JSON,
    "python": MOST_JSON,
    "card": MOST_JSON,
}
"""Bytes of a network's files, by kind."""
MOST_WEIGHTS = 8 * 1024**3
"""Bytes of any other file."""

_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_TIME = 1e12
Model = TypeVar("Model", bound=BaseModel)


class BadFolder(RuntimeError):
    """A file in a run's folder that no worker of Yoso leaves; the search cannot go on with it."""

    def __init__(self, file: str, field: str, found: Any, accepted: str) -> None:
        shown = clean(found if isinstance(found, str) else repr(found), 200)
        super().__init__(f"{file}: {field}: found {shown}; accepted: {clean(accepted, 500)}")
        self.file, self.field = file, field


def clean(text: str, most: int = LONGEST_TEXT) -> str:
    """A text without what could change how the rest is shown, of at most `most` characters.

    Newlines and tabs stay.
    """
    if len(text) > most:
        text = f"{text[:most]}… ({len(text) - most:,} more characters)"
    return _ODD.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


Count = Annotated[int, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@+-]+$", max_length=255)]
Label = Annotated[str, Field(max_length=255)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,16}$")]
Kind = Literal[
    "started", "phase", "epoch", "architecture", "snapshot", "checkpoint", "retrained", "began", "stopped", "warning"
]
_NEEDS: dict[str, tuple[str, ...]] = {
    "started": ("attempt", "workers"),
    "phase": ("phase",),
    "epoch": ("phase", "epoch"),
    "architecture": ("budget", "multiply_adds"),
    "snapshot": ("multiply_adds", "architecture"),
    "retrained": ("budget", "accuracy", "test_images"),
    "began": ("attempt", "trial"),
    "stopped": ("trial", "epoch", "accuracy"),
    "warning": ("message",),
}
"""The fields that a line of a kind has, for those who show it."""
_OF_TRIAL = ("budget", "trial", "origin", "seed")
"""What a line about a network of finals has."""
_OURS = ("seq", "search_id", "status", "reason", "id", "anchor")
"""Fields that only the service writes."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Line(_Strict):
    """A line of the journal. Fields that are not named here are of no kind in particular, and bounded."""

    kind: Kind
    time: Annotated[float, Field(ge=0, lt=_TIME)]
    attempt: Annotated[int, Field(ge=1, le=10**6)] | None = None
    phase: Word | None = None
    progress: Share | None = None
    budget: Count | None = None
    trial: Count | None = None
    origin: Origin | None = None
    label: Label | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    step: Count | None = None
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST)] | None = None
    workers: Annotated[int, Field(ge=1, le=10**6)] | None = None
    finalists: Count | None = None
    device: Name | None = None
    precision: Word | None = None
    host: Name | None = None
    pid: Count | None = None
    resumed: bool | None = None
    loss: Amount | None = None
    seconds: Amount | None = None
    l1_weight: Amount | None = None
    multiply_adds: Count | None = None
    parameters: Count | None = None
    activations: Count | None = None
    live_edges: Count | None = None
    test_images: Count | None = None
    accuracy: Share | None = None
    accuracy_low: Share | None = None
    accuracy_high: Share | None = None
    balanced_accuracy: Share | None = None
    top5_accuracy: Share | None = None
    message: str | None = None
    architecture: dict[str, Any] | None = None


class OnnxFile(_Strict):
    """What an ONNX file is like (`worker.exports.Exports.write`)."""

    bytes: Count
    accuracy: Share
    test_images: Count
    latency_ms: Amount
    latency_low_ms: Amount
    latency_high_ms: Amount
    latency_device: Label


class NewKinds(_Strict):
    """What a result tells of kinds of files that the last release does not know."""

    files: dict[Word, Any] | None = None
    not_exported: dict[Word, str] | None = None


class Found(_Strict):
    """A network in a result: what it costs, and, where it was retrained, how it did in the test."""

    budget: Count
    multiply_adds: Count
    parameters: Count
    activations: Count | None = None
    accuracy: Share | None = None
    accuracy_low: Share | None = None
    accuracy_high: Share | None = None
    balanced_accuracy: Share | None = None
    top5_accuracy: Share | None = None
    test_images: Count | None = None
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    files: dict[Word, Any] | None = None
    onnx: dict[Word, OnnxFile] | None = None
    not_exported: dict[Word, str] | None = None
    of_new_kinds: NewKinds | None = None
    warnings: Annotated[list[str], Field(max_length=1000)] | None = None
    trial: Count | None = None
    origin: Origin | None = None
    label: Label | None = None
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST)] | None = None
    name: Annotated[str, Field(pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$")] | None = None
    winner: bool | None = None
    variant: Annotated[str, Field(max_length=255)] | None = None
    comparison: str | None = None


class Result(_Strict):
    """The content of `result.json`."""

    architectures: Annotated[list[Found], Field(min_length=1, max_length=MOST_NETWORKS)]


class Failure(_Strict):
    """The content of `error.json`."""

    attempt: Annotated[int, Field(ge=0, le=10**6)]
    kind: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    message: str
    traceback: str | None = None
    retryable: bool = False


class Finalist(_Strict):
    """A network that finals retrain, as they were told."""

    budget: Count
    origin: Origin
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
    source: Name | None = None
    fit: bool | None = None
    architecture: dict[str, Any] | None = None


@dataclass(frozen=True)
class Asked:
    """What a search was asked for, which its folder answers: its budgets, whether it is the finals of a sweep, and
    whether networks compete in finals of its own."""

    budgets: Collection[int]
    finals: bool = False
    competing: bool = False

    @property
    def trials(self) -> bool:
        """Whether there may be several networks for a budget."""
        return self.finals or self.competing

    def check(self, file: str, field: str, budget: int) -> None:
        """Raise `BadFolder` for a budget that nobody asked for."""
        if budget not in self.budgets:
            raise BadFolder(file, field, budget, f"a budget of the search: {', '.join(map(str, self.budgets))}")


def parse(content: bytes) -> dict[str, Any] | None:
    """The JSON object in `content`, or None where there is none. Numbers are finite: no database takes others."""
    try:
        values = json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def lines(file: str, content: bytes, asked: Asked | None = None) -> list[dict[str, Any]]:
    """The lines of a chunk of the journal.

    In the place of a line that is no JSON object with a `kind` and a `time` there is one of the kind `torn`, with the
    time of the line before it (0 for the first), the chunk's name as `file`, and the number of the `line` from 1. Of
    more than `MOST_LINES` the last is of the kind `dropped` and tells how many were. Raises `BadFolder`.
    """
    texts = content.removesuffix(b"\n").split(b"\n") if content else []
    told: list[dict[str, Any]] = []
    for number, text in enumerate(texts[:MOST_LINES], start=1):
        line = parse(text)
        if line is None or not isinstance(line.get("kind"), str) or not _is_time(line.get("time")):
            time = told[-1]["time"] if told else 0
            told.append({"kind": "torn", "time": time, "file": file, "line": number})
        else:
            told.append(_line(f"{file}, line {number}", text, line, asked))
    if (dropped := len(texts) - MOST_LINES) > 0:
        told.append(dropped_lines(file, dropped, told[-1]["time"]))
    return told


def dropped_lines(file: str, count: int, time: float) -> dict[str, Any]:
    """The line that stands for `count` lines that were too many."""
    message = f"{count:,} lines of {file} were dropped: more than a search tells"
    return {"kind": "dropped", "time": time, "file": file, "count": count, "message": message}


def _line(file: str, text: bytes, line: dict[str, Any], asked: Asked | None) -> dict[str, Any]:
    kind = line["kind"]
    if len(text) > (most := LONG_LINES.get(kind, MOST_LINE)):
        raise BadFolder(file, "its length", f"{len(text):,} bytes", f"at most {most:,} for this kind")
    line = bounded(file, line)
    for field in _OURS:
        if field in line:
            raise BadFolder(file, field, line[field], "no such field: it is the service's own")
    validated(Line, file, line)
    for field in (*_NEEDS.get(kind, ()), *(_OF_TRIAL if "trial" in line else ())):
        if line.get(field) is None:
            raise BadFolder(file, field, "nothing", f"every such line of the kind {kind} has it")
    if asked is not None and not asked.trials and "trial" in line:
        raise BadFolder(file, "trial", line["trial"], "no such field but in finals")
    if asked is not None and line.get("budget") is not None:
        asked.check(file, "budget", line["budget"])
    if kind == "snapshot":
        network = architecture(file, line["architecture"])
        if network.multiply_adds != line["multiply_adds"]:
            raise BadFolder(file, "multiply_adds", line["multiply_adds"], f"what it costs: {network.multiply_adds}")
        line |= {"live_edges": network.live_edges}
    return line


def result(file: str, values: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """A result as it may be stored. Raises `BadFolder`."""
    values = bounded(file, values)
    told = validated(Result, file, values)
    known: set[tuple[int, int | None]] = set()
    names: set[str] = set()
    for index, one in enumerate(told.architectures):
        field = f"architectures.{index}"
        asked.check(file, f"{field}.budget", one.budget)
        if asked.finals if one.trial is None else not asked.trials:
            raise BadFolder(file, f"{field}.trial", one.trial, "a number in finals, and nothing in a search")
        if one.multiply_adds > one.budget:
            raise BadFolder(file, f"{field}.multiply_adds", one.multiply_adds, f"at most the budget, {one.budget}")
        name = one.name or str(one.budget)
        if name not in ({str(one.budget), f"{one.budget}-{one.trial}"} if asked.trials else {str(one.budget)}):
            raise BadFolder(file, f"{field}.name", one.name, "the budget, or in finals the budget and the trial")
        if (one.budget, one.trial) in known or name in names:
            raise BadFolder(file, f"{field}.budget", one.budget, "every network once")
        known.add((one.budget, one.trial))
        names.add(name)
        if one.accuracy is not None:
            for needed in ("accuracy_low", "accuracy_high", "test_images", "files"):
                if getattr(one, needed) is None:
                    raise BadFolder(file, f"{field}.{needed}", "nothing", "every network that was tested has it")
        _sort_kinds(values["architectures"][index])
    return values


def _sort_kinds(network: dict[str, Any]) -> None:
    """Put what a result tells of new kinds of files with the others, and leave out, with a warning, what it tells of
    kinds that nobody here knows, as a worker of the next release may."""
    new = network.pop("of_new_kinds", None) or {}
    unknown: dict[str, None] = {}
    for field in ("files", "not_exported", "onnx"):
        if told := (network.get(field) or {}) | (new.get(field) or {}):
            network[field] = {kind: told[kind] for kind in kinds(told)}
            unknown |= dict.fromkeys(kind for kind in told if kind not in FILES)
    if unknown:
        network["warnings"] = [
            *(network.get("warnings") or ()),
            f"Its worker wrote files of kinds that this release of Yoso does not know: {', '.join(unknown)}.",
        ]


def failure(file: str, values: dict[str, Any]) -> dict[str, Any]:
    """Why an attempt failed. Raises `BadFolder`."""
    trace = values.get("traceback")
    values = bounded(file, values)
    if isinstance(trace, str):
        values["traceback"] = clean(trace, LONGEST_TRACE)
    return validated(Failure, file, values).model_dump(exclude_unset=True)


def finalists(file: str, values: Any) -> list[dict[str, Any]]:
    """What finals were told to retrain. Raises `BadFolder`."""
    if not isinstance(values, list) or len(values) > MOST_NETWORKS:
        raise BadFolder(file, "finalists", type(values).__name__, f"a list of at most {MOST_NETWORKS:,} networks")
    found: list[dict[str, Any]] = []
    for index, one in enumerate(values):
        if not isinstance(one, dict):
            raise BadFolder(file, f"finalists.{index}", type(one).__name__, "an object")
        found.append(bounded(file, one))
        validated(Finalist, f"{file}, finalists.{index}", found[-1])
    return found


def genotype(file: str, values: Any) -> Architecture | Reference:
    """The network that a file describes: found by a search, or a reference. Raises `BadFolder`."""
    if not isinstance(values, dict):
        raise BadFolder(file, "architecture", type(values).__name__, "an object")
    try:
        return read_genotype(bounded(file, values))
    except InvalidValue as error:
        raise BadFolder(file, error.field, error.value, f"{error.accepted} ({error.reason})") from error


def architecture(file: str, values: Any) -> Architecture:
    """The network of a search that a file or a line describes. Raises `BadFolder`."""
    found = genotype(file, values)
    if not isinstance(found, Architecture):
        raise BadFolder(file, "reference", found.variant, "a network of a search")
    return found


def folder_of(found: dict[str, Any]) -> str:
    """The name of a network's folder, by what its result tells: its budget and, in finals, the number of its trial.

    What a search delivers for a budget of its own finals lies in the budget's folder, as its `path` tells.
    """
    budget, trial = str(int(found["budget"])), found.get("trial")
    if trial is None or found.get("path") == f"architectures/{budget}":
        return budget
    return f"{budget}-{int(trial)}"


def bounded(file: str, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with clean texts. Raises `BadFolder` where it is nested too deeply or holds too large a number."""
    found: dict[str, Any] = _bounded(file, "", values, 0)
    return found


def _bounded(file: str, field: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise BadFolder(file, field, f"a number of {value.bit_length()} bits", "numbers of at most 63 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadFolder(file, field, value, "finite numbers")
        return value
    if depth >= DEEPEST:
        raise BadFolder(file, field, f"more than {DEEPEST} levels", f"at most {DEEPEST} levels of lists and objects")
    if isinstance(value, list):
        return [
            _bounded(file, f"{field}.{index}" if depth < 3 else field, one, depth + 1)
            for index, one in enumerate(value)
        ]
    return {
        clean(str(key), 255): _bounded(file, f"{field}.{key}".lstrip(".") if depth < 3 else field, one, depth + 1)
        for key, one in value.items()
    }


def validated(model: type[Model], file: str, values: dict[str, Any]) -> Model:
    """`values` as `model` has them. Raises `BadFolder` for the first field that is none."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise BadFolder(file, field or "the file", first["input"], first["msg"]) from error


def kinds(names: Iterable[str]) -> list[str]:
    """Those of `names` that are kinds of a network's files."""
    return [name for name in names if name in FILES]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _TIME


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
