"""What a dispatcher may rely on, of a Ray cluster for all and of KubeRay's clusters alike."""

import threading
from pathlib import Path
from typing import Any

import pytest

from service.dispatch.executors.port import Executor, JobStatus
from service.domain.scheduling import Ask, RayUnavailable
from service.folders.runs import Runs
from tests import seeding
from tests.kubernetes_double import KubernetesDouble
from tests.ray_double import RayDouble


class Case:
    """A double with a client, and searches whose folders have a specification."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.runs = Runs(str(folder))
        given: dict[str, Any] = {"run_seconds": 8.0, "stop_seconds": 2.0, "linger_seconds": 3.0, "cpus": 8.0}
        self.double: RayDouble
        self.jobs: Executor
        if kind == "ray":
            self.double = RayDouble(**given)
            self.jobs = self.double.ray_jobs()
        else:
            self.double = kubernetes = KubernetesDouble(folder / "account", **given)
            self.jobs = kubernetes.kuberay()

    def submit(self, search_id: str = "s", attempt: int = 1, workers: int = 2) -> str:
        submission_id = f"yoso-{search_id}-{attempt}"
        spec = {"workers": workers, "cpus_per_worker": 2, "gpus_per_worker": 0, "budgets": seeding.BUDGETS}
        self.runs.write_spec(search_id, spec | {"attempt": attempt}, ())
        entrypoint = f"python -m worker.job {self.runs.url(search_id)}"
        ask = Ask(search_id, workers, 2 * workers, 0)
        self.jobs.submit(submission_id, entrypoint, {"YOSO_ATTEMPT": str(attempt)}, ask)
        return submission_id

    def status(self, submission_id: str) -> JobStatus | None:
        job = self.jobs.job(submission_id)
        return job.status if job else None


@pytest.fixture(params=["ray", "kuberay"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param, tmp_path)


def test_a_job_runs_to_its_end_and_holds_what_it_has_until_it_is_gone(case: Case) -> None:
    case.double.start_seconds = 1.0
    job = case.submit()
    assert case.status(job) == JobStatus.PENDING
    case.double.advance(1)
    assert case.status(job) == JobStatus.RUNNING and case.jobs.running() == [job]
    assert case.double.in_use() == (4, 0)
    case.double.advance(8)
    assert case.status(job) == JobStatus.SUCCEEDED and case.jobs.remains(job) != []
    assert case.runs.read_json("s", "result.json") is not None
    case.jobs.stop(job)
    case.double.advance(3)
    assert case.jobs.remains(job) == [] and case.jobs.running() == [] and case.double.in_use() == (0, 0)
    assert case.double.violations == []


def test_an_attempt_that_is_there_is_adopted_and_never_run_twice(case: Case) -> None:
    job = case.submit()
    case.submit()
    assert case.double.submitted == [job] and len(case.double.executions) == 1
    case.double.advance(8)
    case.submit()
    assert len(case.double.executions) == 1


@pytest.mark.parametrize(("fault", "told"), [("broken", True), ("error_before", True), ("error_after", False)])
def test_a_launch_whose_answer_is_lost_is_done_once(case: Case, fault: str, told: bool) -> None:
    case.double.once(fault, "POST")
    if told:
        with pytest.raises(RayUnavailable):
            case.submit()
    else:
        case.submit()
    assert case.double.struck[fault] == 1
    case.submit()
    assert len(case.double.executions) == 1 and case.double.violations == []


def test_a_job_that_is_stopped_ends_and_a_stop_may_come_again(case: Case) -> None:
    job = case.submit()
    for _ in range(3):
        case.jobs.stop(job)
    assert case.jobs.remains(job) != [] and case.double.in_use() == (4, 0)
    case.double.advance(2)
    ended = case.jobs.job(job)
    assert ended is not None and ended.status == JobStatus.STOPPED
    case.double.advance(3)
    case.jobs.stop(job)
    assert case.jobs.remains(job) == [] and case.double.in_use() == (0, 0)
    case.double.advance(100)
    assert case.runs.read_json("s", "result.json") is None


def test_a_stop_whose_answer_is_lost_is_done(case: Case) -> None:
    job = case.submit()
    for fault in ("broken", "error_after"):
        case.double.once(fault, "DELETE" if isinstance(case.double, KubernetesDouble) else "POST")
        with pytest.raises(RayUnavailable):
            case.jobs.stop(job)
    case.double.advance(5)
    assert case.jobs.remains(job) == [] and case.double.in_use() == (0, 0)


@pytest.mark.parametrize("fault", ["crash", "error", "fatal"])
def test_a_job_that_fails_is_told_to_have_failed(case: Case, fault: str) -> None:
    case.double.once(fault)
    job = case.submit()
    case.double.advance(100)
    failed = case.jobs.job(job)
    assert failed is not None and failed.status == JobStatus.FAILED and "exit code 1" in failed.message


def test_what_is_unknown_is_nothing_and_stays_so(case: Case) -> None:
    job = "yoso-s-1"
    assert case.jobs.job(job) is None and case.jobs.remains(job) == [] and case.jobs.logs(job) == ""
    case.jobs.stop(job)
    case.jobs.delete(job)
    assert case.jobs.running() == []


def test_what_is_lost_is_unknown(case: Case) -> None:
    job = case.submit()
    case.double.restart()
    assert case.jobs.job(job) is None and case.jobs.remains(job) == [] and case.jobs.running() == []
    case.submit(attempt=2)
    assert case.double.violations == []


def test_a_job_that_runs_is_not_forgotten_and_one_that_has_ended_is(case: Case) -> None:
    job = case.submit()
    with pytest.raises(RayUnavailable, match="non-terminal"):
        case.jobs.delete(job)
    assert case.status(job) == JobStatus.RUNNING
    case.double.advance(8)
    case.jobs.delete(job)
    case.double.advance(3)
    assert case.jobs.job(job) is None


def test_a_driver_s_log_is_there_while_it_runs_and_when_it_has_ended(case: Case) -> None:
    job = case.submit()
    case.double.logs[job] = "epoch 1\n"
    assert case.jobs.logs(job) == "epoch 1\n"
    case.double.advance(8)
    assert case.jobs.logs(job) == "epoch 1\n"


def test_two_searches_are_two_jobs(case: Case) -> None:
    first, second = case.submit("a"), case.submit("b")
    assert sorted(case.jobs.running()) == [first, second]
    case.jobs.stop(first)
    case.double.advance(5)
    assert case.jobs.running() == [second] and case.status(second) == JobStatus.RUNNING


def test_several_threads_use_one_client(case: Case) -> None:
    job, wrong = case.submit(), []

    def ask() -> None:
        for _ in range(20):
            if case.status(job) != JobStatus.RUNNING or case.jobs.running() != [job]:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    case.jobs.close()
    assert not wrong
