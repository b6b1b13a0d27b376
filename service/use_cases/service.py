"""The parts of a service that use cases work with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nas_core.data.datasets import locate
from nas_core.errors import InvalidValue
from service.access import Access
from service.callers import Callers
from service.domain.request import InvalidRequest, Look, SearchRequest
from service.domain.scheduling import Capacity
from service.domain.sweep import SweepRequest
from service.folders.runs import Runs
from service.inspections import Inspections
from service.settings import Settings
from service.store.cluster import ClusterStore
from service.store.history import History
from service.store.models import Search
from service.store.projects import Projects
from service.store.searches import Searches
from service.store.sweeps import Sweeps
from service.webhooks import Webhooks

Asked = TypeVar("Asked", SearchRequest, SweepRequest)
LOOK_SECONDS = 2.0
"""How long a request waits for a dataset to be looked at, before it is told to come back."""


class Launches(Protocol):
    """What use cases need of the dispatcher of this process."""

    def wake(self) -> None:
        """Look at once whether there is something to launch."""

    def printed(self, search: Search) -> bytes:
        """What the driver of the newest attempt has printed so far. Raises `RayUnavailable`."""

    @property
    def stuck(self) -> bool:
        """Whether it takes no turns any more."""


@dataclass(frozen=True)
class Service:
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
    launches: Launches | None
    """The dispatcher of this process, where it has one."""
    callers: Callers
    """Who may ask."""
    access: Access
    """What admins do about it."""
    webhooks: Webhooks
    """Who is told what becomes of searches."""
    inspections: Inspections
    """What is known of datasets."""

    def capacity(self) -> Capacity | None:
        """What the cluster has, or None while that is not known: a head without CPUs comes up before the workers."""
        state = self.cluster.read()
        return state.capacity if state is not None and state.nodes and state.capacity.cpus > 0 else None

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
        if self.launches is not None:
            self.launches.wake()

    def confined(self, request: Asked, project: str | None) -> Asked:
        """The request as one of the caller's project. Raises `InvalidValue` where it names another."""
        if project is None:
            return request
        if "project" in request.model_fields_set and request.project != project:
            raise InvalidValue("project", request.project, "not the project of the token", project)
        return request.model_copy(update={"project": project})

    def still_open(self, project: str, datasets: Iterable[str]) -> None:
        """Raise `InvalidRequest` for datasets of what was queued before that are gone, or outside the project's
        roots."""
        problems = []
        for dataset in datasets:
            try:
                locate(dataset, self.settings.roots_of(project), self.settings.any_folder)
            except InvalidValue as problem:
                problems.append(problem)
        if problems:
            raise InvalidRequest(problems)
