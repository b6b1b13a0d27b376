"""What one search is asked to do: the content of a run's `spec.json`."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from PIL import ImageColor

from nas_core.errors import InvalidValue
from nas_core.space.space import SearchSpace

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_COUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e\+?([0-9]{1,2}))?\s*([kmg]?)\s*", re.IGNORECASE)
_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
LARGEST = 1e9
"""Of the numbers that are no counts: milliseconds and those of a schedule."""


def parse_count(value: Any, field: str = "budgets", unit: str = "multiply-adds") -> int:
    """A number of `unit`: 600000000, 6e8, "6e8" and "600M" are the same; k, M and G are powers of 1000.

    Raises `InvalidValue` for anything that is not a positive number.
    """
    accepted = f'a positive number of {unit} such as 600000000, 6e8 or "600M"'
    number: float | None = None
    if isinstance(value, str) and (match := _COUNT.fullmatch(value)):
        number = float(f"{match[1]}e{match[2] or 0}") * _SUFFIXES[match[3].lower()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    if number is None or not abs(number) < 2**63:  # as many as a database counts
        raise InvalidValue(field, value, f"not a number of {unit}", accepted)
    if round(number) <= 0:
        raise InvalidValue(field, value, "not above zero", accepted)
    return round(number)


def infeasible(budget: int, space: SearchSpace) -> InvalidValue | None:
    """What is wrong with a budget for which `space` holds no network, or None where it holds one."""
    smallest, largest = space.feasible_budgets()
    if smallest <= budget <= largest:
        return None
    reason = f"not feasible: too {'small' if budget < smallest else 'large'} for this search space"
    return InvalidValue("budgets", budget, reason, f"{smallest} to {largest} multiply-adds")


@dataclass(frozen=True)
class Limits:
    """What every network of a search keeps besides its budget; None is no limit.

    `parameters` trainable ones; `activations` the elements that inference of one image holds at once
    (`Architecture.peak_activations`); `latency_ms` the milliseconds that one image takes on the search's device, with
    the threads of one worker. Raises `InvalidValue` where a limit cannot be used.
    """

    parameters: int | None = None
    activations: int | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "activations"):
            count = getattr(self, name)
            if count is not None and (type(count) is not int or count < 1):
                raise InvalidValue(f"limits.{name}", count, "not a usable number", "an integer above 0")
        latency = self.latency_ms
        if latency is not None and (type(latency) not in (int, float) or not 0 < latency <= LARGEST):
            raise InvalidValue(
                "limits.latency_ms", latency, "not a usable number", f"milliseconds, above 0 and at most {LARGEST:g}"
            )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The limits that a user gives; counts may be written as `parse_count` reads them.

        Raises `InvalidValue` for an unknown limit or one that cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise InvalidValue(f"limits.{name}", value, "no such limit", "one of " + ", ".join(known))
        units = {"parameters": "parameters", "activations": "elements"}
        counts = {
            name: parse_count(values[name], f"limits.{name}", unit)
            for name, unit in units.items()
            if values.get(name) is not None
        }
        return cls(**{**values, **counts})


NO_LIMITS = Limits()


def unmet(limits: Limits, budget: int, space: SearchSpace) -> list[InvalidValue]:
    """What is wrong with limits that no network of `space` keeps, alone or together with a feasible budget.

    Latency is not judged: that takes the device (`nas_core.search.search`).
    """
    if limits.parameters is None and limits.activations is None:
        return []
    networks = space.single_paths()
    costs = [{"parameters": one.parameters, "activations": one.peak_activations} for one in networks]
    given = {name: limit for name in costs[0] if (limit := getattr(limits, name)) is not None}
    problems = []
    for name, limit in given.items():
        smallest = min(cost[name] for cost in costs)
        if limit < smallest:
            reason = "not feasible: too small for this search space"
            problems.append(InvalidValue(f"limits.{name}", limit, reason, f"{smallest} or more"))
    if problems:
        return problems
    together = given | {"budget": budget}
    costs = [cost | {"budget": one.multiply_adds} for cost, one in zip(costs, networks, strict=True)]
    nearest = min(costs, key=lambda cost: max(cost[name] / limit for name, limit in together.items()))
    if all(nearest[name] <= limit for name, limit in together.items()):
        return []
    accepted = "for example " + " with ".join(f"{name} {nearest[name]}" for name in together)
    return [InvalidValue("limits", together, "not feasible: no network of this search space keeps all", accepted)]


@dataclass(frozen=True)
class DataOptions:
    """How the images of a folder are read, where it does not follow from the folder itself.

    `train`, `test` and `validation` are folders below the dataset, each with one folder of images per class ("." is
    the dataset itself). `ignore` are patterns such as "*.gif" or "old": what they match, as a path relative to the
    dataset or as any part of it, is left out. `channels` is 1 (grey) or 3. Transparent pixels show `background`, any
    opaque colour that `PIL.ImageColor` knows. Raises `InvalidValue` where a field cannot be used.
    """

    train: str | None = None
    test: str | None = None
    validation: str | None = None
    ignore: tuple[str, ...] = ()
    channels: int | None = None
    background: str = "white"

    def __post_init__(self) -> None:
        for name in ("train", "test", "validation"):
            folder = getattr(self, name)
            if folder is None:
                continue
            accepted = 'the path of a folder below the dataset, such as "images/train", or "." for the dataset itself'
            if type(folder) is not str or "\0" in folder or os.path.isabs(folder):
                raise InvalidValue(f"data.{name}", folder, "not a path below the dataset", accepted)
            path = os.path.normpath(folder or ".")
            if path.split(os.sep)[0] == "..":
                raise InvalidValue(f"data.{name}", folder, "outside the dataset", accepted)
            object.__setattr__(self, name, path)
        if type(self.ignore) not in (tuple, list) or any(type(one) is not str or not one for one in self.ignore):
            raise InvalidValue(
                "data.ignore", self.ignore, "not a list of patterns", 'patterns such as "*.gif" or "old"'
            )
        object.__setattr__(self, "ignore", tuple(self.ignore))
        if self.channels is not None and (type(self.channels) is not int or self.channels not in (1, 3)):
            raise InvalidValue("data.channels", self.channels, "not a number of channels", "1 (grey) or 3 (colour)")
        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except (ValueError, TypeError, AttributeError):
            opaque = False
        if not opaque:
            accepted = 'an opaque colour such as "white" or "#808080"'
            raise InvalidValue("data.background", self.background, "not a colour", accepted)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return asdict(self) | {"ignore": list(self.ignore)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options that a user gives or `to_dict` described.

        Raises `InvalidValue` for an unknown option or one that cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise InvalidValue(f"data.{name}", value, "no such option", "one of " + ", ".join(known))
        return cls(**values)


NO_OPTIONS = DataOptions()

OPSETS = {15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The ONNX operator sets that networks can be written in, each with the oldest IR version (file format) it allows."""
NEWEST_IR = 11


