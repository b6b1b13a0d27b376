"""Ray's Jobs REST interface: where runs are executed.

A submission id is the fence against double launches: Ray refuses one that it knows, so submitting again after a
time-out is safe. It forgets the id of a job that is deleted, which could then be launched again.

Whatever goes wrong between here and Ray, every method raises `RayUnavailable` and nothing else. Several threads may
use one `RayJobs`. References: https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html and,
for what `nodes` and `remains` ask, `ray/util/state/common.py` of Ray 2.60.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from nas_core.errors import InvalidValue
from service import proxies
from service.dispatch.executors.port import Job, JobStatus, Node
from service.domain.scheduling import Ask, RayUnavailable
from service.folders.model import MOST_LOG

TYPE = "accelerator_type:"
"""What the names of Ray's resources begin with that tell a node's type of accelerator."""

LIMIT = "10000"
"""How many rows to ask for: as many as Ray gives at most."""


@dataclass(frozen=True)
class Endpoint:
    """Where a Ray dashboard listens, and the token it wants, if any."""

    url: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"


class RayJobs:
    """The jobs of the Ray cluster at what `endpoint` returns when asked.

    A request may take `seconds`; `transport` carries the requests in the place of the network.
    """

    makes_clusters = False

    def __init__(
        self, endpoint: Callable[[], Endpoint], seconds: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.endpoint = endpoint
        self.options: dict[str, Any] = {"timeout": seconds, "transport": transport}
        # To this machine without a proxy, to others by way of the environment's.
        self.clients: dict[bool, httpx.Client] = {}

    def submit(self, submission_id: str, entrypoint: str, environment: dict[str, str], ask: Ask | None = None) -> None:
        """Launch `entrypoint` as the job `submission_id`, unless Ray already has that job.

        Ray finds room for what the driver asks for by itself, and need not be told of the `ask`. Raises
        `RayUnavailable`: then the job may have been launched, or not.
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "entrypoint_num_cpus": 0,
            "runtime_env": {"env_vars": environment},
            "metadata": {"service": "yoso"},
        }
        response = self._ask("POST", "/api/jobs/", json=body)
        # Whatever Ray said, or something that answers in its place: what counts is whether the job is there.
        if response.status_code != 200 and self.job(submission_id) is None:
            raise RayUnavailable(f"Ray refused the job: {_reason(response)}")
        if response.status_code == 200 and _object(response).get("submission_id") != submission_id:
            raise RayUnavailable("Ray answered a submission without naming the job")

    def job(self, submission_id: str) -> Job | None:
        """The job of that id, or None where Ray knows of none. Raises `RayUnavailable`."""
        response = self._ask("GET", f"/api/jobs/{submission_id}")
        if response.status_code == 404:
            return None
        values = _object(response)
        try:
            status = JobStatus(values["status"])
        except (KeyError, ValueError, TypeError) as error:
            raise RayUnavailable(f"Ray answered with an unknown job state: {error}") from error
        driver = values.get("job_id")
        return Job(status, str(values.get("message") or ""), str(driver) if driver else None)

    def remains(self, submission_id: str) -> list[str]:
        """What is still alive in the cluster of a job that has ended, in words; empty once its resources are free.

        These are the job's supervisor, which looks after the driver's process, and whatever the driver started: its
        actors, detached ones as well, and its placement groups. A job whose driver never connected has none of these,
        and of a job that Ray knows no more nothing can be found. Not counted are detached actors with a name and
        without CPUs and GPUs: such are Ray's own for the whole cluster (as Ray Train's AutoscalingCoordinator), made by
        whichever job came first and found by name by every later one. Raises `RayUnavailable`.
        """
        job = self.job(submission_id)
        if job is None or job.driver_job_id is None:
            return []
        # Of two filters that are equalities Ray applies both before it cuts a list short; of "!=" it does not.
        supervisor = {"name": f"_ray_internal_job_actor_{submission_id}", "state": "ALIVE"}
        supervisors = self._listed("actors", equal=supervisor)
        actors = self._listed("actors", equal={"job_id": job.driver_job_id}, other_than={"state": "DEAD"})
        groups = self._listed(
            "placement_groups", equal={"creator_job_id": job.driver_job_id}, other_than={"state": "REMOVED"}
        )
        return [
            *(f"the job's supervisor, {row.get('state')}" for row in supervisors),
            *(
                f"actor {row.get('name') or row.get('class_name')}, {row.get('state')}"
                for row in actors
                if not _is_shared(row)
            ),
            *(f"placement group {row.get('placement_group_id')}, {row.get('state')}" for row in groups),
        ]

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; it ends some seconds later. A job that has ended, or is unknown, stays as it is.

        Raises `RayUnavailable`.
        """
        response = self._ask("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            _object(response)

    def running(self) -> list[str]:
        """The submission ids of all jobs that have not ended. Raises `RayUnavailable`."""
        jobs = _json(self._ask("GET", "/api/jobs/"))
        if not isinstance(jobs, list):
            raise RayUnavailable("Ray's list of jobs is not a list")
        try:
            return [
                str(job["submission_id"]) for job in jobs if job["submission_id"] and not JobStatus(job["status"]).ended
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise RayUnavailable(f"Ray's list of jobs cannot be read: {type(error).__name__}") from error

    def logs(self, submission_id: str) -> str:
        """What a job's driver has printed; empty where Ray knows of no such job. Raises `RayUnavailable`.

        Of an answer of more than `MOST_LOG` bytes the beginning is given, with a line that says so.
        """
        content, status = bytearray(), 0
        with self._stream("GET", f"/api/jobs/{submission_id}/logs") as response:
            status = response.status_code
            for block in response.iter_bytes():
                content += block
                if len(content) > MOST_LOG:
                    break
        if status == 404:
            return ""
        if status != 200 or len(content) <= MOST_LOG:
            whole = httpx.Response(status, content=bytes(content))
            return str(_object(whole).get("logs") or "")
        text = bytes(content[:MOST_LOG]).partition(b'"logs"')[2].partition(b'"')[2]
        lines = text.rpartition(b"\\n")[0]  # no line break stands within another escape but a backslash's
        with suppress(ValueError):
            return str(json.loads(b'"' + lines + b'"')) + f"\n… the rest was left out: more than {MOST_LOG >> 20} MiB"
        raise RayUnavailable("Ray's answer is not JSON")

    def delete(self, submission_id: str) -> None:
        """Make Ray forget a job that has ended. Raises `RayUnavailable`, also where the job has not ended."""
        response = self._ask("DELETE", f"/api/jobs/{submission_id}")
        if response.status_code != 404:
            _object(response)

    def nodes(self) -> list[Node]:
        """The cluster's nodes, dead ones as well; none while Ray has only just started. Raises `RayUnavailable`."""
        return [_node(row) for row in self._listed("nodes")]

    def close(self) -> None:
        """Close the connections."""
        for client in self.clients.values():
            client.close()

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._stream(method, path, **options) as response:
            response.read()
        return response

    def _client(self, url: str) -> httpx.Client:
        near = proxies.on_this_machine(url)
        if near not in self.clients:
            self.clients[near] = proxies.client(httpx.Client, url, **self.options)
        return self.clients[near]

    @contextmanager
    def _stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer that is still to be read."""
        endpoint = self.endpoint()
        headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
        try:
            client = self._client(endpoint.url)
            with client.stream(method, endpoint.url + path, headers=headers, **options) as response:
                if response.status_code in (401, 403):
                    raise RayUnavailable("Ray wants another token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
                yield response
        except InvalidValue as error:
            raise RayUnavailable(f"Ray does not answer: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise RayUnavailable(f"Ray does not answer: {type(error).__name__}") from error

    def _listed(
        self, what: str, equal: Mapping[str, str] | None = None, other_than: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The rows of one of the lists that Ray keeps of its cluster."""
        filters = [(key, "=", value) for key, value in (equal or {}).items()]
        filters += [(key, "!=", value) for key, value in (other_than or {}).items()]
        query = [("detail", "true"), ("limit", LIMIT)]
        for filtered in filters:
            query += zip(("filter_keys", "filter_predicates", "filter_values"), filtered, strict=True)
        values = _object(self._ask("GET", f"/api/v0/{what}", params=query))
        try:
            rows = values["data"]["result"]["result"]
        except (KeyError, TypeError) as error:
            raise RayUnavailable(f"Ray's list of {what} has no {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RayUnavailable(f"Ray's list of {what} is none")
        return rows


def _is_shared(actor: dict[str, Any]) -> bool:
    """Whether an actor serves the whole cluster and takes nothing of it."""
    needs = actor.get("required_resources")
    takes_nothing = not isinstance(needs, dict) or not (needs.get("CPU") or needs.get("GPU"))
    return actor.get("is_detached") is True and bool(actor.get("name")) and takes_nothing


def _node(row: dict[str, Any]) -> Node:
    resources, labels = row.get("resources_total") or {}, row.get("labels") or {}
    if not isinstance(row.get("state"), str) or not isinstance(resources, dict) or not isinstance(labels, dict):
        raise RayUnavailable("Ray's list of nodes has a node without state or resources")
    cpus, gpus, memory = (_number(resources.get(name, 0)) for name in ("CPU", "GPU", "memory"))
    name, ip = str(row.get("node_name") or ""), str(row.get("node_ip") or "")
    told = {str(key): str(value) for key, value in labels.items()}
    head, alive = row.get("is_head_node") is True, row["state"] == "ALIVE"
    types = tuple(sorted(key.removeprefix(TYPE) for key in map(str, resources) if key.startswith(TYPE)))
    return Node(str(row.get("node_id") or ""), name or ip, ip, head, alive, cpus, gpus, memory, told, types)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise RayUnavailable("Ray's list of nodes has a resource that is not a number")
    return number


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer that went well."""
    values = _json(response)
    if not isinstance(values, dict):
        raise RayUnavailable("Ray's answer is not a JSON object")
    return values


def _json(response: httpx.Response) -> Any:
    """The content of an answer that went well."""
    if response.status_code != 200:
        raise RayUnavailable(f"Ray failed: {_reason(response)}")
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise RayUnavailable("Ray's answer is not JSON") from error


def _reason(response: httpx.Response) -> str:
    lines = [line for line in response.text.strip().splitlines() if line.strip(" .^")]
    return f"{response.status_code} {lines[-1].strip()[:200] if lines else ''}".strip()
