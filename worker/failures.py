"""How a worker's failure ends the whole run at once, and what is told of it.

A worker that fails writes why, and on which node, into the run's folder (`errors/`), and raises `RunEnded`. Ray Train's
controller sees that at its next look at the workers and stops them all (`EndAtOnce`), whatever collective the others
wait in; the job's driver then writes `error.json`. A worker that was killed, or lost with its node, can tell nothing:
then Ray Train starts all anew from the last checkpoint, unless Ray killed it for its memory.

The driver and the controller use this too, so torch is loaded where only a worker needs it (`worker/launch.py`).
"""

import os
import posixpath
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ray.train import UserCallback

from nas_core.errors import DataChanged, Diverged, InvalidValue, LoaderDied, LostPeer, OutOfMemory, ReadFailed
from nas_core.memory import of_host, ran_out
from nas_core.spec import SearchSpec
from nas_core.wording import number_of
from worker.run_folder import VERSION, RunFolder

CAUSE_FIRST_SECONDS = 5.0
"""A worker that lost another one waits for so long before it says so, for the controller to see the cause first."""
_OF_ALL = ("diverged", "limits", "checkpoint", "data_changed", "engine")
"""What all workers find alike, so that it does not matter which of them tells it."""
ROOM_FOR_BATCH = 0.7
"""The share of a worker's memory that a batch may fill: the rest is for weights, gradients and what is in between."""
_GIB = 2**30
_NODE_MEMORY = re.compile(r"node \(IP: ([^,)]+)[^)]*\) was ([\d.]+)GB used / ([\d.]+)GB limit")
_WORKER_MEMORY = re.compile(r"memory used[=:] ?([\d.]+) ?Gi?B", re.IGNORECASE)
_DIED = re.compile(r"hostname='([^']*)'.*?\bpid=(\d+).*?world_rank=(\d+), world_size=(\d+)", re.DOTALL)


class Failure(Exception):
    """What ends a run: the `kind` and `message` of its `error.json`, and whether another attempt may do better."""

    def __init__(self, kind: str, message: str, retryable: bool = False, **details: Any) -> None:
        super().__init__(message)
        self.kind, self.message, self.retryable, self.details = kind, message, retryable, details


class RunEnded(Exception):
    """A worker's failure on its way to the driver; `problem` is what it wrote into `errors/`."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(problem["message"])
        self.problem = dict(problem)

    def __reduce__(self) -> tuple[type["RunEnded"], tuple[dict[str, Any]]]:
        return type(self), (self.problem,)


class EndAtOnce(UserCallback):
    """Ends a Ray Train run for what its workers would meet again, instead of starting them anew.

    What a callback raises is an error of the controller's own, which Ray Train never retries.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the exception of a worker that ended the run, or that Ray has killed for its memory."""
        for error in worker_exceptions.values():
            if isinstance(error, RunEnded) or _killed_for_memory(str(error)):
                raise error


@contextmanager
def ends_run(folder: RunFolder, attempt: int, spec: SearchSpec) -> Iterator[None]:
    """What a worker does in here ends the whole run if it fails.

    Raises `RunEnded`, or `LostPeer` where the failure is another worker's.
    """
    from nas_core import parallel

    try:
        yield
    except LostPeer:
        time.sleep(CAUSE_FIRST_SECONDS)
        raise
    except Exception as error:
        rank, workers = parallel.world()
        failure = failure_of(error, spec)
        host = socket.gethostname()
        message = failure.message if failure.kind in _OF_ALL else f"worker {rank} of {workers} on {host}: {failure}"
        trace = "".join(traceback.format_exception(error))
        told = problem(attempt, failure.kind, message, failure.retryable, trace)
        told |= {"host": host, "rank": rank, "time": time.time()} | failure.details
        try:
            folder.write_json(f"errors/{attempt:04d}-{rank:04d}.json", told)
        except Exception as unwritten:  # the exception tells the driver all the same
            print(f"the run's folder cannot be written: {unwritten}", file=sys.stderr, flush=True)
        raise RunEnded(told) from error


