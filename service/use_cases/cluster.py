"""The cluster: what it has, who holds it, and who waits for it."""

from service import answers
from service.domain.scheduling import Capacity
from service.store.models import Search
from service.use_cases.projects import views
from service.use_cases.service import Service

MOST_WAITING = 1000
"""How far into the queue of all projects is looked for those of one."""


def look(service: Service, project: str | None, limit: int) -> answers.Cluster:
    """Capacity, what is held by whom, and the first `limit` of the queue with the reasons why they wait; for a caller
    of `project` what is its own."""
    state = service.cluster.read()
    capacity = state.capacity if state is not None else Capacity()
    known = capacity if state is not None and state.nodes else Capacity(0, 0, ())
    queue = service.projects.queue(known, limit if project is None else MOST_WAITING)
    standings = [view for view in views(service.projects.standings()) if project in (None, view["name"])]
    holders, waiting = (
        [search for search in some if project in (None, search.project)] for some in (queue.holders, queue.next)
    )

    def why(search: Search) -> str:
        if state is None:
            return "no dispatcher has reported the cluster's resources"
        if state.error is not None:
            return f"Ray does not answer: {state.error}"
        return queue.reason(search)

    return answers.Cluster(
        cpus=known.cpus,
        gpus=known.gpus,
        held_cpus=sum(search.cpus for search in queue.holders),
        held_gpus=sum(search.gpus for search in queue.holders),
        nodes=[
            answers.Node(
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
            answers.Holder(
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
        queued=sum(view["queued"] for view in standings),
        queue=[
            answers.Waiting(
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
