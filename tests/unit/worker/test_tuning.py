"""What a trial of the finals tells, in the test's own process and without Tune."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.experiment import Trial

from nas_core import SearchSpace, finals
from nas_core.deliver import comparison
from nas_core.files import FILES
from nas_core.search.baselines import random_architecture
from nas_core.search.latency import Latency
from nas_core.search.references import candidates
from nas_core.space import FAMILIES, Reference
from nas_core.spec import Limits, SearchSpec, Settings
from nas_core.train.steps import evaluate
from worker import tuning
from worker.checkpoints import Checkpoints
from worker.exports import Exports
from worker.run_folder import RunFolder
from worker.trials import compare_on_cards, competition
from worker.tuning import Finalist, Heats, past, train_finalist, verdict

SPACE = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
SPEC = SearchSpec("digits", SPACE.feasible_budgets()[1:], SPACE, Settings.preset("digits", retrain_epochs=8))


@pytest.mark.proof
def test_a_trial_that_goes_on_tells_all_epochs_that_are_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may have died before it had written them, while the trial's checkpoint or verdict was kept."""
    [budget] = SPEC.budgets
    architecture = random_architecture(SPACE, budget, 1).to_dict()
    finalist = {"budget": budget, "origin": "search", "seed": 1, "source": "one", "architecture": architecture}
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict() | {"finalists": [finalist], "at_once": 1}))
    folder = RunFolder(str(tmp_path))
    told: list[list[int]] = []
    states: list[Any] = []

    def report(self: Checkpoints, metrics: dict[str, Any], state: dict[str, Any] | None = None) -> None:
        told.append([line["epoch"] for line in metrics["lines"]])
        states.append(copy.deepcopy(state))
        if metrics["epoch"] in (2, 4):
            folder.write_json(verdict(0, metrics["epoch"]), {"goes_on": metrics["epoch"] == 2, "accuracy": 0.5})

    def train() -> list[list[int]]:
        """The epochs that a life of the trial tells of, report by report of those that tell of any."""
        told.clear()
        states.clear()
        config = {"folder": str(tmp_path), "attempt": 1, "number": 0, "checkpoint_seconds": 0.0}
        TorchTrainer(train_finalist, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
        return [epochs for epochs in told if epochs]

    monkeypatch.setattr(Checkpoints, "report", report)
    monkeypatch.setattr(tuning, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(Checkpoints, "load", lambda self: None)
    monkeypatch.setattr(Exports, "__init__", lambda *of_what: None)
    monkeypatch.setattr(Exports, "write", lambda self: {})
    assert train() == [[1], [2], [3], [4]]
    halfway = states[-10]
    assert train() == [[1, 2, 3, 4]], "it had been stopped"
    folder.remove(verdict(0, 4))
    monkeypatch.setattr(Checkpoints, "load", lambda self: halfway)
    assert train() == [[1, 2, 3], [4]], "it goes on from its checkpoint within epoch 4"
    folder.remove(verdict(0, 4))
    monkeypatch.setattr(tuning, "rungs", lambda epochs: [])
    assert train() == [[1, 2, 3], [4], [5], [6], [7], [8]]
    assert train() == [[1, 2, 3, 4, 5, 6, 7, 8]], "it was trained"
    folder.remove(past(0))
    assert train() == [], "by a Yoso that kept nothing"


def test_a_trial_whose_patience_ends_is_trained_and_says_how_many_epochs_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, settings=replace(SPEC.settings, retrain_patience=2))
    [budget] = spec.budgets
    finalist: dict[str, Any] = {"budget": budget, "origin": "random", "seed": 1}
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict() | {"finalists": [finalist], "at_once": 1}))
    told, reported = iter([0.5, 0.7, 0.6, 0.65, 0.8]), list[dict[str, Any]]()

    def evaluated(network: Any, data: Any, indices: Any) -> Any:
        if indices is data.parts["validation"]:
            return SimpleNamespace(accuracy=next(told), balanced_accuracy=0.4)
        return evaluate(network, data, indices)

    monkeypatch.setattr("nas_core.train.retrain.evaluate", evaluated)
    monkeypatch.setattr(Checkpoints, "report", lambda self, metrics, state=None: reported.append(metrics))
    monkeypatch.setattr(Checkpoints, "load", lambda self: None)
    config = {"folder": str(tmp_path), "attempt": 1, "number": 0, "checkpoint_seconds": 1000.0}
    TorchTrainer(train_finalist, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
    assert [line["epoch"] for metrics in reported for line in metrics["lines"]] == [1, 2, 3, 4]
    assert (reported[-1]["epoch"], reported[-1]["accuracy"]) == (8, 0.7), "nothing is left of it"
    trial = tuning.trial_result(RunFolder(str(tmp_path)), Finalist(0, **finalist), reported[-1], 8)
    assert (trial["outcome"], trial["epochs"], trial["validation_accuracy"]) == ("trained", 4, 0.7)


@pytest.mark.parametrize(("choose_by", "winner"), [("accuracy", 0), ("balanced_accuracy", 1)])
def test_the_winner_is_the_best_by_what_was_asked_for(choose_by: str, winner: int) -> None:
    spec = replace(SPEC, settings=replace(SPEC.settings, choose_by=choose_by))
    own = {"budget": SPEC.budgets[0], "origin": "search", "seed": 0, "multiply_adds": 5, "outcome": "trained"}
    own |= {"dataset": {}, "accuracy": 0.9, "balanced_accuracy": 0.8}
    trained = [
        own | {"trial": 0, "validation_accuracy": 0.98, "validation_balanced_accuracy": 0.5},
        own | {"trial": 1, "validation_accuracy": 0.9, "validation_balanced_accuracy": 0.88},
    ]
    told = tuning.result({}, 1, spec, trained[0], competition(trained, choose_by), 1.0)
    assert [one["trial"] for one in told["architectures"] if one["winner"]] == [winner]
    assert told["choose_by"] == choose_by
    assert [one["validation_balanced_accuracy"] for one in told["trials"]] == [0.5, 0.88]


def test_a_hand_made_network_may_win_and_is_told_as_one() -> None:
    """What the test part says decides nothing, and random networks of a run without searched ones win nothing."""
    own = {"budget": 1000, "seed": 0, "multiply_adds": 5, "outcome": "trained"}
    scores = [("search", 0.9, 0.91), ("resnet", 0.95, 0.92), ("mobilenetv2", 0.94, 0.97), ("random", 0.8, 0.7)]
    trained = [
        own | {"trial": trial, "origin": origin, "validation_accuracy": validation, "accuracy": test}
        | ({"variant": f"{origin}8"} if origin in FAMILIES else {})
        for trial, (origin, validation, test) in enumerate(scores)
    ]  # fmt: skip
    told = competition(trained, "accuracy")["architectures"]
    assert [(one["origin"], one["winner"], one["name"], one["comparison"]) for one in told] == [
        ("resnet", True, "1000", "1.0 points above the best searched network"),
        ("search", False, "1000-0", "1.0 points below the best hand-made network of this cost (resnet8)"),
        ("mobilenetv2", False, "1000-2", "6.0 points above the best searched network"),
        ("random", False, "1000-3", "21.0 points below the best searched network"),
    ]
    sentence = "The best network for 1,000 is a hand-made one: resnet8, 1.0 points above the best searched network."
    assert comparison.headline(told[0]) == sentence
    alone = competition(trained[1:], "accuracy")["architectures"]
    assert [one["winner"] for one in alone] == [False] * 3


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2]), st.sampled_from(["search", "resnet", "random"]), st.integers(0, 5)),
        min_size=1,
    )
)
def test_no_winner_is_worse_on_validation_than_any_other_network_of_its_budget(
    found: list[tuple[int, str, int]],
) -> None:
    trials = [
        {"trial": trial, "budget": budget, "origin": origin, "seed": 0, "multiply_adds": 5, "outcome": "trained"}
        | {"variant": origin, "validation_accuracy": right / 5, "accuracy": 0.5}
        for trial, (budget, origin, right) in enumerate(found)
    ]
    told = competition(trials, "accuracy")["architectures"]
    for budget in {budget for budget, origin, _ in found if origin == "search"}:
        [best] = [one for one in told if one["budget"] == budget and one["winner"]]
        assert all(one["validation_accuracy"] <= best["validation_accuracy"] for one in told if one["budget"] == budget)


