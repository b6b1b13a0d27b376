"""A sweep: one request, varied over budgets, seeds and any grid of its fields. No I/O.

`expand` makes its points, each a `SearchRequest` of its own, in groups that differ in nothing but seeds and budgets:
what a group finds can compete in finals of its own. With the strategy `path` a search serves all budgets of the sweep,
since it passes them on its way down; `independent` searches for each budget by itself.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas_core.errors import InvalidValue
from nas_core.space import Family
from nas_core.spec import DEFAULT_BASELINES, parse_count
from service.domain.patience import carry_on
from service.domain.request import (
    LEGIBLE,
    TAGS,
    Description,
    Fields,
    InvalidRequest,
    Name,
    NewDescription,
    SearchRequest,
    Tags,
)

MOST_POINTS = 10_000
MOST_WAYS = 64
"""Datasets and ways of reading them in one sweep: each is looked at, and all must be known together."""
VARIED = ("dataset", "workers", "cpus_per_worker", "gpus_per_worker", "accelerator_type")
"""Fields that a grid may vary, besides those of `NESTED`."""
NESTED = ("space", "settings", "limits", "engine", "finals", "data")
"""Fields that hold others, which a grid names as `space.share`."""


class BudgetRange(BaseModel):
    """Budgets at equal distances between two, or at equal ratios."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    first: Any = Field(alias="from", description="The smallest, as a number or a string such as 300k.")
    last: Any = Field(alias="to", description="The largest.")
    count: int = Field(ge=2, le=100)
    scale: Literal["linear", "logarithmic"] = "logarithmic"

    def budgets(self) -> list[int]:
        """The budgets, in multiply-adds. Raises `InvalidValue`."""
        first, last = parse_count(self.first, "budgets.from"), parse_count(self.last, "budgets.to")
        if first > last:
            raise InvalidValue("budgets.to", self.last, "below the first", f"{first} or more")
        steps = [step / (self.count - 1) for step in range(self.count)]
        if self.scale == "linear":
            return [round(first + (last - first) * step) for step in steps]
        return [round(first * (last / first) ** step) for step in steps]


Baseline = Literal["random", "thin", Family]
"""Networks that nobody searched for, to compare with: what is left of the complete network when it is cut at random,
the complete network with fewer channels (`nas_core.search.baselines`), and reference networks
(`nas_core.search.references`)."""
Baselines = Annotated[list[Baseline], Field(max_length=len(get_args(Baseline)))]


def _default_baselines() -> list[Baseline]:
    return list(DEFAULT_BASELINES)


Budgets = Annotated[list[Any], Field(min_length=1, max_length=1000)] | BudgetRange


class SweepRequest(BaseModel):
    """Searches that differ in budgets, seeds and fields of `grid`, and are otherwise as `search` says."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "search": {"dataset": "digits", "space": {"preset": "digits"}},
                    "budgets": {"from": "100k", "to": "800k", "count": 8},
                    "seeds": [0, 1, 2],
                    "name": "over night",
                }
            ]
        },
    )

    search: Fields = Field(description="The fields of all searches, except budgets and seed.")
    budgets: Budgets = Field(description="Multiply-adds, as numbers or strings, or from, to, count and scale.")
    seeds: Annotated[list[int], Field(min_length=1, max_length=MOST_POINTS)] = Field(default_factory=lambda: [0])
    grid: Annotated[dict[str, Annotated[list[Any], Field(min_length=1, max_length=MOST_POINTS)]], LEGIBLE] = Field(
        default_factory=dict,
        description=f"Values by field: {', '.join(VARIED)}, or a field of {', '.join(NESTED)}, as in space.share.",
    )
    strategy: Literal["path", "independent"] = Field(
        "path", description="One search for all budgets of a seed (path), or one for each budget (independent)."
    )
    finals: bool | None = Field(
        None,
        description="Whether the searches only find networks, which are then retrained together, and for each budget "
        "compete; otherwise each search retrains its own. By default where there are several seeds.",
    )
    baselines: Baselines = Field(
        default_factory=_default_baselines,
        description=f"Baselines that compete in the finals. Default: {', '.join(DEFAULT_BASELINES)}; [] for none.",
    )
    project: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    priority: int = Field(0, ge=-10, le=10)
    name: Name = ""
    description: Description = ""

    @property
    def with_finals(self) -> bool:
        """Whether the sweep has finals."""
        return (len(set(self.seeds)) > 1 or bool(named_baselines(self))) if self.finals is None else self.finals


class MoreNetworks(BaseModel):
    """What is retrained for a sweep whose searches have ended: networks for more budgets, baselines, or both."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"budgets": ["450k"], "baselines": ["random"]}]}
    )

    budgets: Budgets | None = Field(
        None, description="As in a sweep. No search runs again: each passed these costs on its way down."
    )
    baselines: Baselines = Field(
        default_factory=_default_baselines,
        description="Networks that were not searched, for the budgets given here, or for those of the sweep; with "
        f"budgets that are new by default {', '.join(DEFAULT_BASELINES)}; [] for none.",
    )


