"""KubeRay's RayJobs: what is asked of Kubernetes, what its answers mean, and what a dispatcher makes of them."""

import contextlib
import functools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas_core.errors import InvalidValue
from service import doctor
from service.dispatch.dispatcher import Dispatcher, parse_submission_id
from service.dispatch.executors.kuberay import NAME, KubeRay
from service.dispatch.executors.port import JobStatus, Refused
from service.domain.node_groups import NodeGroup
from service.domain.rayjobs import LONGEST_NAME, NoPlace, Template
from service.domain.scheduling import Ask, RayUnavailable
from service.settings import Settings
from service.store.changes import new_id
from tests import seeding
from tests.crds import validator
from tests.kubernetes_double import GROUPS, ITEMS, TEMPLATE, KubernetesDouble, authority, invalid
from tests.ray_double import BrokenConnection

ASK = Ask("s", 1, 1, 0)
CALLS: dict[str, Callable[[KubeRay], Any]] = {
    "submit": lambda jobs: jobs.submit("yoso-s-1", "true", {}, ASK),
    "job": lambda jobs: jobs.job("yoso-s-1"),
    "remains": lambda jobs: jobs.remains("yoso-s-1"),
    "stop": lambda jobs: jobs.stop("yoso-s-1"),
    "running": lambda jobs: jobs.running(),
    "logs": lambda jobs: jobs.logs("yoso-s-1"),
    "delete": lambda jobs: jobs.delete("yoso-s-1"),
    "nodes": lambda jobs: jobs.nodes(),
}
DEPLOYMENTS = ["", "Initializing", "Running", "Complete", "Failed", "ValidationFailed", "Suspending", "Suspended",
               "Retrying", "Waiting"]  # fmt: skip
"""All of KubeRay's, as `rayjob_types.go` has them."""
RAYS = ["", *JobStatus]
scalars = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["Running", "RUNNING"])
keys = st.sampled_from(
    [
        "metadata",
        "status",
        "items",
        "uid",
        "resourceVersion",
        "labels",
        "yoso/search",
        "jobStatus",
        "jobDeploymentStatus",
    ]
)
answers = st.recursive(scalars, lambda one: st.lists(one) | st.dictionaries(keys | st.text(), one))


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KubernetesDouble(tmp_path_factory.mktemp("account")).folder


def client(answer: Callable[[httpx.Request], httpx.Response], account: Path) -> KubeRay:
    transport = httpx.MockTransport(answer)
    return KubeRay(Template.parse(TEMPLATE, GROUPS), "https://kubernetes.invalid", account, transport=transport)


def rayjob(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    told = {"name": "yoso-s-1", "uid": "u", "resourceVersion": "7", "labels": {"yoso/search": "s"}}
    return {"metadata": told | metadata, "status": status or {}}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, html="<html>Sign in</html>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, content=b'{"metadata": {"na'),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(302, headers={"Location": "http://elsewhere.invalid"}),
        httpx.Response(401, json={"message": "Unauthorized"}),
        httpx.Response(403, json={"message": "forbidden"}),
        httpx.Response(409, json={"message": "the object has been modified"}),
        httpx.Response(429, headers={"Retry-After": "soon"}),
        httpx.Response(500, text="etcdserver: request timed out"),
        httpx.Response(503),
    ],
    ids=lambda response: f"{response.status_code}-{response.content[:12]!r}",
)
def test_what_is_no_answer_of_kubernetes_is_told_as_such(call: str, response: httpx.Response, account: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    if call == "submit" and response.status_code == 200:
        CALLS[call](client(answer, account))  # it was made
        return
    with pytest.raises(RayUnavailable):
        CALLS[call](client(answer, account))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.PoolTimeout])
def test_trouble_on_the_way_is_told_as_such(call: str, error: type[httpx.RequestError], account: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("no")

    with pytest.raises(RayUnavailable, match=error.__name__):
        CALLS[call](client(answer, account))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CALLS)), st.integers(200, 599), answers)
def test_no_answer_leads_to_another_exception(account: Path, call: str, status: int, values: Any) -> None:
    with contextlib.suppress(RayUnavailable):
        CALLS[call](client(lambda request: httpx.Response(status, content=json.dumps(values)), account))


