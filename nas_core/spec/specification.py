"""All that one search is asked to do."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from nas_core.errors import InvalidValue
from nas_core.space import SearchSpace
from nas_core.spec.checks import check, whole
from nas_core.spec.engine import NO_ENGINE_OPTIONS, EngineOptions
from nas_core.spec.finals import NO_FINALS, FinalsOptions
from nas_core.spec.limits import NO_LIMITS, Limits, infeasible, unmet
from nas_core.spec.options import NO_EXPORT_OPTIONS, NO_OPTIONS, DataOptions, ExportOptions
from nas_core.spec.settings import Settings

_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class SearchSpec:
    """One search: the dataset, ascending budgets in multiply-adds, the space, and what it may use.

    Every network keeps its budget and all `limits`. At most `workers` data-parallel processes, and at least
    `min_workers` (None: exactly `workers`), each with `cpus_per_worker` CPU threads and `gpus_per_worker` GPUs (0 or
    1), on nodes of `accelerator_type` as Ray names it, such as A100 (None: on any). Without `retrain` a search ends
    with the networks that it found, for others to train. `data` says how the images of a folder are read, `inspection`
    what was found when the dataset was looked at (`nas_core.data.summary`; None where nobody looked), `export` how
    networks are written as ONNX, `engine` how a search is computed, `finals` which networks are retrained and compete.
    Raises `InvalidValue` where a field cannot be used or a budget or a limit is not feasible in the space.
    """

    dataset: str
    budgets: tuple[int, ...]
    space: SearchSpace
    settings: Settings
    seed: int = whole(0, 0, 2**31 - 1)
    workers: int = whole(1, 1, 4096)
    cpus_per_worker: int = whole(1, 1, 1024)
    gpus_per_worker: int = whole(0, 0, 1)
    limits: Limits = NO_LIMITS
    min_workers: int | None = None
    accelerator_type: str | None = None
    retrain: bool = True
    data: DataOptions = NO_OPTIONS
    export: ExportOptions = NO_EXPORT_OPTIONS
    engine: EngineOptions = NO_ENGINE_OPTIONS
    inspection: Mapping[str, Any] | None = None
    finals: FinalsOptions = NO_FINALS

    def __post_init__(self) -> None:
        check(self)
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
        parts = self.settings.retrain_accumulation
        for name, least, told in (
            ("batch_size", 2, ""),
            ("retrain_batch_size", 2 * parts, f" in {parts} parts of retrain_accumulation" if parts > 1 else ""),
        ):
            size, images = getattr(self.settings, name), f"{least} images a worker"
            if size < least * self.workers:
                raise InvalidValue(
                    f"settings.{name}",
                    size,
                    f"cannot be shared out to {self.workers} workers{told}",
                    f"{least * self.workers} or more, {images}",
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
        # Shallow, since `asdict` copies each value, which is half of what a sweep of a thousand costs.
        own, settings = (
            {field.name: getattr(one, field.name) for field in fields(one)} for one in (self, self.settings)
        )
        return own | {
            "budgets": list(self.budgets),
            "space": self.space.to_dict(),
            "settings": settings,
            "limits": asdict(self.limits),
            "data": self.data.to_dict(),
            "export": asdict(self.export),
            "engine": asdict(self.engine),
            "finals": self.finals.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The specification that `to_dict` described; other keys are passed over, and younger fields may be missing."""
        younger = (
            "limits", "min_workers", "accelerator_type", "retrain", "data", "export", "engine", "inspection", "finals",
        )  # fmt: skip
        finals = values.get("finals", {})
        if "of" in finals:  # of the finals of a sweep, which list their networks themselves
            finals = {}
        own = {field.name: values[field.name] for field in fields(cls) if field.name not in younger}
        return cls(
            **own
            | {
                "budgets": tuple(values["budgets"]),
                "space": SearchSpace.from_dict(values["space"]),
                # Where there was no divisor yet, widths were any.
                "settings": Settings(**{"width_divisor": 1} | values["settings"]),
                "limits": Limits(**values.get("limits", {})),
                "min_workers": values.get("min_workers"),
                "accelerator_type": values.get("accelerator_type"),
                "retrain": values.get("retrain", True),
                "data": DataOptions.from_dict(values.get("data", {})),
                # Where there were no options yet, files took normalised images.
                "export": ExportOptions.parse(values.get("export", {"normalise": False})),
                "engine": EngineOptions.parse(values.get("engine", {})),
                "inspection": values.get("inspection"),
                "finals": FinalsOptions.parse(finals),
            }
        )
