"""The Ray Train loop: every worker takes the same steps through one search.

Worker 0 writes the run's folder; the others only compute. All must hold the same λ and find the same architectures,
which is checked whenever a checkpoint is written: a difference would mean that the result depends on which worker
is asked.
"""

import hashlib
import os
import platform
import socket
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from nas_core import parallel
from nas_core.data.contact_sheet import MOST_IMAGES, MOST_ROWS, contact_sheet
from nas_core.data.layout import readable
from nas_core.data.loading import Data, Moments, load
from nas_core.data.snapshot import MOST_NAMED, Snapshot, compare
from nas_core.errors import DataChanged, Diverged, InvalidValue, OutOfMemory
from nas_core.finals import path
from nas_core.job import SearchJob
from nas_core.spec import SearchSpec
from nas_core.version import __version__
from worker.candidates import write_candidate
from worker.checkpoints import Checkpoints, Clock
from worker.exports import Exports, beside, write_genotype
from worker.failures import Failure, ends_run
from worker.journal import Journal
from worker.run_folder import VERSION, RunFolder
from worker.trials import compare_on_cards, competition

BEFORE = "dataset/before.jsonl.gz"
"""In a run of finals the manifest of one of its searches."""
MANIFEST, FINGERPRINT, SHEET = "dataset/manifest.jsonl.gz", "dataset/fingerprint", "dataset/contact-sheet.png"
MOMENTS = "dataset/moments.json"


