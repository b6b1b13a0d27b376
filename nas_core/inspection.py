"""A dataset is looked at before it is searched on: what it holds, what is left out and why, what a network will see.

All doors ask here, so that they tell the same in the same words. All files of a folder are listed; of its images up to
`MOST_EXAMINED` are decoded, chosen by a hash of their paths, so that they are the same each time. Neither torch nor the
whole dataset is loaded.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nas_core import decoding
from nas_core.datasets import LAYOUTS, UNREADABLE_SHARE, DatasetInfo, locate
from nas_core.decoding import Damaged, Decoding
from nas_core.errors import InvalidValue
from nas_core.layout import EXAMPLES, PARTS, ImageFile, LeftOut, Progress, list_images, readable
from nas_core.manifest import Entry, digest, fingerprint
from nas_core.spec import NO_OPTIONS, DataOptions

MOST_EXAMINED = 20_000
"""Images of a dataset that are decoded when it is looked at."""
MOST_PIXELS_EXAMINED = 4 * 10**9
"""Pixels that are decoded when a dataset is looked at: about a minute's work."""
LARGEST_SIZE = 224
"""Pixels of the square that images are scaled to, unless the user asks for more."""
FEWEST = 8
"""Training images per class below which the split would leave a part without the class."""


@dataclass(frozen=True)
class Found:
    """Images that have something in common: how many, and the paths of the first ones."""

    count: int
    examples: tuple[tuple[str, ...], ...]


NOTHING = Found(0, ())


