"""Which datasets there are, and what each looks like, without loading it (and without torch).

Known by name: `digits` (scikit-learn's 1,797 scans), `imagenet` (a folder of that name with `train` and `val`) and the
datasets of `LAYOUTS`, in the files that torchvision's classes read, found below one of the data roots. Anything else
is the path of an image folder, which `nas_core.data.inspection` looks into.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas_core.data.layout import seems_to_hold_classes
from nas_core.errors import InvalidValue, did_you_mean

UNREADABLE_SHARE = 0.01
"""The share of a dataset's image files that may be unreadable; they are skipped, and more are refused."""
TEST_SHARE, VALIDATION_SHARE = 1 / 5, 1 / 10
"""What is held out of a dataset that does not do so itself: of all images, and of those that the test leaves."""


MOST_LISTED = 200
"""Image folders below the data roots that are offered."""


@dataclass(frozen=True)
class Layout:
    """A dataset with a name: the class of torchvision.datasets that reads it, and what that class finds.

    `files` must be there, below a data root or below its folder of the dataset's own name. `image_size` (pixels) is
    that of the images or, where they differ, the one that they are scaled to. `train` holds the reader's arguments for
    each part that is trained on, `test` those for the part that is held out (none where the dataset holds nothing
    out). `flip` says whether a mirrored image still shows its class.
    """

    reader: str
    files: tuple[str, ...]
    classes: int
    images: int
    image_size: int
    channels: int = 3
    preset: str = "cifar10"
    train: tuple[dict[str, Any], ...] = ({"split": "train"},)
    test: dict[str, Any] | None = field(default_factory=lambda: {"split": "test"})
    flip: bool = True


def _mnist(
    reader: str, classes: int, images: int, prefixes: Sequence[str] = ("train", "t10k"), flip: bool = False, **also: Any
) -> Layout:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    files = tuple(f"{reader}/raw/{prefix}-{kind}" for prefix in prefixes for kind in kinds)
    train, test = ({"train": True} | also,), {"train": False} | also
    return Layout(reader, files, classes, images, 28, channels=1, train=train, test=test, flip=flip)


