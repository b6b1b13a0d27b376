"""The files of a retrained network, without Ray."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas_core import Network
from nas_core.deliver import programs
from nas_core.files import FILES
from nas_core.train.evaluation import Evaluation
from tests.unit.nas_core.networks import tiny_data, tiny_spec
from worker.exports import Exports, beside
from worker.run_folder import RunFolder

FOUND = {"budget": 30_000, "start": "scratch", "compute": {"search": None, "training": 1}}


def test_a_format_that_fails_is_noted_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> bytes:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(programs, "to_onnx", fail)
    spec, data = tiny_spec(), replace(tiny_data(), class_names=("a", "b", "\udcff"))
    architecture = spec.space.cheapest()
    weights = Network(architecture).state_dict()
    tested = Evaluation.of([0, 1, 2], [0, 1, 2], data.class_names)
    folder = RunFolder(str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        told = Exports(pool, folder, "here", spec, architecture, weights, data, tested, FOUND, {"yoso": "0"}).write()
    assert told["not_exported"] == {"onnx": "NotImplementedError: no such operator"}
    assert told["files"] == {kind: name for kind, name in FILES.items() if kind != "onnx"}
    assert told["latency_ms"] > 0
    written = {file.name for file in (tmp_path / "here").iterdir()}
    assert written == {"network.pt2", "network.py", "README.md", "weights.safetensors", "evaluation.json", "predict.py"}
    assert Evaluation.from_dict(folder.read_json("here/evaluation.json")) == tested
    card = (tmp_path / "here" / "README.md").read_text(encoding="utf-8")
    assert "`network.onnx` is missing: NotImplementedError: no such operator" in card
    assert '"2": "\\udcff"' in card


def test_a_process_that_dies_while_it_exports_is_no_fault_of_the_network(tmp_path: Path) -> None:
    """It ends the attempt; the process has loaded what it needs beside whoever waits for it."""
    spec, data = tiny_spec(), tiny_data()
    architecture = spec.space.cheapest()
    tested = Evaluation.of([0, 1, 2], [0, 1, 2], ("a", "b", "c"))
    folder, pool = RunFolder(str(tmp_path)), beside()
    given: tuple[Any, ...] = (
        folder,
        "here",
        spec,
        architecture,
        Network(architecture).state_dict(),
        data,
        tested,
        FOUND,
        {},
    )
    first = Exports(pool, *given)
    assert first.write()["not_exported"] == {} and first.ready
    os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
    with pytest.raises(BrokenExecutor):
        Exports(pool, *given).write()


def test_the_process_that_exports_goes_with_the_one_that_trains(tmp_path: Path) -> None:
    code = "import os; from worker.exports import beside; print(beside().submit(os.getpid).result()); os._exit(9)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    process = Path(f"/proc/{int(told.stdout)}/stat")
    give_up = time.monotonic() + 60
    while process.exists() and ") Z " not in process.read_text() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not process.exists() or ") Z " in process.read_text()