def failure_of(error: Exception, spec: SearchSpec) -> Failure:
    """What kind of failure an exception of a worker is.

    What follows from the search alone would happen again, and is not retryable.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, Diverged):
        return Failure("diverged", str(error))
    if isinstance(error, DataChanged):
        return Failure("data_changed", str(error), changes=error.changes)
    if isinstance(error, (ReadFailed, LoaderDied)):
        return Failure("data", str(error), retryable=True)
    if isinstance(error, InvalidValue):
        field = error.field.split(".")[0]
        return Failure(field if field in ("checkpoint", "limits", "engine") else "data", str(error))
    if ran_out(error):
        return Failure("out_of_memory", _memory_told(error, spec))
    return Failure("failed", f"{type(error).__name__}: {error}", retryable=True)


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


def compose(folder: RunFolder, attempt: int, error: BaseException) -> dict[str, Any]:
    """The content of `error.json` for the exception that ended an attempt's driver.

    It is what a worker told, the first of those that rule out another attempt if any does. Of a worker that could tell
    nothing it is what Ray says: running out of memory would happen again, and losing a worker or a node would not.
    """
    causes = _causes(error)
    trace = "".join(traceback.format_exception(error))
    for cause in causes:
        if isinstance(cause, Failure):
            return problem(attempt, cause.kind, cause.message, cause.retryable, trace)
    written = [cause.problem for cause in causes if isinstance(cause, RunEnded)]
    names = [posixpath.basename(name) for name in folder.files("errors")]
    written += [folder.read_json(f"errors/{name}") for name in names if name.startswith(f"{attempt:04d}-")]
    if written:
        return min(written, key=lambda one: (one["retryable"], one["time"]))
    text = "\n".join(str(cause) for cause in causes)
    if _killed_for_memory(text):
        spec = SearchSpec.from_dict(folder.read_json("spec.json"))
        return problem(attempt, "out_of_memory", _killed_told(text, spec), False, f"{text}\n\n{trace}")
    if died := _DIED.search(text):
        host, process, rank, workers = died.groups()
        message = (
            f"worker {rank} of {workers} on {host} died (last as process {process}), more often than it is "
            "restarted: its node went away, it crashed, or it was killed, maybe by the system for lack of memory"
        )
        told = problem(attempt, "worker_failed", message, True, f"{text}\n\n{trace}")
        return told | {"host": host, "rank": int(rank)}
    lost = any(isinstance(cause, LostPeer) for cause in causes) or hasattr(error, "worker_failures")
    message = (str(causes[-1]).strip().splitlines() or [type(causes[-1]).__name__])[-1]
    return problem(attempt, "worker_failed" if lost else "failed", message, True, trace)


def _causes(error: BaseException | None) -> list[BaseException]:
    """An exception and those that it stems from."""
    if error is None:
        return []
    inner = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    return [error, *(one for cause in (*inner, error.__cause__) for one in _causes(cause))]


def _killed_for_memory(text: str) -> bool:
    return "running low on memory" in text or "OutOfMemoryError" in text


def _memory_told(error: BaseException, spec: SearchSpec) -> str:
    """One sentence about a worker that asked for more memory than there was."""
    import torch

    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        where = torch.cuda.get_device_name()
        held = torch.cuda.memory_reserved()
        there = f"of the {_gib(total)} of its {where} {_gib(free)} were free"
    else:
        held, (free, total) = _held(), of_host()
        there = f"of the {_gib(total)} that it may use {_gib(free)} were free"
    told = f"out of memory: the worker held {_gib(held)}, and {there}; {_batches(spec)}"
    if not isinstance(error, OutOfMemory):
        return told
    return f"{told}; a step {_fitting(error.field, error.size, error.per_image, held + free, spec)}"


def _fitting(field: str, size: int, per_image: int, room: float, spec: SearchSpec) -> str:
    """How much a step keeps, and which batch would fit instead of `size`, when a worker may fill `room` bytes."""
    fits = spec.workers * int(ROOM_FOR_BATCH * room / per_image)
    told = f"keeps {per_image / 2**20:.3g} MiB for each image: "
    return told + (f"a {field} of about {min(fits, size // 2) or 1} would fit" if fits else "not even one fits")


def _killed_told(text: str, spec: SearchSpec) -> str:
    """One sentence about a worker that Ray has killed because its node's memory was nearly used up."""
    import torch

    node, worker = _NODE_MEMORY.search(text), _WORKER_MEMORY.search(text)
    held = f"it held {worker[1]} GB" if worker else "Ray does not say how much it held"
    where = f" on node {node[1]}" if node else ""
    there = f", and {node[2]} of the node's {node[3]} GB were in use" if node else ""
    told = f"out of memory: Ray stopped a worker{where}; {held}{there}; {_batches(spec)}"
    if not (node and worker):
        return told
    from nas_core.search.search import supernet_per_image
    from nas_core.train.engine import Engine

    engine = Engine(replace(spec.engine, precision="float32", compile=False), torch.device("cpu"))
    room = (float(worker[1]) + float(node[3]) - float(node[2])) * _GIB
    per_image = supernet_per_image(spec.space, engine)
    return f"{told}; a step of the search {_fitting('batch_size', spec.settings.batch_size, per_image, room, spec)}"


def _batches(spec: SearchSpec) -> str:
    """The batches of a search, shared out to its workers."""
    search, retrain = spec.settings.batch_size, spec.settings.retrain_batch_size
    return f"batch_size {search} and retrain_batch_size {retrain} for {number_of(spec.workers, 'worker')}"


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"


def _held() -> int:
    """The bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
