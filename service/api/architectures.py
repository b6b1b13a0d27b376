"""Architectures: the networks that searches returned, with their files."""

import json
from typing import Any

from fastapi import APIRouter, Response

from nas_core.architecture import Architecture
from nas_core.errors import InvalidValue
from nas_core.evaluation import Evaluation
from nas_core.files import FILES
from nas_core.picture import Theme, draw
from service.api.context import Context, ContextDep, ProjectDep
from service.api.problems import ProblemError
from service.api.searches import PROBLEMS, UNKNOWN, operation_id, seen
from service.api.views import ArchitectureView, EvaluationView, view_architecture, view_evaluation
from service.dispatch.runs import TornFile
from service.domain.request import Text
from service.store.models import ArchitectureRow

MEDIA_TYPES = {
    "architecture": "application/json",
    "evaluation": "application/json",
    "picture": "image/svg+xml",
    "python": "text/x-python",
    "predict": "text/x-python",
    "card": "text/markdown",
}
"""Of the files that are not just bytes."""

router = APIRouter(
    prefix="/api/v1/architectures",
    tags=["architectures"],
    responses=PROBLEMS | UNKNOWN,
    generate_unique_id_function=operation_id,
)


class ArchitectureDetail(ArchitectureView):
    """A network with its genotype, as `Architecture.to_json` writes it, and its test class by class."""

    search_id: str
    architecture: dict[str, Any]
    evaluation: EvaluationView | None
    """None for a network from before tests were kept class by class, or where their file is lost or damaged."""


@router.get("/{architecture_id}.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
def picture(architecture_id: Text, service: ContextDep, project: ProjectDep, theme: Theme = "auto") -> Response:
    """The network's blocks as a picture."""
    genotype = Architecture.from_dict(json.loads(file(service, project, architecture_id, "architecture")))
    return Response(draw(genotype, theme), media_type="image/svg+xml")


@router.get("/{architecture_id}")
def look(architecture_id: Text, service: ContextDep, project: ProjectDep) -> ArchitectureDetail:
    """One network: costs, accuracy in all and by class, and which of its edges live."""
    row = found(service, project, architecture_id)
    genotype = json.loads(file(service, project, architecture_id, "architecture"))
    test = tested(service, row.search_id, row.result["path"])
    return ArchitectureDetail(
        **view_architecture(row).model_dump(),
        search_id=row.search_id,
        architecture=genotype,
        evaluation=None if test is None else view_evaluation(test),
    )


@router.get(
    "/{architecture_id}/weights",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def weights(architecture_id: Text, service: ContextDep, project: ProjectDep) -> Response:
    """The trained weights, in the safetensors format."""
    return Response(
        file(service, project, architecture_id, "weights"),
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{architecture_id}.safetensors"'},
    )


@router.get(
    "/{architecture_id}/files/{kind}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in sorted({*MEDIA_TYPES.values(), "application/octet-stream"})}}},
)
def download(architecture_id: Text, kind: str, service: ContextDep, project: ProjectDep) -> Response:
    """One of the network's files, as its search left it; `files` of the network says which there are."""
    content = file(service, project, architecture_id, kind)
    return Response(
        content,
        media_type=MEDIA_TYPES.get(kind, "application/octet-stream"),
        headers={"Content-Disposition": f'attachment; filename="{architecture_id}-{FILES[kind]}"'},
    )


def found(service: Context, project: str | None, architecture_id: str) -> ArchitectureRow:
    """The network, if the caller's project may see it. Raises `ProblemError` 404."""
    row = service.searches.architecture(architecture_id)
    if row is None:
        raise ProblemError(404, "No such architecture", f"There is no architecture {architecture_id!r}.")
    seen(service, project, row.search_id)
    return row


def tested(service: Context, search_id: str, path: str) -> Evaluation | None:
    """The test of the network in the folder `path` of a search; None where there is no usable file of it."""
    try:
        values = service.runs.read_json(search_id, f"{path}/{FILES['evaluation']}")
        return None if values is None else Evaluation.from_dict(values)
    except (TornFile, InvalidValue):
        return None


def file(service: Context, project: str | None, architecture_id: str, kind: str) -> bytes:
    """The content of one of a network's files.

    Raises `ProblemError` 404 where it has no such file, or where the storage has lost it.
    """
    row = found(service, project, architecture_id)
    if kind not in row.result["files"]:
        why = row.result.get("not_exported", {}).get(kind)
        told = f"{architecture_id} has no {kind!r}" + (f" ({why})" if why else "")
        raise ProblemError(404, "No such file", f"{told}; it has {', '.join(row.result['files'])}.")
    try:
        return service.runs.read(row.search_id, f"{row.result['path']}/{row.result['files'][kind]}")
    except FileNotFoundError as error:
        raise ProblemError(404, "File lost", f"The {kind} of {architecture_id} is gone from the storage.") from error