@pytest.mark.parametrize("name", ["token", "ca.crt", "namespace"])
def test_a_pod_without_a_service_account_is_told_which_file_it_lacks(name: str, tmp_path: Path) -> None:
    double = KubernetesDouble(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RayUnavailable, match=name):
        double.kuberay().nodes()


# What the states mean


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("ray", RAYS)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_every_state_of_kuberay_is_one_of_a_job(deployment: str, ray: str, deleted: bool, account: Path) -> None:
    told = rayjob({"jobDeploymentStatus": deployment, "jobStatus": ray, "reason": "Why", "message": "so"})
    if deleted:
        told["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    job = client(lambda request: httpx.Response(200, json=told), account).job("yoso-s-1")
    assert job is not None and job.message == "Why: so"
    terminal = ray in ("STOPPED", "SUCCEEDED", "FAILED")
    if deleted or deployment in ("Complete", "Failed", "ValidationFailed"):
        assert job.status.ended
    elif deployment == "Running":
        assert job.status == (ray or "PENDING")
    else:
        assert job.status == JobStatus.PENDING
    if job.status == JobStatus.SUCCEEDED:
        assert terminal and ray == "SUCCEEDED", "nothing is said to have succeeded that Ray does not say has"


@pytest.mark.parametrize("status", [{"jobDeploymentStatus": "Paused"}, {"jobStatus": "DONE"}])
def test_a_state_that_nobody_knows_is_an_error(status: dict[str, Any], account: Path) -> None:
    with pytest.raises(RayUnavailable, match="unknown"):
        client(lambda request: httpx.Response(200, json=rayjob(status)), account).job("yoso-s-1")


# Names


@given(st.builds(new_id), st.integers(1, 10**9))
def test_every_attempt_has_a_name_of_its_own_that_kuberay_takes(search_id: str, attempt: int) -> None:
    name = f"yoso-{search_id}-{attempt}"
    ask = Ask(search_id, 2, 4, 0)
    made = Template.parse(TEMPLATE, GROUPS).made(name, attempt, "true", {"YOSO_ATTEMPT": str(attempt)}, ask)
    assert invalid(made) is None and len(name) <= LONGEST_NAME
    assert parse_submission_id(name) == (search_id, attempt) and NAME.fullmatch(name)


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_name_that_cannot_be_is_refused_and_nothing_is_asked(name: str, search_id: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(201, json={})

    with contextlib.suppress(Refused):
        client(answer, Path("/nowhere")).submit(name, "true", {}, Ask(search_id, 1, 1, 0))
        raise AssertionError("it was taken")
    assert asked == []


def test_a_rayjob_that_is_another_s_is_neither_adopted_nor_deleted(tmp_path: Path) -> None:
    double = KubernetesDouble(tmp_path)
    double.objects["yoso-s-1"] = rayjob(labels={"app": "other"})
    jobs = double.kuberay()
    for call in ("submit", "job", "remains", "stop", "delete"):
        with pytest.raises(Refused, match="not made"):
            CALLS[call](jobs)
    assert "yoso-s-1" in double.objects and jobs.running() == []


# What is made


@given(
    workers=st.integers(1, 40),
    cpus=st.integers(1, 16),
    gpus=st.integers(0, 4),
    kind=st.sampled_from([None, "A100"]),
    most=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_a_cluster_has_a_pod_for_each_worker_or_is_refused(
    workers: int, cpus: int, gpus: int, kind: str | None, most: tuple[int, int]
) -> None:
    groups = [group.model_copy(update={"max_nodes": count}) for group, count in zip(GROUPS, most, strict=True)]
    ask = Ask("s", workers, workers * cpus, workers * gpus, accelerator_type=kind)
    fits = {
        group.name: group.max_nodes * min(group.cpus // cpus, group.gpus // gpus if gpus else 10**6)
        for group in groups
        if kind is None or kind in group.accelerator_types
    }
    template = Template.parse(TEMPLATE, groups)
    if sum(fits.values()) < workers:
        with pytest.raises(NoPlace, match="YOSO_NODE_GROUPS"):
            template.made("yoso-s-1", 1, "true", {}, ask)
        return
    made = template.made("yoso-s-1", 1, "true", {}, ask)
    assert invalid(made) is None
    found = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert sum(group["replicas"] for group in found) == workers
    for group in found:
        assert 0 < group["replicas"] == group["minReplicas"] == group["maxReplicas"] <= fits[group["groupName"]]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert (limits["cpu"], limits.get("nvidia.com/gpu", "0")) == (str(cpus), str(gpus)) and "memory" in limits
        assert (group["rayStartParams"]["num-cpus"], group["rayStartParams"]["num-gpus"]) == (str(cpus), str(gpus))
    if not gpus and kind is None and fits["cpu"] >= workers:
        assert [group["groupName"] for group in found] == ["cpu"], "GPUs are left to those who need them"


def test_a_rayjob_is_as_its_schema_says_and_shuts_its_cluster_down() -> None:
    template = Template.parse(TEMPLATE, GROUPS)
    ask = Ask("s", 4, 8, 4, accelerator_type="A100")
    made = template.made("yoso-s-2", 2, "python -m worker.job '/runs/a b'", {"YOSO_ATTEMPT": "2", "X": 'a: "b"\n'}, ask)
    validator("RayJob").validate(made)
    spec = made["spec"]
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] == 600
    assert (spec["backoffLimit"], spec["submissionMode"], spec["jobId"]) == (0, "HTTPMode", "yoso-s-2")
    assert spec["entrypoint"] == "python -m worker.job '/runs/a b'" and spec["suspend"] is False
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"YOSO_ATTEMPT": "2", "X": 'a: "b"\n'}}
    labels = {"yoso/search": "s", "yoso/attempt": "2", "kueue.x-k8s.io/queue-name": "vision"}
    assert made["metadata"] == {"name": "yoso-s-2", "labels": labels}
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["rayStartParams"]["resources"] == """'{"accelerator_type:A100": 1}'"""
    again = template.made("yoso-s-3", 3, "true", {}, Ask("s", 1, 1, 0))
    assert again["metadata"]["labels"]["yoso/attempt"] == "3", "the template stays as it was"


def changed(path: str, value: Any) -> str:
    made = yaml.safe_load(TEMPLATE)
    *above, last = path.split(".")
    part = made
    for key in above:
        part = part[int(key) if key.isdigit() else key]
    if value is None:
        part.pop(last)
    else:
        part[last] = value
    return str(yaml.safe_dump(made))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("a: [", ""),
        ("", ""),
        ("a: 2026-01-01", ""),
        (changed("kind", "RayCluster"), ".kind"),
        (changed("apiVersion", "ray.io/v1alpha1"), ".apiVersion"),
        (changed("metadata.name", "mine"), ".metadata.name"),
        (changed("spec", None), ".spec"),
        (changed("spec.entrypoint", "true"), ".spec.entrypoint"),
        (changed("spec.backoffLimit", 3), ".spec.backoffLimit"),
        (changed("spec.clusterSelector", {"a": "b"}), ".spec.clusterSelector"),
        (changed("spec.rayClusterSpec.enableInTreeAutoscaling", True), ".spec.rayClusterSpec.enableInTreeAutoscaling"),
        (changed("spec.rayClusterSpec.workerGroupSpecs", None), ".spec.rayClusterSpec.workerGroupSpecs"),
        (changed("spec.rayClusterSpec.workerGroupSpecs.0.groupName", "gpu"), ".spec.rayClusterSpec.workerGroupSpecs"),
        (changed("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resources.limits.memory", "4 GB"),
         ".spec.rayClusterSpec.workerGroupSpecs[0]: limits.memory"),
        (changed("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers", []),
         ".spec.rayClusterSpec.workerGroupSpecs[0].template.spec.containers"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_refused_by_place(text: str, field: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Template.parse(text, GROUPS)
    assert refused.value.field == f"YOSO_RAYJOB_TEMPLATE{field}"


def test_settings_say_where_searches_run(tmp_path: Path) -> None:
    (tmp_path / "rayjob.yaml").write_text(TEMPLATE)
    good = {
        "YOSO_STORAGE": str(tmp_path),
        "YOSO_EXECUTOR": "rayjob",
        "YOSO_RAYJOB_TEMPLATE": str(tmp_path / "rayjob.yaml"),
        "YOSO_NODE_GROUPS": json.dumps([group.model_dump() for group in GROUPS]),
    }
    found = Settings.from_environment(good).rayjob
    assert found is not None and found.groups == GROUPS
    assert Settings.from_environment({"YOSO_STORAGE": str(tmp_path), "YOSO_EXECUTOR": "ray"}).rayjob is None
    for field, bad in (
        ("YOSO_EXECUTOR", good | {"YOSO_EXECUTOR": "slurm"}),
        ("YOSO_NODE_GROUPS", good | {"YOSO_NODE_GROUPS": ""}),
        ("YOSO_RAYJOB_TEMPLATE", good | {"YOSO_RAYJOB_TEMPLATE": ""}),
        ("YOSO_RAYJOB_TEMPLATE", good | {"YOSO_RAYJOB_TEMPLATE": str(tmp_path / "none")}),
        ("YOSO_RAYJOB_TEMPLATE", good | {"YOSO_EXECUTOR": ""}),
        ("YOSO_RAY_ADDRESS", good | {"YOSO_RAY_ADDRESS": "http://ray:8265"}),
    ):
        with pytest.raises(InvalidValue) as refused:
            Settings.from_environment(bad)
        assert refused.value.field == field


# What is asked


def test_what_is_known_is_not_asked_for_again_for_a_while(tmp_path: Path) -> None:
    double = KubernetesDouble(tmp_path)
    double.objects["yoso-s-1"] = rayjob()
    jobs = double.kuberay(fresh_seconds=1000)
    for _ in range(10):
        assert jobs.job("yoso-s-1") is not None and jobs.remains("yoso-s-1")
    assert double.asked == [("GET", f"{ITEMS}/yoso-s-1")]
    jobs.stop("yoso-s-1")
    assert jobs.job("yoso-s-1") is None, "what was changed is asked for anew"


def test_names_are_asked_for_page_by_page(tmp_path: Path) -> None:
    double = KubernetesDouble(tmp_path)
    double.page = 2
    for number in range(5):
        double.objects[f"yoso-s-{number}"] = rayjob(name=f"yoso-s-{number}")
    double.objects["other"] = rayjob(name="other", labels={})
    assert double.kuberay().running() == [f"yoso-s-{number}" for number in range(5)]
    assert len(double.asked) == 3


def test_an_api_server_that_has_too_much_to_do_is_left_alone(tmp_path: Path) -> None:
    double, jobs = KubernetesDouble(tmp_path), None
    double.busy = 3600
    jobs = double.kuberay()
    for _ in range(5):
        with pytest.raises(RayUnavailable, match=r"overloaded|asked to wait"):
            jobs.nodes()
    assert len(double.asked) == 1
    double.busy = None
    jobs._quiet_until = float("-inf")
    assert jobs.nodes() == []


@pytest.mark.parametrize(("verb", "call"), [("POST", "submit"), ("GET", "job"), ("GET", "nodes"), ("DELETE", "stop")])
def test_what_the_role_does_not_allow_is_told(verb: str, call: str, tmp_path: Path) -> None:
    double = KubernetesDouble(tmp_path)
    if call == "stop":
        double.objects["yoso-s-1"] = rayjob()
    double.denied = {verb}
    with pytest.raises(RayUnavailable, match=f'cannot {verb} resource "rayjobs"') as told:
        CALLS[call](double.kuberay())
    assert isinstance(told.value, Refused) == (call == "submit")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[KubernetesDouble, str, Callable[[int], None]]]:
    """A double behind TLS, its URL, and what gives it a certificate of another authority."""
    double = KubernetesDouble(tmp_path / "account")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(BrokenConnection):
                headers = {name.lower(): value for name, value in self.headers.items()}
                code, values = double.api("GET", self.path, headers, b"")
                content = json.dumps(values).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of a caller who does not trust it."""

    def certify(number: int) -> None:
        _, certificate, key = authority(number)
        (tmp_path / "both.pem").write_text(certificate + key)
        context.load_cert_chain(tmp_path / "both.pem")

    certify(1)
    made = Quiet(("127.0.0.1", 0), Handler)
    made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield double, f"https://127.0.0.1:{made.server_port}", certify
    made.shutdown()
    thread.join()
    made.server_close()


def test_token_and_authority_are_read_anew_as_they_rotate(
    server: tuple[KubernetesDouble, str, Callable[[int], None]],
) -> None:
    double, url, certify = server
    jobs = KubeRay(Template.parse(TEMPLATE, GROUPS), url, double.folder)
    assert jobs.nodes() == []
    double.account = "account-2"
    with pytest.raises(RayUnavailable, match="does not take the service account's token"):
        jobs.nodes()
    (double.folder / "token").write_text("account-2\n")
    assert jobs.nodes() == []
    certify(2)
    with pytest.raises(RayUnavailable, match="ConnectError"):
        jobs.nodes()
    (double.folder / "ca.crt").write_text(authority(2)[0])
    assert jobs.nodes() == []
    jobs.close()


def test_doctor_says_whether_kubernetes_lets_it(
    server: tuple[KubernetesDouble, str, Callable[[int], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, url, _ = server
    (tmp_path / "rayjob.yaml").write_text(TEMPLATE)
    environment = {"YOSO_EXECUTOR": "rayjob", "YOSO_RAYJOB_TEMPLATE": str(tmp_path / "rayjob.yaml")}
    groups = json.dumps([group.model_dump() for group in GROUPS])
    chosen = Settings.from_environment(environment | {"YOSO_STORAGE": str(tmp_path), "YOSO_NODE_GROUPS": groups})
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert doctor.ray(chosen).state is doctor.State.UNSURE and "not run in a pod" in doctor.ray(chosen).told
    monkeypatch.setattr("service.dispatch.process.KubeRay", functools.partial(KubeRay, folder=double.folder))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", url.rpartition(":")[2])
    double.objects["yoso-s-1"] = rayjob()
    assert doctor.ray(chosen).state is doctor.State.GOOD and "1 RayJobs of Yoso" in doctor.ray(chosen).told
    double.denied = {"GET"}
    found = doctor.ray(chosen)
    assert found.state is doctor.State.BAD and "cannot GET" in found.told and "rayjobs" in found.remedy


# A dispatcher


class Cluster:
    """A service whose searches run as RayJobs."""

    def __init__(self, app: FastAPI, folder: Path, groups: tuple[NodeGroup, ...] = GROUPS) -> None:
        self.app, self.searches = app, seeding.parts(app).searches
        self.double = KubernetesDouble(folder, run_seconds=8.0, stop_seconds=2.0, linger_seconds=3.0, cpus=512, gpus=32)
        self.dispatcher = self.made(groups)

    def made(self, groups: tuple[NodeGroup, ...] = GROUPS) -> Dispatcher:
        runs = seeding.parts(self.app).runs
        return Dispatcher(self.searches, runs, self.double.kuberay(), python="python", node_groups=groups)

    def turn(self, seconds: float = 0.0, times: int = 2) -> None:
        for _ in range(times):
            self.double.advance(seconds / times)
            self.dispatcher.turn()

    def status(self, search_id: str) -> str:
        return str(self.searches.get(search_id).status)


@pytest.fixture
def cluster(app: FastAPI, tmp_path: Path) -> Cluster:
    return Cluster(app, tmp_path / "account")


def test_a_search_has_a_cluster_of_its_own_until_it_has_ended(cluster: Cluster) -> None:
    search_id = seeding.queue(cluster.app, workers=3)
    name = f"yoso-{search_id}-1"
    cluster.turn()
    assert cluster.status(search_id) == "running" and list(cluster.double.objects) == [name]
    cluster.double.logs[name] = "epoch 1\n"
    cluster.turn(8, times=4)
    assert cluster.status(search_id) == "finishing", "its cluster is still there"
    cluster.turn(3, times=4)
    assert cluster.status(search_id) == "succeeded" and cluster.double.objects == {}
    log = Path(seeding.parts(cluster.app).runs.path(search_id, "")) / "logs/driver-0001.log"
    assert log.read_text() == "epoch 1\n"
    assert cluster.double.violations == [] and cluster.double.in_use() == (0, 0)


def test_a_cancelled_search_ends_when_its_cluster_is_gone_and_its_log_is_kept(cluster: Cluster) -> None:
    search_id = seeding.queue(cluster.app)
    cluster.turn()
    cluster.double.logs[f"yoso-{search_id}-1"] = "epoch 1\n"
    cluster.searches.cancel(search_id)
    cluster.turn()
    assert cluster.status(search_id) == "cancelling" and cluster.double.stopped == [f"yoso-{search_id}-1"]
    cluster.turn(5, times=5)
    assert cluster.status(search_id) == "cancelled" and cluster.double.objects == {}
    assert seeding.parts(cluster.app).runs.path(search_id, "logs/driver-0001.log")
    assert (Path(seeding.parts(cluster.app).runs.path(search_id, "")) / "logs/driver-0001.log").exists()


@pytest.mark.parametrize("how", ["crash", "deleted", "restart"])
def test_an_attempt_that_is_lost_is_followed_by_another_with_a_cluster_of_its_own(cluster: Cluster, how: str) -> None:
    if how == "crash":
        cluster.double.once("crash")
    search_id = seeding.queue(cluster.app)
    cluster.turn()
    if how == "deleted":  # by somebody with kubectl
        cluster.double.kuberay().stop(f"yoso-{search_id}-1")
    if how == "restart":
        cluster.double.restart()
    cluster.turn(9, times=6)
    seeding.change(cluster.app, search_id, not_before=0.0)
    cluster.turn()
    assert list(cluster.double.objects) == [f"yoso-{search_id}-2"]
    cluster.turn(16, times=12)
    assert cluster.status(search_id) == "succeeded" and cluster.double.violations == []


def test_a_refusal_is_told_on_the_search_and_tried_again(cluster: Cluster) -> None:
    cluster.double.denied = {"POST"}
    search_id = seeding.queue(cluster.app)
    cluster.turn()
    search = cluster.searches.get(search_id)
    assert search.status == "launching" and 'cannot POST resource "rayjobs"' in (search.reason or "")
    cluster.double.denied = set()
    cluster.dispatcher._troubles.clear()
    cluster.turn()
    assert cluster.status(search_id) == "running"


def test_a_dispatcher_that_dies_behind_its_launch_is_followed_by_one_that_adopts_it(cluster: Cluster) -> None:
    search_id = seeding.queue(cluster.app)
    cluster.double.once("broken", "POST")
    cluster.dispatcher.turn()
    assert cluster.status(search_id) == "launching" and len(cluster.double.executions) == 1
    cluster.dispatcher.work.hand_back(cluster.dispatcher.held.values())
    cluster.dispatcher = cluster.made()
    cluster.turn(12, times=12)
    assert cluster.status(search_id) == "succeeded" and len(cluster.double.executions) == 1


def test_what_the_groups_cannot_hold_waits_in_the_queue_and_says_why(cluster: Cluster) -> None:
    first = seeding.queue(cluster.app, workers=2, gpus_per_worker=1, cpus_per_worker=32)
    second = seeding.queue(cluster.app)
    cluster.turn()
    assert (cluster.status(first), cluster.status(second)) == ("queued", "running")
    queue = seeding.parts(cluster.app).projects.queue(cluster.dispatcher.capacity or seeding.LARGE, 10)
    assert "those that may be added have room for 0" in queue.reason(queue.next[0])


def test_a_cluster_that_nobody_waits_for_is_deleted(cluster: Cluster) -> None:
    search_id = seeding.queue(cluster.app)
    cluster.turn()
    cluster.searches.cancel(search_id)
    cluster.turn(5, times=5)
    folder = seeding.parts(cluster.app).runs.url(search_id)
    late = cluster.double.kuberay()
    late.submit(f"yoso-{search_id}-1", f"python -m worker.job {folder}", {"YOSO_ATTEMPT": "1"}, Ask(search_id, 1, 1, 0))
    cluster.dispatcher._swept = float("-inf")
    cluster.turn(5, times=3)
    assert cluster.double.objects == {} and cluster.double.violations == []
