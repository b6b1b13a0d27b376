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

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from nas_core import Network
from nas_core.data.loading import Data
from nas_core.deliver import programs
from nas_core.files import FILES
from nas_core.train.evaluation import Evaluation, Mistake
from tests.unit.nas_core.networks import tiny_data, tiny_spec
from worker.exports import Exports, beside
from worker.run_folder import RunFolder

FOUND = {"budget": 30_000, "start": "scratch", "compute": {"search": None, "training": 1}, "warnings": []}


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
    kinds = ("onnx", "onnx_fp16", "onnx_int8")
    missing = told["not_exported"] | told["of_new_kinds"]["not_exported"]
    assert missing == dict.fromkeys(kinds, "NotImplementedError: no such operator") and told["onnx"] == {}
    assert told["files"] == {kind: name for kind, name in FILES.items() if kind not in (*kinds, "mistakes")}
    assert told["latency_ms"] > 0
    written = {file.name for file in (tmp_path / "here").iterdir()}
    assert written == {"network.pt2", "network.py", "README.md", "weights.safetensors", "evaluation.json", "predict.py"}
    assert Evaluation.from_dict(folder.read_json("here/evaluation.json")) == tested
    card = (tmp_path / "here" / "README.md").read_text(encoding="utf-8")
    assert "`network.onnx` is missing: NotImplementedError: no such operator" in card
    assert '"2": "\\udcff"' in card


def check_onnx(folder: Path, data: Data, told: dict[str, dict[str, Any]]) -> None:
    """What is told of the ONNX files is what they do, and the smaller ones are what they are called."""
    sessions = {kind: onnxruntime.InferenceSession(folder / FILES[kind], providers=["CPUExecutionProvider"])
                for kind in ("onnx", "onnx_fp16", "onnx_int8")}  # fmt: skip
    indices = data.parts["test"]
    pixels, labels = data.images.fetch(indices).numpy().astype(np.float32), data.labels[indices].numpy()
    logits = {kind: session.run(None, {"images": pixels})[0] for kind, session in sessions.items()}
    spread = np.ptp(logits["onnx"])
    for kind, share, numbers in (("onnx", 0.0, "FLOAT"), ("onnx_fp16", 0.003, "FLOAT16"), ("onnx_int8", 0.1, "INT8")):
        assert np.abs(logits[kind] - logits["onnx"]).mean() <= share * spread
        right = (logits[kind].argmax(1) == labels).mean()
        one = told[kind]
        assert (one["accuracy"], one["test_images"]) == (pytest.approx(right), len(labels))
        assert one["bytes"] == (folder / FILES[kind]).stat().st_size
        assert 0 < one["latency_low_ms"] <= one["latency_ms"] <= one["latency_high_ms"] and one["latency_device"]
        model = onnx.load(folder / FILES[kind])
        [first] = [node for node in model.graph.node if node.op_type == "Conv"][:1]
        weights = {one.name: onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer}
        scaled = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        assert weights[scaled.get(first.input[1], first.input[1])] == numbers
        assert sessions[kind].get_modelmeta().custom_metadata_map["normalisation"] == "inside"
        assert {one.domain for one in model.opset_import} == {""} and model.producer_name == "yoso"
    card = (folder / FILES["card"]).read_text(encoding="utf-8")
    assert f"| `network.int8.onnx` | {told['onnx_int8']['bytes']:,} | {told['onnx_int8']['accuracy']:.2%} | " in card


@pytest.mark.proof
def test_a_process_that_dies_while_it_exports_is_no_fault_of_the_network(tmp_path: Path) -> None:
    """It ends the attempt; the process has loaded what it needs beside whoever waits for it."""
    torch.manual_seed(0)
    spec, data = tiny_spec(), tiny_data()
    architecture = spec.space.cheapest()
    mistakes = [Mistake(0, 1, 0.9, image, None) for image in (5, 3, *range(20, 27))]
    tested = Evaluation.of([0, 1, 2], [0, 1, 2], ("a", "b", "c"), mistakes=mistakes)
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
    told = first.write()
    assert told["not_exported"] == told["of_new_kinds"]["not_exported"] == {} and first.ready
    check_onnx(tmp_path / "here", data, told["onnx"])
    assert "mistakes" in told["of_new_kinds"]["files"] and "mistakes" not in told["files"]
    with Image.open(tmp_path / "here" / FILES["mistakes"]) as sheet:
        pixels, size = np.asarray(sheet), data.images.fetch(torch.tensor([3])).shape[2]
    assert pixels.shape == (2 * size, 8 * size)
    for image, corner in ((5, (0, 0)), (3, (0, size)), (26, (size, 0))):
        cut = pixels[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
        assert np.array_equal(cut, data.images.fetch(torch.tensor([image]))[0, 0].numpy())
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
