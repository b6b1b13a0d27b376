"""Which data sets there are, and what each looks like, without loading it (and without torch).

Known by name: `digits` (scikit-learn's 1,797 scans), `cifar10`, `cifar100` and `imagenet` in the folder layouts of
torchvision, found below one of the data roots. Anything with a path separator is an image folder: one sub-folder a
class, or `train` and `test` (or `val`) folders that hold these.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nas_core.errors import InvalidValue

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The file types that count as images, as in torchvision's ImageFolder."""

_LAYOUTS = {
    "cifar10": ("cifar-10-batches-py", 10, 60_000),
    "cifar100": ("cifar-100-python", 100, 60_000),
}

DATASETS = ("digits", "cifar10", "cifar100", "imagenet")
"""The data sets that go by a name."""

_ACCEPTED = "one of " + ", ".join(DATASETS) + ", or the path of a folder with one sub-folder of images per class"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded.

    `path` is the folder that holds it (none for digits); `channels` and `image_size` (pixels, the shorter side of
    the first image found for a folder) describe its images; `images` counts them all; `preset` names the search
    space and schedule that suit it.
    """

    name: str
    kind: Literal["digits", "cifar10", "cifar100", "folder"]
    path: str | None
    classes: int
    channels: int
    image_size: int
    images: int
    preset: str


def describe(dataset: str, roots: Sequence[str] = (), anywhere: bool = False) -> DatasetInfo:
    """Find out what `dataset` is, looking below the `roots` (or at any path where `anywhere` is set).

    Raises `InvalidValue` for field "dataset" where there is no such data set, it is outside the roots, or it holds
    no images.
    """
    if not isinstance(dataset, str) or not dataset.strip():
        raise InvalidValue("dataset", dataset, "no data set named", _ACCEPTED)
    if dataset == "digits":
        return DatasetInfo("digits", "digits", None, 10, 1, 8, 1797, "digits")
    if dataset in _LAYOUTS:
        layout, classes, images = _LAYOUTS[dataset]
        root = _root_with(dataset, layout, roots)
        kind: Literal["cifar10", "cifar100"] = "cifar10" if dataset == "cifar10" else "cifar100"
        return DatasetInfo(dataset, kind, root, classes, 3, 32, images, "cifar10")
    if dataset == "imagenet":
        return _folder(dataset, Path(_root_with(dataset, "imagenet", roots)) / "imagenet")
    if os.sep in dataset or (os.altsep and os.altsep in dataset):
        return _folder(dataset, _allowed(dataset, roots, anywhere))
    raise InvalidValue("dataset", dataset, "no such data set", _ACCEPTED)


def split_folders(path: Path) -> tuple[Path, Path | None]:
    """The folder of training classes and, where the layout has one, that of the test classes."""
    if (path / "train").is_dir():
        for name in ("test", "val"):
            if (path / name).is_dir():
                return path / "train", path / name
        return path / "train", None
    return path, None


def class_folders(path: Path) -> list[Path]:
    """The sub-folders that hold images of one class each, in the order that numbers the classes."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and any(True for _ in images_below(folder)))


def images_below(folder: Path) -> Iterator[Path]:
    """Every image file in `folder` and below, in no particular order."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(parent) / name


def _root_with(dataset: str, layout: str, roots: Sequence[str]) -> str:
    for root in roots:
        if (Path(root) / layout).is_dir():
            return root
    looked = ", ".join(roots) or "no folders: YOSO_DATA_ROOTS is not set"
    raise InvalidValue(
        "dataset", dataset, "its files were not found", f"a folder {layout!r} in one of the data roots ({looked})"
    )


def _allowed(dataset: str, roots: Sequence[str], anywhere: bool) -> Path:
    path = Path(dataset).expanduser().resolve()
    if not anywhere and not any(path.is_relative_to(Path(root).resolve()) for root in roots):
        raise InvalidValue("dataset", dataset, "outside the data roots", "a folder below YOSO_DATA_ROOTS")
    return path


def _folder(dataset: str, path: Path) -> DatasetInfo:
    if not path.is_dir():
        raise InvalidValue("dataset", dataset, "no such folder", _ACCEPTED)
    try:
        train, test = split_folders(path)
        classes = class_folders(train)
        counts = [sum(1 for _ in images_below(folder)) for folder in classes]
        in_test = sum(1 for _ in images_below(test)) if test else 0
    except PermissionError as error:
        raise InvalidValue("dataset", dataset, "a folder that cannot be read", "a readable folder") from error
    if len(classes) < 2:
        found = "no images in sub-folders" if not classes else "images of one class only"
        raise InvalidValue("dataset", dataset, found, "a folder with at least two sub-folders of images")
    if min(counts) < _FEWEST:
        name = classes[counts.index(min(counts))].name
        raise InvalidValue(
            "dataset", dataset, f"class {name!r} has {min(counts)} images", f"at least {_FEWEST} images per class"
        )
    from PIL import Image, UnidentifiedImageError

    first = min(images_below(classes[0]))
    try:
        with Image.open(first) as image:
            size, channels = min(image.size), 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidValue("dataset", dataset, f"{first.name} is not a readable image", "readable images") from error
    preset = "digits" if size <= 16 else "cifar10" if size <= 96 else "imagenet"
    size = min(size, 224)
    return DatasetInfo(dataset, "folder", str(path), len(classes), channels, size, sum(counts) + in_test, preset)


_FEWEST = 8
"""Images per class below which the split into four parts would leave one of them without the class."""
