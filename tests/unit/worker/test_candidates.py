"""Finals train on from what the searches that they follow kept of their supernets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from nas_core import Architecture, Supernet
from nas_core.search.search import Candidate
from nas_core.seeds import generator
from nas_core.space import Block, Edge, Reduction
from nas_core.spec import SearchSpec
from nas_core.supernet.inherit import inherited
from nas_core.train.retrain import Retraining
from tests.unit.nas_core.networks import tiny_data, tiny_spec
from worker import tuning
from worker.candidates import read_candidate, start_from, write_candidate
from worker.checkpoints import Checkpoints
from worker.exports import Exports
from worker.run_folder import RunFolder
from worker.tuning import train_finalist

SPEC = tiny_spec(settings={"retrain_start": "supernet", "retrain_epochs": 1})
BUDGET = SPEC.budgets[-1]
NODES = SPEC.space.nodes
FOUND = Architecture(
    SPEC.space,
    (5, 9),
    (Block((Edge(0, 1, 0.7), Edge(1, NODES + 1, 0.4))),) * 2,
    (Reduction(0.0, 0.6),),
)


def kept(architecture: Architecture = FOUND) -> Candidate:
    live = replace(architecture, widths=architecture.space.widths)
    supernet = Supernet(live.space)
    supernet.prune(live)
    return Candidate(live, supernet.state_dict())


def searched(root: Path, candidate: Candidate | None) -> RunFolder:
    """The folder of finals beside that of a search in its second attempt, whose first kept `candidate`."""
    for attempt in ("0001", "0002"):
        (root / "found" / "attempts" / attempt).mkdir(parents=True)
        (root / "found" / "attempts" / attempt / "spec.json").write_text("{}")
    if candidate is not None:
        first = RunFolder(str(root / "found"), 1)
        first.check = lambda: None  # type: ignore[method-assign]  # it wrote before there was a second
        write_candidate(first, BUDGET, candidate)
    return RunFolder(str(root / "finals"))


def test_what_a_search_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    candidate = kept()
    folder = searched(tmp_path, candidate)
    found = read_candidate(folder, "found", BUDGET)
    assert found is not None and found.live == candidate.live
    assert all(torch.equal(tensor, found.state[name]) for name, tensor in candidate.state.items())
    ours, wanted = (
        start_from(folder, "found", BUDGET, FOUND, 3),
        inherited(FOUND, candidate.supernet(), generator(3, "start", BUDGET)),
    )
    assert ours is not None and all(torch.equal(tensor, ours[name]) for name, tensor in wanted.items())
    assert start_from(folder, "found", BUDGET + 1, FOUND, 3) is None
    assert start_from(folder, "gone", BUDGET, FOUND, 3) is None


@pytest.mark.parametrize("harm", ["cut", "no architecture", "another shape", "another space"])
def test_what_is_damaged_is_refused_by_name(tmp_path: Path, harm: str) -> None:
    candidate = kept()
    if harm == "another shape":
        candidate.state["head.bn.weight"] = torch.ones(3)
    if harm == "another space":
        candidate = kept(replace(FOUND, space=replace(SPEC.space, classes=4)))
    folder = searched(tmp_path, candidate)
    [file] = tmp_path.glob("found/attempts/0001/candidates/*")
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    if harm == "no architecture":
        file.write_bytes(file.read_bytes().replace(b"architecture", b"Architecture"))
    with pytest.raises(ValueError, match=f"candidates/{BUDGET}.safetensors of the search found"):
        start_from(folder, "found", BUDGET, FOUND, 3)


@pytest.mark.parametrize(
    ("candidate", "changes", "start"),
    [(True, {}, "supernet"), (False, {}, "scratch"), (True, {"fit": True}, "scratch")],
)
def test_finals_begin_with_it_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidate: bool, changes: dict[str, Any], start: str
) -> None:
    folder = searched(tmp_path, kept() if candidate else None)
    finalist = {"budget": BUDGET, "origin": "search", "seed": 1, "source": "found", "architecture": FOUND.to_dict()}
    folder.write_json("spec.json", SPEC.to_dict() | {"finalists": [finalist | changes], "at_once": 1})
    begun: list[Retraining] = []

    def began(*given: Any) -> Retraining:
        begun.append(Retraining(*given))
        return begun[-1]

    monkeypatch.setattr(tuning, "load_data", lambda *_: tiny_data())
    monkeypatch.setattr(tuning, "Retraining", began)
    monkeypatch.setattr(Checkpoints, "report", lambda *_, **__: None)
    monkeypatch.setattr(Checkpoints, "load", lambda self: None)
    monkeypatch.setattr(Exports, "__init__", lambda *of_what: None)
    monkeypatch.setattr(Exports, "write", lambda self: {})
    config = {"folder": folder.url, "attempt": 1, "number": 0, "checkpoint_seconds": 1000.0}
    TorchTrainer(train_finalist, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
    [written] = (tmp_path / "finals").glob("architectures/*/result.json")
    assert json.loads(written.read_text())["start"] == begun[0].start == start
    assert SearchSpec.from_dict(folder.read_json("spec.json")) == SPEC
