"""Datasets are looked at before they are searched on."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_core.data.decoding import decode
from nas_core.data.inspection import Inspection, inspect
from nas_core.errors import InvalidValue
from nas_core.spec import DataOptions
from tests.unit.nas_core.images import bomb, tiff


def images(folder: Path, count: int = 8, seed: int = 0, size: tuple[int, int] = (16, 16)) -> None:
    """Write `count` images of noise, which differ from folder to folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, *str(folder).encode("utf-8", "surrogateescape")])
    for number in range(count):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def dataset(
    root: Path,
    *parts: str,
    classes: tuple[str, ...] = ("cats", "dogs"),
    count: int = 8,
    size: tuple[int, int] = (16, 16),
) -> Path:
    """Write a dataset with `count` images per class below each of `parts`."""
    for part in parts or ("",):
        for name in classes:
            images(root / part / name, count, size=size)
    return root


def look(root: Path, **options: object) -> Inspection:
    return inspect(str(root), anywhere=True, options=DataOptions(**options))  # type: ignore[arg-type]


def test_an_inspection_is_json_and_shows_what_the_network_sees(tmp_path: Path) -> None:
    found = look(dataset(tmp_path, "train", "test"))
    assert found.problems == () and found.class_names == ("cats", "dogs")
    assert found.counts == {part: {"cats": 8, "dogs": 8} for part in ("train", "test")}
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["channels"], told["image_size"], told["examined"]) == (3, 16, 32)
    assert found.contact_sheet().startswith(b"\x89PNG")


