"""KubeRay's RayJobs: every attempt runs on a Ray cluster of its own, which Kubernetes makes and takes away with it.

The name of a RayJob is the fence against double launches: Kubernetes refuses one that is there. It is there until it is
deleted, and with what it has started, since it is deleted last (`propagationPolicy: Foreground`): so an attempt holds
nothing once its RayJob is unknown. Which fields mean what: `ray-operator/apis/ray/v1/rayjob_types.go` and
`controllers/ray/rayjob_controller.go` of KubeRay 1.7; the service account's files:
https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/.
"""

import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.dispatch.executors.port import Job, JobStatus, Node, Refused
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.domain.rayjobs import LONGEST_NAME, SEARCH, NoPlace, Template
from service.domain.scheduling import Ask, RayUnavailable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAME = re.compile(r"yoso-([a-z0-9-]*[a-z0-9])-([0-9]+)")
FRESH_SECONDS = 5.0
"""For how long what is known of a RayJob is not asked for again: every search is looked at twice a second."""

PAGE = "500"
LONGEST_PAUSE = 60.0
NAMES_ALONE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

WAITING = ("", "Initializing", "Waiting", "Suspending", "Suspended", "Retrying")
"""The states of a RayJob whose driver does not run: it is new, its cluster comes up, or Kueue holds it."""


@dataclass(frozen=True)
class Known:
    """What was last seen of a RayJob, and when by the clock; `dashboard` is where its cluster's Ray listens."""

    seen: float
    uid: str
    version: str
    job: Job
    dashboard: str
    cluster: str


