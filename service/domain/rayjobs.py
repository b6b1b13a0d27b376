"""A search as a RayJob of KubeRay, made from a template: a Ray cluster of its own, with a pod for each worker.

The template is a RayJob without what differs between searches. Its worker groups are the groups of nodes that the
settings name, by `groupName`, and describe whole nodes, of which a worker's pod gets its share. References:
`ray-operator/apis/ray/v1/rayjob_types.go` and, for names, `controllers/ray/utils/validation.go` of KubeRay 1.7.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nas_core.errors import InvalidValue
from nas_core.wording import number_of, resources
from service.domain.node_groups import NodeGroup
from service.domain.scheduling import Ask, fit

FIELD = "YOSO_RAYJOB_TEMPLATE"
SEARCH, ATTEMPT = "yoso/search", "yoso/attempt"
"""The labels of a RayJob that say whose it is."""

LONGEST_NAME = 47
"""Characters that KubeRay allows in the name of a RayJob, which is a DNS label that begins with a letter."""

KEPT_SECONDS = 600
"""For how long KubeRay keeps the cluster of a job that has ended, unless the template says so. Yoso takes the driver's
log from it and deletes it at once; KubeRay does where no dispatcher runs."""

QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|[MGT]|[KMGT]i)?")
"""An amount as Kubernetes writes it: a number with a unit."""

UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", 1)
}

GPU = "nvidia.com/gpu"
"""What Kubernetes calls a GPU, unless the template's group has another name for it."""

OWN = (
    "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus", "entrypointNumGpus",
    "entrypointResources", "jobId", "managedBy", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode",
)  # fmt: skip
"""Fields of a RayJob's `spec` that Yoso sets, or that would let one attempt run twice."""


class NoPlace(ValueError):
    """No group of nodes has a place for each worker."""


@dataclass(frozen=True)
class Template:
    """What all RayJobs have in common, and the groups that their workers may be of."""

    manifest: Mapping[str, Any]
    groups: tuple[NodeGroup, ...]

    @classmethod
    def parse(cls, text: str, groups: Sequence[NodeGroup]) -> "Template":
        """The template of a YAML text. Raises `InvalidValue`, with the place in it, where it cannot be used."""
        try:
            given = yaml.safe_load(text)
            json.dumps(given, allow_nan=False)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            told = " ".join(str(error).split())[:200]
            raise InvalidValue(
                FIELD, "…", f"not YAML that can be written as JSON: {told}", "a RayJob as YAML"
            ) from error
        manifest = _mapping(given, "")
        for key, value in (("apiVersion", "ray.io/v1"), ("kind", "RayJob")):
            if manifest.get(key) != value:
                raise InvalidValue(f"{FIELD}.{key}", manifest.get(key), "not KubeRay's RayJob", value)
        metadata = _mapping(manifest.get("metadata", {}), ".metadata")
        for key in metadata:
            if key not in ("annotations", "labels", "namespace"):
                raise InvalidValue(f"{FIELD}.metadata.{key}", metadata[key], "is Yoso's to set", "no such field")
        spec = _mapping(manifest.get("spec"), ".spec")
        for key in OWN:
            if key in spec:
                raise InvalidValue(f"{FIELD}.spec.{key}", spec[key], "is Yoso's to set", "no such field")
        cluster = _mapping(spec.get("rayClusterSpec"), ".spec.rayClusterSpec")
        if cluster.get("enableInTreeAutoscaling"):
            told = "each cluster has the workers of its search"
            raise InvalidValue(f"{FIELD}.spec.rayClusterSpec.enableInTreeAutoscaling", True, told, "false, or unset")
        place = ".spec.rayClusterSpec.workerGroupSpecs"
        workers = cluster.get("workerGroupSpecs")
        if not isinstance(workers, list):
            raise InvalidValue(FIELD + place, workers, "not a list", "a worker group for each group of nodes")
        names = []
        for number, group in enumerate(workers):
            names.append(_mapping(group, f"{place}[{number}]").get("groupName"))
            container = _container(group, f"{place}[{number}]")
            resources = _mapping(container.get("resources") or {}, f"{place}[{number}]: resources")
            for kind in ("requests", "limits"):
                memory = (resources.get(kind) or {}).get("memory", "0")
                if not QUANTITY.fullmatch(str(memory)):
                    raise InvalidValue(f"{FIELD}{place}[{number}]: {kind}.memory", memory, "no amount", "such as 16Gi")
        wanted = [group.name for group in groups]
        if sorted(map(str, names)) != sorted(wanted):
            told = "not the groups of YOSO_NODE_GROUPS"
            raise InvalidValue(
                FIELD + place, names, told, f"one of each groupName: {', '.join(wanted) or 'none is set'}"
            )
        return cls(manifest, tuple(groups))

    @property
    def namespace(self) -> str | None:
        """Where the template wants its RayJobs; None where the service is."""
        found = self.manifest.get("metadata", {}).get("namespace")
        return None if found is None else str(found)

    def made(
        self, name: str, attempt: int, entrypoint: str, environment: Mapping[str, str], ask: Ask
    ) -> dict[str, Any]:
        """The RayJob `name` of a search's attempt. Raises `NoPlace`."""
        job: dict[str, Any] = copy.deepcopy(dict(self.manifest))
        metadata = job.setdefault("metadata", {})
        metadata["name"] = name
        metadata["labels"] = (metadata.get("labels") or {}) | {SEARCH: ask.id, ATTEMPT: str(attempt)}
        spec = job["spec"]
        spec.setdefault("ttlSecondsAfterFinished", KEPT_SECONDS)
        spec |= {
            "entrypoint": entrypoint,
            "jobId": name,
            "runtimeEnvYAML": json.dumps({"env_vars": dict(environment)}),
            # KubeRay asks the cluster itself. Should it submit twice, the second driver finds the attempt claimed.
            "submissionMode": "HTTPMode",
            "shutdownAfterJobFinishes": True,
            "backoffLimit": 0,
        }
        counts = self._spread(ask)
        cluster = spec["rayClusterSpec"]
        cluster["workerGroupSpecs"] = [
            _sized(group, counts[group["groupName"]], ask.of(1), node)
            for group in cluster["workerGroupSpecs"]
            for node in self.groups
            if node.name == group["groupName"] and counts.get(node.name)
        ]
        return job

    def _spread(self, ask: Ask) -> dict[str, int]:
        """How many workers are of which group; who needs no GPU is put where there are none, as far as that goes."""
        each, left, counts = ask.of(1), ask.workers, {}
        for group in sorted(self.groups, key=lambda one: not each.gpus and one.gpus > 0):
            if ask.accelerator_type not in (None, *group.accelerator_types) or not group.max_nodes:
                continue
            places = group.max_nodes * min(fit(group.cpus, each.cpus), fit(group.gpus, each.gpus))
            counts[group.name] = int(min(left, places))
            left -= counts[group.name]
        if left:
            told = resources(each.cpus, each.gpus)
            kind = f" of {ask.accelerator_type}" if ask.accelerator_type else ""
            raise NoPlace(
                f"YOSO_NODE_GROUPS has no place for {left} of {number_of(ask.workers, 'worker')} of {told}{kind}"
            )
        return counts


