"""What a retrained network is given out as, run as somebody would who has no Yoso."""

import ast
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from PIL import ExifTags, Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision.transforms import v2

from nas_core import Architecture, Network, SearchSpace
from nas_core.data.decoding import Decoding, decode
from nas_core.data.inspection import inspect as look_at
from nas_core.data.loading import Data
from nas_core.data.summary import summarise
from nas_core.deliver import card, programs, standalone
from nas_core.deliver.preprocessing import Preprocessing
from nas_core.errors import InvalidValue
from nas_core.files import FILES
from nas_core.search.latency import Latency, measure_latency
from nas_core.space import Block, Edge
from nas_core.space.operations import OPERATIONS
from nas_core.spec import OPSETS, ExportOptions, SearchSpec
from nas_core.spec.augmentation import resize_of
from nas_core.train.evaluation import Evaluation
from tests.thoroughness import some
from tests.unit.nas_core.networks import architectures, tiny_data, tiny_spec

CLASSES = ("cats", '"""', "\\", "l\ni", "a " * 80, "\udcff", "é", "`|", "<b>", "9")
"""Names of ten classes: folders may be called anything."""
DEFAULT = ExportOptions()


def lively(network: Network) -> Network:
    """`network` with normalisation parameters and statistics as training leaves them."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
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


def test_torch_fuses_every_bn_that_follows_a_convolution(network: Network, images: Tensor) -> None:
    def norms(module: nn.Module) -> list[str]:
        return [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]

    fused = fuse(network)
    torch.testing.assert_close(fused(images), network(images), atol=1e-4, rtol=1e-4)
    space = network.architecture.space
    others = [node for node in range(1, space.nodes + 1) if space.operation(node).endswith(("pool3", "identity"))]
    left = [f"body.block1.operations.{node}.1" for node in others if node in network.architecture.blocks[0].operations]
    assert norms(fused) == [*left, "head.bn"] and len(left) == 3
    assert len(norms(network)) > 10


def preprocessing_of(network: Network) -> Preprocessing:
    """Some preprocessing for a network."""
    space = network.architecture.space
    names = tuple(name.replace("\udcff", "\\udcff") for name in CLASSES)
    decoding = Decoding(space.channels_in, space.image_size, "navy")
    return Preprocessing(decoding, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0), names)


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
    made = programs.to_onnx(training, DEFAULT, preprocessing_of(network), "1.2"), programs.to_torch_export(training)
    python = standalone.to_python(network.architecture, [10.0, 20.0, 30.0], [1.0, 2.0, 4.0], CLASSES)
    measure_latency(training, threads=before[1] + 1, runs=2)
    programs.restore(network.architecture, network.state_dict())
    return Exported(*made, python, training, before, process())


@pytest.fixture(scope="module")
def written(network: Network, exported: Exported) -> Callable[[ExportOptions], bytes]:
    """The network as ONNX with some options, written once."""
    given = preprocessing_of(network)
    return cache(lambda asked: exported.onnx if asked == DEFAULT else programs.to_onnx(network, asked, given, "1.2"))


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


@settings(max_examples=some(25))
@given(architectures())
def test_the_stand_alone_file_is_the_same_network_for_any_architecture(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network, space = lively(Network(architecture)), architecture.space
    written: dict[str, Any] = {}
    exec(compile(standalone.to_python(architecture), "network.py", "exec"), written)
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
    given = preprocessing_of(network)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (given.mean, given.deviation))
    for batch in (images[:0], images[:1], images.repeat(2, 1, 1, 1)[:7]):
        [logits] = session.run(["logits"], {"images": (batch * deviation + mean).numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), network(batch), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("opset", "ir", "normalise"),
    [pytest.param(15, 11, True, marks=pytest.mark.proof), (17, None, True), (23, None, False)],
)
def test_onnx_is_written_as_asked_and_tells_how_images_are_made(
    network: Network, written: Callable[[ExportOptions], bytes], opset: int, ir: int | None, normalise: bool
) -> None:
    given, content = preprocessing_of(network), written(ExportOptions(opset, ir, normalise))
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(content, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    assert model.ir_version == (ir or OPSETS[opset])
    assert (model.producer_name, model.producer_version) == ("yoso", "1.2")

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [images], [logits] = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["batch", 3, 8, 8], "tensor(float)")
    assert (logits.name, logits.shape) == ("logits", ["batch", 10])
    told = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(told["class_names"])) == given.class_names
    assert json.loads(told["mean"]) == list(given.mean) and json.loads(told["deviation"]) == list(given.deviation)
    assert (told["input_layout"], told["colour_order"], told["image_size"]) == ("NCHW", "RGB", "8")
    assert told["background"] == "navy" and Decoding.from_dict(json.loads(told["decoding"])) == given.decoding
    inside = {"normalisation": "inside", "value_range": "0 to 255"}
    assert (inside.items() <= told.items()) is normalise

    pixels = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(3)).float()
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (given.mean, given.deviation))
    normalised = (pixels - mean) / deviation
    [found] = session.run(None, {"images": (pixels if normalise else normalised).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(normalised), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "field", "accepted"),
    [
        ({"opset": 14}, "export.opset", "15 to 23"),
        ({"opset": 24}, "export.opset", "15 to 23"),
        ({"opset": "17"}, "export.opset", "15 to 23"),
        ({"opset": True}, "export.opset", "15 to 23"),
        ({"opset": 19, "ir": 8}, "export.ir", "9 to 11"),
        ({"ir": 12}, "export.ir", "8 to 11"),
        ({"ir": 8.0}, "export.ir", "8 to 11"),
        ({"normalise": "yes"}, "export.normalise", "true or false"),
        ({"normalize": True}, "export.normalize", "opset, ir, normalise"),
    ],
)
def test_what_no_network_can_be_written_in_is_refused(values: dict[str, Any], field: str, accepted: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        ExportOptions.parse(values)
    assert refused.value.field == field and accepted in refused.value.accepted


@pytest.fixture(scope="module")
def beside(
    network: Network,
    exported: Exported,
    written: Callable[[ExportOptions], bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[bool], tuple[Path, Tensor]]:
    """What makes, once, a folder with a network's files, normalised inside or outside, and a photo; and the logits that
    the network has for it.
    """

    def made(inside: bool) -> tuple[Path, Tensor]:
        options = DEFAULT if inside else ExportOptions(23, normalise=False)
        return files_and_logits(network, exported, options, written(options), tmp_path_factory.mktemp("beside"))

    return cache(made)


def files_and_logits(
    network: Network, exported: Exported, options: ExportOptions, content: bytes, folder: Path
) -> tuple[Path, Tensor]:
    """The files of a network and a photo in `folder`, and the network's logits for it."""
    given = preprocessing_of(network)
    (folder / FILES["onnx"]).write_bytes(content)
    (folder / FILES["torch_export"]).write_bytes(exported.torch_export)
    (folder / FILES["predict"]).write_text(standalone.to_predict(given, options.normalise))
    python = standalone.to_python(network.architecture, given.mean, given.deviation, CLASSES)
    (folder / FILES["python"]).write_text(python)
    (folder / FILES["architecture"]).write_text(network.architecture.to_json())
    data = replace(tiny_data(), classes=10, class_names=CLASSES)
    card = card_of(replace(tiny_spec(), export=options), data, Evaluation.of(range(10), range(10), CLASSES))
    (folder / FILES["card"]).write_text(card, errors="backslashreplace")
    save_file(network.state_dict(), folder / FILES["weights"])
    # A photo that is taller than wide, with a hole in it, and held on its side.
    random = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(random, "RGBA").save(folder / "photo.jpg", format="PNG", exif=exif)
    pixels = torch.from_numpy(decode(folder / "photo.jpg", given.decoding))[None].float()
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (given.mean, given.deviation))
    with torch.no_grad():
        return folder, network((pixels - mean) / deviation)[0]


