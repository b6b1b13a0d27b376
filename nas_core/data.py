"""Data sets as four parts of images on the device, and their batches.

Every data set is split, class by class, into `weights` (trains W), `scaling` (trains λ), `validation` (the curves)
and `test` (seen once, by the retrained network). The split depends on the data alone, not on a search's seed, so
that two searches over the same data report accuracy on the same images.

Nothing here keeps a random state: the order of an epoch and the augmentation of a step are drawn from generators
seeded by what they are for, so that a search which resumes at step n sees what it would have seen. For the same reason
the images of step n + 1 are known at step n, and large data sets decode them while step n trains.

Shapes: images are (B, C, H, W); stored as bytes, given out as normalised floats.
"""

import hashlib
import inspect
import io
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_core import inspection, parallel
from nas_core.datasets import LAYOUTS, UNREADABLE_SHARE, DatasetInfo
from nas_core.decoding import Bytes, Damaged, Decoding, decode
from nas_core.errors import InvalidValue
from nas_core.inspection import Inspection
from nas_core.spec import SearchSpec, Settings

PARTS = ("weights", "scaling", "validation", "test")
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
    """Images that are decoded from files when asked for."""

    def __init__(self, files: Sequence[Path], decoding: Decoding) -> None:
        self.files, self.decoding = list(files), decoding
        self.prepared: dict[bytes, list[Future[Bytes]]] = {}

    def __reduce__(self) -> tuple[type["FileImages"], tuple[list[Path], Decoding]]:
        return type(self), (self.files, self.decoding)  # what is being decoded stays behind

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices`; several are decoded at once. Raises `Damaged` for a file that is no image."""
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
        return [_threads().submit(_decoded, self.files[i], self.decoding) for i in indices.tolist()]


def _decoded(file: Path, decoding: Decoding) -> Bytes:
    try:
        return decode(file, decoding)
    except Damaged as error:
        raise Damaged(f"{file}: {error}") from error


@cache
def _threads() -> ThreadPoolExecutor:
    """The threads that decode, started when first needed and joined when the process ends."""
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="decode")


@dataclass(frozen=True)
class Data:
    """A loaded data set; `parts` are the indices of each part's images in `images` and `labels`.

    `class_names` are in the order of the labels, and empty where the data set does not tell them; `skipped` are the
    files that could not be read. `decoding` is how its images became bytes.
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
    decoding: Decoding | None = None

    @property
    def splits(self) -> dict[str, int]:
        """How many images each part holds."""
        return {part: len(indices) for part, indices in self.parts.items()}

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
        variance = squares.double() / count - mean**2
        if variance.max() <= 0:
            raise InvalidValue(
                "dataset", self.name, "all training images are of one single colour", "images that differ"
            )
        return mean, torch.where(variance > 0, variance, 1.0).sqrt()

    @property
    def mean(self) -> list[float]:
        """The mean of each channel, 0 … 255, of at most 10,000 training images."""
        return self._moments[0].tolist()

    @property
    def deviation(self) -> list[float]:
        """The standard deviation of each channel, 0 … 255, of at most 10,000 training images; 1 where it would be 0."""
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


def generator(*purpose: object) -> torch.Generator:
    """A CPU generator whose seed is a hash of `purpose`."""
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


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


def load(spec: SearchSpec, roots: Sequence[str], device: torch.device | str) -> Data:
    """Load the data set of `spec` onto `device`; a data set with a name is looked for below `roots`.

    Raises `OSError` or `ValueError` where files are missing or damaged, or too few are left for every class.
    """
    device = torch.device(device)

    def look() -> Inspection:
        size = spec.space.image_size
        return inspection.inspect(spec.dataset, roots, anywhere=True, options=spec.data, image_size=size)

    found = parallel.first(look)
    for problem in found.problems:
        raise problem
    info, decoding = found.info, replace(found.decoding, channels=spec.space.channels_in)
    loaded = _LOADERS[info.kind](found, decoding, device)
    images, labels = loaded.images, loaded.labels
    ratio = spec.settings.ratio
    weights_share = ratio / (ratio + 1) if spec.settings.split else None
    parts = split(labels, loaded.test, weights_share, loaded.validation)
    _check_parts(spec.dataset, info.classes, labels, parts, loaded.class_names)
    if spec.workers > (fewest := min(map(len, parts.values()))):
        raise InvalidValue("workers", spec.workers, "more than a part of the data has images", f"at most {fewest}")
    digest = hashlib.blake2b(labels.numpy().tobytes(), digest_size=16)
    for chunk in torch.arange(len(labels))[:: max(1, len(labels) // 2000)].split(200):
        digest.update(images.fetch(chunk).cpu().numpy().tobytes())
    return Data(
        spec.dataset,
        info.classes,
        images,
        labels,
        parts,
        digest.hexdigest(),
        device,
        class_names=loaded.class_names,
        skipped=loaded.skipped,
        decoding=decoding,
    )


def split(
    labels: Tensor, test: Tensor | None, weights_share: float | None, validation: Tensor | None = None
) -> dict[str, Tensor]:
    """Split images, class by class, into `PARTS`.

    `test` marks the images that the data set itself holds out; without it a fifth of every class is. `validation` marks
    those that it has for validation; without it a tenth of the rest is. W gets `weights_share` of what is left, λ the
    remainder. Where `weights_share` is None, W and λ both get all of it (paper, table 3).
    """
    parts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().view(-1)
        checked = own[:0]
        if validation is not None:
            checked, own = own[validation[own]], own[~validation[own]]
        own = own[torch.randperm(len(own), generator=generator("split", label))]
        if test is None:
            held, rest = own[: max(1, round(len(own) / 5))], own[max(1, round(len(own) / 5)) :]
        else:
            held, rest = own[test[own]], own[~test[own]]
        if validation is None:
            checked, rest = rest[: max(1, len(rest) // 10)], rest[max(1, len(rest) // 10) :]
        left = rest
        if weights_share is None:
            weights = scaling = left
        else:
            cut = max(1, min(round(len(left) * weights_share), len(left) - 1))
            weights, scaling = left[:cut], left[cut:]
        cuts = (held, weights, scaling, checked)
        for part, chosen in zip(("test", "weights", "scaling", "validation"), cuts, strict=True):
            parts[part].append(chosen)
    return {part: torch.cat(chosen).sort().values for part, chosen in parts.items()}


def _check_parts(dataset: str, classes: int, labels: Tensor, parts: dict[str, Tensor], names: Sequence[str]) -> None:
    """Raise `InvalidValue` unless all labels are of a known class and every class is trained."""
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise InvalidValue("dataset", dataset, f"a label beyond its {classes} classes", "labels from 0")
    for part in PARTS:
        counts = labels[parts[part]].bincount(minlength=classes)
        if not counts.sum():
            raise InvalidValue("dataset", dataset, f"no images are left for {part}", "more images")
        if part in ("weights", "scaling") and not counts.all():
            lacking = int((counts == 0).nonzero()[0])
            name = names[lacking] if names else lacking
            raise InvalidValue("dataset", dataset, f"class {name!r} has too few images for {part}", "more images")


@dataclass(frozen=True)
class _Loaded:
    """What a loader finds; `test` and `validation` mark the images that the data set itself has for these."""

    images: Images
    labels: Tensor
    test: Tensor | None
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    validation: Tensor | None = None


def _digits(found: Inspection, decoding: Decoding, device: torch.device) -> _Loaded:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    images = TensorImages(_fit(pixels, decoding).to(device))
    return _Loaded(images, torch.from_numpy(bunch.target).long(), None, tuple(map(str, range(10))))


def _cifar(found: Inspection, decoding: Decoding, device: torch.device) -> _Loaded:
    """CIFAR's own pickled batches.

    Not by torchvision's reader: that one unpickles, which runs what a file says, and trusts an MD5 sum to forbid it.
    """
    info = found.info
    folder = Path(info.path or ".") / Path(LAYOUTS[info.name].files[0]).parent
    label_key, names_key, names_file = (b"labels", b"label_names", "batches.meta")
    if info.name == "cifar100":
        label_key, names_key, names_file = (b"fine_labels", b"fine_label_names", "meta")
    pixels, labels, test = [], [], []
    with _reading(info.name):
        for file in (Path(file).name for file in LAYOUTS[info.name].files):
            batch = _unpickle(folder / file)
            pixels.append(torch.from_numpy(np.asarray(batch[b"data"], dtype=np.uint8)).view(-1, 3, 32, 32))
            labels.append(torch.tensor(batch[label_key]))
            test.append(torch.full((len(labels[-1]),), file.startswith("test")))
        meta = _unpickle(folder / names_file) if (folder / names_file).exists() else {names_key: []}
        names = tuple(name.decode() for name in meta[names_key])
    images = TensorImages(_fit(torch.cat(pixels), decoding).to(device))
    return _Loaded(images, torch.cat(labels), torch.cat(test), names)


def _unpickle(file: Path) -> dict[bytes, Any]:
    return _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds numpy arrays and plain values and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        # CIFAR's files name numpy's modules as they were then.
        module = module.replace("numpy.core", "numpy._core")
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a CIFAR batch")


def _torchvision(found: Inspection, decoding: Decoding, device: torch.device) -> _Loaded:
    """A data set as torchvision's class reads it: arrays, or files with their labels."""
    from torchvision import datasets

    info = found.info
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
        return _from_files(info, listed, test, names.pop(), decoding, device)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels
    return _Loaded(TensorImages(_fit(pixels, decoding).to(device)), labels, test, names.pop())


def _labels(dataset: Any) -> Any:
    return dataset.targets if hasattr(dataset, "targets") else dataset.labels


def _files(dataset: Any) -> list[tuple[Path, int]]:
    """The image files of one of torchvision's data sets, with their labels."""
    # These two take no loader, and open the image themselves.
    if type(dataset).__name__ == "OxfordIIITPet":
        return list(zip(dataset._images, dataset._labels, strict=True))
    if type(dataset).__name__ == "GTSRB":
        return list(dataset._samples)
    return [dataset[i] for i in range(len(dataset))]


def _image_folder(found: Inspection, decoding: Decoding, device: torch.device) -> _Loaded:
    root, parts = Path(found.path or "."), {file.part for file in found.files}
    listed = [(root / file.path, file.label) for file in found.files]
    test, validation = (
        torch.tensor([file.part == part for file in found.files]) if part in parts else None
        for part in ("test", "validation")
    )
    looked_at = set(found.pixels)
    unsure = torch.tensor([file.path not in looked_at for file in found.files])
    loaded = _from_files(found.info, listed, test, found.class_names, decoding, device, validation, unsure)
    return replace(loaded, skipped=(*sorted(found.damaged), *loaded.skipped))


def _from_files(
    info: DatasetInfo,
    listed: Sequence[tuple[Path, int]],
    test: Tensor | None,
    names: tuple[str, ...],
    decoding: Decoding,
    device: torch.device,
    validation: Tensor | None = None,
    unsure: Tensor | None = None,
) -> _Loaded:
    """The images in the `listed` files that can be read, with their labels.

    Of those that are not `unsure` it is known that they can. Raises `OSError` where more than `UNREADABLE_SHARE` of
    them cannot be.
    """
    broken = torch.zeros(len(listed), dtype=torch.bool)
    doubtful = torch.arange(len(listed)) if unsure is None else unsure.nonzero().view(-1)
    broken[doubtful] = _unreadable([listed[i][0] for i in doubtful.tolist()], device)
    skipped = tuple(os.path.relpath(listed[i][0], info.path) for i in broken.nonzero().view(-1).tolist())
    if len(skipped) > UNREADABLE_SHARE * len(listed):
        first = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        raise OSError(
            f"{len(skipped)} of the {len(listed)} images of {info.name!r} cannot be read, and at most "
            f"{UNREADABLE_SHARE:.0%} may be skipped: {first}"
        )
    files = [file for (file, _), bad in zip(listed, broken.tolist(), strict=True) if not bad]
    labels = torch.tensor([label for _, label in listed])[~broken]
    images: Images = FileImages(files, decoding)
    channels, size = decoding.channels, decoding.size
    if len(files) * channels * size * size <= IN_MEMORY_BYTES:
        held = torch.empty((len(files), channels, size, size), dtype=torch.uint8, device=device)
        for chunk in torch.arange(len(files)).split(1000):
            held[chunk] = images.fetch(chunk).to(device)
        images = TensorImages(held)
    test, validation = (None if marked is None else marked[~broken] for marked in (test, validation))
    return _Loaded(images, labels, test, names, skipped, validation)


def _unreadable(files: Sequence[Path], device: torch.device) -> Tensor:
    """Which of `files` (n,) cannot be decoded; every worker tries its share and tells the others."""

    def fails(file: Path) -> bool:
        try:
            decode(file, Decoding(1, 1))  # the smallest size is the cheapest, and reads the whole file
        except OSError:
            return True
        return False

    rank, workers = parallel.world()
    failed = torch.zeros(len(files), device=device)
    for chunk in torch.arange(len(files))[rank::workers].split(4096):
        told = list(_threads().map(fails, (files[i] for i in chunk.tolist())))
        failed[chunk.to(device)] = torch.tensor(told, dtype=failed.dtype, device=device)
    return parallel.total(failed).cpu() > 0


@contextmanager
def _reading(dataset: str) -> Iterator[None]:
    """Damaged files make their readers raise anything; to a user it is one thing, a `ValueError`."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"the files of {dataset!r} cannot be read: {error}") from error


def _fit(images: Tensor, decoding: Decoding) -> Tensor:
    """Bytes (N, C, H, W) with the asked number of channels and size."""
    channels, size = decoding.channels, decoding.size
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1:
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    if images.shape[2] != size:
        scaled = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        images = scaled.round().clamp(0, 255).to(torch.uint8)
    return images.contiguous()


_LOADERS: dict[str, Callable[[Inspection, Decoding, torch.device], _Loaded]] = {
    "digits": _digits,
    "cifar": _cifar,
    "torchvision": _torchvision,
    "folder": _image_folder,
}
