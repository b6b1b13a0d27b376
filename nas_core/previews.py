"""A few images and the class names of datasets that come as arrays, read without torch."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from nas_core.contact_sheet import MOST_IMAGES, MOST_ROWS, Row
from nas_core.datasets import LAYOUTS, DatasetInfo
from nas_core.decoding import Bytes, Decoding, fitted

_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_NUMBERED = ("digits", "mnist", "svhn")


def class_names(info: DatasetInfo) -> tuple[str, ...]:
    """The names of the classes, as far as they are known without reading the dataset."""
    return tuple(map(str, range(10))) if info.name in _NUMBERED else _NAMES.get(info.name, ())


def rows(info: DatasetInfo, decoding: Decoding) -> list[Row]:
    """The rows of a contact sheet, of the datasets whose files are plain arrays; of others none."""
    read = _arrays(info)
    if read is None:
        return []
    images, labels = read
    names = class_names(info)
    made: list[Row] = []
    for label in range(min(info.classes, MOST_ROWS)):
        chosen = np.flatnonzero(labels == label)[:MOST_IMAGES]
        name = names[label] if label < len(names) else f"class {label}"
        made.append((name, "", [_fitted(images[index], decoding) for index in chosen]))
    return made


def _fitted(pixels: Bytes, decoding: Decoding) -> Bytes:
    return fitted(Image.fromarray(pixels), decoding)


def _arrays(info: DatasetInfo) -> tuple[Bytes, Bytes] | None:
    """Images (n, H, W) or (n, H, W, 3) and their labels, of the first file."""
    if info.kind == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError:  # the service's own packages do
            return None
        bunch = load_digits()
        return (bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target
    layout, root = LAYOUTS[info.name], Path(info.path or "")
    if layout.files[0].endswith("-ubyte"):
        images, labels = (_idx(root / file) for file in layout.files[:2])
        return images, labels
    return None


def _idx(file: Path) -> Bytes:
    """The start of a file of MNIST's format: two zeros, the type, the number of axes, their lengths, bytes."""
    with file.open("rb") as stream:
        axes = stream.read(4)[3]
        lengths = struct.unpack(f">{axes}I", stream.read(4 * axes))
        few = min(lengths[0], 2000)
        size = int(np.prod(lengths[1:], dtype=np.int64))
        return np.frombuffer(stream.read(few * size), dtype=np.uint8).reshape(few, *lengths[1:])