def _sized(group: dict[str, Any], workers: int, each: Ask, node: NodeGroup) -> dict[str, Any]:
    """A worker group of so many pods, each for one worker, with its share of a node's memory."""
    share = max(each.cpus / node.cpus if node.cpus else 0.0, each.gpus / node.gpus if node.gpus else 0.0)
    group |= {"replicas": workers, "minReplicas": workers, "maxReplicas": workers}
    start = group["rayStartParams"] = dict(group.get("rayStartParams") or {})
    start |= {"num-cpus": str(each.cpus), "num-gpus": str(each.gpus)}
    container = _container(group, "")
    resources = container["resources"] = dict(container.get("resources") or {})
    given = {kind: dict(resources.get(kind) or {}) for kind in ("requests", "limits")}
    gpus = {key for amounts in given.values() for key in amounts if key.endswith("/gpu")} or {GPU}
    for kind, amounts in given.items():
        if "memory" in amounts:
            number, unit = QUANTITY.fullmatch(str(amounts["memory"])).groups("")  # type: ignore[union-attr]  # checked
            amounts["memory"] = str(int(float(number) * UNITS[unit] * share))
        resources[kind] = {key: value for key, value in amounts.items() if key not in gpus} | {"cpu": str(each.cpus)}
        if each.gpus:
            resources[kind] |= {min(gpus): str(each.gpus)}
    return group


def _container(group: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The container of a group's pods in which Ray runs: the first."""
    pod = _mapping(_mapping(group.get("template"), f"{place}.template").get("spec"), f"{place}.template.spec")
    containers = pod.get("containers")
    if not isinstance(containers, list) or not containers:
        raise InvalidValue(
            f"{FIELD}{place}.template.spec.containers", containers, "no container", "Ray's container first"
        )
    return _mapping(containers[0], f"{place}.template.spec.containers[0]")


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue(
            FIELD + place, str(value)[:100], "not a mapping", "fields with values, as KubeRay's RayJob has"
        )
    return value
