"""The double itself: a job plays a worker's part, and every fault is as it says."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.dispatch.executors.port import JobStatus
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.domain.lifecycle import Status
from service.domain.scheduling import RayUnavailable
from service.folders.runs import Runs
from service.store.work import Work
from tests import seeding
from tests.ray_double import RayDouble, ray_double


class Case:
    """A double in the process, its client, and searches whose folders have a specification."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.runs = Runs(str(folder))
        self.double = RayDouble(**({"run_seconds": 8.0, "stop_seconds": 2.0, "linger_seconds": 3.0} | settings))
        self.jobs = self.double.ray_jobs()

    def submit(self, search_id: str = "s", attempt: int = 1, workers: int = 1) -> str:
        submission_id = f"yoso-{search_id}-{attempt}"
        spec = {"workers": workers, "cpus_per_worker": 2, "gpus_per_worker": 0, "budgets": seeding.BUDGETS}
        self.runs.write_spec(search_id, spec | {"attempt": attempt}, ())
        entrypoint = f"python -m worker.job {self.runs.url(search_id)}"
        self.jobs.submit(submission_id, entrypoint, {"YOSO_ATTEMPT": str(attempt)})
        return submission_id

    def status(self, submission_id: str) -> JobStatus | None:
        job = self.jobs.job(submission_id)
        return job.status if job else None

    def kinds(self, search_id: str = "s") -> list[str]:
        return [line["kind"] for _, lines in self.runs.chunks(search_id, "") for line in lines]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Case]:
    return lambda **settings: Case(tmp_path, **settings)


def test_a_job_leaves_step_by_step_what_a_worker_would(make: Callable[..., Case]) -> None:
    case = make()
    job = case.submit()
    assert case.status(job) == JobStatus.RUNNING and case.kinds() == ["started"]
    case.double.advance(4)
    assert case.kinds() == ["started", "epoch", "epoch"] and case.runs.read_json("s", "result.json") is None
    case.double.advance(4)
    assert case.status(job) == JobStatus.SUCCEEDED and case.jobs.remains(job) != []
    case.double.advance(case.double.linger_seconds)
    assert case.jobs.remains(job) == []
    assert case.kinds() == ["started", *["epoch"] * 3, *["retrained"] * 2]
    result = case.runs.read_json("s", "result.json")
    assert result is not None and [one["budget"] for one in result["architectures"]] == seeding.BUDGETS
    assert case.double.violations == [] and case.double.report()["searches"]["s"]["ran"] == [job]


def test_time_that_passes_in_one_step_or_in_many_leaves_the_same(make: Callable[..., Case]) -> None:
    case = make(start_seconds=3.0)
    one = case.submit("one")
    assert case.status(one) == JobStatus.PENDING
    case.double.advance(100)
    many = case.submit("many")
    for _ in range(10):
        assert case.runs.read_json("many", "result.json") is None
        case.double.advance(1)
    case.double.advance(1)
    assert case.status(one) == case.status(many) == JobStatus.SUCCEEDED
    assert case.kinds("one") == case.kinds("many")


def test_what_a_job_left_is_a_result_to_the_service(tmp_path: Path) -> None:
    app = seeding.make_app(tmp_path)
    search_id = seeding.queue(app)
    inside = seeding.parts(app)
    work = Work(inside.searches.engine)
    token = next(one.lease_token or "" for one in work.claim("one", seeding.LARGE) if one.id == search_id)
    inside.runs.write_spec(search_id, inside.searches.get(search_id).spec | {"attempt": 1}, ())
    double = RayDouble(run_seconds=1, storage=inside.runs.storage)
    double.ray_jobs().submit(
        f"yoso-{search_id}-1", f"python -m worker.job {inside.runs.url(search_id)}", {"YOSO_ATTEMPT": "1"}
    )
    double.advance(1)
    work.move(search_id, token, Status.WAITING)
    for name, lines in inside.runs.chunks(search_id, ""):
        work.follow(search_id, token, name, lines)
    work.move(search_id, token, Status.FINISHING)
    work.succeed(search_id, token, inside.runs.read_json(search_id, "result.json") or {})
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        seen = client.get(f"/api/v1/searches/{search_id}").json()
        assert seen["status"] == "succeeded" and len(seen["architectures"]) == 2
        for one in seen["architectures"]:
            assert client.get(f"/api/v1/architectures/{one['id']}.svg").status_code == 200
            assert all(client.get(path).status_code == 200 for path in one["files"].values())
    inside.searches.engine.dispose()


