"""A dataset is looked at before it is searched on: what it holds, what is left out and why, what a network will see.

All doors ask here, so that they tell the same in the same words. All files of a folder are listed; of its images up to
`examination.MOST_EXAMINED` are decoded. Neither torch nor the whole dataset is loaded.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median_low
from typing import Any

from nas_core.data import decoding, previews
from nas_core.data.contact_sheet import MOST_IMAGES, MOST_ROWS, Row, contact_sheet
from nas_core.data.datasets import LAYOUTS, UNREADABLE_SHARE, DatasetInfo, locate
from nas_core.data.decoding import Decoding
from nas_core.data.examination import (
    NOTHING,
    Examined,
    Found,
    by_place,
    counted,
    examine_all,
    found,
    nearly_same,
    ranges,
    same,
)
from nas_core.data.layout import EXAMPLES, PARTS, ImageFile, LeftOut, Progress, list_images, readable
from nas_core.data.manifest import Entry, fingerprint
from nas_core.errors import InvalidValue
from nas_core.spec import NO_OPTIONS, DataOptions

LARGEST_SIZE = 224
"""Pixels of the square that images are scaled to, unless the user asks for more."""
SMALLEST_SIZE = 4
"""Pixels of the square that a network can take."""
FEWEST = 8
"""Training images per class below which the split would leave a part without the class."""
MOST_REASONS = 30
"""Reasons for leaving files out that are told apart."""
IMBALANCE = 10
"""How many times as many images the largest class has as the smallest when it is warned of."""


@dataclass(frozen=True)
class Inspection:
    """What a dataset is found to be.

    `layout` says in words how it was read. `counts` are the images per part and class, and `files` those of an image
    folder; what is damaged, and what is for training with the same pixels as an image that is held out, is not among
    them but `left_out`. `sizes`, `modes`, `bit_depths` and `orientations` count the images `examined`. `duplicates`
    have the same pixels, `nearly_identical` images nearly so; both are told by where they are. `pixels` has the digest
    of the decoded pixels by path, `damaged` why a file cannot be read. `notes` say what is done to the images,
    `warnings` what the user should know, and `problems` why the dataset cannot be searched on, each with what resolves
    it.
    """

    dataset: str
    path: str | None
    kind: str
    layout: str
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    files: tuple[ImageFile, ...] = field(repr=False)
    decoding: Decoding
    info: DatasetInfo
    fingerprint: str
    examined: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    bit_depths: dict[str, int] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    duplicates: dict[str, Found] = field(default_factory=dict)
    nearly_identical: dict[str, Found] = field(default_factory=dict)
    constant: Found = NOTHING
    pixels: Mapping[str, str] = field(default_factory=dict, repr=False)
    damaged: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[InvalidValue, ...] = ()

    @property
    def images(self) -> int:
        """How many images are used."""
        return self.info.images

    @property
    def channels(self) -> int:
        """The channels that images are decoded to."""
        return self.decoding.channels

    @property
    def image_size(self) -> int:
        """Height and width in pixels that images are scaled to."""
        return self.decoding.size

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON values, without the files."""

        def told(some: Mapping[str, Found]) -> dict[str, Any]:
            return {where: _as_json(one) for where, one in some.items()}

        return {
            "dataset": readable(self.dataset),
            "path": self.path and readable(self.path),
            "kind": self.kind,
            "layout": self.layout,
            "class_names": list(self.class_names),
            "counts": self.counts,
            "images": self.images,
            "examined": self.examined,
            "channels": self.channels,
            "image_size": self.image_size,
            "decoding": self.decoding.to_dict(),
            "sizes": self.sizes,
            "modes": self.modes,
            "bit_depths": self.bit_depths,
            "orientations": self.orientations,
            "left_out": [asdict(one) | {"examples": list(one.examples)} for one in self.left_out],
            "duplicates": told(self.duplicates),
            "nearly_identical": told(self.nearly_identical),
            "constant": _as_json(self.constant),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "problems": [
                {
                    "field": one.field,
                    "value": one.value,
                    "reason": one.reason,
                    "accepted": one.accepted,
                    "choices": list(one.choices),
                }
                for one in self.problems
            ],
            "fingerprint": self.fingerprint,
        }

    def contact_sheet(self) -> bytes:
        """What the network will see, as PNG: a row per class and part, of at most ten rows of ten images."""
        return self._sheet

    @cached_property
    def _sheet(self) -> bytes:
        if self.kind == "folder":
            rows, more = _rows(self)
        else:
            rows, more = _named_rows(self.info, self.decoding)
        size = self.image_size
        title = f"{readable(self.dataset)}: {size} x {size} pixels, {'grey' if self.channels == 1 else 'colour'}"
        return contact_sheet(title, rows, more)


