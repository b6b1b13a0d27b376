"""How long a search may wait, and how long it may run."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from nas_core.errors import InvalidValue
from nas_core.files import FILES
from service import cli
from service.client import Client
from service.dispatch.dispatcher import Dispatcher
from service.domain.deadlines import MOST, seconds
from service.domain.lifecycle import Status
from service.store.database import writing
from service.store.deadlines import end_overdue
from service.store.models import Search
from service.store.projects import FULL
from tests import seeding
from tests.ray_double import RayDouble


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


class Stage:
    """A Ray that keeps jobs and runs nothing, and dispatchers to which time passes when it is told to."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.ray = app, RayDouble(cpus=1)
        self.jobs, self.searches = self.ray.ray_jobs(), seeding.parts(app).searches

    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.searches, seeding.parts(self.app).runs, self.jobs, python="python")

    def get(self, search_id: str) -> Search:
        return self.searches.get(search_id)

    def turn(self, dispatcher: Dispatcher, search_id: str, status: str) -> None:
        dispatcher._released = float("-inf")
        dispatcher.turn()
        assert self.get(search_id).status == status

    def pass_time(self, search_id: str, span: float) -> None:
        """Bring a search's deadlines closer, as time would."""
        search = self.get(search_id)
        passed = {name: at - span for name in ("start_by", "stop_by") if (at := getattr(search, name)) is not None}
        seeding.change(self.app, search_id, **passed, not_before=0.0)

    def start(self, dispatcher: Dispatcher, search_id: str, attempt: int = 1) -> None:
        """Turn until it runs."""
        seeding.change(self.app, search_id, not_before=0.0)
        self.turn(dispatcher, search_id, "waiting")
        line = '{"kind": "started", "attempt": %d, "time": 1.0, "workers": 1, "device": "cpu", "resumed": false}\n'
        seeding.parts(self.app).runs.write(search_id, f"journal/{attempt:04d}-000001.jsonl", (line % attempt).encode())
        self.turn(dispatcher, search_id, "running")

    def kinds(self, search_id: str) -> list[str]:
        return [event.data["status"] for event in self.searches.events(search_id, kind="status")]


@pytest.fixture
def stage(app: FastAPI) -> Iterator[Stage]:
    made = Stage(app)
    yield made
    made.jobs.close()
    assert made.ray.violations == []


def told(search: Search) -> tuple[str, str]:
    """The kind and the message of a search's error."""
    assert search.error is not None
    return search.error["kind"], search.error["message"].replace("\N{NO-BREAK SPACE}", " ")


def test_what_is_not_started_in_time_has_failed_and_says_why_it_was_not(stage: Stage, app: FastAPI) -> None:
    first, second = seeding.queue(app), seeding.queue(app, max_wait="2h")
    dispatcher = stage.dispatcher()
    stage.start(dispatcher, first)
    stage.pass_time(second, 7100)
    stage.turn(dispatcher, second, "queued")
    stage.pass_time(second, 7200)
    stage.turn(dispatcher, second, "failed")
    search = stage.get(second)
    kind, message = told(search)
    assert kind == "not_started"
    assert message.startswith("its workers were not started within 2 h (max_wait); it has waited for 3 h 58 min: ")
    assert message.endswith(f": {FULL}"), "the queue's own reason"
    assert search.start_by is None and search.attempt == 0 and stage.kinds(second) == ["queued", "failed"]
    stage.searches.retry(second)
    assert stage.get(second).start_by == pytest.approx(stage.get(second).created_at + 7200, abs=60), "a new time"
    stage.turn(dispatcher, second, "queued")


def test_what_ray_does_not_start_in_time_is_stopped_like_what_is_cancelled(stage: Stage, app: FastAPI) -> None:
    search_id, first = seeding.queue(app, max_wait=600), stage.dispatcher()
    stage.turn(first, search_id, "waiting")
    stage.pass_time(search_id, 600)
    # Another dispatcher than the one that has the lease may see it.
    [ended] = end_overdue(stage.searches.engine, None, "away")
    assert (ended.id, ended.status) == (search_id, "cancelling")
    assert end_overdue(stage.searches.engine, None, "away") == []
    stage.turn(first, search_id, "cancelling")
    assert stage.ray.stopped == [f"yoso-{search_id}-1"]
    stage.ray.end(search_id, "STOPPED")
    stage.turn(first, search_id, "failed")
    kind, message = told(stage.get(search_id))
    assert kind == "not_started" and "waiting for Ray to start 1 worker of" in message
    [attempt] = stage.searches.attempts(search_id)
    assert attempt.outcome == "failed" and attempt.error == stage.get(search_id).error