def _below(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


_CIFAR10 = _below("cifar-10-batches-py", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_STL10 = _below("stl10_binary", "train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin")
_FLOWERS102 = _below("flowers-102", "jpg", "imagelabels.mat", "setid.mat")
_FOOD101 = _below("food-101", "meta/train.json", "meta/test.json", "images")
_PETS = _below("oxford-iiit-pet", "annotations/trainval.txt", "annotations/test.txt", "images")
_DTD = _below("dtd/dtd", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt", "images")
_GTSRB = _below("gtsrb", "GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")
_TRAIN_AND_VAL = ({"split": "train"}, {"split": "val"})

LAYOUTS = {
    "cifar10": Layout("CIFAR10", _CIFAR10, 10, 60_000, 32),
    "cifar100": Layout("CIFAR100", _below("cifar-100-python", "train", "test"), 100, 60_000, 32),
    "mnist": _mnist("MNIST", 10, 70_000),
    "fashion_mnist": _mnist("FashionMNIST", 10, 70_000, flip=True),
    "kmnist": _mnist("KMNIST", 10, 70_000),
    "emnist": _mnist("EMNIST", 47, 131_600, ("emnist-balanced-train", "emnist-balanced-test"), split="balanced"),
    "svhn": Layout("SVHN", ("train_32x32.mat", "test_32x32.mat"), 10, 99_289, 32, flip=False),
    "stl10": Layout("STL10", _STL10, 10, 13_000, 96),
    "food101": Layout("Food101", _FOOD101, 101, 101_000, 224, preset="imagenet"),
    "flowers102": Layout("Flowers102", _FLOWERS102, 102, 8_189, 224, preset="imagenet", train=_TRAIN_AND_VAL),
    "oxford_pets": Layout("OxfordIIITPet", _PETS, 37, 7_349, 224, preset="imagenet", train=({"split": "trainval"},)),
    "dtd": Layout("DTD", _DTD, 47, 5_640, 224, preset="imagenet", train=_TRAIN_AND_VAL),
    "eurosat": Layout("EuroSAT", ("eurosat/2750",), 10, 27_000, 64, train=({},), test=None),
    "gtsrb": Layout("GTSRB", _GTSRB, 43, 39_270, 32, flip=False),
}
"""The datasets that torchvision's classes describe, by name."""

DATASETS = tuple(dict.fromkeys(("digits", "cifar10", "cifar100", "imagenet", *LAYOUTS)))
"""The datasets that go by a name."""

_ACCEPTED = "one of " + ", ".join(DATASETS) + ", or the path of a folder with one sub-folder of images per class"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before it is loaded.

    `path` is the folder that holds it (none for digits); `channels` and `image_size` (pixels, for a folder the shorter
    side of its first image, at most 224) describe its images; `images` counts them all; `preset` names the search space
    and schedule that suit it; `flip` says whether a mirrored image still shows its class, as far as that is known.
    """

    name: str
    kind: Literal["digits", "cifar", "torchvision", "folder"]
    path: str | None
    classes: int
    channels: int
    image_size: int
    images: int
    preset: str
    flip: bool = True


def locate(dataset: str, roots: Sequence[str] = (), anywhere: bool = False) -> DatasetInfo:
    """Find `dataset` below the `roots`, or at any path where `anywhere` is set; a folder is not looked into.

    Of a folder only its path is told. Raises `InvalidValue` for field "dataset" where there is no such dataset or it is
    outside the roots.
    """
    if not isinstance(dataset, str) or not dataset.strip() or "\0" in dataset:
        raise InvalidValue("dataset", dataset, "no dataset named", _ACCEPTED)
    if dataset == "digits":
        return DatasetInfo("digits", "digits", None, 10, 1, 8, 1797, "digits", flip=False)
    if dataset == "imagenet":
        path = Path(_root_with(dataset, ("imagenet",), roots)) / "imagenet"
    elif dataset in LAYOUTS:
        layout = LAYOUTS[dataset]
        kind: Literal["cifar", "torchvision"] = "cifar" if dataset in ("cifar10", "cifar100") else "torchvision"
        return DatasetInfo(
            dataset,
            kind,
            _root_with(dataset, layout.files, roots),
            layout.classes,
            layout.channels,
            layout.image_size,
            layout.images,
            layout.preset,
            layout.flip,
        )
    else:
        path = _allowed(dataset, roots, anywhere)
    if not os.path.isdir(path):
        raise InvalidValue("dataset", dataset, "no such folder" + did_you_mean(dataset, DATASETS), _ACCEPTED)
    return DatasetInfo(dataset, "folder", str(path), 0, 3, 0, 0, "imagenet")


def describe(dataset: str, roots: Sequence[str] = (), anywhere: bool = False) -> DatasetInfo:
    """Find out what `dataset` is, as `nas_core.data.inspection.inspect` does with no options.

    Raises `InvalidValue` where there is no such dataset, it is outside the roots, or it cannot be searched on.
    """
    from nas_core.data.inspection import inspect

    found = inspect(dataset, roots, anywhere)
    for problem in found.problems:
        raise problem
    return found.info


def at_hand(roots: Sequence[str] = ()) -> list[str]:
    """The datasets to choose from: names whose files lie below the `roots`, then image folders right below these.

    Little is looked at: `nas_core.data.inspection` says whether one can be used. Of folders there are at most
    `MOST_LISTED`.
    """
    named = ["digits"]
    for name in DATASETS:
        files = LAYOUTS[name].files if name in LAYOUTS else ("imagenet",)
        if name != "digits" and any(_holds(folder, files) for root in roots for folder in _places(root, name)):
            named.append(name)
    known = {os.path.join(root, name) for root in roots for name in named}
    below: list[str] = []
    for root in roots:
        try:
            folders = sorted(entry.path for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
        except OSError:
            continue  # a root that is away has nothing to choose from
        below += [path for path in folders if path not in known and seems_to_hold_classes(Path(path))]
    return named + below[:MOST_LISTED]


def _root_with(dataset: str, files: Sequence[str], roots: Sequence[str]) -> str:
    """The data root, or its folder of the dataset's name, that holds all `files`."""
    for root in roots:
        for folder in _places(root, dataset):
            if _holds(folder, files):
                return folder
    looked = ", ".join(roots) or "no folders: YOSO_DATA_ROOTS is not set"
    raise InvalidValue(
        "dataset", dataset, "its files were not found", f"{', '.join(files)} in one of the data roots ({looked})"
    )


def _places(root: str, dataset: str) -> tuple[str, str]:
    """Where below a root the files of a dataset with a name may lie."""
    return root, os.path.join(root, dataset)


def _holds(folder: str, files: Sequence[str]) -> bool:
    return all(os.path.exists(os.path.join(folder, file)) for file in files)


def _allowed(dataset: str, roots: Sequence[str], anywhere: bool) -> Path:
    try:
        path = Path(dataset).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle, the home of nobody
        raise InvalidValue("dataset", dataset, "no such folder" + did_you_mean(dataset, DATASETS), _ACCEPTED) from error
    if not anywhere and not any(path.is_relative_to(Path(root).resolve()) for root in roots):
        if os.sep not in dataset:
            raise InvalidValue("dataset", dataset, "no such dataset" + did_you_mean(dataset, DATASETS), _ACCEPTED)
        raise InvalidValue("dataset", dataset, "outside the data roots", "a folder below YOSO_DATA_ROOTS")
    return path
