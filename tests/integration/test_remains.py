"""What is left in a real Ray of a job that was stopped, and that nothing is in the end."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.dispatch.executors.port import JobStatus
from service.dispatch.executors.ray_jobs import RayJobs
from service.dispatch.local_ray import LocalRay
from service.domain.scheduling import RayUnavailable
from tests.ray_starts import alone

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(900)]
PATIENCE = 300.0

DRIVER = """
    import pathlib, signal, sys, threading, time
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if "deaf" in sys.argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    ray.init()
    group = placement_group([{"CPU": 0.1}])
    ray.get(group.ready())

    @ray.remote(num_cpus=0)
    class Shared:
        def ready(self): pass

    @ray.remote(num_cpus=0.1)
    class Worker:
        def ready(self): pass

    @ray.remote(num_cpus=0)
    class Cleaner:  # detached like Ray Train's PlacementGroupCleaner, it ends some time after the driver
        def __init__(self, file):
            threading.Thread(target=self.wait, args=(pathlib.Path(file),), daemon=True).start()
        def wait(self, file):
            while not file.exists():
                time.sleep(0.05)
            ray.kill(ray.get_runtime_context().current_actor)
        def ready(self): pass

    strategy = PlacementGroupSchedulingStrategy(group)
    actors = [Worker.options(scheduling_strategy=strategy).remote(), Worker.remote()]
    actors += [Shared.options(name="shared", namespace="shared", lifetime="detached", get_if_exists=True).remote()]
    actors += [Cleaner.options(lifetime="detached").remote(sys.argv[1])]
    ray.get([actor.ready.remote() for actor in actors])
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayJobs]:
    ray = LocalRay(tmp_path_factory.mktemp("ray"))
    with alone():
        ray.ensure()
        made = RayJobs(ray.endpoint, PATIENCE)
        wait(lambda: knows_nodes(made), "the node is known")
    yield made
    made.close()
    ray.stop()


def submit(jobs: RayJobs, submission_id: str, entrypoint: str, environment: dict[str, str]) -> None:
    """Launch a job, as soon as Ray's agents let it."""

    def taken() -> bool:
        try:
            jobs.submit(submission_id, entrypoint, environment)
        except RayUnavailable:
            return False
        return True

    wait(taken, "the job is taken")


def knows_nodes(jobs: RayJobs) -> bool:
    """Whether Ray tells of a node; the part of its dashboard that does so comes up after the others."""
    try:
        return jobs.nodes() != []
    except RayUnavailable:
        return False


def wait(for_what: Callable[[], bool], told: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not for_what():
        assert time.monotonic() < give_up, f"not yet: {told}"
        time.sleep(0.1)


def status(jobs: RayJobs, submission_id: str) -> JobStatus | None:
    job = jobs.job(submission_id)
    return job.status if job else None


def test_the_local_node_is_known_with_what_it_has(jobs: RayJobs) -> None:
    (node,) = jobs.nodes()
    assert node.alive and node.head and node.cpus >= 1 and node.memory > 0 and node.ip and node.id
    assert node.labels["ray.io/node-id"] == node.id


@pytest.mark.parametrize("how", ["orderly", "deaf"])
def test_what_remains_of_a_stopped_job_goes_from_everything_to_nothing(jobs: RayJobs, tmp_path: Path, how: str) -> None:
    script, leave, submission_id = tmp_path / "driver.py", tmp_path / "leave", f"yoso-{how}-1"
    script.write_text(textwrap.dedent(DRIVER))
    environment = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "3"}
    submit(jobs, submission_id, f"{sys.executable} {script} {leave} {how}", environment)
    wait(lambda: "ready" in jobs.logs(submission_id) or status(jobs, submission_id) == JobStatus.FAILED, "it runs")
    before = jobs.remains(submission_id)
    kinds = ["the job's supervisor", "actor Cleaner", "actor Worker", "placement group"]
    assert [sum(one.startswith(kind) for one in before) for kind in kinds] == [1, 1, 2, 1], before
    assert len(before) == 5, "what all jobs share is not counted"

    jobs.stop(submission_id)
    wait(lambda: status(jobs, submission_id) == JobStatus.STOPPED, "it is stopped")
    wait(lambda: jobs.remains(submission_id) == ["actor Cleaner, ALIVE"], "only the detached actor is left")
    leave.touch()
    wait(lambda: jobs.remains(submission_id) == [], "nothing is left")

    def forgotten() -> bool:
        """Ray's own monitor may note the end of a job once more that was just deleted."""
        jobs.delete(submission_id)
        return jobs.job(submission_id) is None

    wait(forgotten, "Ray knows it no more")
    assert jobs.remains(submission_id) == []


def test_a_job_whose_driver_never_connected_leaves_nothing(jobs: RayJobs) -> None:
    jobs.submit("yoso-plain-1", "true", {})
    wait(lambda: status(jobs, "yoso-plain-1") == JobStatus.SUCCEEDED, "it ends")
    job = jobs.job("yoso-plain-1")
    assert job is not None and job.driver_job_id is None and jobs.remains("yoso-plain-1") == []
