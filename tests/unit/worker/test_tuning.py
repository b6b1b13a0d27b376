"""What a trial of the finals tells, in the test's own process and without Tune."""

import json
from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from nas_core import SearchSpace
from nas_core.baselines import random_architecture
from nas_core.spec import SearchSpec, Settings
from worker import tuning
from worker.run_folder import RunFolder
from worker.tuning import past, train_finalist, verdict

SPACE = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
SPEC = SearchSpec("digits", SPACE.feasible_budgets()[1:], SPACE, Settings.preset("digits", retrain_epochs=8))


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
    states: list[dict[str, Any] | None] = []

    def report(metrics: dict[str, Any], state: dict[str, Any] | None, rank: int) -> None:
        told.append([line["epoch"] for line in metrics["lines"]])
        states.append(state)
        if metrics["epoch"] in (2, 4):
            folder.write_json(verdict(0, metrics["epoch"]), {"goes_on": metrics["epoch"] == 2, "accuracy": 0.5})

    def train() -> list[list[int]]:
        """The epochs that a life of the trial tells of, report by report."""
        told.clear()
        config = {"folder": str(tmp_path), "attempt": 1, "number": 0, "checkpoint_seconds": 0.0}
        TorchTrainer(train_finalist, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
        return list(told)

    monkeypatch.setattr(tuning, "report", report)
    monkeypatch.setattr(tuning, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "load_checkpoint", lambda folder, name, device: None)
    monkeypatch.setattr(tuning, "write_exports", lambda *of_what: {})
    assert train() == [[1], [2], [3], [4]]
    assert train() == [[1, 2, 3, 4]], "it had been stopped"
    folder.remove(verdict(0, 4))
    monkeypatch.setattr(tuning, "load_checkpoint", lambda folder, name, device: states[2])
    assert train() == [[1, 2, 3, 4]], "it goes on from its checkpoint after epoch 3"
    folder.remove(verdict(0, 4))
    monkeypatch.setattr(tuning, "rungs", lambda epochs: [])
    assert train() == [[1, 2, 3, 4], [5], [6], [7], [8]]
    assert train() == [[1, 2, 3, 4, 5, 6, 7, 8]], "it was trained"
    folder.remove(past(0))
    assert train() == [[]], "by a Yoso that kept nothing"
