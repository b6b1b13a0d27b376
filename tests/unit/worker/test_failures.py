"""What is told of a worker that fails, and of one that could tell nothing."""

import json
import pickle
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ray.train import WorkerGroupError

from nas_core.errors import LostPeer, OutOfMemory
from tests.unit.nas_core.networks import tiny_spec
from worker.failures import EndAtOnce, Failure, RunEnded, compose, ends_run
from worker.run_folder import RunFolder

# As Ray 2.60 says it, when its memory monitor has killed a worker.
KILLED = """1 worker(s) were killed due to the node running low on memory. Memory on the node \
(IP: 192.0.2.2, ID: 1cd60e1c) was 22.84GB used / 23.54GB limit (0.970346)
Ray killed 1 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Task: job ID=01000000, pid=13271, actual memory used=9.05GB, worker ID=4c187b70)
]
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/. Consider \
provisioning more memory on this node or reducing task parallelism by requesting more CPUs per task."""
# And of one that somebody killed.
DIED = """A worker health check failed.
Worker info: Worker(
  actor=Actor(RayTrainWorker, afe887a058eb9a2adb934b3901000000),
  metadata=ActorMetadata(
    hostname='gpu-2',
    node_id='f3b3892e',
    node_ip='192.0.2.2',
    pid=14870,
  ),
  distributed_context=DistributedContext(world_rank=1, world_size=2, local_rank=1, local_world_size=2, node_rank=0),
)
The actor died unexpectedly before finishing this task."""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "spec.json").write_text(json.dumps(tiny_spec().to_dict()))
    return RunFolder(str(tmp_path))


def ended(folder: RunFolder, error: Exception) -> RunEnded:
    """How a worker that meets `error` ends its run, as the driver has it from another process."""
    with pytest.raises(RunEnded) as raised, ends_run(folder, 2, tiny_spec()):
        raise error
    copy = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(copy, RunEnded)
    return copy


@pytest.mark.parametrize("take", [lambda: torch.empty(2**50), lambda: bytearray(2**50)], ids=["torch", "Python"])
def test_a_worker_that_runs_out_of_memory_says_how_much_there_is_in_one_sentence(
    folder: RunFolder, take: Callable[[], object]
) -> None:
    with pytest.raises(RunEnded) as raised, ends_run(folder, 1, tiny_spec()):
        take()
    told = compose(folder, 1, raised.value)
    assert told["kind"] == "out_of_memory" and not told["retryable"] and "\n" not in told["message"]
    for part in (f"worker 0 of 1 on {socket.gethostname()}", "held ", " GiB", "were free", "batch_size 16"):
        assert part in told["message"]
    assert re.search("DefaultCPUAllocator|MemoryError", told["traceback"])


def test_a_batch_that_does_not_fit_is_told_with_one_that_would(folder: RunFolder) -> None:
    error = OutOfMemory("batch_size", 512, 2**27, "DefaultCPUAllocator: can't allocate memory")
    told = compose(folder, 1, ended(folder, error))
    assert "a step keeps 128 MiB for each image" in told["message"]
    fits = re.search(r"a batch_size of about (\d+) would fit$", told["message"])
    assert fits is not None and 1 <= int(fits[1]) <= 256
    huge = OutOfMemory("batch_size", 512, 2**50, "DefaultCPUAllocator: can't allocate memory")
    assert compose(folder, 1, ended(folder, huge))["message"].endswith("not even one fits")


def test_a_worker_that_ray_kills_for_its_memory_ends_the_run_with_figures(folder: RunFolder) -> None:
    error = RuntimeError(KILLED)
    with pytest.raises(RuntimeError, match="low on memory"):
        EndAtOnce().after_exception(None, {1: error})
    told = compose(folder, 1, WorkerGroupError("…", {1: error}))
    assert told["kind"] == "out_of_memory" and not told["retryable"]
    assert told["message"].startswith(
        "out of memory: Ray stopped a worker on node 192.0.2.2; it held 9.05 GB, and 22.84 of the node's 23.54 GB were "
        "in use; batch_size 16 and retrain_batch_size 16 for 1 worker; a step of the search keeps "
    )
    assert told["message"].endswith("MiB for each image: a batch_size of about 8 would fit")
    assert "Refer to the documentation" in told["traceback"]


def test_a_worker_that_died_is_named_with_its_node(folder: RunFolder) -> None:
    error = RuntimeError(DIED)
    EndAtOnce().after_exception(None, {0: LostPeer("…"), 1: error})  # Ray Train starts all anew
    told = compose(folder, 1, WorkerGroupError("…", {0: LostPeer("…"), 1: error}))
    assert told["kind"] == "worker_failed" and told["retryable"] and told["host"] == "gpu-2" and told["rank"] == 1
    assert told["message"].startswith("worker 1 of 2 on gpu-2 died (last as process 14870)")


def test_the_first_worker_that_rules_out_another_attempt_is_told_of(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_core.parallel.world", lambda: (0, 2))
    hiccup = ended(folder, Failure("data", "a.png: input/output error", retryable=True))
    monkeypatch.setattr("nas_core.parallel.world", lambda: (1, 2))
    gone = ended(folder, Failure("data", "no such folder"))
    with pytest.raises(RunEnded, match="input/output"):
        EndAtOnce().after_exception(None, {0: hiccup})
    told = compose(folder, 2, hiccup)
    assert told == gone.problem and told["rank"] == 1 and not told["retryable"]
    assert compose(folder, 3, hiccup) == hiccup.problem, "what an earlier attempt met is another matter"


def test_a_worker_that_lost_another_lets_the_cause_be_seen_first(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    with pytest.raises(LostPeer), ends_run(folder, 1, tiny_spec()):
        raise LostPeer("connection closed by peer")
    assert slept and not folder.exists("errors"), "it is not a failure of its own"
