"""What a user asks for, and every rule it is held to before anything is queued.

The API, the command line and the dashboard's form all come through `check`, so that they refuse the same things in
the same words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidatorFunctionWrapHandler
from pydantic.functional_validators import AfterValidator, WrapValidator

from nas_core.data.datasets import DATASETS, DatasetInfo
from nas_core.data.inspection import Inspection, inspect
from nas_core.data.summary import summarise
from nas_core.errors import InvalidValue, did_you_mean
from nas_core.space import PRESETS, SearchSpace
from nas_core.space.operations import OPERATION_SETS, OPERATIONS, PAPER_OPERATIONS
from nas_core.spec import (
    BASELINES,
    DEFAULT_BASELINES,
    NEWEST_IR,
    NO_LIMITS,
    OPSETS,
    RECIPES,
    SCHEDULES,
    DataOptions,
    EngineOptions,
    ExportOptions,
    FinalsOptions,
    Limits,
    SearchSpec,
    Settings,
    infeasible,
    parse_count,
    unmet,
)
from nas_core.spec.augmentation import crop_of
from nas_core.wording import number_of, resources
from service.domain.deadlines import RUN, WAIT, Span, seconds
from service.domain.estimates import EPOCHS, Ran, estimate, refuse_too_long, within
from service.domain.patience import carry_on
from service.domain.scheduling import Capacity

Value = TypeVar("Value")


@dataclass(frozen=True)
class Looked:
    """What looking at a dataset told.

    The `report` is that of `Inspection.to_dict`; with `problems` there is no search on the dataset.
    """

    report: Mapping[str, Any]
    info: DatasetInfo
    problems: tuple[InvalidValue, ...]

    @classmethod
    def of(cls, inspection: Inspection) -> Self:
        """What an inspection told."""
        return cls(inspection.to_dict(), inspection.info, inspection.problems)


Look = Callable[[str, Sequence[str], bool, DataOptions, int | None], Looked]
"""What looks at a dataset below the roots, or anywhere, as the options say, for images of so many pixels."""


def look_here(
    dataset: str, roots: Sequence[str], anywhere: bool, options: DataOptions, image_size: int | None
) -> Looked:
    """Look in this process. Raises `InvalidValue` where there is nothing to look at."""
    return Looked.of(inspect(dataset, roots, anywhere, options, image_size=image_size))


DATASET = ", ".join(DATASETS) + ", or the path of an image folder."
"""What a request's `dataset` may be."""

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""What a database can hold as text: PostgreSQL knows no NUL."""

Name = Annotated[Text, StringConstraints(max_length=200)]
Description = Annotated[Text, StringConstraints(max_length=4000)]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/=+-]{0,39}$")]
MOST_TAGS = 20
Tags = Annotated[list[Tag], Field(max_length=MOST_TAGS), AfterValidator(lambda tags: list(dict.fromkeys(tags)))]
TAGS = "Words by which lists can be filtered, such as phone or team:mobile."

DEEPEST = 20
"""How many levels of lists and objects a field may have that is held to its rules later."""


def _legible(value: Value) -> Value:
    """`value`, if it can be stored and answered: JSON carries halves of surrogate pairs in, and any depth."""
    below: list[tuple[int, Any]] = [(0, value)]
    while below:
        depth, one = below.pop()
        if depth > DEEPEST:
            raise ValueError(f"holds lists or objects of more than {DEEPEST} levels")
        if isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"holds half of a surrogate pair: {one[:50]!a}") from error
        elif isinstance(one, dict):
            below += [(depth + 1, each) for pair in one.items() for each in pair]
        elif isinstance(one, list):
            below += [(depth + 1, each) for each in one]
    return value


LEGIBLE = AfterValidator(_legible)
Fields = Annotated[dict[str, Any], LEGIBLE]
"""Fields that are held to their rules later."""


class SpaceRequest(BaseModel):
    """A preset and the fields of it that are to differ."""

    model_config = ConfigDict(extra="forbid", strict=True)

    preset: Text | None = Field(
        None,
        description=f"One of {', '.join(PRESETS)}; or, for the one that suits the images with another schedule, "
        f"{', '.join(SCHEDULES)}. By default what suits the images.",
    )
    share: bool | None = Field(None, description="Whether all blocks share one set of edges.")
    stem: list[int] | None = Field(None, description="Strides of the first 3×3 convolutions; 2 halves the image size.")
    channels: int | None = Field(None, description="Channels of the first stage.")
    blocks: list[int] | None = Field(None, description="Blocks per stage.")
    levels: int | None = Field(None, description="Levels of operations in each block.")
    operations: list[Text] | Text | None = Field(
        None,
        description=f"The candidate operations: some of {', '.join(OPERATIONS)}; or a set of them: "
        f"{', '.join(OPERATION_SETS)}. Default: paper, the first {len(PAPER_OPERATIONS)}.",
    )
    image_size: int | None = Field(None, description="Height and width that images are scaled to, in pixels.")


class DataRequest(BaseModel):
    """How the images of a folder are read, where it does not follow from the folder itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    train: Text | None = Field(
        None, description='The folder below the dataset with the training classes; "." is the dataset itself.'
    )
    test: Text | None = Field(None, description="The folder below the dataset with the test classes.")
    validation: Text | None = Field(None, description="The folder below the dataset with the validation classes.")
    ignore: Annotated[list[Text], Field(max_length=100)] = Field(
        default_factory=list,
        description='Patterns such as "*.gif" or "old" of files and folders to leave out. They are compared with paths '
        "below the dataset and with each part of a path.",
    )
    channels: int | None = Field(None, description="1 for grey or 3 for colour. Default: as in the images.")
    image_size: int | None = Field(
        None, description="Height and width that images are scaled to, in pixels; the same as space.image_size."
    )
    background: Text = Field("white", description="The colour behind transparent pixels, such as white or #808080.")

    def options(self) -> DataOptions:
        """The options that this asks for. Raises `InvalidValue`."""
        return DataOptions(**self.model_dump(exclude={"image_size"}))

    def size(self, of_space: int | None = None) -> int | None:
        """The image size that is asked for here or as `space.image_size`. Raises `InvalidValue` where these differ."""
        size = of_space if self.image_size is None else self.image_size
        if of_space is not None and size != of_space:
            reason = f"differs from space.image_size, which is {of_space}"
            raise InvalidValue("data.image_size", size, reason, "one image size")
        if size is not None and not 4 <= size <= 4096:
            field = "space.image_size" if self.image_size is None else "data.image_size"
            raise InvalidValue(field, size, "not a usable size", "4 to 4096 pixels")
        return size


