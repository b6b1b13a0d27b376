"""The dispatcher against a Ray that keeps jobs and runs nothing: what it promises when things go wrong."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from nas_core.files import FILES
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.executors.ray_jobs import RayJobs
from service.domain.lifecycle import MAX_ATTEMPTS
from service.store.models import Search
from service.store.searches import Searches
from service.store.work import Work
from tests import seeding
from tests.ray_double import RayDouble


class Service:
    """A service's store and folders, with dispatchers that come and go."""

    def __init__(self, app: FastAPI, ray: RayDouble) -> None:
        self.app, self.ray = app, ray
        self.searches: Searches = seeding.parts(app).searches
        self.clients: list[RayJobs] = []

    def dispatcher(self, owner: str = "one") -> Dispatcher:
        self.clients.append(RayJobs(lambda: self.ray.endpoint, seconds=5))
        made = Dispatcher(self.searches, seeding.parts(self.app).runs, self.clients[-1], python="python")
        made.owner = owner
        return made

    def queue(self, **fields: Any) -> str:
        return seeding.queue(self.app, **fields)

    def status(self, search_id: str) -> str:
        return str(self.searches.get(search_id).status)

    def statuses(self, search_id: str) -> list[str]:
        return [event.data["status"] for event in self.searches.events(search_id, kind="status")]

    def folder(self, search_id: str) -> Path:
        return Path(seeding.parts(self.app).runs.path(search_id, ""))

    def journal(self, search_id: str, chunk: str, *lines: dict[str, Any]) -> None:
        path = self.folder(search_id) / "journal" / f"{chunk}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        attempt = int(chunk[:4])
        path.write_text("".join(json.dumps({"time": 1.0, "attempt": attempt} | line) + "\n" for line in lines))

    def result(self, search_id: str) -> None:
        found = [seeding.result(budget) | {"files": FILES} for budget in seeding.BUDGETS]
        (self.folder(search_id) / "result.json").write_text(json.dumps({"architectures": found}))

    def error(self, search_id: str, attempt: int, retryable: bool) -> None:
        told = {"attempt": attempt, "kind": "data", "message": "unreadable", "retryable": retryable}
        (self.folder(search_id) / "error.json").write_text(json.dumps(told))

    def set(self, search_id: str, **columns: Any) -> None:
        """Change a search behind everybody's back, as time or a crash would."""
        seeding.change(self.app, search_id, **columns)

    def close(self) -> None:
        for client in self.clients:
            client.close()


def begin(service: Service, search_id: str, dispatcher: Dispatcher, attempt: int = 1) -> None:
    """Turn until the search runs."""
    dispatcher.turn()
    assert service.status(search_id) == "waiting"
    service.journal(search_id, f"{attempt:04d}-000001", {"kind": "started", "resumed": attempt > 1, "workers": 1})
    dispatcher.turn()
    assert service.status(search_id) == "running"


