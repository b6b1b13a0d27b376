"""Keeps the processes of a run by hand: `python -m service.keeper FOLDER COMMAND…`.

Whoever starts it, `yoso run`, holds the other end of its standard input and the lock of the folder. However that
process ends, the pipe closes, and the keeper stops the command in order: an interrupt, which lets a worker end its Ray,
and force where that takes too long. Whatever the command leaves behind, in whatever session, falls to the keeper and is
killed. Its exit code is the command's, as a shell tells it.

Where the keeper is killed, the command is with it, and what is left falls to whoever started the keeper.

It loads nothing but the standard library: it must be there before, and after, everything else.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import FrameType

LOCK = "run.lock"
ORDERLY_SECONDS = 20.0
"""How long a command may take to stop in order."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Busy(Exception):
    """Another process works in the folder; `str` says which."""


class Unlockable(Exception):
    """The folder's file system has no locks."""


def lock(folder: Path) -> int:
    """Lock `folder` for as long as the file descriptor that is returned, or a copy of it, is open in any process.

    Raises `Busy` where another holds it, and `Unlockable` where the file system has no locks.
    """
    held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(held)
        os.close(held)
        raise Busy(holder) from None
    except OSError as error:
        os.close(held)
        raise Unlockable(error.strerror) from error
    name_holder(held)
    return held


def busy(folder: Path) -> str | None:
    """Which process holds the lock of `folder`, or None."""
    try:
        os.close(lock(folder))
    except Busy as busy:
        return str(busy)
    except (Unlockable, OSError):
        pass
    return None


def name_holder(held: int) -> None:
    """Write into a lock which process holds it."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    told = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": now})
    os.ftruncate(held, 0)
    os.pwrite(held, told.encode(), 0)


def _holder(held: int) -> str:
    try:
        told = json.loads(os.pread(held, 4096, 0))
        since = datetime.fromisoformat(told["started"])
        day = "" if since.date() == datetime.now().date() else f"{since:%Y-%m-%d} "
        return f"process {int(told['pid'])} on {told['host']} since {day}{since:%H:%M}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


class Keeper:
    """A command and everything that descends from it."""

    def __init__(self, command: list[str], held: int | None) -> None:
        self.held, self.told = held, False
        adopt()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.stop)
        keeper = os.getpid()

        def die_with_keeper() -> None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_keeper)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ask the command to stop in order."""
        if not self.told:
            self.told = True
            self.give_up = time.monotonic() + ORDERLY_SECONDS
            self.child.send_signal(signal.SIGINT)

    def keep(self, pipe: int) -> int:
        """Wait for the command, and stop it when the pipe says so; returns its exit code when nothing is left."""
        watched = [pipe]
        while (code := self.child.poll()) is None:
            if self.told and time.monotonic() > self.give_up:
                self.child.kill()
            if not select.select(watched, [], [], 0.1)[0]:
                continue
            os.read(pipe, 1)
            watched = []
            if self.held is not None:
                name_holder(self.held)  # whoever asks for the folder is told of a process that is there
            self.stop()
        sweep()
        return 128 - code if code < 0 else code


def adopt() -> None:
    """Let what descends from this process fall to it, rather than to init, when its own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER)


def sweep() -> None:
    """Kill whatever descends from this process."""
    while left := descendants(os.getpid()):
        for one in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def descendants(root: int) -> list[int]:
    """The processes that descend from `root` and are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, ahead = [], [root]
    while ahead:
        ahead = [child for parent in ahead for child in children.get(parent, ())]
        found += ahead
    return found


def _prctl(option: int, value: int = 1) -> None:
    """Linux's prctl; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> int:
    """Keep the command that the arguments give; the first is the lock's file descriptor, or -1."""
    held = int(sys.argv[1])
    return Keeper(sys.argv[2:], held if held >= 0 else None).keep(sys.stdin.fileno())


if __name__ == "__main__":
    sys.exit(main())
