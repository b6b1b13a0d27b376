"""Kubernetes with KubeRay as a double: an API server for RayJobs, whose jobs a `RayDouble` runs.

It is as strict as the real ones were read to be: objects pass the CRD's schema (`tests/crds.py`) without a field too
many, and then KubeRay's own validation; names are there once; what is deleted in the foreground is there until what it
has started is gone; preconditions count. A cluster holds what it has until its RayJob is deleted, whatever has become
of the job. Beside the faults of `RayDouble` it can deny verbs and have too much to do.

    double = KubernetesDouble(folder, run_seconds=5)     in the process; `folder` is for the service account's files
"""

import copy
import functools
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.dispatch.executors.kuberay import KubeRay
from service.domain.node_groups import NodeGroup
from service.domain.rayjobs import Template
from tests.crds import validator
from tests.ray_double import TOKEN, BrokenConnection, Execution, RayDouble

NAMESPACE = "vision"
URL = "https://kubernetes.invalid"
NAME = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
LABEL = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
ITEMS = f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs"
GROUPS = (
    NodeGroup(name="cpu", cpus=8, max_nodes=64),
    NodeGroup(name="a100", cpus=16, gpus=4, accelerator_types=("A100",), max_nodes=8),
)
TEMPLATE = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {labels: {kueue.x-k8s.io/queue-name: vision}}
spec:
  suspend: false
  rayClusterSpec:
    rayVersion: "2.60.0"
    headGroupSpec:
      rayStartParams: {num-cpus: "0"}
      template: {spec: {containers: [{name: ray-head, image: yoso-worker}]}}
    workerGroupSpecs:
      - groupName: cpu
        rayStartParams: {}
        template: {spec: {containers: [{name: ray-worker, image: yoso-worker, resources: {limits: {memory: 4Gi}}}]}}
      - groupName: a100
        rayStartParams: {resources: "'{\\"accelerator_type:A100\\": 1}'"}
        template:
          spec:
            containers: [{name: ray-worker, image: yoso-worker, resources: {limits: {memory: 40Gi, nvidia.com/gpu: 1}}}]
