"""How long a search will take, what is made of a time that is asked for, and what takes so long that it is refused."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from nas_core.errors import InvalidValue
from nas_core.search.forecast import forecast
from nas_core.spec import SearchSpec
from service.domain.estimates import GUESS_FACTOR, Ran, estimate, refuse_too_long, within
from service.domain.lifecycle import Status
from service.domain.request import SearchRequest, check
from service.store.database import FRESH_SECONDS, writing
from tests import seeding

MINUTE, DAY = 60.0, 86400.0


@cache
def spec_of(**fields: Any) -> SearchSpec:
    """A search on the digits."""
    return check(SearchRequest(dataset="digits", budgets=[300_000], **fields), (), True)


def ran(seconds: float, **fields: Any) -> Ran:
    """A search like `spec_of()` that took so long."""
    return Ran(**{"multiply_adds": forecast(spec_of()).multiply_adds, "workers": 1, "cpus_per_worker": 1,
                  "gpus_per_worker": 0, "accelerator_type": None} | fields, seconds=seconds)  # fmt: skip


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_the_forecast_is_what_a_search_on_the_digits_computes() -> None:
    # 1,797 images, of which a fifth is for the test and a tenth of the rest for validation.
    own, settings, complete = forecast(spec_of()), spec_of().settings, spec_of().space.complete().multiply_adds
    pretraining = 1294 / 2 * settings.pretrain_epochs * complete
    assert own.search > pretraining and own.training >= 1294 * 300_000 * settings.retrain_epochs
    paper = replace(spec_of(), settings=replace(settings, form="paper"))
    assert forecast(paper).search == pytest.approx(pretraining + 1294 * settings.search_epochs * complete, rel=0.001)
    with pytest.raises(ValueError, match="how many images"):
        forecast(replace(spec_of(), inspection=None))


def test_searches_like_it_say_how_long_and_without_any_it_is_a_guess() -> None:
    guess = estimate(spec_of(), [ran(300, gpus_per_worker=1)])
    assert guess.searches == 0 and "a rough estimate" in str(guess)
    assert guess.high / guess.seconds == pytest.approx(GUESS_FACTOR) == pytest.approx(guess.seconds / guess.low)
    known = estimate(spec_of(), [ran(300), ran(330), ran(270)])
    assert known.searches == 3 and known.seconds == pytest.approx(300, rel=0.02)
    assert known.low < 270 and known.high > 330 and "by 3 searches on this cluster" in str(known)
    assert known.cpu_hours == pytest.approx(known.seconds / 3600) and known.gpu_hours == 0
    typed = replace(spec_of(), gpus_per_worker=1, accelerator_type="A100")
    assert estimate(typed, [ran(9, gpus_per_worker=1, accelerator_type="T4")]).searches == 0


@given(
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(0.001, 1000), st.integers(1, 8)), max_size=12),
    st.integers(1, 16),
)
def test_an_estimate_lies_in_its_range_and_more_workers_take_no_longer(
    took: list[tuple[float, float, int]], workers: int
) -> None:
    cost = forecast(spec_of()).multiply_adds
    before = [ran(seconds, multiply_adds=math.ceil(cost * ratio), workers=count) for seconds, ratio, count in took]
    one, many = estimate(spec_of(), before), estimate(replace(spec_of(), workers=workers), before)
    assert 0 < one.low < one.seconds < one.high < math.inf and many.seconds <= one.seconds
    assert one.searches == min(8, len(before)) and estimate(spec_of(), before[::-1]).searches == one.searches


def test_fewer_searches_and_farther_ones_make_the_range_wider() -> None:
    def width(*before: Ran) -> float:
        told = estimate(spec_of(), before)
        return told.high / told.low

    cost = forecast(spec_of()).multiply_adds
    assert width(ran(300)) > width(ran(300), ran(300)) > width(*[ran(300)] * 8)
    assert width(ran(300, multiply_adds=cost * 50)) > width(ran(300, multiply_adds=cost * 2)) > width(ran(300))
    assert width() > width(ran(300))


@given(st.floats(40, 2000))
def test_a_time_cuts_the_epochs_until_it_is_kept(seconds: float) -> None:
    before = [ran(600), ran(700)]
    made = within(spec_of(), seconds, before)
    if seconds >= estimate(spec_of(), before).seconds:
        assert made is spec_of()
        return
    assert estimate(made, before).seconds <= seconds
    was, now = spec_of().settings, made.settings
    for name in ("pretrain_epochs", "search_epochs", "retrain_epochs"):
        assert 1 <= getattr(now, name) <= getattr(was, name)
    # All phases keep about their shares, and about all of the time is used.
    assert now.search_epochs / was.search_epochs == pytest.approx(now.retrain_epochs / was.retrain_epochs, abs=0.1)
    assert seconds < 60 or estimate(made, before).seconds > 0.7 * seconds


def test_a_time_in_which_nothing_can_be_done_is_refused_with_the_least() -> None:
    with pytest.raises(InvalidValue, match="too short") as caught:
        within(spec_of(), 1.0, [ran(6000)])
    assert caught.value.field == "time" and "at least" in caught.value.accepted


def test_what_takes_over_a_month_wants_a_yes() -> None:
    month = estimate(spec_of(), [ran(40 * DAY)])
    with pytest.raises(InvalidValue, match="expected to run for about") as caught:
        refuse_too_long(month, False)
    assert caught.value.field == "confirmed"
    refuse_too_long(month, True)
    refuse_too_long(estimate(spec_of(), [ran(20 * DAY)]), False)


def test_the_service_learns_from_what_has_run(app: FastAPI, http: httpx.Client) -> None:
    asked: dict[str, Any] = {"dataset": "digits", "budgets": seeding.BUDGETS}
    guess = http.post("/api/v1/estimates", json=asked).json()
    assert guess["searches"] == 0 and guess["images"] == 1294 and guess["epochs"]["retrain"] > 0
    assert http.get("/api/v1/searches").json()["items"] == []
    first = seeding.queue(app)
    seeding.Run(app, first).succeed()
    took = seeding.parts(app).searches.attempts(first)[0]
    with writing(seeding.parts(app).searches.engine) as session:
        session.get_one(type(took), (first, 1)).started_at = (took.ended_at or 0) - 40 * DAY
    time.sleep(FRESH_SECONDS)
    told = http.post("/api/v1/estimates", json=asked).json()
    assert told["searches"] == 1 and told["seconds"] == pytest.approx(40 * DAY, rel=0.01)
    assert told["low"] < told["seconds"] < told["high"] and told["cpu_hours"] == pytest.approx(960, rel=0.01)
    assert "on CPUs" in told["notes"][0]
    refused = http.post("/api/v1/searches", json=asked)
    assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "confirmed"
    made = http.post("/api/v1/searches", json=asked | {"confirmed": True})
    assert made.status_code == 201 and "on CPUs" in made.json()["notes"][0]
    shorter = http.post("/api/v1/searches", json=asked | {"time": "10d"})
    assert shorter.status_code == 201
    assert shorter.json()["settings"]["retrain_epochs"] < made.json()["settings"]["retrain_epochs"]
    both = http.post("/api/v1/searches", json=asked | {"time": "10d", "settings": {"search_epochs": 3}})
    assert both.status_code == 422 and "search_epochs" in both.json()["errors"][0]["reason"]
    form = seeding.form(http, {"dataset": "digits", "budgets": "300k, 600k", "time": "10d"})
    assert "by 1 search on this cluster" in form


def test_only_what_has_succeeded_counts(app: FastAPI) -> None:
    history = seeding.parts(app).history
    ended = seeding.queue(app)
    seeding.Run(app, ended).start().move(Status.FAILED, error={"kind": "failed", "message": "so"})
    assert history.searches() == []