@pytest.mark.parametrize("given", ["../other", "/etc", "a/../../b", "a\0b"])
def test_a_part_is_below_the_dataset(given: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        DataOptions(train=given)
    assert refused.value.field == "data.train"


def reasons(found: Inspection) -> dict[str, int]:
    return {one.reason: one.count for one in found.left_out}


def warned(found: Inspection, text: str) -> bool:
    return any(text in one for one in found.warnings)


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_what_is_certain_is_used_without_problems_or_warnings(tmp_path: Path) -> None:
    found = look(dataset(tmp_path, "Training", "valid", "TEST"))
    assert (found.problems, found.warnings, found.left_out) == ((), (), ())
    assert found.counts == {part: {"cats": 8, "dogs": 8} for part in ("train", "validation", "test")}
    assert found.layout == "one folder per class in Training/ for training, valid/ for validation, TEST/ for the test"
    assert (found.info.classes, found.info.images, found.info.preset) == (2, 48, "digits")


def test_the_first_image_decides_nothing(tmp_path: Path) -> None:
    root = dataset(tmp_path, size=(32, 32))
    Image.fromarray(noise(4, 300)).save(root / "cats" / "00.png")
    Image.fromarray(noise(1, 1)).save(root / "cats" / "000.png")
    found = look(root)
    assert (found.channels, found.image_size, found.problems) == (3, 32, ())
    assert warned(
        found, "over three times as long as wide, so that most is cropped: 1 of 18 images (cats/00.png)"
    ) and warned(found, "enlarged four times or more: 2 of 18 images (cats/00.png, cats/000.png)")


def test_grey_is_what_shows_no_colour(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    for file in root.rglob("*.png"):
        grey = noise(16, 20, seed=hash(str(file)) % 1000)
        Image.fromarray(grey if file.stem < "4" else np.dstack([grey] * 3)).save(file)
    assert look(root).channels == 1
    assert look(root, channels=3).channels == 3
    Image.fromarray(noise(16, 16, 3)).save(root / "cats" / "0.png")
    assert look(root).channels == 3
    forced = look(root, channels=1)
    assert forced.channels == 1 and "made grey: 1 of 16 images (cats/0.png)" in forced.notes


def test_the_size_can_be_chosen(tmp_path: Path) -> None:
    found = inspect(str(dataset(tmp_path)), anywhere=True, image_size=24)
    assert (found.image_size, found.info.image_size, found.decoding.size, found.info.preset) == (24, 24, 24, "cifar10")


def test_images_of_a_pixel_or_two_are_refused_by_name(tmp_path: Path) -> None:
    root = dataset(tmp_path, size=(2, 2))
    (problem,) = look(root).problems
    assert problem.field == "data.image_size" and "16 of 16 images have fewer than 4 pixels a side" in problem.reason
    assert inspect(str(root), anywhere=True, image_size=8).problems == ()


@pytest.mark.parametrize("suffix", [".avif", ".jfif", "", ".txt", ".webp", ".gif", ".JPG", ".qoi"])
def test_an_image_counts_by_its_content(tmp_path: Path, suffix: str) -> None:
    root = dataset(tmp_path)
    format = {".avif": "AVIF", ".jfif": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".qoi": "QOI"}.get(suffix, "PNG")
    for file in sorted((root / "cats").iterdir()):
        with Image.open(file) as image:
            image.save(file.with_suffix(suffix), format)
        if file.suffix != suffix:
            file.unlink()
    found = look(root)
    assert found.problems == () and found.counts == {"train": {"cats": 8, "dogs": 8}}


def test_every_reason_is_counted_with_an_example(tmp_path: Path) -> None:
    root = dataset(tmp_path, count=400, size=(4, 4))
    (root / "cats" / "list.csv").write_text("a,b")
    (root / "cats" / "note.txt").write_text("text")
    (root / "cats" / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 50)
    (root / "cats" / "empty.dat").touch()
    (root / "cats" / "broken.jpg").write_bytes(b"no image")
    (root / "cats" / "empty.jpg").touch()
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "cats" / "cut.png")
    (root / "cats" / "cut.png").write_bytes((root / "cats" / "cut.png").read_bytes()[:3000])
    bomb(root / "cats" / "bomb.png")
    found = look(root)
    assert found.problems == () and found.images == 800 and warned(found, "left out, as they cannot be read: 4 images")
    assert reasons(found) == {
        "not an image: .csv": 1,
        "not an image: .txt": 1,
        "not an image: .mp4": 1,
        "not an image: .jpg": 1,
        "empty file": 2,
        "truncated PNG": 1,
        "decompression bomb: 14,000×14,000 pixels, at most 178,956,970": 1,
    }
    assert all(one.examples for one in found.left_out)


def test_images_that_pillow_cannot_decode_are_damage_that_says_so(tmp_path: Path) -> None:
    root = dataset(tmp_path, count=8)
    for number in range(8):
        (root / "cats" / f"{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(number))
        (root / "cats" / f"phone{number}.jpg").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(number))
        (root / "dogs" / f"{number}.svg").write_text(f"<svg>{number}</svg>")
        tiff(root / "dogs" / f"{number}.tif", noise(4, 4).astype(np.float64), sample_format=3)
    found = look(root)
    (problem,) = found.problems
    assert "32 of 48 images cannot be read" in problem.reason and "--ignore" in problem.accepted
    assert reasons(found) == {
        "HEIC, which Pillow cannot decode": 16,
        "a format that Pillow cannot decode: .svg": 8,
        "TIFF of 64-bit floating-point numbers that Pillow cannot decode": 8,
    }


def test_more_than_a_hundredth_of_damage_is_refused_with_reasons(tmp_path: Path) -> None:
    root = dataset(tmp_path, count=50)
    (root / "cats" / "0.png").write_bytes(b"no image")
    assert look(root).problems == ()
    (root / "dogs" / "0.png").write_bytes(b"")
    (problem,) = look(root).problems
    assert problem.field == "dataset" and "2 of 100 images cannot be read" in problem.reason
    assert "1 × not an image: .png (cats/0.png)" in problem.reason and "1 × empty file (dogs/0.png)" in problem.reason


def test_transparent_icons_do_not_become_constant(tmp_path: Path) -> None:
    for number, name in enumerate(("circle", "square", "cross")):
        (tmp_path / name).mkdir()
        for index in range(8):
            icon = np.zeros((16, 16, 4), dtype=np.uint8)
            icon[..., 3] = noise(16, 16, seed=100 * number + index)
            Image.fromarray(icon).save(tmp_path / name / f"{index}.png")
    found = look(tmp_path)
    assert found.problems == () and found.constant.count == 0 and found.channels == 1
    assert "transparent pixels replaced by white: 24 of 24 images" in found.notes[0]
    black = look(tmp_path, background="black")
    assert black.constant.count == 24 and "same single colour" in black.problems[0].reason


@pytest.mark.parametrize(
    ("make", "kind", "expected"),
    [
        (lambda seed: noise(16, 16, seed=seed).astype(np.uint16) * 16, "integers", (0, 4095)),
        (lambda seed: noise(16, 16, seed=seed).astype(np.uint16), "integers", (0, 255)),
        (lambda seed: noise(16, 16, seed=seed).astype(np.uint16) + 30_000, "integers", (30_000, 30_255)),
        (lambda seed: noise(16, 16, seed=seed).astype(np.int32) - 100, "integers", (-100, 155)),
        (lambda seed: noise(16, 16, seed=seed).astype(np.float32) / 255, "floats", (0, 1)),
        (lambda seed: noise(16, 16, seed=seed).astype(np.float32), "floats", (0, 255)),
    ],
)
def test_deep_images_are_scaled_from_the_range_of_them_all(
    tmp_path: Path, make: Any, kind: str, expected: tuple[float, float]
) -> None:
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for index in range(8):
            values = make(8 * label + index)
            low = values.min()
            if index:  # the range is that of all images, and of none alone
                values = ((values - low) // 2 if values.dtype.kind != "f" else (values - low) / 2) + low
            Image.fromarray(values).save(tmp_path / name / f"{index}.tif")
    found = look(tmp_path)
    assert getattr(found.decoding, kind) == pytest.approx(expected) and found.channels == 1
    assert any("scaled from" in note for note in found.notes) and not found.problems
    pixels = decode(tmp_path / "dark" / "0.tif", found.decoding)
    assert pixels.min() <= 2 and pixels.max() >= 250
    half = decode(tmp_path / "dark" / "1.tif", found.decoding)
    assert 100 < half.max() < 140, "images stay comparable"


def test_the_range_is_the_stated_one(tmp_path: Path) -> None:
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for index in range(8):
            values = noise(16, 16, seed=8 * label + index).astype(np.uint16)
            tiff(tmp_path / name / f"{index}.tif", values, (281, 3, 1023))
    assert look(tmp_path).decoding.integers == (0, 1023)


def test_one_bright_pixel_that_leaves_few_shades_is_warned_of(tmp_path: Path) -> None:
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for index in range(8):
            values = noise(16, 16, seed=8 * label + index).astype(np.uint16)
            values[0, 0] = 65535 if (label, index) == (0, 0) else 0
            Image.fromarray(values).save(tmp_path / name / f"{index}.png")
    assert warned(look(tmp_path), "fewer than 16 of 256 shades, as all are scaled from 0 … 65535: 15 of 16 images")


def test_what_was_done_to_the_pixels_is_said(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(16, 30, 3)).save(root / "cats" / "turned.jpg", exif=exif)
    frames = [Image.fromarray(noise(16, 16, seed=seed)) for seed in (1, 2)]
    frames[0].save(root / "cats" / "film.gif", save_all=True, append_images=frames[1:])
    found = look(root)
    assert found.orientations == {"1": 17, "6": 1} and "16×30" in found.sizes
    assert "turned upright, as the orientation tag says: 1 of 18 images (cats/turned.jpg)" in found.notes
    assert "only the first of several images in the file used: 1 of 18 images (cats/film.gif)" in found.notes


def test_the_same_images_for_training_and_the_test_are_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path, "train")
    shutil.copytree(root / "train", root / "test")
    problem = look(root).problems[0]
    assert problem.field == "data.test" and "each of its 16 images is in another part too" in problem.reason


def test_a_smaller_overlap_is_left_out_of_training(tmp_path: Path) -> None:
    root = dataset(tmp_path, "train", "val", "test", count=12)
    with Image.open(root / "test" / "cats" / "3.png") as image:
        image.save(root / "train" / "cats" / "copy.bmp")
    shutil.copy(root / "test" / "dogs" / "1.png", root / "val" / "dogs" / "copy.png")
    found = look(root)
    assert found.problems == () and found.images == 72
    assert {file.path for file in found.files}.isdisjoint({"train/cats/copy.bmp", "val/dogs/copy.png"})
    assert reasons(found) == {
        f"for {part}, with the same pixels as an image for test": 1 for part in ("train", "validation")
    }
    assert found.duplicates["across parts"].count == 2
    assert warned(found, "left out, as held-out images have the same pixels: 2 images")


def test_duplicates_are_counted_by_decoded_pixels(tmp_path: Path) -> None:
    root = dataset(tmp_path, size=(32, 32))
    with Image.open(root / "cats" / "0.png") as image:
        image.save(root / "cats" / "copy.webp", lossless=True)
        image.save(root / "dogs" / "copy.tif")
    found = look(root)
    assert found.duplicates["within parts"].count == 1 and found.duplicates["across classes"].count == 1
    assert found.duplicates["within parts"].examples == (("cats/0.png", "cats/copy.webp", "dogs/copy.tif"),)
    assert found.pixels["cats/0.png"] == found.pixels["cats/copy.webp"] == found.pixels["dogs/copy.tif"]
    assert warned(found, "the same pixels in more than one class: 3 of 18 images")


def test_nearly_identical_images_are_counted(tmp_path: Path) -> None:
    root = dataset(tmp_path, size=(32, 32))
    with Image.open(root / "cats" / "0.png") as image:
        image.save(root / "cats" / "again.jpg", quality=95)
    found = look(root)
    assert found.nearly_identical["within parts"].examples == (("cats/0.png", "cats/again.jpg"),)
    assert warned(found, "nearly identical more than once: 2 of 17 images (cats/0.png, cats/again.jpg)")


def test_a_held_out_image_that_was_saved_anew_for_training_is_told_of_beside_its_copies(tmp_path: Path) -> None:
    root = dataset(tmp_path, "train", "test", size=(32, 32))
    with Image.open(root / "test" / "cats" / "0.png") as image:
        image.save(root / "train" / "cats" / "z.bmp")
        image.save(root / "train" / "cats" / "z.jpg", quality=95)
    found = look(root)
    alike = ("test/cats/0.png", "train/cats/z.bmp", "train/cats/z.jpg")
    assert found.nearly_identical["across parts"].examples == (alike,)
    assert warned(found, "nearly identical in more than one part: 3 of 34 images")


def test_classes_with_the_same_images_are_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path, classes=("cats", "dogs"))
    shutil.copytree(root / "cats", root / "felines")
    (problem,) = look(root).problems
    assert "classes 'cats' and 'felines' hold the same images" in problem.reason


