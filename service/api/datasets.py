"""Datasets: look at one before a search is made on it."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service import answers
from service.domain.request import DATASET, DataRequest, Text
from service.inspections import StillLooking
from service.use_cases import datasets
from service.web.context import ContextDep, ProjectDep, ReaderDep
from service.web.described import PROBLEMS, Responses, operation_id, problem
from service.web.problems import LOOK_AGAIN_SECONDS

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


STILL: Responses = {
    202: {
        "model": answers.Looking,
        "description": "The dataset is still being inspected. Send the same request again after `Retry-After` seconds; "
        "an inspection that nobody asks for in ten seconds is stopped.",
        "headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
    }
}


@router.post("/inspect", response_model=answers.DatasetReport, responses=STILL)
def inspect(request: InspectionRequest, service: ContextDep, project: ReaderDep) -> Response:
    """Inspect a dataset as a search would. Nothing is queued.

    A report that lists problems is an answer of 200. The answer is 422 if there is nothing to inspect.
    """
    try:
        return JSONResponse(datasets.inspect(service, project, request.dataset, request.data))
    except StillLooking as error:
        told = answers.Looking(dataset=error.dataset, **vars(error.progress))
        return JSONResponse(told, 202, {"Retry-After": str(LOOK_AGAIN_SECONDS)})


@router.get(
    "/contact-sheet",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        404: problem("The dataset has no image files that can be read."),
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
    """Images of a dataset as a network would see them, ten of each class, as PNG. A report has its URL."""
    data = DataRequest(
        train=train,
        test=test,
        validation=validation,
        ignore=ignore,
        channels=channels,
        image_size=image_size,
        background=background,
    )
    sheet = datasets.contact_sheet(service, project, dataset, data)
    return Response(sheet, media_type="image/png", headers={"Cache-Control": "private, no-cache"})
