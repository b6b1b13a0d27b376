"""Datasets in their real formats, their split, and their batches."""

import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from nas_core.data.augmentation import Augment
from nas_core.data.datasets import DATASETS, LAYOUTS, at_hand, describe
from nas_core.data.decoding import Decoding, decode
from nas_core.data.images import TensorImages
from nas_core.data.inspection import _named_rows, inspect
from nas_core.data.loading import Data, load
from nas_core.data.previews import rows
from nas_core.errors import InvalidValue
from nas_core.seeds import generator
from nas_core.space import SearchSpace
from nas_core.spec import SearchSpec, Settings
from nas_core.spec.augmentation import crop_of
from nas_core.train.evaluation import wilson
from tests.unit.nas_core.networks import tiny_data


def spec_for(dataset: str, roots: tuple[str, ...], **space: Any) -> SearchSpec:
    info = describe(dataset, roots, anywhere=True)
    made = SearchSpace.preset(
        info.preset, **{"channels_in": info.channels, "image_size": info.image_size, "classes": info.classes} | space
    )
    settings = Settings.preset(info.preset, crop=crop_of(made.image_size))
    return SearchSpec(dataset, (made.feasible_budgets()[1],), made, settings)


def cifar(root: Path, kind: str, classes: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """A small CIFAR in torchvision's layout; returns the test images as (N, 3, 32, 32)."""
    folder = root / ("cifar-10-batches-py" if kind == "cifar10" else "cifar-100-python")
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if kind == "cifar10" else ["train", "test"]
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 256, (classes * 10, 3072), dtype=np.uint8)
        labels = [i % classes for i in range(classes * 10)]
        batch = {b"data": pixels, b"labels" if kind == "cifar10" else b"fine_labels": labels, b"batch_label": b"x"}
        # As the real files, which an old numpy wrote.
        (folder / name).write_bytes(pickle.dumps(batch, 2).replace(b"numpy._core.", b"numpy.core."))
    key, file = (b"label_names", "batches.meta") if kind == "cifar10" else (b"fine_label_names", "meta")
    (folder / file).write_bytes(pickle.dumps({key: [b"thing %d" % i for i in range(classes)]}, 2))
    return pixels.reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(("kind", "classes", "batches"), [("cifar10", 10, 6), ("cifar100", 100, 2)])
def test_cifar_loads_from_its_own_files(tmp_path: Path, kind: str, classes: int, batches: int) -> None:
    held_out = cifar(tmp_path, kind, classes)
    data = load(spec_for(kind, (str(tmp_path),)), (str(tmp_path),), "cpu")
    assert data.splits["test"] == classes * 10 and sum(data.splits.values()) == classes * 10 * batches
    shown = data.images.fetch(data.parts["test"][:20])
    assert torch.equal(shown, torch.from_numpy(held_out[:20].copy()))
    assert torch.equal(data.labels[data.parts["test"]], torch.arange(classes * 10) % classes)
    assert data.class_names == tuple(f"thing {i}" for i in range(classes))
    found = inspect(kind, (str(tmp_path),))
    (name, _, images) = rows(found.info, found.decoding)[3]
    assert name == {"cifar10": "cat", "cifar100": "class 3"}[kind]
    assert any((data.images.fetch(torch.tensor([3])).numpy()[0] == image).all() for image in images)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    cifar(tmp_path, "cifar10", 10)
    spec = spec_for("cifar10", (str(tmp_path),))

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "harm",)

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="does not belong"):
        load(spec, (str(tmp_path),), "cpu")
    assert not (tmp_path / "harm").exists()


def grey(label: int, held_out: bool) -> int:
    """The brightness by which the tests tell the images of a class and of a part."""
    return 2 * label + held_out


