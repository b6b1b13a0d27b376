"""The metrics of a run as TensorBoard's event files, below `tensorboard/` in its folder.

There is a TensorBoard run for each phase of the supernet (`pretrain`, `search`) and for each network
(`networks/300000`; in finals `networks/300000-4-random`), so that networks are drawn over each other; steps are epochs.
Event files grow elsewhere, and an object store cannot append: here they are parts that never change,
`events.out.tfevents.{attempt:04d}-{number:06d}`, which TensorBoard reads in the order of their names. A part carries
the attempt and number of the last chunk of the journal that is in it, with all before.
"""

import json
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from nas_core.metrics import metrics_of
from worker.run_folder import RunFolder

FOLDER = "tensorboard"
SECONDS = 30.0
"""TensorBoard looks for new files as seldom as that, unless told otherwise."""
_PART = re.compile(r"events\.out\.tfevents\.(\d{4}-\d{6})")


class EventFiles:
    """Writes what journal lines measure into the event files of a run's folder, at most every `seconds`.

    It begins with what the journal of an attempt that died tells and its event files do not yet.
    """

    def __init__(self, folder: RunFolder, seconds: float = SECONDS) -> None:
        self.folder, self.seconds = folder, folder.every(seconds)
        self.events: dict[str, list[Event]] = {}
        """Of each TensorBoard run the events of its next part."""
        self.steps: dict[str, int] = {}
        """Of each TensorBoard run that this process knows the last step."""
        self.flushed = float("-inf")
        found = (_PART.fullmatch(name.rpartition("/")[2]) for name in folder.files(FOLDER))
        parts = sorted({part[1] for part in found if part})
        # From the last but one: the process may have died between the files of the last. Told twice, it counts once.
        after = parts[-2] if len(parts) > 1 else ""
        for chunk in folder.chunks():
            if chunk.removesuffix(".jsonl") > after:
                for text in folder.read(f"journal/{chunk}").splitlines():
                    self._note_again(text)

    def note(self, line: Mapping[str, Any]) -> None:
        """Take in a journal line with its `time`."""
        metrics = metrics_of(line)
        if metrics is None:
            return
        run = metrics.group if metrics.network is None else f"networks/{metrics.network}"
        events = self.events.setdefault(run, [])
        # A run that resumes repeats steps: TensorBoard then drops what it has from there on. The test is no step.
        if line["kind"] != "retrained" and metrics.step <= self.steps.get(run, metrics.step):
            session = SessionLog(status=SessionLog.START)
            events.append(Event(wall_time=line["time"], step=metrics.step, session_log=session))
        self.steps[run] = metrics.step
        values = [
            Summary.Value(tag=f"{metrics.group}/{name}", simple_value=value) for name, value in metrics.values.items()
        ]
        events.append(Event(wall_time=line["time"], step=metrics.step, summary=Summary(value=values)))

    def flush(self, chunk: str, force: bool = False) -> None:
        """Write what was noted, the journal up to `chunk` ("0001-000007"), if the last part is long enough ago.

        With `force` it is written in any case.
        """
        if not self.events or (not force and time.monotonic() - self.flushed < self.seconds):
            return
        for run, events in self.events.items():
            self.folder.write(f"{FOLDER}/{run}/events.out.tfevents.{chunk}", _content(events))
        self.events, self.flushed = {}, time.monotonic()

    def _note_again(self, text: bytes) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            return  # torn, of which the service makes an event
        self.note(line)


def _content(events: list[Event]) -> bytes:
    """An event file that holds `events`."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "events")
        writer = RecordWriter(str(file))
        for event in (Event(wall_time=events[0].wall_time, file_version="brain.Event:2"), *events):
            writer.write(event.SerializeToString())
        writer.close()
        return file.read_bytes()