def test_a_job_that_is_stopped_ends_later_and_its_actors_later_still(make: Callable[..., Case]) -> None:
    case = make(stop_seconds=1.5)
    job = case.submit()
    case.jobs.stop(job)
    case.jobs.stop(job)
    assert case.status(job) == JobStatus.RUNNING
    assert len(case.jobs.remains(job)) == 5  # supervisor, controller, cleaner, worker, placement group
    case.double.advance(1.5)
    assert case.status(job) == JobStatus.STOPPED and len(case.jobs.remains(job)) == 3
    assert case.double.in_use() == (2, 0)
    case.double.advance(3)
    assert case.jobs.remains(job) == [] and case.double.in_use() == (0, 0)
    case.double.advance(100)
    assert case.kinds() == ["started"]


def test_a_job_may_end_well_while_it_is_stopped(make: Callable[..., Case]) -> None:
    case = make(stop_seconds=5.0)
    job = case.submit()
    case.double.advance(7)
    case.jobs.stop(job)
    case.double.advance(1)
    assert case.status(job) == JobStatus.STOPPED and case.runs.read_json("s", "result.json") is not None


def test_an_id_is_refused_until_its_job_is_deleted(make: Callable[..., Case]) -> None:
    case = make()
    job = case.submit()
    case.submit()
    assert case.double.submitted == [job]
    with pytest.raises(RayUnavailable, match="non-terminal"):
        case.jobs.delete(job)
    case.double.advance(8)
    case.jobs.delete(job)
    assert case.status(job) is None
    case.submit()
    assert case.double.submitted == [job, job] and case.status(job) == JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("fault", "done"), [("broken", True), ("error_after", True), ("error_before", False), ("restart", True)]
)
def test_a_request_is_done_or_not_as_the_fault_says(make: Callable[..., Case], fault: str, done: bool) -> None:
    case = make()
    case.double.once(fault, "POST")
    if fault in ("broken", "error_before"):
        with pytest.raises(RayUnavailable):
            case.submit()
    else:
        case.submit()
    assert case.double.struck[fault] == 1 and (case.double.jobs != {}) == done
    case.submit()
    assert len(case.double.executions) == 1


@pytest.mark.parametrize(("fault", "written"), [("crash", None), ("error", True), ("fatal", False)])
def test_a_job_that_fails_says_so_in_its_folder_or_not(
    make: Callable[..., Case], fault: str, written: bool | None
) -> None:
    case = make()
    case.double.once(fault)
    job = case.submit()
    case.double.advance(100)
    told = case.runs.read_json("s", "error.json")
    assert case.status(job) == JobStatus.FAILED and case.runs.read_json("s", "result.json") is None
    assert (told and told["retryable"]) == written


def test_a_job_may_be_said_to_have_failed_whose_result_is_there(make: Callable[..., Case]) -> None:
    case = make()
    case.double.once("false_failure")
    job = case.submit()
    case.double.advance(8)
    assert case.status(job) == JobStatus.FAILED and case.runs.read_json("s", "result.json") is not None


