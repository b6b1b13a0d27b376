"""What is in datasets: each is looked at in a process of its own, once for all who ask.

Decoders are large libraries that are fed whatever lies in a folder. They run where a crash, a bomb or an endless loop
costs one look and nothing else: in a process (`service.inspector`) with limited memory and time and without the
service's secrets. Those who ask for the same dataset with the same options share a look; one that nobody has asked for
in `LINGER_SECONDS` is stopped; what was found is remembered while the folder stays as it is, to any file's size and
time of change.
"""

import base64
import hashlib
import json
import logging
import os
import selectors
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cachetools import LRUCache, TTLCache

from nas_core.data.datasets import DatasetInfo, locate
from nas_core.errors import InvalidValue
from nas_core.spec import DataOptions
from service.domain.request import Looked, look_here

log = logging.getLogger(__name__)
AT_ONCE = 2
"""Processes that look; further looks wait for their turn."""
MOST_LOOKS = 64
"""Looks that run or wait for their turn; whoever asks for another is told to come back."""
MOST_WAITING = 8
"""Threads of the service that wait for looks or compare folders."""
MOST_REMEMBERED = 256
"""Reports; a sweep may need `service.domain.sweep.MOST_WAYS` of them at once."""
MOST_SHEETS = 32
"""Contact sheets that are kept; others are drawn anew when they are asked for."""
FAILED_SECONDS = 60.0
"""How long a look that failed is not tried again on the same files."""
LINGER_SECONDS = 10.0
"""How long a look goes on after somebody has last asked for it."""
BELIEVED = 100
"""How many times as long as it took to find out a folder's state is believed at most, where it may be old."""
SECONDS = 600.0
MEMORY = 4 << 30
"""Bytes of address space that a look may take."""
MOST_TOLD = 64 << 20
"""Bytes that a look may say."""
TICK_SECONDS = 0.1
COMMAND = (sys.executable, "-m", "service.inspector")
KEPT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "TMPDIR")
"""What a look inherits of the environment, in which the service has its secrets."""


@dataclass(frozen=True)
class Progress:
    """How far a look is: what it is `doing`, how many files are `done`, and of how many, where that is known."""

    doing: str = "waiting"
    done: int = 0
    total: int | None = None

    def __str__(self) -> str:
        if self.doing == "waiting":
            return "waiting for other inspections"
        return f"{self.doing}, {self.done:,}" + (f" of {self.total:,}" if self.total else "") + " files so far"


class StillLooking(Exception):
    """A dataset is being looked at; `progress` says how far that is."""

    def __init__(self, dataset: str, progress: Progress) -> None:
        super().__init__(f"{dataset!r} is being inspected: {progress}")
        self.dataset, self.progress = dataset, progress


class Known(NamedTuple):
    """The state of a folder, when that was found out, and in how many seconds."""

    state: str
    at: float
    took: float


@dataclass(frozen=True)
class Found(Looked):
    """What a look has found; `shown` says whether there is a contact sheet."""

    shown: bool = False


@dataclass
class Look:
    """One look at a dataset, for all who wait for it."""

    dataset: str
    roots: tuple[str, ...]
    options: DataOptions
    image_size: int | None
    sheet: bytes | None = None
    """What a network would see, as PNG."""
    waiting: int = 0
    asked_at: float = 0.0
    progress: Progress = Progress()
    over: threading.Event = field(default_factory=threading.Event)
    outcome: Found | InvalidValue | None = None
    """What came of it; None while it goes on, and where it was given up since nobody waited."""


