"""What the resources need of the service, and who may ask."""

import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from nas_core.data.datasets import locate
from nas_core.errors import InvalidValue
from service.access import Access
from service.api.callers import Caller, Callers
from service.api.doors import SAFE
from service.api.limits import Streams
from service.api.problems import ProblemError
from service.api.turns import Checks
from service.dispatch.process import Dispatching
from service.dispatch.runs import Runs
from service.domain.grants import Role
from service.domain.request import InvalidRequest, Look, SearchRequest
from service.domain.scheduling import Capacity
from service.domain.sweep import SweepRequest
from service.inspections import Inspections
from service.settings import Settings
from service.store.cluster import ClusterStore
from service.store.history import History
from service.store.projects import Projects
from service.store.searches import Searches
from service.store.sweeps import Sweeps
from service.webhooks import Webhooks

T = TypeVar("T")
Asked = TypeVar("Asked", SearchRequest, SweepRequest)
LOOK_SECONDS = 2.0
"""How long a request waits for a dataset to be looked at, before it is told to come back."""


@dataclass(frozen=True)
class Context:
    """The parts of a running service."""

    settings: Settings
    searches: Searches
    projects: Projects
    sweeps: Sweeps
    history: History
    """How long searches took."""
    runs: Runs
    cluster: ClusterStore
    """What the dispatchers report of the cluster."""
    dispatching: Dispatching | None
    """The dispatcher of this process, where it has one."""
    callers: Callers
    """Who may ask."""
    access: Access
    """What admins do about it."""
    webhooks: Webhooks
    """Who is told what becomes of searches."""
    checks: Checks
    """Whose turn it is to have a request checked."""
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
            dataset, options, size, patience, age, roots
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


def caller(request: Request) -> Caller:
    """Who asks. Raises `ProblemError` 401 where the token or the session is missing, wrong or expired."""
    found = request.state.caller
    if found is None:
        raise ProblemError(
            401, "Not authorised", "Send a valid token: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
        )
    assert isinstance(found, Caller)
    return found


def authorised(request: Request) -> str | None:
    """The project that the caller is confined to; None for all.

    Raises `ProblemError`: 401 where nobody is known to ask, 403 where they want to change something and may only read.
    """
    asking = caller(request)
    if asking.role == Role.READ and request.method not in SAFE:
        raise ProblemError(403, "Read only", f"{asking.grant.whose} may read, and change nothing.")
    return asking.project


def steered(request: Request, submitted_by: str | None) -> None:
    """Refuse (403) to steer what others have submitted with a token that is only for its own."""
    asking = caller(request)
    if asking.role == Role.SUBMIT and request.method not in SAFE and submitted_by != asking.name:
        own = "they have submitted" if asking.grant.person else "was submitted with it"
        told = f"{asking.grant.whose} may steer what {own}; this was submitted by {submitted_by}."
        raise ProblemError(403, "Not yours to steer", told)


def confined(request: Asked, project: str | None) -> Asked:
    """The request as one of the caller's project. Raises `InvalidValue` where it names another."""
    if project is None:
        return request
    if "project" in request.model_fields_set and request.project != project:
        raise InvalidValue("project", request.project, "not the project of the token", project)
    return request.model_copy(update={"project": project})


def still_open(service: Context, project: str, datasets: Iterable[str]) -> None:
    """Raise `InvalidRequest` for datasets of what was queued before that are gone, or outside the project's roots."""
    problems = []
    for dataset in datasets:
        try:
            locate(dataset, service.settings.roots_of(project), service.settings.any_folder)
        except InvalidValue as problem:
            problems.append(problem)
    if problems:
        raise InvalidRequest(problems)


def at_once(ask: Callable[[Request], T]) -> Callable[[Request], Awaitable[T]]:
    """`ask` as a dependency that needs no thread: to wait for one takes longer than to look something up."""

    async def asked(request: Request) -> T:
        return ask(request)

    return asked


ContextDep = Annotated[Context, Depends(at_once(context))]
CallerDep = Annotated[Caller, Depends(at_once(caller))]
ProjectDep = Annotated[str | None, Depends(at_once(authorised))]
"""The project that the caller is confined to; None for any."""
ReaderDep = Annotated[str | None, Depends(at_once(lambda request: caller(request).project))]
"""The same for a request that changes nothing, although its method is one that might."""