def _as_json(one: Found) -> dict[str, Any]:
    return {"count": one.count, "examples": [[readable(path) for path in group] for group in one.examples]}


def inspect(
    dataset: str,
    roots: Sequence[str] = (),
    anywhere: bool = False,
    options: DataOptions = NO_OPTIONS,
    progress: Progress | None = None,
    image_size: int | None = None,
) -> Inspection:
    """Look at `dataset`, below the `roots` (or at any path where `anywhere` is set), read as `options` say.

    Unless `anywhere` is set, links in it that lead outside the roots are left out.
    `image_size` is what images are scaled to, in pixels; by default it follows from the images. `progress` is told of
    what is done. Raises `InvalidValue` only where there is nothing to look at; all else that is wrong is among the
    `problems`.
    """
    info = locate(dataset, roots, anywhere)
    if info.kind != "folder":
        return _known(info, options, image_size)
    within = () if anywhere else roots
    if dataset != "imagenet":
        return _folder(info, options, progress, image_size, within)
    # ImageNet's own test has no labels; results are told of the images for validation.
    held_out = options.test is not None or options.validation is not None
    options = options if held_out else replace(options, test="val")
    inspected = _folder(info, options, progress, image_size or 224, within)
    colour = replace(inspected.decoding, channels=options.channels or 3)
    described = replace(inspected.info, channels=colour.channels, preset="imagenet")
    return replace(inspected, decoding=colour, info=described)


def _known(info: DatasetInfo, options: DataOptions, image_size: int | None) -> Inspection:
    """What is known of a dataset with a name, whose layout is its own."""
    problems = []
    for name in ("train", "test", "validation", "ignore"):
        if value := getattr(options, name):
            reason = f"{info.name} is split as by its authors"
            problems.append(InvalidValue(f"data.{name}", value, reason, "no such option, or an image folder"))
    if options.background != NO_OPTIONS.background:
        reason = f"the images of {info.name} have no transparent pixels"
        problems.append(InvalidValue("data.background", options.background, reason, "no such option"))
    read = f"the files of torchvision's {LAYOUTS[info.name].reader}" if info.name in LAYOUTS else "scikit-learn's scans"
    shape = Decoding(options.channels or info.channels, image_size or info.image_size, options.background)
    names = previews.class_names(info)
    return Inspection(info.name, info.path, info.kind, read, names, {}, (), shape, info, "", problems=tuple(problems))


def _folder(
    info: DatasetInfo,
    options: DataOptions,
    progress: Progress | None,
    image_size: int | None,
    within: Sequence[str],
) -> Inspection:
    assert info.path is not None
    root = Path(info.path)
    try:
        listing = list_images(root, options, progress, within)
    except OSError as error:
        reason = f"a folder that cannot be read: {(error.strerror or str(error)).lower()}"
        raise InvalidValue("dataset", info.name, reason, "a readable folder") from error
    told = examine_all(root, options.background, listing.files, progress)
    examined = {file: one for file, one in told.items() if isinstance(one, Examined)}
    damaged = {file: one for file, one in told.items() if not isinstance(one, Examined)}
    duplicates, alike = same(examined), nearly_same(examined)
    repeated = _held_out_too(duplicates)
    files = tuple(file for file in listing.files if file not in damaged and file not in repeated)
    counts = _counts(files, listing.class_names)

    size = image_size or _size(examined.values())
    grey = bool(examined) and all(one.grey for one in examined.values())
    decoded = Decoding(options.channels or (1 if grey else 3), max(size, SMALLEST_SIZE), options.background)
    scales: dict[str, Any] = dict(ranges(examined.values()).items())
    decoded = replace(decoded, **scales)
    problems = [_about(problem, info.name) for problem in listing.problems]
    problems += _damage(info.name, damaged, len(told))
    # A dataset that is wrong in one way often is in others too, which would say the same again.
    problems = problems or [*_unusable(info.name, examined, image_size)]
    problems = problems or [*_repeats(info.name, duplicates, examined, listing.class_names)]
    problems = problems or [*_too_few(info.name, counts)]
    preset = "digits" if size <= 16 else "cifar10" if size <= 96 else "imagenet"
    described = replace(
        info,
        classes=len(listing.class_names),
        channels=decoded.channels,
        image_size=decoded.size,
        images=len(files),
        preset=preset,
    )
    contents = {file: one.content for file, one in examined.items()}
    return Inspection(
        info.name,
        str(root),
        "folder",
        listing.layout,
        listing.class_names,
        counts,
        files,
        decoded,
        described,
        fingerprint(Entry(*file, contents.get(file, "")) for file in listing.files),
        examined=len(told),
        sizes=counted(f"{one.size[0]}×{one.size[1]}" for one in examined.values()),
        modes=counted(one.mode for one in examined.values()),
        bit_depths=counted(one.bits for one in examined.values()),
        orientations=counted(one.orientation for one in examined.values()),
        left_out=_together([*listing.left_out, *_by_reason(damaged), *_by_reason(repeated)]),
        duplicates=by_place(duplicates),
        nearly_identical=by_place(alike),
        constant=found(file for file, one in examined.items() if one.constant),
        pixels={file.path: one.pixels for file, one in examined.items()},
        damaged={file.path: reason for file, reason in damaged.items()},
        notes=tuple(_notes(examined, decoded, len(listing.files), len(told))),
        warnings=(*listing.warnings, *_warnings(examined, counts, decoded, duplicates, alike, damaged, repeated)),
        problems=tuple(problems),
    )


