"""From a file to the bytes that a network sees, as a person would see the image.

An image is what Pillow recognises by its content, whatever its name. It is turned as its orientation tag says, and
transparent pixels show the background. Values of more than 8 bits are scaled by one range for the whole dataset
(`Decoding`), so that its images stay comparable. Of a file with several images the first counts.
"""

import math
import os
import re
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
"""Pixels of an image beyond which it is taken for a decompression bomb, as Pillow does."""

# What Pillow only warns of, such as damaged metadata, is used; what is too large is refused here, with figures.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("ignore", module="PIL")

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

UNDECODED_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".eps", ".wmf", ".emf", ".exr", ".xcf", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
"""The suffixes of images that Pillow does not decode, or only with further libraries."""

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Values = np.ndarray[tuple[int, ...], np.dtype[Any]]
Kind = Literal["integers", "floats"]
"""What the values of an image are that are not bytes."""
Box = tuple[float, float, float, float]
"""A part of an image, in pixels: left, upper, right, lower."""
Choose = Callable[[int, int], Box]
"""Which part is chosen of an image of a width and a height."""

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

_large = threading.RLock()
"""Held while an image of more than 2²⁴ pixels is decoded: one at a time, so that memory is bounded."""


@dataclass(frozen=True)
class Decoding:
    """How every image of a dataset is decoded: to `channels` (1 or 3) by `size` by `size` bytes.

    It is scaled until its shorter side has `resize` pixels, and cropped about its centre; where that is None, it is
    scaled until it covers the square. Transparent pixels show `background`. Values of 16 or 32 bits are scaled from the
    range `integers` to 0 … 255, floating-point values from `floats`; what is outside is clipped.
    """

    channels: int
    size: int
    background: str = "white"
    integers: tuple[float, float] = (0.0, 65535.0)
    floats: tuple[float, float] = (0.0, 1.0)
    resize: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The decoding as JSON values; `resize` only where it is given."""
        values = asdict(self) | {"integers": list(self.integers), "floats": list(self.floats)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The decoding that `to_dict` described."""
        low_high = {kind: (float(values[kind][0]), float(values[kind][1])) for kind in ("integers", "floats")}
        return cls(**{**values, **low_high})


class Damaged(OSError):
    """A file that holds no image that can be used. The text says why, in the same words for all files of the kind."""


def why(error: OSError) -> str:
    """Why a file cannot be used: what is wrong with the image in it, or what the file system says."""
    return str(error) if error.errno is None else (error.strerror or str(error)).lower()


