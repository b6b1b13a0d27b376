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
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nas_core import parallel
from nas_core.data.augmentation import Augment
from nas_core.data.datasets import DatasetInfo, locate
from nas_core.data.decoding import Decoding
from nas_core.data.images import FileImages, HostImages, Images, ReadImages, TensorImages
from nas_core.data.layout import EXAMPLES, LeftOut, readable
from nas_core.data.named import READERS, Named, digests, fit
from nas_core.data.snapshot import PARTS, SAME, Snapshot, compare, divide, take
from nas_core.data.streams import Streams, Wanted
from nas_core.errors import DataChanged, InvalidValue
from nas_core.memory import free_on
from nas_core.seeds import generator
from nas_core.spec import SearchSpec
from nas_core.spec.augmentation import resize_of

IN_MEMORY_SHARE = 0.25
"""The share of a device's free memory that images may fill; the rest is for the network."""


class Kept(NamedTuple):
    """Where a dataset's images are: on a device, in a file in the host's memory ("host"), or in their own ("files").

    They have so many `bytes`, if decoded to the network's size, and there was `room` for so many on the device.
    `reason` says why they are not there.
    """

    where: str
    bytes: int
    room: int
    reason: str = ""


class Moments(NamedTuple):
    """The mean and the standard deviation of each channel, 0 … 255."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Data:
    """A loaded dataset; `parts` are the indices of each part's images in `images` and `labels`.

    `class_names` are in the order of the labels, and empty where the dataset does not tell them; `left_out` says what
    is in no part and why, and `skipped` are the files of it that cannot be read. `snapshot` has the files of an image
    folder, and `decoding` is how its images became bytes. So many `processes` read images that are not on the device
    ahead; `kept` says where they are. `moments` are those that were measured before, if they were.
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
    processes: int = 0
    kept: Kept | None = None
    moments: Moments | None = None

    @property
    def splits(self) -> dict[str, int]:
        """How many images each part holds."""
        return {part: len(indices) for part, indices in self.parts.items()}

    def file(self, image: int) -> str | None:
        """The path of an image below the dataset's folder; None where images have no files of their own."""
        return readable(self.snapshot.used[image].path) if self.snapshot is not None else None

    def counts(self) -> dict[str, list[int]]:
        """How many images of each class, in the order of the labels, each part holds."""
        return {part: self.labels[own].bincount(minlength=self.classes).tolist() for part, own in self.parts.items()}

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,), exact sums over the bytes of at most 10,000 training images."""
        if self.moments is not None:
            mean, deviation = (torch.tensor(one, dtype=torch.double) for one in self.moments)
            return mean, deviation
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

    @cached_property
    def _streams(self) -> Streams:
        """What reads images by processes: those that are on no device, and those that are varied one by one."""
        images = self.images
        if not isinstance(images, ReadImages):
            everything = images.fetch(torch.arange(len(self.labels)))
            images = HostImages(everything, Decoding(everything.shape[1], everything.shape[2]))
        return Streams(images, self.processes, pin=self.device.type == "cuda")

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, deviation = self._normalisation
        return pixels.to(self.device, non_blocking=True).float().sub_(mean).div_(deviation)

    def load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (n, C, H, W) and labels (n,) on the device, without augmentation."""
        return self._normalised(self.images.fetch(indices)), self.labels[indices].to(self.device)

    def each(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What `load` gives for each of the `batches` of indices; the next are read meanwhile."""
        if not isinstance(self.images, ReadImages):
            yield from map(self.load, batches)
            return
        for indices, parts in zip(batches, self._streams.each(batches), strict=True):
            yield self._whole(parts), self.labels[indices].to(self.device)

    def _whole(self, parts: Sequence[Tensor]) -> Tensor:
        return self._normalised(torch.cat([part.to(self.device, non_blocking=True) for part in parts]))

    def batch(
        self,
        indices: Tensor,
        step: int,
        batch_size: int,
        seed: int,
        purpose: str,
        augment: "Augment | None",
        chances: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """This worker's share of training step `step` over `indices`, augmented; labels are shares of every class
        (B, classes) where images are mixed. With `chances`, one for each of `indices`, an epoch is so many drawn by
        them, with replacement, rather than each of them once.

        All workers draw the same order and the same augmentations for the whole batch of `batch_size` and take
        their slice, so that the workers together see what one worker would have seen. Raises `DataChanged`,
        `ReadFailed`, or `LoaderDied`.
        """
        size = min(batch_size, len(indices))
        share = parallel.share(size)
        mixes = augment is not None and augment.mixes
        # An image is mixed with the one before it in the batch, which another worker may have.
        places = torch.arange(share.start - mixes, share.stop) % size

        def chosen(step: int) -> Tensor:
            epoch, position = divmod(step, len(indices) // size)
            order = _order(len(indices), seed, purpose, epoch, chances)
            return indices[order[position * size + places]]

        own = chosen(step)
        vary = augment.vary if augment is not None else None
        if vary is None and not isinstance(self.images, ReadImages):
            images, labels = self.load(own)
        else:

            def wanted(step: int) -> Wanted:
                drawn = (seed, purpose, "vary", step)
                return Wanted(tuple(chosen(step).tolist()), tuple(places.tolist()), drawn, vary)

            images = self._whole(self._streams.batch(purpose, step, wanted))
            labels = self.labels[own].to(self.device)
        if augment is not None:
            images = augment(images, generator(seed, purpose, "augment", step), size, places)
        if augment is not None and mixes:
            images, labels = augment.mix(images, labels, self.classes, (seed, purpose, "mix", step))
        return images, labels

    def close(self) -> None:
        """End the processes that read images."""
        if "_streams" in self.__dict__:
            self._streams.close()
            del self.__dict__["_streams"]

    def shares(self, indices: Tensor, batch_size: int = 512) -> list[Tensor]:
        """This worker's share of `indices`, in batches, for evaluation."""
        rank, workers = parallel.world()
        return list(indices[rank::workers].split(batch_size))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in `count` images; a batch is never larger than the part it comes from."""
    return count // min(batch_size, count)


@lru_cache(maxsize=8)
def _order(count: int, seed: int, purpose: str, epoch: int, chances: Tensor | None) -> Tensor:
    """The order of an epoch: a permutation of `count`, or so many drawn by their `chances`; every step of the epoch
    asks for it."""
    random = generator(seed, purpose, "order", epoch)
    if chances is not None:
        return chances.multinomial(count, replacement=True, generator=random)
    return torch.randperm(count, generator=random)


def load(
    spec: SearchSpec,
    roots: Sequence[str],
    device: torch.device | str,
    known: Snapshot | str | None = None,
    submitted: str | None = None,
    moments: Moments | None = None,
) -> Data:
    """Load the dataset of `spec` onto `device`; a dataset with a name is looked for below `roots`.

    A search that goes on gives what is `known` from its first attempt, the snapshot of an image folder or the
    fingerprint of another dataset, and its `moments`, which it would read thousands of images for; one that begins
    gives the fingerprint of the inspection when it was `submitted`, if there was one. Raises `DataChanged` where the
    data are others, `OSError` or `ValueError` where files are missing or damaged, or too few are left for every class.
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
            resize = resize_of(spec.settings.crop, space.image_size)
            root, snapshot = take(spec.dataset, roots, spec.data, shape, resize, weights_share, submitted)
        data = _of_snapshot(spec, root, snapshot, device)
    else:
        decoding = Decoding(space.channels_in, space.image_size, resize=resize_of(spec.settings.crop, space.image_size))
        data = _divided(spec, info, READERS[info.kind](info, decoding), decoding, weights_share, device)
        if isinstance(known, str) and known != data.fingerprint:
            message = f"{spec.dataset!r} is not the dataset that the search began with"
            raise DataChanged(message, {"fingerprint": [known, data.fingerprint]})
    _check_parts(spec.dataset, data)
    if spec.workers > (fewest := min(map(len, data.parts.values()))):
        raise InvalidValue("workers", spec.workers, "more than a part of the data has images", f"at most {fewest}")
    if known is not None and moments is not None:
        return replace(data, moments=moments)
    _ = data.mean  # refuses data that are the same everywhere
    return data


def _of_snapshot(spec: SearchSpec, root: Path, snapshot: Snapshot, device: torch.device) -> Data:
    """The images of a snapshot that are in a part."""
    used = snapshot.used
    files = FileImages([root / file.path for file in used], snapshot.decoding, [file.digest for file in used])
    images, kept = _kept(files, snapshot.decoding, device)
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
        processes=spec.cpus_per_worker,
        kept=kept,
    )


