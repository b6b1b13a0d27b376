"""Datasets as four parts of images on the device, and their batches.

Every dataset is split, class by class, into `weights` (trains W), `scaling` (trains λ), `validation` (the curves)
and `test` (seen once, by the retrained network). The split depends on the data alone, not on a search's seed, so
that two searches over the same data report accuracy on the same images.

Nothing here keeps a random state: the order of an epoch and the augmentation of a step are drawn from generators
seeded by what they are for, so that a search which resumes at step n sees what it would have seen. For the same reason
the images of step n + 1 are known at step n, and large datasets decode them while step n trains.

Shapes: images are (B, C, H, W); stored as bytes, given out as normalised floats.
"""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_core import parallel
from nas_core.data.datasets import LAYOUTS, UNREADABLE_SHARE, DatasetInfo, locate
from nas_core.data.decoding import Bytes, Damaged, Decoding, decode
from nas_core.data.layout import EXAMPLES, LeftOut, readable
from nas_core.data.manifest import digest
from nas_core.data.pickles import unpickle
from nas_core.data.snapshot import PARTS, SAME, Snapshot, compare, divide, look_at, patiently, shared, take, threads
from nas_core.errors import DataChanged, InvalidValue, ReadFailed
from nas_core.seeds import generator
from nas_core.spec import SearchSpec, Settings

IN_MEMORY_BYTES = 4 * 2**30
"""Image files up to this size, decoded, live on the device; more are decoded batch by batch."""
PREPARED_BATCHES = 4
"""So many batches may wait decoded: the next one of each stream of batches, and one to spare for each."""


