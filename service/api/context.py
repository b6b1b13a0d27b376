"""What the resources need of the service, and who may ask."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from nas_core.errors import InvalidValue
from service.api.limits import Streams
from service.api.problems import ProblemError
from service.api.tokens import project_of, token_of
from service.dispatch.process import Dispatching
from service.dispatch.runs import Runs
from service.domain.request import Look, SearchRequest
from service.domain.scheduling import Capacity
from service.domain.sweep import SweepRequest
from service.inspections import Inspections
from service.settings import Settings
from service.store.cluster import ClusterStore
from service.store.projects import Projects
from service.store.searches import Searches
from service.store.sweeps import Sweeps

T = TypeVar("T")
Asked = TypeVar("Asked", SearchRequest, SweepRequest)
LOOK_SECONDS = 2.0
"""How long a request waits for a dataset to be looked at, before it is told to come back."""
OPERATOR = "*"
"""What stands for a project in YOSO_TOKENS where a token opens all of them."""


@dataclass(frozen=True)
class Context:
    """The parts of a running service."""

    settings: Settings
    searches: Searches
    projects: Projects
    sweeps: Sweeps
    runs: Runs
    cluster: ClusterStore
    """What the dispatchers report of the cluster."""
    dispatching: Dispatching | None
    """The dispatcher of this process, where it has one."""
    streams: Streams
    """The streams of events that are open."""
    inspections: Inspections
    """What is known of datasets."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the service is about to stop: open streams end then."""

    def capacity(self) -> Capacity | None:
        """What the cluster has, or None while that is not known: a head without CPUs comes up before the workers."""
        state = self.cluster.read()
        return state.capacity if state is not None and state.capacity.cpus > 0 else None

    def look(self, patience: float = LOOK_SECONDS, age: float = 0.0) -> Look:
        """What looks at datasets for `check`, which waits for `patience` seconds and then raises `StillLooking`.

        What was found may be `age` seconds old.
        """
        return lambda dataset, roots, anywhere, options, size: self.inspections.look(
            dataset, options, size, patience, age
        )

    def ray_error(self) -> str | None:
        """Why nothing is launched at present, or None."""
        state = self.cluster.read()
        return state.error if state is not None else None

    def wake(self) -> None:
        """Let the dispatcher of this process look at once; others look by themselves."""
        if self.dispatching is not None:
            self.dispatching.dispatcher.wake.set()


def context(request: Request) -> Context:
    """The service that answers `request`."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


def authorised(request: Request) -> str | None:
    """The project that the request's token opens; None, for all, where it is an operator's or none is asked for.

    Raises `ProblemError` 401 where the token is missing or wrong.
    """
    settings = context(request).settings
    if not settings.tokens:
        return None
    project = project_of(settings, token_of(request))
    if project is None:
        raise ProblemError(
            401, "Not authorised", "Send a valid token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
        )
    return None if project == OPERATOR else project


def confined(request: Asked, project: str | None) -> Asked:
    """The request as one of the caller's project. Raises `InvalidValue` where it names another."""
    if project is None:
        return request
    if "project" in request.model_fields_set and request.project != project:
        raise InvalidValue("project", request.project, "not the project of the token", project)
    return request.model_copy(update={"project": project})


def at_once(ask: Callable[[Request], T]) -> Callable[[Request], Awaitable[T]]:
    """`ask` as a dependency that needs no thread: to wait for one takes longer than to look something up."""

    async def asked(request: Request) -> T:
        return ask(request)

    return asked


ContextDep = Annotated[Context, Depends(at_once(context))]
ProjectDep = Annotated[str | None, Depends(at_once(authorised))]
"""The project that the caller is confined to; None for any."""
