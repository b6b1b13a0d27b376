"""A search is of one dataset: how images are divided, and what is found of a dataset that changes."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas_core.data import decoding
from nas_core.data.datasets import describe
from nas_core.data.images import TensorImages
from nas_core.data.inspection import inspect
from nas_core.data.loading import Data, load
from nas_core.data.snapshot import FEWEST_OUTSIDE_TEST, PARTS, SAME, Snapshot, divide
from nas_core.errors import DataChanged, InvalidValue, ReadFailed
from nas_core.space import SearchSpace
from nas_core.spec import SearchSpec, Settings
from tests.thoroughness import some

images = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3)), min_size=1, max_size=120)
"""Images as what they look like and their class: some look the same."""


def parts_of(some: list[tuple[int, int]], declared: list[str] | None = None) -> list[str]:
    keys = [f"{look}" for look, _ in some]
    divided = divide(keys, keys, [label for _, label in some], declared or ["train"] * len(some), 0.5)
    assert all(bool(part) != bool(reason) for part, reason in divided), "in a part, or left out for a reason"
    return [part for part, _ in divided]


@given(images, st.data())
def test_what_is_tested_is_never_trained_on_and_stays_so_when_others_go(
    some: list[tuple[int, int]], data: st.DataObject
) -> None:
    parts = parts_of(some)
    looks = {part: {look for (look, _), own in zip(some, parts, strict=True) if own == part} for part in PARTS}
    trained = looks["weights"] | looks["scaling"]
    assert not looks["test"] & (trained | looks["validation"]) and not looks["validation"] & trained
    kept = sorted(data.draw(st.sets(st.integers(0, len(some) - 1), min_size=1)))
    left = [some[number] for number in kept]
    again = parts_of(left)
    for number, part in zip(kept, again, strict=True):
        outside = sum(label == some[number][1] and own != "test" for (_, label), own in zip(left, again, strict=True))
        if parts[number] == "test" and outside > FEWEST_OUTSIDE_TEST:
            assert part == "test"
    order = data.draw(st.permutations(range(len(some))))
    if len({look for look, _ in some}) == len(some):
        assert parts_of([some[number] for number in order]) == [parts[number] for number in order]


@given(st.integers(4, 60), st.integers(0, 10_000))
def test_every_class_is_in_every_part_however_small(count: int, first: int) -> None:
    parts = parts_of([(first + number, 0) for number in range(count)])
    assert set(parts) == set(PARTS)


@given(images, st.data())
def test_what_the_dataset_holds_out_stays_so(some: list[tuple[int, int]], data: st.DataObject) -> None:
    of_part = st.sampled_from(["train", "validation", "test"])
    declared = data.draw(st.lists(of_part, min_size=len(some), max_size=len(some)))
    parts = parts_of(some, declared)
    tested = {look for (look, _), said in zip(some, declared, strict=True) if said == "test"}
    for (look, _), said, part in zip(some, declared, parts, strict=True):
        if said == "test":
            assert part == "test"
        elif look in tested:
            assert part == ""
        elif said == "validation":
            assert part == "validation" or not tested
        if "test" in declared and said == "train":
            assert part != "test"


def test_the_shares_are_a_fifth_a_tenth_of_the_rest_and_by_ratio() -> None:
    parts = parts_of([(number, number % 4) for number in range(20_000)])
    shares = {part: parts.count(part) / len(parts) for part in PARTS}
    assert shares == pytest.approx({"test": 0.2, "validation": 0.08, "weights": 0.36, "scaling": 0.36}, abs=0.01)


def draw(file: Path, seed: int, side: int = 16) -> Path:
    """An image of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of thirty images."""
    for label, name in enumerate(("cats", "dogs")):
        for number in range(30):
            draw(tmp_path / "pets" / name / f"{number:02d}.png", 100 * label + number)
    return tmp_path / "pets"


def spec_of(root: Path) -> SearchSpec:
    info = describe(str(root), anywhere=True)
    space = SearchSpace.preset(
        info.preset, channels_in=info.channels, image_size=info.image_size, classes=info.classes, blocks=(1, 1)
    )
    return SearchSpec(str(root), (space.feasible_budgets()[1],), space, Settings.preset(info.preset))


def taken(data: Data) -> Snapshot:
    """What the run's folder keeps of the data."""
    assert data.snapshot is not None
    kept = Snapshot.from_bytes(data.snapshot.to_bytes())
    assert kept == data.snapshot
    return kept