class KubeRay:
    """The RayJobs of one namespace, that of `template` or of the service account in `folder`.

    The API server at `url` is asked with the account's token and authority, both read anew as they rotate; a request
    may take `seconds`. `ray_token` gives the token of the clusters' Ray.
    """

    makes_clusters = True

    def __init__(
        self,
        template: Template,
        url: str,
        folder: Path = SERVICE_ACCOUNT,
        ray_token: Callable[[], str | None] = lambda: None,
        seconds: float = 10.0,
        fresh_seconds: float = FRESH_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.template, self.url, self.folder, self.ray_token = template, url, folder, ray_token
        self.seconds, self.fresh_seconds, self.transport = seconds, fresh_seconds, transport
        self._lock = threading.Lock()
        self._clients: dict[str, httpx.Client] = {}
        """By the authority that they trust."""
        self._known: dict[str, Known] = {}
        self._quiet_until = float("-inf")

    def submit(self, submission_id: str, entrypoint: str, environment: dict[str, str], ask: Ask) -> None:
        """Create the RayJob of that name, unless it is there.

        Raises `RayUnavailable`: then it may have been created, or not; and `Refused` where Kubernetes will not.
        """
        name = NAME.fullmatch(submission_id)
        if name is None or len(submission_id) > LONGEST_NAME or name[1] != ask.id:
            raise Refused(f"{submission_id} cannot be the name of a RayJob of the search {ask.id}")
        try:
            made = self.template.made(submission_id, int(name[2]), entrypoint, environment, ask)
        except NoPlace as error:
            raise Refused(str(error)) from error
        response = self._ask("POST", self._path(), json=made)
        self._forget(submission_id)
        # Whatever was answered, what counts is whether it is there.
        if response.status_code not in (200, 201, 202) and self._find(submission_id) is None:
            told = f"Kubernetes did not make the RayJob: {_reason(response)}"
            certain = 400 <= response.status_code < 500 and response.status_code not in (408, 409)
            raise Refused(told) if certain else RayUnavailable(told)

    def job(self, submission_id: str) -> Job | None:
        """The RayJob as a job, or None where there is none. Raises `RayUnavailable`."""
        known = self._find(submission_id)
        return known.job if known else None

    def remains(self, submission_id: str) -> list[str]:
        """The RayJob with its cluster, as long as it is there. Raises `RayUnavailable`."""
        known = self._find(submission_id)
        return [f"RayJob {submission_id} with its cluster {known.cluster}".rstrip()] if known else []

    def stop(self, submission_id: str) -> None:
        """Delete the RayJob, which is gone when its cluster is. Raises `RayUnavailable`."""
        self._forget(submission_id)
        if (known := self._find(submission_id)) is not None:
            self._remove(submission_id, {"uid": known.uid})

    def running(self) -> list[str]:
        """The names of all RayJobs that Yoso has made and that are there. Raises `RayUnavailable`."""
        names: list[str] = []
        query = {"labelSelector": SEARCH, "limit": PAGE}
        while True:
            listed = _object(self._ask("GET", self._path(), params=query, headers={"Accept": NAMES_ALONE}))
            try:
                names += [str(item["metadata"]["name"]) for item in listed["items"]]
                more = listed.get("metadata", {}).get("continue")
            except (KeyError, TypeError, AttributeError) as error:
                raise RayUnavailable("Kubernetes' list of RayJobs cannot be read") from error
            if not more:
                return names
            query["continue"] = str(more)

    def logs(self, submission_id: str) -> str:
        """What the driver has printed, from its cluster; empty where that is not there. Raises `RayUnavailable`."""
        known = self._find(submission_id)
        if known is None or not known.dashboard:
            return ""
        inside = RayJobs(lambda: Endpoint(f"http://{known.dashboard}", self.ray_token()), self.seconds, self.transport)
        try:
            return inside.logs(submission_id)
        finally:
            inside.close()

    def delete(self, submission_id: str) -> None:
        """Delete the RayJob of a job that has ended. Raises `RayUnavailable`, also where it has not."""
        self._forget(submission_id)
        known = self._find(submission_id)
        if known is not None and not known.job.status.ended:
            raise RayUnavailable(
                f"RayJob {submission_id} has not ended, it is in the non-terminal state {known.job.status}"
            )
        if known is not None:
            self._remove(submission_id, {"uid": known.uid, "resourceVersion": known.version})

    def nodes(self) -> list[Node]:
        """None, where Kubernetes answers: nodes come with the jobs. Raises `RayUnavailable`."""
        _object(self._ask("GET", self._path(), params={"limit": "1"}, headers={"Accept": NAMES_ALONE}))
        return []

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def _path(self, name: str = "") -> str:
        namespace = self.template.namespace or self._file("namespace")
        return f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs{'/' if name else ''}{name}"

    def _file(self, name: str) -> str:
        """What stands in a file of the service account, which is replaced as it rotates."""
        try:
            return (self.folder / name).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RayUnavailable(f"the pod's service account cannot be read: {self.folder / name}: {error}") from error

    def _client(self) -> httpx.Client:
        authority = self._file("ca.crt")
        with self._lock:
            if authority not in self._clients:
                try:
                    trusted = ssl.create_default_context(cadata=authority)
                except ssl.SSLError as error:
                    raise RayUnavailable(f"{self.folder / 'ca.crt'} has no certificate") from error
                self._clients[authority] = httpx.Client(
                    verify=trusted, timeout=self.seconds, transport=self.transport, trust_env=False
                )
            return self._clients[authority]

    def _ask(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        """The API server's answer, unless it has not said yes or no."""
        if time.monotonic() < self._quiet_until:
            raise RayUnavailable("Kubernetes asked to wait before the next request")
        client, own = self._client(), {"Authorization": f"Bearer {self._file('token')}"}
        try:
            response = client.request(method, self.url + path, headers=own | (headers or {}), **options)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise RayUnavailable(f"Kubernetes does not answer: {type(error).__name__}") from error
        if response.status_code == 429:
            pause = response.headers.get("Retry-After", "1")
            self._quiet_until = time.monotonic() + (min(float(pause), LONGEST_PAUSE) if pause.isdecimal() else 1.0)
            raise RayUnavailable(f"Kubernetes is overloaded: {_reason(response)}")
        if response.status_code == 401:
            raise RayUnavailable(f"Kubernetes does not take the service account's token: {_reason(response)}")
        if response.status_code == 403 and method != "POST":
            told = "the account's role needs create, get, list and delete of rayjobs in ray.io"
            raise RayUnavailable(f"Kubernetes forbids it: {_reason(response)}; {told}")
        return response

    def _find(self, name: str) -> Known | None:
        """What is known of a RayJob, as of the last `fresh_seconds`; None where there is none."""
        known = self._known.get(name)
        if known is not None and time.monotonic() - known.seen < self.fresh_seconds:
            return known
        seen = time.monotonic()
        response = self._ask("GET", self._path(name))
        if response.status_code == 404:
            self._forget(name)
            return None
        found = _known(name, seen, _object(response))
        with self._lock:
            self._known = {key: one for key, one in self._known.items() if seen - one.seen < self.fresh_seconds}
            self._known[name] = found
        return found

    def _forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)

    def _remove(self, name: str, preconditions: dict[str, str]) -> None:
        how = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        response = self._ask("DELETE", self._path(name), json=how | {"preconditions": preconditions})
        self._forget(name)
        if response.status_code not in (200, 202, 404):
            raise RayUnavailable(f"Kubernetes did not delete the RayJob {name}: {_reason(response)}")


def _known(name: str, seen: float, found: dict[str, Any]) -> Known:
    try:
        metadata, status = found["metadata"], found.get("status") or {}
        uid, version, labels = str(metadata["uid"]), str(metadata["resourceVersion"]), metadata.get("labels") or {}
        dashboard, cluster = str(status.get("dashboardURL") or ""), str(status.get("rayClusterName") or "")
        ours = labels.get(SEARCH)
        job = _job(status, bool(metadata.get("deletionTimestamp")))
    except (KeyError, TypeError, AttributeError) as error:
        raise RayUnavailable(f"Kubernetes' RayJob {name} cannot be read") from error
    if ours is None or not name.startswith(f"yoso-{ours}-"):
        raise Refused(f"there is a RayJob {name} that Yoso has not made")
    return Known(seen, uid, version, job, dashboard, cluster)


def _job(status: dict[str, Any], deleted: bool) -> Job:
    """A RayJob's status as a job's: that of its deployment first, then Ray's own word. Raises `RayUnavailable`."""
    deployment, ray = status.get("jobDeploymentStatus") or "", status.get("jobStatus") or ""
    message = ": ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
    try:
        said = JobStatus(ray) if ray else JobStatus.PENDING
    except ValueError as error:
        raise RayUnavailable(f"KubeRay reports an unknown job state: {ray!r}") from error
    if deleted:
        return Job(said if said.ended else JobStatus.STOPPED, message or "its RayJob is being deleted")
    if deployment in WAITING:
        return Job(JobStatus.PENDING, message)
    if deployment == "Running":
        return Job(said, message)
    if deployment == "Complete":
        return Job(said if said.ended else JobStatus.FAILED, message)
    if deployment in ("Failed", "ValidationFailed"):
        return Job(JobStatus.FAILED, message or f"KubeRay says {deployment}")
    raise RayUnavailable(f"KubeRay reports an unknown state: {deployment!r}")


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer that went well."""
    if response.status_code != 200:
        raise RayUnavailable(f"Kubernetes failed: {_reason(response)}")
    try:
        values = response.json()
    except (ValueError, RecursionError) as error:
        raise RayUnavailable("Kubernetes' answer is not JSON") from error
    if not isinstance(values, dict):
        raise RayUnavailable("Kubernetes' answer is not a JSON object")
    return values


def _reason(response: httpx.Response) -> str:
    """What the API server says of a refusal: the `message` of its Status."""
    try:
        told = response.json()["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        told = " ".join(response.text.split())
    return f"{response.status_code} {str(told)[:300]}".strip()
