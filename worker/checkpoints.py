"""Checkpoints: when one is due, how it is written beside the training, and how it is found again.

One may be taken after any step. Training waits for no more than a copy of the state in the processor's memory: a thread
of Ray Train's turns that into bytes and writes them.
"""

import re
import sys
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from nas_core import parallel
from nas_core.spec import SearchSpec
from worker.failures import ends_run
from worker.run_folder import RunFolder

FILE = "job.pt"
WAITING_SHARE = 0.1
"""Where a due time cannot be kept, it is asked again after this share of the interval."""


class Clock:
    """Says after the same step on all workers that some seconds have passed since it last did, by worker 0's clock.

    All workers ask it after every step. They exchange something only when worker 0 told them to the last time: when
    half of the time is over that it then expected to be left. So a question costs nothing at most steps, whether a step
    takes a millisecond or a minute.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since = self.asked = time.monotonic()
        self.steps, self.patience = 0, 1
        """Steps since the last exchange, and after how many the next one is."""

    def due(self, ready: Callable[[], bool] = lambda: True) -> bool:
        """Whether it is time, after one more step; `ready` says on worker 0 whether it would be of any use."""
        self.steps += 1
        if self.steps < self.patience:
            return False
        self.patience = parallel.first(partial(self._steps_left, ready))
        self.steps, self.asked = 0, time.monotonic()
        if self.patience:
            return False
        self.since, self.patience = self.asked, 1
        return True

    def _steps_left(self, ready: Callable[[], bool]) -> int:
        """After how many steps to ask again; 0 where it is time."""
        now = time.monotonic()
        left = self.since + self.seconds - now
        if left <= 0 and ready():
            return 0
        left = max(left, WAITING_SHARE * self.seconds)
        return max(1, round(left / 2 * self.steps / max(now - self.asked, 1e-6)))


class Checkpoints:
    """The checkpoints of the Ray Train run `name` in `folder`, of the search `spec` and its `attempt`."""

    def __init__(self, folder: RunFolder, name: str, spec: SearchSpec, attempt: int) -> None:
        self.folder, self.name, self.spec, self.attempt = folder, name, spec, attempt
        self.pending = False
        """Whether one is being written."""
        self.written: list[dict[str, Any]] = []
        """The journal lines of those that are whole by now, until somebody takes them."""

    def report(
        self, metrics: dict[str, Any], state: dict[str, Any] | None = None, line: dict[str, Any] | None = None
    ) -> None:
        """Tell Ray Train `metrics`, and keep `state`, as it is now, as a checkpoint, of which `line` will tell.

        All workers must call this; the state of worker 0 is the one that is kept. Nothing is waited for: what fails in
        the background ends the run.
        """
        if state is None or parallel.world()[0] > 0:
            ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        held = _copied(state)
        self.pending = True

        def write(_: Checkpoint, number: str) -> Checkpoint:
            with ends_run(self.folder, self.attempt, self.spec):
                content = BytesIO()
                torch.save(held, content)
                self.folder.write(f"{self.name}/{number}/{FILE}", content.getvalue())
            self.written += [line] if line else []
            self.pending = False
            return Checkpoint(self.folder.url_of(f"{self.name}/{number}"))

        ray.train.report(
            metrics,
            checkpoint=Checkpoint(self.folder.url_of(self.name)),  # below which it will be
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=write,
            delete_local_checkpoint_after_upload=False,
        )

    def load(self) -> dict[str, Any] | None:
        """The state that was kept last, in this attempt or an earlier one; None where there is none."""
        kept = ray.train.get_checkpoint()
        if kept is not None:
            with kept.as_directory() as directory:
                return _read((Path(directory) / FILE).read_bytes())
        for content in parallel.first(self._earlier):
            try:
                return _read(content)
            except (RuntimeError, EOFError, UnpicklingError) as error:
                print(f"a checkpoint is torn, and the one before it is taken: {error}", file=sys.stderr)
        return None

    def _earlier(self) -> list[bytes]:
        """The checkpoints of the newest attempt that has any, the newest first.

        A driver that was killed may have left one torn.
        """
        for place in self.folder.places(self.name):
            kept = (str(path) for path in self.folder.fs.find(place))
            pattern = re.compile(re.escape(place) + rf"/checkpoint_[^/]*/{re.escape(FILE)}")
            found = sorted(filter(pattern.fullmatch, kept), reverse=True)
            if found:
                return [bytes(self.folder.fs.cat_file(path)) for path in found]
        return []


def _read(content: bytes) -> dict[str, Any]:
    """The state in a checkpoint's file, on the CPU: who loads it takes to the device what the next step needs."""
    state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _copied(value: Any) -> Any:
    """`value`, a tree of dictionaries, lists and tuples, with copies of its tensors in the processor's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value