def decode(file: Path | str, decoding: Decoding, choose: Choose | None = None) -> Bytes:
    """The image in `file` as bytes (channels, size, size).

    It is scaled and cropped as `decoding` says, or is the part that `choose` names of it, scaled to the square. Raises
    `Damaged` where the file holds no whole image.
    """
    if choose is None and decoding.resize is not None:
        choose = partial(centre, decoding)
    with opened(file) as image:
        # A JPEG decoder can give a half, a quarter or an eighth for less; twice the size leaves the filter its work.
        # No other format has a draft, and of these the orientation is known before they are decoded.
        if choose is None:
            image.draft(None, (2 * decoding.size, 2 * decoding.size))
            return fitted(shown(image, file, decoding), decoding)
        if image.format not in ("JPEG", "MPO"):
            pixels = shown(image, file, decoding)
            return fitted(pixels, decoding, choose(*pixels.size))
        turn, size = orientation(image), image.size
        width, height = size[::-1] if turn >= 5 else size
        box = choose(width, height)
        shrink = max(1, int(min(box[2] - box[0], box[3] - box[1]) / (2 * decoding.size)))
        drafted = image.draft(None, (size[0] // shrink, size[1] // shrink))
        scale = size[0] / drafted[1][2] if drafted else 1.0
        pixels = shown(image, file, decoding)
        # The last column and the last row may hold less than the others: they come first where they are turned round.
        across = pixels.width - width / scale if turn in (2, 3, 6, 7) else 0.0
        down = pixels.height - height / scale if turn in (3, 4, 7, 8) else 0.0
        left, upper, right, lower = (one / scale for one in box)
        return fitted(pixels, decoding, (left + across, upper + down, right + across, lower + down))


def fitted(image: Image.Image, decoding: Decoding, box: Box | None = None) -> Bytes:
    """The image as bytes (channels, size, size), scaled and cropped as `decoding` says, or the `box` of it, scaled."""
    mode, side = "L" if decoding.channels == 1 else "RGB", (decoding.size, decoding.size)
    coloured = image if image.mode == mode else image.convert(mode)
    if box is None and decoding.resize is None:
        square = ImageOps.fit(coloured, side, Image.Resampling.BILINEAR)
    else:
        square = coloured.resize(side, Image.Resampling.BILINEAR, box or centre(decoding, *coloured.size))
    pixels = np.array(square, dtype=np.uint8)
    return pixels[None] if decoding.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def centre(decoding: Decoding, width: int, height: int) -> Box:
    """Which part of an image of so many pixels is in the crop, as torchvision's Resize and CenterCrop round it."""
    size, resize = (width, height), decoding.resize or decoding.size
    scaled = [resize * one // min(size) for one in size]
    begin = [round((one - decoding.size) / 2) for one in scaled]
    (left, right), (upper, lower) = (
        (start * one / of, (start + decoding.size) * one / of)
        for start, one, of in zip(begin, size, scaled, strict=True)
    )
    return left, upper, right, lower


@contextmanager
def opened(file: Path | str) -> Iterator[ImageFile.ImageFile]:
    """The image in `file`, whose pixels are not decoded yet.

    Whatever Pillow stumbles on, here or while the image is used, is raised as `Damaged`, and what the file system does
    not give as `OSError`. What else goes wrong while it is used is no fault of the file's.
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
    except Exception as error:
        of_the_system = isinstance(error, OSError) and error.errno is not None
        if isinstance(error, Damaged) or of_the_system or not _by_pillow(error):
            raise
        raise Damaged(_reason(error, kind, Path(file))) from error


def _by_pillow(error: Exception) -> bool:
    """Whether an exception comes out of Pillow, whose decoders raise whatever they stumble on."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith("PIL.") for frame, _ in frames)


@contextmanager
def _regular(file: Path | str) -> Iterator[Any]:
    """The open file, unless it is a pipe, a socket or a device, which are never read."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise Damaged("not a regular file")
        if not os.fstat(stream.fileno()).st_size:
            raise Damaged("empty file")
        yield stream


def _formats(file: Path | str) -> tuple[str, ...]:
    named = NAMED_FORMATS.get(os.path.splitext(file)[1].lower())
    return (*FORMATS, named) if named else FORMATS


def _reason(error: Exception, kind: str, file: Path) -> str:
    """Why a file cannot be used, without what differs from file to file."""
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(file)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"decompression bomb: at most {MOST_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return f"{kind} that needs more memory than there is"
    told = re.sub(r"[^A-Za-z ,.:'-]+", "…", str(error))[:100]
    truncated = "truncat" in told.lower() or isinstance(error, EOFError)
    return f"truncated {kind}" if truncated else f"damaged {kind}: {told or type(error).__name__}"


def _unidentified(file: Path) -> str:
    """Why Pillow does not open a file: it is no image, or one of a kind that it does not decode."""
    with _regular(file) as stream:
        head = stream.read(16)
        if head[:4] in (b"II*\0", b"MM\0*"):
            return f"TIFF{_values_of(head, stream)} that Pillow cannot decode"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIC, which Pillow cannot decode"
    suffix = file.suffix.lower()
    if suffix in UNDECODED_SUFFIXES:
        return f"a format that Pillow cannot decode: {suffix}"
    told = suffix if re.fullmatch(r"\.(?=.*[a-z])[a-z0-9]{1,8}", suffix) else "no known suffix"
    return f"not an image: {told}"


def _values_of(head: bytes, stream: Any) -> str:
    """What a TIFF file says of its values, such as " of 64-bit floating-point numbers"; nothing where it is damaged."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
        stream.seek(tags.next)
        tags.load(stream)
        bits, sample = (tags.get(tag, (1,)) for tag in (TiffImagePlugin.BITSPERSAMPLE, TiffImagePlugin.SAMPLEFORMAT))
        kind = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}.get(sample[0], "")
        return f" of {int(bits[0])}-bit {kind}numbers"
    except Exception:  # damaged tags say nothing
        return ""


def shown(image: ImageFile.ImageFile, file: Path | str, decoding: Decoding) -> Image.Image:
    """What a person sees of an opened `image`: grey ("L") or coloured ("RGB"), turned upright, on the background."""
    kind, rawmode = kind_of(image), _rawmode(image)
    # Of 16-bit colours Pillow keeps the upper eight bits, which is right where they fill their range.
    whole = rawmode in _OTHER_BYTES and decoding.integers == (0, 65535) and "transparency" not in image.info
    if kind is not None and not whole:
        values, opaque = deep(image, file)
        pixels = on_background(scaled(values, getattr(decoding, kind)), opaque, decoding.background)
        return upright(pixels, image)
    image.load()
    if image.has_transparency_data:
        key = image.info.get("transparency")
        if rawmode in _GREY_STEPS and isinstance(key, int):
            image.info["transparency"] = key * _GREY_STEPS[rawmode]
        # Premultiplied colours become plain ones first.
        plain = image.convert("LA") if image.mode == "La" else image
        below = Image.new("RGBA", plain.size, decoding.background)
        pixels = Image.alpha_composite(below, plain.convert("RGBA")).convert("RGB")
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
        pixels = image if image.mode == mode else image.convert(mode)  # what is as it should be is not copied
    return upright(pixels, image)


def is_opaque(image: ImageFile.ImageFile) -> bool:
    """Whether no pixel of a loaded image of bytes is transparent."""
    plain = image.convert("LA") if image.mode == "La" else image
    lowest, _ = plain.convert("RGBA").getchannel("A").getextrema()
    return lowest == 255


_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""PNG's greys of 2 and 4 bits are spread over a byte by Pillow, but not the one that is transparent."""

_OTHER_BYTES = {f"{mode};16{one}": f"{mode};16{two}" for mode in ("RGB", "RGBA") for one, two in ("BL", "LB")}
_OTHER_BYTES |= {f"{mode};16N": f"{mode};16{'B' if sys.byteorder == 'little' else 'L'}" for mode in ("RGB", "RGBA")}
"""How colours of 16 bits are unpacked to their upper bytes, and how to their lower ones."""


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the pixels of an opened image that is not loaded yet will be unpacked, in Pillow's names."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def upright(pixels: Image.Image, image: ImageFile.ImageFile) -> Image.Image:
    """`pixels` turned as the orientation tag of the loaded `image` says."""
    turn = _TURNS.get(orientation(image))
    return pixels if turn is None else pixels.transpose(turn)


def orientation(image: ImageFile.ImageFile) -> int:
    """The orientation tag of a loaded image, 1 (upright) where there is none or Pillow has turned it, as with TIFF."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata do not damage the image
        return 1
    return found if found in _TURNS else 1


def kind_of(image: ImageFile.ImageFile) -> Kind | None:
    """What the values of an opened `image` are, or None where they are bytes. It must not be loaded yet."""
    if image.mode == "F":
        return "floats"
    rawmode = _rawmode(image)
    deep = image.mode == "I" or image.mode.startswith("I;16") or rawmode in _OTHER_BYTES or rawmode == "LA;16B"
    return "integers" if deep else None


def bits_of(image: ImageFile.ImageFile) -> int:
    """The bits of each value of an opened `image`, as the file stores them. It must not be loaded yet."""
    if image.mode == "1":
        return 1
    stated = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE)
    if stated:
        return max(stated) if isinstance(stated, tuple) else int(stated)
    if image.mode.startswith("I;16") or ";16" in _rawmode(image):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def stated_range(image: ImageFile.ImageFile) -> tuple[float, float] | None:
    """The lowest and highest value that a TIFF file says its images have, where that is not all that its type can."""
    tags, bits = getattr(image, "tag_v2", {}), bits_of(image)

    def stated(*names: int) -> float | None:
        found = next((tags[name] for name in names if name in tags), None)
        try:
            value = float(found[0] if isinstance(found, tuple) else found)  # type: ignore[arg-type]
        except (TypeError, ValueError, IndexError):  # there is none, or it is damaged
            return None
        return value if math.isfinite(value) else None

    low, high = stated(340, 280), stated(341, 281)  # SMinSampleValue or MinSampleValue, SMaxSampleValue or …
    if high is None and bits in (10, 12, 14):
        high = 2.0**bits - 1
    if high is None or not (low or 0.0) < high or (image.mode != "F" and high >= 2.0**bits - 1 and bits >= 16):
        return None
    return low or 0.0, high


def deep(image: ImageFile.ImageFile, file: Path | str) -> tuple[Values, Values | None]:
    """The values (H, W) or (H, W, 3) of an image that are not bytes, and how opaque (H, W) they are, 0 … 1.

    Raises `Damaged` where a value is not finite.
    """
    key = image.info.get("transparency")
    if image.mode in ("RGB", "RGBA"):
        values = _deep_colours(file)
        image.load()
    else:
        image.load()
        values = np.asarray(image)
        tags = getattr(image, "tag_v2", {})
        if image.mode == "I" and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (32,):
            signed = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) != (1,)
            values = values if signed else values.view(np.uint32)
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
            values = (65535 if image.mode.startswith("I;16") else 1) - values.astype(np.float64)
        if image.mode == "F" and not np.isfinite(values).all():
            raise Damaged("values that are not finite (NaN or infinity)")
    opaque = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values, opaque = values[..., :-1], values[..., -1] / 65535
        values = values[..., 0] if values.shape[2] == 1 else values
    elif key is not None:
        opaque = 1.0 - (values == np.asarray(key)).reshape(*values.shape[:2], -1).all(2)
    return values, opaque


def _deep_colours(file: Path | str) -> Values:
    """The 16-bit values (H, W, 2 … 4) of an image that Pillow reduces to bytes, with opacity last where there is any.

    Pillow unpacks either the upper or the lower bytes, and is asked for both.
    """

    def unpacked(lower: bool) -> Values:
        with opened(file) as image:
            rawmode = _rawmode(image)
            if rawmode == "LA;16B":  # four bytes, as RGBA has them
                image.tile = [tile._replace(args="RGBA") for tile in image.tile]
            elif lower:
                image.tile = [tile._replace(args=_other_bytes(tile.args)) for tile in image.tile]
            pixels = np.asarray(image).astype(np.uint16)
            return pixels[..., lower::2] if rawmode == "LA;16B" else pixels

    return unpacked(False) << 8 | unpacked(True)


def _other_bytes(arguments: Any) -> Any:
    if isinstance(arguments, tuple):
        return (_OTHER_BYTES[arguments[0]], *arguments[1:])
    return _OTHER_BYTES[arguments]


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
