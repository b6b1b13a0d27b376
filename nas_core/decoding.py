"""From a file to the bytes that a network sees, as a person would see the image.

An image is what Pillow recognises by its content, whatever its name. It is turned as its orientation tag says, and
transparent pixels show the background. Values of more than 8 bits are scaled by one range for the whole dataset
(`Decoding`), so that its images stay comparable. Of a file with several images the first counts.
"""

import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
"""Pixels of an image beyond which it is taken for a decompression bomb, as Pillow does."""

# What Pillow only warns of is used; what it refuses is refused here, with figures.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS

Image.init()
FORMATS = tuple(
    # The first four only recognise a file, and hand it to a program or a library that is not part of Pillow.
    one
    for one in Image.ID
    if one not in ("BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS", "TGA")
)
"""The formats that are recognised by their content."""
NAMED_FORMATS = {suffix: "TGA" for suffix, name in Image.EXTENSION.items() if name == "TGA"}
"""The suffixes of the format whose files say nothing else about what they are."""

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Values = np.ndarray[tuple[int, ...], np.dtype[Any]]
Kind = Literal["integers", "floats"]
"""What the values of an image are that are not bytes."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned for each value of the orientation tag (EXIF 2.3, table 4)."""

_large = threading.Lock()
"""Held while an image of more than 2²⁴ pixels is decoded: one at a time, so that memory is bounded."""