def _kept(images: Tensor | FileImages, decoding: Decoding, device: torch.device) -> tuple[Images, Kept]:
    """The images on the device, if there is room and each is always read alike; or else as files or in the host's
    memory, from where processes read them."""
    count = len(images) if isinstance(images, Tensor) else len(images.files)
    needed, room = count * decoding.channels * decoding.size**2, _room(device)
    reason = ""
    if decoding.resize is not None:
        reason = "each crop is taken from all of its pixels"
    elif needed > room:
        reason = f"more than {IN_MEMORY_SHARE:.0%} of the memory that was free on {device}"
    if reason and isinstance(images, Tensor):
        return HostImages(images, decoding), Kept("host", needed, room, reason)
    if reason and isinstance(images, FileImages):
        return images, Kept("files", needed, room, reason)
    if isinstance(images, Tensor):
        return TensorImages(images.to(device)), Kept(str(device), needed, room)
    held = torch.empty((count, decoding.channels, decoding.size, decoding.size), dtype=torch.uint8, device=device)
    for chunk in torch.arange(count).split(1000):
        held[chunk] = images.fetch(chunk).to(device)
    return TensorImages(held), Kept(str(device), needed, room)


def _room(device: torch.device) -> int:
    """The bytes that images may fill on `device`; where that is the host, its workers share its memory."""
    hosts = parallel.each(socket.gethostname())
    sharing = 1 if device.type == "cuda" else hosts.count(socket.gethostname())
    return int(free_on(device) * IN_MEMORY_SHARE / sharing)


