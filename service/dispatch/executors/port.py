"""The interface between the dispatcher and the executors of jobs, and the types that it uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from service.domain.scheduling import Ask, RayUnavailable


class JobStatus(StrEnum):
    """What Ray says of a job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)


@dataclass(frozen=True)
class Job:
    """A job as Ray sees it; `message` is Ray's own word on its state.

    `driver_job_id` is the number under which the cluster knows the job's driver, from when that has connected.
    """

    status: JobStatus
    message: str
    driver_job_id: str | None = None


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as it joined: `cpus`, `gpus` and `memory` (bytes) are what it has, taken or free.

    `accelerator_types` are the names behind its resources `accelerator_type:…`, which Ray or its operator gives it.
    """

    id: str
    name: str
    ip: str
    head: bool
    alive: bool
    cpus: float
    gpus: float
    memory: float
    labels: Mapping[str, str]
    accelerator_types: tuple[str, ...] = ()


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