@dataclass(frozen=True)
class ExportOptions:
    """How networks are written as ONNX: with the operator set `opset` in the file format `ir`, where None is the oldest
    that the operator set allows.

    Opset 17 and IR 8, the default, are what runtimes since 2022 read (onnxruntime 1.13, TensorRT 8.6). With
    `normalise` the file does the normalisation itself, and takes bytes (0 … 255) as floats. Raises `InvalidValue` where
    a field cannot be used.
    """

    opset: int = 17
    ir: int | None = None
    normalise: bool = False

    def __post_init__(self) -> None:
        if type(self.opset) is not int or self.opset not in OPSETS:
            accepted = f"an integer from {min(OPSETS)} to {max(OPSETS)}"
            raise InvalidValue("export.opset", self.opset, "not an operator set that networks are written in", accepted)
        oldest = OPSETS[self.opset]
        if self.ir is not None and (type(self.ir) is not int or not oldest <= self.ir <= NEWEST_IR):
            reason = f"not an IR version that opset {self.opset} can be written in"
            raise InvalidValue("export.ir", self.ir, reason, f"an integer from {oldest} to {NEWEST_IR}")
        if type(self.normalise) is not bool:
            raise InvalidValue("export.normalise", self.normalise, "not a truth value", "true or false")

    @property
    def ir_version(self) -> int:
        """The version of the file format."""
        return OPSETS[self.opset] if self.ir is None else self.ir

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The options that a user gives. Raises `InvalidValue` for an unknown option or one that cannot be used."""
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise InvalidValue(f"export.{name}", value, "no such option", "one of " + ", ".join(known))
        return cls(**values)


NO_EXPORT_OPTIONS = ExportOptions()

FORMS = ("cut", "press", "paper")
"""How a search brings the cost down: a fixed L1 weight presses, and the weakest edges are cut on a schedule (`cut`);
the proximal step does it alone, with a level that is solved for at each step (`press`); or a fixed L1 weight presses,
with an exact cut at the end where that was not enough (`paper`)."""

PENALTIES = ("uniform", "flops", "memory", "latency")
"""How the L1 weight differs between edges: not at all; by what is alive of the block (paper, eq. 9); by the memory
access of the operation that the edge enters (eq. 10); or by that operation's measured latency."""

