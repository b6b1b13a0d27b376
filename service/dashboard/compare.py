"""Networks side by side: what they are, cost and reach; and searches by their curves, while they run too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BeforeValidator, Field

from nas_core.errors import InvalidValue
from service import answers, formats
from service.dashboard import plot
from service.dashboard.frame import ViewerDep, missing, page
from service.domain.lifecycle import TERMINAL, Status
from service.domain.request import Text
from service.store.changes import UnknownSearch
from service.store.models import Search
from service.use_cases.errors import NotFound
from service.use_cases.networks import found
from service.use_cases.searches import seen
from service.use_cases.views import view_architecture
from service.web.context import ContextDep

MOST = 8
"""How many networks, or searches, are compared at a time."""

Epoch = Annotated[
    Annotated[int, Field(ge=1, le=1_000_000)] | None, BeforeValidator(lambda given: None if given == "" else given)
]
"""An epoch in an address; an empty field of the form is none."""
Epochs = Mapping[str, Sequence[Mapping[str, Any]]]
"""What the epochs of searches told, by the searches' ids."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Network:
    """A network, the search that it is of, and the seed with which it was found."""

    view: answers.Architecture
    search: Search
    seed: int
    trial: int | None
    """Its number where it competed with others of its budget."""

    @property
    def title(self) -> str:
        """What it is called."""
        name = self.view["label"] or (
            "" if self.view["origin"] == "search" else self.view["variant"] or self.view["origin"]
        )
        other = f", {name}" if name else ""
        return f"{self.search.name or self.search.id} for {formats.exact(self.view['budget'])}{other}, seed {self.seed}"

    def trained_in(self, epoch: Mapping[str, Any]) -> bool:
        """Whether an epoch is one of its retraining."""
        own = ("budget", self.view["budget"]) if self.trial is None else ("trial", self.trial)
        return bool(epoch["phase"] == "retrain" and epoch.get(own[0]) == own[1])


@dataclass(frozen=True)
class Row:
    """One quantity of all networks in words, None where one has none; `best` are the networks that have the best."""

    name: str
    cells: list[str | None]
    best: frozenset[int] = frozenset()


def _view(
    smooth: Annotated[float, Query(ge=0, lt=1)] = 0.0,
    first: Annotated[Epoch, Query(alias="from")] = None,
    last: Annotated[Epoch, Query(alias="to")] = None,
) -> plot.View:
    start = first or 1
    if last is not None and last <= start:
        raise InvalidValue("to", last, f"not after epoch {start}", f"an epoch from {start + 1} on")
    return plot.View(smooth, first, last)


@router.get("/compare")
def compare_page(
    request: Request,
    service: ContextDep,
    project: ViewerDep,
    view: Annotated[plot.View, Depends(_view)],
    ids: Annotated[list[Text] | None, Query(alias="id")] = None,
    of: Annotated[list[Text] | None, Query(alias="search")] = None,
) -> Response:
    """Networks side by side, those that are named and what the searches that are named have found; and these searches.

    Curves are smoothed, and zoomed to a range of epochs, as the address says. While a search runs, the page fetches
    itself again every few seconds.
    """
    searches = []
    for search_id in dict.fromkeys(of or ()):
        try:
            searches.append(seen(service, project, search_id))
        except UnknownSearch:
            return missing(request, "search", search_id)
    delivered = [
        row.id
        for rows in service.searches.architectures([search.id for search in searches]).values()
        for row in rows
        if row.result.get("winner", True)
    ]
    beside = searches[:MOST] if len(searches) > 1 else []
    asked = list(dict.fromkeys([*(ids or ()), *delivered]))
    networks = []
    for one in asked[:MOST]:
        try:
            row = found(service, project, one)
        except (NotFound, UnknownSearch):
            return missing(request, "network", one)
        search = service.searches.get(row.search_id)
        seed = row.result.get("seed", search.spec["seed"])
        networks.append(Network(view_architecture(row), search, seed, row.result.get("trial")))
    compared = {search.id for search in beside} | {network.search.id for network in networks}
    told = {one: [event.data for event in service.searches.events_of(one, ["epoch"])] for one in compared}
    return page(
        "compare.html", request, networks=networks, rows=rows(networks), verdict=verdict(networks),
        curves=retraining(networks, told, view), left_out=len(asked) - len(networks),
        searches=beside, names=[search.name or search.id for search in beside],
        searches_left_out=len(searches[MOST:]), supernets=supernets(beside, told, view),
        live=any(Status(search.status) not in TERMINAL for search in beside),
        query=request.url.query, view=view, asked={"id": ids or (), "search": of or ()},
    )  # fmt: skip


