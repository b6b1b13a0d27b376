"""What decoding an image tells of it, and what the images of a dataset have in common."""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from nas_core.data import decoding
from nas_core.data.decoding import Decoding
from nas_core.data.layout import EXAMPLES, ImageFile, Progress
from nas_core.data.manifest import digest

MOST_EXAMINED = 20_000
"""Images of a dataset that are decoded when it is looked at."""
MOST_PIXELS = 4 * 10**9
"""Pixels that are decoded when a dataset is looked at: about a minute's work."""

MOST_COUNTED = 20
"""Sizes, modes and so on that are told apart."""

_THUMBNAIL = 16
_NEARLY = 2.0
"""Two images are nearly identical whose thumbnails differ by no more than this on average, of 255."""


class Examined(NamedTuple):
    """What was found in a file.

    `content` is the digest of its bytes, `pixels` that of its decoded pixels, equal for images that look the same.
    `size` is width and height in pixels, upright. `values` are the lowest and the highest of an image whose values are
    of a `kind` other than bytes, and `stated` the range that its file states. `thumbnail` are 16×16 greys, or the one
    colour of an image that is `constant`.
    """

    content: str
    pixels: str
    size: tuple[int, int]
    mode: str
    bits: int
    orientation: int
    several: bool
    transparent: bool
    grey: bool
    constant: bool
    kind: decoding.Kind | None
    values: tuple[float, float]
    stated: tuple[float, float] | None
    thumbnail: bytes


@dataclass(frozen=True)
class Found:
    """Images that have something in common: how many, and the paths of the first, in groups of those that belong
    together."""

    count: int
    examples: tuple[tuple[str, ...], ...]


NOTHING = Found(0, ())


def examine_all(
    root: Path, background: str, files: Sequence[ImageFile], progress: Progress | None = None
) -> dict[ImageFile, Examined | str]:
    """What is found in the `files` below `root`, or why one cannot be used.

    Of more than `MOST_EXAMINED` files, or `MOST_PIXELS` pixels, some are chosen by a hash of their paths, so that they
    are the same each time.
    """

    def order(file: ImageFile) -> bytes:
        return hashlib.blake2b(file.path.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    chosen = heapq.nsmallest(MOST_EXAMINED, files, key=order)
    found: dict[ImageFile, Examined | str] = {}
    pixels = 0
    with ThreadPoolExecutor(8, thread_name_prefix="examine") as threads:
        for start in range(0, len(chosen), 256):
            chunk = chosen[start : start + 256]
            told = list(threads.map(partial(_told, root, background), chunk))
            found |= zip(chunk, told, strict=True)
            pixels += sum(one.size[0] * one.size[1] for one in told if isinstance(one, Examined))
            if progress is not None:
                progress("looking at images", len(found), len(chosen))
            if pixels > MOST_PIXELS:
                break
    return found


def _told(root: Path, background: str, file: ImageFile) -> Examined | str:
    """What is found in `file`, or why it cannot be used."""
    try:
        return examine(root / file.path, background)
    except OSError as error:
        return decoding.why(error)


def examine(path: Path, background: str) -> Examined:
    """What is found in the file at `path`. Raises `Damaged` or `OSError` where it cannot be used."""
    content = digest(path)
    with decoding.opened(path) as image:
        mode, kind, bits = image.mode, decoding.kind_of(image), decoding.bits_of(image)
        stated = decoding.stated_range(image)
        # Pillow turns TIFF itself, and then the tag is gone.
        turned = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation, 1)
        several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
        if kind is not None:
            values, opaque = decoding.deep(image, path)
            seen = values if opaque is None or not opaque.any() else values[opaque > 0]
            low_high = float(seen.min()), float(seen.max())
            shown = decoding.on_background(
                decoding.scaled(values, decoding.natural(kind, low_high)), opaque, background
            )
            transparent = opaque is not None and bool((opaque < 1).any())
            shown = decoding.upright(shown, image)
            pixels = values if opaque is None else np.dstack([values, opaque])
            pixels = pixels.astype("<f8")
        else:
            low_high = (0.0, 255.0)
            shown = decoding.shown(image, path, Decoding(3, 1, background))
            transparent = image.has_transparency_data and not decoding.is_opaque(image)
            pixels = np.asarray(shown)
        grey = pixels.ndim == 2 or bool((pixels[:, :, :3] == pixels[:, :, :1]).all())
        if kind is None and grey and pixels.ndim == 3:
            pixels = pixels[:, :, 0]
        hashed = hashlib.blake2b(repr((pixels.shape, kind)).encode(), digest_size=16)
        hashed.update(np.ascontiguousarray(pixels).data)
        constant = bool((pixels == pixels[:1, :1]).all())
        thumbnail = shown.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
        return Examined(
            content,
            hashed.hexdigest(),
            shown.size,
            mode,
            bits,
            turned if turned in range(2, 9) else decoding.orientation(image),
            several,
            transparent,
            grey,
            constant,
            kind,
            low_high,
            stated,
            np.ascontiguousarray(pixels[0, 0]).tobytes() if constant else thumbnail.tobytes(),
        )


