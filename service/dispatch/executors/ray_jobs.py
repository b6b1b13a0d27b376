"""Ray's Jobs REST interface: where runs are executed.

A submission id is the fence against double launches: Ray refuses one that it has seen, so submitting again after a
time-out is safe. Reference: https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from service.domain.request import Capacity


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
    """A job as Ray sees it; `message` is Ray's own word on its state."""

    status: JobStatus
    message: str


@dataclass(frozen=True)
class Endpoint:
    """Where a Ray dashboard listens, and the token it wants, if any."""

    url: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"


class RayUnavailable(RuntimeError):
    """Ray did not answer, or not as it should; what was asked may or may not have happened."""


class RayJobs:
    """The jobs of the Ray cluster at what `endpoint` returns when asked."""

    def __init__(self, endpoint: Callable[[], Endpoint], seconds: float = 10.0) -> None:
        self.endpoint = endpoint
        self.client = httpx.Client(timeout=seconds)

    def submit(self, submission_id: str, entrypoint: str, environment: dict[str, str]) -> None:
        """Launch `entrypoint` as the job `submission_id`, unless Ray already has that job.

        Raises `RayUnavailable`.
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": 0,
            "runtime_env": {"env_vars": environment},
            "metadata": {"service": "yoso"},
        }
        response = self._ask("POST", "/api/jobs/", json=body)
        if response.status_code >= 400 and self.job(submission_id) is None:
            raise RayUnavailable(f"Ray refused the job: {_reason(response)}")

    def job(self, submission_id: str) -> Job | None:
        """The job of that id, or None where Ray knows of none. Raises `RayUnavailable`."""
        response = self._ask("GET", f"/api/jobs/{submission_id}")
        if response.status_code == 404:
            return None
        values = self._json(response)
        try:
            return Job(JobStatus(values["status"]), str(values.get("message") or ""))
        except (KeyError, ValueError) as error:
            raise RayUnavailable(f"Ray answered with an unknown job state: {error}") from error

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; it ends some seconds later. Raises `RayUnavailable`."""
        response = self._ask("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code not in (200, 404):
            raise RayUnavailable(f"Ray did not stop the job: {_reason(response)}")

    def logs(self, submission_id: str) -> str:
        """What a job's driver has printed; empty where Ray knows of no such job. Raises `RayUnavailable`."""
        response = self._ask("GET", f"/api/jobs/{submission_id}/logs")
        return "" if response.status_code == 404 else str(self._json(response).get("logs") or "")

    def delete(self, submission_id: str) -> None:
        """Make Ray forget a job that has ended. Raises `RayUnavailable`."""
        self._ask("DELETE", f"/api/jobs/{submission_id}")

    def capacity(self) -> Capacity:
        """CPUs and GPUs of all nodes that are alive. Raises `RayUnavailable`."""
        values = self._json(self._ask("GET", "/api/v0/nodes", params={"detail": "true", "limit": "10000"}))
        try:
            nodes = [node for node in values["data"]["result"]["result"] if node["state"] == "ALIVE"]
            resources = [node["resources_total"] for node in nodes]
        except (KeyError, TypeError) as error:
            raise RayUnavailable(f"Ray's list of nodes has no {error}") from error
        return Capacity(*(sum(float(one.get(name, 0)) for one in resources) for name in ("CPU", "GPU")))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        endpoint = self.endpoint()
        headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
        try:
            response = self.client.request(method, endpoint.url + path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise RayUnavailable(f"Ray does not answer: {type(error).__name__}") from error
        if response.status_code in (401, 403):
            raise RayUnavailable("Ray wants another token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
        if response.status_code >= 500 and method == "GET":
            raise RayUnavailable(f"Ray failed: {_reason(response)}")
        return response

    @staticmethod
    def _json(response: httpx.Response) -> dict[str, Any]:
        try:
            values = response.json()
        except ValueError as error:
            raise RayUnavailable("Ray's answer is not JSON") from error
        if response.status_code >= 400 or not isinstance(values, dict):
            raise RayUnavailable(f"Ray failed: {_reason(response)}")
        return values


def _reason(response: httpx.Response) -> str:
    lines = response.text.strip().splitlines()
    return f"{response.status_code} {lines[-1][:200] if lines else ''}".strip()