def test_images_of_a_single_colour_are_refused_or_counted(tmp_path: Path) -> None:
    root = dataset(tmp_path / "some")
    Image.new("RGB", (16, 16), "red").save(root / "cats" / "red.png")
    found = look(root)
    assert found.problems == () and found.constant.examples == (("cats/red.png",),)
    for label, name in enumerate(("cats", "dogs")):
        for where, grey in (("all", 7), ("two", 100 * label)):
            (tmp_path / where / name).mkdir(parents=True)
            for index in range(8):
                Image.new("L", (16, 16 + index), grey).save(tmp_path / where / name / f"{index}.png")
    (problem,) = look(tmp_path / "all").problems
    assert "all images are of the same single colour" in problem.reason
    two = look(tmp_path / "two")
    assert two.problems == () and warned(two, "of a single colour: 16 of 16 images")


def test_strong_imbalance_is_warned_of(tmp_path: Path) -> None:
    root = dataset(tmp_path, classes=("cats",), count=80)
    images(root / "dogs", 8)
    assert warned(look(root), "80 images of 'cats', 8 of 'dogs'; always answering 'cats' would be right for 90.9%")


def test_a_part_that_lacks_a_class_is_warned_of_or_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path, "train", "test", classes=("cats", "dogs", "fish"))
    shutil.rmtree(root / "test" / "fish")
    found = look(root)
    assert found.problems == () and warned(found, "no images for test of 'fish': its accuracy covers 2 of 3 classes")
    shutil.rmtree(root / "test" / "dogs")
    (problem,) = look(root).problems
    assert problem.field == "data.test" and "images of one class only, 'cats'" in problem.reason