def run_beside(folder: Path, code: str, absent: Sequence[str] = ()) -> str:
    """What Python code prints in a process of its own that runs in `folder`, where the modules `absent` are not."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    command = [sys.executable, "-W", "error", "-c", f"import sys\nsys.path.insert(0, '')\n{hidden}{code}"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONIOENCODING": "utf-8"}
    told = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_cards_snippets_run_as_they_stand_on_a_photo(beside: Callable[[bool], tuple[Path, Tensor]]) -> None:
    code, wanted = "import os\n", []
    # All in one process, which loads torch once; each prints its answer.
    for folder, logits in (beside(False), beside(True)):
        snippets = re.findall(r"```python\n(.*?)```", (folder / FILES["card"]).read_text(), re.DOTALL)
        assert len(snippets) == 4
        code += f"os.chdir({str(folder)!r})\nfor name in ('predict', 'network'): sys.modules.pop(name, None)\n"
        code += "\n".join(snippets).replace("print(", "print(repr(").replace("])\n", "]))\n")
        wanted += [repr(CLASSES[int(logits.argmax())].replace("\udcff", "\\udcff"))] * 4
    assert run_beside(folder, code).splitlines() == wanted


@pytest.mark.parametrize(("inside", "absent"), [(False, "torch"), (True, "torch"), (True, "onnxruntime")])
def test_a_photo_is_classified_on_the_command_line(
    beside: Callable[[bool], tuple[Path, Tensor]], inside: bool, absent: str
) -> None:
    folder, logits = beside(inside)
    code = """