class Inspections:
    """The datasets below `roots`, or anywhere; a look may take `seconds`, and a process `memory` bytes."""

    def __init__(
        self,
        roots: Sequence[str],
        anywhere: bool,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        at_once: int = AT_ONCE,
    ) -> None:
        self.roots, self.anywhere, self.seconds, self.memory = tuple(roots), anywhere, seconds, memory
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(at_once)
        self._threads = threading.BoundedSemaphore(MOST_WAITING)
        self._found: LRUCache[Hashable, Found] = LRUCache(MOST_REMEMBERED)
        self._failed: TTLCache[Hashable, InvalidValue] = TTLCache(MOST_REMEMBERED, FAILED_SECONDS)
        self._sheets: LRUCache[Hashable, bytes] = LRUCache(MOST_SHEETS)
        self._looks: dict[Hashable, Look] = {}
        self._states: LRUCache[Hashable, Known] = LRUCache(MOST_REMEMBERED)
        self._closed = threading.Event()

    def look(
        self,
        dataset: str,
        options: DataOptions,
        image_size: int | None,
        patience: float,
        age: float = 0.0,
        roots: Sequence[str] | None = None,
    ) -> Found:
        """What is in `dataset`, as it is now or was at most `age` seconds ago; waits at most `patience` seconds.

        Raises `StillLooking`, and `InvalidValue` where looking is impossible.
        """
        roots = self.roots if roots is None else tuple(roots)
        info = locate(dataset, roots, self.anywhere)
        if info.kind != "folder":
            return Found(**vars(look_here(dataset, roots, self.anywhere, options, image_size)), shown=True)
        found, _ = self._find(info, Look(dataset, roots, options, image_size), patience, age, drawn=False)
        return found

    def sheet(
        self,
        dataset: str,
        options: DataOptions,
        image_size: int | None,
        patience: float,
        roots: Sequence[str] | None = None,
    ) -> bytes | None:
        """What a network would see of `dataset`, as PNG, or None where there is nothing to see.

        Raises as `look` does.
        """
        roots = self.roots if roots is None else tuple(roots)
        info = locate(dataset, roots, self.anywhere)
        _, sheet = self._find(info, Look(dataset, roots, options, image_size), patience, 0.0, drawn=True)
        return sheet

    def _find(
        self, info: DatasetInfo, asked: Look, patience: float, age: float, drawn: bool
    ) -> tuple[Found, bytes | None]:
        """What is remembered or looked up, and its contact sheet, which is there if it is to be `drawn`."""
        if not self._threads.acquire(timeout=patience):
            raise StillLooking(asked.dataset, Progress())
        try:
            state = self._state(str(info.path), asked.roots, age) if info.kind == "folder" else ""
            key = (asked.dataset, asked.roots, asked.options, asked.image_size, state)
            with self._lock:
                known, sheet = self._found.get(key) or self._failed.get(key), self._sheets.get(key)
                lacking = drawn and sheet is None and isinstance(known, Found) and known.shown
                look = self._joined(key, asked) if known is None or lacking else None
            if look is not None:
                look.over.wait(patience)
                with self._lock:
                    look.waiting -= 1
                    look.asked_at = time.monotonic()
                known, sheet = look.outcome, look.sheet
                if known is None:
                    raise StillLooking(asked.dataset, look.progress)
            if isinstance(known, InvalidValue):
                raise known
            assert known is not None
            return known, sheet
        finally:
            self._threads.release()

    def close(self) -> None:
        """End every look."""
        self._closed.set()

    def _state(self, folder: str, roots: tuple[str, ...], age: float) -> str:
        """The folder's state, as it is or was `age` seconds ago; what takes a moment to find out is not believed."""
        with self._lock:
            known = self._states.get((folder, roots))
        begin = time.monotonic()
        if known is not None and begin - known.at <= min(age, BELIEVED * known.took):
            return known.state
        state = state_of(folder, () if self.anywhere else roots)
        end = time.monotonic()
        with self._lock:
            self._states[folder, roots] = Known(state, end, end - begin)
        return state

    def _joined(self, key: Hashable, fresh: Look) -> Look:
        """The look of that key, which is `fresh` if there is none; the caller counts as waiting for it."""
        look = self._looks.get(key)
        if look is None:
            if len(self._looks) >= MOST_LOOKS or self._closed.is_set():
                raise StillLooking(fresh.dataset, Progress())
            look = self._looks[key] = fresh
            threading.Thread(target=self._run, args=(key, look), name="inspection", daemon=True).start()
        look.waiting += 1
        return look

    def _run(self, key: Hashable, look: Look) -> None:
        try:
            while not self._slots.acquire(timeout=TICK_SECONDS):
                if self._unwanted(look):
                    return
            try:
                look.outcome = self._looked(look)
            finally:
                self._slots.release()
        except Exception:
            log.exception("looking at %s failed", look.dataset)
            look.outcome = InvalidValue(
                "dataset", look.dataset, "the inspection failed; the service's log has details", "another dataset"
            )
        finally:
            with self._lock:
                del self._looks[key]
                if isinstance(look.outcome, Found):
                    self._found[key] = look.outcome
                    if look.sheet is not None:
                        self._sheets[key] = look.sheet
                elif look.outcome is not None:
                    self._failed[key] = look.outcome
            look.over.set()

    def _unwanted(self, look: Look) -> bool:
        with self._lock:
            idle = look.waiting == 0 and time.monotonic() - look.asked_at > LINGER_SECONDS
        return idle or self._closed.is_set()

    def _asked(self, look: Look) -> dict[str, Any]:
        """What a process is told to look at."""
        return {
            "dataset": look.dataset,
            "roots": look.roots,
            "anywhere": self.anywhere,
            "options": look.options.to_dict(),
            "image_size": look.image_size,
            "memory": self.memory,
        }

    def _looked(self, look: Look) -> Found | InvalidValue | None:
        """Let a process look; None where it was stopped since nobody waits."""
        own = {name: value for name, value in os.environ.items() if name in KEPT}
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # what could not be written is not tried again when the pipe is closed
            env=own | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        with process, selectors.DefaultSelector() as selector:
            try:
                process.stdin.write(json.dumps(self._asked(look)).encode() + b"\n")
                selector.register(process.stdout, selectors.EVENT_READ)
                give_up = time.monotonic() + self.seconds
                said = bytearray()
                while not self._unwanted(look):
                    if time.monotonic() > give_up:
                        return self._too_long(look)
                    if not selector.select(TICK_SECONDS):
                        continue
                    some = os.read(process.stdout.fileno(), 1 << 16)
                    said += some
                    if not some or len(said) > MOST_TOLD:
                        return self._ended(look, process)
                    if b"\n" not in some:  # what is long comes in many pieces
                        continue
                    *lines, rest = bytes(said).split(b"\n")
                    said = bytearray(rest)
                    for line in lines:
                        if (outcome := self._heard(look, json.loads(line))) is not None:
                            return outcome
                return None
            except BrokenPipeError:
                return self._ended(look, process)
            finally:
                process.kill()

    def _heard(self, look: Look, said: dict[str, Any]) -> Found | InvalidValue | None:
        if "doing" in said:
            look.progress = Progress(said["doing"], said["done"], said["total"])
            return None
        if "problem" in said:
            return InvalidValue(*said["problem"])
        if "memory" in said:
            return self._too_much(look)
        look.sheet = base64.b64decode(said["sheet"]) if said["sheet"] else None
        problems = tuple(InvalidValue(**problem) for problem in said["report"]["problems"])
        return Found(said["report"], DatasetInfo(**said["info"]), problems, look.sheet is not None)

    def _too_long(self, look: Look) -> InvalidValue:
        reason = f"inspecting it took longer than {self.seconds:g} seconds ({look.progress})"
        accepted = "a folder that can be read faster, or a larger YOSO_INSPECTION_SECONDS"
        return InvalidValue("dataset", look.dataset, reason, accepted)

    def _too_much(self, look: Look) -> InvalidValue:
        reason = f"inspecting it takes more than {self.memory / 2**30:g} GiB of memory"
        return InvalidValue("dataset", look.dataset, reason, "images that can be decoded in less")

    def _ended(self, look: Look, process: "subprocess.Popen[bytes]") -> InvalidValue:
        process.kill()
        code = process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        log.error("the process that looked at %s ended with %s (%s)", look.dataset, how, look.progress)
        reason = f"the process that looked at it ended with {how} ({look.progress})"
        accepted = "a folder without the file that a decoder fails on; data.ignore leaves files out"
        return InvalidValue("dataset", look.dataset, reason, accepted)


