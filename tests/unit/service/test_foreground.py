"""`yoso run` with a worker that leaves nothing out: real processes, and a look at what is left of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service import foreground, keeper

ROOT = Path(__file__).parents[3]
WORKER = """
import json, os, pathlib, signal, subprocess, sys, time

folder = pathlib.Path(sys.argv[1])
mode = os.environ.get("MODE", "")
(folder / "started").open("a").write("x")
if mode == "no ray" or (mode == "no ray at first" and len((folder / "started").read_text()) == 1):
    (folder / "error.json").write_text(json.dumps({"message": "Ray did not start: no room"}))
    sys.exit(69)
if mode == "no ray at first":
    (folder / "result.json").write_text(json.dumps({"architectures": [{
        "budget": 300000, "multiply_adds": 299000, "parameters": 1000, "accuracy": 0.5, "accuracy_low": 0.4,
        "accuracy_high": 0.6, "path": "architectures/300000"}]}))
    sys.exit(0)
# What Ray leaves behind: processes in other sessions whose parents have ended, and which mind no signal.
deaf = "trap '' INT TERM HUP; while true; do sleep 0.1; done"
subprocess.Popen(["setsid", "sh", "-c", f"({deaf}) & exit"]).wait()
if mode == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
(folder / "journal").mkdir(exist_ok=True)
for number in range(1, 10000):
    line = {"kind": "warning", "message": f"line {number}", "attempt": 1}
    temporary = folder / "line.tmp"
    temporary.write_text(json.dumps(line))
    temporary.replace(folder / "journal" / f"{os.getpid()}-{number:06d}.jsonl")
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(0.05 if number < 40 else 1)  # nobody reads what the command writes: its pipe must not fill up
"""
ZYGOTE = """
import json, os, sys
from service import cli
for one in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reading)
        os.environ |= one["environment"]
        os.dup2(writing, 1)
        os.dup2(os.open(one["err"], os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["yoso", *one["words"]]
        cli.main()
    os.close(writing)
    print(json.dumps({"pid": pid, "out": reading}), flush=True)
for line in sys.stdin:  # what to do with which
    asked = json.loads(line)
    if asked["do"] == "close":
        os.close(asked["out"])
    elif asked["do"] == "wait":
        print(os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1]), flush=True)
"""
"""Starts several commands for the price of one, and keeps the reading ends of their output."""
SMALL = ["digits", "-b", "300k", "--set", "search_epochs=2"]


class Runs:
    """`yoso run` several times, each in a folder of its own, with the stand-in for the worker."""

    def __init__(self, folder: Path, modes: dict[str, str]) -> None:
        self.folder = folder
        package = folder / "stand-in" / "worker"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "job.py").write_text(textwrap.dedent(WORKER))
        path = f"{package.parent}:{ROOT}"
        asked = [
            {
                "words": ["run", *SMALL, "--to", str(folder / name)],
                "environment": {
                    "TEST_RUN_OF_YOSO": self.mark(name),
                    "MODE": mode,
                    "PYTHONPATH": path,
                },
                "err": str(folder / f"{name}.err"),
            }
            for name, mode in modes.items()
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE, json.dumps(asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        self.started = {name: json.loads(self._line()) for name in modes}

    def mark(self, name: str) -> str:
        return f"{self.folder.name}/{name}"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def do(self, name: str, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.started[name] | {"do": what}) + "\n")
        self.process.stdin.flush()

    def ended(self, name: str) -> int:
        self.do(name, "wait")
        return int(self._line())

    def pid(self, name: str) -> int:
        return int(self.started[name]["pid"])

    def worker(self, name: str) -> int:
        """The worker's process, once it has said something."""
        path = self.folder / name / "pid"
        until(lambda: path.exists() and path.read_text() and (self.folder / name / keeper.LOCK).exists())
        return int(path.read_text())

    def left(self, name: str) -> list[str]:
        """The processes that a run has left, by what they are."""
        marked = f"TEST_RUN_OF_YOSO={self.mark(name)}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if marked in (entry / "environ").read_bytes():
                        found.append((entry / "cmdline").read_text().replace("\0", " "))
        return found

    def told(self, name: str) -> str:
        return (self.folder / f"{name}.err").read_text()


def until(holds: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Runs]]:
    """Starts runs; whatever is left of them is killed."""
    made: list[Runs] = []

    def start(modes: dict[str, str]) -> Runs:
        made.append(Runs(tmp_path, modes))
        return made[-1]

    yield start
    for one in made:
        for name in one.started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid(name), signal.SIGKILL)
        one.process.kill()
        one.process.communicate()


