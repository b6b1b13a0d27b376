"""The files of a retrained network, without Ray."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas_core import Network
from nas_core.deliver import programs
from nas_core.files import FILES
from nas_core.train.evaluation import Evaluation
from tests.unit.nas_core.networks import tiny_data, tiny_spec
from worker.exports import write_exports
from worker.run_folder import RunFolder


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
    told = write_exports(folder, "here", spec, architecture, weights, data, tested, spec.budgets[0], {"yoso": "0"})
    assert told["not_exported"] == {"onnx": "NotImplementedError: no such operator"}
    assert told["files"] == {kind: name for kind, name in FILES.items() if kind != "onnx"}
    assert told["latency_ms"] > 0
    written = {file.name for file in (tmp_path / "here").iterdir()}
    assert written == {"network.pt2", "network.py", "README.md", "weights.safetensors", "evaluation.json", "predict.py"}
    assert Evaluation.from_dict(folder.read_json("here/evaluation.json")) == tested
    card = (tmp_path / "here" / "README.md").read_text(encoding="utf-8")
    assert "`network.onnx` is missing: NotImplementedError: no such operator" in card
    assert '"2": "\\udcff"' in card