@dataclass(frozen=True)
class Inspection:
    """What a dataset is found to be.

    `layout` says in words how it was read; `counts` are the images per part and class, `files` those of an image
    folder. `sizes`, `modes`, `bit_depths`, `orientations` count the images `examined`. `duplicates` are images with
    the same pixels, within and across parts and classes; `pixels` has the digest of the pixels by path. `warnings`
    are what the user should know, and `problems` why the dataset cannot be searched on.
    """

    dataset: str
    path: str | None
    kind: str
    layout: str
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    files: tuple[ImageFile, ...]
    channels: int
    image_size: int
    decoding: Decoding
    info: DatasetInfo
    fingerprint: str
    images: int = 0
    examined: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    bit_depths: dict[str, int] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    duplicates: dict[str, Found] = field(default_factory=dict)
    constant: Found = NOTHING
    nearly_identical: dict[str, Found] = field(default_factory=dict)
    pixels: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problems: tuple[InvalidValue, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON values, without the files."""

        def found(one: Found) -> dict[str, Any]:
            return {"count": one.count, "examples": [list(map(readable, group)) for group in one.examples]}

        return {
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
            "class_names": list(self.class_names),
            "warnings": list(self.warnings),
            "decoding": self.decoding.to_dict(),
            "left_out": [asdict(one) | {"examples": list(one.examples)} for one in self.left_out],
            "duplicates": {where: found(one) for where, one in self.duplicates.items()},
            "constant": found(self.constant),
            "nearly_identical": {where: found(one) for where, one in self.nearly_identical.items()},
            "problems": [
                {"field": one.field, "value": one.value, "reason": one.reason, "accepted": one.accepted}
                for one in self.problems
            ],
        }

    def contact_sheet(self) -> bytes:
        """What the network will see, as PNG: a row per class and part, of at most ten classes and ten images each."""
        return _contact_sheet(self)


_AS_THEY_ARE = (
    *("dataset", "path", "kind", "layout", "counts", "channels", "image_size", "fingerprint", "images", "examined"),
    *("sizes", "modes", "bit_depths", "orientations"),
)
"""The fields of an inspection that are JSON values already."""


def inspect(
    dataset: str,
    roots: Sequence[str] = (),
    anywhere: bool = False,
    options: DataOptions = NO_OPTIONS,
    progress: Progress | None = None,
    image_size: int | None = None,
) -> Inspection:
    """Look at `dataset`, below the `roots` (or at any path where `anywhere` is set), as `options` say it is read.

    `image_size` is what images are scaled to, in pixels; by default it follows from the images. `progress` is told of
    what is done. Raises `InvalidValue` only where there is nothing to look at; all else that is wrong is among the
    `problems`.
    """
    info = locate(dataset, roots, anywhere)
    if info.kind != "folder":
        return _known(info, options, image_size)
    if dataset == "imagenet" and options.test is None and options.validation is None:
        options = DataOptions(**asdict(options) | {"test": "val"})
    assert info.path is not None
    return _folder(info, Path(info.path), options, progress, image_size)


def _known(info: DatasetInfo, options: DataOptions, image_size: int | None) -> Inspection:
    """What is known of a dataset with a name."""
    channels, size = options.channels or info.channels, image_size or info.image_size
    return Inspection(
        info.name,
        info.path,
        info.kind,
        f"the files of {LAYOUTS[info.name].reader}, as torchvision reads them" if info.name in LAYOUTS else info.name,
        (),
        {},
        (),
        channels,
        size,
        Decoding(channels, size, options.background),
        info,
        "",
        images=info.images,
    )


class _Examined(NamedTuple):
    """What was found when a file was decoded; `values` are the lowest and highest of an image that is not of bytes."""

    content: str
    size: tuple[int, int]
    mode: str
    bits: str
    orientation: int
    grey: bool
    kind: decoding.Kind | None
    values: tuple[float, float]
    pixels: str
    constant: bool
    thumbnail: bytes


def _examine(root: Path, background: str, file: ImageFile) -> _Examined | str:
    """What is found in `file`, or why it cannot be used."""
    path = root / file.path
    try:
        content = digest(path)
        with decoding.opened(path) as image:
            mode, kind = image.mode, decoding.kind_of(image)
            if kind is not None:
                values, _ = decoding.deep(image, path)
                low, high = float(values.min()), float(values.max())
                shown = Image.fromarray(decoding.scaled(values, (low, high)))
                pixels = np.ascontiguousarray(values.astype("<f4" if kind == "floats" else "<i4"))
            else:
                low = high = 0.0
                shown = decoding.shown(image, path, Decoding(3, 1, background))
                pixels = np.asarray(shown)
            grey = pixels.ndim == 2 or bool((pixels == pixels[:, :, :1]).all())
            pixels = pixels if pixels.ndim == 2 or not grey else pixels[:, :, 0]
            hashed = hashlib.blake2b(repr((pixels.shape, kind)).encode(), digest_size=16)
            hashed.update(np.ascontiguousarray(pixels).data)
            thumbnail = shown.convert("L").resize((16, 16), Image.Resampling.BILINEAR)
            return _Examined(
                content,
                shown.size,
                mode,
                str(decoding.bits_of(image)),
                decoding.orientation(image),
                grey,
                kind,
                (low, high),
                hashed.hexdigest(),
                bool((pixels == pixels.reshape(-1, *pixels.shape[2:])[0]).all()),
                thumbnail.tobytes(),
            )
    except Damaged as error:
        return str(error)
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _folder(
    info: DatasetInfo, root: Path, options: DataOptions, progress: Progress | None, image_size: int | None
) -> Inspection:
    try:
        listing = list_images(root, options, progress)
    except OSError as error:
        reason = f"a folder that cannot be read: {(error.strerror or str(error)).lower()}"
        raise InvalidValue("dataset", info.name, reason, "a readable folder") from error
    found = _examine_all(root, options, listing.files, progress)
    examined = {file: one for file, one in found.items() if not isinstance(one, str)}
    damaged = {file: one for file, one in found.items() if isinstance(one, str)}
    files = tuple(file for file in listing.files if file not in damaged)
    problems = [_named(problem, info.name) for problem in listing.problems]
    present = [part for part in PARTS if any(file.part == part for file in listing.files)]
    counts: dict[str, dict[str, int]] = {part: dict.fromkeys(listing.class_names, 0) for part in present}
    for file in files:
        counts[file.part][listing.class_names[file.label]] += 1
    if damaged and len(damaged) > UNREADABLE_SHARE * len(found):
        told = "; ".join(f"{one.count} {one.reason} ({', '.join(one.examples[:2])})" for one in _by_reason(damaged))
        problems.append(
            InvalidValue(
                "dataset",
                info.name,
                f"{len(damaged)} of {len(found)} images cannot be read: {told}",
                f"at most {UNREADABLE_SHARE:.0%} of the images damaged; --ignore leaves out what is not meant",
            )
        )
    if not problems:
        problems += _too_few(info.name, counts)
    size = image_size or min(median_low([min(one.size) for one in examined.values()] or [32]), LARGEST_SIZE)
    channels = options.channels or (1 if examined and all(one.grey for one in examined.values()) else 3)
    decoded = Decoding(channels, size, options.background, **_ranges(examined.values()))
    entries = [
        Entry(*file, one.content if isinstance(one := found.get(file), _Examined) else "") for file in listing.files
    ]
    preset = "digits" if size <= 16 else "cifar10" if size <= 96 else "imagenet"
    described = DatasetInfo(
        info.name, "folder", str(root), len(listing.class_names), channels, size, len(files), preset
    )
    return Inspection(
        info.name,
        str(root),
        "folder",
        listing.layout,
        listing.class_names,
        counts,
        files,
        channels,
        size,
        decoded,
        described,
        fingerprint(entries),
        images=len(files),
        examined=len(examined),
        sizes=_counted(f"{one.size[0]}×{one.size[1]}" for one in examined.values()),
        modes=_counted(one.mode for one in examined.values()),
        bit_depths=_counted(one.bits for one in examined.values()),
        orientations=_counted(str(one.orientation) for one in examined.values()),
        left_out=tuple(sorted([*listing.left_out, *_by_reason(damaged)], key=lambda one: -one.count)),
        duplicates=_duplicates(examined),
        constant=_found([(file.path,)] for file, one in examined.items() if one.constant),
        pixels={file.path: one.pixels for file, one in examined.items()},
        warnings=listing.warnings,
        problems=tuple(problems),
    )


def _named(problem: InvalidValue, dataset: str) -> InvalidValue:
    """The problem with the dataset as its value, where it has none."""
    value = dataset if problem.value is None else problem.value
    return InvalidValue(problem.field, value, problem.reason, problem.accepted)


def _examine_all(
    root: Path, options: DataOptions, files: Sequence[ImageFile], progress: Progress | None
) -> dict[ImageFile, _Examined | str]:
    """What is found in the `files`, or in as many of them as there is time for."""

    def order(file: ImageFile) -> bytes:
        return hashlib.blake2b(file.path.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    chosen = sorted(files, key=order)[:MOST_EXAMINED]
    found: dict[ImageFile, _Examined | str] = {}
    pixels = 0
    with ThreadPoolExecutor(8, thread_name_prefix="examine") as threads:
        for start in range(0, len(chosen), 256):
            chunk = chosen[start : start + 256]
            found |= zip(chunk, threads.map(partial(_examine, root, options.background), chunk), strict=True)
            pixels += sum(one.size[0] * one.size[1] for one in map(found.get, chunk) if isinstance(one, _Examined))
            if progress is not None:
                progress("looking at images", len(found), len(chosen))
            if pixels > MOST_PIXELS_EXAMINED:
                break
    return found


def _by_reason(damaged: Mapping[ImageFile, str]) -> list[LeftOut]:
    paths = defaultdict(list)
    for file in sorted(damaged):
        paths[damaged[file]].append(readable(file.path))
    return [LeftOut(reason, len(found), tuple(found[:EXAMPLES])) for reason, found in sorted(paths.items())]


def _too_few(dataset: str, counts: Mapping[str, Mapping[str, int]]) -> Iterator[InvalidValue]:
    """What is wrong with how many images each class has to train on."""
    few = {name: count for name, count in counts["train"].items() if count < FEWEST}
    if few:
        told = ", ".join(f"class {name!r} has {count} images" for name, count in list(few.items())[:EXAMPLES])
        more = f" and {len(few) - EXAMPLES} more classes" if len(few) > EXAMPLES else ""
        yield InvalidValue("dataset", dataset, f"{told}{more}", f"at least {FEWEST} training images per class")


def _ranges(examined: Iterable[_Examined]) -> dict[str, tuple[float, float]]:
    """The range of the values that are not bytes, for each kind that there is."""
    ranges: dict[str, tuple[float, float]] = {}
    for one in examined:
        if one.kind is not None:
            low, high = ranges.get(one.kind, one.values)
            ranges[one.kind] = min(low, one.values[0]), max(high, one.values[1])
    return {kind: decoding.natural(kind, low_high) for kind, low_high in ranges.items()}  # type: ignore[arg-type]


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _found(groups: Iterable[Iterable[tuple[str, ...]]]) -> Found:
    flat = [group for some in groups for group in some]
    return Found(len(flat), tuple(flat[:EXAMPLES]))


def _duplicates(examined: Mapping[ImageFile, _Examined]) -> dict[str, Found]:
    """Images with the same pixels, by where they are."""
    same = defaultdict(list)
    for file, one in sorted(examined.items()):
        same[one.pixels].append(file)
    groups = [files for files in same.values() if len(files) > 1]
    across = [files for files in groups if len({file.part for file in files}) > 1]
    mixed = [files for files in groups if len({file.label for file in files}) > 1]
    within = [files for files in groups if files not in across]
    return {
        name: Found(len(some), tuple(tuple(file.path for file in files[:EXAMPLES]) for files in some[:EXAMPLES]))
        for name, some in (("within parts", within), ("across parts", across), ("across classes", mixed))
    }


# The contact sheet

_CELL, _LABEL = 64, 160


def _contact_sheet(inspection: Inspection) -> bytes:
    rows: list[tuple[str, list[Image.Image]]] = []
    by_row: dict[tuple[int, str], list[ImageFile]] = defaultdict(list)
    for file in inspection.files:
        if len(by_row[file.label, file.part]) < 10:
            by_row[file.label, file.part].append(file)
    for (label, part), files in sorted(by_row.items())[:10]:
        pictures = []
        for file in files:
            try:
                pixels = decoding.decode(Path(inspection.path or "") / file.path, inspection.decoding)
            except OSError:
                continue
            grey = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            pictures.append(Image.fromarray(grey).resize((_CELL, _CELL), Image.Resampling.NEAREST))
        rows.append((f"{inspection.class_names[label]}\n{part}", pictures))
    sheet = Image.new("RGB", (_LABEL + 10 * (_CELL + 4), max(1, len(rows)) * (_CELL + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (text, pictures) in enumerate(rows):
        draw.multiline_text((4, number * (_CELL + 4) + 4), text, fill="black", font=ImageFont.load_default(14))
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (_LABEL + column * (_CELL + 4), number * (_CELL + 4)))
    written = io.BytesIO()
    sheet.save(written, "PNG")
    return written.getvalue()