def state_of(folder: str, within: Sequence[str] = ()) -> str:
    """What changes with any file or folder below `folder`: with its name, its size or the time of its last change.

    As for `nas_core.data.layout.list_images`, links may lead below the folders `within` alone, if there are any.
    """
    digest, folders, known = hashlib.blake2b(digest_size=16), [os.fsencode(folder)], set()
    allowed = [Path(os.path.realpath(one)) for one in within]
    while folders:
        path = folders.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            digest.update(b"%s\0%d\0" % (path, error.errno or 0))
            continue
        for entry in entries:
            try:
                found = entry.stat()
            except OSError as error:
                digest.update(b"%s\0%d\0" % (entry.path, error.errno or 0))
                continue
            told = (found.st_mode, found.st_size, found.st_mtime_ns)
            digest.update(b"%s\0%d %d %d\0" % (entry.path, *told))
            if allowed and entry.is_symlink() and stat.S_ISDIR(found.st_mode):
                target = Path(os.fsdecode(os.path.realpath(entry.path)))
                if not any(target.is_relative_to(one) for one in allowed):
                    continue
            # A link may lead to a folder above.
            if stat.S_ISDIR(found.st_mode) and (place := (found.st_dev, found.st_ino)) not in known:
                known.add(place)
                folders.append(entry.path)
    return digest.hexdigest()
