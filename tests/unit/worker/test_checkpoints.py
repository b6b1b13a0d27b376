"""When a checkpoint is due, and what becomes of it in the background."""

import multiprocessing
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from nas_core import parallel
from tests.unit.nas_core.networks import tiny_spec
from worker.checkpoints import Checkpoints, Clock
from worker.failures import RunEnded
from worker.run_folder import RunFolder


class Hands:
    """A clock whose hands a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.mark.parametrize("step", [0.001, 0.3, 20.0])
def test_what_is_due_is_taken_within_a_step_or_a_tenth_and_asked_for_seldom(
    monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    hands, asked = Hands(monkeypatch), []
    clock = Clock(5.0)

    def first(make: Callable[[], Any]) -> Any:
        asked.append(hands.now)
        return make()

    monkeypatch.setattr(parallel, "first", first)
    taken = [hands.now]
    for _ in range(max(20, round(60 / step))):
        hands.now += step
        if clock.due():
            taken.append(hands.now)
    apart = [after - before for before, after in pairwise(taken)]
    assert len(apart) >= 10 and all(5.0 <= one <= 5.5 + 2 * step for one in apart)
    assert len(asked) <= 20 * len(apart)


def test_what_would_be_of_no_use_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    clock, ready = Clock(1.0), False
    for _ in range(300):
        hands.now += 0.01
        assert not clock.due(lambda: ready)
    ready, since = True, hands.now
    while not clock.due(lambda: ready):
        hands.now += 0.01
    assert hands.now - since <= 0.2


def worker(rank: int, folder: str) -> None:
    """Steps that are of other lengths here and there; leaves after which of them it was time."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    clock, due = Clock(0.05), []
    for step in range(100):
        time.sleep(0.001 + 0.003 * (step % 3 == rank))
        if clock.due():
            due.append(step)
    (Path(folder) / f"due{rank}").write_text(repr(due))


def test_all_workers_find_it_due_after_the_same_steps(tmp_path: Path) -> None:
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "nas_core", "worker.training"])
    start_processes(worker, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = ((tmp_path / f"due{rank}").read_text() for rank in range(2))
    assert first == second and first.count(",") >= 2


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Ray Train would do in the background, which a test does in its place."""
    begun: list[Any] = []

    def report(metrics: dict[str, Any], checkpoint: object = None, **how: Any) -> None:
        begun.append(lambda: how["checkpoint_upload_fn"](checkpoint, "checkpoint_1"))

    monkeypatch.setattr(ray.train, "report", report)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    return begun


def test_a_checkpoint_holds_the_state_as_it_was_when_it_was_taken(tmp_path: Path, uploads: list[Any]) -> None:
    kept = Checkpoints(RunFolder(str(tmp_path)), "train", tiny_spec(), 1)
    weight = torch.arange(3.0)
    kept.report({}, {"weights": [weight, {"momentum": weight}], "step": 3}, {"kind": "checkpoint", "step": 3})
    weight.zero_()
    assert kept.pending and kept.written == [] and kept.load() is None
    [upload] = uploads
    upload()
    assert not kept.pending and kept.written == [{"kind": "checkpoint", "step": 3}]
    state = kept.load()
    assert state is not None and state["step"] == 3
    assert state["weights"][0].tolist() == state["weights"][1]["momentum"].tolist() == [0.0, 1.0, 2.0]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_the_reason(tmp_path: Path, uploads: list[Any]) -> None:
    folder = RunFolder(str(tmp_path))
    kept = Checkpoints(folder, "train", tiny_spec(), 1)
    (tmp_path / "train").write_text("a file where a folder should be")
    kept.report({}, {"step": 3}, {"kind": "checkpoint", "step": 3})
    with pytest.raises(RunEnded, match="train"):
        uploads[0]()
    assert folder.read_json("errors/0001-0000.json")["retryable"] and kept.written == [] and kept.pending
