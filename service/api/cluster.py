"""The cluster: what it has, who holds it, and who waits for it."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from service.api.context import ContextDep, ProjectDep
from service.api.projects import ProjectView, views
from service.api.searches import PROBLEMS
from service.domain.scheduling import Capacity
from service.store.models import Search

MOST_WAITING = 1000
"""How far into the queue of all projects is looked for those of one."""
router = APIRouter(prefix="/api/v1/cluster", tags=["cluster"], responses=PROBLEMS)


class NodeView(BaseModel):
    """A machine of the cluster that is alive, or may be added to it, and what it has."""

    name: str
    cpus: float
    gpus: float
    accelerator_types: list[str]
    """As Ray names them, such as A100."""
    possible: bool
    """Whether it is not there yet: its autoscaled group, whose name it bears, may grow by it."""


class Holder(BaseModel):
    """A search that holds a part of the cluster."""

    id: str
    project: str
    status: str
    reason: str | None
    workers: int
    """As many as it was granted."""
    cpus: int
    gpus: int
    accelerator_type: str | None
    dispatcher: str | None


class Waiting(BaseModel):
    """A queued search: its place if everything came free now, and why it waits."""

    place: int
    """Among those that are shown."""
    id: str
    project: str
    workers: int
    """The most that it wants."""
    min_workers: int
    """The fewest that will do."""
    cpus: int
    """Of the most workers, like `gpus`."""
    gpus: int
    accelerator_type: str | None
    reason: str


class ClusterView(BaseModel):
    """The cluster as a dispatcher last saw it, `age` seconds ago; `error` says why Ray could not be asked.

    With a project's token all but what is held in all is of that project alone.
    """

    cpus: float
    gpus: float
    held_cpus: int
    held_gpus: int
    nodes: list[NodeView]
    age: float | None
    error: str | None
    holders: list[Holder]
    queued: int
    queue: list[Waiting]
    projects: list[ProjectView]


@router.get("")
def look(service: ContextDep, project: ProjectDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> ClusterView:
    """Capacity, what is held by whom, and the first `limit` of the queue with the reasons why they wait."""
    state = service.cluster.read()
    capacity = state.capacity if state is not None else Capacity()
    known = capacity if state is not None and state.nodes else Capacity(0, 0, ())
    queue = service.projects.queue(known, limit if project is None else MOST_WAITING)
    standings = [view for view in views(service.projects.standings()) if project in (None, view.name)]
    holders, waiting = (
        [search for search in some if project in (None, search.project)] for some in (queue.holders, queue.next)
    )

    def why(search: Search) -> str:
        if state is None:
            return "no dispatcher has reported what the cluster has"
        if state.error is not None:
            return f"Ray cannot be asked: {state.error}"
        return queue.reason(search)

    return ClusterView(
        cpus=known.cpus,
        gpus=known.gpus,
        held_cpus=sum(search.cpus for search in queue.holders),
        held_gpus=sum(search.gpus for search in queue.holders),
        nodes=[
            NodeView(
                name=node.name,
                cpus=node.cpus,
                gpus=node.gpus,
                accelerator_types=list(node.accelerator_types),
                possible=node.possible,
            )
            for node in known.nodes or ()
        ],
        age=state.age if state is not None else None,
        error=state.error if state is not None else None,
        holders=[
            Holder(
                id=search.id,
                project=search.project,
                status=search.status,
                reason=search.reason,
                workers=search.workers,
                cpus=search.cpus,
                gpus=search.gpus,
                accelerator_type=search.accelerator_type,
                dispatcher=search.lease_owner,
            )
            for search in holders
        ],
        queued=sum(view.queued for view in standings),
        queue=[
            Waiting(
                place=place,
                id=search.id,
                project=search.project,
                workers=search.workers,
                min_workers=search.min_workers,
                cpus=search.cpus,
                gpus=search.gpus,
                accelerator_type=search.accelerator_type,
                reason=why(search),
            )
            for place, search in enumerate(waiting[:limit], 1)
        ],
        projects=standings,
    )
