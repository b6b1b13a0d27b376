"""How images are varied for training: each by itself as it is read, and whole batches on the device.

All is drawn for a whole batch, or from an image's place in it, so that the workers together see what one would have
seen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nas_core.data.decoding import Box, Bytes, Choose
from nas_core.seeds import generator
from nas_core.spec import Settings

ERASED_SHARE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
"""The share of an image that is erased, and the height over the width of that (Zhong et al., arXiv 1708.04896)."""
ERASING_TRIES = 10
"""How often a rectangle is drawn until it fits into the image, as in torchvision."""


@dataclass(frozen=True)
class Vary:
    """What happens to one image while it is read: a resized crop, colour jitter, a policy, and a flip, as `Settings`
    names them.

    `crop_scale` is the least share of the image's area that a crop has, 0 for no crop.
    """

    crop_scale: float = 0.0
    colour_jitter: float = 0.0
    policy: str = "none"
    operations: int = 2
    magnitude: int = 9
    flip: bool = False

    def __call__(self, read: Callable[[Choose | None], Bytes], purpose: tuple[Any, ...]) -> Bytes:
        """What `read` gives for the part of the image that is chosen, altered; `purpose` says what is drawn."""

        def choose(width: int, height: int) -> Box:
            with seeded(*purpose, "crop"):
                drawn = _crop(self.crop_scale).make_params([torch.empty(1, height, width, device="meta")])
            top, left = drawn["top"], drawn["left"]
            return left, top, left + drawn["width"], top + drawn["height"]

        pixels = read(choose if self.crop_scale else None)
        if self.flip and torch.rand((), generator=generator(*purpose, "flip")) < 0.5:
            pixels = pixels[..., ::-1]
        if not self.colour_jitter and self.policy == "none":
            return pixels
        with seeded(*purpose, "alter"):
            altered = _alterations(self)(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
        found = np.asarray(altered)
        return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


@lru_cache(maxsize=8)
def _crop(scale: float) -> Any:
    from torchvision.transforms import v2  # it takes a while, and few need it

    return v2.RandomResizedCrop(1, (scale, 1.0))


@lru_cache(maxsize=8)
def _alterations(vary: Vary) -> Any:
    from torchvision.transforms import v2

    jitter = vary.colour_jitter
    chosen = [v2.ColorJitter(jitter, jitter, jitter)] if jitter else []
    if vary.policy == "rand_augment":
        chosen.append(v2.RandAugment(vary.operations, vary.magnitude, interpolation=v2.InterpolationMode.BILINEAR))
    elif vary.policy == "trivial_augment":
        chosen.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    return v2.Compose(chosen)


@contextmanager
def seeded(*purpose: object) -> Iterator[None]:
    """What torchvision draws in here, from the global random state of the CPU, follows from `purpose`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(*purpose).initial_seed())
        yield


class Augment:
    """Random shift by padding and cropping, flip, cutout, random erasing, mixup and cutmix of a whole batch at once,
    and how each image is varied before (`Vary`).

    Padding, cutout and erasing fill with the mean, which is zero after normalisation. `cutout` is the side of the
    square in pixels (DeVries and Taylor, arXiv 1708.04552), `erasing` a probability, `mixup` and `cutmix` are the α of
    their Beta distributions, 0 for none.
    """

    def __init__(
        self,
        padding: int,
        flip: bool,
        cutout: int = 0,
        erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        vary: Vary | None = None,
    ) -> None:
        self.padding, self.flip, self.cutout, self.erasing = padding, flip, cutout, erasing
        self.mixup, self.cutmix, self.vary = mixup, cutmix, vary

    @property
    def mixes(self) -> bool:
        """Whether each image is mixed with the one before it in the batch."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, images: Tensor, random: torch.Generator, size: int, share: slice | Tensor) -> Tensor:
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
        if self.erasing:
            erased = self._erased(random, size, height, width)[share]
            images = images.masked_fill(erased[:, None].to(images.device), 0.0)
        return images.contiguous()

    def _erased(self, random: torch.Generator, size: int, height: int, width: int) -> Tensor:
        """What is erased (size, height, width) of each image: in none with more than one rectangle."""
        chosen = torch.rand(size, 1, 1, generator=random) < self.erasing
        drawn = torch.rand(4, ERASING_TRIES, size, generator=random)
        area = height * width * (ERASED_SHARE[0] + (ERASED_SHARE[1] - ERASED_SHARE[0]) * drawn[0])
        low, high = torch.tensor(ERASED_RATIO).log()
        ratio = (low + (high - low) * drawn[1]).exp()
        tall, wide = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (tall < height) & (wide < width)
        first = fits.int().argmax(0)[None]
        tall, wide, down, across, fit = (one.gather(0, first)[0] for one in (tall, wide, *drawn[2:], fits))
        top, left = (down * (height - tall + 1)).floor(), (across * (width - wide + 1)).floor()
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        top, left, tall, wide, fit = (one[:, None, None] for one in (top, left, tall, wide, fit))
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        return inside & fit & chosen

    def mix(self, images: Tensor, labels: Tensor, classes: int, purpose: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Mix each of `images` (1 + B, C, H, W) but the first with the one before; labels become (B, classes) shares.

        All workers mix by the same proportions, or with the same rectangle, which follow from `purpose`; with both
        mixup and cutmix one of them is drawn for each batch.
        """
        from torchvision.transforms import v2

        given = [(v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)]
        ways = [way(alpha=alpha, num_classes=classes) for way, alpha in given if alpha]
        with seeded(*purpose):
            images, labels = v2.RandomChoice(ways)(images, labels)
        return images[1:].contiguous(), labels[1:]

    @classmethod
    def of(cls, settings: Settings, retraining: bool) -> "Augment":
        """The augmentation that `settings` name, of retraining or of the search; cutout is for retraining alone, as in
        the paper, and so are the strong ones unless `augment` is "always".
        """
        strong = retraining or settings.augment == "always"
        resized = settings.crop == "resized"
        vary = Vary(
            settings.crop_scale if resized else 0.0,
            settings.colour_jitter if strong else 0.0,
            settings.policy if strong else "none",
            settings.rand_augment_operations,
            settings.rand_augment_magnitude,
            resized and settings.flip,  # a process that reads anyway mirrors for less than a host that trains
        )
        return cls(
            0 if resized else settings.crop_padding,
            settings.flip and not resized,
            settings.cutout if retraining else 0,
            settings.random_erasing if strong else 0.0,
            settings.mixup if strong else 0.0,
            settings.cutmix if strong else 0.0,
            vary if vary.crop_scale or vary.colour_jitter or vary.policy != "none" else None,
        )