class NewSweepDescription(NewDescription):
    """What a sweep is called from now on; fields that are left out stay as they are."""

    tags: Tags = Field(
        default_factory=list,
        description="In place of the tags that all its searches have. Each of them gets the new ones and keeps tags "
        f"of its own. {TAGS}",
    )


def named_baselines(request: SweepRequest | MoreNetworks) -> list[Baseline]:
    """The baselines that a request asks for by name; none where it has them by default."""
    return request.baselines if "baselines" in request.model_fields_set else []


def sorted_budgets(request: SweepRequest | MoreNetworks) -> tuple[list[int], list[str]]:
    """The sweep's budgets, ascending and each once, and what was changed of them. Raises `InvalidRequest`."""
    if isinstance(request.budgets, BudgetRange):
        try:
            given = request.budgets.budgets()
        except InvalidValue as problem:
            raise InvalidRequest([problem]) from problem
    else:
        given, problems = [], []
        for value in request.budgets or ():
            try:
                given.append(parse_count(value))
            except InvalidValue as problem:
                problems.append(problem)
        if problems:
            raise InvalidRequest(problems)
    budgets = sorted(set(given))
    notes = []
    if given != sorted(given):
        notes.append("the budgets were sorted")
    if len(budgets) < len(given):
        notes.append(f"{len(given)} budgets became {len(budgets)}: equal ones were merged")
    return budgets, notes


def expand(request: SweepRequest, budgets: Sequence[int]) -> list[list[SearchRequest]]:
    """The sweep's points: a list for each point of the grid, in the order of the seeds and the budgets.

    Raises `InvalidRequest` for a field that cannot be varied, for more than `MOST_POINTS` points, and for what no
    search can be asked.
    """
    problems = [
        InvalidValue(
            f"search.{field}",
            request.search[field],
            "belongs to the sweep, not to its searches",
            f"the sweep's field {field}",
        )
        for field in ("budgets", "seed", "project", "priority", "name")
        if field in request.search
    ]
    for field, values in request.grid.items():
        root, dot, rest = field.partition(".")
        if field not in VARIED and not (root in NESTED and dot and rest):
            accepted = f"{', '.join(VARIED)}, or a field of {', '.join(NESTED)}, such as space.share"
            problems.append(InvalidValue(f"grid.{field}", values, "cannot be varied", accepted))
    seeds = list(dict.fromkeys(request.seeds))
    each = [[budget] for budget in budgets] if request.strategy == "independent" else [list(budgets)]
    count = math.prod(len(values) for values in request.grid.values()) * len(seeds) * len(each)
    if count > MOST_POINTS:
        problems.append(InvalidValue("grid", count, "too many searches", f"at most {MOST_POINTS}"))
    reads = [field for field in request.grid if field in ("dataset", "space.image_size") or field.startswith("data.")]
    ways = math.prod(len(request.grid[field]) for field in reads)
    if ways > MOST_WAYS:
        reason = f"too many datasets and ways of reading them ({' × '.join(reads)})"
        problems.append(InvalidValue("grid", ways, reason, f"at most {MOST_WAYS} in one sweep"))
    if "finals" in request.search and request.with_finals:
        reason = "has no effect: the finals of the sweep retrain what its searches find"
        accepted = "the sweep's field baselines; or finals false, for each search to have its own"
        problems.append(InvalidValue("search.finals", request.search["finals"], reason, accepted))
    if (named := named_baselines(request)) and not request.with_finals:
        problems.append(InvalidValue("baselines", named, "without finals", "finals, which retrain them"))
    if problems:
        raise InvalidRequest(problems)
    groups: list[list[SearchRequest]] = []
    for chosen in itertools.product(*request.grid.values()):
        carry_on()
        asked = _varied(request.search, dict(zip(request.grid, chosen, strict=True)))
        own = {"project": request.project, "priority": request.priority, "name": request.name}
        try:
            groups.append(
                [
                    SearchRequest(**asked | own | {"seed": seed, "budgets": some})
                    for seed, some in itertools.product(seeds, each)
                ]
            )
        except ValidationError as error:
            raise InvalidRequest([_invalid(found) for found in error.errors()]) from error
    return groups


def _varied(search: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The request with fields changed as one point of the grid says."""
    changed = dict(search)
    for field, value in values.items():
        root, dot, rest = field.partition(".")
        nested = changed.get(root) or {}
        if dot and not isinstance(nested, dict):
            taken = f"an object, so that grid.{field} can be one of its fields"
            raise InvalidRequest([InvalidValue(f"search.{root}", nested, "is no object", taken)])
        changed[root] = {**nested, rest: value} if dot else value
    return changed


def _invalid(found: Any) -> InvalidValue:
    field = "search." + ".".join(str(part) for part in found["loc"])
    value = None if found["type"] == "missing" else found.get("input")  # which is then all that it is missing in
    return InvalidValue(field, value, found["msg"], "what a search takes in this field")
