"""The sweeps: their list, and each one's page with its networks by cost and accuracy."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError

from nas_core.errors import InvalidValue
from nas_core.space import FAMILIES
from nas_core.spec import BASELINES, DEFAULT_BASELINES
from service import answers, formats
from service.dashboard import plot
from service.dashboard.frame import PICTURE_HEADERS, ViewerDep, hints, missing, page, part, swapped
from service.dashboard.submit import FIELDS, Form, FormDep, description_of
from service.domain.request import InvalidRequest, Text
from service.domain.sweep import MoreNetworks, NewSweepDescription
from service.store.idempotency import KeyReused
from service.store.models import Sweep
from service.store.projects import OverQuota
from service.store.sweeps import UnknownSweep
from service.use_cases import sweeps
from service.use_cases.errors import NotNow, errors_of, field_error
from service.web.checks import CHECKED
from service.web.context import Context, ContextDep, Words, steered
from service.web.idempotency import key_of_form
from service.web.problems import field_errors

PAGE_SIZE = 50
MOST_DRAWN = 200
"""Networks behind the front that a picture shows; of more, these at even distances."""
MOST_LISTED = 50
"""Networks in the table beside the picture."""

Cost = Literal["multiply_adds", "parameters", "activations", "latency_ms"]
COSTS: dict[Cost, tuple[str, str]] = {
    "multiply_adds": ("Multiply-adds", ""),
    "parameters": ("Parameters", ""),
    "activations": ("Activations held at once", ""),
    "latency_ms": ("Latency of one image", "ms"),
}
"""What each kind of cost is called, and its unit."""
MORE = {"budgets": "budgets", "baselines": "sweep.baselines"}
"""What is asked for of networks that are added, and the field of the form of searches that is read alike."""
NOTHING: Form = {}
WIDE, NARROW = (1160, 440), (348, 330)
"""The picture's pixels on a desk and on a phone."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class BudgetRow:
    """What a sweep has found for one budget: networks that were searched for, and the most accurate winner."""

    budget: int
    count: int
    best: answers.Point
    mean: float | None
    """The mean accuracy of those that were searched for."""
    random: float | None
    """The mean accuracy of random networks of the same cost, where there are any."""
    reference: answers.Point | None
    """The most accurate reference network, where there is any."""


def _seen(request: Request, sweep_id: Text, service: ContextDep, project: ViewerDep) -> Sweep:
    found = sweeps.seen(service, project, sweep_id)
    steered(request, found.submitted_by)
    return found


SeenDep = Annotated[Sweep, Depends(_seen)]


@dataclass(frozen=True)
class Filters:
    """Which sweeps the list shows: those with a `tag`, and those with `words` in the name, id or dataset."""

    tag: str | None
    words: str

    def query(self, after: str | None = None) -> str:
        """The query of an address that says so."""
        pairs = {"after": after, "tag": self.tag, "q": self.words}
        return urlencode({name: value for name, value in pairs.items() if value})


async def _filters(tag: Text | None = None, words: Words = "") -> Filters:
    return Filters(tag or None, words.strip())


FiltersDep = Annotated[Filters, Depends(_filters)]


@router.get("/sweeps")
def list_page(
    request: Request, service: ContextDep, project: ViewerDep, filters: FiltersDep, after: Text | None = None
) -> Response:
    """The list of sweeps."""
    newest = service.searches.newest_seq(project=project)
    shown = listed(service, project, filters, after)
    told = page("sweeps.html", request, **shown, query=filters.query(after), newest=newest)
    return swapped(told, request, "/sweeps", filters.query())


@router.get("/fragments/sweeps")
def list_fragment(
    request: Request, service: ContextDep, project: ViewerDep, filters: FiltersDep, after: Text | None = None
) -> Response:
    """The list's rows."""
    mark = service.searches.mark()
    values = partial(listed, service, project, filters, after)
    return part("sweeps_parts.html", request, project, filters, after, mark, values=values)


@router.get("/sweeps/{sweep_id}")
def sweep_page(
    request: Request,
    service: ContextDep,
    project: ViewerDep,
    sweep_id: Text,
    cost: Cost = "multiply_adds",
    after: Text | None = None,
) -> Response:
    """One sweep."""
    try:
        sweep = sweeps.seen(service, project, sweep_id)
    except UnknownSweep:
        return missing(request, "sweep", sweep_id)
    return _page(request, service, sweep, cost, after)


@router.post("/sweeps/{sweep_id}/networks", dependencies=[CHECKED])
def add(request: Request, service: ContextDep, project: ViewerDep, sweep: SeenDep, form: FormDep) -> Response:
    """Retrain more networks of a sweep and go to its page; the page with what is wrong where that cannot be done."""
    try:
        asked = {field: FIELDS[like](form[field]) for field, like in MORE.items() if field in form}
        # The key is that of the page as it was, so what was asked for twice, or after somebody else, is queued once.
        key = key_of_form(project, form, f"POST {request.url.path}", asked)
        added = sweeps.add(service, sweep, MoreNetworks.model_validate(asked), key)
    except ValidationError as error:
        problems = field_errors(error.errors(), MoreNetworks)
    except (InvalidRequest, InvalidValue, OverQuota) as error:
        problems = errors_of(error)
    except NotNow as error:
        problems = [field_error("sweep", sweep.id, str(error).rstrip("."), "a sweep whose searches have ended")]
    except KeyReused:
        problems = [field_error("sweep", sweep.id, "networks were added meanwhile", "the form again")]
    else:
        if not added.value["notes"]:
            return RedirectResponse(f"/sweeps/{sweep.id}", 303)
        return _page(request, service, sweep, notes=added.value["notes"])
    return _page(request, service, sweep, code=422, problems=problems, form=form)


@router.post("/sweeps/{sweep_id}/describe", dependencies=[CHECKED])
def describe(request: Request, service: ContextDep, sweep: SeenDep, form: FormDep) -> Response:
    """Give a sweep the name, tags and description of a form; the page with what is wrong where that cannot be."""
    try:
        sweeps.describe(service, sweep, NewSweepDescription.model_validate(description_of(form)))
    except ValidationError as error:
        problems = field_errors(error.errors(), NewSweepDescription)
    except InvalidValue as error:
        problems = errors_of(error)
    else:
        return RedirectResponse(f"/sweeps/{sweep.id}", 303)
    return _page(request, service, sweep, code=422, unchanged=problems)


def _page(
    request: Request,
    service: Context,
    sweep: Sweep,
    cost: Cost = "multiply_adds",
    after: str | None = None,
    code: int = 200,
    **told: Any,
) -> Response:
    newest = service.searches.newest_seq(project=sweep.project)
    return page("sweep.html", request, code, **shown(service, sweep, cost, after, **told), newest=newest)


@router.get("/fragments/sweeps/{sweep_id}")
def sweep_fragment(
    request: Request, service: ContextDep, sweep: SeenDep, cost: Cost = "multiply_adds", after: Text | None = None
) -> Response:
    """The moving parts of one sweep's page."""

    def values() -> dict[str, Any]:
        return shown(service, service.sweeps.get(sweep.id), cost, after) | {"swap": True}

    mark = mark_of(service, sweep.id, service.searches.mark)
    return part("sweep_parts.html", request, sweep.id, cost, after, mark, values=values)


@router.get("/sweeps/{sweep_id}/front.svg")
def front_picture(service: ContextDep, sweep: SeenDep, cost: Cost = "multiply_adds") -> Response:
    """The picture of cost and accuracy by itself."""
    points = [replace(point, href=None) for point in drawn(sweeps.front_of(service, sweep, cost)["points"], cost)]
    content = plot.draw(points, *COSTS[cost], alone=True)
    headers = PICTURE_HEADERS | {"Cache-Control": "no-store"}
    return Response(content, media_type="image/svg+xml", headers=headers)