def test_all_classes_with_too_few_images_are_named(tmp_path: Path) -> None:
    root = dataset(tmp_path, classes=("a", "b", "c"), count=3)
    images(root / "d", 8)
    (problem,) = look(root).problems
    assert problem.reason == "class 'a' has 3 images, class 'b' has 3 images, class 'c' has 3 images"


def test_of_many_images_some_are_decoded_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = dataset(tmp_path, count=40, size=(4, 4))
    monkeypatch.setattr("nas_core.data.examination.MOST_EXAMINED", 30)
    first, second = look(root), look(root)
    assert first == second and first.examined == len(first.pixels) == 30
    assert first.images == 80 and "decoded for this report: 30 of 80 images" in first.notes
    monkeypatch.setattr("nas_core.data.examination.MOST_EXAMINED", 10**6)
    monkeypatch.setattr("nas_core.data.examination.MOST_PIXELS", 0)
    assert 0 < look(dataset(tmp_path, count=300, size=(4, 4))).examined < 600


def test_the_fingerprint_tells_names_sizes_and_contents(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    before = look(root).fingerprint
    file = root / "cats" / "0.png"
    os.utime(file)
    assert look(root).fingerprint == before
    content = file.read_bytes()
    file.rename(root / "cats" / "zero.png")
    assert look(root).fingerprint != before
    (root / "cats" / "zero.png").rename(file)
    assert look(root).fingerprint == before
    other = bytearray(content)
    other[-5] ^= 1
    file.write_bytes(other)
    assert look(root).fingerprint != before


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    inspect(str(dataset(tmp_path)), anywhere=True, progress=lambda *one: told.append(one))
    assert told[-1] == ("looking at images", 16, 16) and told[0][0] == "listing"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        *(("", "no dataset named"), ("a\0b", "no dataset named"), ("nowhere/at/all", "no such folder")),
        *(("cifar11", "no such folder"), ("n" * 300, "no such folder"), ("~nobody-here/x", "no such folder")),
    ],
)
def test_where_there_is_nothing_to_look_at_it_is_refused(given: str, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason) as refused:
        inspect(given, anywhere=True)
    assert refused.value.field == "dataset"