def recoloured(file: Path, same_times: bool = False) -> None:
    """Change a pixel and, unless asked for, neither the size nor the times of the file."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1  # in what follows the pixels
    file.write_bytes(content)
    if same_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "added": (lambda root: draw(root / "cats" / "new.png", 999), r"1 file added \(cats/new.png\)"),
    "removed": (lambda root: (root / "cats" / "03.png").unlink(), r"1 file removed \(cats/03.png\)"),
    "replaced": (lambda root: draw(root / "dogs" / "04.png", 998), r"1 file changed \(dogs/04.png\)"),
    "recoloured": (lambda root: recoloured(root / "dogs" / "04.png"), r"1 file changed \(dogs/04.png\)"),
    "renamed": (
        lambda root: (root / "cats" / "03.png").rename(root / "cats" / "x.png"),
        r"1 file added \(cats/x.png\); 1 file removed \(cats/03.png\)",
    ),
    "moved": (
        lambda root: (root / "cats" / "03.png").rename(root / "dogs" / "cat.png"),
        r"added \(dogs/cat.png\).*removed \(cats/03.png\)",
    ),
    "a class": (
        lambda root: [draw(root / "birds" / f"{n}.png", 500 + n) for n in range(9)],
        r"class added \(birds\)",
    ),
    "unclear": (
        lambda root: [draw(root / "cats" / "train" / "1.png", 600), draw(root / "dogs" / "test" / "1.png", 601)],
        r"can no longer be read as when the search began: data.train: .*cats/train/ and dogs/test/ look like parts",
    ),
    "gone": (
        lambda root: [one.rename(root.parent / one.name) for one in list(root.iterdir())],
        "no longer.*: no images",
    ),
    "damaged": (lambda root: (root / "cats" / "03.png").write_bytes(b"no image"), r"1 file changed \(cats/03.png\)"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_dataset_that_changed_between_attempts_ends_the_search_with_what_changed(pets: Path, edit: str) -> None:
    spec = spec_of(pets)
    known = taken(load(spec, (), "cpu"))
    change, told = EDITS[edit]
    change(pets)
    with pytest.raises(DataChanged, match=told) as raised:
        load(spec, (), "cpu", known)
    assert raised.value.changes


@pytest.mark.parametrize("memory", [0, 2**30])
def test_a_file_that_changed_under_its_old_size_and_times_is_found_when_it_is_read(
    pets: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr("nas_core.data.loading.free_on", lambda device: memory)
    spec = spec_of(pets)
    known = taken(load(spec, (), "cpu"))
    recoloured(pets / known.used[0].path, same_times=True)
    with pytest.raises(DataChanged, match="has changed since the search began"):
        data = load(spec, (), "cpu", known)
        for part in PARTS:
            data.images.fetch(data.parts[part])


def test_a_touch_is_no_change_and_nothing_that_is_unchanged_is_looked_at_again(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cats" / "03.png").write_bytes(b"no image")
    for number in range(40):  # so that one is few
        draw(pets / "cats" / f"more{number}.png", 2000 + number)
        draw(pets / "dogs" / f"more{number}.png", 3000 + number)
    spec = spec_of(pets)
    first = load(spec, (), "cpu")
    assert [(one.count, one.examples) for one in first.left_out] == [(1, ("cats/03.png",))]
    assert first.left_out[0].reason == "not an image: .png" and first.skipped == ("cats/03.png",)
    for file in pets.rglob("*.png"):
        os.utime(file)
    monkeypatch.setattr("nas_core.data.snapshot.examine", None)
    again = load(spec, (), "cpu", taken(first))
    assert again.fingerprint == first.fingerprint and again.left_out == first.left_out
    for part in PARTS:
        assert again.parts[part].tolist() == first.parts[part].tolist()


def test_a_copy_of_the_dataset_is_the_same(pets: Path, tmp_path: Path) -> None:
    known = taken(load(spec_of(pets), (), "cpu"))
    shutil.copytree(pets, tmp_path / "copy", copy_function=shutil.copyfile)
    copied = load(spec_of(tmp_path / "copy"), (), "cpu", known)
    assert copied.fingerprint == known.fingerprint == load(spec_of(tmp_path / "copy"), (), "cpu").fingerprint


def test_a_class_added_after_the_submission_ends_the_search_before_anything_is_trained(pets: Path) -> None:
    spec, submitted = spec_of(pets), inspect(str(pets), anywhere=True).fingerprint
    assert load(spec, (), "cpu", submitted=submitted).classes == 2
    for number in range(9):
        draw(pets / "birds" / f"{number}.png", 700 + number)
    for told in (submitted, None):
        with pytest.raises(DataChanged, match=r"submitted.* 2 classes.* has 3 classes now"):
            load(spec, (), "cpu", submitted=told)


def test_images_that_are_held_out_too_are_not_trained_on(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "parted"
    shutil.copytree(pets, root / "train")
    for label, name in enumerate(("cats", "dogs")):
        for number in range(10):
            draw(root / "test" / name / f"{number}.png", 5000 + 100 * label + number)
    Image.open(root / "test" / "cats" / "3.png").save(root / "train" / "cats" / "copy.bmp")
    Image.open(root / "test" / "dogs" / "3.png").convert("RGBA").save(root / "train" / "dogs" / "copy.png")
    data = load(spec_of(root), (), "cpu")
    assert data.splits["test"] == 20
    [same] = [one for one in data.left_out if one.reason.startswith(SAME)]
    assert (same.count, same.examples) == (2, ("train/cats/copy.bmp", "train/dogs/copy.png"))
    tested = {image.numpy().tobytes() for image in data.images.fetch(data.parts["test"])}
    assert not tested & {image.numpy().tobytes() for image in data.images.fetch(data.training)}


def test_a_hiccup_of_the_file_system_is_neither_damage_nor_waited_for_in_vain(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(pets)
    whole = load(spec, (), "cpu")
    monkeypatch.setattr("nas_core.data.snapshot.PAUSES", (0.0, 0.0))
    bad, failures, opened = str(pets / "cats" / "03.png"), [2], os.open

    def hiccup(path: object, *arguments: int) -> int:
        if str(path) == bad and failures[0]:
            failures[0] -= 1
            raise OSError(5, "Input/output error", bad)
        return opened(path, *arguments)  # type: ignore[arg-type]

    found = inspect(str(pets), anywhere=True)
    monkeypatch.setattr("nas_core.data.snapshot.inspect", lambda *given, **also: found)
    monkeypatch.setattr(os, "open", hiccup)
    assert load(spec, (), "cpu").fingerprint == whole.fingerprint
    failures[0] = 1000
    with pytest.raises(ReadFailed, match=r"cats/03.png: input/output error"):
        load(spec, (), "cpu")


def test_what_only_another_worker_can_decode_is_no_silent_loss(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(pets)
    known = taken(load(spec, (), "cpu"))
    monkeypatch.setattr(decoding, "FORMATS", ("BMP",))
    with pytest.raises(ReadFailed, match=r"cannot be decoded here: not an image: \.png"):
        load(spec, (), "cpu", known)


def test_data_that_are_the_same_everywhere_are_refused() -> None:
    flat = replace(load(_digits(), (), "cpu"), images=TensorImages(torch.full((1797, 1, 8, 8), 7, dtype=torch.uint8)))
    with pytest.raises(InvalidValue, match="one plain colour: 7 of 255"):
        flat.deviation  # noqa: B018


def _digits() -> SearchSpec:
    space = SearchSpace.preset("digits")
    return SearchSpec("digits", (space.feasible_budgets()[1],), space, Settings.preset("digits"))


@settings(max_examples=some(8), deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "replace", "touch", "rename", "class"]), st.integers(0, 59)),
        max_size=4,
    )
)
def test_any_edits_are_found_or_are_none(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("edited") / "pets"
    for number in range(60):
        draw(root / ("cats" if number % 2 else "dogs") / f"{number:02d}.png", number, 8)
    spec = spec_of(root)
    first = load(spec, (), "cpu")

    def content() -> dict[str, bytes]:
        return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*.png"))}

    before = content()
    for step, (edit, number) in enumerate(edits):
        files = sorted(root.rglob("*.png"))
        file = files[number % len(files)]
        if edit == "add":
            draw(file.with_name(f"new{step}.png"), 100 + number, 8)
        elif edit == "remove":
            file.unlink()
        elif edit == "replace":
            draw(file, 200 + number, 8)
        elif edit == "touch":
            os.utime(file, ns=(step, step))
        elif edit == "rename":
            file.rename(file.with_name(f"named{step}.png"))
        else:
            draw(root / "birds" / f"{step}.png", 300 + number, 8)
    if content() == before:
        again = load(spec, (), "cpu", taken(first))
        assert all(again.parts[part].tolist() == first.parts[part].tolist() for part in PARTS)
    else:
        with pytest.raises(DataChanged):
            load(spec, (), "cpu", taken(first))
