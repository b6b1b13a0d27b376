"""The Helm chart, rendered by Helm itself and held strictly to the schemas of what it asks Kubernetes for."""

import copy
import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm_python import Chart
from helm_python.errors import HelmError

from service.api import metrics
from service.domain import node_groups
from service.domain.rayjobs import Template
from service.domain.scheduling import Ask, Node
from service.domain.sign_on import SignOn
from service.settings import Settings
from service.store.database import connect, migrate
from tests.crds import validator

CHART = Path(__file__).parents[3] / "deploy/chart"
SETS = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
KUBERNETES = {"s3": "1.27", "shared-volume": "1.31", "gpu": "1.34", "rayjob": "1.34"}
"""The oldest that the chart admits, and newer ones, each for few sets of values: loading a schema takes long."""


def values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())
    return found


@cache
def chart() -> Chart:
    return Chart.load(CHART)


def objects(chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """What the chart makes of values, by Helm."""
    rendered = chart().render(values=chosen, name="nas", namespace="vision")
    texts = [text for path, text in rendered.items() if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def one(kind: str, end: str, chosen: dict[str, Any]) -> dict[str, Any]:
    (found,) = (x for x in objects(chosen) if x["kind"] == kind and x["metadata"]["name"].endswith(end))
    return found


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template, with what it is of."""
    for made in found:
        name, spec = made["metadata"]["name"], made.get("spec", {})
        if made["kind"] in ("Deployment", "Job"):
            yield name, spec["template"]
        if made["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        if made["kind"] == "ConfigMap":
            spec = yaml.safe_load(made["data"]["rayjob.yaml"])["spec"]["rayClusterSpec"]
        if made["kind"] in ("RayCluster", "ConfigMap"):
            yield f"{name} head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]


@pytest.mark.parametrize("name", SETS)
def test_what_is_rendered_is_what_kubernetes_and_the_operators_know(name: str) -> None:
    for made in objects(values(name)):
        if (known := validator(made["kind"])) is not None:
            known.validate(made)
        else:
            kubernetes_validate.validate(made, KUBERNETES[name], strict=True)


def test_a_typo_in_a_template_would_be_found() -> None:
    cluster = one("RayCluster", "ray", values("gpu"))
    cluster["spec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        validator("RayCluster").validate(cluster)
    service = one("Service", "api", values("gpu"))
    service["spec"]["port"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="port"):
        kubernetes_validate.validate(service, KUBERNETES["gpu"], strict=True)


def changed(**paths: Any) -> dict[str, Any]:
    """Good values with something replaced; `a__b` is `a.b`."""
    made = copy.deepcopy(values("s3"))
    for path, value in paths.items():
        *above, last = path.split("__")
        part = made
        for key in above:
            part = part[key]
        part[last] = value
    return made


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (changed(databse={}), "databse"),
        (changed(api__replica=3), "replica"),
        (changed(database__url="postgresql://yoso:secret@db/yoso"), "url"),
        (changed(database__url="sqlite:///yoso.db"), "url"),
        (changed(database__passwordSecret={"name": ""}), "name"),
        (changed(tokens={}), "secret"),
        (changed(signOn={"issuer": "https://id.example.org", "clientId": "yoso"}), "signOn"),
        (changed(signOn={"issuer": "http://id.example.org"}), "issuer"),
        (changed(signOn={"grants": {"ml-team": "vision"}}), "ml-team"),
        (changed(storage={}), "storage"),
        (changed(storage={"url": "s3://b/f", "claim": "runs"}), "storage"),
        (changed(publicUrl="yoso.example.org"), "publicUrl"),
        (changed(ingress={"enabled": True}), "host"),
        (changed(ray__groups=[]), "groups"),
        (changed(ray__groups=[{"name": "cpu", "minNodes": 0, "maxNodes": 0, "cpus": 1, "memory": "1Gi"}]), "maxNodes"),
        (changed(ray__groups=[{"name": "cpu", "minNodes": 0, "cpus": 1, "memory": "1Gi"}]), "maxNodes"),
        (changed(ray__tokenSecret=""), "tokenSecret"),
        (changed(executor="slurm"), "executor"),
        (changed(backup__schedule="daily"), "schedule"),
        (changed(backup__keepDays=0), "keepDays"),
        (
            changed(
                executor="rayjob", ray__groups=[{"name": "a", "minNodes": 1, "maxNodes": 1, "cpus": 1, "memory": 1}]
            ),
            "minNodes",
        ),
        (changed(monitoring={"serviceMonitor": True}), "name"),
        (changed(datasets=[{"name": "images", "claim": "c", "path": "data"}]), "path"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(bad: dict[str, Any], told: str) -> None:
    with pytest.raises(HelmError, match=told):
        objects(bad)


def test_nothing_can_be_rendered_without_choices() -> None:
    with pytest.raises(HelmError, match="database"):
        objects({})


@pytest.mark.parametrize("name", SETS)
def test_every_setting_is_one_of_the_services(name: str) -> None:
    told = inspect.getsource(Settings.from_environment) + inspect.getsource(SignOn.parse)
    known = set(re.findall(r'"(YOSO_[A-Z_]+)"', told))
    for of, pod in pods(objects(values(name))):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                setting = variable["name"].removesuffix("_FILE")
                assert not setting.startswith("YOSO_") or setting in known, (of, setting)


@pytest.mark.parametrize("name", SETS)
def test_the_service_takes_the_settings_that_the_chart_gives(name: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss")
    (tmp_path / "tokens").write_text("*:admin:ops=0123456789abcdef")
    (tmp_path / "client-secret").write_text("0123456789abcdef")
    (tmp_path / "redis").write_text("redis://:p@ss@redis.data:6379")
    for of in ("api", "dispatcher"):
        container = one("Deployment", of, values(name))["spec"]["template"]["spec"]["containers"][0]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        files = {"YOSO_DATABASE_PASSWORD_FILE": "password", "YOSO_TOKENS_FILE": "tokens"}
        files |= {"YOSO_OIDC_CLIENT_SECRET_FILE": "client-secret", "YOSO_RATE_STORAGE_FILE": "redis"}
        for variable, file in files.items():
            if variable in environment:
                environment[variable] = str(tmp_path / file)
        if "YOSO_RAYJOB_TEMPLATE" in environment:
            (tmp_path / "rayjob.yaml").write_text(one("ConfigMap", "rayjob", values(name))["data"]["rayjob.yaml"])
            environment["YOSO_RAYJOB_TEMPLATE"] = str(tmp_path / "rayjob.yaml")
        settings = Settings.from_environment(environment)
        assert "p%40ss@" in settings.database_url
        assert (settings.sign_on is not None) == (of == "api" and name == "gpu")
        assert (settings.rate_storage is not None) == (of == "api" and name == "gpu")
        assert settings.storage.startswith("s3://") or settings.storage == "/storage"
        assert (settings.ray_address is not None or settings.rayjob is not None) == (of == "dispatcher")


def test_dispatchers_know_what_the_groups_may_grow_to() -> None:
    chosen = values("gpu")
    container = one("Deployment", "dispatcher", chosen)["spec"]["template"]["spec"]["containers"][0]
    told = {variable["name"]: variable["value"] for variable in container["env"]}["YOSO_NODE_GROUPS"]
    cpu, gpu = node_groups.parse(told)
    assert (cpu.name, cpu.max_nodes, gpu.max_nodes) == ("cpu", 4, 16)
    assert gpu.node == Node("a100", 12, 1, ("A100",), possible=True)
    groups = one("RayCluster", "ray", chosen)["spec"]["workerGroupSpecs"]
    assert [(g["groupName"], g["minReplicas"], g["maxReplicas"]) for g in groups] == [("cpu", 1, 4), ("a100", 0, 16)]
    assert groups[1]["rayStartParams"]["resources"] == """'{"accelerator_type:A100": 1}'"""
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("name", SETS)
def test_pods_have_nobodys_privileges_and_no_secret_in_their_environment(name: str) -> None:
    asking = ["nas-yoso-ray head"], ["nas-yoso-dispatcher"]  # Kubernetes: the autoscaler, or who makes RayJobs
    for of, pod in pods(objects(values(name))):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001, of
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, of
        assert spec["automountServiceAccountToken"] == (of in asking[name == "rayjob"]), of
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, of
            assert own.get("readOnlyRootFilesystem") or "ray" in container["name"], of
            assert not any("valueFrom" in variable for variable in container.get("env", [])), of
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}, of


def test_storage_and_datasets_are_where_the_service_says_for_ray_too() -> None:
    places = {
        frozenset((mount["mountPath"], mount.get("readOnly", False)) for mount in container["volumeMounts"])
        - {("/tmp", False), ("/dev/shm", False)}
        for of, pod in pods(objects(values("gpu")))
        for container in pod["spec"]["containers"]
        if "migrate" not in of
        for container in [container | {"volumeMounts": [
            mount for mount in container["volumeMounts"] if not mount["mountPath"].startswith("/secrets")
        ]}]
    }  # fmt: skip
    assert places == {frozenset({("/data/images", True), ("/data/frames", True)})}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def test_who_may_reach_whom() -> None:
    """By the rules of NetworkPolicy: what selects a pod closes it, and what any policy lets in comes in."""
    found = objects(values("s3"))
    labels = {of: pod["metadata"]["labels"] for of, pod in pods(found)}
    api, dispatcher = labels["nas-yoso-api"], labels["nas-yoso-dispatcher"]
    head, worker = labels["nas-yoso-ray head"], labels["nas-yoso-ray cpu"]
    policies = [made["spec"] for made in found if made["kind"] == "NetworkPolicy"]

    def reaches(source: dict[str, str], target: dict[str, str], port: int | str) -> bool:
        closing = [p for p in policies if selects(p["podSelector"], target) and "Ingress" in p["policyTypes"]]
        assert closing, "open to everybody"
        return any(
            ("ports" not in rule or any(one["port"] == port for one in rule["ports"]))
            and any("podSelector" in peer and selects(peer["podSelector"], source) for peer in rule["from"])
            for policy in closing
            for rule in policy.get("ingress", [])
        )

    assert reaches(dispatcher, head, 8265) and reaches(worker, head, 6379) and reaches(head, worker, 52365)
    assert not reaches(dispatcher, head, 6379)
    for source in (head, worker, api):
        assert not reaches(source, dispatcher, 80) and not reaches(source, api, "http")
    assert not reaches(api, head, 8265)
    leaving = [p for p in policies if selects(p["podSelector"], worker) and "Egress" in p["policyTypes"]]
    assert leaving and not any(
        "podSelector" in peer and selects(peer["podSelector"], api)
        for policy in leaving for rule in policy["egress"] for peer in rule["to"]
    )  # fmt: skip


def test_with_rayjobs_dispatchers_may_make_these_and_nothing_else() -> None:
    chosen = values("rayjob")
    found = objects(chosen)
    assert not any(made["kind"] == "RayCluster" for made in found)
    assert one("Role", "rayjobs", chosen)["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "delete"]}
    ]
    (subject,) = one("RoleBinding", "rayjobs", chosen)["subjects"]
    dispatcher = one("Deployment", "dispatcher", chosen)["spec"]["template"]
    assert subject == {
        "kind": "ServiceAccount",
        "name": dispatcher["spec"]["serviceAccountName"],
        "namespace": "vision",
    }
    (policy,) = (
        made["spec"] for made in found if made["kind"] == "NetworkPolicy" and made["metadata"]["name"].endswith("ray")
    )
    kuberay = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay"}}}
    assert [rule["ports"][0]["port"] for rule in policy["ingress"] if kuberay in rule["from"]] == [8265]
    for other in ("s3", "gpu"):
        assert not any(made["kind"] in ("Role", "RoleBinding", "ConfigMap") for made in objects(values(other)))


def test_a_rayjob_of_the_chart_is_one_of_kuberays() -> None:
    chosen = values("rayjob")
    container = one("Deployment", "dispatcher", chosen)["spec"]["template"]["spec"]["containers"][0]
    groups = node_groups.parse({each["name"]: each["value"] for each in container["env"]}["YOSO_NODE_GROUPS"])
    template = Template.parse(one("ConfigMap", "rayjob", chosen)["data"]["rayjob.yaml"], groups)
    made = template.made("yoso-abcdefghijkl-1", 1, "true", {}, Ask("abcdefghijkl", 8, 64, 8, accelerator_type="A100"))
    validator("RayJob").validate(made)
    (group,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    amounts = {"cpu": "8", "memory": str(80 * 2**30), "nvidia.com/gpu": "1"}
    assert (group["groupName"], group["replicas"]) == ("a100", 8)
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"] == amounts
    assert made["spec"]["suspend"] and made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "vision"


def test_a_backup_is_made_and_those_that_are_too_old_go(tmp_path: Path) -> None:
    """The command of the chart, run as it is."""
    chosen = values("s3")
    container = one("CronJob", "backup", chosen)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    *shell, script = container["command"]
    assert "/backups" in {mount["mountPath"] for mount in container["volumeMounts"]}
    database, backups = tmp_path / "yoso.db", tmp_path / "backups"
    migrate(engine := connect(f"sqlite:///{database}"))
    engine.dispose()
    backups.mkdir()
    for days, name in ((91.5, "yoso-old.gz"), (89.0, "yoso-newer.gz"), (400.0, "other.gz")):
        (backups / name).write_bytes(b"")
        os.utime(backups / name, (time.time() - days * 86400,) * 2)
    environment = {"YOSO_STORAGE": str(tmp_path), "YOSO_DATABASE_URL": f"sqlite:///{database}"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [*shell, script.replace("/backups", str(backups))]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    left = sorted(path.name for path in backups.iterdir())
    assert left[0] == "other.gz" and left[-1] == "yoso-newer.gz" and len(left) == 3
    assert re.fullmatch(r"yoso-\d{4}-\d\d-\d\dT\d{6}\.gz", left[1]) and (backups / left[1]).stat().st_size > 100
    failed = subprocess.run(command, env=environment | {"YOSO_DATABASE_URL": "sqlite:////none/db"}, capture_output=True)
    assert failed.returncode != 0 and sorted(path.name for path in backups.iterdir()) == left
    assert not any(made["kind"] == "CronJob" for made in objects(values("gpu")))


def test_selectors_find_their_pods() -> None:
    found = objects(values("gpu"))
    labels = {of: pod["metadata"]["labels"] for of, pod in pods(found)}
    for made in found:
        spec = made.get("spec", {})
        if made["kind"] == "Deployment":
            assert selects(spec["selector"], spec["template"]["metadata"]["labels"])
        if made["kind"] == "Service":
            chosen = [of for of, own in labels.items() if selects({"matchLabels": spec["selector"]}, own)]
            assert chosen == ["nas-yoso-api"]


def test_alerts_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    assert one("PrometheusRule", "yoso", values("gpu"))["spec"] == rules
    told = inspect.getsource(metrics)
    for rule in rules["groups"][0]["rules"]:
        assert rule["annotations"]["remedy"]
        for name in re.findall(r"yoso_\w+", rule["expr"]):
            assert f'"{name.removesuffix("_total")}' in told, name
