"""Architectures: the networks that searches returned, with their files."""

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from nas_core.files import FILES
from nas_core.space.picture import Theme, draw
from service import answers
from service.domain.request import Text
from service.folders.storage import Content
from service.use_cases import networks
from service.web.context import ContextDep, ProjectDep
from service.web.described import PROBLEMS, UNKNOWN, operation_id

MEDIA_TYPES = {
    "architecture": "application/json",
    "evaluation": "application/json",
    "mistakes": "image/png",
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


@router.get("/{architecture_id}.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
def picture(architecture_id: Text, service: ContextDep, project: ProjectDep, theme: Theme = "auto") -> Response:
    """The network's blocks as a picture."""
    row = networks.found(service, project, architecture_id)
    return Response(draw(networks.genotype(service, row), theme), media_type="image/svg+xml", headers=PICTURE_POLICY)


@router.get("/{architecture_id}")
def look(architecture_id: Text, service: ContextDep, project: ProjectDep) -> answers.ArchitectureDetail:
    """One network: costs, accuracy overall and by class, and its architecture."""
    return networks.look(service, networks.found(service, project, architecture_id))


@router.get(
    "/{architecture_id}/weights",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def weights(architecture_id: Text, service: ContextDep, project: ProjectDep) -> Response:
    """The trained weights, in the safetensors format."""
    return sent(
        networks.file(service, networks.found(service, project, architecture_id), "weights"),
        "application/octet-stream",
        f"{architecture_id}.safetensors",
    )


@router.get(
    "/{architecture_id}/files/{kind}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in sorted({*MEDIA_TYPES.values(), "application/octet-stream"})}}},
)
def download(architecture_id: Text, kind: str, service: ContextDep, project: ProjectDep) -> Response:
    """One of the network's files. `files` of the network lists them.

    The picture is drawn from the architecture.
    """
    content = networks.file(service, networks.found(service, project, architecture_id), kind)
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