def _about(problem: InvalidValue, dataset: str) -> InvalidValue:
    """The problem with the dataset as what was given, where nothing was."""
    value = readable(dataset) if problem.value is None and problem.field == "dataset" else problem.value
    return InvalidValue(problem.field, value, problem.reason, problem.accepted, problem.choices)


def _counts(files: Iterable[ImageFile], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images per part and class, of the parts that there are."""
    found = Counter((file.part, file.label) for file in files)
    there = {part for part, _ in found}
    return {part: {name: found[part, label] for label, name in enumerate(names)} for part in PARTS if part in there}


def _size(examined: Iterable[Examined]) -> int:
    """The median of the shorter sides, at most `LARGEST_SIZE`."""
    sides = [min(one.size) for one in examined]
    return min(median_low(sides), LARGEST_SIZE) if sides else 32


def _by_reason(files: Mapping[ImageFile, str]) -> list[LeftOut]:
    paths = defaultdict(list)
    for file in sorted(files):
        paths[files[file]].append(readable(file.path))
    return [LeftOut(reason, len(some), tuple(some[:EXAMPLES])) for reason, some in paths.items()]


def _together(left_out: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One of each reason, that with the most files first."""
    by_reason: dict[str, LeftOut] = {}
    for one in left_out:
        before = by_reason.get(one.reason, LeftOut(one.reason, 0, ()))
        examples = (*before.examples, *one.examples)[:EXAMPLES]
        by_reason[one.reason] = LeftOut(one.reason, before.count + one.count, examples)
    found = sorted(by_reason.values(), key=lambda one: (-one.count, one.reason))
    rest = found[MOST_REASONS:]
    if rest:
        found[MOST_REASONS:] = [LeftOut("other reasons", sum(one.count for one in rest), rest[0].examples)]
    return tuple(found)


def _held_out_too(duplicates: Sequence[Sequence[ImageFile]]) -> dict[ImageFile, str]:
    """The images that are not used, since a part that is held out has the same: what is tested is never trained on."""
    repeated = {}
    for group in duplicates:
        last = max((file.part for file in group), key=PARTS.index)
        for file in group:
            if file.part != last:
                repeated[file] = f"for {file.part}, with the same pixels as an image for {last}"
    return repeated


# What refuses a dataset


def _damage(dataset: str, damaged: Mapping[ImageFile, str], looked_at: int) -> Iterator[InvalidValue]:
    if len(damaged) > UNREADABLE_SHARE * looked_at:
        reasons = sorted(_by_reason(damaged), key=lambda one: -one.count)
        told = "; ".join(f"{one.count} × {one.reason} ({', '.join(one.examples[:2])})" for one in reasons[:EXAMPLES])
        reason = f"{len(damaged)} of {looked_at} images cannot be read: {told}"
        accepted = f"at most {UNREADABLE_SHARE:.0%} that cannot be read; --ignore leaves out what is not meant"
        yield InvalidValue("dataset", dataset, reason, accepted)


def _repeats(
    dataset: str,
    duplicates: Sequence[Sequence[ImageFile]],
    examined: Mapping[ImageFile, Examined],
    names: Sequence[str],
) -> Iterator[InvalidValue]:
    """Refuse a part that repeats another, and a class that does."""
    shared = [file for group in duplicates if len({one.part for one in group}) > 1 for file in group]
    for part in PARTS[1:]:
        of_part = [file for file in examined if file.part == part]
        again = [file for file in shared if file.part == part]
        if of_part and len(again) == len(of_part):
            reason = f"each of its {len(again)} images is in another part too, pixel for pixel: {_first(again)}"
            yield InvalidValue(f"data.{part}", None, reason, "images of its own, or none: --ignore leaves it out")
    pixels: dict[int, set[str]] = defaultdict(set)
    for file, one in examined.items():
        pixels[file.label].add(one.pixels)
    by_pixels: dict[frozenset[str], list[int]] = defaultdict(list)
    for label, some in pixels.items():
        by_pixels[frozenset(some)].append(label)
    for labels in by_pixels.values():
        if len(labels) > 1:
            told = " and ".join(repr(names[label]) for label in sorted(labels)[:EXAMPLES])
            reason = f"classes {told} hold the same images, pixel for pixel"
            yield InvalidValue("dataset", dataset, reason, "images that differ between classes")


def _too_few(dataset: str, counts: Mapping[str, Mapping[str, int]]) -> Iterator[InvalidValue]:
    """Refuse classes without enough images to train on, and parts that hold too few classes to mean anything."""
    few = {name: count for name, count in counts.get("train", {}).items() if count < FEWEST}
    if few:
        told = ", ".join(f"class {name!r} has {count} images" for name, count in list(few.items())[:EXAMPLES])
        more = f" and {len(few) - EXAMPLES} more classes" if len(few) > EXAMPLES else ""
        yield InvalidValue("dataset", dataset, f"{told}{more}", f"at least {FEWEST} training images per class")
    for part in PARTS[1:]:
        there = [name for name, count in counts.get(part, {}).items() if count]
        if len(there) == 1:
            reason = f"images of one class only, {there[0]!r}"
            yield InvalidValue(f"data.{part}", None, reason, "images of every class, or none: --ignore leaves it out")


def _unusable(dataset: str, examined: Mapping[ImageFile, Examined], size: int | None) -> Iterator[InvalidValue]:
    """Refuse images from which nothing can be learned."""
    colours = {one.thumbnail if one.constant else None for one in examined.values()}
    if len(colours) == 1 and None not in colours:
        reason = f"all images are of the same single colour: {_first(examined)}"
        yield InvalidValue("dataset", dataset, reason, "images that differ; --background for transparent ones")
    if size is None and examined and (shorter := _size(examined.values())) < SMALLEST_SIZE:
        small = [file for file, one in examined.items() if min(one.size) < SMALLEST_SIZE]
        reason = (
            f"{len(small)} of {len(examined)} images have fewer than {SMALLEST_SIZE} pixels a side: {_first(small)}"
        )
        yield InvalidValue("data.image_size", shorter, reason, f"images of {SMALLEST_SIZE} pixels or more")


# What is said


def _first(files: Iterable[ImageFile]) -> str:
    paths = sorted(readable(file.path) for file in files)
    return ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")


def _said(what: str, some: Sequence[ImageFile], examined: Mapping[ImageFile, Examined]) -> str:
    return f"{what}: {len(some):,} of {len(examined):,} images ({_first(some)})"


def _notes(examined: Mapping[ImageFile, Examined], decoded: Decoding, listed: int, looked_at: int) -> Iterator[str]:
    """What is done to the images."""
    if looked_at < listed:
        yield f"decoded for this report: {looked_at:,} of {listed:,} images"
    square, side = (decoded.size, decoded.size), f"{decoded.size}×{decoded.size}"
    kinds = (("integers", "whole numbers of more than 8 bits"), ("floats", "floating-point numbers"))
    done: list[tuple[str, Callable[[Examined], bool]]] = [
        (
            f"scaled to cover {side} pixels and cropped at the centre",
            lambda one: one.size != square,
        ),
        ("made grey", lambda one: decoded.channels == 1 and not one.grey),
        ("turned upright, as the orientation tag says", lambda one: one.orientation != 1),
        (f"transparent pixels replaced by {decoded.background}", lambda one: one.transparent),
    ]
    for kind, name in kinds:
        low, high = getattr(decoded, kind)
        done.append((f"{name} scaled from {low:g} … {high:g}", lambda one, kind=kind: one.kind == kind))  # type: ignore[misc]
    done.append(("only the first of several images in the file used", lambda one: one.several))
    for what, applies in done:
        if some := [file for file, one in examined.items() if applies(one)]:
            yield _said(what, some, examined)


def _warnings(
    examined: Mapping[ImageFile, Examined],
    counts: Mapping[str, Mapping[str, int]],
    decoded: Decoding,
    duplicates: Sequence[Sequence[ImageFile]],
    alike: Sequence[Sequence[ImageFile]],
    damaged: Mapping[ImageFile, str],
    repeated: Mapping[ImageFile, str],
) -> Iterator[str]:
    """What the user should know."""
    train = {name: count for name, count in counts.get("train", {}).items() if count}
    for part in PARTS[1:]:
        lacking = [name for name, count in counts.get(part, {}).items() if not count and name in train]
        if lacking:
            told = ", ".join(map(repr, lacking[:EXAMPLES])) + (", …" if len(lacking) > EXAMPLES else "")
            covered = f"its accuracy covers {len(counts[part]) - len(lacking)} of {len(counts[part])} classes"
            yield f"no images for {part} of {told}: {covered}"
    if train and max(train.values()) >= IMBALANCE * min(train.values()):
        most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        share = train[most] / sum(train.values())
        yield (
            f"class sizes differ strongly: {train[most]:,} images of {most!r}, {train[least]:,} of {least!r}; "
            f"always answering {most!r} would be right for {share:.1%}"
        )
    if damaged:
        yield f"left out, as they cannot be read: {len(damaged):,} images ({_first(damaged)})"
    if repeated:
        yield f"left out, as held-out images have the same pixels: {len(repeated):,} images ({_first(repeated)})"
    for what, groups in (("the same pixels", duplicates), ("nearly identical", alike)):
        mixed = [group for group in groups if len({file.label for file in group}) > 1]
        across = [group for group in groups if len({file.part for file in group}) > 1]
        if mixed:
            yield _said(f"{what} in more than one class", [file for group in mixed for file in group], examined)
        if across:
            yield _said(f"{what} in more than one part", [file for group in across for file in group], examined)
        if within := [file for group in groups if group not in mixed and group not in across for file in group]:
            yield _said(f"{what} more than once", within, examined)
    if constant := [file for file, one in examined.items() if one.constant]:
        yield _said("of a single colour", constant, examined)
    if small := [file for file, one in examined.items() if min(one.size) * 4 <= decoded.size]:
        yield _said("so small that they are enlarged four times or more", small, examined)
    if long := [file for file, one in examined.items() if max(one.size) > 3 * min(one.size)]:
        yield _said("over three times as long as wide, so that most is cropped", long, examined)
    for kind in ("integers", "floats"):
        low, high = getattr(decoded, kind)
        deep = {file: one for file, one in examined.items() if one.kind == kind and not one.constant}
        poor = [file for file, one in deep.items() if (one.values[1] - one.values[0]) * 16 < high - low]
        if len(poor) * 2 > len(deep):
            yield _said(f"fewer than 16 of 256 shades, as all are scaled from {low:g} … {high:g}", poor, deep)


# The contact sheet


def _named_rows(info: DatasetInfo, decoded: Decoding) -> tuple[list[Row], str]:
    """Images of the first classes of a dataset that has a name, and what is not shown."""
    try:
        rows = previews.rows(info, decoded)
    except MemoryError:
        raise
    except ImportError as error:
        return [], f"to show its images, {error.name} must be installed here"
    except Exception as error:  # damaged files make their readers raise anything
        return [], f"its files cannot be read: {error}"
    return rows, f"and {info.classes - len(rows):,} more classes" if info.classes > len(rows) else ""


def _rows(inspection: Inspection) -> tuple[list[Row], str]:
    """Images of the first classes, decoded, and what is not shown."""
    grouped: dict[tuple[int, str], list[ImageFile]] = defaultdict(list)
    for file in inspection.files:
        grouped[file.label, file.part].append(file)
    order = sorted(grouped, key=lambda key: (key[0], PARTS.index(key[1])))
    rows: list[Row] = []
    for label, part in order[:MOST_ROWS]:
        files, images = grouped[label, part], []
        for file in files[:: max(1, len(files) // MOST_IMAGES)][:MOST_IMAGES]:
            try:
                images.append(decoding.decode(Path(inspection.path or "") / file.path, inspection.decoding))
            except OSError:
                continue  # it went, or is one of those that were not looked at
        rows.append((inspection.class_names[label], f"{part}, {len(files):,}", images))
    classes = len({label for label, _ in order}) - len({label for label, _ in order[:MOST_ROWS]})
    return rows, f"and {classes:,} more classes" if classes else ""
