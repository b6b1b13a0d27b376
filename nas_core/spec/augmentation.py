"""How the images of a training step are varied, and how those of an evaluation are cropped."""

from dataclasses import dataclass

from nas_core.spec.checks import Phase, choice, number, switch, whole

CROPS = ("shift", "resized")
"""How training images are cropped: shifted by up to `crop_padding` pixels, or a random part of the image of any size
from `crop_scale` of its area on, scaled to the network's size (Szegedy et al., arXiv 1409.4842)."""

RESIZED_FROM = 64
"""Networks of so many pixels or more get the resized crop where a request names none."""

POLICIES = ("none", "rand_augment", "trivial_augment")
"""Which alterations of colour and shape are drawn for each image: none, RandAugment's (Cubuk et al., arXiv 1909.13719)
or TrivialAugment's (Müller and Hutter, arXiv 2103.10158)."""

AUGMENT = ("retraining", "always")
"""Where what is strong applies: in retraining alone, or in the search too."""


@dataclass(frozen=True)
class AugmentationSettings(Phase):
    """How training images are varied.

    `crop` says how they are cropped (`CROPS`), in every phase, and `flip` that every other one is mirrored. With the
    resized crop, images to be judged are scaled until the shorter side has 256/224 of the network's pixels, and
    cropped at the centre. `augment` says where the strong ones apply (`AUGMENT`): `colour_jitter`, the share by
    which brightness, contrast and saturation change at most; the `policy` (`POLICIES`), for RandAugment with
    `rand_augment_operations` of `rand_augment_magnitude`; `random_erasing`, a probability; `mixup` and `cutmix`, the α
    of their Beta distributions (arXiv 1710.09412 and 1905.04899), 0 for none. Of `mixup` and `cutmix` one is drawn for
    each batch where both are given.
    """

    crop: str = choice("shift", CROPS)
    crop_padding: int = whole(4, 0)
    crop_scale: float = number(0.08, above=0, most=1)
    flip: bool = switch(True)
    augment: str = choice("retraining", AUGMENT)
    colour_jitter: float = number(0.0, most=1)
    policy: str = choice("none", POLICIES)
    rand_augment_operations: int = whole(2, 1, 10)
    rand_augment_magnitude: int = whole(9, 0, 30)
    random_erasing: float = number(0.0, most=1)
    mixup: float = number(0.0, most=100)
    cutmix: float = number(0.0, most=100)


def crop_of(size: int) -> str:
    """How training images are cropped for a network of `size` pixels a side, where nobody says."""
    return "resized" if size >= RESIZED_FROM else "shift"


def resize_of(crop: str, size: int) -> int | None:
    """The pixels of the shorter side before images are cropped to `size` about their centre, in evaluation; None where
    they are scaled to cover it. 224 are cropped from 256, as torchvision's references do."""
    return round(size * 256 / 224) if crop == "resized" else None
