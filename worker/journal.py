"""The journal of a run, and the event files that go with it."""

import json
import time
from typing import Any

from worker.event_files import EventFiles
from worker.run_folder import RunFolder


class Journal:
    """Writes journal lines into a run's folder, a chunk at a time and at most about one a second, or one in 20 seconds
    into an object store.

    What they measure goes into TensorBoard's event files too.
    """

    def __init__(self, folder: RunFolder, attempt: int, seconds: float = 1.0) -> None:
        self.folder, self.attempt, self.seconds = folder, attempt, folder.every(seconds)
        own = [name for name in folder.chunks() if name.startswith(f"{attempt:04d}-")]
        self.number = int(own[-1][5:11]) if own else 0
        """Of the last chunk."""
        self.lines: list[str] = []
        self.flushed = 0.0
        self.event_files = EventFiles(folder)

    def write(self, line: dict[str, Any]) -> None:
        """Note `line`, to be written with the next chunk."""
        told = {"time": time.time(), "attempt": self.attempt} | line
        self.lines.append(json.dumps(told))
        self.event_files.note(told)

    def flush(self, force: bool = False) -> None:
        """Write what was noted as one chunk, if the last chunk is long enough ago or `force` is set."""
        if not self.lines or (not force and time.monotonic() - self.flushed < self.seconds):
            return
        self.number += 1
        self.folder.create(f"journal/{self.chunk}.jsonl", ("\n".join(self.lines) + "\n").encode())
        self.lines, self.flushed = [], time.monotonic()
        self.event_files.flush(self.chunk)

    def close(self) -> None:
        """Write what is left."""
        self.flush(force=True)
        self.event_files.flush(self.chunk, force=True)

    @property
    def chunk(self) -> str:
        """The last chunk, as its name begins."""
        return f"{self.attempt:04d}-{self.number:06d}"
