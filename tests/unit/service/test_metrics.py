"""What Prometheus scrapes, on both databases."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, insert, text, update

from service.api import metrics
from service.domain.lifecycle import Status
from service.store import statistics
from service.store.database import writing
from service.store.models import Attempt, Search
from service.store.statistics import Statistics
from service.store.work import Work
from tests import seeding

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "yoso.json"
OPERATORS, PROJECTS = "an-operators-token", "a-projects-token"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for, and nothing is told from memory."""
    monkeypatch.setattr(statistics, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(metrics, "SNAPSHOT_SECONDS", -1.0)


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def scraped(http: httpx.Client) -> dict[str, float]:
    """Every sample, by its name and labels as PromQL writes them."""
    told = http.get("/metrics")
    assert told.status_code == 200 and told.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f"[{key}={value}]" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(told.text)
        for sample in family.samples
    }


def age(app: FastAPI, search_id: str, seconds: float) -> None:
    """Let a search have been submitted so much earlier."""
    with writing(seeding.parts(app).searches.engine) as session:
        session.execute(update(Search).where(Search.id == search_id).values(created_at=Search.created_at - seconds))


def test_searches_queue_and_holders_are_counted_by_project(app: FastAPI, http: httpx.Client) -> None:
    seeding.seed(app)
    age(app, seeding.queue(app, project="vision"), 100)
    seeding.report(app, cpus=8, gpus=2)
    found = scraped(http)
    assert found["yoso_searches[project=default][state=succeeded]"] == 1
    assert found["yoso_searches[project=vision][state=running]"] == 1
    assert found["yoso_searches[project=vision][state=failed]"] == 0
    assert sum(value for name, value in found.items() if name.startswith("yoso_searches[")) == 6
    assert found["yoso_queue_depth[project=vision]"] == found["yoso_queue_depth[project=default]"] == 1
    assert 100 <= found["yoso_queue_oldest_seconds"] < 200
    assert found["yoso_held_cpus[project=vision]"] == 1 and found["yoso_held_cpus[project=default]"] == 0
    assert (found["yoso_cluster_cpus"], found["yoso_cluster_gpus"], found["yoso_cluster_nodes"]) == (8, 2, 1)
    assert found["yoso_database_up"] == found["yoso_ray_up"] == 1
    assert (found["yoso_sse_streams"], found["yoso_sse_streams_limit"]) == (0, 200)


def test_every_attempt_is_counted_once_and_every_replica_tells_the_same(app: FastAPI, http: httpx.Client) -> None:
    first = seeding.queue(app)
    age(app, first, 20)
    run = seeding.Run(app, first).start()
    assert scraped(http)["yoso_attempts_total[project=default]"] == 1
    run.move(Status.QUEUED, not_before=0.0)
    seeding.Run(app, first).start().move(Status.FINISHING, Status.SUCCEEDED)
    seeding.seed_sweep(app, finals=True, seeds=[0, 1])
    for _ in range(2):
        found = scraped(http)
        assert found["yoso_attempts_total[project=default]"] == 4
        launched = "yoso_time_to_launch_seconds_{}[project=default]"
        assert found[launched.format("count")] == 3, "a second attempt is none of them"
        assert found["yoso_time_to_launch_seconds_bucket[le=10.0][project=default]"] == 2
        assert found["yoso_time_to_launch_seconds_bucket[le=30.0][project=default]"] == 3
        assert 20 <= found[launched.format("sum")] < 60
        assert {outcome: found[f"yoso_run_seconds_count[outcome={outcome}]"] for outcome in ("queued", "failed")} == {
            "queued": 1, "failed": 1,
        }  # fmt: skip
        assert found["yoso_run_seconds_count[outcome=succeeded]"] == 2
    engine = seeding.parts(app).searches.engine
    one, other = (Statistics(engine, seeding.parts(app).cluster).read() for _ in range(2))
    assert (one.attempts, one.launches, one.runs) == (other.attempts, other.launches, other.runs)
    assert one.attempts == {"default": 4}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_first_scrape_reads_a_few_rows_of_many_attempts(app: FastAPI) -> None:
    """The database counts them; PostgreSQL tells how many rows each statement gave."""
    search_id, engine = seeding.queue(app), seeding.parts(app).searches.engine
    with writing(engine) as session:
        rows = [
            {"search_id": search_id, "number": n, "owner": "o", "started_at": n, "ended_at": n + 9, "outcome": "queued"}
            for n in range(1, 1001)
        ]
        session.execute(insert(Attempt), rows)
    given: list[int] = []
    event.listen(engine, "after_cursor_execute", lambda connection, cursor, *_: given.append(cursor.rowcount))
    read = Statistics(engine, seeding.parts(app).cluster).read()
    assert read.attempts == {"default": 1000} and read.runs["queued"].counts[0] == 1000
    assert len(given) > 5 and sum(given) < 50


