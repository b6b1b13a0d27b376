"""Architectures: the networks that searches returned, with their files."""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from nas_core.errors import InvalidValue
from nas_core.files import FILES
from nas_core.space import Architecture, Reference
from nas_core.space.picture import Theme, draw
from nas_core.train.evaluation import Evaluation
from service.api.context import Context, ContextDep, ProjectDep
from service.api.problems import ProblemError
from service.api.searches import PROBLEMS, UNKNOWN, operation_id, seen
from service.api.views import ArchitectureView, EvaluationView, view_architecture, view_evaluation
from service.dispatch.folder_model import BadFolder, bounded, folder_of, kinds
from service.dispatch.runs import TornFile
from service.dispatch.storage import Content, whole
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
PICTURE_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""For what may be opened by itself: it loads nothing and runs nothing."""

router = APIRouter(
    prefix="/api/v1/architectures",
    tags=["architectures"],
    responses=PROBLEMS | UNKNOWN,
    generate_unique_id_function=operation_id,
)


class ArchitectureDetail(ArchitectureView):
    """A network with its genotype, as its `architecture.json` has it, and its test class by class."""

    search_id: str
    architecture: dict[str, Any]
    evaluation: EvaluationView | None
    """None for a network from before tests were kept class by class, or where their file is lost or damaged."""


@router.get("/{architecture_id}.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
def picture(architecture_id: Text, service: ContextDep, project: ProjectDep, theme: Theme = "auto") -> Response:
    """The network's blocks as a picture."""
    row = found(service, project, architecture_id)
    return Response(draw(genotype(service, row), theme), media_type="image/svg+xml", headers=PICTURE_POLICY)


@router.get("/{architecture_id}")
def look(architecture_id: Text, service: ContextDep, project: ProjectDep) -> ArchitectureDetail:
    """One network: costs, accuracy in all and by class, and what it is made of."""
    row = found(service, project, architecture_id)
    network = genotype(service, row).to_dict()
    test = tested(service, row.search_id, folder_of(row.result))
    return ArchitectureDetail(
        **view_architecture(row).model_dump(),
        search_id=row.search_id,
        architecture=network,
        evaluation=None if test is None else view_evaluation(test),
    )


@router.get(
    "/{architecture_id}/weights",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def weights(architecture_id: Text, service: ContextDep, project: ProjectDep) -> Response:
    """The trained weights, in the safetensors format."""
    return sent(
        file(service, found(service, project, architecture_id), "weights"),
        "application/octet-stream",
        f"{architecture_id}.safetensors",
    )


@router.get(
    "/{architecture_id}/files/{kind}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in sorted({*MEDIA_TYPES.values(), "application/octet-stream"})}}},
)
def download(architecture_id: Text, kind: str, service: ContextDep, project: ProjectDep) -> Response:
    """One of the network's files, as its search left it; `files` of the network says which there are.

    The picture is drawn from the architecture, whatever the search has left.
    """
    row = found(service, project, architecture_id)
    content = file(service, row, kind)
    if kind == "picture":
        content = whole(draw(genotype(service, row)).encode())
    media_type = MEDIA_TYPES.get(kind, "application/octet-stream")
    return sent(content, media_type, f"{architecture_id}-{FILES[kind]}")


def sent(content: Content, media_type: str, name: str) -> Response:
    """A file as something to keep and not to look at: a worker may have written anything into it."""
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(content.size),
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(content.blocks, media_type=media_type, headers=headers | PICTURE_POLICY)


def found(service: Context, project: str | None, architecture_id: str) -> ArchitectureRow:
    """The network, if the caller's project may see it. Raises `ProblemError` 404."""
    row = service.searches.architecture(architecture_id)
    if row is None:
        raise ProblemError(404, "No such architecture", f"There is no architecture {architecture_id!r}.")
    seen(service, project, row.search_id)
    return row


def genotype(service: Context, row: ArchitectureRow) -> Architecture | Reference:
    """What a network is. Raises `ProblemError` 404 where the storage has lost it or a part of it."""
    known = None
    with suppress(TornFile):
        known = service.runs.genotype(row.search_id, folder_of(row.result))
    if known is None:
        raise ProblemError(404, "File lost", f"The architecture of {row.id} is gone from the storage.")
    return known


def tested(service: Context, search_id: str, network: str) -> Evaluation | None:
    """The test of the network in the folder of that name of a search; None where there is no usable file of it."""
    try:
        values = service.runs.read_json(search_id, f"architectures/{network}/{FILES['evaluation']}")
        return None if values is None else Evaluation.from_dict(bounded(FILES["evaluation"], values))
    except (TornFile, InvalidValue, BadFolder):
        return None


def file(service: Context, row: ArchitectureRow, kind: str) -> Content:
    """One of a network's files.

    Raises `ProblemError` 404 where it has no such file, or where the storage has lost it.
    """
    known = kinds(row.result["files"])
    if kind not in known:
        why = row.result.get("not_exported", {}).get(kind)
        told = f"{row.id} has no {kind!r}" + (f" ({why})" if why else "")
        raise ProblemError(404, "No such file", f"{told}; it has {', '.join(known)}.")
    try:
        return service.runs.network_file(row.search_id, folder_of(row.result), kind)
    except FileNotFoundError as error:
        raise ProblemError(404, "File lost", f"The {kind} of {row.id} is gone from the storage.") from error