def test_a_search_goes_from_the_queue_to_its_networks(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    body = service.ray.jobs[f"yoso-{search_id}-1"]["body"]
    assert body["entrypoint"] == f"python -m worker.job {service.folder(search_id)}"
    assert body["runtime_env"]["env_vars"]["YOSO_ATTEMPT"] == "1"
    assert (seeding.parts(service.app).runs.read_json(search_id, "spec.json") or {})["budgets"] == seeding.BUDGETS
    service.journal(search_id, "0001-000002", seeding.epoch("search", 3, 30, 0.25))
    dispatcher.turn()
    search = service.searches.get(search_id)
    assert (search.phase, search.progress) == ("search", 0.25)
    service.result(search_id)
    service.ray.end(search_id, "SUCCEEDED")
    dispatcher.turn()
    assert service.statuses(search_id) == ["queued", "launching", "waiting", "running", "finishing", "succeeded"]
    assert [row.budget for row in service.searches.architectures([search_id])[search_id]] == seeding.BUDGETS
    assert service.ray.jobs == {}, "Ray need not remember what is in the folder"
    dispatcher.turn()
    assert service.ray.submitted == [f"yoso-{search_id}-1"]


def test_a_job_that_ray_calls_failed_but_whose_result_is_there_has_succeeded(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.result(search_id)
    service.ray.end(search_id, "FAILED", message="lost the node after the result was written")
    dispatcher.turn()
    assert service.status(search_id) == "succeeded"


def test_a_search_keeps_its_slot_until_its_driver_has_left(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.ray.cpus = 1
    first, second, dispatcher = service.queue(), service.queue(), service.dispatcher()
    begin(service, first, dispatcher)
    service.result(first)
    for _ in range(2):
        dispatcher.turn()
    assert (service.status(first), service.status(second)) == ("finishing", "queued")
    assert service.ray.stopped == [], "it has time to leave by itself"
    monkeypatch.setattr("service.dispatch.dispatcher.LEAVE_SECONDS", 0.0)
    dispatcher.turn()
    assert service.ray.stopped == [f"yoso-{first}-1"]
    service.ray.end(first, "STOPPED")
    for _ in range(2):
        dispatcher.turn()
    assert (service.status(first), service.status(second)) == ("succeeded", "waiting")
    assert service.ray.violations == []


def test_a_dispatcher_that_dies_when_it_has_read_that_a_search_runs_leaves_it_running(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    dispatcher.turn()
    service.journal(search_id, "0001-000001", {"kind": "started", "resumed": False, "workers": 1})
    follow = dispatcher.work.follow

    def die(*arguments: Any) -> None:
        follow(*arguments)
        raise RuntimeError("killed")

    monkeypatch.setattr(dispatcher.work, "follow", die)
    dispatcher.turn()
    assert service.status(search_id) == "running" and service.searches.get(search_id).started_at is not None


def test_a_dispatcher_that_wakes_up_leaves_the_folder_to_a_later_attempt(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, sleeper = service.queue(), service.dispatcher("sleeper")
    work, get = Work(service.searches.engine), service.searches.get

    def sleep(wanted: str) -> Search:
        known = get(wanted)
        service.set(search_id, lease_token=None)
        [search] = work.take_over("other")
        work.try_again(search_id, search.lease_token or "", 0.0)
        [search] = work.claim("other", seeding.LARGE)
        seeding.parts(service.app).runs.write_spec(search_id, search.spec | {"attempt": search.attempt}, ())
        return known

    monkeypatch.setattr(sleeper.searches, "get", sleep)
    sleeper.turn()
    monkeypatch.undo()
    assert (seeding.parts(service.app).runs.read_json(search_id, "spec.json") or {})["attempt"] == 2
    assert service.ray.submitted == [] and sleeper.held == {}


def test_a_dispatcher_that_died_between_noting_and_launching_is_followed_by_one_that_launches(service: Service) -> None:
    search_id = service.queue()
    Work(service.searches.engine).claim("one", seeding.LARGE)
    assert service.status(search_id) == "launching" and service.ray.submitted == []
    service.set(search_id, lease_token=None)
    second = service.dispatcher("two")
    second.turn()
    assert service.ray.submitted == [f"yoso-{search_id}-1"] and service.status(search_id) == "waiting"


def test_a_launch_whose_answer_was_lost_is_not_repeated(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    dispatcher._measure()
    service.ray.drop_answers = True
    dispatcher.turn()
    assert service.status(search_id) == "launching" and service.ray.submitted == [f"yoso-{search_id}-1"]
    service.ray.drop_answers = False
    dispatcher.turn()
    assert service.status(search_id) == "waiting" and len(service.ray.jobs) == 1


def test_what_a_stale_dispatcher_writes_is_dropped(service: Service) -> None:
    search_id, stale = service.queue(), service.dispatcher("stale")
    begin(service, search_id, stale)
    service.set(search_id, lease_token=None)
    fresh = service.dispatcher("fresh")
    fresh.turn()
    assert service.searches.get(search_id).lease_owner == "fresh"
    before = len(service.searches.events(search_id))
    service.journal(search_id, "0001-000002", seeding.epoch("search", 3, 30, 0.25))
    service.result(search_id)
    service.ray.end(search_id, "SUCCEEDED")
    stale.turn()
    assert stale.held == {} and len(service.searches.events(search_id)) == before
    fresh.turn()
    assert service.status(search_id) == "succeeded"
    seqs = [event.seq for event in service.searches.events(search_id)]
    assert seqs == sorted(set(seqs))


def test_two_dispatchers_share_the_work_and_launch_nothing_twice(service: Service) -> None:
    ids = [service.queue() for _ in range(4)]
    dispatchers = [service.dispatcher("one"), service.dispatcher("two")]
    for _ in range(3):
        for dispatcher in dispatchers:
            dispatcher.turn()
    assert sorted(service.ray.submitted) == sorted(f"yoso-{search_id}-1" for search_id in ids)
    assert not set(dispatchers[0].held) & set(dispatchers[1].held)


def test_a_search_that_does_not_fit_waits_and_says_why(service: Service) -> None:
    service.ray.cpus = 2
    first, second, third = service.queue(workers=2), service.queue(workers=2), service.queue()
    dispatcher = service.dispatcher()
    dispatcher.turn()
    dispatcher.turn()
    assert [service.status(search_id) for search_id in (first, second, third)] == ["waiting", "queued", "queued"]
    queue = seeding.parts(service.app).projects.queue(dispatcher.capacity or seeding.LARGE, 10)
    assert [one.id for one in queue.holders] == [first] and [one.id for one in queue.next] == [second, third]
    assert queue.reason(queue.next[0]) == "all resources of the cluster are in use or reserved"
    assert queue.reason(queue.next[1]) == f"behind {second} in project default"
    service.searches.cancel(first)
    service.ray.end(first, "STOPPED")
    dispatcher.turn()
    dispatcher.turn()
    assert service.status(first) == "cancelled" and service.status(second) != "queued"


@pytest.mark.parametrize("how", ["vanished", "failed"])
def test_a_job_that_is_lost_is_tried_again_a_stated_number_of_times(service: Service, how: str) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        begin(service, search_id, dispatcher, attempt)
        if how == "vanished":
            service.ray.jobs.clear()
        else:
            service.ray.end(search_id, "FAILED", attempt, "the node died")
        dispatcher.turn()
        assert service.status(search_id) == ("queued" if attempt < MAX_ATTEMPTS else "failed")
        if attempt < MAX_ATTEMPTS:
            dispatcher.turn()
            assert service.status(search_id) == "queued", "not before its time"
            assert "is tried again in" in (service.searches.get(search_id).reason or "")
            service.set(search_id, not_before=0.0)
    error = service.searches.get(search_id).error
    assert error is not None and error["attempt"] == MAX_ATTEMPTS
    assert service.ray.submitted == [f"yoso-{search_id}-{n}" for n in range(1, MAX_ATTEMPTS + 1)]


def test_an_error_that_would_come_again_is_not_tried_again(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.error(search_id, attempt=1, retryable=False)
    service.ray.end(search_id, "FAILED")
    dispatcher.turn()
    search = service.searches.get(search_id)
    assert search.status == "failed" and search.error == {"kind": "data", "message": "unreadable", "attempt": 1}


def test_the_error_of_an_earlier_attempt_says_nothing_of_this_one(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.error(search_id, attempt=0, retryable=False)
    service.ray.end(search_id, "FAILED", message="killed")
    dispatcher.turn()
    assert service.status(search_id) == "queued"


def test_cancelling_a_running_search_ends_when_its_job_is_gone(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    assert service.searches.cancel(search_id).status == "cancelling"
    for _ in range(3):
        dispatcher.turn()
    assert service.status(search_id) == "cancelling" and service.ray.stopped == [f"yoso-{search_id}-1"]
    service.ray.end(search_id, "STOPPED")
    dispatcher.turn()
    assert service.status(search_id) == "cancelled"
    assert service.searches.cancel(search_id).status == "cancelled"


def test_a_queued_search_is_cancelled_at_once(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    assert service.searches.cancel(search_id).status == "cancelled"
    dispatcher.turn()
    assert service.ray.submitted == [] and service.status(search_id) == "cancelled"


def test_one_that_is_cancelled_before_it_is_handed_to_ray_never_is(service: Service) -> None:
    search_id = service.queue()
    Work(service.searches.engine).claim("one", seeding.LARGE)
    assert service.searches.cancel(search_id).status == "cancelling"
    service.set(search_id, lease_token=None)
    service.dispatcher().turn()
    assert service.ray.submitted == [] and service.status(search_id) == "cancelled"


def test_while_ray_is_away_nothing_is_lost_and_nothing_fails(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    there = service.ray.endpoint
    service.ray.endpoint = type(there)("http://127.0.0.1:1", "token")
    for _ in range(3):
        dispatcher.turn()
    assert service.status(search_id) == "running" and dispatcher.ray_error is not None
    service.ray.endpoint = there
    service.journal(search_id, "0001-000002", seeding.epoch("search", 3, 30, 0.25))
    dispatcher.turn()
    assert service.searches.get(search_id).progress == 0.25


def test_a_wrong_token_is_told_without_the_token(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.ray.endpoint = type(service.ray.endpoint)(service.ray.endpoint.url, "wrong-and-secret")
    service.queue()
    dispatcher = service.dispatcher()
    dispatcher.turn()
    assert "another token" in (dispatcher.ray_error or "") and "secret" not in caplog.text
    assert "secret" not in repr(service.ray.endpoint)


def test_a_stop_that_did_not_get_through_is_sent_again_in_the_next_turn(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    dispatcher.turn()
    dispatcher.turn()
    service.searches.cancel(search_id)
    service.ray.once("error_before", "POST")
    dispatcher.turn()
    assert service.ray.stopped == []
    dispatcher.turn()
    assert service.ray.stopped == [f"yoso-{search_id}-1"]


def test_an_orderly_stop_gives_the_leases_back(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    dispatcher.stop()
    dispatcher.run()
    assert service.searches.get(search_id).lease_token is None
    second = service.dispatcher("two")
    second.turn()
    assert service.searches.get(search_id).lease_owner == "two"


def test_a_torn_result_is_none_and_the_attempt_s_end_decides(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    (service.folder(search_id) / "result.json").write_text('{"architectures": [{"budget": 3000')
    dispatcher.turn()
    assert service.status(search_id) == "running", "its job may still write it whole"
    service.ray.end(search_id, "SUCCEEDED")
    dispatcher.turn()
    search = service.searches.get(search_id)
    assert search.status == "queued" and "the job ended: SUCCEEDED" in (search.reason or "")
    service.set(search_id, not_before=0.0)
    begin(service, search_id, dispatcher, attempt=2)
    service.result(search_id)
    service.ray.end(search_id, "SUCCEEDED", attempt=2)
    dispatcher.turn()
    assert service.status(search_id) == "succeeded"


def test_a_result_that_says_nothing_usable_fails_the_search_and_commits_nothing(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    (service.folder(search_id) / "result.json").write_text('{"architectures": [{"accuracy": 0.5}]}')
    service.ray.end(search_id, "SUCCEEDED")
    dispatcher.turn()
    search = service.searches.get(search_id)
    assert search.status == "failed" and search.error is not None and search.error["kind"] == "folder"
    assert service.searches.architectures([search_id]) == {search_id: []}


def test_a_torn_line_of_the_journal_is_noted_and_the_rest_is_read(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    chunk = service.folder(search_id) / "journal" / "0001-000002.jsonl"
    chunk.write_text(json.dumps({"time": 2.0, "attempt": 1, "kind": "checkpoint", "step": 1}) + '\n{"time": 3.0, "ki')
    service.journal(search_id, "0001-000003", seeding.epoch("search", 3, 30, 0.25))
    dispatcher.turn()
    kinds = [event.kind for event in service.searches.events(search_id)][-3:]
    assert kinds == ["checkpoint", "torn", "epoch"] and service.searches.get(search_id).progress == 0.25


def test_a_storage_that_cannot_be_written_is_told_and_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.dispatch.dispatcher.LONGEST_WAIT_SECONDS", 0.0)
    search_id, dispatcher = service.queue(), service.dispatcher()
    folder = service.folder(search_id).parent
    folder.write_text("in the way")
    for _ in range(3):
        dispatcher.turn()
    search = service.searches.get(search_id)
    assert search.status == "launching" and search.attempt == 1 and service.ray.submitted == []
    assert "its folder cannot be used; it will be tried again" in (search.reason or "")
    folder.unlink()
    dispatcher.turn()
    assert service.status(search_id) == "waiting"


def test_a_result_that_came_after_all_ends_the_search_without_another_launch(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.ray.end(search_id, "FAILED", message="lost sight of it")
    dispatcher.turn()
    assert service.status(search_id) == "queued"
    service.result(search_id)
    service.set(search_id, not_before=0.0)
    dispatcher.turn()
    assert service.status(search_id) == "succeeded" and service.ray.submitted == [f"yoso-{search_id}-1"]


def test_an_attempt_that_was_told_something_else_before_the_database_was_restored_is_passed_over(
    service: Service,
) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    runs = seeding.parts(service.app).runs
    told = service.searches.get(search_id).spec | {"attempt": 1, "workers": 8, "min_workers": 1}
    assert runs.write_spec(search_id, told, ()) and runs.write_spec(search_id, told, ())
    dispatcher.turn()
    dispatcher.turn()
    assert service.ray.submitted == [f"yoso-{search_id}-2"] and service.status(search_id) == "waiting"
    assert (service.folder(search_id) / "attempts/0001/closed").exists()
    assert (runs.read_json(search_id, "attempts/0001/spec.json") or {})["workers"] == 8


def test_a_job_that_nobody_waits_for_is_stopped_and_another_service_s_is_not(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.searches.cancel(search_id)
    service.ray.end(search_id, "STOPPED")
    dispatcher.turn()
    assert service.status(search_id) == "cancelled"
    # A dispatcher that had been asleep wakes up and submits what it had claimed long ago.
    late, foreign = f"yoso-{search_id}-1", "yoso-zzzzzzzzzzzz-1"
    with_spec = service.clients[0]
    for job in (late, foreign):
        with_spec.submit(job, f"python -m worker.job {service.folder(search_id)}", {"YOSO_ATTEMPT": "1"})
    dispatcher._swept = float("-inf")
    dispatcher.turn()
    assert service.ray.stopped == [late]


def test_what_is_left_of_a_cancelled_search_keeps_its_slot_and_is_named(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.ray.cpus = 1
    first, second, dispatcher = service.queue(), service.queue(), service.dispatcher()
    begin(service, first, dispatcher)
    service.searches.cancel(first)
    dispatcher.turn()
    service.ray.end(first, "STOPPED")
    monkeypatch.setattr(dispatcher.jobs, "remains", lambda name: ["placement group pg, CREATED"])
    monkeypatch.setattr("service.dispatch.dispatcher.STOP_AGAIN_SECONDS", 0.0)
    dispatcher.turn()
    assert (service.status(first), service.status(second)) == ("cancelling", "queued")
    assert "placement group pg, CREATED" in (service.searches.get(first).reason or "")
    monkeypatch.undo()
    dispatcher.turn()
    dispatcher.turn()
    assert (service.status(first), service.status(second)) == ("cancelled", "waiting")


def test_a_result_written_while_it_was_cancelled_is_not_taken_over_and_that_is_told(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.searches.cancel(search_id)
    service.result(search_id)
    service.ray.end(search_id, "SUCCEEDED")
    dispatcher.turn()
    search = service.searches.get(search_id)
    assert search.status == "cancelled" and "a result that was written in the meantime" in (search.reason or "")
    assert service.searches.architectures([search_id]) == {search_id: []}


def test_the_driver_s_output_is_kept_before_ray_forgets_the_job(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    service.ray.end(search_id, "FAILED", message="killed")
    dispatcher.turn()
    assert (service.folder(search_id) / "logs" / "driver-0001.log").exists()
    assert f"yoso-{search_id}-1" not in service.ray.jobs


def test_a_dispatcher_that_does_not_get_on_lets_its_leases_run_out(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    renewed: list[bool] = []
    monkeypatch.setattr("service.dispatch.dispatcher.HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(dispatcher, "renew", lambda: renewed.append(True))
    heart = threading.Thread(target=dispatcher._beat)
    heart.start()
    until(lambda: renewed)
    monkeypatch.setattr("service.dispatch.dispatcher.STALLED_SECONDS", -1.0)
    dispatcher.stopping.wait(0.1)
    renewed.clear()
    dispatcher.stopping.wait(0.1)
    assert renewed == []
    dispatcher.stop()
    heart.join()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_is_away_for_a_while_costs_nothing(service: Service, database_url: str) -> None:
    """PostgreSQL refuses and cuts all connections; the dispatcher's loop outlives that and goes on."""
    search_id, dispatcher = service.queue(), service.dispatcher()
    begin(service, search_id, dispatcher)
    loop = threading.Thread(target=dispatcher.run)
    loop.start()
    name = make_url(database_url).database
    admin = create_engine(make_url(database_url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
        service.result(search_id)
        service.ray.end(search_id, "SUCCEEDED")
        with pytest.raises(OperationalError):
            service.status(search_id)
        connection.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"))
    admin.dispose()
    until(lambda: service.status(search_id) == "succeeded")
    dispatcher.stop()
    loop.join()
    assert service.statuses(search_id).count("succeeded") == 1


def until(holds: Callable[[], object]) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)
