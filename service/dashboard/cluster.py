"""The cluster: what it has, who holds it, who waits and why, and what each project may have."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.dashboard.frame import ViewerDep, page
from service.domain.grants import Role
from service.use_cases import cluster
from service.web.context import CallerDep, Context, ContextDep

MOST_WAITING = 100
"""How many of the queue are shown."""

router = APIRouter(include_in_schema=False)


@router.get("/cluster")
def cluster_page(request: Request, service: ContextDep, project: ViewerDep, caller: CallerDep) -> Response:
    """The cluster, with the way to tokens and webhooks for those who may make some."""
    admin = caller.role == Role.ADMIN
    manages = admin and caller.key is not None
    return page("cluster.html", request, admin=admin, manages=manages, **shown(service, project))


@router.get("/fragments/cluster")
def cluster_fragment(request: Request, service: ContextDep, project: ViewerDep) -> Response:
    """The cluster as it is now."""
    return page("cluster_parts.html", request, **shown(service, project))


def shown(service: Context, project: str | None) -> dict[str, Any]:
    """What the page shows: what the API says."""
    newest = service.searches.newest_seq(project=project)
    return {"cluster": cluster.look(service, project, MOST_WAITING), "newest": newest}
