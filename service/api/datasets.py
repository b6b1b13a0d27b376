"""Datasets: look at one before a search is made on it."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import LOOK_SECONDS, Context, ContextDep, ProjectDep, ReaderDep
from service.api.problems import LOOK_AGAIN_SECONDS, FieldError, Problem, ProblemError
from service.api.searches import PROBLEMS, operation_id
from service.domain.request import DATASET, DataRequest, Text
from service.inspections import Found, StillLooking

SHEET_SECONDS = 60.0
"""How long a page waits for a picture, which it asks for once."""
router = APIRouter(
    prefix="/api/v1/datasets", tags=["datasets"], responses=PROBLEMS, generate_unique_id_function=operation_id
)


class InspectionRequest(BaseModel):
    """A dataset, and how its images are read."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"dataset": "/data/pets", "data": {"train": "Training", "test": "Testing"}}]},
    )

    dataset: Text = Field(description=DATASET)
    data: DataRequest = Field(default_factory=DataRequest)


class DecodingView(BaseModel):
    """How every image of the dataset is decoded: to `channels` by `size` by `size` bytes.

    Transparent pixels show `background`. Values of 16 or 32 bits are scaled from the range `integers` to 0 … 255,
    floating-point values from `floats`.
    """

    channels: int
    size: int
    background: str
    integers: list[float]
    floats: list[float]


class LeftOutView(BaseModel):
    """Files that are not used, for one reason: how many, and the first of them."""

    reason: str
    count: int
    examples: list[str]


class FoundView(BaseModel):
    """Images that have something in common: how many or, of images that are alike, how many groups; and the first."""

    count: int
    examples: list[list[str]]


class DatasetReport(BaseModel):
    """What was found of a dataset, and what the networks of a search would see of it."""

    dataset: str
    usable: bool
    """Whether a search can be made on it: there are no `problems`."""
    path: str | None
    kind: str
    layout: str
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    """Images by part and class."""
    images: int
    examined: int
    """Images that were decoded: all of them, or a sample. What follows up to `nearly_identical` is counted on these."""
    sizes: dict[str, int]
    modes: dict[str, int]
    """As Pillow names them."""
    bit_depths: dict[str, int]
    orientations: dict[str, int]
    """By the value of the orientation tag (EXIF); 1 is upright."""
    duplicates: dict[str, FoundView]
    """Groups of images with the same pixels, by where they are: within or across parts, across classes."""
    constant: FoundView
    """Images of one colour."""
    nearly_identical: dict[str, FoundView]
    left_out: list[LeftOutView]
    channels: int
    image_size: int
    decoding: DecodingView
    fingerprint: str
    """What tells this dataset from another, and from what it was before a file changed."""
    notes: list[str]
    """What was done to the images, and what one may want to know."""
    warnings: list[str]
    problems: list[FieldError]
    """Why a search on it is refused, each with what would be accepted."""
    contact_sheet: str | None
    """Where the picture of what a network would see is, as PNG."""


class Looking(BaseModel):
    """How far the look at a dataset is; the same request again gets its report once there is one."""

    dataset: str
    doing: str
    done: int
    """Files so far."""
    total: int | None


STILL: dict[int | str, dict[str, Any]] = {
    202: {
        "model": Looking,
        "description": "It is still being looked at. Send the same request again after `Retry-After` seconds; a look "
        "that nobody asks for in ten seconds is stopped.",
        "headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
    }
}


@router.post("/inspect", response_model=DatasetReport, responses=STILL)
def inspect(request: InspectionRequest, service: ContextDep, project: ReaderDep) -> Response:
    """Look at a dataset as a search would be made on it; nothing is queued.

    A report is an answer also where it tells of problems. 422 is answered where there is nothing to look at.
    """
    try:
        found = _look(service, project, request.dataset, request.data)
    except StillLooking as error:
        told = Looking(dataset=error.dataset, **vars(error.progress))
        return _json(told, 202, {"Retry-After": str(LOOK_AGAIN_SECONDS)})
    return _json(view(found, request.data), 200, {})


@router.get(
    "/contact-sheet",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        404: {"model": Problem, "description": "The dataset is none of image files that can be read."},
    },
)
def contact_sheet(
    service: ContextDep,
    project: ProjectDep,
    dataset: Annotated[Text, Query(description=DATASET)],
    train: Text | None = None,
    test: Text | None = None,
    validation: Text | None = None,
    ignore: Annotated[list[Text], Query(max_length=100)] = [],  # noqa: B006 (FastAPI copies it)
    channels: int | None = None,
    image_size: int | None = None,
    background: Text = "white",
) -> Response:
    """What a network would see of a dataset, as PNG: ten images of a class. A report says where it is."""
    data = DataRequest(
        train=train,
        test=test,
        validation=validation,
        ignore=ignore,
        channels=channels,
        image_size=image_size,
        background=background,
    )
    roots = service.settings.roots_of(project)
    sheet = service.inspections.sheet(dataset, data.options(), data.size(), SHEET_SECONDS, roots)
    if sheet is None:
        raise ProblemError(404, "No contact sheet", f"There are no image files to show of {dataset!r}.")
    return Response(sheet, media_type="image/png", headers={"Cache-Control": "private, no-cache"})


def view(found: Found, data: DataRequest) -> DatasetReport:
    """What the API says of a dataset that was looked at."""
    sheet = None
    if found.shown:
        asked = {"dataset": found.report["dataset"]} | data.model_dump(exclude_defaults=True)
        sheet = f"/api/v1/datasets/contact-sheet?{urlencode(asked, doseq=True)}"
    told = {"usable": not found.problems, "contact_sheet": sheet}
    return DatasetReport.model_validate({**found.report, **told})


def _look(service: Context, project: str | None, dataset: str, data: DataRequest) -> Found:
    """Raises `InvalidValue` and `StillLooking`."""
    roots = service.settings.roots_of(project)
    return service.inspections.look(dataset, data.options(), data.size(), LOOK_SECONDS, roots=roots)


def _json(told: BaseModel, status: int, headers: dict[str, str]) -> Response:
    return Response(told.model_dump_json(), status, headers, "application/json")