def test_searched_and_hand_made_networks_are_judged_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of each reach the end, however much better the others are; random networks always do."""
    monkeypatch.setenv("YOSO_ATTEMPT", "1")
    origins = ["search", "search", "resnet", "mobilenetv2", "random"]
    finalists = [Finalist(number, SPEC.budgets[0], origin, 0) for number, origin in enumerate(origins)]
    heats = Heats(str(tmp_path), finalists, 8, "accuracy")
    for number, accuracy in enumerate([0.9, 0.8, 0.5, 0.4, 0.1]):
        trial = Trial("yoso", config={"number": number}, stub=True)
        heats.on_trial_add(None, trial)
        heats.on_trial_result(None, trial, {"epoch": 2, "training_iteration": 2, "accuracy": accuracy})
    folder = RunFolder(str(tmp_path))
    told = [folder.read_json(verdict(number, 2))["goes_on"] for number in range(4)]
    assert told == [True, False, True, False] and not folder.exists(verdict(4, 2))


@pytest.mark.parametrize(("choose_by", "survivor"), [("accuracy", 0), ("balanced_accuracy", 1)])
def test_a_rung_judges_by_what_was_asked_for(
    choose_by: str, survivor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOSO_ATTEMPT", "1")
    finalists = [Finalist(number, SPEC.budgets[0], "search", 0) for number in range(2)]
    heats = Heats(str(tmp_path), finalists, 8, choose_by)
    trials = [Trial("yoso", config={"number": number}, stub=True) for number in range(2)]
    scores = [{"accuracy": 0.98, "balanced_accuracy": 0.5}, {"accuracy": 0.9, "balanced_accuracy": 0.88}]
    for trial in trials:
        heats.on_trial_add(None, trial)
    # The better one is judged first, so that the other has somebody to be compared with.
    for number in sorted(range(2), key=lambda number: number != survivor):
        heats.on_trial_result(None, trials[number], {"epoch": 2, "training_iteration": 2} | scores[number])
    folder = RunFolder(str(tmp_path))
    told = [folder.read_json(verdict(number, 2)) for number in range(2)]
    assert [one["goes_on"] for one in told] == [number == survivor for number in range(2)]
    assert told[0].items() >= scores[0].items()


@pytest.mark.proof
def test_reference_networks_are_finalists_with_all_files_and_cards_tell_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, settings=replace(SPEC.settings, retrain_epochs=2))
    [budget] = spec.budgets
    finalists: list[dict[str, Any]] = [
        {"budget": budget, "origin": "search", "seed": 1, "source": "one"}
        | {"architecture": random_architecture(SPACE, budget, 1).to_dict()},
        {"budget": budget, "origin": "resnet", "seed": 1},
        {"budget": budget, "origin": "mobilenetv2", "seed": 1},
    ]
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict() | {"finalists": finalists, "at_once": 1}))
    folder = RunFolder(str(tmp_path))
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Checkpoints, "report", lambda self, metrics, state=None: told.append(metrics))
    monkeypatch.setattr(tuning, "rungs", lambda epochs: [])
    monkeypatch.setattr(Checkpoints, "load", lambda self: None)
    trials = []
    for number, finalist in enumerate(tuning.finalists_of({"finalists": finalists})):
        config = {"folder": str(tmp_path), "attempt": 1, "number": number, "checkpoint_seconds": 60.0}
        TorchTrainer(train_finalist, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
        trials.append(tuning.trial_result(folder, finalist, told[-1], 2))

    searched, resnet, mobile = trials
    assert (searched["outcome"], resnet["outcome"], mobile["outcome"]) == ("trained", "trained", "dropped")
    assert resnet["variant"] == "resnet8" and 0.97 * budget <= resnet["multiply_adds"] <= budget
    assert resnet["files"] | resnet["of_new_kinds"]["files"] == FILES
    assert resnet["not_exported"] == {} and resnet["recipe_without"] == []
    assert "The network was trained for few steps: " in resnet["warnings"][-1] and len(resnet["onnx"]) == 3
    least = min(one.narrowest().multiply_adds for one in candidates("mobilenetv2", SPACE))
    assert f"mobilenetv2 takes at least {least:,} multiply-adds" in mobile["reason"]

    result = competition(trials, "accuracy")
    for _ in range(2):  # also where the driver before had told it, and died
        compare_on_cards(folder, result)
    [winner] = [one for one in result["architectures"] if one["winner"]]
    assert winner["validation_accuracy"] == max(searched["validation_accuracy"], resnet["validation_accuracy"])
    cards = [(tmp_path / one["path"] / FILES["card"]).read_text() for one in (searched, resnet)]
    told_of_winner = comparison.headline(winner)
    assert told_of_winner is not None and all(card.count(told_of_winner) == 1 for card in cards)
    assert all(f"- Left out: {mobile['reason']}" in card and "| resnet8" in card for card in cards)
    assert "A hand-made network: resnet8" in cards[1] and "ReferenceNetwork" in cards[1]

    files = tmp_path / resnet["path"]
    Image.fromarray(np.full((8, 8), 120, np.uint8)).save(files / "photo.png")
    command = [sys.executable, "-W", "error", FILES["predict"], "photo.png"]
    found = subprocess.run(command, cwd=files, capture_output=True, text=True, env={"PYTHONPATH": ""})
    assert found.returncode == 0 and found.stdout.startswith("photo.png: "), found.stderr
    assert [one.get("reason") for one in result["trials"]] == [None, None, mobile["reason"]]


def test_a_reference_network_that_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Finalist(0, 10**6, "resnet", 0).build(SPEC)
    assert isinstance(reference, Reference)
    monkeypatch.setattr(finals, "measure_latency", lambda *network, device: Latency(2.0, 1.0, 3.0, 1))
    finals.check_latency(reference, "resnet", replace(SPEC, limits=Limits(latency_ms=2.5)), "cpu")
    with pytest.raises(ValueError, match="resnet8 takes 2 ms, over the limit of 1"):
        finals.check_latency(reference, "resnet", replace(SPEC, limits=Limits(latency_ms=1.0)), "cpu")