def test_a_forgotten_job_goes_on_and_its_name_stays_taken(make: Callable[..., Case]) -> None:
    case = make()
    job = case.submit()
    case.double.once("forgotten")
    assert case.status(job) is None
    case.submit()
    assert case.status(job) == JobStatus.FAILED and len(case.double.executions) == 1
    case.submit(attempt=2)
    assert case.double.violations == [], "nobody could know of the first"
    case.double.advance(8)
    assert case.runs.read_json("s", "result.json") is not None


def test_a_restart_ends_all_jobs_where_they_stand(make: Callable[..., Case]) -> None:
    case = make()
    jobs = [case.submit("a"), case.submit("b")]
    case.double.restart()
    case.double.advance(100)
    assert [case.status(job) for job in jobs] == [None, None]
    assert case.kinds("a") == ["started"] and case.double.in_use() == (0, 0)
    assert case.submit("a", attempt=2) and case.double.violations == []


def test_a_cluster_may_have_no_nodes(make: Callable[..., Case]) -> None:
    case = make()
    case.double.once("no_nodes")
    assert case.jobs.nodes() == []
    assert [node.cpus for node in case.jobs.nodes()] == [8]


def test_two_jobs_of_a_search_and_too_many_jobs_are_violations(make: Callable[..., Case]) -> None:
    case = make(cpus=4)
    case.submit("a")
    case.submit("a", attempt=2)
    assert case.double.violations == ["yoso-a-2 was launched while yoso-a-1 was there"]
    case.submit("b")
    assert case.double.violations[1:] == ["yoso-b-1 was launched and 6 CPUs and 0 GPUs are in use, of 4 and 0"]
    assert case.double.peak_cpus == 6


def test_actors_that_stay_after_a_stop_count(make: Callable[..., Case]) -> None:
    case = make(cpus=2)
    case.jobs.stop(case.submit("a"))
    case.double.advance(2)
    case.submit("b")
    assert len(case.double.violations) == 1


def test_faults_are_the_same_for_the_same_seed(make: Callable[..., Case]) -> None:
    def outcomes(seed: int) -> list[bool]:
        case = make(seed=seed)
        case.double.faults.error_before = 0.5
        told = []
        for _ in range(30):
            try:
                case.jobs.nodes()
                told.append(True)
            except RayUnavailable:
                told.append(False)
        return told

    assert outcomes(1) == outcomes(1) != outcomes(2)


def test_a_job_outside_of_the_storage_is_refused(make: Callable[..., Case], tmp_path: Path) -> None:
    case = make(storage=str(tmp_path / "elsewhere"))
    with pytest.raises(RayUnavailable, match="outside"):
        case.submit()
    assert len(case.double.violations) == 1


def test_behind_a_socket_a_broken_connection_is_one(tmp_path: Path) -> None:
    with ray_double(RayDouble()) as double:
        jobs = RayJobs(lambda: double.endpoint, seconds=5)
        double.once("broken")
        with pytest.raises(RayUnavailable, match="RemoteProtocolError"):
            jobs.nodes()
        assert len(jobs.nodes()) == 1
        jobs.close()


def test_as_a_process_it_prints_its_port_and_keeps_real_time(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.ray_double", "--storage", str(tmp_path), "--run-seconds", "0.4"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            case = Case(tmp_path)
            case.jobs = RayJobs(lambda: Endpoint(url, "token"))
            job = case.submit()
            for _ in range(10_000):
                if case.status(job) == JobStatus.SUCCEEDED:
                    break
            assert case.runs.read_json("s", "result.json") is not None
            settings = {"set": {"cpus": 3.0}, "faults": {"crash": 0.25}, "once": ["no_nodes"]}
            report = httpx.post(f"{url}/double", content=json.dumps(settings)).json()
            assert report["searches"] == {"s": {"submitted": [job], "ran": [job], "running": 0}}
            assert report["violations"] == [] and report["peak_cpus"] == 2
            assert [[node.cpus for node in case.jobs.nodes()] for _ in range(2)] == [[], [3]]
            case.jobs.close()
        finally:
            process.kill()