def test_a_search_that_has_started_waits_no_more_and_its_attempts_are_added_up(stage: Stage, app: FastAPI) -> None:
    search_id, dispatcher = seeding.queue(app, max_wait=60, max_run="12h"), stage.dispatcher()
    stage.start(dispatcher, search_id)
    assert stage.get(search_id).start_by is None
    stage.pass_time(search_id, 8 * 3600)
    stage.ray.end(search_id, "FAILED")
    stage.turn(dispatcher, search_id, "queued")
    search = stage.get(search_id)
    assert (search.start_by, search.stop_by) == (None, None)
    assert search.run_left == pytest.approx(4 * 3600, abs=60)
    stage.start(dispatcher, search_id, 2)
    stage.pass_time(search_id, 3 * 3600)
    stage.turn(dispatcher, search_id, "running")
    seeding.change(app, search_id, lease_token=None)  # that dispatcher is gone
    stage.pass_time(search_id, 3700)
    second = stage.dispatcher()
    stage.turn(second, search_id, "cancelling")
    assert stage.ray.stopped == [f"yoso-{search_id}-2"]
    assert "its job is being stopped: it has run for 12 h" in (stage.get(search_id).reason or "").replace("\xa0", " ")
    stage.searches.cancel(search_id)
    stage.ray.end(search_id, "STOPPED", 2)
    stage.turn(second, search_id, "failed")
    kind, message = told(stage.get(search_id))
    assert kind == "deadline" and "it has run for 12 h 1 min in all, and may run for 12 h (max_run)" in message
    assert "keeps the last checkpoint" in message and f"`yoso retry {search_id} --max-run`" in message
    stage.searches.retry(search_id, deadlines={"max_run": 86400.0})
    stage.start(second, search_id, 3)
    search = stage.get(search_id)
    assert search.stop_by is not None and search.max_wait == 60
    assert search.stop_by - (search.heard_at or 0) == pytest.approx(86400, abs=60)


def test_a_result_in_time_wins_and_one_written_while_it_is_stopped_is_found_by_a_retry(
    stage: Stage, app: FastAPI
) -> None:
    found = [seeding.result(budget) | {"files": FILES} for budget in seeding.BUDGETS]
    written = json.dumps({"architectures": found}).encode()
    search_id, dispatcher = seeding.queue(app, max_run=60), stage.dispatcher()
    stage.start(dispatcher, search_id)
    stage.pass_time(search_id, 60)
    stage.turn(dispatcher, search_id, "cancelling")
    seeding.parts(app).runs.write(search_id, "result.json", written)
    stage.ray.end(search_id, "STOPPED")
    stage.turn(dispatcher, search_id, "failed")
    assert stage.get(search_id).reason == "its result was written in the meantime; a retry uses it"
    stage.searches.retry(search_id)
    for _ in range(2):
        dispatcher.turn()
    assert stage.get(search_id).status == "succeeded" and stage.get(search_id).stop_by is None


def test_an_attempts_error_of_that_name_is_no_deadline(stage: Stage, app: FastAPI) -> None:
    search_id, dispatcher = seeding.queue(app), stage.dispatcher()
    stage.start(dispatcher, search_id)
    error = {"attempt": 1, "kind": "deadline", "message": "a worker's", "retryable": True}
    seeding.parts(app).runs.write(search_id, "error.json", json.dumps(error).encode())
    stage.ray.end(search_id, "FAILED")
    stage.turn(dispatcher, search_id, "queued")
    stage.start(dispatcher, search_id, 2)
    stage.searches.cancel(search_id)
    stage.turn(dispatcher, search_id, "cancelling")
    stage.ray.end(search_id, "STOPPED", 2)
    stage.turn(dispatcher, search_id, "cancelled")


def test_a_sweep_that_is_paused_and_finals_that_wait_for_it_do_not_wait(stage: Stage, app: FastAPI) -> None:
    sweep = seeding.sweep(
        app, search={"dataset": "digits", "max_wait": "1h", "max_run": "2h"}, seeds=[0, 1], finals=True
    )
    sweeps = seeding.parts(app).sweeps
    members = sweeps.searches(sweep, 10)
    assert [(one.kind, one.max_wait, one.max_run, one.start_by is None) for one in members] == [
        ("search", 3600, 7200, False),
        ("search", 3600, 7200, False),
        ("finals", 3600, 7200, True),
    ]
    engine = stage.searches.engine
    with writing(engine) as session:
        sweeps.pause(session, sweep, True)
    for one in members:
        stage.pass_time(one.id, 4000)
    assert end_overdue(engine, None, None) == []
    with writing(engine) as session:
        sweeps.pause(session, sweep, False)
    resumed = stage.get(members[0].id)
    assert resumed.start_by == pytest.approx(resumed.created_at + 3600, abs=60)
    for one in members:
        stage.pass_time(one.id, 4000)
    assert {one.id for one in end_overdue(engine, None, None)} == {members[0].id, members[1].id}
    stage.dispatcher().work.release_finals()
    finals = stage.get(members[2].id)
    assert finals.start_by == pytest.approx(finals.created_at + 3600, abs=60)
    with writing(engine) as session:
        sweeps.cancel(session, sweep)
    assert stage.get(finals.id).start_by is None
    with writing(engine) as session:
        assert sweeps.retry(session, sweep, {"max_wait": None}) == 2
    assert (stage.get(members[0].id).start_by, stage.get(members[0].id).max_run) == (None, 7200)


