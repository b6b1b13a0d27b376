"""One network of a search: its picture, its test, and what each block and operation of it costs."""

import math
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from nas_core.data.contact_sheet import THUMBNAIL_COLUMNS
from nas_core.files import FILES
from nas_core.space import Architecture, Reference, cost
from nas_core.space.picture import Theme, draw
from nas_core.train.evaluation import Evaluation
from service.dashboard.frame import PICTURE_HEADERS, ViewerDep, missing, page
from service.domain.request import Text
from service.folders.model import folder_of
from service.store.changes import UnknownSearch
from service.use_cases.errors import NotFound
from service.use_cases.networks import as_early_as_known, tested
from service.use_cases.searches import seen
from service.use_cases.views import view_architecture
from service.web.context import ContextDep

Name = Annotated[str, Path(pattern=r"^[0-9]{1,19}(-[0-9]{1,9})?$")]
"""What a network's folder is called: its budget and, in finals, the number of its trial."""

router = APIRouter(include_in_schema=False)


MOST_LISTED = 100
"""Classes in the table of a test."""
MOST_CROSSED = 20
"""Classes in the picture of a confusion matrix."""
SHADES = 9
"""Of a cell in it, besides none."""


@dataclass(frozen=True)
class Cell:
    """How many images of a row's class were predicted as a column's; the shade tells their share of the row."""

    images: int
    shade: int
    right: bool


@dataclass(frozen=True)
class Heatmap:
    """The confusion matrix of the classes with the lowest recall, as rows of cells.

    The last column sums up the predictions of the other classes, where there are any.
    """

    labels: list[int]
    rows: list[list[Cell]]
    others: int


@router.get("/searches/{search_id}/networks/{name}.svg")
def network_picture(
    service: ContextDep, project: ViewerDep, search_id: Text, name: Name, theme: Theme = "auto"
) -> Response:
    """The picture of a network as soon as it is found, long before it is retrained."""
    return picture(as_early_as_known(service, seen(service, project, search_id), name), theme=theme)


@router.get("/searches/{search_id}/networks/{name}")
def network_page(request: Request, service: ContextDep, project: ViewerDep, search_id: Text, name: Name) -> Response:
    """One network: its test class by class, and its costs piece by piece."""
    try:
        search = seen(service, project, search_id)
        architecture = as_early_as_known(service, search, name)
    except (UnknownSearch, NotFound):
        return missing(request, "network", f"{search_id}/{name}")
    test = tested(service, search.id, name)
    rows = service.searches.architectures([search.id])[search.id]
    found = next((view_architecture(row) for row in rows if folder_of(row.result) == name), None)
    parts = [
        (part.name, cost.of_part(part), [(step.name, cost.of(step)) for step in part.steps])
        for part in architecture.parts()
    ]
    return page(
        "network.html", request, search=search, name=name, budget=int(name.partition("-")[0]),
        architecture=architecture, parts=parts, found=found, files=FILES, test=test,
        heat=None if test is None else heatmap(test), most_listed=MOST_LISTED,
        thumbnail_columns=THUMBNAIL_COLUMNS,
    )  # fmt: skip


def heatmap(test: Evaluation) -> Heatmap:
    """The picture of a test's confusion matrix: rows are what images show, columns what they were taken for."""
    labels = test.worst_first[:MOST_CROSSED]
    others = test.classes - len(labels)

    def cell(label: int, images: int, right: bool) -> Cell:
        share = images / test.images[label] if images else 0.0
        return Cell(images, math.ceil(share * SHADES), right)

    rows = []
    for label in labels:
        counts = [test.counts.get((label, predicted), 0) for predicted in labels]
        cells = [cell(label, count, predicted == label) for predicted, count in zip(labels, counts, strict=True)]
        rows.append([*cells, cell(label, test.images[label] - sum(counts), False)] if others else cells)
    return Heatmap(labels, rows, others)


def picture(
    architecture: Architecture | Reference, headers: dict[str, str] = PICTURE_HEADERS, theme: Theme = "auto"
) -> Response:
    """An architecture drawn."""
    return Response(draw(architecture, theme), media_type="image/svg+xml", headers=headers)