def train_loop(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs; `config` holds the run's `folder` (URL), its `attempt`, and how many seconds
    after a checkpoint the next is due (`checkpoint_seconds`).

    Raises what `ends_run` does, wherever it fails.
    """
    folder = RunFolder(config["folder"], config["attempt"])
    values = folder.read_json("spec.json")
    spec = SearchSpec.from_dict(values)
    with ends_run(folder, config["attempt"], spec):
        search(folder, values, spec, config["attempt"], config["checkpoint_seconds"])


def search(
    folder: RunFolder, values: dict[str, Any], spec: SearchSpec, attempt: int, checkpoint_seconds: float
) -> None:
    """Run the search `spec` from its last checkpoint to its end; `values` is the content of `spec.json`.

    Raises `RuntimeError` where the workers disagree.
    """
    rank, workers = parallel.world()
    torch.set_num_threads(spec.cpus_per_worker)
    device = ray.train.torch.get_device()
    begin = time.time()
    data = load_data(folder, spec, values, device)
    loaded = time.time()
    job = SearchJob(spec, data, device)
    checkpoints, clock = Checkpoints(folder, "train", spec, attempt), Clock(checkpoint_seconds)
    state = checkpoints.load()
    trained = 0.0
    """Seconds in which the search has trained, over all attempts."""
    if state is not None:
        job.load_state_dict(state["job"])
        trained = state.get("training_seconds", 0.0)
        begin, loaded = begin - state["seconds"], loaded - state["seconds"]

    if rank == 0:
        folder.take("search")
    writer = Writer(folder, attempt, job) if rank == 0 else None
    if writer is not None:
        took = {"data_seconds": round(loaded - begin, 3), "build_seconds": round(time.time() - loaded, 3)}
        writer.tell({"kind": "started", "workers": workers, "device": str(device), "resumed": state is not None,
                     "host": socket.gethostname(), "pid": os.getpid(),
                     "precision": job.search.engine.precision} | took)  # fmt: skip
    try:
        while not job.done:
            before = time.monotonic()
            lines = job.advance()
            trained += time.monotonic() - before
            if writer is not None:
                writer.take(lines)
            if not job.done and clock.due(ready=lambda: not (checkpoints.pending or (writer and writer.exports))):
                check_agreement(job)
                state = {"job": job.state_dict(), "seconds": time.time() - begin, "training_seconds": trained}
                if writer is not None:
                    writer.flush()  # whoever goes on from there does not tell again what is behind it
                checkpoints.report({}, state, {"kind": "checkpoint", "step": job.search.step})
            while writer is not None and checkpoints.written:
                writer.tell(checkpoints.written.pop(0))
    except (Diverged, InvalidValue, OutOfMemory):
        if writer is not None:
            writer.close()
        raise
    check_agreement(job)
    if writer is not None:
        writer.close()
        told = result(values, attempt, job, data, time.time() - begin)
        if job.spec.finals.competing:
            compare_on_cards(folder, told)
        folder.write_json("result.json", told | {"training_seconds": trained})


class Writer:
    """What worker 0 writes of a search into its `folder`: its journal, and what it finds in every form.

    Networks are exported while others are trained, one after the other. The line that tells of one is written when its
    files are there; until then no checkpoint is taken, so that whoever goes on from one never believes in files that
    there are not.
    """

    def __init__(self, folder: RunFolder, attempt: int, job: SearchJob) -> None:
        self.folder, self.job = folder, job
        self.journal = Journal(folder, attempt)
        self.pool: Executor | None = None
        self.exports: list[tuple[Exports, dict[str, Any], dict[str, Any]]] = []
        """What is being exported, each with its line and its result."""

    def take(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write the journal `lines` of a step, and before each the files that it tells of."""
        for line in lines:
            if line.get("phase") == "retrain" and self.pool is None:
                alone = line["budget"] == self.job.spec.budgets[-1]  # nothing is trained beside its export
                self.pool = ThreadPoolExecutor(1) if alone else beside()
            if line["kind"] == "architecture":
                self._write_found(line["budget"])
            if line["kind"] == "retrained":
                self._export(line)
            else:
                self.tell(line)
        while self.exports and self.exports[0][0].ready:
            self._finish()
        self.journal.flush()

    def tell(self, line: dict[str, Any]) -> None:
        """Write a line that tells of no files."""
        self.journal.write(line)

    def flush(self) -> None:
        """Write all lines that may be written by now."""
        self.journal.flush(force=True)

    def close(self) -> None:
        """Write what is left, once it is there."""
        while self.exports:
            self._finish()
        if self.pool is not None:
            self.pool.shutdown(wait=False)
        self.journal.close()

    def _write_found(self, budget: int) -> None:
        write_genotype(self.folder, path(budget), self.job.architectures[budget])
        if candidate := self.job.search.candidates.get(budget):
            write_candidate(self.folder, budget, candidate)

    def _export(self, line: dict[str, Any]) -> None:
        job, where = self.job, line["path"]
        assert self.pool is not None and job.delivered is not None
        contender, weights, evaluation = job.delivered
        architecture, result = contender.architecture, contender.result
        assert architecture is not None and result is not None
        write_genotype(self.folder, where, architecture)  # it may be another one than was found for the budget
        exports = Exports(
            self.pool, self.folder, where, job.spec, architecture, weights, job.data, evaluation, result, versions(),
            contender.latency,
        )  # fmt: skip
        self.exports.append((exports, line, result))

    def _finish(self) -> None:
        """Write the files of the network that is exported first, wait for them, and tell of it."""
        exports, line, result = self.exports.pop(0)
        result |= exports.write()
        self.tell(line)


def load_data(folder: RunFolder, spec: SearchSpec, values: dict[str, Any], device: torch.device) -> Data:
    """The data of a run, whose `spec.json` holds `values`: those that its first attempt found, or none.

    Raises `Failure` where they cannot be read, or are others.
    """
    try:
        known = recall_data(folder)
        submitted = (spec.inspection or {}).get("fingerprint") or None  # of a dataset with a name there is none
        roots = values.get("data_roots", [])
        try:
            data = load(spec, roots, device, known, submitted, recall_moments(folder, spec.space.channels_in))
        except DataChanged:
            if known is None:
                compare_with_searches(folder, spec, roots)
            raise
        if known is None and parallel.world()[0] == 0:
            remember_data(folder, data)
        return data
    except DataChanged as error:
        raise Failure("data_changed", str(error), changes=error.changes) from error
    except (OSError, ValueError) as error:
        # A file system may be well again later; what is damaged or not there stays so.
        raise Failure("data", str(error), retryable=isinstance(error, OSError)) from error


def compare_with_searches(folder: RunFolder, spec: SearchSpec, roots: Sequence[str]) -> None:
    """Raise `DataChanged` with what has changed since the searches whose networks a run of finals retrains."""
    # It is another run's, which may have left anything, and only serves to tell more.
    with suppress(OSError, ValueError, TypeError, KeyError, EOFError, zlib.error):
        if folder.exists(BEFORE):
            compare(spec.dataset, roots, spec.data, Snapshot.from_bytes(folder.read(BEFORE)))


def remember_data(folder: RunFolder, data: Data) -> None:
    """Write for good of which data the run is. Raises `DataChanged` where another trial has found others."""
    name, content = (MANIFEST, data.snapshot.to_bytes()) if data.snapshot else (FINGERPRINT, data.fingerprint.encode())
    try:
        folder.create(name, content)
    except FileExistsError:
        known = recall_data(folder)
        if data.fingerprint != (known.fingerprint if isinstance(known, Snapshot) else known):
            raise DataChanged(f"{data.name!r} changed while it was loaded", {}) from None
    folder.write_json(MOMENTS, {"mean": data.mean, "deviation": data.deviation})
    folder.write(SHEET, sheet(data))


def sheet(data: Data) -> bytes:
    """What the networks see of the images that they are trained on, as PNG: a row of each of the first classes."""
    rows = []
    for label in range(min(data.classes, MOST_ROWS)):
        own = data.training[data.labels[data.training] == label]
        name = data.class_names[label] if data.class_names else f"class {label}"
        rows.append((name, f"training, {len(own):,}", list(data.images.fetch(own[:MOST_IMAGES]).cpu().numpy())))
    more = f"and {data.classes - len(rows):,} more classes" if data.classes > len(rows) else ""
    return contact_sheet(readable(data.name), rows, more)


def recall_moments(folder: RunFolder, channels: int) -> Moments | None:
    """Mean and deviation of each of so many channels, as the start that found the run's data has measured them.

    None where they are not there, or are none: then they are measured again.
    """
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        told = folder.read_json(MOMENTS)
        mean, deviation = (tuple(map(float, told[name])) for name in ("mean", "deviation"))
        if len(mean) == len(deviation) == channels and all(0 <= m <= 255 for m in mean):
            return Moments(mean, deviation) if all(0 < one <= 255 for one in deviation) else None
    return None


def recall_data(folder: RunFolder) -> Snapshot | str | None:
    """What an earlier start has remembered of the run's data, if there was one."""
    if folder.exists(MANIFEST):
        return Snapshot.from_bytes(folder.read(MANIFEST))
    return folder.read(FINGERPRINT).decode() if folder.exists(FINGERPRINT) else None


def check_agreement(job: SearchJob) -> None:
    """Raise `RuntimeError` unless all workers hold the same λ, bit for bit, and the same architectures."""
    digest = hashlib.blake2b()
    for parameter in job.search.supernet.scaling_factors():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    for budget, architecture in sorted(job.architectures.items()):
        digest.update(f"{budget} {architecture.to_json()}".encode())
    digests = parallel.each(digest.hexdigest())
    if len(set(digests)) > 1:
        raise RuntimeError(f"the workers disagree about λ or the architectures: {digests}")


def result(values: dict[str, Any], attempt: int, job: SearchJob, data: Data, seconds: float) -> dict[str, Any]:
    """The content of `result.json`; `seconds` of work, over all attempts."""
    found: dict[str, Any] = {"architectures": [one | {"path": path(one["budget"])} for one in job.results]}
    if job.race is not None and job.spec.finals.competing:
        found = competition(job.race.trials(), job.spec.settings.choose_by)
    return {
        "version": VERSION,
        "search_id": values.get("search_id"),
        "attempt": attempt,
        "seed": job.spec.seed,
        "seconds": seconds,
        "versions": versions(),
        "dataset": dataset(data) | {"inspection": job.spec.inspection},
        "engine": job.search.engine.told(),
        "supernet": job.supernet_cost,
        "compute": job.compute,
        **found,
    }


def dataset(data: Data) -> dict[str, Any]:
    """What a result tells of its data."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": data.classes,
        "class_names": list(data.class_names) or None,
        "splits": data.splits,
        "mean": data.mean,
        "deviation": data.deviation,
        "counts": data.counts(),
        "decoding": data.decoding.to_dict() if data.decoding else None,
        "kept": data.kept._asdict() if data.kept else None,
        "left_out": [asdict(one) | {"examples": list(one.examples)} for one in data.left_out[:MOST_NAMED]],
        "skipped": {"count": len(data.skipped), "files": list(data.skipped[:MOST_NAMED])},
    }


def versions() -> dict[str, str]:
    """What the search runs on, by name."""
    return {
        "yoso": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }
