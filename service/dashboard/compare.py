"""Networks side by side: what they are, cost and reach."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service import formats
from service.api.architectures import found
from service.api.context import ContextDep
from service.api.problems import ProblemError
from service.api.views import ArchitectureView, view_architecture
from service.dashboard.frame import ViewerDep, missing, page
from service.dashboard.plot import ORIGINS
from service.domain.request import Text
from service.store.changes import UnknownSearch
from service.store.models import Search

MOST = 8
"""How many networks stand beside each other."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Row:
    """One quantity of all networks in words, None where one has none; `best` are the networks that have the best."""

    name: str
    cells: list[str | None]
    best: frozenset[int] = frozenset()


@router.get("/compare")
def compare_page(
    request: Request,
    service: ContextDep,
    project: ViewerDep,
    ids: Annotated[list[Text] | None, Query(alias="id")] = None,
) -> Response:
    """Two networks or more, side by side."""
    asked = list(dict.fromkeys(ids or ()))
    networks, seeds = [], []
    for one in asked[:MOST]:
        try:
            row = found(service, project, one)
        except (ProblemError, UnknownSearch):
            return missing(request, "network", one)
        search = service.searches.get(row.search_id)
        networks.append((view_architecture(row), search))
        seeds.append(row.result.get("seed", search.spec["seed"]))
    return page(
        "compare.html", request, networks=networks, rows=rows(networks, seeds), verdict=verdict(networks),
        left_out=len(asked) - len(networks),
    )  # fmt: skip


def rows(networks: list[tuple[ArchitectureView, Search]], seeds: list[int]) -> list[Row]:
    """What is compared, in the order of the table; `seeds` are those that the networks were found with."""
    if not networks:
        return []
    views = [view for view, _ in networks]
    accuracies = [view.accuracy for view in views]
    intervals = [f"{formats.percent(v.accuracy_low)} – {formats.percent(v.accuracy_high)}" for v in views]
    return [
        Row("Accuracy", [formats.percent(one, 2) for one in accuracies], _best([-one for one in accuracies])),
        Row("95 % interval", list(intervals)),
        Row("Test images", [formats.exact(view.test_images) for view in views]),
        *(
            Row(name, [None if v is None else formats.exact(v) for v in values], _best(values))
            for name, values in (
                ("Multiply-adds", [view.multiply_adds for view in views]),
                ("Parameters", [view.parameters for view in views]),
                ("Activations held at once", [view.activations for view in views]),
            )
        ),
        Row(
            "Latency of one image",
            [None if v.latency_ms is None else f"{v.latency_ms:.3g}\N{NO-BREAK SPACE}ms" for v in views],
            _best([view.latency_ms for view in views]),
        ),
        Row("Budget", [formats.exact(view.budget) for view in views]),
        Row("Data set", [search.dataset for _, search in networks]),
        Row("Origin", [ORIGINS[view.origin] for view in views]),
        Row("Seed", [str(seed) for seed in seeds]),
    ]


def _best(values: list[int] | list[float] | list[float | None] | list[int | None]) -> frozenset[int]:
    """Where the least of the values is; nowhere if all are equal, or one is not known."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(known)) < 2:
        return frozenset()
    return frozenset(index for index, value in enumerate(known) if value == min(known))


def verdict(networks: list[tuple[ArchitectureView, Search]]) -> str | None:
    """What the accuracies say, beyond chance; None where they cannot be compared."""
    if len(networks) < 2:
        return None
    if len({search.dataset for _, search in networks}) > 1:
        return "They were tested on different data: their accuracies say nothing of each other."
    (first, search), *others = sorted(networks, key=lambda one: -one[0].accuracy)
    if all(first.accuracy_low > other.accuracy_high for other, _ in others):
        name = f"{search.name or search.id} for {formats.exact(first.budget)}"
        return f"{name} is the most accurate, beyond chance: its interval lies above the others."
    return "The intervals overlap: that one is more accurate than the other may be chance."
