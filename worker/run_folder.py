"""A run's folder: what the service asks, what the worker found, and everything in between.

    attempts/0001/                          what one attempt writes, and no other:
        spec.json                             the request, written once by the service before the launch
        claimed                               its driver has begun: a second driver of the attempt refuses
        closed                                the service has ended it: it may neither start nor write any more
        writer-{name}-0001                    Ray Train started the workers of `name` for the first time
        train/, tune/                         Ray Train's checkpoints, Ray Tune's notes of the trials
        architectures/{budget}/               a network's files, as `nas_core/files.py` names them
        dataset/                              files of the dataset with their parts; mean and deviation; a picture
        candidates/{budget}.safetensors       the supernet when it passed a budget, its architecture in the metadata
        verdicts/, epochs/                    what finals decide and remember (`worker/tuning.py`)
        result.json                           written last: where it is, the attempt has succeeded
        error.json                            why the attempt failed
    journal/{attempt:04d}-{number:06d}.jsonl  what happened, in chunks of JSON lines
    tensorboard/{run}/events.out.tfevents.{attempt:04d}-{number:06d}
                                            what it measured, in parts, for TensorBoard (`worker/event_files.py`)

One writer a folder: an attempt writes below its own folder and, into `journal/` and `tensorboard/`, files that carry
its number. What it reads it looks for in its own folder and then in those of earlier attempts, the newest first: so it
goes on where they ended, and they cannot change what it does, however long they slept. Before each write it looks
whether a later attempt is there, or its own is closed; then it raises `GaveWay`.

A run by hand (`yoso run`) has no attempts: all of that lies in the run's folder itself, as it did for every run before
there were attempts' folders. Those are read too, after all attempts.

The folder may lie in any file system that fsspec knows. Every file appears whole or not at all: a journal is therefore
a sequence of files, since object stores cannot append. Chunks sort by attempt and number into the order in which they
were written.

Lines carry `time` (seconds since 1970), `attempt` and `kind`. A run that resumes says so with a `started` line
(`resumed: true`) and repeats what came after its last checkpoint, or more, so (phase, budget, trial, epoch) is a key
for epoch lines, of which the later line counts.
"""

import errno
import json
import os
import posixpath
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from nas_core.storage import StorageUnavailable, open_storage

VERSION = 1
CLOSED, CLAIMED = "closed", "claimed"
_CHUNK = re.compile(r"(\d{4})-(\d{6})\.jsonl")
_ATTEMPT = re.compile(r"\d{4}")
_OF_ALL = ("journal", "tensorboard")
"""The folders that all attempts write into; the names of the files there carry the attempt."""
_OWN = ("spec.json", "result.json", "error.json", CLOSED, CLAIMED)
"""What an attempt never takes from an earlier one."""


_SELDOM, _AT_LEAST_SECONDS = 20, 120.0
"""In an object store, where every look and every file costs a request, things are done a twentieth as often, or
at least so often."""

_PATIENCE = 5
"""How many times as long as a call may take a server may be away while a worker wants to write."""


class GaveWay(RuntimeError):
    """This process may not write into the run's folder any more: another one does, or the attempt is over."""


