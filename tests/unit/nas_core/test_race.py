"""Several networks compete for a budget: the best on the validation part is delivered, wherever it comes from."""

import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_core.errors import Diverged, InvalidValue
from nas_core.job import SearchJob
from nas_core.race import Contender, Race
from nas_core.search.references import fit_reference
from nas_core.spec import NO_FINALS, FinalsOptions, SearchSpec
from nas_core.spec.finals import rungs, side_of
from nas_core.train.retrain import Retraining
from tests.thoroughness import THOROUGH
from tests.unit.nas_core.networks import tiny_data, tiny_spec

EPOCHS = 4
FINALS = FinalsOptions(candidates=2, baselines=("resnet", "mobilenetv1", "random"))


def competing(finals: FinalsOptions = FINALS, **settings: Any) -> SearchSpec:
    """A search of two budgets, large enough for reference networks, in which networks compete."""
    spec = tiny_spec(settings={"retrain_epochs": EPOCHS} | settings)
    _, complete = spec.space.feasible_budgets()
    return replace(spec, budgets=(complete // 2, complete), finals=finals)


def finish(job: SearchJob) -> list[dict[str, Any]]:
    """Every line of the rest of a job, without what depends on the clock."""
    lines = []
    while not job.done:
        lines += [{k: v for k, v in line.items() if k != "seconds"} for line in job.advance()]
    return lines


@pytest.fixture(scope="module")
def finished() -> tuple[SearchJob, list[dict[str, Any]]]:
    job = SearchJob(competing(), tiny_data(), "cpu")
    return job, finish(job)


def test_the_best_searched_and_the_best_hand_made_network_meet_at_the_end(
    finished: tuple[SearchJob, list[dict[str, Any]]],
) -> None:
    job, lines = finished
    assert job.race is not None
    trials, epochs = job.race.trials(), [line for line in lines if line["kind"] == "epoch"]
    for budget in job.spec.budgets:
        own = [one for one in trials if one["budget"] == budget]
        ended = [one for one in own if one["outcome"] == "trained"]
        assert Counter(side_of(one["origin"]) for one in ended) == {"search": 1, "reference": 1, None: 1}
        first, second = (one["label"] for one in own if one["origin"] == "search")
        assert first == "searched" and re.fullmatch("searched 2: cut at [0-9.]+ × the budget", second)
        assert all("label" not in one for one in own if one["origin"] != "search")
        assert {one["epochs"] for one in own if one["outcome"] == "stopped"} <= set(rungs(EPOCHS))
        first = next(one for one in job.results if one["budget"] == budget)
        assert first["validation_accuracy"] == max(one["validation_accuracy"] for one in ended)
        assert [one["path"] for one in job.results if one["budget"] == budget] == [f"architectures/{budget}"] + [
            f"architectures/{budget}-{one['trial']}" for one in job.results if one["budget"] == budget and one != first
        ]
        for one in own:
            told = {line["epoch"]: line for line in epochs if line.get("trial") == one["trial"]}
            assert sorted(told) == list(range(1, one["epochs"] + 1))
            if told:
                assert told[one["epochs"]]["accuracy"] == one["validation_accuracy"]
    progress = [line["progress"] for line in lines if line["kind"] == "epoch"]
    assert progress == sorted(progress) and progress[-1] == 1.0
    assert {line["trial"] for line in lines if line["kind"] == "began"} == {one["trial"] for one in trials}


def test_each_trains_as_it_would_alone(finished: tuple[SearchJob, list[dict[str, Any]]]) -> None:
    job, lines = finished
    alone = SearchJob(replace(job.spec, finals=NO_FINALS), tiny_data(), "cpu")
    told = [line for line in finish(alone) if line["kind"] == "epoch" and line["phase"] == "retrain"]
    unnamed = ("trial", "origin", "seed", "label", "progress")
    own = [
        {key: value for key, value in line.items() if key not in unnamed}
        for line in lines
        if line["kind"] == "epoch" and line.get("origin") == "search"
    ]
    first = [line for line in told if line["budget"] == job.spec.budgets[0] and line["epoch"] <= rungs(EPOCHS)[0]]
    assert all({key: value for key, value in line.items() if key != "progress"} in own for line in first)


CUTS = (5, 23, 41) if THOROUGH else (23,)


@pytest.fixture(scope="module")
def cuts() -> dict[int, tuple[list[dict[str, Any]], bytes]]:
    """What a job had told after so many steps of its race, and its state, as a file."""
    begun, told, found = SearchJob(competing(), tiny_data(), "cpu"), list[dict[str, Any]](), {}
    steps = 0
    while steps < max(CUTS):
        steps += begun.race is not None
        told += [{k: v for k, v in line.items() if k != "seconds"} for line in begun.advance()]
        if steps in CUTS:
            kept = io.BytesIO()
            torch.save(begun.state_dict(), kept)
            found[steps] = list(told), kept.getvalue()
    return found


@pytest.mark.parametrize("steps", CUTS)
def test_a_race_goes_on_from_any_step_as_if_nothing_had_happened(
    finished: tuple[SearchJob, list[dict[str, Any]]],
    cuts: dict[int, tuple[list[dict[str, Any]], bytes]],
    steps: int,
) -> None:
    whole, lines = finished
    told, kept = cuts[steps]
    again = SearchJob(competing(), tiny_data(), "cpu")
    again.load_state_dict(torch.load(io.BytesIO(kept), weights_only=False))
    assert told + finish(again) == lines
    assert again.results == whole.results
    for budget, weights in whole.weights.items():
        assert all(torch.equal(value, again.weights[budget][name]) for name, value in weights.items())


def test_a_network_that_diverges_or_cannot_be_made_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Retraining.advance

    def advance(self: Retraining) -> list[dict[str, Any]]:
        if self.step == 3 and isinstance(self.architecture, type(searched)):
            raise Diverged("retrain", 3, float("nan"))
        return real(self)

    spec = competing(FinalsOptions(baselines=("resnet", "efficientnet_lite")))
    spec = replace(spec, budgets=spec.budgets[:1])
    job = SearchJob(spec, tiny_data(), "cpu")
    while job.race is None:
        job.advance()
    searched = job.architectures[spec.budgets[0]]
    monkeypatch.setattr(Retraining, "advance", advance)
    lines = finish(job)
    assert job.race is not None
    outcomes = {one["origin"]: one for one in job.race.trials()}
    with pytest.raises(ValueError, match="efficientnet_lite takes at least") as least:
        fit_reference("efficientnet_lite", spec.space, spec.budgets[0])
    assert str(least.value) in outcomes["efficientnet_lite"]["reason"]
    assert outcomes["search"]["reason"].startswith("retrain: the loss of step 3")
    assert [one["origin"] for one in job.results] == ["resnet"]
    assert {line["message"] for line in lines if line["kind"] == "warning" and "trial" in line} >= {
        outcomes["search"]["reason"]
    }
    job = SearchJob(replace(spec, finals=NO_FINALS), tiny_data(), "cpu")
    with pytest.raises(Diverged):
        finish(job)


class Replayed:
    """A training whose scores are known before; one that is no number is a divergence."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores, self.step = scores, 0
        self.start, self.compute = "scratch", 0

    epochs = property(lambda self: self.step)
    done = property(lambda self: self.step == len(self.scores))
    validated = property(lambda self: {"accuracy": self.scores[self.step - 1], "balanced_accuracy": 0.0})

    def advance(self) -> list[dict[str, Any]]:
        self.step += 1
        if math.isnan(self.scores[self.step - 1]):
            raise Diverged("retrain", self.step, math.nan)
        return [{"kind": "epoch", "epoch": self.step}]


@given(st.data())
def test_whatever_networks_reach_the_best_of_each_side_at_every_rung_goes_on(data: st.DataObject) -> None:
    """… with half of those that are judged beside it, rounded up."""
    origins = data.draw(st.lists(st.sampled_from(["search", "resnet", "mobilenetv2", "random", "thin"]), max_size=8))
    epochs = data.draw(st.integers(1, 12))
    spec = tiny_spec(settings={"retrain_epochs": epochs})
    spec = replace(spec, budgets=spec.budgets[:1], finals=FinalsOptions(baselines=("resnet",)))
    network: Any = spec.space.cheapest()
    contenders = []
    for trial, origin in enumerate(["search", *origins]):
        scores = data.draw(st.lists(st.integers(0, 4).map(float), min_size=epochs, max_size=epochs))
        contenders.append(Contender(trial, spec.budgets[0], origin, network))
        contenders[-1].retraining = Replayed(scores)  # type: ignore[assignment]
    curves = [one.retraining.scores for one in contenders]
    race = Race(spec, contenders, tiny_data(), "cpu", lambda budget: None, None, lambda network: True)
    while any(one.outcome is None for one in contenders):
        race._step(race._waiting()[0])
        race._judge()
    for heat in race.heats[spec.budgets[0]]:
        standing = list(heat.contenders)
        for rung in rungs(epochs):
            stopped = [one for one in standing if one.outcome == "stopped" and one.epochs == rung]
            goes_on = [one for one in standing if one not in stopped]
            assert len(goes_on) == -(-len(standing) // 2)
            assert max(curves[one.trial][rung - 1] for one in goes_on) == max(
                curves[one.trial][rung - 1] for one in standing
            )
            standing = goes_on
        assert all(one.outcome == "trained" and one.epochs == epochs for one in standing)
    best = min(
        (one for one in contenders if one.outcome == "trained"), key=lambda one: (-one.reached["accuracy"], one.trial)
    )
    assert best.reached["accuracy"] == max(one.reached["accuracy"] for one in contenders if one.outcome == "trained")
    assert any(side_of(one.origin) == "search" and one.outcome == "trained" for one in contenders)


def test_where_all_others_diverge_the_best_that_was_stopped_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec(settings={"retrain_epochs": 4})
    spec = replace(spec, budgets=spec.budgets[:1], finals=FinalsOptions(baselines=("resnet", "mobilenetv1", "mnasnet")))
    network: Any = spec.space.cheapest()
    curves: dict[str, list[float]]
    curves = {"search": [1, 1, 1, math.nan], "resnet": [9, 9, math.nan], "mobilenetv1": [7] * 4, "mnasnet": [8] * 4}
    contenders = [Contender(trial, spec.budgets[0], origin, network) for trial, origin in enumerate(curves)]

    def live(self: Race, one: Contender) -> Any:
        one.retraining = one.retraining or Replayed(curves[one.origin])  # type: ignore[assignment]
        return one.retraining

    race = Race(spec, contenders, tiny_data(), "cpu", lambda budget: None, None, lambda network: True)
    monkeypatch.setattr(Race, "live", live)
    lines = []
    while any(one.outcome is None for one in contenders):
        lines += race._step(race._waiting()[0])
        lines += race._judge()
    assert {one.origin: (one.outcome, one.epochs) for one in contenders} == {
        "search": ("dropped", 3), "resnet": ("dropped", 2), "mobilenetv1": ("stopped", 1), "mnasnet": ("trained", 4)
    }  # fmt: skip
    [anew] = [line for line in lines if line["kind"] == "warning" and line["origin"] == "mnasnet"]
    assert anew["message"] == "stopped after 2 epochs, it starts again: all other networks for its budget have diverged"
    assert contenders[3].compute == 6 * network.multiply_adds * race.batch_size, (
        "what was spent on it before counts too"
    )


def test_what_cannot_compete_is_refused_by_name() -> None:
    for given_, field, told in (
        ({"candidates": 0}, "finals.candidates", "an integer from 1"),
        ({"candidates": True}, "finals.candidates", "an integer from 1"),
        ({"baselines": ["vgg"]}, "finals.baselines", "resnet"),
        ({"baselines": "resnet"}, "finals.baselines", "a list"),
        ({"references": []}, "finals.references", "candidates, baselines"),
    ):
        with pytest.raises(InvalidValue) as error:
            FinalsOptions.parse(given_)
        assert error.value.field == field and told in error.value.accepted
    spec = competing()
    assert SearchSpec.from_dict(spec.to_dict()) == spec
    old = {key: value for key, value in spec.to_dict().items() if key != "finals"}
    assert SearchSpec.from_dict(old).finals == NO_FINALS
    of_sweep = old | {"finals": {"of": [], "baselines": ["resnet"], "seeds": [0], "workers": 1}}
    assert SearchSpec.from_dict(of_sweep).finals == NO_FINALS