def _divided(
    spec: SearchSpec,
    info: DatasetInfo,
    loaded: Named,
    decoding: Decoding,
    weights_share: float | None,
    device: torch.device,
) -> Data:
    """A dataset with a name, divided by the pixels of its images."""
    test = [False] * len(loaded.keys) if loaded.test is None else loaded.test.tolist()
    declared = ["test" if held_out else "train" for held_out in test]
    views = loaded.views
    if isinstance(loaded.images, Tensor):
        fitted = fit(loaded.images, decoding.channels, decoding.size)
        views = digests(fitted)
        whole_images = fitted if decoding.resize is None else fit(loaded.images, decoding.channels)
        images, kept = _kept(whole_images, decoding, device)
    else:
        images, kept = _kept(loaded.images, decoding, device)
    divided = divide(loaded.keys, views, loaded.labels.tolist(), declared, weights_share)
    whole = hashlib.blake2b(loaded.labels.numpy().tobytes(), digest_size=16)
    for key, part in zip(loaded.keys, declared, strict=True):
        whole.update(f"{key} {part}".encode())
    unused = [(f"image {number}", reason) for number, (part, reason) in enumerate(divided) if not part]
    return Data(
        spec.dataset,
        info.classes,
        images,
        loaded.labels,
        _parts([part for part, _ in divided]),
        whole.hexdigest(),
        device,
        class_names=loaded.class_names,
        skipped=tuple(readable(path) for path, _ in loaded.damaged),
        left_out=(*_by_reason(unused), *_by_reason(loaded.damaged)),
        decoding=decoding,
        processes=spec.cpus_per_worker,
        kept=kept,
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