def dots(images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> None:
    """Draw a dot into each of the images (N, H, W, …), where no other has it."""
    for number, image in enumerate(images):
        image[4 + number // 20, 4 + number % 20] += 60


def idx(root: Path, folder: str, classes: int, train: str = "train", test: str = "t10k") -> None:
    """MNIST's files: big-endian sizes after a magic number that holds the type (8: bytes) and the dimensions."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, each in ((train, 8), (test, 2)):
        labels = np.arange(classes * each, dtype=np.uint8) % classes
        images = np.stack([np.full((28, 28), grey(label, part == test), np.uint8) for label in labels.tolist()])
        dots(images)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([8 << 8 | array.ndim, *array.shape], dtype=">u4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


def svhn(root: Path) -> None:
    """Matlab files with images (32, 32, 3, n) and labels 1 … 10, of which 10 stands for zero."""
    root.mkdir(exist_ok=True)
    for part, each in (("train", 8), ("test", 2)):
        labels = np.arange(10 * each) % 10
        images = np.zeros((32, 32, 3, len(labels)), np.uint8) + (2 * labels + (part == "test")).astype(np.uint8)
        dots(images.transpose(3, 0, 1, 2))
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": images, "y": np.where(labels == 0, 10, labels)[:, None]})


def stl10(root: Path) -> None:
    """Raw bytes, each image (3, columns, rows), and labels from 1."""
    base = root / "stl10_binary"
    base.mkdir(parents=True)
    for part, each in (("train", 8), ("test", 2)):
        labels = np.arange(10 * each) % 10
        images = np.zeros((len(labels), 3, 96, 96), np.uint8) + grey(0, part == "test")
        images += (2 * labels).astype(np.uint8)[:, None, None, None]
        dots(images.transpose(0, 2, 3, 1))
        images.tofile(base / f"{part}_X.bin")
        (labels + 1).astype(np.uint8).tofile(base / f"{part}_y.bin")
    (base / "unlabeled_X.bin").touch()
    (base / "class_names.txt").write_text("".join(f"thing {i}\n" for i in range(10)))


def picture(file: Path, shade: int, form: str = "jpeg") -> None:
    """A small image of one shade, but for a dot of its own, that is not square."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (20, 16), (shade, shade, shade))
    x, y = divmod(zlib.crc32(file.name.encode()) % 256, 16)
    image.putpixel((2 + x, y), (shade + 60,) * 3)
    image.save(file, form)


def food101(root: Path) -> None:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for part, each in (("train", 3), ("test", 1)):
        names = {f"dish{c:03d}": [f"dish{c:03d}/{part}{i}" for i in range(each)] for c in range(101)}
        (base / "meta" / f"{part}.json").write_text(json.dumps(names))
        for label, images in enumerate(names.values()):
            for name in images:
                picture(base / "images" / f"{name}.jpg", grey(label, part == "test"))


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    labels = np.arange(102 * 4) % 102
    ids = np.arange(len(labels)) + 1
    for number, label in zip(ids.tolist(), labels.tolist(), strict=True):
        picture(base / "jpg" / f"image_{number:05d}.jpg", grey(label, number > 306))
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels[None] + 1})
    parts = {"trnid": ids[None, :204], "valid": ids[None, 204:306], "tstid": ids[None, 306:]}
    scipy.io.savemat(base / "setid.mat", parts)


def oxford_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part, each in (("trainval", 3), ("test", 1)):
        lines = []
        for label in range(37):
            for number in range(each):
                name = f"kind_{label:02d}_{part}{number}"
                picture(base / "images" / f"{name}.jpg", grey(label, part == "test"))
                lines.append(f"{name} {label + 1} {1 + label % 2} 1\n")
        (base / "annotations" / f"{part}.txt").write_text("".join(lines))


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for part, each in (("train", 2), ("val", 1), ("test", 1)):
        names = [(c, f"kind{c:02d}/{part}{i}.jpg") for c in range(47) for i in range(each)]
        (base / "labels" / f"{part}1.txt").write_text("".join(f"{name}\n" for _, name in names))
        for label, name in names:
            picture(base / "images" / name, grey(label, part == "test"))


def eurosat(root: Path) -> None:
    for label in range(10):
        for number in range(8):
            picture(root / "eurosat" / "2750" / f"Land{label}" / f"Land{label}_{number}.jpg", grey(label, False))


def gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(43):
        for number in range(3):
            file = base / "GTSRB" / "Training" / f"{label:05d}" / f"{number:05d}.ppm"
            picture(file, grey(label, False), "ppm")
        picture(base / "GTSRB" / "Final_Test" / "Images" / f"{label:05d}.ppm", grey(label, True), "ppm")
        rows.append(f"{label:05d}.ppm;20;16;1;1;19;15;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


MAKERS: dict[str, Callable[[Path], None]] = {
    "mnist": lambda root: idx(root, "MNIST", 10),
    "fashion_mnist": lambda root: idx(root, "FashionMNIST", 10),
    "kmnist": lambda root: idx(root, "KMNIST", 10),
    "emnist": lambda root: idx(root, "EMNIST", 47, "emnist-balanced-train", "emnist-balanced-test"),
    "svhn": svhn,
    "stl10": stl10,
    "food101": food101,
    "flowers102": flowers102,
    "oxford_pets": oxford_pets,
    "dtd": dtd,
    "eurosat": eurosat,
    "gtsrb": gtsrb,
}
NAMES = {
    "mnist": "3 - three",
    "fashion_mnist": "Dress",
    "kmnist": "tsu",
    "emnist": "3",
    "stl10": "thing 3",
    "food101": "dish003",
    "flowers102": "sweet pea",
    "oxford_pets": "Kind 03",
    "dtd": "kind03",
    "eurosat": "Land3",
}


@pytest.fixture
def without_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of torchvision's readers compare MD5 sums, which no file of a test can have."""
    for module in ("svhn", "stl10", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5: os.path.isfile(path))


def test_every_layout_is_tested() -> None:
    assert set(MAKERS) | {"cifar10", "cifar100"} == set(LAYOUTS)
    assert set(DATASETS) == {"digits", "imagenet", *LAYOUTS}


@pytest.mark.usefixtures("without_sums")
@pytest.mark.parametrize("name", MAKERS)
def test_a_data_set_of_torchvision_loads_from_its_own_files(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    roots = (str(tmp_path / "elsewhere"), str(tmp_path))
    layout = LAYOUTS[name]
    spec = spec_for(name, roots, image_size=min(layout.image_size, 32), blocks=(1, 1))
    data = load(spec, roots, "cpu")
    held_out = torch.zeros(len(data.labels), dtype=torch.bool)
    held_out[data.parts["test"]] = True
    images = data.images.fetch(torch.arange(len(data.labels)))
    assert images.shape[1:] == (layout.channels, spec.space.image_size, spec.space.image_size)
    shades = 2 * data.labels + (held_out if layout.test is not None else 0)
    # The dots, and JPEG may be one off.
    assert (images.float().mean((1, 2, 3)) - shades).abs().max() <= 0.7
    assert data.labels.unique().tolist() == list(range(layout.classes))
    assert (data.class_names[3] if data.class_names else None) == NAMES.get(name)
    assert set(data.labels[data.parts["test"]].tolist()) == set(range(layout.classes))


@pytest.mark.parametrize("name", MAKERS)
def test_some_images_of_every_data_set_are_shown_without_torchvision(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    layout = LAYOUTS[name]
    found = inspect(name, (str(tmp_path),), image_size=16)
    shown = rows(found.info, found.decoding)
    assert len(shown) == min(10, layout.classes)
    for label, (shown_as, _, images) in enumerate(shown):
        assert shown_as and 1 <= len(images) <= 10 and images[0].shape == (layout.channels, 16, 16)
        assert abs(float(np.mean(images)) - grey(label, False)) < 2


def test_a_data_set_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    svhn(tmp_path)
    (tmp_path / "train_32x32.mat").write_bytes(b"no such thing")
    found = inspect("svhn", (str(tmp_path),))
    assert found.contact_sheet().startswith(b"\x89PNG")
    assert _named_rows(found.info, found.decoding)[1].startswith("its files cannot be read: ")


def test_a_data_set_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    svhn(tmp_path / "svhn")
    assert describe("svhn", (str(tmp_path),)).path == str(tmp_path / "svhn")


def test_what_is_at_hand_are_names_whose_files_lie_there_and_folders_of_images(tmp_path: Path) -> None:
    assert at_hand() == at_hand((str(tmp_path / "away"),)) == ["digits"]
    svhn(tmp_path / "svhn")
    idx(tmp_path, "MNIST", 10)
    for folder, names in {"pets/train/cat": ["1.png"], "pets/train/dog": ["1.JPG"], "pets/test/cat": [],
                          "one/cat": ["1.png"], "text/a": ["1.txt"], "text/b": ["1.txt"],
                          ".hidden/a": ["1.png"], ".hidden/b": ["1.png"]}.items():  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).touch()
    assert at_hand((str(tmp_path),)) == ["digits", "mnist", "svhn", str(tmp_path / "pets")]
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    assert at_hand((str(tmp_path),)) == ["digits", "svhn", str(tmp_path / "pets")]


def test_a_data_set_whose_files_are_not_all_there_is_refused(tmp_path: Path) -> None:
    idx(tmp_path, "MNIST", 10)
    describe("mnist", (str(tmp_path),))
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InvalidValue, match="files were not found") as refused:
        describe("mnist", (str(tmp_path),))
    assert "MNIST/raw/t10k-labels-idx1-ubyte" in refused.value.accepted and str(tmp_path) in refused.value.accepted


@pytest.mark.usefixtures("without_sums")
@pytest.mark.parametrize(
    ("name", "file"),
    [("mnist", "MNIST/raw/train-images-idx3-ubyte"), ("svhn", "test_32x32.mat"), ("stl10", "stl10_binary/train_X.bin")],
)
def test_damaged_files_are_one_kind_of_error(tmp_path: Path, name: str, file: str) -> None:
    MAKERS[name](tmp_path)
    spec = spec_for(name, (str(tmp_path),))
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-1000])
    with pytest.raises((OSError, ValueError)):
        load(spec, (str(tmp_path),), "cpu")