def test_a_name_without_a_separator_is_a_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path / "plain")
    monkeypatch.chdir(tmp_path)
    assert inspect("plain", anywhere=True).path == str(tmp_path / "plain")
    monkeypatch.chdir(tmp_path / "plain")
    assert inspect(".", anywhere=True).path == str(tmp_path / "plain")
    with pytest.raises(InvalidValue, match="no such dataset"):
        inspect(".", (str(tmp_path / "other"),))


def test_datasets_with_names_are_described_and_shown(tmp_path: Path) -> None:
    found = inspect("digits")
    assert (found.class_names, found.channels, found.image_size) == (tuple("0123456789"), 1, 8)
    assert found.images == 1797 and json.dumps(found.to_dict())
    with Image.open(io.BytesIO(found.contact_sheet())) as sheet:
        assert sheet.size[1] > 600


@pytest.mark.parametrize(
    "option", [{"train": "."}, {"test": "held"}, {"validation": "v"}, {"ignore": ("*.gif",)}, {"background": "black"}]
)
def test_options_of_folders_are_refused_for_a_dataset_with_a_name(option: dict[str, Any]) -> None:
    (problem,) = inspect("digits", options=DataOptions(**option)).problems
    assert problem.field == f"data.{next(iter(option))}" and "digits" in problem.reason


def test_the_contact_sheet_shows_what_the_network_sees(tmp_path: Path) -> None:
    for index, (name, colour) in enumerate((("blue", (0, 0, 255)), ("red", (255, 0, 0)))):
        (tmp_path / name).mkdir()
        for number in range(8):
            pixels = np.full((8, 8, 3), colour, dtype=np.uint8)
            pixels[number, index] = 0
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    with Image.open(io.BytesIO(look(tmp_path).contact_sheet())) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    row = (pixels == (255, 0, 0)).all(2).any(1)
    assert row.any() and ((pixels == (0, 0, 255)).all(2).any(1) & row).sum() == 0, "a row for each class"
    (columns,) = np.nonzero((pixels == (255, 0, 0)).all(2).any(0))
    assert columns.max() - columns.min() > 7 * 64, "small images are enlarged"


def test_many_classes_are_counted_on_the_contact_sheet(tmp_path: Path) -> None:
    found = look(dataset(tmp_path, classes=tuple(f"class {number:02}" for number in range(14)), count=8))
    with Image.open(io.BytesIO(found.contact_sheet())) as sheet:
        assert sheet.size[1] < 12 * 70


def test_reasons_do_not_multiply_with_the_names_of_files(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    for number in range(60):
        (root / "cats" / f"frame.{number:06}").write_bytes(b"raw")
        (root / f".cache{number}").mkdir()
        (root / f".cache{number}" / "1.png").write_bytes(b"raw")
    found = look(root)
    assert found.problems == () and len(found.left_out) <= 31 and sum(one.count for one in found.left_out) == 120
    assert reasons(found)["not an image: no known suffix"] == 60


def test_sizes_beyond_the_most_frequent_are_counted_together(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    for width in range(17, 47):
        Image.fromarray(noise(16, width, 3)).save(root / "cats" / f"{width}.png")
    sizes = look(root).sizes
    assert len(sizes) == 21 and sizes["16×16"] == 16 and sizes["other"] == 11
