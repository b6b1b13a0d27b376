"""What a retrained network is given out as, run as somebody would who has no Yoso."""

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from torch import Tensor

from nas_core import Architecture, Network, SearchSpace, export
from nas_core.architecture import Block, Edge
from nas_core.files import FILES
from nas_core.latency import Latency, measure_latency
from nas_core.layers import BatchNorm
from nas_core.operations import OPERATIONS
from tests.unit.nas_core.networks import architectures, tiny_data, tiny_spec

CLASSES = ("cats", '"""', "\\", "l\ni", "a " * 80, "\udcff", "é", "`|", "<b>", "9")
"""Names of ten classes: folders may be called anything."""


def lively(network: Network) -> Network:
    """`network` with normalisation parameters and statistics as training leaves them."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, BatchNorm):
                for tensor, low, high in (
                    (norm.weight, 0.5, 1.5),
                    (norm.bias, -0.5, 0.5),
                    (norm.running_mean, -0.5, 0.5),
                    (norm.running_var, 0.5, 4.0),
                ):
                    tensor.uniform_(low, high, generator=random)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Network:
    """A small network with every operation, both branches of a reduction, and blocks that are bare shortcuts."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"channels": 4, "channels_in": 3, "levels": 2, "blocks": (2, 1)}
    space = SearchSpace.preset("digits", **shape, operations=tuple(OPERATIONS))
    count, output = len(OPERATIONS), space.nodes + 1
    # All of the first level, and of the second the first operation, which reads every one of them.
    read = [(node, count + 1) for node in range(count + 1)]
    pairs = [(0, node) for node in range(1, count + 1)] + read + [(1, output), (count + 1, output)]
    block = Block(tuple(Edge(source, target, 1.0) for source, target in pairs))
    blocks = (block, Block(()), Block(()))
    return lively(Network(Architecture(space, (5, 7), blocks, space.complete().reductions)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Exported(NamedTuple):
    """The network in every form, made from one that is in training mode; and what the process was before and after."""

    onnx: bytes
    torch_export: bytes
    python: str
    training: Network
    before: list[Any]
    after: list[Any]


@pytest.fixture(scope="module")
def exported(network: Network) -> Exported:
    training = Network(network.architecture)
    training.load_state_dict(network.state_dict())

    def process() -> list[Any]:
        return [torch.get_rng_state().tolist(), torch.get_num_threads(), torch.is_grad_enabled()]

    before = process()
    made = export.to_onnx(training), export.to_torch_export(training)
    python = export.to_python(network.architecture, [10.0, 20.0, 30.0], [1.0, 2.0, 4.0], CLASSES)
    measure_latency(training, threads=before[1] + 1, runs=2)
    export.restore(network.architecture, network.state_dict())
    return Exported(*made, python, training, before, process())


@pytest.fixture(scope="module")
def elsewhere(
    exported: Exported, network: Network, images: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the stand-alone file and the torch.export program find in a process without Yoso and safetensors."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / FILES["python"]).write_bytes(exported.python.encode())
    (folder / FILES["torch_export"]).write_bytes(exported.torch_export)
    save_file(network.state_dict(), folder / FILES["weights"])
    torch.save(images, folder / "images.pt")
    script = """
import sys
sys.path.insert(0, "")
for absent in ("nas_core", "worker", "service", "safetensors", "numpy"):
    sys.modules[absent] = None
import torch
from network import CLASSES, load, normalise
images = torch.load("images.pt")
with torch.no_grad():
    torch.save({
        "classes": CLASSES,
        "python": load("weights.safetensors")(images),
        "torch_export": torch.export.load("network.pt2").module()(images),
        "normalised": normalise(torch.full((1, 3, 8, 8), 40, dtype=torch.uint8)),
    }, "logits.pt")
"""
    command = [sys.executable, "-I", "-c", script]
    told = subprocess.run(command, cwd=folder, env={"PYTHONPATH": ""}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = torch.load(folder / "logits.pt", weights_only=True)
    return found


@pytest.mark.parametrize("kind", ["python", "torch_export"])
def test_without_yoso_it_finds_the_same_logits(
    kind: str, elsewhere: dict[str, Any], network: Network, images: Tensor
) -> None:
    torch.testing.assert_close(elsewhere[kind], network(images), rtol=0, atol=1e-5)


def test_the_stand_alone_file_normalises_bytes_by_channel_and_names_the_classes(elsewhere: dict[str, Any]) -> None:
    wanted = torch.tensor([30.0, 10.0, 2.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert torch.equal(elsewhere["normalised"], wanted)
    assert elsewhere["classes"] == CLASSES


@settings(max_examples=25)
@given(architectures())
def test_the_stand_alone_file_is_the_same_network_for_any_architecture(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network, space = lively(Network(architecture)), architecture.space
    written: dict[str, Any] = {}
    exec(compile(export.to_python(architecture), "network.py", "exec"), written)
    alone = written["load"](network.state_dict())
    assert list(alone.state_dict()) == list(network.state_dict())
    images = torch.randn(3, space.channels_in, space.image_size, space.image_size)
    assert torch.equal(alone(images), network(images))
    assert "normalise" not in written and "CLASSES" not in written


def test_onnx_finds_the_same_logits_for_batches_of_any_size(
    exported: Exported, network: Network, images: Tensor
) -> None:
    onnx.checker.check_model(exported.onnx, full_check=True)
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    for batch in (images[:1], images):
        [logits] = session.run(["logits"], {"images": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(batch), rtol=0, atol=1e-5)


def test_programs_tell_nothing_of_the_machine_that_made_them(exported: Exported) -> None:
    here = str(Path(export.__file__).parent).encode()
    with zipfile.ZipFile(io.BytesIO(exported.torch_export)) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(here in content for content in (exported.onnx, *contents))


def test_exporting_leaves_the_training_process_as_it_was(exported: Exported, network: Network) -> None:
    assert exported.before == exported.after
    training = exported.training
    assert all(module.training for module in training.modules())
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in training.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in training.parameters())


def test_a_program_whose_logits_are_off_is_not_given_out(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Network(exported.training.architecture)
    stale = torch.export.load(io.BytesIO(exported.torch_export))
    monkeypatch.setattr(export, "_program", lambda _: stale)
    model = SimpleNamespace(model_proto=onnx.load_model_from_string(exported.onnx))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: model)
    for make, runtime in ((export.to_onnx, "onnxruntime"), (export.to_torch_export, "torch.export")):
        with pytest.raises(RuntimeError, match=f"the logits of {runtime} are off by"):
            make(other)


def test_latency_is_in_order_and_says_its_threads(network: Network) -> None:
    latency = measure_latency(network, threads=1, runs=20)
    assert 0 < latency.low <= latency.median <= latency.high and latency.threads == 1


def test_the_card_says_what_the_next_person_must_know() -> None:
    spec, data = tiny_spec(seed=7), tiny_data()
    architecture = spec.space.cheapest()
    accuracy = {"accuracy": 0.9, "accuracy_low": 0.744, "accuracy_high": 0.965, "test_images": 30}
    card = export.model_card(
        spec,
        architecture,
        data,
        {"budget": spec.budgets[0]} | accuracy,
        Latency(1.25, 1.125, 1.5, 1),
        {"yoso": "0.1.0", "torch": "2.15.0"},
        {"onnx": "RuntimeError: no"},
    )
    used = f"{architecture.multiply_adds / spec.budgets[0]:.1%}"
    for told in (
        *(data.fingerprint, "3 classes", "test", used, f"{architecture.parameters:,}", f"{spec.budgets[0]:,}"),
        *("90.00%", "74.4% to 96.5%", "30 images", "1.25 ms", "1.12 to", "Seed 7", "torch 2.15.0"),
        *("`network.onnx` is missing: RuntimeError: no", "torch.export.load", "from network import load", "## Limits"),
        *(f"| 0 | {data.mean[0]:.4f} | {data.deviation[0]:.4f} |", '"search_epochs": 3'),
    ):
        assert told in card, told
    assert "InferenceSession" not in card and "## Classes" not in card


def test_the_card_names_the_classes_whatever_they_are_called() -> None:
    spec, data = tiny_spec(), replace(tiny_data(), class_names=CLASSES)
    result = {"budget": spec.budgets[0], "accuracy": 1, "accuracy_low": 1, "accuracy_high": 1, "test_images": 9}
    card = export.model_card(spec, spec.space.cheapest(), data, result, Latency(1, 1, 1, 1), {})
    listed = card.split("## Classes\n\n```json\n")[1].split("\n```\n")[0]
    assert list(json.loads(listed).items()) == [(str(index), name) for index, name in enumerate(CLASSES)]
    assert "é" in listed


def test_normalisation_is_what_loading_does() -> None:
    data = tiny_data()
    [mean], [deviation] = data.mean, data.deviation
    indices = data.parts["test"]
    wanted = (data.images.fetch(indices).float() - mean) / deviation
    torch.testing.assert_close(data.load(indices)[0], wanted)