class WorkerRange(BaseModel):
    """How few workers will do, and how many the search wants at most."""

    model_config = ConfigDict(extra="forbid", strict=True)

    min: int
    max: int


_number = TypeAdapter(int, config=ConfigDict(strict=True))


def _number_or_range(value: Any, either: ValidatorFunctionWrapHandler) -> Any:
    """A number or a range, told apart first, so that an error is about the one that was meant."""
    if isinstance(value, dict):
        return WorkerRange.model_validate(value)
    return either(value) if isinstance(value, WorkerRange) else _number.validate_python(value)


def _number_or_auto(value: Any, either: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "auto" else _number.validate_python(value)


class SearchRequest(BaseModel):
    """One search: a dataset, budgets or limits or both, and what it may use."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "dataset": "digits",
                    "budgets": ["300k", 600000],
                    "space": {"preset": "digits", "share": False},
                    "seed": 0,
                    "workers": 1,
                    "project": "default",
                    "name": "first steps",
                }
            ]
        },
    )

    dataset: Text = Field(description=DATASET)
    budgets: Annotated[list[Any], Field(min_length=1, max_length=100)] | None = Field(
        None,
        description='Maximum multiply-adds of a network: numbers, or strings such as "300k" and "600M". '
        "May be left out if limits are given; the default is then the cost of the complete network.",
    )
    limits: Fields = Field(
        default_factory=dict,
        description="More limits for every network: parameters and activations (the peak number of elements during "
        'inference of one image), as numbers or strings such as "20k"; latency_ms (of one image, on the search\'s '
        "device).",
    )
    space: SpaceRequest = Field(default_factory=SpaceRequest)
    settings: Fields = Field(
        default_factory=dict,
        description="Fields of the training schedule that override the preset's, and a recipe "
        f"({', '.join(RECIPES)}) that sets the fields of retraining: "
        + ", ".join(field.name for field in fields(Settings)),
    )
    export: Fields = Field(
        default_factory=dict,
        description=f"Options of the ONNX export: opset ({min(OPSETS)} to {max(OPSETS)}, default "
        f"{ExportOptions.opset}), ir (the version of the file format, at most {NEWEST_IR}; default: the oldest that "
        "the opset allows), and normalise (true, the default: the model takes pixel values of 0 to 255 and normalises "
        "them; false: it takes normalised images).",
    )
    engine: Fields = Field(
        default_factory=dict,
        description="Options of the engine: " + ", ".join(field.name for field in fields(EngineOptions)) + ".",
    )
    finals: Fields = Field(
        default_factory=dict,
        description="The networks that are retrained and compete for each budget; the best on validation images is "
        "delivered. candidates: how many of the search's own (default 1). baselines: some of "
        f"{', '.join(BASELINES)} (default {', '.join(DEFAULT_BASELINES)}; [] for none).",
    )
    data: DataRequest = Field(default_factory=DataRequest)
    seed: int = 0
    workers: Annotated[int | WorkerRange, WrapValidator(_number_or_range)] = Field(
        1,
        description='Data-parallel workers: a number, or {"min": 1, "max": 8} for as many as resources allow.',
    )
    cpus_per_worker: int = 1
    gpus_per_worker: Annotated[int | Literal["auto"], WrapValidator(_number_or_auto)] = Field(
        "auto", description="0, 1, or auto: 1 if the cluster has GPUs (of the accelerator_type, if given), otherwise 0."
    )
    accelerator_type: Text | None = Field(
        None, description="The accelerator that nodes must have, by its name in Ray, such as A100. Default: any."
    )
    priority: int = Field(
        0, ge=-10, le=10, description="Within the project: each level is worth one hour in the queue."
    )
    preempts: bool = Field(
        False,
        description="Whether it may stop running searches of its project that have a lower priority to make room. "
        "They are queued again and resume from their last checkpoints.",
    )
    max_wait: Annotated[Span, LEGIBLE] = Field(None, description=WAIT)
    max_run: Annotated[Span, LEGIBLE] = Field(None, description=RUN)
    time: Annotated[Span, LEGIBLE] = Field(
        None,
        description="Time for the search, such as 2h or a number of seconds. The epochs are cut to fit, based on "
        "earlier searches on this cluster. Default: the preset's schedule.",
    )
    confirmed: bool = Field(False, description="Whether to queue it even if it is expected to take over 30 days.")
    project: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    name: Name = ""
    tags: Tags = Field(default_factory=list, description=TAGS)
    description: Description = ""


class NewDescription(BaseModel):
    """What a search is called from now on; fields that are left out stay as they are."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"tags": ["baseline", "phone"]}]}
    )

    name: Name = ""
    tags: Tags = Field(default_factory=list, description=f"In place of its present tags. {TAGS}")
    description: Description = ""


