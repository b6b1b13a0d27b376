"""What the Ray Train loop does with what stops a search for good: several real workers, joined by gloo.

Ray Train runs the loop in the worker's own process, which is no actor of Ray's: the workers are started here.
"""

import json
import multiprocessing
import os
import re
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from torch.multiprocessing.spawn import start_processes

from nas_core import SearchSpace
from nas_core.errors import LostPeer
from nas_core.spec import Limits, SearchSpec, Settings
from tests import seeding
from worker import failures
from worker.checkpoints import Checkpoints
from worker.failures import RunEnded
from worker.training import train_loop

WORKERS = 2
SPACE = SearchSpace.preset("digits", channels=4, blocks=(1, 1), levels=2)
SPEC = SearchSpec("digits", SPACE.feasible_budgets()[1:], SPACE, Settings.preset("digits"), workers=WORKERS)

TWO = replace(SPACE, classes=2)
PETS = replace(SPEC, dataset="~/pets", space=TWO, budgets=TWO.feasible_budgets()[1:])


def worker(rank: int, folder: str) -> None:
    """One of the workers; it leaves a file when the loop has let it go, with what it tells the driver.

    Each has a home of its own, as on nodes of their own.
    """
    os.environ["HOME"] = f"{folder}/home{rank}"
    failures.CAUSE_FIRST_SECONDS = 0.0
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    config = {"folder": folder, "attempt": 3, "checkpoint_seconds": 5.0}
    with pytest.raises((RunEnded, LostPeer)) as ended:
        TorchTrainer(train_loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
    (Path(folder) / f"ended{rank}").write_text(str(ended.value))


@pytest.mark.parametrize(
    ("kind", "spec", "told", "ranks"),
    [
        ("data", PETS, "no such folder", [1]),
        pytest.param(
            "limits",
            replace(SPEC, limits=Limits(latency_ms=1e-6)),
            "limits.latency_ms: ",
            [0, 1],
            marks=pytest.mark.proof,
        ),
    ],
)
def test_what_would_happen_again_is_told_by_all_workers_that_meet_it_and_ends_all(
    tmp_path: Path, kind: str, spec: SearchSpec, told: str, ranks: list[int]
) -> None:
    """The data lie in the home of the first alone, which waits for the other in a collective."""
    seeding.images(tmp_path / "home0" / "pets", "cat", "dog", each=20)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "nas_core", "worker.training"])
    start_processes(worker, (str(tmp_path),), nprocs=WORKERS, start_method="forkserver")
    assert len(list((tmp_path / "errors").iterdir())) == len(ranks), "who lost another is not the cause"
    assert all((tmp_path / f"ended{rank}").exists() for rank in range(WORKERS))
    for rank in ranks:
        error = json.loads((tmp_path / "errors" / f"0003-{rank:04d}.json").read_text())
        assert error["kind"] == kind and not error["retryable"] and error["attempt"] == 3 and told in error["message"]
        assert error["rank"] == rank and error["host"] == socket.gethostname()
        assert (tmp_path / f"ended{rank}").read_text() == error["message"]
    assert [line["kind"] for line in journal(tmp_path)] == ([] if kind == "data" else ["started"])
    assert not (tmp_path / "result.json").exists()


def journal(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's journal."""
    return [json.loads(line) for file in sorted(folder.glob("journal/*")) for line in file.read_text().splitlines()]


def test_the_journal_tells_of_every_epoch_before_a_checkpoint_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on from the checkpoint begins with the next one. One is due after every step, and so taken."""
    told, held = [], []

    def report(self: Checkpoints, metrics: object, state: dict[str, Any], line: dict[str, Any]) -> None:
        told.append([(line["phase"], line["epoch"]) for line in journal(tmp_path) if line["kind"] == "epoch"])
        held.append((line["step"], len(state["job"]["search"]["losses"])))

    monkeypatch.setattr(Checkpoints, "report", report)
    settings = Settings.preset("digits", pretrain_epochs=1, search_epochs=3, retrain_epochs=1, batch_size=256)
    spec = replace(SPEC, settings=settings, workers=1)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    config = {"folder": str(tmp_path), "attempt": 1, "checkpoint_seconds": 0.0}
    TorchTrainer(train_loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
    epochs = [("pretrain", 1), ("search", 1), ("search", 2), ("search", 3)]
    steps = max(step for step, _ in held) // len(epochs)
    assert steps > 1
    assert told[: 4 * steps] == [epochs[: step // steps] for step in range(1, 4 * steps + 1)]
    assert held[: 4 * steps] == [(step, step % steps) for step in range(1, 4 * steps + 1)], "half an epoch's losses too"


def test_a_process_that_loads_images_and_is_killed_ends_the_attempt_with_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    others = set(multiprocessing.active_children())

    def report(*_: object) -> None:
        if not killed:
            [reader] = set(multiprocessing.active_children()) - others
            assert reader.pid
            os.kill(reader.pid, signal.SIGKILL)
            killed.append(reader.pid)

    monkeypatch.setattr(Checkpoints, "report", report)
    pets = seeding.images(tmp_path / "pets", "cat", "dog", each=40)
    settings = Settings.preset("digits", batch_size=4, crop="resized")
    space = replace(SPACE, classes=2)
    budgets = space.feasible_budgets()[1:]
    spec = SearchSpec(str(pets), budgets, space, settings)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    config = {"folder": str(tmp_path), "attempt": 1, "checkpoint_seconds": 0.0}
    with pytest.raises(RunEnded) as ended:
        TorchTrainer(train_loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)).fit()
    error = json.loads((tmp_path / "errors" / "0001-0000.json").read_text())
    assert error["kind"] == "data" and error["retryable"] and error["message"] == str(ended.value)
    read = rf"process {killed[0]}, which loads images, died while it read {pets}/(cat|dog)/\d+\.png"
    assert re.search(f"{read}: it was killed by SIGKILL", error["message"])
    assert not (tmp_path / "result.json").exists()