def test_files_that_torchvision_does_not_trust_are_refused(tmp_path: Path) -> None:
    svhn(tmp_path)
    with pytest.raises(ValueError, match="'svhn' cannot be read: Dataset not found or corrupted"):
        load(spec_for("svhn", (str(tmp_path),)), (str(tmp_path),), "cpu")


def folder(root: Path, layout: tuple[str, ...], count: int = 10, mode: str = "RGB") -> Path:
    """An image folder: below each of `layout` two classes, whose images are colours with a spot, of uneven sizes."""
    for wider, part in enumerate(layout):
        for label, name in enumerate(("cats", "dogs")):
            target = root / part / name
            target.mkdir(parents=True)
            for number in range(count):
                grey = min(200 * label + number, 255)
                colour = grey if mode == "L" else (grey, grey, 255 - grey)
                suffix = ("png", "jpg", "bmp")[number % 3]
                image = Image.new(mode, (40 + wider, 36 + number % 5), colour)
                spot = (grey + 40) % 256 if mode == "L" else (grey, grey, (37 * number + 90 * wider + 20) % 256)
                left, top = 4 + 7 * (number % 4), 4 + 7 * (number // 4 % 4)
                image.paste(spot, (left, top, left + 6, top + 6))
                image.save(target / f"{number}.{suffix}")
    return root


def test_imagenet_is_a_folder_with_the_size_of_imagenet(tmp_path: Path) -> None:
    folder(tmp_path / "imagenet", ("train", "val"))
    info = describe("imagenet", (str(tmp_path),))
    assert (info.classes, info.image_size, info.preset, info.images) == (2, 224, "imagenet", 40)
    data = load(spec_for("imagenet", (str(tmp_path),), image_size=32), (str(tmp_path),), "cpu")
    assert data.splits["test"] == 20 and data.class_names == ("cats", "dogs")


@pytest.mark.parametrize("layout", [("",), ("train", "test"), ("train", "val")])
def test_an_image_folder_loads_in_every_layout(tmp_path: Path, layout: tuple[str, ...]) -> None:
    root = folder(tmp_path / "pets", layout)
    info = describe(str(root), anywhere=True)
    assert (info.classes, info.channels, info.images) == (2, 3, 20 * len(layout))
    data = load(spec_for(str(root), (), image_size=24), (), "cpu")
    assert data.splits["test"] == (20 if "test" in layout else data.splits["test"]) > 1
    assert data.splits["validation"] == (20 if "val" in layout else data.splits["validation"]) > 1
    images = data.images.fetch(torch.arange(len(data.labels)))
    assert images.shape[1:] == (3, 24, 24)
    dogs = images.float().mean((1, 2, 3))[data.labels == 1]
    assert data.labels.bincount().tolist() == [10 * len(layout)] * 2 and len(dogs)
    red = images[:, 0].float().mean((1, 2))
    assert red[data.labels == 0].max() < 30 and red[data.labels == 1].min() > 180


def test_large_folders_are_decoded_batch_by_batch_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "grey", ("",), mode="L")
    spec = spec_for(str(root), ())
    assert spec.space.channels_in == 1
    held = load(spec, (), "cpu")
    monkeypatch.setattr("nas_core.data.loading.free_on", lambda device: 0)
    streamed = load(spec, (), "cpu")
    assert type(held.images) is not type(streamed.images)
    assert held.fingerprint == streamed.fingerprint
    augment = Augment(2, True, 4)
    arguments = (held.parts["weights"], 3, 4, 0, "test", augment)
    for ours, theirs in zip(held.batch(*arguments), streamed.batch(*arguments), strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """A folder that is decoded batch by batch."""
    monkeypatch.setattr("nas_core.data.loading.free_on", lambda device: 0)
    return load(spec_for(str(folder(tmp_path / "pets", ("",))), ()), (), "cpu")


def damage(files: list[Path]) -> None:
    """Leave half of the first file, nothing of the second, and a text in the others."""
    for number, file in enumerate(files):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if number == 0 else b"" if number == 1 else b"no image")