class InvalidRequest(ValueError):
    """Everything that is wrong with a request, one `InvalidValue` each."""

    def __init__(self, problems: Sequence[InvalidValue]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = list(problems)


def check(
    request: SearchRequest,
    roots: Sequence[str],
    any_folder: bool,
    capacity: Capacity | None = None,
    look: Look = look_here,
    alone: bool = True,
    before: Sequence[Ran] = (),
) -> SearchSpec:
    """The specification that `request` asks for; a missing preset is chosen to suit the data, at which it will `look`.

    One that is not `alone` is of a sweep. How long it will take follows from searches `before`. Raises
    `InvalidRequest` with every problem that can be told at once.
    """
    carry_on()
    problems: list[InvalidValue] = []
    gpus = request.gpus_per_worker
    if gpus == "auto":
        gpus = int(capacity is not None and capacity.of_type(request.accelerator_type).gpus >= 1)

    def collect(make: Callable[[], Value]) -> Value | None:
        try:
            return make()
        except InvalidValue as problem:
            if str(problem) not in map(str, problems):
                problems.append(problem)
            return None

    options, image_size = collect(request.data.options), collect(lambda: request.data.size(request.space.image_size))
    looked = None
    if options is not None:
        looked = collect(lambda: look(request.dataset, roots, any_folder, options, image_size))
    if looked is not None:
        problems += looked.problems
    info = looked.info if looked is not None and not looked.problems else None
    limits = collect(lambda: Limits.parse(request.limits))
    if request.budgets is None and limits == NO_LIMITS:
        problems.append(InvalidValue("budgets", None, "missing", "one or more budgets, or limits"))
    given = [collect(partial(parse_count, value)) for value in request.budgets or ()]
    space = collect(lambda: space_of(request, info)) if info else None
    budgets = sorted({budget for budget in given if budget is not None})
    if space is not None:
        if request.budgets is None:
            budgets = [space.complete().multiply_adds]
        unfit = [problem for budget in budgets if (problem := infeasible(budget, space))]
        if limits is not None and budgets and not unfit:
            unfit = unmet(limits, budgets[0], space)
        problems += unfit
    suited: dict[str, Any] = {} if info is None or info.flip else {"flip": False}
    if space is not None:
        suited["crop"] = crop_of(space.image_size)
    suited |= SCHEDULES.get(request.space.preset or "", {})
    settings = collect(lambda: Settings.preset(_preset(request, info), **(suited | request.settings)))
    finals = collect(lambda: FinalsOptions.parse({"baselines": DEFAULT_BASELINES} | request.finals))
    competing = not alone or finals is None or finals.competing
    if not competing and settings is not None and settings.choose_by != Settings.choose_by:
        reason = "has no effect where one network is retrained for each budget"
        accepted = f"{Settings.choose_by}, or finals with more candidates or baselines, or a sweep, whose finals choose"
        problems.append(InvalidValue("settings.choose_by", settings.choose_by, reason, accepted))
    collect(lambda: seconds("max_wait", request.max_wait))
    collect(lambda: seconds("max_run", request.max_run))
    time = collect(lambda: seconds("time", request.time))
    if time is not None and (epochs := [name for name in request.settings if name in EPOCHS]):
        reason = f"the schedule is given already: settings.{', settings.'.join(epochs)}"
        problems.append(InvalidValue("time", request.time, reason, "a time or epochs, not both"))
    if capacity is not None:
        problems += _too_much(request, gpus, capacity)
    export = collect(lambda: ExportOptions.parse(request.export))
    engine = collect(lambda: EngineOptions.parse(request.engine))
    if engine is not None and engine.precision == "tf32" and not gpus:
        accepted = "auto, float32 or bfloat16; or gpus_per_worker 1"
        problems.append(InvalidValue("engine.precision", "tf32", "for GPUs, of which its workers have none", accepted))
    unread = looked is None or options is None or space is None or finals is None
    if unread or settings is None or limits is None or export is None or engine is None or problems:
        raise InvalidRequest(problems)
    assert looked is not None and options is not None and space is not None and finals is not None
    least, most = _least_and_most(request)
    try:
        spec = SearchSpec(
            dataset=request.dataset,
            budgets=tuple(budgets),
            space=space,
            settings=settings,
            seed=request.seed,
            workers=most,
            cpus_per_worker=request.cpus_per_worker,
            gpus_per_worker=gpus,
            limits=limits,
            min_workers=least if least != most else None,
            accelerator_type=request.accelerator_type,
            export=export,
            engine=engine,
            finals=finals,
            data=options,
            inspection=_inspection(looked, space),
        )
        spec = spec if time is None else within(spec, time, before)
        refuse_too_long(estimate(spec, before), request.confirmed)
        return spec
    except InvalidValue as problem:
        raise InvalidRequest([problem]) from problem


def _preset(request: SearchRequest, info: DatasetInfo | None) -> str:
    """The preset of space and settings that a request asks for. Raises `InvalidValue` where there is none."""
    named, names = request.space.preset, [*PRESETS, *SCHEDULES]
    if named is not None and named not in names:
        reason = "no such preset" + did_you_mean(named, names)
        raise InvalidValue("space.preset", named, reason, "one of " + ", ".join(names))
    if named in PRESETS:
        return named
    return info.preset if info else next(iter(PRESETS))


def _inspection(looked: Looked, space: SearchSpace) -> dict[str, Any]:
    """What a search takes along of what was found, with the images as its networks see them."""
    summary = summarise(looked.report)
    seen = {"size": space.image_size, "channels": space.channels_in}
    return summary | {"image_size": space.image_size, "decoding": summary["decoding"] | seen}


def space_of(request: SearchRequest, info: DatasetInfo) -> SearchSpace:
    """The preset with what the data dictates and what the request changes. Raises `InvalidValue`."""
    asked = {k: v for k, v in request.space.model_dump(exclude={"preset"}).items() if v is not None}
    if request.data.image_size is not None:
        asked["image_size"] = request.data.image_size
    preset = _preset(request, info)
    dictated = {"classes": info.classes, "channels_in": info.channels, "image_size": info.image_size}
    return SearchSpace.preset(preset, **(dictated | asked))


def _least_and_most(request: SearchRequest) -> tuple[int, int]:
    """How few workers will do, and how many are wanted at most."""
    workers = request.workers
    return (workers.min, workers.max) if isinstance(workers, WorkerRange) else (workers, workers)


def without_gpus(request: SearchRequest, capacity: Capacity | None) -> list[str]:
    """A note where a search that uses GPUs if there are any is queued before the cluster's `capacity` is known."""
    if capacity is not None or request.gpus_per_worker != "auto":
        return []
    return [
        "no node of the cluster has been seen yet: the workers will use no GPU (gpus_per_worker 1 makes them use one)"
    ]


def _too_much(request: SearchRequest, gpus_per_worker: int, capacity: Capacity) -> list[InvalidValue]:
    """What is wrong with workers of which the cluster could not even run the fewest that will do if it were empty."""
    types = capacity.accelerator_types
    if request.accelerator_type is not None and request.accelerator_type not in types:
        accepted = "one of " + ", ".join(types) if types else "none: no node says what it has"
        return [InvalidValue("accelerator_type", request.accelerator_type, "no node of the cluster has it", accepted)]
    nodes = capacity.of_type(request.accelerator_type)
    least, most = _least_and_most(request)
    cpus, gpus = max(0, request.cpus_per_worker), max(0, gpus_per_worker)
    places = nodes.places(cpus, gpus) if cpus or gpus else least
    if least <= places or least > most:  # which the specification refuses
        return []
    field = "workers" if places >= 1 else "gpus_per_worker" if nodes.places(cpus, 0) >= 1 else "cpus_per_worker"
    value = least if field == "workers" else getattr(request, field)
    if field == "workers" and isinstance(request.workers, WorkerRange):
        field = "workers.min"
    named = f" with {request.accelerator_type}" if request.accelerator_type is not None else ""
    return [
        InvalidValue(
            field,
            value,
            f"more than the cluster can ever have: {number_of(least, 'worker')} of {resources(cpus, gpus)}{named}",
            f"at most {number_of(places, 'such worker')}, in a cluster of {resources(nodes.cpus, nodes.gpus)}{named}",
        )
    ]
