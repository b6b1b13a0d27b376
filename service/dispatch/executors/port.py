"""What a dispatcher asks of that on which runs are executed."""

from typing import Protocol

from service.dispatch.executors.ray_jobs import Job, Node, RayUnavailable
from service.domain.scheduling import Ask


class Refused(RayUnavailable):
    """It answered, and will not do what was asked until somebody changes something; the message says what."""


class Executor(Protocol):
    """Jobs, each under a submission id that is the fence against double launches.

    Whatever goes wrong, every method raises `RayUnavailable` and nothing else. Several threads may use one.
    """

    makes_clusters: bool
    """Whether every job gets a cluster of its own: then what may be added to them is all that there is."""

    def submit(self, submission_id: str, entrypoint: str, environment: dict[str, str], ask: Ask) -> None:
        """Launch `entrypoint` as the job `submission_id`, unless that job is there, for what its search needs."""

    def job(self, submission_id: str) -> Job | None:
        """The job of that id, or None where there is none."""

    def remains(self, submission_id: str) -> list[str]:
        """What is still alive of a job that has ended, in words; empty once its resources are free."""

    def stop(self, submission_id: str) -> None:
        """Have a job ended, with what it has left; nothing happens to one that is unknown."""

    def running(self) -> list[str]:
        """The submission ids of all jobs that hold anything."""

    def logs(self, submission_id: str) -> str:
        """What a job's driver has printed; empty where nothing is known of it."""

    def delete(self, submission_id: str) -> None:
        """Forget a job that has ended; one that has not is an error."""

    def nodes(self) -> list[Node]:
        """The nodes that are there, dead ones as well."""

    def close(self) -> None:
        """Close the connections."""
