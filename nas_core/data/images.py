"""Where a dataset's images are: on the device, in the host's memory, or in their files.

Those on the device are given out many at once. The others are read one by one, mostly by the processes of
`nas_core.data.streams`, to which the collection goes: so what is pickled of it is small.
"""

import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_core.data.decoding import Bytes, Choose, Damaged, Decoding, decode, fitted
from nas_core.data.layout import readable
from nas_core.data.manifest import digest
from nas_core.data.snapshot import patiently, threads
from nas_core.errors import DataChanged, ReadFailed


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


class ReadImages(ABC):
    """Images that are read one by one when asked for, as `decoding` says."""

    decoding: Decoding

    @abstractmethod
    def read(self, index: int, choose: Choose | None = None) -> Bytes:
        """The image at `index`, or the part of it that `choose` names, as bytes (C, size, size). Raises as `fetch`."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls the image at `index`."""

    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices`; several are read at once. Raises `DataChanged` or `ReadFailed`."""
        return torch.stack([torch.from_numpy(pixels) for pixels in threads().map(self.read, indices.tolist())])


class FileImages(ReadImages):
    """Images that are decoded from files when asked for.

    `digests` are what the files hold; what holds something else by then is not used.
    """

    def __init__(self, files: Sequence[Path], decoding: Decoding, digests: Sequence[str]) -> None:
        self.files, self.decoding, self.digests = list(files), decoding, list(digests)

    def read(self, index: int, choose: Choose | None = None) -> Bytes:
        """The image in the file at `index`. Raises `DataChanged` or `ReadFailed`."""
        file = self.files[index]
        if patiently(lambda: digest(file), str(file)) != self.digests[index]:
            told = {"count": 1, "examples": [self.name(index)]}
            raise DataChanged(f"{self.name(index)} has changed since the search began", {"files changed": told})
        try:
            return patiently(lambda: decode(file, self.decoding, choose), str(file))
        except Damaged as error:  # another worker has decoded it
            raise ReadFailed(f"{self.name(index)} cannot be decoded here: {error}") from error

    def name(self, index: int) -> str:
        """The path of the file at `index`."""
        return readable(str(self.files[index]))


class HostImages(ReadImages):
    """Images as bytes (N, C, H, W) in a file of their own, which all processes of the host have in memory once."""

    def __init__(self, images: Tensor, decoding: Decoding) -> None:
        stream, path = tempfile.mkstemp(prefix="yoso-images-")
        weakref.finalize(self, os.unlink, path)
        with os.fdopen(stream, "wb") as file:
            for part in images.split(1024):
                file.write(part.cpu().numpy().tobytes())
        self._open(path, tuple(images.shape), decoding)

    def _open(self, path: str, shape: tuple[int, ...], decoding: Decoding) -> None:
        self.path, self.decoding = path, decoding
        self.pixels: Bytes = np.memmap(path, np.uint8, "r", shape=shape)

    def __getstate__(self) -> tuple[str, tuple[int, ...], Decoding]:
        return self.path, self.pixels.shape, self.decoding

    def __setstate__(self, state: tuple[str, tuple[int, ...], Decoding]) -> None:
        self._open(*state)

    def read(self, index: int, choose: Choose | None = None) -> Bytes:
        """The image at `index`."""
        pixels = self.pixels[index]
        if choose is None and self.decoding.resize is None:
            return np.array(pixels)
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        return fitted(image, self.decoding, choose(*image.size) if choose else None)

    def name(self, index: int) -> str:
        """Its number."""
        return f"image {index}"
