"""Networks as LiteRT and Core ML: with a stand-in for a converter, and where they are installed with the real ones."""

import json
import os
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from nas_core import SearchSpace
from nas_core.data.decoding import Decoding
from nas_core.deliver import conversion, standalone
from nas_core.deliver.preprocessing import Preprocessing
from nas_core.search.references import fit_reference
from nas_core.space import Architecture, Reference
from nas_core.supernet.references import build
from service.cli import app

CLASSES = tuple(f"class {label}" for label in range(10))


def convert(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["convert", str(folder), *words])


def deliver(genotype: Architecture | Reference, folder: Path) -> Path:
    """Write what `yoso convert` reads of a network into `folder`."""
    _, size, _ = genotype.input_shape
    given = Preprocessing(Decoding(3, size), (100.0, 110.0, 120.0), (50.0, 60.0, 70.0), CLASSES)
    folder.mkdir()
    (folder / "network.py").write_text(standalone.to_python(genotype, given.mean, given.deviation, CLASSES))
    (folder / "predict.py").write_text(standalone.to_predict(given, True))
    (folder / "README.md").write_text("# A network\n\n## Limits\n\nNone.\n")
    save_file(build(genotype).state_dict(), folder / "weights.safetensors")
    return folder


SPACE = SearchSpace.preset("digits", channels=4, channels_in=3, blocks=(1, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a small network."""
    return deliver(replace(SPACE, operations=SPACE.operations[:1], levels=1).complete(), tmp_path / "300000")


def photos(folder: Path) -> Path:
    """Three images of each class, in a folder of its own."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


STAND_IN = """
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

print("converting …")
if Path("fail").exists():
    raise RuntimeError("no such operator")
colorlayout = SimpleNamespace(RGB="RGB", GRAYSCALE="grey")
transform = SimpleNamespace(FP16ComputePrecision=lambda selected: None)
ImageType = TensorType = dict


def convert(program, inputs, outputs, **options):
    [taken], [given] = inputs, outputs
    images = program.module()(__import__("torch").zeros(taken["shape"]))
    text = f"{taken['color_layout']} {list(taken['shape'])} {list(images[given['name']].shape)}"

    def save(path):
        Path(path).mkdir()
        Path(path, "model").write_text(text)

    return SimpleNamespace(user_defined_metadata={}, save=save)
"""


@pytest.mark.slow
@pytest.mark.proof
def test_a_file_is_written_beside_the_others_and_the_card_tells_of_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    (installed / "coremltools-9.0.dist-info").mkdir(parents=True)
    (installed / "coremltools-9.0.dist-info" / "METADATA").write_text("Name: coremltools\nVersion: 9.0\n")
    (installed / "coremltools.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(tmp_path)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "README.md"}
    (folder / "network.mlpackage").mkdir()
    (folder / "network.mlpackage" / "old").touch()

    told = convert(folder, "--format", "coreml")
    assert told.exit_code == 0, told.output
    assert told.output == "network.mlpackage: 24 bytes, not tested: only Apple's systems run it\n"
    assert [file.name for file in (folder / "network.mlpackage").iterdir()] == ["model"]
    assert (folder / "network.mlpackage" / "model").read_text() == "RGB [1, 3, 8, 8] [1, 10]"
    card = (folder / "README.md").read_text()
    assert card.startswith("# A network\n\n## Limits\n\nNone.\n\n## Core ML\n") and "**Not tested.**" in card
    assert "written by coremltools 9.0" in card

    (tmp_path / "fail").touch()
    failed = convert(folder, "--format", "coreml")
    assert failed.exit_code == 1 and "no such operator" in failed.stderr
    assert (folder / "network.mlpackage" / "model").exists()
    left = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != "README.md"}
    assert left == before and {file.name for file in folder.iterdir()} >= {"network.mlpackage", "README.md"}
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".") or file.name.endswith(".part")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "tflite"], "--format: no such format (got 'tflite'); accepted: litert or coreml"),
        (["--format", "litert", "--test", "absent"], "--test: not a folder"),
        (["--format", "coreml", "--int8", "."], "--int8: Core ML files do not run on this machine"),
        (["--format", "litert", "--python", "absent"], "--python: cannot be run"),
        (["--format", "litert"], "--python: litert_torch not installed"),
    ],
)
def test_what_cannot_be_converted_is_refused(folder: Path, words: list[str], told: str) -> None:
    refused = convert(folder, *words)
    assert refused.exit_code == 2 and told in refused.stderr, refused.output


def test_a_folder_without_a_network_is_refused(folder: Path) -> None:
    refused = convert(folder.parent, "--format", "litert")
    assert refused.exit_code == 2 and "network.py and predict.py and weights.safetensors missing" in refused.stderr


def test_a_section_takes_the_place_of_its_older_self_alone() -> None:
    card = "# A\n\n## LiteRT\n\nold\n\n## Core ML\n\nkept\n"
    assert (
        conversion.with_section(card, "## LiteRT\n", "## LiteRT\n\nnew\n")
        == "# A\n\n## Core ML\n\nkept\n\n## LiteRT\n\nnew\n"
    )


def test_images_are_read_as_the_network_wants_them_with_their_classes(folder: Path, tmp_path: Path) -> None:
    predict: Any = SimpleNamespace(**runpy.run_path(str(folder / "predict.py")))
    images = photos(tmp_path / "photos")
    (images / "class 3" / "notes.txt").touch()
    sample = conversion.labelled_images(predict, images)
    assert sample.images.shape == (30, 3, 8, 8) and sample.images.dtype == np.uint8
    assert sample.labels == [label for label in range(10) for _ in range(3)]

    (images / "class 3").rename(images / "class x")
    with pytest.raises(conversion.Refused, match=r"class x/0\.png is not in a folder with the name of a class"):
        conversion.labelled_images(predict, images)
    (images / "class x" / "0.png").write_bytes(b"no image")
    with pytest.raises(conversion.Refused, match=r"class x/0\.png"):
        conversion.images_in(predict, "int8", images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(conversion.Refused, match="no image files below it"):
        conversion.images_in(predict, "int8", tmp_path / "empty")


@pytest.mark.proof
@pytest.mark.parametrize("family", [None, "resnet", "mobilenetv3", "shufflenetv2", "efficientnet_lite"])
@pytest.mark.parametrize("form", ["litert", "coreml"])
def test_the_real_converters_write_every_network(form: str, family: str | None, tmp_path: Path) -> None:
    """`make test-converters` installs them. No LiteRT file is written whose logits are not the network's."""
    python = os.environ.get(f"{form.upper()}_PYTHON")
    if python is None:
        pytest.skip("make test-converters installs what this needs")
    genotype = SPACE.complete() if family is None else fit_reference(family, SPACE, 4_000_000)
    folder, images = deliver(genotype, tmp_path / "network"), photos(tmp_path / "photos")
    words = ("--test", str(images), "--int8", str(images)) if form == "litert" else ()
    told = convert(folder, "--format", form, "--python", python, "--json", *words)
    assert told.exit_code == 0, told.output
    files = json.loads(told.stdout)["files"]
    assert all((folder / one["name"]).exists() for one in files.values())
    if form == "litert":
        assert files["litert"]["accuracy"] == files["litert"]["accuracy_in_pytorch"] and files["litert"]["images"] == 30
        assert files["litert_int8"]["calibrated_on"] == 30 and len(files) == 2