@pytest.mark.parametrize("memory", [0, 2**30])
def test_a_few_broken_files_are_skipped_and_more_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr("nas_core.data.loading.free_on", lambda device: memory)
    root = folder(tmp_path / "pets", ("",), count=100)
    files = [root / "cats" / "1.jpg", root / "cats" / "0.png", root / "dogs" / "7.jpg"]
    damage(files[:2])
    spec = spec_for(str(root), (), image_size=16)
    data = load(spec, (), "cpu")
    assert data.skipped == ("cats/0.png", "cats/1.jpg")
    assert data.labels.bincount().tolist() == [98, 100] and sum(data.splits.values()) == 198
    images = data.images.fetch(torch.arange(198))
    assert images[:98, 0].max() < 130 and images[98:, 0].min() > 170
    damage(files)
    with pytest.raises(
        InvalidValue, match=r"3 of 200 images cannot be read: 2 × not an image: .jpg .cats/1.jpg, .*; 1 × empty file"
    ):
        load(spec, (), "cpu")


def test_large_photographs_are_scaled_while_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.mgrid[0:600, 0:900]
    pixels = np.stack([rows * 255 // 599, columns * 255 // 899, (rows + columns) % 256], 2).astype(np.uint8)
    whole = Image.fromarray(pixels)
    whole.save(tmp_path / "photo.jpg", quality=95)
    decoded: list[tuple[int, int]] = []
    load_whole = JpegImageFile.load

    def load_and_note(image: JpegImageFile) -> Any:
        decoded.append(image.size)
        return load_whole(image)

    monkeypatch.setattr(JpegImageFile, "load", load_and_note)
    made = decode(tmp_path / "photo.jpg", Decoding(3, 32))
    assert decoded[0] == (113, 75)
    expected = np.asarray(ImageOps.fit(whole, (32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert made.shape == (3, 32, 32) and np.array_equal(made, decode(tmp_path / "photo.jpg", Decoding(3, 32)))
    assert np.abs(made[:2].astype(int) - expected[:2]).max() <= 3
    # The sides are cut off: 600 of 900 columns are left.
    assert 40 < made[1, :, 0].mean() < 50 and 205 < made[1, :, -1].mean() < 215


def test_mean_and_deviation_are_those_of_the_training_images(streamed: Data) -> None:
    for data in (streamed, load(spec_for("digits", ()), (), "cpu")):
        pixels = data.images.fetch(data.training).double()
        assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
        assert data.deviation == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_a_small_deviation_is_told_as_it_is(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "faint" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(100, 102, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faint" / name / f"{number}.png")
    data = load(spec_for(str(tmp_path / "faint"), ()), (), "cpu")
    assert data.deviation == pytest.approx([0.5], abs=0.05)
    same = replace(data, images=TensorImages(torch.full((20, 1, 16, 16), 7, dtype=torch.uint8)))
    with pytest.raises(InvalidValue, match="one plain colour: 7 of 255"):
        _ = same.deviation


def test_digits_are_all_there() -> None:
    data = load(spec_for("digits", ()), (), "cpu")
    assert sum(data.splits.values()) == 1797 and data.splits["test"] == 368
    images, _ = data.load(data.training)
    assert images.shape[1:] == (1, 8, 8)
    assert abs(images.mean()) < 1e-3 and abs(images.std() - 1) < 1e-2
    from sklearn.datasets import load_digits  # not by every process that collects tests

    wanted = load_digits()
    pixels = data.images.fetch(torch.arange(1797))[:, 0].numpy()
    assert np.array_equal(pixels, (wanted.images * (255 / 16)).round()) and data.labels.tolist() == [*wanted.target]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "no images"),
        (lambda root: folder(root, ("",), count=3), "3 images"),
        (lambda root: (root / "only").mkdir(parents=True), "no images"),
        (
            lambda root: [p.write_text("x") for p in sorted(folder(root, ("",)).rglob("*.png"))],
            "8 of 20 images cannot be read",
        ),
        (lambda root: shutil.rmtree(folder(root, ("",)) / "dogs"), "one class only"),
        (lambda root: (folder(root, ("train",)) / "test" / "cats").mkdir(parents=True), "no images in test/"),
        (lambda root: shutil.rmtree(folder(root, ("train", "val")) / "train" / "dogs"), "one class only"),
        (lambda root: picture(folder(root, ("train", "val")) / "val" / "birds" / "1.jpg", 9), "'birds' is held out"),
    ],
)
def test_a_folder_without_a_usable_data_set_is_refused(tmp_path: Path, make: object, told: str) -> None:
    assert callable(make)
    make(tmp_path / "data")
    with pytest.raises(InvalidValue, match=told) as refused:
        describe(str(tmp_path / "data"), anywhere=True)
    assert refused.value.field in ("dataset", "data.test", "data.validation") and refused.value.accepted


def test_folders_outside_the_roots_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "allowed" / "pets", ("",))
    assert describe(str(root), (str(tmp_path / "allowed"),)).classes == 2
    (tmp_path / "other").mkdir()
    for dataset in (str(root), f"{tmp_path}/other/../allowed/pets"):
        with pytest.raises(InvalidValue, match="outside the data roots"):
            describe(dataset, (str(tmp_path / "other"),))


def test_a_class_that_is_missing_from_the_files_is_named(tmp_path: Path) -> None:
    idx(tmp_path, "MNIST", 9)
    with pytest.raises(InvalidValue, match="class '9 - nine' has too few images that differ for weights"):
        load(spec_for("mnist", (str(tmp_path),)), (str(tmp_path),), "cpu")
    idx(tmp_path / "more", "MNIST", 11)
    with pytest.raises(InvalidValue, match="a label beyond its 10 classes"):
        load(spec_for("mnist", (str(tmp_path / "more"),)), (str(tmp_path / "more"),), "cpu")


def test_without_a_split_both_train_on_the_same_images_once() -> None:
    apart = load(spec_for("digits", ()), (), "cpu")
    spec = spec_for("digits", ())
    together = load(replace(spec, settings=replace(spec.settings, split=False)), (), "cpu")
    assert torch.equal(together.parts["weights"], together.parts["scaling"])
    assert torch.equal(together.parts["weights"], apart.training.sort().values)
    assert torch.equal(together.training, together.parts["weights"])
    for part in ("validation", "test"):
        assert torch.equal(together.parts[part], apart.parts[part])


def test_an_epoch_passes_every_image_once_and_depends_on_its_purpose_alone() -> None:
    data = tiny_data()
    part = data.parts["weights"]
    size = 16
    epoch = torch.cat([data.batch(part, step, size, 0, "a", None)[0] for step in range(len(part) // size)])
    assert len(epoch.flatten(1).unique(dim=0)) == len(epoch)
    again = data.batch(part, 1, size, 0, "a", None)[0]
    assert torch.equal(again, epoch[size : 2 * size])
    assert not torch.equal(again, data.batch(part, 1, size, 0, "b", None)[0])


@pytest.mark.parametrize(("padding", "flip", "cutout"), [(2, False, 0), (0, True, 0), (0, False, 6), (2, True, 6)])
def test_augmentation_draws_for_the_whole_batch(padding: int, flip: bool, cutout: int) -> None:
    images = torch.rand(8, 3, 12, 12) + 1
    augment = Augment(padding, flip, cutout)
    whole = augment(images, generator("x"), 8, slice(0, 8))
    halves = [augment(images[part], generator("x"), 8, part) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole, torch.cat(halves)) and whole.shape == images.shape
    if cutout and not padding:
        cut = (whole[:, 0] == 0).flatten(1).sum(1)
        assert cut.min() >= (cutout // 2) ** 2 and cut.max() <= cutout**2


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1
