"""A search's steps, from its events."""

from collections.abc import Mapping

from service.dashboard.timeline import timeline
from service.store.models import Event, Search


def steps(status: str, *events: tuple[float, str, Mapping[str, object]], ended: float | None = None) -> dict[str, str]:
    """State and duration of each step, by label."""
    search = Search(status=status, created_at=0.0, ended_at=ended, spec={"budgets": [300_000, 600_000]})
    told = [Event(seq=n, search_id="x", time=time, kind=kind, data=data) for n, (time, kind, data) in enumerate(events)]
    return {
        step.label: step.state + (f" {step.ended - step.began:g}" if step.began is not None and step.ended else "")
        for step in timeline(search, told)
    }


LAUNCHING = (5.0, "status", {"status": "launching"})
STARTED = (9.0, "started", {"resumed": False})
PRETRAIN = (10.0, "phase", {"phase": "pretrain"})
SEARCH = (30.0, "phase", {"phase": "search"})
RETRAIN = (70.0, "phase", {"phase": "retrain", "budget": 300_000})
LAST = (90.0, "phase", {"phase": "retrain", "budget": 600_000})


def test_a_queued_search_is_at_its_first_step() -> None:
    told = steps("queued")
    assert list(told) == ["Queue", "Start", "Pretrain", "Search", "Retrain 300k", "Retrain 600k"]
    assert told["Queue"] == "current" and set(list(told.values())[1:]) == {"pending"}


def test_steps_last_until_the_next_begins() -> None:
    told = steps("running", LAUNCHING, STARTED, PRETRAIN, SEARCH)
    assert list(told.values()) == ["done 5", "done 5", "done 20", "current", "pending", "pending"]


def test_a_finished_search_has_done_every_step() -> None:
    told = steps("succeeded", LAUNCHING, STARTED, PRETRAIN, SEARCH, RETRAIN, LAST, ended=120.0)
    assert list(told.values()) == ["done 5", "done 5", "done 20", "done 40", "done 20", "done 30"]


def test_a_search_stops_where_it_failed_or_was_cancelled() -> None:
    assert steps("failed", LAUNCHING, STARTED, PRETRAIN, ended=12.0)["Pretrain"] == "failed 2"
    assert steps("cancelled", ended=1.0)["Queue"] == "cancelled 1"


def test_a_search_that_is_tried_again_goes_on_where_it_was() -> None:
    again = (40.0, "status", {"status": "queued"})
    waiting = steps("queued", LAUNCHING, STARTED, PRETRAIN, SEARCH, again)
    assert waiting["Queue"] == "current" and waiting["Search"] == "pending"
    launched = (50.0, "status", {"status": "launching"})
    resumed = (55.0, "started", {"resumed": True})
    told = steps("running", LAUNCHING, STARTED, PRETRAIN, SEARCH, again, launched, resumed)
    assert told["Search"] == "current" and told["Pretrain"].startswith("done")


def test_budgets_that_are_retrained_side_by_side_are_both_under_way() -> None:
    began = (LAUNCHING, STARTED, PRETRAIN, SEARCH, RETRAIN, (71.0, *LAST[1:]))
    told = steps("running", *began)
    assert (told["Retrain 300k"], told["Retrain 600k"]) == ("current", "current")
    delivered = (95.0, "retrained", {"budget": 300_000})
    other = (97.0, "retrained", {"budget": 300_000, "trial": 1})
    told = steps("running", *began, delivered, other)
    assert (told["Retrain 300k"], told["Retrain 600k"]) == ("done 25", "current")
    told = steps("failed", *began, delivered, ended=100.0)
    assert (told["Retrain 300k"], told["Retrain 600k"]) == ("done 25", "failed 29")
    assert steps("failed", *began, ended=100.0)["Retrain 300k"] == "failed 30"