class RunFolder:
    """The files of one run below `url`, a local path or any URL that fsspec understands, as `attempt` sees them.

    Without an attempt, or where the service has made no folder for it, the run's folder itself is the attempt's.
    """

    def __init__(self, url: str, attempt: int | None = None) -> None:
        self.url = url
        self.fs, self.root = open_storage(url)
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        own = f"attempts/{attempt or 0:04d}"
        self.own = own if attempt is not None and self._is_file(f"{own}/spec.json") else ""
        """The attempt's folder, below the run's; empty where that is the run's folder itself."""
        self.writer: tuple[str, int] | None = None
        """As whom `take` has made this process the writer."""
        self._looked = float("-inf")
        """When it was last asked whether there is a later attempt."""

    def every(self, seconds: float) -> float:
        """How often to do here what is done every so many `seconds` in a local folder."""
        return seconds if self.local else max(seconds, min(_SELDOM * seconds, _AT_LEAST_SECONDS))

    def path(self, name: str) -> str:
        """Where this attempt writes the file `name`, in terms of the file system."""
        shared = name.partition("/")[0] in _OF_ALL
        return "/".join(filter(None, (self.root, "" if shared else self.own, name)))

    def url_of(self, name: str) -> str:
        """The same as a URL, or a local path."""
        return "/".join(filter(None, (self.url.rstrip("/"), self.own, name)))

    def places(self, name: str) -> Iterator[str]:
        """Where `name` may be, in terms of the file system: in this attempt, in earlier ones, in the run's folder."""
        yield self.path(name)
        if self.own and name not in _OWN and name.partition("/")[0] not in _OF_ALL:
            for number in reversed(self.attempts()):
                if number < int(self.own[-4:]):
                    yield f"{self.root}/attempts/{number:04d}/{name}"
            yield f"{self.root}/{name}"

    def attempts(self) -> list[int]:
        """The numbers of the attempts that the service has made folders for, in order."""
        return sorted(int(name) for name in self._names("attempts") if _ATTEMPT.fullmatch(name))

    def find(self, name: str) -> str | None:
        """Where the newest file or folder `name` is, in terms of the file system; None where there is none."""
        self.fs.invalidate_cache()
        return next((path for path in self.places(name) if self.fs.exists(path)), None)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder `name`."""
        return self.find(name) is not None

    def read(self, name: str) -> bytes:
        """The content of `name`. Raises `FileNotFoundError` where there is none."""
        return bytes(self.fs.cat_file(self.find(name) or self.path(name)))

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in `name`. Raises `FileNotFoundError` or `ValueError`."""
        values = json.loads(self.read(name))
        if not isinstance(values, dict):
            raise ValueError(f"{name} does not hold a JSON object")
        return values

    def begin(self) -> None:
        """Claim the attempt for this process, its driver.

        Raises `GaveWay` where another driver has, where the attempt is closed, or where there is a later one.
        """
        if not self.own:
            return
        try:
            told = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
            self.create(CLAIMED, json.dumps(told).encode())
        except FileExistsError as error:
            raise GaveWay(f"{self.own} has been started before") from error
        self.check()  # once it is claimed: whoever closes it later finds this process's job

    def take(self, name: str) -> None:
        """Become the only writer of `name` within the attempt, such as after a new start of its workers."""
        while self.own:
            number = 1 + max((number for _, number in _writers(self._names(self.own), name)), default=0)
            with suppress(FileExistsError):
                self.create(f"writer-{name}-{number:04d}", uuid.uuid4().hex.encode())
                self.writer = name, number
                return

    def check(self) -> None:
        """Raise `GaveWay` where this process may not write any more."""
        if not self.own:
            return
        # Who makes a later attempt closes this one before: where each look costs a request, that is enough, mostly.
        if self.local or time.monotonic() - self._looked > _AT_LEAST_SECONDS:
            if (newest := max(self.attempts(), default=0)) > int(self.own[-4:]):
                raise GaveWay(f"{self.own} gives way to attempt {newest}")
            self._looked = time.monotonic()
        names = self._names(self.own)
        if not names:
            raise StorageUnavailable(errno.ENOENT, f"{self.url_of('')} is not there just now")
        if CLOSED in names:
            raise GaveWay(f"{self.own} is closed")
        if self.writer is not None and self.writer < max(_writers(names, self.writer[0]), default=self.writer):
            raise GaveWay(f"other workers write {self.writer[0]} of {self.own}")

    def write(self, name: str, content: bytes) -> None:
        """Write `name` whole: nobody sees a part of it, and a crash leaves either all or nothing.

        Raises `GaveWay`.
        """
        if not self.local:
            self._patiently(partial(self._send, name, content, "overwrite"))
            return
        self.check()
        temporary = self._temporary(name, content)
        os.replace(temporary, self.path(name))

    def create(self, name: str, content: bytes) -> None:
        """Write `name` whole and for good. Raises `FileExistsError` where it is there, and `GaveWay`.

        Where others may write it too, `content` is this process's own and no other's.
        """
        if not self.local:
            try:
                self._patiently(partial(self._send, name, content, "create"))
            except FileExistsError:
                # An answer that broke off was tried again, and then finds what the first try wrote.
                if self.fs.cat_file(self.path(name)) != content:
                    raise
            return
        if name != CLAIMED:
            self.check()
        temporary = self._temporary(name, content)
        try:
            os.link(temporary, self.path(name))
        finally:
            os.unlink(temporary)

    def _send(self, name: str, content: bytes, mode: str) -> None:
        if name != CLAIMED:
            self.check()
        self.fs.pipe_file(self.path(name), content, mode=mode)

    def _patiently(self, send: Callable[[], None]) -> None:
        """`send`, again and again while the server is away, so that a minute without it costs no attempt.

        What the server refuses is not tried again.
        """
        give_up, pause = time.monotonic() + _PATIENCE * self.fs.seconds, 1.0
        while True:
            try:
                return send()
            except StorageUnavailable as error:
                if isinstance(error.__cause__, PermissionError) or time.monotonic() + pause > give_up:
                    raise
                print(f"{error}: tried again in {pause:g} s", file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _temporary(self, name: str, content: bytes) -> str:
        folder = posixpath.dirname(self.path(name))
        os.makedirs(folder, exist_ok=True)
        # Not a part of the file's own name, by which others know what they look for.
        temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write `values` as the JSON file `name`, whole. Raises `GaveWay`."""
        self.write(name, json.dumps(values, indent=1).encode())

    def remove(self, name: str) -> None:
        """Remove what this attempt wrote as `name`, if it is there."""
        if self._is_file(self.path(name).removeprefix(f"{self.root}/")):
            self.fs.rm_file(self.path(name))

    def files(self, name: str) -> list[str]:
        """The names of all files below the folder `name`, in order; none where there is no such folder."""
        self.fs.invalidate_cache()
        return sorted(str(path).removeprefix(f"{self.root}/") for path in self.fs.find(self.path(name)))

    def result(self) -> dict[str, Any] | None:
        """The run's result, where it is there and whole: this attempt's, or an earlier one's that nobody overtook.

        What an attempt finished after the next had begun counts no more. A torn one is written anew.
        """
        folders = [f"attempts/{number:04d}/" for number in reversed(self.attempts())] if self.own else []
        for folder in [one for one in folders if one[:-1] <= self.own] + [""]:
            with suppress(FileNotFoundError, ValueError):
                values = json.loads(self.fs.cat_file(f"{self.root}/{folder}result.json"))
                if isinstance(values, dict) and values.get("architectures"):
                    return values
            if folder and self._is_file(f"{folder}{CLAIMED}"):
                return None
        return None

    def _names(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        with suppress(FileNotFoundError):
            return [posixpath.basename(str(path)) for path in self.fs.ls(f"{self.root}/{folder}", detail=False)]
        return []

    def _is_file(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.isfile(f"{self.root}/{name}"))

    def chunks(self) -> list[str]:
        """The names of the journal's chunks, in order of writing."""
        return sorted(name for name in self._names("journal") if _CHUNK.fullmatch(name))

    def newest_attempt(self) -> int:
        """The highest attempt that has written to the journal; 0 where none has."""
        chunks = self.chunks()
        return int(chunks[-1][:4]) if chunks else 0


def _writers(names: list[str], of: str) -> list[tuple[str, int]]:
    """Those that became writers of `of`, each with its number, by the names in an attempt's folder."""
    parts = (name.split("-") for name in names)
    return [(of, int(part[2])) for part in parts if part[0] == "writer" and len(part) == 3 and part[1] == of]