def supernets(searches: Sequence[Search], told: Epochs, view: plot.View) -> list[tuple[str, str]]:
    """A title and a picture for each quantity of the searches' supernets, by the epochs of pretraining and search."""
    curves = []
    for search in searches:
        before = {"pretrain": 0, "search": search.spec["settings"]["pretrain_epochs"]}
        own = {before[one["phase"]] + one["epoch"]: one for one in told[search.id] if one["phase"] in before}
        curves.append((search.name or search.id, own))
    return pictures(
        curves,
        view,
        ("multiply_adds", "Multiply-adds of the supernet", ""),
        ("accuracy", "Accuracy of the supernet on validation data", "%"),
        ("loss", "Loss of the supernet in training", ""),
    )


def retraining(networks: Sequence[Network], told: Epochs, view: plot.View) -> list[tuple[str, str]]:
    """A title and a picture for each quantity of the networks' retraining; none where no epoch of it is known."""
    curves = [
        (network.title, {one["epoch"]: one for one in told[network.search.id] if network.trained_in(one)})
        for network in networks
    ]
    return pictures(curves, view, ("accuracy", "Accuracy on validation data", "%"), ("loss", "Loss in training", ""))


def pictures(
    curves: Sequence[tuple[str, Mapping[int, Mapping[str, Any]]]], view: plot.View, *quantities: tuple[str, str, str]
) -> list[tuple[str, str]]:
    """A title and a picture for each of the `quantities` (field, title, unit) that any curve has a value of.

    A curve has a name, and what its epochs told by their numbers.
    """
    drawn = []
    for quantity, title, unit in quantities:
        lines = [
            plot.Curve(
                name, [(at, one[quantity]) for at, one in sorted(epochs.items()) if one.get(quantity) is not None]
            )
            for name, epochs in curves
        ]
        if any(line.points for line in lines):
            counted = quantity == "multiply_adds"  # which has no noise that could be smoothed
            drawn.append((title, plot.curves(lines, title, unit, replace(view, smooth=0.0) if counted else view)))
    return drawn


def rows(networks: Sequence[Network]) -> list[Row]:
    """What is compared, in the order of the table."""
    if not networks:
        return []
    views = [network.view for network in networks]
    accuracies = [view["accuracy"] for view in views]
    balanced, top5 = [view["balanced_accuracy"] for view in views], [view["top5_accuracy"] for view in views]
    intervals = [f"{formats.percent(v['accuracy_low'])} – {formats.percent(v['accuracy_high'])}" for v in views]
    return [
        Row("Accuracy", [formats.percent(one, 2) for one in accuracies], _best([-one for one in accuracies])),
        Row("95 % interval", list(intervals)),
        Row("Balanced accuracy", _percents(balanced), _most(balanced)),
        *([Row("Top-5 accuracy", _percents(top5), _most(top5))] if any(one is not None for one in top5) else []),
        Row("Test images", [formats.exact(view["test_images"]) for view in views]),
        *(
            Row(name, [None if v is None else formats.exact(v) for v in values], _best(values))
            for name, values in (
                ("Multiply-adds", [view["multiply_adds"] for view in views]),
                ("Parameters", [view["parameters"] for view in views]),
                ("Activations held at once", [view["activations"] for view in views]),
            )
        ),
        Row(
            "Latency of one image",
            [None if v["latency_ms"] is None else f"{v['latency_ms']:.3g}\N{NO-BREAK SPACE}ms" for v in views],
            _best([view["latency_ms"] for view in views]),
        ),
        Row("Budget", [formats.exact(view["budget"]) for view in views]),
        Row("Dataset", [network.search.dataset for network in networks]),
        Row("Origin", [plot.ORIGINS[view["origin"]] for view in views]),
        Row("Seed", [str(network.seed) for network in networks]),
    ]


def _percents(shares: Sequence[float | None]) -> list[str | None]:
    return [None if share is None else formats.percent(share, 2) for share in shares]


def _most(shares: Sequence[float | None]) -> frozenset[int]:
    return _best([None if share is None else -share for share in shares])


def _best(values: list[int] | list[float] | list[float | None] | list[int | None]) -> frozenset[int]:
    """Where the least of the values is; nowhere if all are equal, or one is not known."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(known)) < 2:
        return frozenset()
    return frozenset(index for index, value in enumerate(known) if value == min(known))


def verdict(networks: Sequence[Network]) -> str | None:
    """What the accuracies say, beyond chance; None where they cannot be compared."""
    if len(networks) < 2:
        return None
    if len({network.search.dataset for network in networks}) > 1:
        return "They were tested on different data, so their accuracies cannot be compared."
    first, *others = sorted(networks, key=lambda network: -network.view["accuracy"])
    if all(first.view["accuracy_low"] > other.view["accuracy_high"] for other in others):
        name = f"{first.search.name or first.search.id} for {formats.exact(first.view['budget'])}"
        return f"{name} is the most accurate, beyond chance: its interval is above the others."
    return "The intervals overlap, so the difference in accuracy may be chance."