"""
STATES = {"PENDING": "Initializing", "RUNNING": "Running", "FAILED": "Failed", "SUCCEEDED": "Complete",
          "STOPPED": "Complete"}  # fmt: skip


class KubernetesDouble(RayDouble):
    """A `RayDouble` each of whose jobs has a cluster of its own, and which Kubernetes is asked for.

    `denied` are the HTTP methods that the service account may not use; while it is `busy` every request is told to come
    again after so many seconds; `page` is how many names a list has at most.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self.folder = folder
        self.account = "account-1"
        self.denied: set[str] = set()
        self.busy: int | None = None
        self.page = 500
        self.objects: dict[str, dict[str, Any]] = {}
        """The RayJobs that are there, by name."""
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request to the API server."""
        self._versions = itertools.count(1)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {"namespace": NAMESPACE, "token": self.account, "ca.crt": authority(1)[0]}.items():
            (folder / name).write_text(text)

    def kuberay(self, fresh_seconds: float = 0.0, groups: tuple[NodeGroup, ...] = GROUPS) -> KubeRay:
        """A client of this double, without sockets."""

        def handle(request: httpx.Request) -> httpx.Response:
            headers, inside = request.headers, request.url.host != "kubernetes.invalid"
            try:
                if inside:
                    told = self.respond(request.method, str(request.url), headers.get("Authorization"), request.content)
                else:
                    told = self.api(request.method, str(request.url), dict(headers), request.content)
            except BrokenConnection as error:
                raise httpx.RemoteProtocolError("the double broke the connection") from error
            again = {"Retry-After": str(self.busy)} if told[0] == 429 else None
            return httpx.Response(told[0], json=told[1], headers=again)

        template, transport = Template.parse(TEMPLATE, groups), httpx.MockTransport(handle)
        return KubeRay(template, URL, self.folder, lambda: TOKEN, fresh_seconds=fresh_seconds, transport=transport)

    # What the API server does

    def api(self, method: str, url: str, headers: dict[str, str], content: bytes) -> tuple[int, Any]:
        """Status and JSON for a request to the API server, with faults. Raises `BrokenConnection`."""
        with self._lock:
            self._catch_up()
            parts = urlsplit(url)
            self.asked.append((method, parts.path))
            if self.busy is not None:
                return status(429, "TooManyRequests", "the server has received too many requests")
            if headers.get("authorization") != f"Bearer {self.account}":
                return status(401, "Unauthorized", "Unauthorized")
            if method in self.denied:
                return status(403, "Forbidden", f'User "yoso" cannot {method} resource "rayjobs" in API group "ray.io"')
            if self._strikes("restart", method):
                self.restart()
            if self._strikes("error_before", method):
                return status(500, "InternalError", "etcdserver: request timed out")
            told = self._api(method, parts.path, parse_qs(parts.query), headers, json.loads(content or b"{}"))
            self._catch_up()
            if self.drop_answers or self._strikes("broken", method):
                raise BrokenConnection
            if self._strikes("error_after", method):
                return status(500, "InternalError", "etcdserver: leader changed")
            return told

    def _api(
        self, method: str, path: str, query: dict[str, list[str]], headers: dict[str, str], body: dict[str, Any]
    ) -> tuple[int, Any]:
        name = path.removeprefix(ITEMS).removeprefix("/")
        if not path.startswith(ITEMS):
            return status(404, "NotFound", "the server could not find the requested resource")
        if (method, name) == ("POST", ""):
            return self._create(body)
        if (method, name) == ("GET", ""):
            return self._list(query, "PartialObjectMetadataList" in headers.get("accept", ""))
        if name in self.objects and method == "GET" and self._strikes("forgotten", method):
            self.forget(name)
        if name not in self.objects:
            return status(404, "NotFound", f'rayjobs.ray.io "{name}" not found')
        if method == "GET":
            return 200, self._shown(name)
        if method == "DELETE":
            return self._delete(name, body)
        return status(405, "MethodNotAllowed", method)

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if (body.get("apiVersion"), body.get("kind")) != ("ray.io/v1", "RayJob"):
            return status(400, "BadRequest", "the object is of another kind")
        for error in validator("RayJob").iter_errors(body):
            return status(422, "Invalid", f"RayJob is invalid: {error.json_path}: {error.message[:200]}")
        metadata = body["metadata"]
        if set(metadata) - {"name", "namespace", "labels", "annotations"}:
            return status(422, "Invalid", f"metadata is invalid: {sorted(metadata)}")
        name = metadata["name"]
        if metadata.get("namespace", NAMESPACE) != NAMESPACE or not re.fullmatch(NAME, name):
            return status(422, "Invalid", "metadata is invalid")
        for key, value in metadata.get("labels", {}).items():
            if not isinstance(value, str) or not re.fullmatch(LABEL, value):
                return status(422, "Invalid", f"metadata.labels.{key} is invalid")
        if name in self.objects:
            return status(409, "AlreadyExists", f'rayjobs.ray.io "{name}" already exists')
        made = copy.deepcopy(body)
        uid = f"uid-{next(self._numbers)}"
        made["metadata"] |= {"uid": uid, "resourceVersion": str(next(self._versions)), "namespace": NAMESPACE}
        made["status"] = {}
        self.objects[name] = made
        if (wrong := invalid(made)) is not None:
            made["status"] = {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": wrong}
            return 201, self._shown(name)
        spec = made["spec"]
        told = {"submission_id": spec["jobId"], "entrypoint": spec["entrypoint"]}
        before = len(self.executions)
        code, answer = self._submit(told | {"runtime_env": yaml.safe_load(spec["runtimeEnvYAML"])})
        if code != 200:
            del self.objects[name]
            return status(422, "Invalid", str(answer))
        if len(self.executions) > before:
            self._compare(name, spec)
        return 201, self._shown(name)

    def _compare(self, name: str, spec: dict[str, Any]) -> None:
        """Note where a cluster is not of the size that its job takes."""
        execution, pods = self.executions[-1], 0
        cpus = gpus = 0.0
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            pods += group["replicas"]
            cpus += group["replicas"] * float(limits["cpu"])
            gpus += group["replicas"] * float(limits.get("nvidia.com/gpu", 0))
        if execution.workers and (pods, cpus, gpus) != (execution.workers, execution.cpus, execution.gpus):
            self.violations.append(f"{name} needs {execution.workers} workers, and its cluster has {pods}, {cpus} CPUs")

    def _list(self, query: dict[str, list[str]], names_alone: bool) -> tuple[int, Any]:
        wanted = query.get("labelSelector", [])
        names = [
            name for name, one in sorted(self.objects.items())
            if all(label in one["metadata"].get("labels", {}) for label in wanted)
        ]  # fmt: skip
        begin = int(query.get("continue", ["0"])[0])
        end = begin + min(self.page, int(query.get("limit", ["500"])[0]))
        items = [self._shown(name) for name in names[begin:end]]
        if names_alone:
            items = [{"metadata": one["metadata"]} for one in items]
        return 200, {"items": items, "metadata": {"continue": str(end)} if end < len(names) else {}}

    def _shown(self, name: str) -> dict[str, Any]:
        """An object as it is now: what KubeRay makes of what has become of its job."""
        one = self.objects[name]
        before = dict(one["status"])
        if (job := self.jobs.get(name)) is not None:
            told = {"jobStatus": "" if job["status"] == "PENDING" else job["status"]}
            told |= {"jobDeploymentStatus": STATES[job["status"]], "message": job["message"]}
            told |= {"rayClusterName": f"{name}-abcde", "dashboardURL": f"{name}-abcde-head-svc.{NAMESPACE}.svc:8265"}
            one["status"] = told
        if one["status"] != before:
            one["metadata"]["resourceVersion"] = str(next(self._versions))
        return copy.deepcopy(one)

    def _delete(self, name: str, options: dict[str, Any]) -> tuple[int, Any]:
        if options.get("propagationPolicy") != "Foreground":
            self.violations.append(f"{name} is deleted before what it has started")
        metadata = self._shown(name)["metadata"]
        for key, value in options.get("preconditions", {}).items():
            if metadata[key] != value:
                return status(409, "Conflict", f"the {key} in the precondition is {value}, and {metadata[key]} here")
        self.stopped.append(name)
        first = "deletionTimestamp" not in metadata
        self.objects[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        mine = [one for one in self._live if one.submission_id == name]
        for execution in mine if first else ():
            if not execution.supervised:
                self._after(self.linger_seconds, functools.partial(self._release, execution))
            elif not execution.stopping:
                execution.stopping = True
                if self.stop_seconds is not None:
                    self._after(self.stop_seconds, functools.partial(self._stop, execution))
        if not mine:
            self._vanish(name)
        return 200, {"kind": "Status", "status": "Success"}

    def _vanish(self, name: str) -> None:
        self.objects.pop(name, None)
        self.jobs.pop(name, None)

    # What differs from one cluster for all

    def forget(self, submission_id: str) -> None:
        """Somebody deletes a RayJob and leaves its cluster behind."""
        with self._lock:
            super().forget(submission_id)
            self.objects.pop(submission_id, None)

    def restart(self) -> None:
        """The whole of Kubernetes starts anew, without any RayJob."""
        with self._lock:
            super().restart()
            self.objects.clear()

    def _release(self, execution: Execution) -> None:
        """A cluster goes with its RayJob, and not before."""
        execution.supervised = False
        one = None if execution.forgotten else self.objects.get(execution.submission_id)
        if one is None or "deletionTimestamp" in one["metadata"]:
            super()._release(execution)
            if not execution.forgotten:
                self._vanish(execution.submission_id)


def status(code: int, reason: str, message: str) -> tuple[int, Any]:
    """A refusal as the API server words it."""
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return code, told | {"code": code}


def invalid(job: dict[str, Any]) -> str | None:
    """Why KubeRay's own validation refuses a RayJob, if it does."""
    name, spec = job["metadata"]["name"], job["spec"]
    if len(name) > 47 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return "RayJob name should be a valid DNS1035 label of no more than 47 characters"
    if not spec.get("shutdownAfterJobFinishes") and (spec.get("suspend") or spec.get("ttlSecondsAfterFinished")):
        return "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"
    if spec.get("backoffLimit", 0) != 0 or spec.get("submissionMode") != "HTTPMode" or not spec.get("jobId"):
        return "it could run twice"
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        if not 0 <= group.get("minReplicas", -1) <= group["replicas"] <= group.get("maxReplicas", -1):
            return f"worker group {group['groupName']} must set both minReplicas and maxReplicas"
    return None


@functools.cache
def authority(number: int) -> tuple[str, str, str]:
    """A certificate authority's certificate, and a certificate of its for 127.0.0.1 with its key, as PEM."""

    def made(name: str, issuer: str, key: Any, signer: Any, *extensions: Any) -> str:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().serial_number(x509.random_serial_number()).public_key(key.public_key())
        builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    identified = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identified)
    issuer = f"authority {number}"
    can, cannot = (x509.BasicConstraints(True, None), True), (x509.BasicConstraints(False, None), True)
    above = made(issuer, issuer, root, root, can, (usage, True), (identified, False))
    below = made("api", issuer, own, root, (names, False), (signed_by, False), cannot)
    key = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return above, below, key.decode()
