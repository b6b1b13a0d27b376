"""A search on a Ray whose own autoscaler adds its nodes, one of which is preempted (`make soak-cluster`)."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.util import get_node_ip_address

from service.dispatch.dispatcher import Dispatcher
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.dispatch.local_ray import AGENTS, answers, free_ports, session_members
from service.domain.lifecycle import TERMINAL
from service.domain.node_groups import NodeGroup
from tests import seeding
from tests.integration.test_cluster import SEARCH, soon, until
from tests.ray_starts import alone

pytestmark = [pytest.mark.slow, pytest.mark.proof]
SPOT = NodeGroup(name="spot", max_nodes=2, cpus=1, accelerator_types=("TEST",))
HEAD = "ray.head.default"


class Growing:
    """A Ray whose head runs no workers, and whose autoscaler starts nodes of the group SPOT as processes here."""

    def __init__(self, folder: Path) -> None:
        gcs, dashboard, client, *agents = free_ports(3 + len(AGENTS))
        address = get_node_ip_address()  # type: ignore[no-untyped-call]
        commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        config: dict[str, Any] = {f"{one}_commands": [] for one in commands} | {
            "cluster_name": "spot",
            "max_workers": SPOT.max_nodes,
            "idle_timeout_minutes": 0.2,
            "upscaling_speed": 1.0,
            "provider": {
                "type": "external", "module": "tests.spot_nodes.SpotNodes",
                "gcs_address": f"{address}:{gcs}", "disable_node_updaters": True,
                "use_node_id_as_ip": True,
            },
            "auth": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "head_node_type": HEAD,
            "available_node_types": {
                HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                SPOT.name: {
                    "resources": {"CPU": SPOT.cpus, "accelerator_type:TEST": 1},
                    "node_config": {}, "min_workers": 0, "max_workers": SPOT.max_nodes,
                },
            },
        }  # fmt: skip
        (folder / "autoscaling.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={gcs}"]
        command += ["--num-cpus=0", f"--autoscaling-config={folder}/autoscaling.yaml"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
        command += [f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--{name}={port}" for name, port in zip(AGENTS, agents, strict=True)]
        self.endpoint = Endpoint(f"http://127.0.0.1:{dashboard}")
        self.child = subprocess.Popen(command, start_new_session=True)

    def nodes(self) -> int:
        """How many nodes are alive besides the head."""
        told = httpx.get(f"{self.endpoint.url}/api/v0/nodes?detail=1", timeout=30).json()
        return sum(one["state"] == "ALIVE" and not one["is_head_node"] for one in told["data"]["result"]["result"])

    def preempt(self) -> None:
        """Kill a node that the autoscaler has added, as a cloud takes a spot instance away."""
        for pid in session_members(self.child.pid):
            process = Path("/proc") / str(pid)
            raylet = (process / "cmdline").read_bytes().split(b"\0")[0].endswith(b"/raylet")
            if raylet and b"RAY_NODE_TYPE_NAME=spot\0" in (process / "environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return
        raise AssertionError("no such node")

    def stop(self) -> None:
        """Kill all of it."""
        while left := session_members(self.child.pid):
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            self.child.poll()
            time.sleep(0.1)
        self.child.wait()


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Growing]:
    soon(monkeypatch, RAY_FAKE_CLUSTER="1", RAY_AUTH_MODE="disabled", AUTOSCALER_UPDATE_INTERVAL_S="1")
    made = Growing(tmp_path)
    try:
        with alone():
            until(lambda: made.child.poll() is not None or answers(made.endpoint), "Ray answers")
        yield made
    finally:
        made.stop()


@pytest.mark.timeout(1200)
def test_a_search_gets_its_node_loses_it_gets_another_and_the_last_one_goes(ray: Growing, tmp_path: Path) -> None:
    """The cluster has no node for it, grows by one, which is killed with SIGKILL, by another, and shrinks to none."""
    app = seeding.make_app(tmp_path, node_groups=(SPOT,))
    context = seeding.parts(app)
    jobs = RayJobs(lambda: ray.endpoint)
    dispatching = Dispatcher(context.searches, context.runs, jobs, python=sys.executable, node_groups=(SPOT,))
    thread = threading.Thread(target=dispatching.run)
    search_id = seeding.queue(app, **SEARCH | {"workers": 1})

    def lines(kind: str) -> list[dict[str, Any]]:
        search = context.searches.get(search_id)
        assert search.status not in TERMINAL or search.status == "succeeded", search.error
        return [event.data for event in context.searches.events(search_id, kind=kind, limit=5000)]

    thread.start()
    try:
        assert ray.nodes() == 0
        until(lambda: lines("checkpoint"), "a checkpoint on a node that was added")
        assert ray.nodes() == 1
        ray.preempt()
        until(lambda: len(lines("started")) > 1, "another start")
        until(lambda: context.searches.get(search_id).status in TERMINAL, "it ends")
        starts = [one["resumed"] for one in lines("started")]
        assert starts[0] is False and all(starts[1:])
        epochs = {(one["phase"], one["epoch"]) for one in lines("epoch")}
        assert len(epochs) == 1 + SEARCH["settings"]["search_epochs"] + 1, "every epoch, whoever trained it"
        until(lambda: ray.nodes() == 0, "the idle node goes")
    finally:
        dispatching.stop()
        thread.join()
        jobs.close()
        context.searches.engine.dispose()
