"""A few images of each class of the datasets that have a name, and what the classes are called, without torch."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas_core.data.contact_sheet import MOST_IMAGES, MOST_ROWS, Row
from nas_core.data.datasets import LAYOUTS, DatasetInfo
from nas_core.data.decoding import Bytes, Decoding, decode, fitted
from nas_core.data.pickles import unpickle

_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_NUMBERED = ("digits", "mnist", "svhn")
_FEW = 2000
"""Images of an array that are looked at for some of each class."""

Sample = tuple[int | str, Bytes | Path]
"""An image, (H, W) or (H, W, 3) or a file, and its label or the name of its class."""


def class_names(info: DatasetInfo) -> tuple[str, ...]:
    """The names of the classes, as far as they are known without reading the dataset."""
    return tuple(map(str, range(10))) if info.name in _NUMBERED else _NAMES.get(info.name, ())


def rows(info: DatasetInfo, decoding: Decoding) -> list[Row]:
    """The rows of a contact sheet: images of the first classes, as the network sees them.

    Raises whatever its files make a reader raise.
    """
    chosen: dict[int | str, list[Bytes]] = {}
    for label, image in _samples(info):
        known = chosen.setdefault(label, []) if len(chosen) < MOST_ROWS or label in chosen else None
        if known is not None and len(known) < MOST_IMAGES:
            known.append(decode(image, decoding) if isinstance(image, Path) else _fitted(image, decoding))
        if len(chosen) == MOST_ROWS and all(len(some) == MOST_IMAGES for some in chosen.values()):
            break
    names = class_names(info)

    def named(label: int | str) -> str:
        return label if isinstance(label, str) else names[label] if label < len(names) else f"class {label}"

    return [(named(label), "", chosen[label]) for label in sorted(chosen, key=lambda one: (str(type(one)), one))]


def _fitted(pixels: Bytes, decoding: Decoding) -> Bytes:
    return fitted(Image.fromarray(pixels), decoding)


def _samples(info: DatasetInfo) -> Iterable[Sample]:
    root = Path(info.path or "")
    if info.kind == "digits":
        return _digits()
    if info.kind == "cifar":
        return _cifar(root / LAYOUTS[info.name].files[0], b"labels" if info.name == "cifar10" else b"fine_labels")
    files = LAYOUTS[info.name].files
    if files[0].endswith("-ubyte"):
        return zip(_idx(root / files[1]).tolist(), _idx(root / files[0]), strict=True)
    return _READERS[info.name](root)


def _digits() -> Iterator[Sample]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    yield from zip(bunch.target.tolist(), (bunch.images * (255 / 16)).round().astype(np.uint8), strict=True)


def _cifar(file: Path, labels: bytes) -> Iterator[Sample]:
    batch = unpickle(file)
    pixels = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    yield from zip(batch[labels], np.ascontiguousarray(pixels), strict=True)


def _idx(file: Path) -> Bytes:
    """The start of a file of MNIST's format: two zeros, the type, the number of axes, their lengths, bytes."""
    with file.open("rb") as stream:
        axes = stream.read(4)[3]
        lengths = struct.unpack(f">{axes}I", stream.read(4 * axes))
        few = min(lengths[0], _FEW)
        size = int(np.prod(lengths[1:], dtype=np.int64))
        return np.frombuffer(stream.read(few * size), dtype=np.uint8).reshape(few, *lengths[1:])


def _svhn(root: Path) -> Iterator[Sample]:
    from scipy.io import loadmat

    read = loadmat(root / "train_32x32.mat")
    for number in range(min(_FEW, read["X"].shape[3])):
        yield int(read["y"][number, 0]) % 10, np.ascontiguousarray(read["X"][..., number])


def _stl10(root: Path) -> Iterator[Sample]:
    folder = root / "stl10_binary"
    pixels = np.fromfile(folder / "train_X.bin", np.uint8, _FEW * 3 * 96 * 96).reshape(-1, 3, 96, 96)
    labels = np.fromfile(folder / "train_y.bin", np.uint8, len(pixels))
    for label, image in zip(labels.tolist(), pixels, strict=True):
        yield label - 1, np.ascontiguousarray(image.transpose(2, 1, 0))


def _flowers(root: Path) -> Iterator[Sample]:
    from scipy.io import loadmat

    folder = root / "flowers-102"
    labels = loadmat(folder / "imagelabels.mat")["labels"][0]
    for number in loadmat(folder / "setid.mat")["trnid"][0].tolist():
        yield int(labels[number - 1]) - 1, folder / "jpg" / f"image_{number:05}.jpg"


def _food(root: Path) -> Iterator[Sample]:
    read: dict[str, Any] = json.loads((root / "food-101/meta/train.json").read_text())
    for name in sorted(read):
        for one in read[name][:MOST_IMAGES]:
            yield name.replace("_", " "), root / "food-101/images" / f"{one}.jpg"


def _pets(root: Path) -> Iterator[Sample]:
    for line in (root / "oxford-iiit-pet/annotations/trainval.txt").read_text().splitlines():
        name = line.split(" ")[0]
        yield name.rpartition("_")[0].replace("_", " "), root / "oxford-iiit-pet/images" / f"{name}.jpg"


def _textures(root: Path) -> Iterator[Sample]:
    for line in (root / "dtd/dtd/labels/train1.txt").read_text().split():
        yield line.partition("/")[0], root / "dtd/dtd/images" / line


def _in_folders(path: str) -> Callable[[Path], Iterator[Sample]]:
    def read(root: Path) -> Iterator[Sample]:
        for folder in sorted(one for one in (root / path).iterdir() if one.is_dir()):
            for file in islice(sorted(one for one in folder.iterdir() if one.suffix != ".csv"), MOST_IMAGES):
                yield folder.name, file

    return read


_READERS: dict[str, Callable[[Path], Iterable[Sample]]] = {
    "svhn": _svhn,
    "stl10": _stl10,
    "flowers102": _flowers,
    "food101": _food,
    "oxford_pets": _pets,
    "dtd": _textures,
    "eurosat": _in_folders("eurosat/2750"),
    "gtsrb": _in_folders("gtsrb/GTSRB/Training"),
}