class Images(Protocol):
    """A numbered collection of images of one size."""

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices` as bytes (n, C, H, W)."""
        ...

    def prepare(self, indices: Tensor) -> None:
        """Begin with what the next `fetch` of `indices` will ask for."""
        ...


class TensorImages:
    """Images that live on a device as one tensor of bytes (N, C, H, W)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, on the device."""
        return self.images[indices.to(self.images.device)]

    def prepare(self, indices: Tensor) -> None:
        """Everything is there already."""


class FileImages:
    """Images that are decoded from files when asked for.

    `digests` are what the files hold; what holds something else by then is not used.
    """

    def __init__(self, files: Sequence[Path], decoding: Decoding, digests: Sequence[str]) -> None:
        self.files, self.decoding, self.digests = list(files), decoding, list(digests)
        self.prepared: dict[bytes, list[Future[Bytes]]] = {}

    def __reduce__(self) -> tuple[type["FileImages"], tuple[list[Path], Decoding, list[str]]]:
        return type(self), (self.files, self.decoding, self.digests)  # what is being decoded stays behind

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices`; several are decoded at once. Raises `DataChanged` or `ReadFailed`."""
        decoding = self.prepared.pop(indices.numpy().tobytes(), None) or self._begin(indices)
        return torch.stack([torch.from_numpy(pixels.result()) for pixels in decoding])

    def prepare(self, indices: Tensor) -> None:
        """Begin to decode, in the background, what the next `fetch` of `indices` will ask for."""
        key = indices.numpy().tobytes()
        if key not in self.prepared:
            self.prepared[key] = self._begin(indices)
        while len(self.prepared) > PREPARED_BATCHES:
            for pixels in self.prepared.pop(next(iter(self.prepared))):
                pixels.cancel()

    def _begin(self, indices: Tensor) -> list[Future[Bytes]]:
        return [threads().submit(self._read, i) for i in indices.tolist()]

    def _read(self, index: int) -> Bytes:
        file = self.files[index]
        if patiently(lambda: digest(file), str(file)) != self.digests[index]:
            told = {"count": 1, "examples": [readable(str(file))]}
            raise DataChanged(f"{readable(str(file))} has changed since the search began", {"files changed": told})
        try:
            return patiently(lambda: decode(file, self.decoding), str(file))
        except Damaged as error:  # another worker has decoded it
            raise ReadFailed(f"{readable(str(file))} cannot be decoded here: {error}") from error


@dataclass(frozen=True)
class Data:
    """A loaded dataset; `parts` are the indices of each part's images in `images` and `labels`.

    `class_names` are in the order of the labels, and empty where the dataset does not tell them; `left_out` says what
    is in no part and why, and `skipped` are the files of it that cannot be read. `snapshot` has the files of an image
    folder, and `decoding` is how its images became bytes.
    """

    name: str
    classes: int
    images: Images
    labels: Tensor
    parts: dict[str, Tensor]
    fingerprint: str
    device: torch.device
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    snapshot: Snapshot | None = None
    decoding: Decoding | None = None

    @property
    def splits(self) -> dict[str, int]:
        """How many images each part holds."""
        return {part: len(indices) for part, indices in self.parts.items()}

    def counts(self) -> dict[str, list[int]]:
        """How many images of each class, in the order of the labels, each part holds."""
        return {part: self.labels[own].bincount(minlength=self.classes).tolist() for part, own in self.parts.items()}

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,), exact sums over the bytes of at most 10,000 training images."""
        sample = self.training[:: max(1, -(-len(self.training) // 10_000))]
        count, total, squares = 0, torch.zeros((), dtype=torch.long), torch.zeros((), dtype=torch.long)
        for chunk in sample.split(200):
            pixels = self.images.fetch(chunk).int()
            count += pixels[:, 0].numel()
            total = total + pixels.sum((0, 2, 3)).cpu()
            squares = squares + (pixels * pixels).sum((0, 2, 3)).cpu()
        mean = total.double() / count
        # Whole numbers: a channel that is the same everywhere has a variance of exactly zero.
        constant = squares * count == total * total
        if constant.all():
            reason = f"all images are one plain colour: {', '.join(f'{one:g}' for one in mean.tolist())} of 255"
            raise InvalidValue("dataset", self.name, reason, "images that differ from each other")
        variance = squares.double() / count - mean**2
        return mean, torch.where(constant, 1.0, variance).sqrt()

    @property
    def mean(self) -> list[float]:
        """The mean of each channel, 0 … 255, of at most 10,000 training images."""
        return self._moments[0].tolist()

    @property
    def deviation(self) -> list[float]:
        """The standard deviation of each channel, 0 … 255, of at most 10,000 training images; 1 for a channel
        that is the same everywhere, such as the blue of images without any."""
        return self._moments[1].tolist()

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        mean, deviation = (moment.view(-1, 1, 1).float().to(self.device) for moment in self._moments)
        return mean, deviation

    @cached_property
    def training(self) -> Tensor:
        """The images that retraining trains on: those of W and of λ, once each."""
        weights, scaling = self.parts["weights"], self.parts["scaling"]
        return weights if torch.equal(weights, scaling) else torch.cat([weights, scaling])

    def load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (n, C, H, W) and labels (n,) on the device, without augmentation."""
        mean, deviation = self._normalisation
        images = self.images.fetch(indices).to(self.device).float()
        return (images - mean) / deviation, self.labels[indices].to(self.device)

    def batch(
        self, indices: Tensor, step: int, batch_size: int, seed: int, purpose: str, augment: "Augment | None"
    ) -> tuple[Tensor, Tensor]:
        """This worker's share of training step `step` over `indices`, augmented.

        All workers draw the same order and the same augmentations for the whole batch of `batch_size` and take
        their slice, so that the workers together see what one worker would have seen.
        """
        size = min(batch_size, len(indices))
        share = parallel.share(size)

        def chosen(step: int) -> Tensor:
            epoch, position = divmod(step, len(indices) // size)
            order = _order(len(indices), seed, purpose, epoch)
            return indices[order[position * size : (position + 1) * size]][share]

        images, labels = self.load(chosen(step))
        self.images.prepare(chosen(step + 1))
        if augment is not None:
            images = augment(images, generator(seed, purpose, "augment", step), size, share)
        return images, labels

    def shares(self, indices: Tensor, batch_size: int = 512) -> list[Tensor]:
        """This worker's share of `indices`, in batches, for evaluation."""
        rank, workers = parallel.world()
        return list(indices[rank::workers].split(batch_size))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in `count` images; a batch is never larger than the part it comes from."""
    return count // min(batch_size, count)


@lru_cache(maxsize=8)
def _order(count: int, seed: int, purpose: str, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of `count`; every step of the epoch asks for it."""
    return torch.randperm(count, generator=generator(seed, purpose, "order", epoch))


class Augment:
    """Random shift by padding and cropping, flip, and cutout of a whole batch at once.

    Padding and cutout fill with the mean, which is zero after normalisation. `cutout` is the side of the square in
    pixels (DeVries and Taylor, arXiv 1708.04552).
    """

    def __init__(self, padding: int, flip: bool, cutout: int = 0) -> None:
        self.padding, self.flip, self.cutout = padding, flip, cutout

    def __call__(self, images: Tensor, random: torch.Generator, size: int, share: slice) -> Tensor:
        """Augment the `share` (B, C, H, W) of a batch of `size` images, drawing for the whole batch."""
        height, width = images.shape[2:]
        rows, columns = torch.arange(height), torch.arange(width)
        if self.padding:
            shift = torch.randint(0, 2 * self.padding + 1, (2, size, 1), generator=random)[:, share]
            images = F.pad(images, [self.padding] * 4)
            take = (
                torch.arange(len(images)).view(-1, 1, 1),
                (rows + shift[0])[:, :, None],
                (columns + shift[1])[:, None],
            )
            which, row, column = (index.to(images.device) for index in take)
            images = images.permute(0, 2, 3, 1)[which, row, column].permute(0, 3, 1, 2)
        if self.flip:
            flipped = torch.rand(size, 1, 1, 1, generator=random)[share] < 0.5
            images = torch.where(flipped.to(images.device), images.flip(3), images)
        if self.cutout:
            centre = torch.rand(2, size, 1, generator=random)[:, share] * torch.tensor([height, width]).view(2, 1, 1)
            half = self.cutout / 2
            away = [(axis + 0.5 - middle).abs() >= half for axis, middle in ((rows, centre[0]), (columns, centre[1]))]
            outside = away[0][:, :, None] | away[1][:, None]
            images = images * outside[:, None].to(images)
        return images.contiguous()

    @classmethod
    def of(cls, settings: Settings, retraining: bool) -> "Augment":
        """The augmentation that `settings` name; cutout is for retraining alone, as in the paper."""
        return cls(settings.crop_padding, settings.flip, settings.cutout if retraining else 0)


def load(
    spec: SearchSpec,
    roots: Sequence[str],
    device: torch.device | str,
    known: Snapshot | str | None = None,
    submitted: str | None = None,
) -> Data:
    """Load the dataset of `spec` onto `device`; a dataset with a name is looked for below `roots`.

    A search that goes on gives what is `known` from its first attempt, the snapshot of an image folder or the
    fingerprint of another dataset, and one that begins the fingerprint of the inspection when it was `submitted`, if
    there was one. Raises `DataChanged` where the data are others, `OSError` or `ValueError` where files are missing or
    damaged, or too few are left for every class.
    """
    device = torch.device(device)
    info = locate(spec.dataset, roots, anywhere=True)
    ratio = spec.settings.ratio
    weights_share = ratio / (ratio + 1) if spec.settings.split else None
    space = spec.space
    if info.kind == "folder":
        shape = (space.classes, space.channels_in, space.image_size)
        if isinstance(known, Snapshot):
            root, snapshot = compare(spec.dataset, roots, spec.data, known), known
        else:
            root, snapshot = take(spec.dataset, roots, spec.data, shape, weights_share, submitted)
        data = _of_snapshot(spec, root, snapshot, device)
    else:
        loaded = _LOADERS[info.kind](info, space.channels_in, space.image_size, device)
        data = _divided(spec, info, loaded, weights_share, device)
        if isinstance(known, str) and known != data.fingerprint:
            message = f"{spec.dataset!r} is not the dataset that the search began with"
            raise DataChanged(message, {"fingerprint": [known, data.fingerprint]})
    _check_parts(spec.dataset, data)
    if spec.workers > (fewest := min(map(len, data.parts.values()))):
        raise InvalidValue("workers", spec.workers, "more than a part of the data has images", f"at most {fewest}")
    _ = data.mean  # refuses data that are the same everywhere
    return data


def _of_snapshot(spec: SearchSpec, root: Path, snapshot: Snapshot, device: torch.device) -> Data:
    """The images of a snapshot that are in a part."""
    used = snapshot.used
    files = FileImages([root / file.path for file in used], snapshot.decoding, [file.digest for file in used])
    images: Images = files
    channels, size = snapshot.decoding.channels, snapshot.decoding.size
    if len(used) * channels * size * size <= IN_MEMORY_BYTES:
        images = TensorImages(_in_memory(files, len(used), channels, size, device))
    unused = [(file.path, file.reason) for file in snapshot.files if not file.part]
    return Data(
        spec.dataset,
        len(snapshot.class_names),
        images,
        torch.tensor([file.label for file in used], dtype=torch.long),
        _parts([file.part for file in used]),
        snapshot.fingerprint,
        device,
        class_names=snapshot.class_names,
        skipped=tuple(readable(path) for path, reason in unused if not reason.startswith(SAME)),
        left_out=(*_by_reason(unused), *snapshot.left_out),
        snapshot=snapshot,
        decoding=snapshot.decoding,
    )


def _in_memory(images: Images, count: int, channels: int, size: int, device: torch.device) -> Tensor:
    held = torch.empty((count, channels, size, size), dtype=torch.uint8, device=device)
    for chunk in torch.arange(count).split(1000):
        held[chunk] = images.fetch(chunk).to(device)
    return held


def _divided(
    spec: SearchSpec, info: DatasetInfo, loaded: "_Loaded", weights_share: float | None, device: torch.device
) -> Data:
    """A dataset with a name, divided by the pixels of its images."""
    space = spec.space
    test = [False] * len(loaded.keys) if loaded.test is None else loaded.test.tolist()
    declared = ["test" if held_out else "train" for held_out in test]
    views = loaded.views
    if isinstance(loaded.images, TensorImages):
        views = digests(loaded.images.images.cpu())
    divided = divide(loaded.keys, views, loaded.labels.tolist(), declared, weights_share)
    whole = hashlib.blake2b(loaded.labels.numpy().tobytes(), digest_size=16)
    for key, part in zip(loaded.keys, declared, strict=True):
        whole.update(f"{key} {part}".encode())
    unused = [(f"image {number}", reason) for number, (part, reason) in enumerate(divided) if not part]
    return Data(
        spec.dataset,
        info.classes,
        loaded.images,
        loaded.labels,
        _parts([part for part, _ in divided]),
        whole.hexdigest(),
        device,
        class_names=loaded.class_names,
        skipped=tuple(readable(path) for path, _ in loaded.damaged),
        left_out=(*_by_reason(unused), *_by_reason(loaded.damaged)),
        decoding=Decoding(space.channels_in, space.image_size),
    )


def _parts(names: Sequence[str]) -> dict[str, Tensor]:
    """The indices of each of `PARTS`, of images that are in the parts of these `names`."""
    listed = np.array(names)
    both = listed == "training"
    chosen = {part: (listed == part) | (both if part in ("weights", "scaling") else False) for part in PARTS}
    return {part: torch.from_numpy(np.flatnonzero(where)) for part, where in chosen.items()}


def _by_reason(unused: Sequence[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """One for each reason, of the paths and reasons of what is left out."""
    paths: dict[str, list[str]] = {}
    for path, reason in unused:
        paths.setdefault(reason, []).append(readable(path))
    return tuple(LeftOut(reason, len(some), tuple(some[:EXAMPLES])) for reason, some in paths.items())


def digests(images: Tensor) -> list[str]:
    """A digest of the bytes of each of `images` (N, C, H, W)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images.numpy()]


def split(images: Tensor, labels: Tensor, weights_share: float | None) -> dict[str, Tensor]:
    """`images` (N, C, H, W), bytes that nobody held out, divided into `PARTS` by `divide`."""
    keys = digests(images)
    divided = divide(keys, keys, labels.tolist(), ["train"] * len(keys), weights_share)
    return _parts([part for part, _ in divided])


def _check_parts(dataset: str, data: Data) -> None:
    """Raise `InvalidValue` unless all labels are of a known class and every class is trained."""
    labels, classes, names = data.labels, data.classes, data.class_names
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise InvalidValue("dataset", dataset, f"a label beyond its {classes} classes", "labels from 0")
    for part in PARTS:
        counts = labels[data.parts[part]].bincount(minlength=classes)
        if not counts.sum():
            raise InvalidValue("dataset", dataset, f"no images are left for {part}", "more images")
        if part in ("weights", "scaling") and not counts.all():
            lacking = int((counts == 0).nonzero()[0])
            name = names[lacking] if names else lacking
            reason = f"class {name!r} has too few images that differ for {part}"
            raise InvalidValue("dataset", dataset, reason, "more images")


@dataclass(frozen=True)
class _Loaded:
    """What a loader finds; `test` marks the images that are held out, if the dataset holds any out.

    `keys` are digests of the images as they come and, of those in files, `views` of what the network sees; `damaged`
    are the files that are left out, and why.
    """

    images: Images
    labels: Tensor
    test: Tensor | None
    class_names: tuple[str, ...]
    keys: list[str]
    views: Sequence[str] = ()
    damaged: tuple[tuple[str, str], ...] = ()


def _digits(info: DatasetInfo, channels: int, size: int, device: torch.device) -> _Loaded:
    # As `sklearn.datasets.load_digits` reads it, which takes ten times as long to import as to read.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = torch.from_numpy(np.loadtxt(str(file), delimiter=","))
    pixels = (table[:, :-1] * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    images = TensorImages(_fit(pixels, channels, size).to(device))
    labels = table[:, -1].long()
    return _Loaded(images, labels, None, tuple(map(str, range(10))), digests(pixels))


def _cifar(info: DatasetInfo, channels: int, size: int, device: torch.device) -> _Loaded:
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
    images = TensorImages(_fit(whole, channels, size).to(device))
    return _Loaded(images, torch.cat(labels), torch.cat(test), names, digests(whole))


def _torchvision(info: DatasetInfo, channels: int, size: int, device: torch.device) -> _Loaded:
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
        return _from_files(info, listed, test, names.pop(), channels, size, device)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels
    images = TensorImages(_fit(pixels, channels, size).to(device))
    return _Loaded(images, labels, test, names.pop(), digests(pixels))


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
    channels: int,
    size: int,
    device: torch.device,
) -> _Loaded:
    """The images in the `listed` files that can be read, with their labels.

    Raises `InvalidValue` where more than `UNREADABLE_SHARE` of them cannot be, and `ReadFailed`.
    """
    decoding = Decoding(channels, size)
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
    images: Images = files
    if len(sound) * channels * size * size <= IN_MEMORY_BYTES:
        images = TensorImages(_in_memory(files, len(sound), channels, size, device))
    labels = torch.tensor([listed[number][1] for number in sound])
    keys, views = ([one[which] for one in told.values()] for which in (0, 1))
    return _Loaded(images, labels, None if test is None else test[sound], names, keys, views, damaged)


@contextmanager
def _reading(dataset: str) -> Iterator[None]:
    """Damaged files make their readers raise anything; to a user it is one thing, a `ValueError`."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"the files of {dataset!r} cannot be read: {error}") from error


def _fit(images: Tensor, channels: int, size: int) -> Tensor:
    """Bytes (N, C, H, W) with the asked number of channels and size."""
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1:
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    if images.shape[2] != size:
        scaled = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        images = scaled.round().clamp(0, 255).to(torch.uint8)
    return images.contiguous()


_LOADERS: dict[str, Callable[[DatasetInfo, int, int, torch.device], _Loaded]] = {
    "digits": _digits,
    "cifar": _cifar,
    "torchvision": _torchvision,
}