@dataclass(frozen=True)
class Decoding:
    """How every image of a dataset is decoded: to `channels` (1 or 3) by `size` by `size` bytes.

    Transparent pixels show `background`. Values of 16 or 32 bits are scaled from the range `integers` to 0 … 255,
    floating-point values from `floats`; what is outside is clipped.
    """

    channels: int
    size: int
    background: str = "white"
    integers: tuple[float, float] = (0.0, 65535.0)
    floats: tuple[float, float] = (0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """The decoding as JSON values."""
        return asdict(self) | {"integers": list(self.integers), "floats": list(self.floats)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The decoding that `to_dict` described."""
        low_high = {kind: (float(values[kind][0]), float(values[kind][1])) for kind in ("integers", "floats")}
        return cls(**{**values, **low_high})


class Damaged(OSError):
    """A file that holds no image that can be used. The text says why, in the same words for all files of the kind."""


def decode(file: Path | str, decoding: Decoding) -> Bytes:
    """The image in `file` as bytes (channels, size, size).

    It is scaled until it covers the square, and cropped about its centre, as `PIL.ImageOps.fit` does. Raises `Damaged`
    where the file holds no whole image.
    """
    size = decoding.size
    with opened(file) as image:
        # A JPEG decoder can give a half, a quarter or an eighth for less; twice the size leaves the filter its work.
        image.draft(None, (2 * size, 2 * size))
        coloured = shown(image, file, decoding).convert("L" if decoding.channels == 1 else "RGB")
        pixels = np.array(ImageOps.fit(coloured, (size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    return pixels[None] if decoding.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def opened(file: Path | str) -> Iterator[Image.Image]:
    """The image in `file`, whose pixels are not decoded yet.

    Whatever Pillow stumbles on, here or while the image is used, is raised as `Damaged`.
    """
    kind = "image"
    try:
        with _regular(file) as stream, Image.open(stream, formats=_formats(file)) as image:
            kind = image.format or kind
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Damaged(f"decompression bomb: {width:,}×{height:,} pixels, at most {MOST_PIXELS:,}")
            with _large if width * height > 2**24 else nullcontext():
                yield image
    except Damaged:
        raise
    except Exception as error:
        raise Damaged(_reason(error, kind, Path(file).suffix)) from error


@contextmanager
def _regular(file: Path | str) -> Iterator[Any]:
    """The open file, unless it is a pipe, a socket or a device, which are never read."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise Damaged("not a regular file")
        yield stream


def _formats(file: Path | str) -> tuple[str, ...]:
    named = NAMED_FORMATS.get(os.path.splitext(file)[1].lower())
    return (*FORMATS, named) if named else FORMATS


def _reason(error: Exception, kind: str, suffix: str) -> str:
    """Why a file cannot be used, without what differs from file to file."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image: {suffix.lower() or 'no suffix'}"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"decompression bomb: at most {MOST_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return f"{kind} that needs more memory than there is"
    if isinstance(error, OSError) and error.errno is not None:
        return (error.strerror or str(error)).lower()
    told = re.sub(r"[^A-Za-z ,.:'-]+", "…", str(error))[:100]
    truncated = "truncat" in told.lower() or isinstance(error, EOFError)
    return f"truncated {kind}" if truncated else f"damaged {kind}: {told or type(error).__name__}"


def shown(image: Image.Image, file: Path | str, decoding: Decoding) -> Image.Image:
    """What a person sees of an opened `image`: grey ("L") or coloured ("RGB"), turned upright, on the background."""
    kind = kind_of(image)
    if kind is not None:
        values, opaque = deep(image, file)
        return on_background(scaled(values, getattr(decoding, kind)), opaque, decoding.background)
    image.load()
    turned = upright(image, image)
    if turned.mode in ("1", "L") and not image.has_transparency_data:
        return turned.convert("L")
    if image.has_transparency_data:
        _match_key(turned, image)
        turned = turned.convert("RGBA")
        below = Image.new("RGBA", turned.size, decoding.background)
        turned = Image.alpha_composite(below, turned)
    return turned.convert("RGB")


def upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """`pixels` turned as the orientation tag of `image` says."""
    turn = _TURNS.get(orientation(image))
    return pixels if turn is None else pixels.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The orientation tag, 1 (upright) where there is none. Pillow turns TIFF itself when it loads the pixels."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata do not damage the image
        return 1
    return found if found in _TURNS else 1


def _match_key(turned: Image.Image, image: Image.Image) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits, as Pillow scales its pixels."""
    key, bits = image.info.get("transparency"), image.info.get("bits")
    del turned, key, bits


def kind_of(image: Image.Image) -> Kind | None:
    """What the values of an opened `image` are, or None where they are bytes."""
    if image.mode == "F":
        return "floats"
    return "integers" if image.mode == "I" or image.mode.startswith("I;16") else None


def deep(image: Image.Image, file: Path | str) -> tuple[Values, Values | None]:
    """The values (H, W) or (H, W, 3) of an image that are not bytes, and how opaque (H, W) they are, 0 … 1.

    Raises `Damaged` where a value is not finite.
    """
    image.load()
    values = np.asarray(upright(image, image))
    if image.mode == "F" and not np.isfinite(values).all():
        raise Damaged("values that are not finite (NaN or infinity)")
    return values, None


def bits_of(image: Image.Image) -> int:
    """The bits of each value of an opened `image`."""
    if image.mode == "1":
        return 1
    return 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8


def natural(kind: Kind, low_high: tuple[float, float]) -> tuple[float, float]:
    """The range that holds values from low to high: a usual one where there is one, or else just that."""
    low, high = low_high
    usual = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]
    if kind == "integers":
        usual = [(0.0, 2.0**bits - 1) for bits in (8, 10, 12, 14, 16)]
    for lowest, highest in usual:
        if lowest <= low and high <= highest and high - low >= (highest - lowest) / 4:
            return lowest, highest
    return low, high


def scaled(values: Values, low_high: tuple[float, float]) -> Bytes:
    """The `values` as bytes, scaled from the range to 0 … 255 and clipped."""
    low, high = low_high
    factor = 255 / (high - low) if high > low else 0.0
    return ((values.astype(np.float64) - low) * factor).round().clip(0, 255).astype(np.uint8)


def on_background(pixels: Bytes, opaque: Values | None, background: str) -> Image.Image:
    """`pixels` (H, W) or (H, W, 3) as an image, on the background where they are not opaque."""
    if opaque is None:
        return Image.fromarray(pixels)
    colour = np.array(ImageColor.getrgb(background)[:3], dtype=np.float64)
    front = pixels[:, :, None] if pixels.ndim == 2 else pixels
    mixed = front * opaque[:, :, None] + colour * (1 - opaque[:, :, None])
    return Image.fromarray(mixed.round().astype(np.uint8))