import predict, runpy
from tests.thoroughness import some
print(*predict.logits_of('photo.jpg').tolist())
print(ascii(predict.predict('photo.jpg', 3)))
sys.argv = ['predict.py', 'photo.jpg']
runpy.run_path('predict.py', run_name='__main__')
"""
    first, second, *third = run_beside(folder, code, (absent, "nas_core", "safetensors")).splitlines()
    torch.testing.assert_close(torch.tensor([float(one) for one in first.split()]), logits, rtol=0, atol=1e-4)
    names, shares = zip(*ast.literal_eval(second), strict=True)
    best = logits.softmax(0).topk(3)
    assert list(names) == [CLASSES[label].replace("\udcff", "\\udcff") for label in best.indices.tolist()]
    assert list(shares) == pytest.approx(best.values.tolist(), abs=1e-4)
    assert third[0].startswith("photo.jpg: ")


def test_images_are_decoded_as_the_datasets_own_were() -> None:
    decoding = Decoding(1, 8, "red", integers=(0.0, 4095.0))
    given = Preprocessing.of(replace(tiny_data(), decoding=decoding), tiny_spec())
    assert given.decoding == decoding and f"\nDECODING = {decoding}\n" in standalone.to_predict(given, True)
    assert json.loads(given.metadata(False)["decoding"])["integers"] == [0, 4095]


@pytest.mark.parametrize("size", [64, 224])
def test_a_photograph_of_another_shape_is_read_alone_as_torchvision_crops_it(tmp_path: Path, size: int) -> None:
    photograph = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/images/china.jpg")))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    with Image.open(photograph) as lying:
        lying.save(tmp_path / "standing.jpg", quality=95, exif=exif)
    (tmp_path / "lying.jpg").write_bytes(photograph.read_bytes())
    resize = resize_of("resized", size)
    data = replace(tiny_data(), decoding=Decoding(3, size, resize=resize))
    given = replace(Preprocessing.of(data, tiny_spec()), mean=(110.0, 120.0, 130.0), deviation=(60.0, 50.0, 70.0))
    (tmp_path / FILES["predict"]).write_text(standalone.to_predict(given, True))
    code = "import predict\nfor name in ('lying', 'standing'): predict.read_image(f'{name}.jpg').tofile(name)"
    run_beside(tmp_path, code, ("torch", "nas_core"))
    reference = v2.Compose([v2.Resize(resize), v2.CenterCrop(size), v2.PILToTensor()])
    for name, shape in (("lying", (640, 427)), ("standing", (427, 640))):
        with Image.open(tmp_path / f"{name}.jpg") as image:
            upright = ImageOps.exif_transpose(image)
        assert upright.size == shape
        mean, deviation = (np.reshape(one, (3, 1, 1)) for one in (given.mean, given.deviation))
        seen = np.fromfile(tmp_path / name, np.float32).reshape(3, size, size) * deviation + mean
        off = np.abs(seen - reference(upright).numpy())
        # For 64 pixels the decoder scales the JPEG down, by its own filter.
        assert off.max() < (1.1 if size == 224 else 7) and off.mean() < 0.6


def test_the_stand_alone_network_refuses_images_of_another_size_and_values_that_are_no_bytes(
    network: Network, exported: Exported
) -> None:
    written: dict[str, Any] = {}
    exec(compile(exported.python, "network.py", "exec"), written)
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 8, 8\), not \(1, 3, 16, 16\)"):
        written["Network"]()(torch.zeros(1, 3, 16, 16))
    with pytest.raises(TypeError, match="expected bytes"):
        written["normalise"](torch.zeros(1, 3, 8, 8))


def test_programs_tell_nothing_of_the_machine_that_made_them(exported: Exported) -> None:
    here = str(Path(programs.__file__).parent).encode()
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
    monkeypatch.setattr(programs, "_program", lambda *_: stale)
    model = SimpleNamespace(model_proto=onnx.load_model_from_string(exported.onnx))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: model)
    made: dict[str, Callable[[], bytes]] = {
        "onnxruntime": lambda: programs.to_onnx(other, DEFAULT, preprocessing_of(other)),
        "torch.export": lambda: programs.to_torch_export(other),
    }
    for runtime, make in made.items():
        with pytest.raises(RuntimeError, match=f"the logits of {runtime} are off by"):
            make()


def test_latency_is_in_order_and_says_its_threads(network: Network) -> None:
    latency = measure_latency(network, threads=1, runs=20)
    assert 0 < latency.low <= latency.median <= latency.high and latency.threads == 1


def card_of(spec: SearchSpec, data: Data, test: Evaluation, **given: Any) -> str:
    """The model card of the smallest network."""
    latency, versions = Latency(1.25, 1.125, 1.5, 1), {"yoso": "0.1.0", "torch": "2.15.0"}
    found = {"budget": spec.budgets[0], "start": "supernet", "compute": {"search": 1_234_567, "training": 89_000}}
    found |= {"warnings": test.warnings}
    return card.model_card(spec, spec.space.cheapest(), data, found, test, latency, versions, {}, **given)


def test_the_card_says_what_the_next_person_must_know() -> None:
    spec, data = tiny_spec(seed=7), tiny_data()
    architecture = spec.space.cheapest()
    test = Evaluation.of([0] * 10 + [1] * 10 + [2] * 10, [0] * 10 + [1] * 10 + [2] * 7 + [0] * 3, ("0", "1", "2"))
    card = card_of(spec, data, test, not_exported={"onnx": "RuntimeError: no"})
    used = f"{architecture.multiply_adds / spec.budgets[0]:.1%}"
    for told in (
        *(data.fingerprint, "3 classes", "test", used, f"{architecture.parameters:,}", f"{spec.budgets[0]:,}"),
        *("90.00%", "74.4% to 96.5%", "30 images", "1.25 ms", "1.12 to", "Seed 7", "torch 2.15.0"),
        *("`network.onnx` is missing: RuntimeError: no", "torch.export.load", "from network import load", "## Limits"),
        *(f"| 0 | {data.mean[0]:.4f} | {data.deviation[0]:.4f} |", '"search_epochs": 3'),
        *("| 2 | 10 | 70.0% | 7 | 100.0% |", "- 3 of 10 images of 2 predicted as 0"),
        "and trained from the supernet's weights.",
        "- Compute, as multiply-adds of forward passes: 8.9e+04 for training, after 1.23e+06 for the search",
    ):
        assert told in card, told
    assert "InferenceSession" not in card and "## Classes" not in card and "Warning" not in card


def test_the_card_says_plainly_that_a_rare_class_is_never_recognised() -> None:
    test = Evaluation.of([0] * 600 + [1] * 8, [0] * 608, ("cat", "do|g", "fox"))
    card = card_of(tiny_spec(), tiny_data(), test)
    for told in (
        "> **Warning.** The accuracy of 98.7 % is not better than always predicting 'cat': 98.7 %.",
        "> **Warning.** The class 'do\\|g' is never recognised: none of its 8 test images is classified correctly.",
        "> **Warning.** 1 of 3 classes has no test images: 'fox'.",
        "- Test accuracy: **98.68%** on 608 images",
        "- Balanced accuracy: **50.00%**, the mean recall of 2 classes\n",
        "| do\\|g | 8 | 0.0% | 0 | never predicted |\n| cat | 600 | 100.0% | 608 | 98.7% |\n| fox | 0 | no test images",
    ):
        assert told in card, told


def test_the_card_says_how_the_dataset_was_read(tmp_path: Path) -> None:
    for number in range(20):
        for label in ("cat", "do|g"):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.effect_noise((9, 9), 80).save(tmp_path / label / f"{number}.png")
    (tmp_path / "cat" / "readme.txt").write_text("words")
    found = summarise(look_at(str(tmp_path), anywhere=True).to_dict())
    test = Evaluation.of([0, 1], [0, 1], ("cat", "do|g"))
    card = card_of(replace(tiny_spec(), inspection=found), tiny_data(), test)
    assert "\n## Dataset\n\n- Layout: one folder per class\n- Images: 40 (40 in train) of 2 classes" in card
    assert "- Left out: 1 file: " in card and "cat/readme.txt" in card
    assert "## Dataset" not in card_of(tiny_spec(), tiny_data(), test)


def test_the_card_of_many_classes_stays_short_and_tells_top_5() -> None:
    labels = list(range(1000))
    card = card_of(tiny_spec(), tiny_data(), Evaluation.of(labels, labels, list(map(str, labels)), top5_right=900))
    assert "Top-5 accuracy: 90.00%" in card and "950 more classes are in `evaluation.json`" in card
    assert card.count("\n") < 300


def test_the_card_names_the_classes_whatever_they_are_called() -> None:
    spec, data = tiny_spec(), replace(tiny_data(), classes=len(CLASSES), class_names=CLASSES)
    numbers = range(len(CLASSES))
    card = card_of(spec, data, Evaluation.of(numbers, numbers, CLASSES))
    listed = card.split("## Classes\n\n```json\n")[1].split("\n```\n")[0]
    assert list(json.loads(listed).items()) == [(str(index), name) for index, name in enumerate(CLASSES)]
    assert "é" in listed


def test_normalisation_is_what_loading_does() -> None:
    data = tiny_data()
    [mean], [deviation] = data.mean, data.deviation
    indices = data.parts["test"]
    wanted = (data.images.fetch(indices).float() - mean) / deviation
    torch.testing.assert_close(data.load(indices)[0], wanted)