def test_attempts_that_may_still_be_committed_are_left_for_later(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SETTLED_SECONDS", 1000.0)
    seeding.Run(app, seeding.queue(app)).start()
    engine = seeding.parts(app).searches.engine
    read = Statistics(engine, seeding.parts(app).cluster)
    assert read.read().attempts == {}
    with writing(engine) as session:
        session.execute(update(Attempt).values(started_at=Attempt.started_at - 500))
    monkeypatch.setattr(statistics, "SETTLED_SECONDS", 100.0)
    assert read.read().attempts == {"default": 1}
    assert read.read().attempts == {"default": 1}


def test_how_long_lines_were_on_the_way_is_told_while_their_search_runs(app: FastAPI, http: httpx.Client) -> None:
    assert scraped(http)["yoso_ingest_lag_seconds"] == 0
    quick, slow = (seeding.Run(app, seeding.queue(app)).start() for _ in range(2))
    quick.pretrain()
    slow.tell({"kind": "phase", "phase": "pretrain", "time": time.time() - 300}, {"kind": "warning", "message": "new"})
    assert 299 <= scraped(http)["yoso_ingest_lag_seconds"] < 360
    slow.pretrain()
    assert 0 <= scraped(http)["yoso_ingest_lag_seconds"] < 60
    slow.tell({"kind": "warning", "message": "old", "time": time.time() - 300}).move(Status.FAILED, error={})
    assert 0 <= scraped(http)["yoso_ingest_lag_seconds"] < 60, "it has ended"


def test_how_long_nothing_was_heard_of_a_running_search_is_told(app: FastAPI, http: httpx.Client) -> None:
    assert scraped(http)["yoso_silence_seconds"] == 0
    silent, chatty = (seeding.Run(app, seeding.queue(app)).start() for _ in range(2))
    with writing(seeding.parts(app).searches.engine) as session:
        session.execute(update(Search).values(heard_at=Search.heard_at - 300))
    chatty.pretrain()
    assert 300 <= scraped(http)["yoso_silence_seconds"] < 360
    silent.pretrain()
    assert 0 <= scraped(http)["yoso_silence_seconds"] < 60


def test_leases_that_run_out_and_are_taken_over_are_told(app: FastAPI, http: httpx.Client) -> None:
    work = Work(seeding.parts(app).searches.engine)
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    found = scraped(http)
    assert found["yoso_leases_expired"] == found["yoso_lease_takeovers_total"] == 0
    assert 0 <= found["yoso_heartbeat_age_seconds"] < 25
    with writing(work.engine) as session:
        session.execute(update(Search).values(lease_expires_at=Search.lease_expires_at - 100))
    found = scraped(http)
    assert found["yoso_leases_expired"] == 1 and found["yoso_heartbeat_age_seconds"] >= 100
    assert work.take_over("other") == []
    for known, (token, beat, since) in list(work._seen.items()):
        work._seen[known] = token, beat, since - 100
    assert [one.id for one in work.take_over("other")] == [search_id]
    found = scraped(http)
    assert (found["yoso_leases_expired"], found["yoso_lease_takeovers_total"]) == (0, 1)
    with writing(work.engine) as session:
        held = session.get_one(Search, run.id).lease_token or ""
    work.hand_back([held])
    assert scraped(http)["yoso_leases_expired"] == 1
    assert [one.id for one in work.take_over("another")] == [search_id]
    assert scraped(http)["yoso_lease_takeovers_total"] == 1, "what was handed back did not run out"


def test_a_ray_that_is_away_or_unheard_of_is_not_up(
    app: FastAPI, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scraped(http)["yoso_ray_up"] == 0
    seeding.report(app)
    assert scraped(http)["yoso_ray_up"] == 1
    seeding.report(app, error="it does not answer")
    found = scraped(http)
    assert found["yoso_ray_up"] == 0 and found["yoso_cluster_nodes"] == 1, "those that were seen last"
    seeding.report(app)
    monkeypatch.setattr(metrics, "REPORT_SECONDS", -1.0)
    assert scraped(http)["yoso_ray_up"] == 0


def test_without_its_database_a_replica_tells_what_it_knows_itself(app: FastAPI, http: httpx.Client) -> None:
    with writing(seeding.parts(app).searches.engine) as session:
        session.execute(text("ALTER TABLE searches RENAME TO gone"))
    found = scraped(http)
    assert found["yoso_database_up"] == 0 and found["yoso_sse_streams"] == 0 and "yoso_ray_up" not in found


def test_the_database_is_asked_once_in_a_while_only(
    app: FastAPI, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SNAPSHOT_SECONDS", 1000.0)
    before = scraped(http)
    assert "yoso_queue_depth[project=default]" not in before
    seeding.queue(app)
    assert "yoso_queue_depth[project=default]" not in scraped(http)
    monkeypatch.setattr(metrics, "SNAPSHOT_SECONDS", -1.0)
    assert scraped(http)["yoso_queue_depth[project=default]"] == 1


def test_metrics_of_all_projects_need_an_operators_token(tmp_path: Path) -> None:
    tokens = {OPERATORS: "*", PROJECTS: "vision"}
    app = seeding.make_app(tmp_path, tokens=tokens, data_roots=(str(tmp_path),))
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        for token, status in ((None, 401), ("wrong", 401), (PROJECTS, 403), (OPERATORS, 200)):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            assert http.get("/metrics", headers=headers).status_code == status, token
    seeding.parts(app).searches.engine.dispose()


def test_the_dashboard_shows_nothing_that_is_not_told(app: FastAPI, http: httpx.Client) -> None:
    seeding.seed(app)
    seeding.report(app)
    told = {re.sub(r"\[.*", "", name) for name in scraped(http)}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    named = {name for words in asked for name in re.findall(r"\b(?:yoso|process)_\w+", words)}
    assert len(named) > 15 and named - told == set()
    assert {name for name in told if name.startswith("yoso_")} - named <= {"yoso_time_to_launch_seconds_sum",
        "yoso_time_to_launch_seconds_count"}, "and of what is told it leaves nothing out"  # fmt: skip
    labels: dict[str, Any] = {name: set(re.findall(r"\[(\w+)=", name)) for name in scraped(http)}
    for words in asked:
        for name, given in re.findall(r"\b(yoso_\w+)\{([^}]*)\}", words):
            known = set().union(*(found for one, found in labels.items() if one.partition("[")[0] == name))
            assert set(re.findall(r"(\w+)[!=]", given)) <= known, words