@router.get("/live/sweeps/{sweep_id}", response_class=EventSourceResponse)
async def live_sweep(
    service: ContextDep, sweep: SeenDep, after: int = 0, last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """A hint whenever anything has happened to a search of its project, until the sweep has ended."""

    def over(mark: tuple[int, int, bool, int]) -> bool:
        return sweeps.view(service, sweep).done

    mark = partial(mark_of, service, sweep.id, service.searches.marks(sweep.project))
    async for hint in hints(service, mark, over, after, last_event_id):
        yield hint


def mark_of(service: Context, sweep_id: str, marks: Callable[[], tuple[int, int]]) -> tuple[int, int, bool, int]:
    """What changes with the `marks` of searches, when the sweep is paused or goes on, and when a search stalls."""
    return *marks(), service.sweeps.get(sweep_id).paused, service.sweeps.stalled([sweep_id])[sweep_id]


def listed(service: Context, project: str | None, filters: Filters, after: str | None) -> dict[str, Any]:
    """What the list shows: one page of sweeps."""
    found = sweeps.browse(service, project, PAGE_SIZE, after, filters.tag, filters.words)
    return {
        "sweeps": found["items"],
        "older": filters.query(found["next"]) if found["next"] else None,
        "first": filters.query(),
        "paged": after is not None,
        "tag": filters.tag,
        "words": filters.words,
    }


def shown(
    service: Context,
    sweep: Sweep,
    cost: Cost,
    after: str | None,
    problems: Sequence[answers.FieldError] = (),
    notes: Sequence[str] = (),
    form: Form = NOTHING,
    unchanged: Sequence[answers.FieldError] = (),
) -> dict[str, Any]:
    """What one sweep's page shows; `problems` and `notes` tell what came of the networks that a `form` asked for, and
    `unchanged` why it has the tags that it had."""
    view = sweeps.view(service, sweep)
    points = sweeps.front_of(service, sweep, cost)["points"]
    searches = sweeps.searches(service, sweep, PAGE_SIZE, after)
    name, unit = COSTS[cost]
    marks = drawn(points, cost)
    return {
        "sweep": view,
        "cost": cost,
        "costs": [(kind, words.split()[0]) for kind, (words, _) in COSTS.items()],
        "cost_name": name,
        "points": points,
        "listed": sorted(points, key=lambda point: (not point["on_front"], -point["accuracy"]))[:MOST_LISTED],
        "pictures": [plot.draw(marks, name, unit, *size) for size in (WIDE, NARROW)] if points else [],
        "left_out": len(points) - len(marks),
        "rows": by_budget(points),
        "whereabouts": whereabouts,
        "origins": plot.ORIGINS,
        "in_words": lambda value: in_words(cost, value),
        "searches": [(search, varied(view, search)) for search in searches["items"]],
        "query": urlencode({"cost": cost} | ({"after": after} if after else {})),
        "older": urlencode({"cost": cost, "after": searches["next"]}) if searches["next"] else None,
        "paged": after is not None,
        "baselines": BASELINES,
        "default_baselines": DEFAULT_BASELINES,
        "filled": {field: ", ".join(form.get(field, ())) for field in MORE},
        "problems": problems,
        "unchanged": unchanged,
        "notes": notes,
    }


def drawn(points: Sequence[answers.Point], cost: Cost) -> list[plot.Point]:
    """The points of a picture: all of the front, and of the others at most `MOST_DRAWN`."""
    beaten = [point for point in points if not point["on_front"]]
    step = max(1, -(-len(beaten) // MOST_DRAWN))
    return [
        plot.Point(
            cost=point["cost"],
            accuracy=point["accuracy"],
            low=point["accuracy_low"],
            high=point["accuracy_high"],
            on_front=point["on_front"],
            title=titled(point, cost),
            origin=point["origin"],
            href=whereabouts(point),
        )
        for point in [*beaten[::step], *(point for point in points if point["on_front"])]
    ]


def titled(point: answers.Point, cost: Cost) -> str:
    """A network in words, as its mark in a picture says when it is pointed at."""
    origin = "" if point["origin"] == "search" else f"{plot.ORIGINS[point['origin']]}, "
    return (
        f"{in_words(cost, point['cost'])} {COSTS[cost][0].lower()}, "
        f"accuracy {formats.percent(point['accuracy'], 2)} "
        f"({formats.percent(point['accuracy_low'])} to {formats.percent(point['accuracy_high'])}), "
        f"for {formats.short(point['budget'])}, {origin}seed {point['seed']}"
        f"{', on the front' if point['on_front'] else ''}"
    )


def whereabouts(point: answers.Point) -> str:
    """Where the page of its search shows a network."""
    search = point["search"]
    return f"/searches/{search}#network-{point['architecture'].removeprefix(f'{search}-')}"


def by_budget(points: Sequence[answers.Point]) -> list[BudgetRow]:
    """A row for each budget for which a network was found, the smallest first."""
    rows = []
    for budget in sorted({point["budget"] for point in points}):
        of_budget = [point for point in points if point["budget"] == budget]
        won = [point for point in of_budget if point["winner"]]  # chosen on validation, by its search or its finals
        if won:
            # What the test part says decides nothing, but where an earlier version has told nothing else.
            best = max(won, key=lambda point: (point["validation_accuracy"] or 0.0, point["accuracy"], -point["cost"]))
            found = [point for point in of_budget if point["origin"] == "search"]
            references = [point for point in of_budget if point["origin"] in FAMILIES]
            reference = max(references, key=lambda point: (point["accuracy"], -point["cost"]), default=None)
            mean, of_random = mean_of(found), mean_of([point for point in of_budget if point["origin"] == "random"])
            rows.append(BudgetRow(budget, len(found), best, mean, of_random, reference))
    return rows


def mean_of(points: Sequence[answers.Point]) -> float | None:
    """The mean accuracy of networks; None of none."""
    return sum(point["accuracy"] for point in points) / len(points) if points else None


def in_words(cost: Cost, value: float) -> str:
    """A cost in full, with its unit."""
    unit = COSTS[cost][1]
    return f"{value:.3g}\N{NO-BREAK SPACE}{unit}" if unit else formats.exact(round(value))


def varied(sweep: answers.Sweep, search: answers.Search) -> list[str]:
    """What a search has of its own in the sweep's grid: `space.share=true`."""
    words = []
    for field in sweep["request"].get("grid", {}):
        root, dot, rest = field.partition(".")
        value = search["request"].get(root)
        value = value.get(rest) if dot and isinstance(value, dict) else value
        words.append(f"{field}={str(value).lower() if isinstance(value, bool) else value}")
    return words