def test_no_process_of_a_run_is_left_however_it_ends(runs: Callable[[dict[str, str]], Runs]) -> None:
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGQUIT", "closed", "worker", "keeper", "twice")
    several = runs({name: "deaf" if name == "twice" else "" for name in names})
    for name in names:
        worker, command = several.worker(name), several.pid(name)
        until(lambda name=name: len(several.left(name)) >= 3)  # type: ignore[misc]
        if name.startswith("SIG"):
            os.kill(command, getattr(signal, name))
        elif name == "closed":
            several.do(name, "close")
        elif name == "twice":
            os.kill(command, signal.SIGINT)
            until(lambda: "stopping" in several.told("twice"))
            os.kill(command, signal.SIGINT)
        else:
            parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(worker if name == "worker" else parent, signal.SIGKILL)
    codes = {name: several.ended(name) for name in names}
    for name in names:
        until(lambda name=name: several.left(name) == [])  # type: ignore[misc]
    assert codes == {
        "SIGINT": 130, "SIGTERM": 130, "SIGHUP": -1, "SIGKILL": -9, "SIGQUIT": -3, "closed": 141,
        "worker": 1, "keeper": 1, "twice": 130,
    }  # fmt: skip
    assert "the worker was killed" in several.told("worker") and "GiB of memory are free" in several.told("worker")
    assert "Error" not in several.told("closed")
    for name in names:  # and nobody holds the folders
        os.close(keeper.lock(several.folder / name))


def test_a_second_run_into_the_same_folder_is_told_who_is_busy(runs: Callable[[dict[str, str]], Runs]) -> None:
    several = runs({"one": ""})
    several.worker("one")
    command = [sys.executable, "-m", "service.cli", "run", *SMALL, "--to", str(several.folder / "one")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    holder = json.loads((several.folder / "one" / keeper.LOCK).read_text())
    assert holder["pid"] == several.pid("one")
    assert told.returncode == 4 and told.stdout == ""
    since = holder["started"][11:16]
    assert told.stderr.startswith(f"busy: process {holder['pid']} on {holder['host']} since {since} runs in ")
    assert "use --to with another folder, or wait" in told.stderr
    # The command itself is killed: its folder stays locked until the worker has stopped, by a process that is there.
    os.kill(several.pid("one"), signal.SIGKILL)
    assert several.ended("one") == -9
    until(lambda: several.left("one") == [])
    # A process that ends gives its environment back before its files.
    until(lambda: keeper.busy(several.folder / "one") is None)


@pytest.mark.proof
def test_a_ray_that_does_not_start_is_tried_once_more_and_then_told_of(runs: Callable[[dict[str, str]], Runs]) -> None:
    several = runs({"twice": "no ray at first", "never": "no ray"})
    assert several.ended("twice") == 0 and several.ended("never") == 1
    for name in ("twice", "never"):
        assert (several.folder / name / "started").read_text() == "xx"
    told = several.told("never")
    assert "failed: Ray did not start: no room\nRay needs about 1 GB of memory" in told and "job.log" in told
    # What has finished says so and runs nothing, and is not mistaken for another request's.
    command = [sys.executable, "-m", "service.cli", "run", *SMALL, "--to", str(several.folder / "twice")]
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0 and "this search has finished before" in again.stderr and "299,000" in again.stdout
    assert (several.folder / "twice" / "started").read_text() == "xx"
    other = subprocess.run([*command, "--seed", "7", "--share"], capture_output=True, text=True, cwd=ROOT)
    assert other.returncode == 2 and "holds another search's run: seed is 0 there and 7 here; " in other.stderr
    assert "space.share is false there and true here" in other.stderr


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    held = keeper.lock(tmp_path)
    with pytest.raises(keeper.Busy, match=rf"process {os.getpid()} on .* since \d\d:\d\d"):
        keeper.lock(tmp_path)
    (tmp_path / keeper.LOCK).write_text("{")
    with pytest.raises(keeper.Busy, match="another process"):
        keeper.lock(tmp_path)
    os.close(held)
    os.close(keeper.lock(tmp_path))


def test_a_folder_whose_request_is_torn_is_refused(tmp_path: Path) -> None:
    from nas_core.errors import InvalidValue
    from nas_core.spec import SearchSpec
    from service.domain.request import SearchRequest, check

    spec: SearchSpec = check(SearchRequest(dataset="digits", budgets=[300_000]), (), any_folder=False)
    assert not foreground.resumes(tmp_path, spec, spec.to_dict())
    assert foreground.resumes(tmp_path, spec, spec.to_dict())
    old = {name: value for name, value in spec.to_dict().items() if name != "limits"}
    (tmp_path / "spec.json").write_text(json.dumps(old))
    assert foreground.resumes(tmp_path, spec, spec.to_dict()), "what an older version wrote is the same request"
    for torn in ("", "[]", "{}", '{"budgets": 3}'):
        (tmp_path / "spec.json").write_text(torn)
        with pytest.raises(InvalidValue, match=r"spec\.json cannot be read"):
            foreground.resumes(tmp_path, spec, spec.to_dict())
