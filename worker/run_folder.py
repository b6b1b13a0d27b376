"""A run's folder: what the service asks, what the worker found, and everything in between.

    spec.json                               the request, written by the service before the launch
    journal/{attempt:04d}-{number:06d}.jsonl  what happened, in chunks of JSON lines
    tensorboard/{run}/events.out.tfevents.{attempt:04d}-{number:06d}
                                            what it measured, in parts, for TensorBoard (`worker/event_files.py`)
    train/                                  Ray Train's checkpoints
    architectures/{budget}/                 a network's files, as `nas_core/files.py` names them
    candidates/{budget}.safetensors         the supernet when it passed a budget, its architecture in the metadata
    verdicts/, epochs/, tune/               what finals decide and remember (`worker/tuning.py`)
    result.json                             written last: where it is, the search has succeeded
    error.json                              why an attempt failed

The folder may lie in any file system that fsspec knows. Every file appears whole or not at all and, but for
`error.json` and `epochs/`, never changes once it is there: a journal is therefore a sequence of files, since object
stores cannot append. Chunks sort by attempt and number into the order in which they were written. (A run that resumes
may write a network's files once more, with the latency that it measures this time in the README.md.)

Lines carry `time` (seconds since 1970), `attempt` and `kind`. A run that resumes says so with a `started` line
(`resumed: true`) and repeats what came after its last checkpoint, or more, so (phase, budget, trial, epoch) is a key
for epoch lines, of which the later line counts.
"""

import json
import os
import posixpath
import re
import uuid
from typing import Any

from fsspec.core import url_to_fs

VERSION = 1
_CHUNK = re.compile(r"(\d{4})-(\d{6})\.jsonl")


class RunFolder:
    """The files of one run below `url`, a local path or any URL that fsspec understands."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, root = url_to_fs(url)
        self.root: str = str(root).rstrip("/")
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def path(self, name: str) -> str:
        """Where the file `name` is, in terms of the file system."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the file `name` is there."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(name)))

    def read(self, name: str) -> bytes:
        """The content of `name`. Raises `FileNotFoundError` where there is none."""
        return bytes(self.fs.cat_file(self.path(name)))

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in `name`. Raises `FileNotFoundError` or `ValueError`."""
        values = json.loads(self.read(name))
        if not isinstance(values, dict):
            raise ValueError(f"{name} does not hold a JSON object")
        return values

    def write(self, name: str, content: bytes) -> None:
        """Write `name` whole: nobody sees a part of it, and a crash leaves either all or nothing."""
        path = self.path(name)
        if not self.local:
            self.fs.pipe_file(path, content)
            return
        os.makedirs(posixpath.dirname(path), exist_ok=True)
        # Not a part of the file's own name, by which others know what they look for.
        temporary = f"{posixpath.dirname(path)}/.{uuid.uuid4().hex}.tmp"
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write `values` as the JSON file `name`, whole."""
        self.write(name, json.dumps(values, indent=1).encode())

    def remove(self, name: str) -> None:
        """Remove `name`, if it is there."""
        if self.exists(name):
            self.fs.rm_file(self.path(name))

    def files(self, name: str) -> list[str]:
        """The names of all files below the folder `name`, in order; none where there is no such folder."""
        self.fs.invalidate_cache()
        return sorted(str(path).removeprefix(f"{self.root}/") for path in self.fs.find(self.path(name)))

    def chunks(self) -> list[str]:
        """The names of the journal's chunks, in order of writing."""
        self.fs.invalidate_cache()
        if not self.fs.isdir(self.path("journal")):
            return []
        names = (posixpath.basename(str(path)) for path in self.fs.ls(self.path("journal"), detail=False))
        return sorted(name for name in names if _CHUNK.fullmatch(name))

    def newest_attempt(self) -> int:
        """The highest attempt that has written to the journal; 0 where none has."""
        chunks = self.chunks()
        return int(chunks[-1][:4]) if chunks else 0
