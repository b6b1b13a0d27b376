"""The networks that searches returned, with their files and their tests."""

from contextlib import suppress
from typing import Any

from nas_core.errors import InvalidValue
from nas_core.files import FILES
from nas_core.space import Architecture, Reference
from nas_core.space.picture import draw
from nas_core.train.evaluation import Evaluation
from service import answers
from service.folders import model as folder_model
from service.folders.model import BadFolder, bounded, folder_of, kinds
from service.folders.runs import TornFile
from service.folders.storage import Content, whole
from service.store.models import ArchitectureRow, Search
from service.use_cases.errors import NotFound
from service.use_cases.searches import seen
from service.use_cases.service import Service
from service.use_cases.views import view_architecture, view_evaluation


def found(service: Service, project: str | None, architecture_id: str) -> ArchitectureRow:
    """The network, if the caller's project may see it. Raises `NotFound` and `UnknownSearch`."""
    row = service.searches.architecture(architecture_id)
    if row is None:
        raise NotFound("No such architecture", f"There is no architecture {architecture_id!r}.")
    seen(service, project, row.search_id)
    return row


def look(service: Service, row: ArchitectureRow) -> answers.ArchitectureDetail:
    """What is told of a network, with what it is made of and its test. Raises `NotFound` and `BadFolder`."""
    network = genotype(service, row).to_dict()
    test = tested(service, row.search_id, folder_of(row.result))
    return answers.ArchitectureDetail(
        **view_architecture(row),
        search_id=row.search_id,
        architecture=network,
        evaluation=None if test is None else view_evaluation(test),
    )


def genotype(service: Service, row: ArchitectureRow) -> Architecture | Reference:
    """What a network is. Raises `NotFound` where the storage has lost it or a part of it, and `BadFolder`."""
    known = None
    with suppress(TornFile):
        known = service.runs.genotype(row.search_id, folder_of(row.result))
    if known is None:
        raise NotFound("File lost", f"The architecture of {row.id} is missing in the storage.")
    return known


def tested(service: Service, search_id: str, network: str) -> Evaluation | None:
    """The test of the network in the folder of that name of a search; None where there is no usable file of it."""
    try:
        values = service.runs.read_json(search_id, f"architectures/{network}/{FILES['evaluation']}")
        return None if values is None else Evaluation.from_dict(bounded(FILES["evaluation"], values))
    except (TornFile, InvalidValue, BadFolder):
        return None


def file(service: Service, row: ArchitectureRow, kind: str) -> Content:
    """One of a network's files, as its search left it; the picture is drawn from the architecture, whatever that was.

    Raises `NotFound` where it has no such file, or where the storage has lost it, and `BadFolder`.
    """
    known = kinds(row.result["files"])
    if kind not in known:
        why = row.result.get("not_exported", {}).get(kind)
        told = f"{row.id} has no {kind!r}" + (f" ({why})" if why else "")
        raise NotFound("No such file", f"{told}; it has {', '.join(known)}.")
    try:
        content = service.runs.network_file(row.search_id, folder_of(row.result), kind)
    except FileNotFoundError as error:
        raise NotFound("File lost", f"The {kind} of {row.id} is missing in the storage.") from error
    return whole(draw(genotype(service, row)).encode()) if kind == "picture" else content


def as_early_as_known(service: Service, search: Search, name: str) -> Architecture | Reference:
    """The network in the folder `name` of a search, long before it is retrained, or what finals were told to retrain.

    Raises `NotFound`.
    """
    try:
        known = service.runs.genotype(search.id, name)
        if known is None and search.kind == "finals":
            # One whose widths are still to be fitted is not yet the network that it will be.
            listed = [one for one in finalists(service, search) if one["name"] == name and not one.get("fit")]
            if listed and (told := listed[0].get("architecture")) is not None:
                known = folder_model.genotype("spec.json", told)
        if known is not None:
            return known
    except (BadFolder, TornFile) as error:
        raise NotFound("No such network", f"The network {name} cannot be shown: {error}") from error
    raise NotFound("No such network", f"There is no network {name} yet.")


def finalists(service: Service, search: Search) -> list[dict[str, Any]]:
    """What finals were told to retrain, with its `trial` and its folder's `name`; empty before their launch."""
    try:
        spec = service.runs.read_json(search.id, "spec.json") or {}
        told = folder_model.finalists("spec.json", spec.get("finalists", []))
    except (TornFile, BadFolder, OSError):
        return []
    return [one | {"trial": number, "name": f"{one['budget']}-{number}"} for number, one in enumerate(told)]
