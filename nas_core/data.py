"""Data sets as four parts of images on the device, and their batches.

Every data set is split, class by class, into `weights` (trains W), `scaling` (trains λ), `validation` (the curves)
and `test` (seen once, by the retrained network). The split depends on the data alone, not on a search's seed, so
that two searches over the same data report accuracy on the same images.

Nothing here keeps a random state: the order of an epoch and the augmentation of a step are drawn from generators
seeded by what they are for, so that a search which resumes at step n sees what it would have seen.

Shapes: images are (B, C, H, W); stored as bytes, given out as normalised floats.
"""

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_core import parallel
from nas_core.datasets import DatasetInfo, class_folders, describe, images_below, split_folders
from nas_core.spec import SearchSpec, Settings

PARTS = ("weights", "scaling", "validation", "test")
IN_MEMORY_BYTES = 4 * 2**30
"""Image folders up to this size, decoded, live on the device; larger ones are decoded batch by batch."""


class Images(Protocol):
    """A numbered collection of images of one size."""

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices` as bytes (n, C, H, W)."""
        ...


class TensorImages:
    """Images that live on a device as one tensor of bytes (N, C, H, W)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices`, on the device."""
        return self.images[indices.to(self.images.device)]


class FileImages:
    """Images that are decoded from files when asked for, scaled and cropped to `size`×`size` pixels."""

    def __init__(self, files: Sequence[Path], channels: int, size: int) -> None:
        self.files, self.size = list(files), size
        self.mode = "L" if channels == 1 else "RGB"
        self.threads = ThreadPoolExecutor(max_workers=8)

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices`; several are decoded at once. Raises `OSError` for a file that is no image."""
        decoded = self.threads.map(self._decode, (self.files[i] for i in indices.tolist()))
        return torch.stack([torch.from_numpy(pixels) for pixels in decoded])

    def _decode(self, file: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
        from PIL import Image, ImageOps

        with Image.open(file) as image:
            fitted = ImageOps.fit(image.convert(self.mode), (self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.array(fitted, dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class Data:
    """A loaded data set; `parts` are the indices of each part's images in `images` and `labels`."""

    name: str
    classes: int
    images: Images
    labels: Tensor
    parts: dict[str, Tensor]
    fingerprint: str
    device: torch.device

    @property
    def splits(self) -> dict[str, int]:
        """How many images each part holds."""
        return {part: len(indices) for part, indices in self.parts.items()}

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation per channel (C, 1, 1) of at most 10,000 training images, in bytes."""
        sample = self.training[:: max(1, len(self.training) // 10_000)]
        pixels = [self.images.fetch(chunk).double() for chunk in sample.split(500)]
        count = sum(chunk.numel() / chunk.shape[1] for chunk in pixels)
        mean = sum((chunk.sum((0, 2, 3)) for chunk in pixels), torch.zeros(())) / count
        square = sum(((chunk - mean.view(-1, 1, 1)) ** 2).sum((0, 2, 3)) for chunk in pixels) / count
        deviation = torch.as_tensor(square).sqrt().clamp(min=1.0)
        return mean.view(-1, 1, 1).float().to(self.device), deviation.view(-1, 1, 1).float().to(self.device)

    @property
    def mean(self) -> list[float]:
        """The mean of each channel, in bytes, by which `load` normalises."""
        return self._statistics[0].flatten().tolist()

    @property
    def deviation(self) -> list[float]:
        """The deviation of each channel, in bytes, by which `load` normalises."""
        return self._statistics[1].flatten().tolist()

    @cached_property
    def training(self) -> Tensor:
        """The images that retraining trains on: those of W and of λ."""
        return torch.cat([self.parts["weights"], self.parts["scaling"]])

    def load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (n, C, H, W) and labels (n,) on the device, without augmentation."""
        mean, deviation = self._statistics
        images = self.images.fetch(indices).to(self.device, torch.float32)
        return (images - mean) / deviation, self.labels[indices].to(self.device)

    def batch(
        self, indices: Tensor, step: int, batch_size: int, seed: int, purpose: str, augment: "Augment | None"
    ) -> tuple[Tensor, Tensor]:
        """This worker's share of training step `step` over `indices`, augmented.

        All workers draw the same order and the same augmentations for the whole batch of `batch_size` and take
        their slice, so that the workers together see what one worker would have seen.
        """
        size = min(batch_size, len(indices))
        epoch, position = divmod(step, len(indices) // size)
        order = torch.randperm(len(indices), generator=generator(seed, purpose, "order", epoch))
        chosen = indices[order[position * size : (position + 1) * size]]
        share = parallel.share(size)
        images, labels = self.load(chosen[share])
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

    Raises `OSError` where files are missing or damaged.
    """
    device = torch.device(device)
    info = describe(spec.dataset, roots, anywhere=True)
    images, labels, test = _LOADERS[info.kind](info, spec.space.channels_in, spec.space.image_size, device)
    ratio = spec.settings.ratio
    parts = split(labels, test, weights_share=ratio / (ratio + 1))
    digest = hashlib.blake2b(labels.numpy().tobytes(), digest_size=16)
    for chunk in torch.arange(len(labels))[:: max(1, len(labels) // 2000)].split(200):
        digest.update(images.fetch(chunk).cpu().numpy().tobytes())
    return Data(spec.dataset, info.classes, images, labels, parts, digest.hexdigest(), device)


def split(labels: Tensor, test: Tensor | None, weights_share: float) -> dict[str, Tensor]:
    """Split images, class by class, into `PARTS`.

    `test` marks the images that the data set itself holds out; without it a fifth of every class is. A tenth of
    the rest is for validation, and W gets `weights_share` of what is left.
    """
    parts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().view(-1)
        own = own[torch.randperm(len(own), generator=generator("split", label))]
        if test is None:
            held, rest = own[: max(1, round(len(own) / 5))], own[max(1, round(len(own) / 5)) :]
        else:
            held, rest = own[test[own]], own[~test[own]]
        validation = max(1, len(rest) // 10)
        weights = validation + max(1, round((len(rest) - validation) * weights_share))
        cuts = (held, rest[validation:weights], rest[weights:], rest[:validation])
        for part, chosen in zip(("test", "weights", "scaling", "validation"), cuts, strict=True):
            parts[part].append(chosen)
    return {part: torch.cat(chosen).sort().values for part, chosen in parts.items()}


_Loaded = tuple[Images, Tensor, Tensor | None]


def _digits(info: DatasetInfo, channels: int, size: int, device: torch.device) -> _Loaded:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return TensorImages(_fit(images, channels, size).to(device)), torch.from_numpy(bunch.target).long(), None


def _cifar(info: DatasetInfo, channels: int, size: int, device: torch.device) -> _Loaded:
    """CIFAR's own pickled batches, read without executing what else a pickle may hold."""
    folder = Path(info.path or ".") / ("cifar-10-batches-py" if info.kind == "cifar10" else "cifar-100-python")
    if info.kind == "cifar10":
        names, label_key = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], b"labels"
    else:
        names, label_key = ["train", "test"], b"fine_labels"
    pixels, labels, test = [], [], []
    for name in names:
        batch = _ArraysOnly(io.BytesIO((folder / name).read_bytes()), encoding="bytes").load()
        pixels.append(torch.from_numpy(np.asarray(batch[b"data"], dtype=np.uint8)).view(-1, 3, 32, 32))
        labels.append(torch.tensor(batch[label_key]))
        test.append(torch.full((len(labels[-1]),), name.startswith("test")))
    images = _fit(torch.cat(pixels), channels, size)
    return TensorImages(images.to(device)), torch.cat(labels), torch.cat(test)


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


def _image_folder(info: DatasetInfo, channels: int, size: int, device: torch.device) -> _Loaded:
    train, held_out = split_folders(Path(info.path or "."))
    names = {folder.name: label for label, folder in enumerate(class_folders(train))}
    files: list[Path] = []
    labels: list[int] = []
    test: list[bool] = []
    for root, is_test in ((train, False), (held_out, True)):
        for name, label in names.items():
            found = sorted(images_below(root / name)) if root is not None and (root / name).is_dir() else []
            files += found
            labels += [label] * len(found)
            test += [is_test] * len(found)
    images: Images = FileImages(files, channels, size)
    if len(files) * channels * size * size <= IN_MEMORY_BYTES:
        images = TensorImages(images.fetch(torch.arange(len(files))).to(device))
    return images, torch.tensor(labels), torch.tensor(test) if held_out else None


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
    "cifar10": _cifar,
    "cifar100": _cifar,
    "folder": _image_folder,
}
