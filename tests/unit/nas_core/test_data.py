"""Data sets in their real formats, their split, and their batches."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas_core.data import PARTS, Augment, generator, load, split
from nas_core.datasets import describe
from nas_core.errors import InvalidValue
from nas_core.space import SearchSpace
from nas_core.spec import SearchSpec, Settings
from nas_core.training import wilson
from tests.unit.nas_core.networks import tiny_data


def spec_for(dataset: str, roots: tuple[str, ...], **space: int) -> SearchSpec:
    info = describe(dataset, roots, anywhere=True)
    made = SearchSpace.preset(
        info.preset, **{"channels_in": info.channels, "image_size": info.image_size, "classes": info.classes} | space
    )
    return SearchSpec(dataset, (made.feasible_budgets()[1],), made, Settings.preset(info.preset))


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
    return pixels.reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(("kind", "classes", "batches"), [("cifar10", 10, 6), ("cifar100", 100, 2)])
def test_cifar_loads_from_its_own_files(tmp_path: Path, kind: str, classes: int, batches: int) -> None:
    held_out = cifar(tmp_path, kind, classes)
    data = load(spec_for(kind, (str(tmp_path),)), (str(tmp_path),), "cpu")
    assert data.splits["test"] == classes * 10 and sum(data.splits.values()) == classes * 10 * batches
    shown = data.images.fetch(data.parts["test"][:20])
    assert torch.equal(shown, torch.from_numpy(held_out[:20].copy()))
    assert torch.equal(data.labels[data.parts["test"]], torch.arange(classes * 10) % classes)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    cifar(tmp_path, "cifar10", 10)
    spec = spec_for("cifar10", (str(tmp_path),))

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "harm",)

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        load(spec, (str(tmp_path),), "cpu")
    assert not (tmp_path / "harm").exists()


def folder(root: Path, layout: tuple[str, ...], count: int = 10, mode: str = "RGB") -> Path:
    """An image folder: below each of `layout` two classes, whose images are plain colours of uneven sizes."""
    for part in layout:
        for label, name in enumerate(("cats", "dogs")):
            target = root / part / name
            target.mkdir(parents=True)
            for number in range(count):
                grey = 200 * label + number
                colour = grey if mode == "L" else (grey, grey, 255 - grey)
                suffix = ("png", "jpg", "bmp")[number % 3]
                Image.new(mode, (40, 36 + number % 5), colour).save(target / f"{number}.{suffix}")
    return root


@pytest.mark.parametrize("layout", [("",), ("train", "test"), ("train", "val")])
def test_an_image_folder_loads_in_every_layout(tmp_path: Path, layout: tuple[str, ...]) -> None:
    root = folder(tmp_path / "pets", layout)
    info = describe(str(root), anywhere=True)
    assert (info.classes, info.channels, info.images) == (2, 3, 20 * len(layout))
    data = load(spec_for(str(root), (), image_size=24), (), "cpu")
    assert data.splits["test"] == (20 if len(layout) == 2 else 4)
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
    monkeypatch.setattr("nas_core.data.IN_MEMORY_BYTES", 0)
    streamed = load(spec, (), "cpu")
    assert type(held.images) is not type(streamed.images)
    assert held.fingerprint == streamed.fingerprint
    augment = Augment(2, True, 4)
    arguments = (held.parts["weights"], 3, 4, 0, "test", augment)
    for ours, theirs in zip(held.batch(*arguments), streamed.batch(*arguments), strict=True):
        assert torch.equal(ours, theirs)


def test_digits_are_all_there() -> None:
    data = load(spec_for("digits", ()), (), "cpu")
    assert sum(data.splits.values()) == 1797 and data.splits["test"] == 359
    images, _ = data.load(data.training)
    assert images.shape[1:] == (1, 8, 8)
    assert abs(images.mean()) < 1e-3 and abs(images.std() - 1) < 1e-2


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "no images"),
        (lambda root: folder(root, ("",), count=3), "3 images"),
        (lambda root: (root / "only").mkdir(parents=True), "no images"),
        (lambda root: [p.write_text("x") for p in sorted(folder(root, ("",)).rglob("*.png"))], "not a readable image"),
    ],
)
def test_a_folder_without_a_usable_data_set_is_refused(tmp_path: Path, make: object, told: str) -> None:
    assert callable(make)
    make(tmp_path / "data")
    with pytest.raises(InvalidValue, match=told) as refused:
        describe(str(tmp_path / "data"), anywhere=True)
    assert refused.value.field == "dataset" and refused.value.accepted


def test_folders_outside_the_roots_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "allowed" / "pets", ("",))
    assert describe(str(root), (str(tmp_path / "allowed"),)).classes == 2
    (tmp_path / "other").mkdir()
    for dataset in (str(root), f"{tmp_path}/other/../allowed/pets"):
        with pytest.raises(InvalidValue, match="outside the data roots"):
            describe(dataset, (str(tmp_path / "other"),))


@given(st.lists(st.integers(0, 4), min_size=60, max_size=200), st.floats(0.2, 0.9), st.booleans())
def test_every_image_is_in_one_part_and_every_class_in_every_part(
    labels: list[int], share: float, held_out: bool
) -> None:
    labels += [label for label in range(5) for _ in range(12)]
    tensor = torch.tensor(labels)
    test = torch.arange(len(labels)) % 4 == 0 if held_out else None
    parts = split(tensor, test, share)
    together = torch.cat([parts[part] for part in PARTS])
    assert together.sort().values.tolist() == list(range(len(labels)))
    for part in ("weights", "validation", "test"):
        assert set(tensor[parts[part]].tolist()) == set(labels)
    if test is not None:
        assert parts["test"].tolist() == test.nonzero().view(-1).tolist()


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