def ranges(examined: Iterable[Examined]) -> dict[decoding.Kind, tuple[float, float]]:
    """The range from which the values of each kind that there is are scaled, the same for all images.

    It is what all files of the kind state, where that holds every value, or else what `decoding.natural` finds.
    """
    of_kind: dict[decoding.Kind, list[Examined]] = defaultdict(list)
    for one in examined:
        if one.kind is not None:
            of_kind[one.kind].append(one)
    found = {}
    for kind, some in of_kind.items():
        low, high = min(one.values[0] for one in some), max(one.values[1] for one in some)
        stated = [one.stated for one in some if one.stated is not None]
        found[kind] = decoding.natural(kind, (low, high))
        if len(stated) == len(some):
            lowest, highest = min(one[0] for one in stated), max(one[1] for one in stated)
            if lowest <= low and high <= highest:
                found[kind] = lowest, highest
    return found


def counted(values: Iterable[object]) -> dict[str, int]:
    """How often each of the `values` occurs, the most frequent first; beyond `MOST_COUNTED` together, as "other"."""
    often = Counter(values).most_common()
    told = {str(value): count for value, count in often[:MOST_COUNTED]}
    rest = sum(count for _, count in often[MOST_COUNTED:])
    return told | ({"other": rest} if rest else {})


def found(files: Iterable[ImageFile]) -> Found:
    """The `files`, each by itself."""
    paths = sorted(file.path for file in files)
    return Found(len(paths), tuple((path,) for path in paths[:EXAMPLES]))


Where = Literal["within parts", "across parts", "across classes"]


def same(examined: Mapping[ImageFile, Examined]) -> list[list[ImageFile]]:
    """The groups of images that have the same pixels."""
    groups = defaultdict(list)
    for file in sorted(examined):
        groups[examined[file].pixels].append(file)
    return [group for group in groups.values() if len(group) > 1]


def nearly_same(examined: Mapping[ImageFile, Examined]) -> list[list[ImageFile]]:
    """The groups of images that look the same but for traces, as a photo that was saved twice.

    Thumbnails of 16×16 greys are compared, each with those that follow by brightness.
    """
    same_pixels = defaultdict(list)
    for file, one in examined.items():
        if not one.constant:
            same_pixels[one.pixels].append(file)
    files = [some[0] for some in same_pixels.values()]
    if len(files) < 2:
        return []
    thumbnails = np.stack([np.frombuffer(examined[file].thumbnail, dtype=np.uint8) for file in files]).astype(np.int16)
    brightness = thumbnails.mean(1)
    order = np.argsort(brightness, kind="stable")
    thumbnails, brightness = thumbnails[order], brightness[order]
    ends = np.minimum(np.searchsorted(brightness, brightness + _NEARLY, side="right"), np.arange(len(files)) + 200)
    leader = np.arange(len(files))
    for number in range(len(files)):
        if leader[number] == number and ends[number] > number + 1:
            others = slice(number + 1, ends[number])
            near = np.abs(thumbnails[others] - thumbnails[number]).mean(1) <= _NEARLY
            leader[others][near & (leader[others] == np.arange(number + 1, ends[number]))] = number
    groups: dict[int, list[ImageFile]] = defaultdict(list)
    for number, first in enumerate(leader.tolist()):
        groups[first].append(files[int(order[number])])
    return [
        sorted(file for one in group for file in same_pixels[examined[one].pixels])
        for group in groups.values()
        if len(group) > 1
    ]


def by_place(groups: Sequence[Sequence[ImageFile]]) -> dict[str, Found]:
    """Groups of images that are alike, by where these are; one across classes may be across parts too."""
    places: dict[Where, list[Sequence[ImageFile]]] = {"within parts": [], "across parts": [], "across classes": []}
    for group in groups:
        places["across parts" if len({file.part for file in group}) > 1 else "within parts"].append(group)
        if len({file.label for file in group}) > 1:
            places["across classes"].append(group)
    return {
        where: Found(len(some), tuple(tuple(file.path for file in group[:EXAMPLES]) for group in some[:EXAMPLES]))
        for where, some in places.items()
    }
