"""One network of a search: its picture, and what each block and operation of it costs."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from nas_core import cost
from nas_core.architecture import Architecture
from nas_core.errors import InvalidValue
from nas_core.picture import draw
from service.api.context import Context, ContextDep
from service.api.problems import ProblemError
from service.api.searches import seen
from service.dashboard.frame import PICTURE_HEADERS, ViewerDep, missing, page
from service.dispatch.runs import TornFile
from service.domain.request import Text
from service.store.changes import UnknownSearch
from service.store.models import Search

Name = Annotated[str, Path(pattern=r"^[0-9]{1,19}(-[0-9]{1,9})?$")]
"""What a network's folder is called: its budget and, in finals, the number of its trial."""

router = APIRouter(include_in_schema=False)


@router.get("/searches/{search_id}/networks/{name}.svg")
def network_picture(service: ContextDep, project: ViewerDep, search_id: Text, name: Name) -> Response:
    """The picture of a network as soon as it is found, long before it is retrained."""
    return picture(genotype(service, seen(service, project, search_id), name))


@router.get("/searches/{search_id}/networks/{name}")
def network_page(request: Request, service: ContextDep, project: ViewerDep, search_id: Text, name: Name) -> Response:
    """One network, piece by piece."""
    try:
        search = seen(service, project, search_id)
        architecture = genotype(service, search, name)
    except (UnknownSearch, ProblemError):
        return missing(request, "network", f"{search_id}/{name}")
    parts = [
        (title, sum((one for _, one in inside), cost.Cost()), inside) for title, inside in cost.pieces(architecture)
    ]
    return page(
        "network.html", request, search=search, name=name, budget=int(name.partition("-")[0]),
        architecture=architecture, parts=parts,
    )  # fmt: skip


def genotype(service: Context, search: Search, name: str) -> Architecture:
    """The network in the folder `name`, or what finals were told to retrain. Raises `ProblemError` 404."""
    try:
        values = service.runs.read_json(search.id, f"architectures/{name}/architecture.json")
        if values is None and search.kind == "finals":
            # One whose widths are still to be fitted is not yet the network that it will be.
            listed = [one for one in finalists(service, search) if one["name"] == name and not one.get("fit")]
            values = listed[0].get("architecture") if listed else None
        if values is not None:
            return Architecture.from_dict(values)
    except (TornFile, InvalidValue):
        pass
    raise ProblemError(404, "No such network", f"There is no network {name} yet.")


def finalists(service: Context, search: Search) -> list[dict[str, Any]]:
    """What finals were told to retrain, with its `trial` and its folder's `name`; empty before their launch."""
    try:
        told = (service.runs.read_json(search.id, "spec.json") or {}).get("finalists", [])
    except (TornFile, OSError):
        return []
    return [one | {"trial": number, "name": f"{one['budget']}-{number}"} for number, one in enumerate(told)]


def picture(architecture: Architecture, headers: dict[str, str] = PICTURE_HEADERS) -> Response:
    """An architecture drawn."""
    return Response(draw(architecture), media_type="image/svg+xml", headers=headers)
