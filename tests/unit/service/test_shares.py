"""Searches of four projects at once: everyone finishes, and time is shared by weight while all have work.

A thousand searches share it within 5 %.
"""

import time

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from service.dispatch.dispatcher import Dispatcher
from service.domain.request import SearchRequest, check
from service.store.database import reading, writing
from service.store.models import Attempt, Search
from tests import seeding
from tests.ray_double import RayDouble

pytestmark = [pytest.mark.slow, pytest.mark.proof]
EACH, TOLERANCE = 250, 0.05
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_time_is_shared_by_weight_and_every_search_finishes(app: FastAPI) -> None:
    context = seeding.parts(app)
    request = SearchRequest(dataset="digits", budgets=[300_000])
    spec = check(request, (), True)
    with writing(context.searches.engine) as session:
        for project, weight in WEIGHTS.items():
            context.projects.set(project, {"weight": weight}, session)
        for _ in range(EACH):
            for project in WEIGHTS:
                context.searches.create(request.model_copy(update={"project": project}), spec, session)
    double = RayDouble(run_seconds=0.05, cpus=16, clock=time.monotonic)
    jobs = double.ray_jobs()
    dispatcher = Dispatcher(context.searches, context.runs, jobs, python="python")
    while len(double.executions) < EACH * len(WEIGHTS) or dispatcher.held:
        dispatcher.turn()
    jobs.close()
    assert double.violations == []
    with reading(context.searches.engine) as session:
        rows = session.execute(
            select(Search.project, Search.status, Attempt.number, Attempt.started_at, Attempt.ended_at).join(
                Attempt, Attempt.search_id == Search.id
            )
        ).all()
    assert len(rows) == EACH * len(WEIGHTS) and {row.status for row in rows} == {"succeeded"}
    last_start = {project: max(row.started_at for row in rows if row.project == project) for project in WEIGHTS}
    until = min(last_start.values())
    spent = {
        project: sum(max(0.0, min(row.ended_at, until) - row.started_at) for row in rows if row.project == project)
        for project in WEIGHTS
    }
    for project, weight in WEIGHTS.items():
        share = spent[project] / sum(spent.values())
        assert share == pytest.approx(weight / sum(WEIGHTS.values()), rel=TOLERANCE), spent