def test_what_another_version_has_left_is_put_right(stage: Stage, app: FastAPI) -> None:
    search_id, dispatcher = seeding.queue(app, max_wait=60, max_run=60), stage.dispatcher()
    stage.start(dispatcher, search_id)
    seeding.change(app, search_id, start_by=1.0, stop_by=None)
    stage.turn(dispatcher, search_id, "running")
    assert stage.get(search_id).start_by is None
    seeding.change(app, search_id, status=Status.SUCCEEDED, start_by=1.0, stop_by=1.0)
    stage.turn(dispatcher, search_id, "succeeded")
    assert (stage.get(search_id).start_by, stage.get(search_id).stop_by) == (None, None)


@pytest.mark.parametrize(
    ("value", "means"),
    [(90, 90), (1.5, 1.5), ("90", 90), ("30min", 1800), ("30 m", 1800), ("2h", 7200), ("1.5h", 5400), ("365d", MOST)],
)
def test_a_span_of_time_is_a_number_of_seconds_or_a_text(value: Any, means: float) -> None:
    assert seconds("max_run", value) == means and seconds("max_run", None) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "too short"),
        ("0h", "too short"),
        (-5, "too short"),
        (0.5, "too short"),
        (math.nan, "not a duration"),
        (math.inf, "too long"),
        (-math.inf, "too short"),
        (10**400, "too long"),
        ("366d", "too long"),
        ("999999999w", "too long"),
        ("-2h", "not a duration"),
        ("soon", "not a duration"),
        ("", "not a duration"),
        ("2 hours", "not a duration"),
        ("1e3", "not a duration"),
        (True, "not a duration"),
        ([60], "not a duration"),
    ],
)
def test_what_is_no_span_of_time_is_refused_by_name(value: Any, reason: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        seconds("max_run", value)
    assert (refused.value.field, refused.value.reason) == ("max_run", reason)
    assert "1 s to 365 d" in refused.value.accepted and "2h" in refused.value.accepted


def test_every_door_takes_deadlines_shows_them_and_refuses_what_is_none(http: httpx.Client, url: str) -> None:
    asked = {"dataset": "digits", "budgets": ["300k"]}
    wrong = http.post("/api/v1/searches", json=asked | {"max_wait": 0, "max_run": "for ever"})
    assert wrong.status_code == 422
    assert [one["field"] for one in wrong.json()["errors"]] == ["max_wait", "max_run"]
    told_of = http.post("/submit", data=asked | {"max_run": "-1"}, headers={"Origin": url})
    assert told_of.status_code == 422 and "not a duration" in told_of.text
    swept = {"search": {"dataset": "digits", "max_run": "1e9d"}, "budgets": ["300k"]}
    refused = http.post("/api/v1/sweeps", json=swept)
    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "max_run"
    run = CliRunner()
    words = ["submit", "digits", "--budget", "300k", "--max-wait", "2h", "--max-run", "12h", "--url", url]
    made = run.invoke(cli.app, [*words, "--json"])
    assert made.exit_code == 0, made.output
    with Client(url) as client:
        [search] = client.list()["items"]
        search_id = search["id"]
        assert (search["max_wait"], search["max_run"], search["stop_by"]) == (7200, 43200, None)
        assert search["start_by"] is not None and search["request"]["max_wait"] == "2h"
        shown = run.invoke(cli.app, ["show", search_id, "--url", url]).stdout.replace("\xa0", " ")
        assert "starts within 2 h, runs for at most 12 h" in shown
        page = http.get(f"/searches/{search_id}").text.replace("\xa0", " ")
        assert "starts within 2 h, runs for at most 12 h" in page and "must start by" in page
        form = http.get(f"/submit?from={search_id}").text
        assert "--max-wait=2h" in page and re.search(r'name="max_run"[^>]*value="12h"', form), "to ask for it again"
        client.cancel(search_id)
        bad = run.invoke(cli.app, ["retry", search_id, "--max-run", "0", "--url", url])
        assert bad.exit_code == 2 and "max_run" in bad.output
        assert client.get(search_id)["status"] == "cancelled"
        again = run.invoke(cli.app, ["retry", search_id, "--max-run", "24h", "--max-wait", "none", "--url", url])
        assert again.exit_code == 0, again.output
        search = client.get(search_id)
        assert (search["max_wait"], search["start_by"], search["max_run"]) == (None, None, 86400)
        client.cancel(search_id)
        assert client.retry(search_id, max_run=None)["max_run"] is None
        sweep = client.submit_sweep({"dataset": "digits", "max_run": 60}, ["300k"], finals=False)["id"]
        again = run.invoke(cli.app, ["retry", sweep, "--max-run", "5h", "--url", url])
        assert again.exit_code == 0, again.output