RETRAIN_SCHEDULES = ("cosine", "cosine_restarts", "linear")
"""How the learning rate of retraining may fall (`nas_core.train.retrain.learning_rate`)."""

CHOOSE_BY = ("accuracy", "balanced_accuracy")
"""What decides between networks, on the validation part: the share of images answered right, or the mean of that share
over the classes, in which a rare class counts as much as a frequent one (`nas_core.train.evaluation`)."""

CHOICES = {"form": FORMS, "penalty": PENALTIES, "retrain_schedule": RETRAIN_SCHEDULES, "choose_by": CHOOSE_BY}


@dataclass(frozen=True)
class Settings:
    """How long and how fast each phase trains; everything that is not the space. docs/method.md gives the sources.

    Epochs of pretraining and of retraining pass over their part of the training data once; an epoch of the search
    passes once over the weights' part. `batch_size` and `retrain_batch_size` count the images of one step over all
    workers. `ratio` is how many weight steps go with one λ step. `gamma` is the L1 weight that always presses.
    `form` says how the cost comes down (`FORMS`), `penalty` how the L1
    weight is shared out among the edges (`PENALTIES`). `clip` bounds each gradient of the search. With `split` W and
    λ train on images of their own; without, both on all of them (paper, table 3).

    What retraining alone has: `retrain_schedule` after `retrain_warmup_epochs`; `retrain_clip` bounds the norm of
    the gradient, 0 does not; `drop_path` and `dropout` are probabilities to drop, that of the last block at the end
    and that before the classifier; `auxiliary_weight` is what the auxiliary head's loss counts, 0 for no such head;
    `label_smoothing`; `cutout` in pixels.

    `choose_by` is what networks that compete are judged by (`CHOOSE_BY`).
    Raises `InvalidValue` where a field cannot be used.
    """

    pretrain_epochs: int = 120
    search_epochs: int = 120
    retrain_epochs: int = 630
    batch_size: int = 128
    retrain_batch_size: int = 128
    lr: float = 0.1
    scaling_lr: float = 0.1
    retrain_lr: float = 0.05
    retrain_schedule: str = "cosine_restarts"
    retrain_warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    retrain_weight_decay: float = 3e-4
    gamma: float = 1e-3
    clip: float = 2.0
    form: str = "cut"
    penalty: str = "flops"
    retrain_clip: float = 5.0
    ratio: int = 1
    label_smoothing: float = 0.0
    drop_path: float = 0.5
    dropout: float = 0.4
    auxiliary_weight: float = 0.4
    cutout: int = 16
    crop_padding: int = 4
    flip: bool = True
    split: bool = True
    choose_by: str = "accuracy"

    def __post_init__(self) -> None:
        whole = {"pretrain_epochs": 0, "search_epochs": 1, "retrain_epochs": 1, "batch_size": 2, "ratio": 1}
        whole |= {"cutout": 0, "crop_padding": 0, "retrain_batch_size": 2, "retrain_warmup_epochs": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in CHOICES:
                if value not in CHOICES[field.name]:
                    accepted = "one of " + ", ".join(CHOICES[field.name])
                    raise InvalidValue(f"settings.{field.name}", value, "no such choice", accepted)
            elif field.name in ("flip", "split"):
                if type(value) is not bool:
                    raise InvalidValue(f"settings.{field.name}", value, "not a truth value", "true or false")
            elif field.name in whole:
                if type(value) is not int or not whole[field.name] <= value <= 1_000_000:
                    accepted = f"an integer from {whole[field.name]} to 1000000"
                    raise InvalidValue(f"settings.{field.name}", value, "not a usable number", accepted)
            elif type(value) not in (int, float) or not 0 <= value <= LARGEST:
                accepted = f"a number from 0 to {LARGEST:g}"
                raise InvalidValue(f"settings.{field.name}", value, "not a usable number", accepted)
            elif value == 0 and field.name in ("lr", "scaling_lr", "retrain_lr", "clip"):
                raise InvalidValue(f"settings.{field.name}", value, "not a usable number", "a number above 0")
        for name in ("momentum", "label_smoothing", "drop_path", "dropout"):
            if getattr(self, name) >= 1:
                raise InvalidValue(f"settings.{name}", getattr(self, name), "too large", "a number from 0 to below 1")
        if self.retrain_warmup_epochs >= self.retrain_epochs:
            accepted = f"fewer than the {self.retrain_epochs} of retrain_epochs"
            raise InvalidValue("settings.retrain_warmup_epochs", self.retrain_warmup_epochs, "too many", accepted)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The schedule that goes with the space called `name`, with some of its fields replaced.

        Raises `InvalidValue` for an unknown name or field.
        """
        if name not in SETTINGS:
            raise InvalidValue("space.preset", name, "no such preset", "one of " + ", ".join(SETTINGS))
        known = [field.name for field in fields(cls)]
        for field, value in overrides.items():
            if field not in known:
                raise InvalidValue(f"settings.{field}", value, "no such field", "one of " + ", ".join(known))
        return replace(cls(**SETTINGS[name]), **overrides)


SETTINGS: dict[str, dict[str, Any]] = {
    "digits": dict(
        pretrain_epochs=12,
        search_epochs=30,
        retrain_epochs=60,
        gamma=1e-2,
        batch_size=64,
        retrain_batch_size=64,
        retrain_lr=0.1,
        retrain_schedule="cosine",
        retrain_clip=0.0,
        drop_path=0.0,
        dropout=0.0,
        auxiliary_weight=0.0,
        cutout=0,
        crop_padding=1,
        flip=False,
    ),
    "cifar10": {},
    "imagenet": dict(
        pretrain_epochs=30,
        search_epochs=30,
        retrain_epochs=240,
        batch_size=256,
        retrain_batch_size=1024,
        retrain_lr=0.5,
        retrain_schedule="linear",
        retrain_warmup_epochs=5,
        weight_decay=4e-5,
        retrain_weight_decay=4e-5,
        gamma=1e-2,
        retrain_clip=0.0,
        ratio=4,
        label_smoothing=0.1,
        drop_path=0.0,
        dropout=0.0,
        cutout=0,
    ),
}


@dataclass(frozen=True)
class SearchSpec:
    """One search: the dataset, ascending budgets in multiply-adds, the space, and what it may use.

    Every network keeps its budget and all `limits`. At most `workers` data-parallel processes, and at least
    `min_workers` (None: exactly `workers`), each with `cpus_per_worker` CPU threads and `gpus_per_worker` GPUs (0 or
    1), on nodes of `accelerator_type` as Ray names it, such as A100 (None: on any). Without `retrain` a search ends
    with the networks that it found, for others to train. `data` says how the images of a folder are read, `inspection`
    what was found when the dataset was looked at (`nas_core.data.summary`; None where nobody looked), `export` how
    networks are written as ONNX.
    Raises `InvalidValue` where a field cannot be used or a budget or a limit is not feasible in the space.
    """

    dataset: str
    budgets: tuple[int, ...]
    space: SearchSpace
    settings: Settings
    seed: int = 0
    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    limits: Limits = NO_LIMITS
    min_workers: int | None = None
    accelerator_type: str | None = None
    retrain: bool = True
    data: DataOptions = NO_OPTIONS
    export: ExportOptions = NO_EXPORT_OPTIONS
    inspection: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for field, smallest, largest in (
            ("seed", 0, 2**31 - 1),
            ("workers", 1, 4096),
            ("cpus_per_worker", 1, 1024),
            ("gpus_per_worker", 0, 1),
        ):
            value = getattr(self, field)
            if type(value) is not int or not smallest <= value <= largest:
                raise InvalidValue(field, value, "not a usable number", f"an integer from {smallest} to {largest}")
        least = self.least_workers
        if type(least) is not int or not 1 <= least <= self.workers:
            accepted = f"an integer from 1 to {self.workers}, the most workers"
            raise InvalidValue("workers.min", least, "not a usable number", accepted)
        named = self.accelerator_type
        if named is not None and (type(named) is not str or not _TYPE.fullmatch(named)):
            accepted = "a type as Ray names it, such as A100: letters, digits, and - . _ between them"
            raise InvalidValue("accelerator_type", named, "not the name of a type", accepted)
        if not self.budgets or any(type(budget) is not int for budget in self.budgets):
            raise InvalidValue("budgets", self.budgets, "not a list of budgets", "one or more numbers")
        if list(self.budgets) != sorted(set(self.budgets)):
            raise InvalidValue("budgets", self.budgets, "not ascending", "ascending budgets, once each")
        for budget in self.budgets:
            if problem := infeasible(budget, self.space):
                raise problem
        for problem in unmet(self.limits, self.budgets[0], self.space):
            raise problem
        for name in ("batch_size", "retrain_batch_size"):
            size = getattr(self.settings, name)
            if size < 2 * self.workers:
                raise InvalidValue(
                    f"settings.{name}",
                    size,
                    f"cannot be shared out to {self.workers} workers",
                    f"{2 * self.workers} or more, 2 images a worker",
                )
        if self.settings.auxiliary_weight and len(self.space.blocks) < 2:
            raise InvalidValue(
                "settings.auxiliary_weight",
                self.settings.auxiliary_weight,
                "an auxiliary head stands at the end of the last stage but one, and this space has one stage",
                "0, or space.blocks of two or more stages",
            )

    @property
    def least_workers(self) -> int:
        """How few workers will do."""
        return self.workers if self.min_workers is None else self.min_workers

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {
            "budgets": list(self.budgets),
            "space": self.space.to_dict(),
            "settings": asdict(self.settings),
            "limits": asdict(self.limits),
            "data": self.data.to_dict(),
            "export": asdict(self.export),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The specification that `to_dict` described; other keys are passed over, and younger fields may be missing."""
        younger = ("limits", "min_workers", "accelerator_type", "retrain", "data", "export", "inspection")
        own = {field.name: values[field.name] for field in fields(cls) if field.name not in younger}
        return cls(
            **own
            | {
                "budgets": tuple(values["budgets"]),
                "space": SearchSpace.from_dict(values["space"]),
                "settings": Settings(**values["settings"]),
                "limits": Limits(**values.get("limits", {})),
                "min_workers": values.get("min_workers"),
                "accelerator_type": values.get("accelerator_type"),
                "retrain": values.get("retrain", True),
                "data": DataOptions.from_dict(values.get("data", {})),
                "export": ExportOptions.parse(values.get("export", {})),
                "inspection": values.get("inspection"),
            }
        )
