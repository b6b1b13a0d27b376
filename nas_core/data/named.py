"""Datasets with a name, as they come: arrays of bytes, or files with their labels."""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_core.data.datasets import LAYOUTS, UNREADABLE_SHARE, DatasetInfo
from nas_core.data.decoding import Decoding
from nas_core.data.images import FileImages
from nas_core.data.layout import EXAMPLES, readable
from nas_core.data.pickles import unpickle
from nas_core.data.snapshot import look_at, shared
from nas_core.errors import InvalidValue


@dataclass(frozen=True)
class Named:
    """What there is of a dataset; `test` marks the images that are held out, if the dataset holds any out.

    `images` are bytes (N, C, H, W) as they come, or in files.

    `keys` are digests of the images as they come and, of those in files, `views` of what the network sees; `damaged`
    are the files that are left out, and why.
    """

    images: Tensor | FileImages
    labels: Tensor
    test: Tensor | None
    class_names: tuple[str, ...]
    keys: list[str]
    views: Sequence[str] = ()
    damaged: tuple[tuple[str, str], ...] = ()


def _digits(info: DatasetInfo, decoding: Decoding) -> Named:
    # As `sklearn.datasets.load_digits` reads it, which takes ten times as long to import as to read.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = torch.from_numpy(np.loadtxt(str(file), delimiter=","))
    pixels = (table[:, :-1] * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = table[:, -1].long()
    return Named(pixels, labels, None, tuple(map(str, range(10))), digests(pixels))


def _cifar(info: DatasetInfo, decoding: Decoding) -> Named:
    """CIFAR's own pickled batches."""
    folder = Path(info.path or ".") / Path(LAYOUTS[info.name].files[0]).parent
    label_key, names_key, names_file = (b"labels", b"label_names", "batches.meta")
    if info.name == "cifar100":
        label_key, names_key, names_file = (b"fine_labels", b"fine_label_names", "meta")
    pixels, labels, test = [], [], []
    with _reading(info.name):
        for file in (Path(file).name for file in LAYOUTS[info.name].files):
            batch = unpickle(folder / file)
            pixels.append(torch.from_numpy(np.asarray(batch[b"data"], dtype=np.uint8)).view(-1, 3, 32, 32))
            labels.append(torch.tensor(batch[label_key]))
            test.append(torch.full((len(labels[-1]),), file.startswith("test")))
        meta = unpickle(folder / names_file) if (folder / names_file).exists() else {names_key: []}
        names = tuple(name.decode() for name in meta[names_key])
    whole = torch.cat(pixels)
    return Named(whole, torch.cat(labels), torch.cat(test), names, digests(whole))


def _torchvision(info: DatasetInfo, decoding: Decoding) -> Named:
    """A dataset as torchvision's class reads it: arrays, or files with their labels."""
    from torchvision import datasets

    layout = LAYOUTS[info.name]
    reader = getattr(datasets, layout.reader)
    arguments = [*layout.train, *([] if layout.test is None else [layout.test])]
    # With Path to load an image, an item is its file and its label.
    loader = {"loader": Path} if "loader" in inspect.signature(reader).parameters else {}
    with _reading(info.name):
        read = [reader(info.path, **given, **loader) for given in arguments]
        names = {tuple(getattr(part, "classes", ())) for part in read}
        if len(names) > 1:
            raise InvalidValue("dataset", info.name, "its parts differ in their classes", "images of every class")
        held_out = [torch.full((len(part),), given is layout.test) for part, given in zip(read, arguments, strict=True)]
        test = None if layout.test is None else torch.cat(held_out)
        arrays = hasattr(read[0], "data")
        if arrays:
            pixels = torch.cat([torch.as_tensor(np.ascontiguousarray(part.data)) for part in read])
            labels = torch.cat([torch.as_tensor(_labels(part)).long() for part in read])
        else:
            listed = [(Path(file), label) for part in read for file, label in _files(part)]
    if not arrays:
        return _from_files(info, listed, test, names.pop(), decoding)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels
    return Named(pixels, labels, test, names.pop(), digests(pixels))


def _labels(dataset: Any) -> Any:
    return dataset.targets if hasattr(dataset, "targets") else dataset.labels


def _files(dataset: Any) -> list[tuple[Path, int]]:
    """The image files of one of torchvision's datasets, with their labels."""
    # These two take no loader, and open the image themselves.
    if type(dataset).__name__ == "OxfordIIITPet":
        return list(zip(dataset._images, dataset._labels, strict=True))
    if type(dataset).__name__ == "GTSRB":
        return list(dataset._samples)
    return [dataset[i] for i in range(len(dataset))]


def _from_files(
    info: DatasetInfo,
    listed: Sequence[tuple[Path, int]],
    test: Tensor | None,
    names: tuple[str, ...],
    decoding: Decoding,
) -> Named:
    """The images in the `listed` files that can be read, with their labels.

    Raises `InvalidValue` where more than `UNREADABLE_SHARE` of them cannot be, and `ReadFailed`.
    """
    looked = shared(partial(look_at, decoding), [file for file, _ in listed])
    damaged = tuple(
        (os.path.relpath(file, info.path), found.told)
        for (file, _), found in zip(listed, looked, strict=True)
        if isinstance(found.told, str)
    )
    if len(damaged) > UNREADABLE_SHARE * len(listed):
        first = "; ".join(f"{readable(path)}: {reason}" for path, reason in damaged[:EXAMPLES])
        reason = f"{len(damaged)} of {len(listed)} images cannot be read: {first}"
        raise InvalidValue("dataset", info.name, reason, f"at most {UNREADABLE_SHARE:.0%} that cannot be read")
    told = {number: found.told for number, found in enumerate(looked) if not isinstance(found.told, str)}
    sound = list(told)
    files = FileImages([listed[number][0] for number in sound], decoding, [looked[number].digest for number in sound])
    labels = torch.tensor([listed[number][1] for number in sound])
    keys, views = ([one[which] for one in told.values()] for which in (0, 1))
    return Named(files, labels, None if test is None else test[sound], names, keys, views, damaged)


@contextmanager
def _reading(dataset: str) -> Iterator[None]:
    """Damaged files make their readers raise anything; to a user it is one thing, a `ValueError`."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"the files of {dataset!r} cannot be read: {error}") from error


def fit(images: Tensor, channels: int, size: int | None = None) -> Tensor:
    """Bytes (N, C, H, W) with the asked number of channels and, unless that is None, size."""
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1:
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    if size is not None and images.shape[2] != size:
        scaled = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        images = scaled.round().clamp(0, 255).to(torch.uint8)
    return images.contiguous()


READERS: dict[str, Callable[[DatasetInfo, Decoding], Named]] = {
    "digits": _digits,
    "cifar": _cifar,
    "torchvision": _torchvision,
}
"""What reads a dataset of each kind, for a `Decoding` of its images."""


def digests(images: Tensor) -> list[str]:
    """A digest of the bytes of each of `images` (N, C, H, W)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images.numpy()]
