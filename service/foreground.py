"""A search by hand: `yoso run`, in a folder that it has for itself, with a worker that ends when it does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas_core.errors import InvalidValue
from nas_core.spec import SearchSpec
from service import keeper
from service.terminal import Watch

NO_RAY, ABORTED, KILLED = 69, 128 + signal.SIGABRT, 128 + signal.SIGKILL
"""Exit codes of a worker whose Ray did not start, that Ray's own code has aborted, and that was killed."""
SILENCE_SECONDS = 20.0
"""How long Ray may take to start before it is said that it does."""


def resumes(folder: Path, spec: SearchSpec, values: dict[str, Any]) -> bool:
    """Write what is asked into `folder`, or see that it is there: then the run in it goes on, and this is true.

    Raises `InvalidValue`, with the differences, where the folder holds the run of another request.
    """
    known = folder / "spec.json"
    if known.exists():
        accepted = "another folder, or the same request again"
        try:
            there = SearchSpec.from_dict(json.loads(known.read_text())).to_dict()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
            told = f"its spec.json cannot be read: {why}"
            raise InvalidValue("--to", str(folder), told, "another folder") from error
        asked = json.loads(json.dumps(spec.to_dict()))
        # A dataset that has changed ends the search with what changed, which only its worker can tell.
        for one in (there, asked):
            one.pop("inspection", None)
        if different := list(differences(json.loads(json.dumps(there)), asked)):
            told = f"holds another search's run: {'; '.join(different)}"
            raise InvalidValue("--to", str(folder), told, accepted)
        return True
    temporary = folder / "spec.json.tmp"
    temporary.write_text(json.dumps(values, indent=1))
    temporary.replace(known)
    return False


def differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    """Where two JSON values differ, in words."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in sorted(there.keys() | asked.keys()):
            yield from differences(there.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif there != asked:
        yield f"{name} is {json.dumps(there)} there and {json.dumps(asked)} here"


def result(folder: Path) -> dict[str, Any] | None:
    """The result of a run that has finished, or None."""
    try:
        found = json.loads((folder / "result.json").read_text())
        return found if found["architectures"] else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


class Foreground:
    """The worker of a run by hand, in `folder`, whose lock is the file descriptor `held` where there are locks.

    What happens is shown by `watch` and, in words, said by `say`.
    """

    def __init__(self, folder: Path, held: int | None, watch: Watch, say: Callable[[str], object]) -> None:
        self.folder, self.held, self.watch, self.say = folder, held, watch, say
        self.read = {chunk.name for chunk in self._chunks()}
        self.heard = False
        """Whether this attempt's workers have said anything."""

    def run(self) -> int:
        """Run the worker until it ends, with a second try where Ray does not start; returns its exit code.

        However this ends, by an exception or an interrupt, no process of the run is left.
        """
        code = self._attempt()
        if code in (NO_RAY, ABORTED) and not self.heard:
            self.say("Ray did not start; trying again")
            code = self._attempt()
        return code

    def failure(self, code: int) -> str:
        """Why the worker ended with `code`, in words."""
        told = f"the worker ended with exit code {code}"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = str(json.loads((self.folder / "error.json").read_text())["message"])
        if code == KILLED:
            told = f"the worker was killed, as the system does where memory runs out; now {memory()}"
        elif code in (NO_RAY, ABORTED) and not self.heard:
            told += (
                f"\nRay needs about 1 GB of memory and several seconds of two CPUs to start; now {memory()}, and the "
                f"load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs. Stop other programs and try again."
            )
        return f"{told}\nThe worker's log: {self.folder / 'job.log'}"

    def _attempt(self) -> int:
        keeper.adopt()  # where the keeper itself is killed, what it kept falls to this process
        environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "YOSO_ATTEMPT")}
        command = [sys.executable, "-m", "service.keeper", "-1" if self.held is None else str(self.held)]
        command += [sys.executable, "-m", "worker.job", str(self.folder)]
        with (self.folder / "job.log").open("ab") as log:
            # In a session of its own: a terminal's signals reach the worker by way of the pipe, once.
            kept = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=() if self.held is None else (self.held,),
            )
        try:
            return self._follow(kept)
        except KeyboardInterrupt:
            self.say("stopping …; interrupt again to stop at once")
            raise
        finally:
            assert kept.stdin is not None
            kept.stdin.close()
            try:
                kept.wait()
            finally:  # who interrupts twice does not want to wait
                keeper.sweep()

    def _follow(self, kept: "subprocess.Popen[bytes]") -> int:
        started, told = time.monotonic(), False
        self.say("starting Ray and its workers …")
        while (code := kept.poll()) is None:
            self._show()
            if not (self.heard or told) and time.monotonic() - started > SILENCE_SECONDS:
                self.say(f"still starting, which takes minutes on a busy machine; log: {self.folder / 'job.log'}")
                told = True
            time.sleep(0.2)
        self._show()
        return 128 - code if code < 0 else code

    def _show(self) -> None:
        for chunk in self._chunks():
            if chunk.name not in self.read:
                self.read.add(chunk.name)
                self.heard = True
                for line in map(json.loads, chunk.read_text().splitlines()):
                    self.watch.show(line["kind"], line)

    def _chunks(self) -> list[Path]:
        return sorted((self.folder / "journal").glob("[0-9]*.jsonl"))


def memory() -> str:
    """How much memory this machine has free, in words."""
    values: Mapping[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        values = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    if not {"MemAvailable", "MemTotal"} <= values.keys():
        return "the free memory is unknown"
    return f"{values['MemAvailable'] / 2**30:.1f} of {values['MemTotal'] / 2**30:.1f} GiB of memory are free"
