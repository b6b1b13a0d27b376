"""The Ray Train loop: every worker takes the same steps through one search.

Worker 0 writes the run's folder; the others only compute. All must hold the same λ and find the same architectures,
which is checked whenever a checkpoint is written: a difference would mean that the result depends on which worker
is asked.
"""

import hashlib
import os
import platform
import socket
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from safetensors.torch import save

from nas_core import parallel
from nas_core.data import Data, load
from nas_core.errors import Diverged, InvalidValue
from nas_core.files import FILES
from nas_core.job import SearchJob, path
from nas_core.picture import draw
from nas_core.spec import SearchSpec
from worker.exports import write_exports
from worker.run_folder import VERSION, Journal, RunFolder


def train_loop(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs; `config` holds the run's `folder` (URL), its `attempt`, and how many seconds
    after a checkpoint the next is due, at the first end of an epoch.

    Raises `RuntimeError` where the workers disagree. Data that cannot be read, a training that diverges and a
    latency that cannot be kept end the run at once, with the reason in `error.json`: a new start would meet the same.
    """
    folder = RunFolder(config["folder"])
    values = folder.read_json("spec.json")
    spec = SearchSpec.from_dict(values)
    rank, workers = parallel.world()
    torch.set_num_threads(spec.cpus_per_worker)
    device = ray.train.torch.get_device()
    begin = time.time()
    try:
        data = load(spec, values.get("data_roots", []), device)
    except (OSError, ValueError) as error:
        if rank == 0:
            folder.write_json("error.json", problem(config["attempt"], "data", str(error), retryable=False))
        return
    job = SearchJob(spec, data, device)
    resumed = ray.train.get_checkpoint()
    if resumed is not None:
        with resumed.as_directory() as directory:
            state = torch.load(Path(directory) / "job.pt", map_location=device, weights_only=True)
        try:
            job.load_state_dict(state["job"])
        except InvalidValue as error:
            if rank == 0:
                told = problem(config["attempt"], "checkpoint", str(error), retryable=False)
                folder.write_json("error.json", told)
            return
        begin -= state["seconds"]

    journal = Journal(folder, config["attempt"]) if rank == 0 else None
    note(journal, {"kind": "started", "workers": workers, "device": str(device), "resumed": resumed is not None,
                   "host": socket.gethostname(), "pid": os.getpid()})  # fmt: skip
    saved = time.monotonic()
    while not job.done:
        try:
            lines = job.advance()
        except (Diverged, InvalidValue) as error:
            if journal is not None:
                journal.flush(force=True)
                kind = "diverged" if isinstance(error, Diverged) else "limits"
                folder.write_json("error.json", problem(config["attempt"], kind, str(error), retryable=False))
            return
        for line in lines:
            if rank == 0:
                write_files(folder, job, line)
            note(journal, line)
        if journal is not None:
            journal.flush()
        epoch_ended = any(line["kind"] == "epoch" for line in lines)
        due = time.monotonic() - saved >= config["checkpoint_seconds"]
        if epoch_ended and not job.done and agreed(due, device):
            check_agreement(job)
            checkpoint(job, time.time() - begin, rank)
            note(journal, {"kind": "checkpoint", "step": job.search.step})
            saved = time.monotonic()
    check_agreement(job)
    if rank == 0:
        assert journal is not None
        journal.flush(force=True)
        folder.write_json("result.json", result(values, config["attempt"], job, data, time.time() - begin))


def note(journal: Journal | None, line: dict[str, Any]) -> None:
    """Write `line` into the journal, on the worker that has one."""
    if journal is not None:
        journal.write(line)


def agreed(wish: bool, device: torch.device) -> bool:
    """Worker 0's `wish`, on every worker."""
    flag = torch.tensor([int(wish)], device=device)
    if parallel.world()[1] > 1:
        dist.broadcast(flag, src=0)
    return bool(flag.item())


def check_agreement(job: SearchJob) -> None:
    """Raise `RuntimeError` unless all workers hold the same λ, bit for bit, and the same architectures."""
    digest = hashlib.blake2b()
    for parameter in job.search.supernet.scaling_factors():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    for budget, architecture in sorted(job.architectures.items()):
        digest.update(f"{budget} {architecture.to_json()}".encode())
    _, workers = parallel.world()
    if workers > 1:
        digests: list[Any] = [None] * workers
        dist.all_gather_object(digests, digest.hexdigest())
        if len(set(digests)) > 1:
            raise RuntimeError(f"the workers disagree about λ or the architectures: {digests}")


def checkpoint(job: SearchJob, seconds: float, rank: int) -> None:
    """Report the job's whole state to Ray Train; all workers must call this, worker 0 brings the state."""
    if rank != 0:
        ray.train.report({}, checkpoint=None)
        return
    with tempfile.TemporaryDirectory() as directory:
        torch.save({"job": job.state_dict(), "seconds": seconds}, Path(directory) / "job.pt")
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(directory))


def write_files(folder: RunFolder, job: SearchJob, line: dict[str, Any]) -> None:
    """Write the files that a journal line tells of, before the line itself; a result notes which it has."""
    if line["kind"] == "architecture":
        architecture = job.architectures[line["budget"]]
        folder.write(f"{path(line['budget'])}/{FILES['architecture']}", architecture.to_json().encode())
        folder.write(f"{path(line['budget'])}/{FILES['picture']}", draw(architecture).encode())
        if candidate := job.search.candidates.get(line["budget"]):
            metadata = {"architecture": candidate.live.to_json()}
            folder.write(f"candidates/{line['budget']}.safetensors", save(candidate.state, metadata))
    elif line["kind"] == "retrained":
        folder.write(f"{path(line['budget'])}/{FILES['weights']}", save(job.weights[line["budget"]]))
        job.results[-1] |= write_exports(folder, job, versions())


def result(values: dict[str, Any], attempt: int, job: SearchJob, data: Data, seconds: float) -> dict[str, Any]:
    """The content of `result.json`; `seconds` of work, over all attempts."""
    return {
        "version": VERSION,
        "search_id": values.get("search_id"),
        "attempt": attempt,
        "seed": job.spec.seed,
        "seconds": seconds,
        "versions": versions(),
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "class_names": list(data.class_names) or None,
            "splits": data.splits,
            "mean": data.mean,
            "deviation": data.deviation,
            "skipped": {"count": len(data.skipped), "files": data.skipped[:100]},
        },
        "supernet": job.supernet_cost,
        "architectures": [one | {"path": path(one["budget"])} for one in job.results],
    }


def versions() -> dict[str, str]:
    """What the search runs on, by name."""
    return {
        "yoso": own_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }


def own_version() -> str:
    """The version of the installed package, or "unknown" where it runs from a bare checkout."""
    try:
        return version("yoso")
    except PackageNotFoundError:
        return "unknown"


def problem(attempt: int, kind: str, message: str, retryable: bool, traceback: str = "") -> dict[str, Any]:
    """The content of `error.json`."""
    return {
        "version": VERSION,
        "attempt": attempt,
        "kind": kind,
        "message": message,
        "traceback": traceback,
        "retryable": retryable,
    }
