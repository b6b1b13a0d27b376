"""Which images a folder holds, of which class and in which part: the one place that knows how datasets are laid out.

What is certain is used, under any of the usual names and in any case. What could be read in two ways is refused, with
the options that say which is meant (`DataOptions`). Every file is in a part, or is counted among what is left out.
"""

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nas_core.data import decoding
from nas_core.errors import InvalidValue
from nas_core.spec import NO_OPTIONS, DataOptions

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".qoi", ".ico", ".psd", ".dds", ".tga"),
    *decoding.UNDECODED_SUFFIXES,  # which are told of as damage: they are images to whoever put them there
)
"""Files with these suffixes are taken for images until they are decoded; of other files the content is looked at."""

EXAMPLES = 5
"""How many of a kind are named."""

Progress = Callable[[str, int, int | None], None]
"""What is told of the progress: what is done, how many so far, and of how many, where that is known."""


class ImageFile(NamedTuple):
    """An image of a folder: its path below the dataset, its class and part, and its size and time of change."""

    path: str
    label: int
    part: Part
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class LeftOut:
    """Files that are not used, for one reason: how many, and the first of them."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What a folder holds, by names and numbers alone.

    `layout` says in words how it was read. `files` are in the order of part, class and path, and empty where there are
    `problems`; together with what was `left_out` they are all files of the folder.
    """

    layout: str
    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    problems: tuple[InvalidValue, ...]


def list_images(
    root: Path,
    options: DataOptions = NO_OPTIONS,
    progress: Progress | None = None,
    within: Sequence[str] = (),
) -> Listing:
    """List the images below `root` by class and part. Files are looked at only where their suffix says too little.

    Links may lead below the folders `within` alone, or anywhere where there are none. Raises `OSError` where `root`
    itself cannot be read.
    """
    left = _LeftOut()
    folders = _walk(root, options.ignore, [Path(os.path.realpath(one)) for one in within], left, progress)
    reading = _Reading(options, left)
    members = reading.read(folders[0])
    names = sorted({name for _, name, _ in members})
    labels = {name: label for label, name in enumerate(names)}
    ends = reading.barriers | {id(folder) for _, _, folder in members}
    files: list[ImageFile] = []
    taken: set[int] = set()
    for part, name, folder in members:
        for one in folder.all_below(ends - {id(folder)}):
            taken.add(id(one))
            files += [ImageFile(one.of(file.name), labels[name], part, *file[1:]) for file in one.images]
    for folder in folders:
        if id(folder) not in taken:
            for file in folder.images:
                left.add(reading.reason_not_used(folder), folder.of(file.name))
    order = {part: number for number, part in enumerate(PARTS)}
    files.sort(key=lambda file: (order[file.part], file.label, file.path))
    words = reading.words if members else "not recognised"
    return Listing(words, tuple(names), tuple(files), left.sorted(), tuple(reading.warnings), tuple(reading.problems))


def readable(name: str) -> str:
    """A name that can be shown and stored: composed as Unicode's NFC, with bytes that are no UTF-8 written as \\xe9."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", shown)


# The tree of folders


class _File(NamedTuple):
    name: str
    size: int
    mtime_ns: int


@dataclass(eq=False)
class _Folder:
    """A folder that was walked; `total` counts the images in it and below."""

    path: str
    parent: "_Folder | None" = None
    left_out: str = ""
    folders: dict[str, "_Folder"] = field(default_factory=dict)
    images: list[_File] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)  # to folders that were walked already
    total: int = 0

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def shown(self) -> str:
        return f"{readable(self.path)}/" if self.path else "the folder itself"

    def of(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def holding(self) -> list["_Folder"]:
        """The sub-folders that hold images."""
        return [folder for folder in self.folders.values() if folder.total]

    def all_below(self, skip: Collection[int] = ()) -> Iterator["_Folder"]:
        """This folder and all below it, but for those whose id is in `skip` and what is below these."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            if id(folder) not in skip:
                yield folder
                waiting += folder.folders.values()

    def is_within(self, other: "_Folder") -> bool:
        folder: _Folder | None = self
        while folder is not None and folder is not other:
            folder = folder.parent
        return folder is not None


class _LeftOut:
    """Counts what is left out, by reason."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, path: str) -> None:
        reason = readable(reason)
        count, examples = self.found.get(reason, (0, []))
        if len(examples) < EXAMPLES:
            examples.append(readable(path))
        self.found[reason] = (count + 1, examples)

    def sorted(self) -> tuple[LeftOut, ...]:
        by_count = sorted(self.found.items(), key=lambda item: (-item[1][0], item[0]))
        return tuple(LeftOut(reason, count, tuple(examples)) for reason, (count, examples) in by_count)


_SYSTEM = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "lost+found"),
    *("$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("__pycache__", "icon\r"),
}
"""What systems leave in folders, besides names that begin with a dot."""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM


def _matching(path: str, name: str, patterns: Sequence[str]) -> str | None:
    """The first of the `patterns` that matches the name or the path; one that begins with "/" is for the path alone."""
    for pattern in patterns:
        if fnmatchcase(f"/{path}", f"/{pattern.strip('/')}") or fnmatchcase(name, pattern.rstrip("/")):
            return pattern
    return None


def _walk(
    root: Path, ignore: Sequence[str], within: Sequence[Path], left: _LeftOut, progress: Progress | None
) -> list[_Folder]:
    """Every folder below `root`, parents first; each folder once, by whatever way it is reached first.

    Links are followed after all that is no link, so that a folder keeps its own name.
    """
    top = _Folder("")
    folders: list[_Folder] = []
    seen: dict[tuple[int, int], str] = {}
    for above in Path(os.path.realpath(root)).parents:
        try:
            seen[_identity(os.stat(above))] = "a folder above the dataset"
        except OSError:
            continue
    seen[_identity(os.stat(root))] = "the dataset itself"
    os.scandir(root).close()  # raises where the root cannot be read
    waiting, links = [top], list[tuple[_Folder, str]]()
    unknown: list[tuple[_Folder, _File]] = []
    listed = 0
    while waiting or links:
        if not waiting:
            links.sort(key=lambda link: link[0].of(link[1]), reverse=True)
            parent, name = links.pop()
            _enter(root, _Folder(parent.of(name), parent), seen, waiting, left)
            continue
        folder = waiting.pop()
        folders.append(folder)
        try:
            with os.scandir(root / folder.path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            reason = folder.left_out or f"folder that cannot be read: {(error.strerror or str(error)).lower()}"
            left.add(reason, folder.path)
            continue
        for entry in entries:
            path, reason = folder.of(entry.name), folder.left_out
            directory = entry.is_dir(follow_symlinks=False)
            if not reason and _is_hidden(entry.name):
                reason = f"in a hidden or system folder: {entry.name}" if directory else "hidden or system file"
            if not reason and (pattern := _matching(path, entry.name, ignore)):
                reason = f"ignored, as it matches {pattern!r}"
            if not reason and within and entry.is_symlink():
                target = Path(os.path.realpath(root / path))
                if not any(target.is_relative_to(one) for one in within):
                    reason = "link that leads outside the data roots"
            if directory:
                _enter(root, _Folder(path, folder, reason), seen, waiting, left)
            elif reason:
                left.add(reason, path)
            else:
                _sort_in(entry, folder, links, unknown, left)
        listed += len(entries)
        if progress is not None:
            progress("listing", listed, None)
    _look_at(root, unknown, left)
    for folder in reversed(folders):
        folder.images.sort()
        folder.total += len(folder.images)
        if folder.parent is not None:
            folder.parent.total += folder.total
    return folders


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _enter(
    root: Path, folder: _Folder, seen: dict[tuple[int, int], str], waiting: list[_Folder], left: _LeftOut
) -> None:
    """Walk `folder` next, unless it was walked already."""
    assert folder.parent is not None
    if not folder.left_out:
        try:
            identity = _identity(os.stat(root / folder.path))
        except OSError as error:
            left.add(f"folder that cannot be read: {(error.strerror or str(error)).lower()}", folder.path)
            return
        if identity in seen:
            folder.parent.links[folder.name] = seen[identity]
            left.add("folder already read through another path", folder.path)
            return
        seen[identity] = folder.path
        folder.parent.folders[folder.name] = folder
    waiting.append(folder)


_SPECIAL = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}


def _sort_in(
    entry: "os.DirEntry[str]",
    folder: _Folder,
    links: list[tuple[_Folder, str]],
    unknown: list[tuple[_Folder, _File]],
    left: _LeftOut,
) -> None:
    """Say of a file or a link whether it is an image, a folder, or left out."""
    try:
        status = entry.stat()
    except OSError:
        left.add("link that leads nowhere" if entry.is_symlink() else "file that cannot be read", folder.of(entry.name))
        return
    file = _File(entry.name, status.st_size, status.st_mtime_ns)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        links.append((folder, entry.name))
    elif kind != stat.S_IFREG:
        left.add(_SPECIAL.get(kind, "special file"), folder.of(entry.name))
    elif entry.name.lower().endswith(IMAGE_SUFFIXES):
        folder.images.append(file)
    elif not status.st_size:
        left.add("empty file", folder.of(entry.name))
    else:
        unknown.append((folder, file))


def _look_at(root: Path, unknown: Sequence[tuple[_Folder, _File]], left: _LeftOut) -> None:
    """Find the images among files whose suffix does not tell."""

    def wrong(item: tuple[_Folder, _File]) -> str | None:
        folder, file = item
        try:
            with decoding.opened(root / folder.of(file.name)):
                return None
        except OSError as error:
            return decoding.why(error)

    with ThreadPoolExecutor(8, thread_name_prefix="look") as threads:
        for (folder, file), reason in zip(unknown, threads.map(wrong, unknown), strict=True):
            if reason is None:
                folder.images.append(file)
            else:
                left.add(reason, folder.of(file.name))


# What the names of folders say

_WORDS: dict[str, str] = {
    **dict.fromkeys(("train", "training", "trn", "tr", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
    **dict.fromkeys(("fold", "kfold"), "fold"),
}
_HOLDERS = ("dataset", "datasets", "data", "images", "imgs")
_BESIDE = (*_HOLDERS, "set", "sets", "image", "img", "pictures", "photos", "files", "split", "folder", "part")


def role(name: str) -> str | None:
    """What the name of a folder says that it holds: "train", "validation", "test", a "fold", or nothing (None)."""
    joined = "".join(word for word in _words(name) if word not in (*_BESIDE, "seg", "x"))
    bare = [joined, *(joined.removesuffix(one) for one in _BESIDE), *(joined.removeprefix(one) for one in _BESIDE)]
    kinds = {_WORDS[one] for one in bare if one in _WORDS}
    if "fold" in kinds and not re.search(r"\d", name):
        return None
    return min(kinds, default=None)


def _words(name: str) -> list[str]:
    """The words of a name, whether parted by case, digits or signs."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return re.findall(r"[^\W\d_]+", parted.casefold())


def seems_to_hold_classes(path: Path, depth: int = 3) -> bool:
    """Whether at least two folders begin with an image, of which only the first few are looked at."""
    try:
        with os.scandir(path) as entries:
            some = [one for one in islice(entries, 50) if not _is_hidden(one.name) and one.is_dir()]
    except OSError:
        return False
    if sum(_begins_with_an_image(folder.path) for folder in some[:8]) >= 2:
        return True
    inner = [one for one in some if role(one.name) == "train"] or some[:2]
    return depth > 0 and any(seems_to_hold_classes(Path(one.path), depth - 1) for one in inner)


def _begins_with_an_image(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(one.name.lower().endswith(IMAGE_SUFFIXES) for one in islice(entries, 8))
    except OSError:
        return False


# How a tree is read

Member = tuple[Part, str, _Folder]
"""A folder all of whose images are of one part and class, but for those of members below it."""

_Way = tuple[str, Mapping[str, Sequence[_Folder]]]
"""Options that resolve a problem, by the folders that they name; before them, in words, when or to what end."""

_ACCEPTED = (
    "a folder with one folder of images per class, or with a folder for training (and for validation and for the test) "
    "that holds these"
)
_PURPOSE = {"train": "training", "validation": "validation", "test": "the test"}


class _Reading:
    """How a tree of folders is read: as which parts and classes, in which words, with what warnings and problems."""

    def __init__(self, options: DataOptions, left: _LeftOut) -> None:
        self.options = options
        self.left = left
        self.words = "not recognised"
        self.warnings: list[str] = []
        self.problems: list[InvalidValue] = []
        self.barriers: set[int] = set()  # folders of one part, which are no classes of another
        self.used: set[int] = set()  # the folders on the way to the members

    def read(self, top: _Folder) -> list[Member]:
        """The members of the dataset; none where it is not clear which there are."""
        if not top.total:
            seen = "; ".join(f"{one.count} × {one.reason}" for one in self.left.sorted()[:3])
            self._refuse("dataset", f"no images{f' ({seen})' if seen else ''}", _ACCEPTED)
            return []
        given = self._given(top)
        parts = {} if self.problems else self._recognised(top, given)
        if self.problems:
            return []
        self.barriers = {id(folder) for folders in parts.values() for folder in folders}
        members: list[Member] = []
        for part in PARTS:
            names = {name for _, name, _ in members}
            for folder in parts.get(part, []):
                members += self._classes(part, folder, names)
        if self.problems:
            return []
        self._check_spellings(members)
        self._check_classes(members)
        for _, _, member in members:
            above: _Folder | None = member
            while above is not None:
                self.used.add(id(above))
                above = above.parent
        return members

    def reason_not_used(self, folder: _Folder) -> str:
        """Why images that lie in `folder` are in no part."""
        if not self.used:
            return "in an unclear layout"
        if id(folder) in self.used:
            return "outside the class folders"
        while folder.parent is not None and id(folder.parent) not in self.used:
            folder = folder.parent
        return f"in {folder.shown}, which is not used"

    def _refuse(self, field: str, reason: str, accepted: str, *ways: _Way, value: object = None) -> None:
        """Note a problem: the `ways` out of it, as options and in words, and else what is `accepted`."""
        told = [f"{' '.join(_options(way))}{words and ' ' + words}" for words, way in ways]
        choices = []
        for _, way in ways:
            choice: dict[str, Any] = {f"data.{key}": _path(found[0]) for key, found in way.items() if key != "ignore"}
            if ignored := [_pattern(folder) for folder in way.get("ignore", ())]:
                choice["data.ignore"] = [*self.options.ignore, *ignored]
            if all(readable(text) == unicodedata.normalize("NFC", text) for texts in choice.values() for text in texts):
                choices.append(choice)  # others cannot be written in a request
        accepted = ", or ".join([*told, *([accepted] if accepted else [])])
        shown = readable(value) if isinstance(value, str) else value
        self.problems.append(InvalidValue(field, shown, reason, accepted, choices))

    def _given(self, top: _Folder) -> dict[Part, list[_Folder]]:
        """The folders that the user named."""
        given: dict[Part, list[_Folder]] = {}
        for part in PARTS:
            path = getattr(self.options, part)
            if path is None:
                continue
            folder = _at(top, path)
            if folder is None or not folder.total:
                reason = "no such folder in the dataset" if folder is None else "no images in this folder"
                self._refuse(f"data.{part}", reason, f"one of {_named(_deep(top))}", value=path)
            elif twin := next((other for other, folders in given.items() if folder in folders), None):
                self._refuse(f"data.{part}", f"the folder of data.{twin} too", "a folder for each part", value=path)
            else:
                given[part] = [folder]
        return given

    def _recognised(self, top: _Folder, given: dict[Part, list[_Folder]]) -> dict[Part, list[_Folder]]:
        """The folders of each part: those `given`, and what the names of the others say."""
        taken = [folder for folders in given.values() for folder in folders]
        train = given.get("train", [])
        base = train[0].parent if train else _unwrapped(top, {id(folder) for folder in taken})
        if base is None:  # the user said that the dataset itself is for training
            self.words = self._described(given, top)
            return given
        kinds: dict[str, list[_Folder]] = {"": []}
        for folder in base.folders.values():
            if not any(folder.is_within(one) or one.is_within(folder) for one in taken):
                kinds.setdefault(role(folder.name) or "", []).append(folder)
        others = [folder for folder in kinds[""] if folder.total]
        found = {kind: [one for one in folders if one.total] or folders for kind, folders in kinds.items() if kind}
        self._check_links(base, given)
        parts = dict(given)
        if not train and any(base.is_within(folder) for folder in taken):
            self._refuse("data.train", f"all images in {base.shown} are held out", "--train with a folder of its own")
            return {}
        if not train:
            parts["train"] = self._training(base, given, found, others)
        elif others := [*others, *found.get("train", []), *found.get("fold", [])]:
            images = sum(folder.total for folder in others)
            self.warnings.append(f"{_named(others)} not used: {images} images")
        for part in PARTS[1:]:
            candidates = [] if part in given else found.get(part, [])
            if base in parts["train"] and not any(one.total for one in candidates):
                continue
            if len(candidates) > 1:
                self._refuse_choice(part, candidates)
            elif candidates and not candidates[0].total:
                reason = f"no images in {candidates[0].shown}"
                self._refuse(f"data.{part}", reason, "images of every class in it", ("", {"ignore": candidates}))
            elif candidates:
                parts[part] = candidates
        self.words = self._described(parts, top)
        return parts

    def _training(
        self,
        base: _Folder,
        given: dict[Part, list[_Folder]],
        found: dict[str, list[_Folder]],
        others: list[_Folder],
    ) -> list[_Folder]:
        """The folders to train on, where the user named none."""
        held_out = [one for part in PARTS[1:] for one in found.get(part, []) if one.total]
        folds = [one for one in found.get("fold", []) if one.total]
        train = [one for one in found.get("train", []) if one.total]
        part = role(held_out[0].name) or "test" if held_out else ""
        if folds:
            alone = not others and not train
            if alone and not held_out and any(part in given for part in PARTS[1:]):
                return folds
            ways: list[_Way] = [("to train on one", {"train": folds[:1]}), ("if folds are classes", {"train": [base]})]
            if alone and not held_out:
                ways.insert(0, ("to train on the other folds", {"test": folds[:1]}))
            elif alone and len(held_out) == 1:
                ways.insert(0, ("to train on all folds", {part: held_out}))
            self._refuse("data.test", f"{_named(folds)} read as folds, for training or for the test", "", *ways)
        elif len(train) > 1:
            self._refuse_choice("train", train)
        elif train and others:
            self._refuse(
                "data.train",
                f"{train[0].shown} looks like the training images, but next to it are {_named(others)}",
                "",
                ("to use that folder", {"train": train}),
                ("to leave the others out", {"ignore": others}),
                ("if all of them are classes", {"train": [base]}),
            )
        elif train:
            return train
        elif held_out and others:
            self._refuse(
                "data.train",
                f"{_named(held_out)} looks like images for {_PURPOSE[part]}, next to {_named(others)}",
                "",
                ("if the others are the training classes", {"train": [base], part: held_out}),
                ("if all of them are classes", {"train": [base]}),
                ("to leave it out", {"ignore": held_out}),
            )
        elif held_out:
            reason = f"no training images: {_named(held_out)} looks like images for {_PURPOSE[part]}"
            self._refuse("data.train", reason, "a folder for training", ("", {"train": held_out}))
        return train or [base]

    def _refuse_choice(self, part: Part, candidates: list[_Folder]) -> None:
        ways: list[_Way] = [("", {part: [one]}) for one in candidates[:EXAMPLES]]
        self._refuse(f"data.{part}", f"{_named(candidates)} all look like images for {_PURPOSE[part]}", "", *ways)

    def _check_links(self, base: _Folder, given: dict[Part, list[_Folder]]) -> None:
        for name, target in base.links.items():
            kind = role(name)
            if kind in PARTS and kind not in given:
                link = _Folder(base.of(name), base)
                reason = f"{link.shown} leads to {readable(target)}, which is already read"
                self._refuse(f"data.{kind}", reason, "a folder of its own", ("", {"ignore": [link]}), value=name)

    def _classes(self, part: Part, folder: _Folder, trained: Collection[str]) -> list[Member]:
        """The class folders in a folder of a part."""
        named = getattr(self.options, part) is not None
        others = self.barriers - {id(folder)}
        inner = _unwrapped(folder, others, part, trained)
        classes = [one for one in inner.folders.values() if _holds_images(one, others)]
        if not classes:
            reason = f"{inner.total} images in {inner.shown}, in no class folders"
            ways: list[_Way] = [] if part == "train" else [("to leave them out", {"ignore": [folder]})]
            self._refuse(f"data.{part}", reason, "one folder of images per class", *ways)
            return []
        if part == "train" and not named and (members := self._parts_inside(classes)) is not None:
            return members
        empty = [one for one in inner.folders.values() if not one.total and not role(one.name)]
        if empty:
            self.warnings.append(f"class folders without images: {_named(empty)}")
        if inner.links:
            links = [_Folder(inner.of(name)) for name in sorted(inner.links)]
            self.warnings.append(f"links to folders that are already read: {_named(links)}")
        if not named:
            self._check_names(part, inner, classes)
        deeper = [one for one in classes if one.holding() and id(one) not in others]
        if deeper:
            self.warnings.append(f"images in sub-folders count for their class: {_named(deeper)}")
        return [(part, readable(one.name), one) for one in classes]

    def _parts_inside(self, classes: list[_Folder]) -> list[Member] | None:
        """The members where every class folder holds folders of the parts; None where none does."""
        inside = {id(one): [(role(below.name), below) for below in one.holding()] for one in classes}
        if not any(kind for found in inside.values() for kind, _ in found):
            return None
        members: list[Member] = []
        regular = len(self.barriers) == 1 and role(classes[0].parent.name if classes[0].parent else "") is None
        for one in classes:
            kinds = [kind for kind, _ in inside[id(one)]]
            regular = regular and "train" in kinds and len(set(kinds)) == len(kinds) and not one.images
            for kind, below in inside[id(one)]:
                regular = regular and kind in PARTS and len(below.holding()) < 2
                members.append((kind, readable(one.name), below))  # type: ignore[arg-type]
        if regular:
            self.words = "one folder per class, each with " + " and ".join(
                f"{name}/" for name in sorted({below.name for found in inside.values() for _, below in found})
            )
            return members
        examples = [below for found in inside.values() for kind, below in found if kind]
        base = classes[0].parent or classes[0]
        ways: list[_Way] = [("if these are not parts", {"train": [base]})]
        whole = [one for one in classes if _holds_parts(one)]
        train = [below for one in whole for below in one.holding() if role(below.name) == "train"]
        if train:
            ways.insert(0, ("to use that folder", {"train": train[:1]}))
        reason = f"{_named(examples)} look like parts of a dataset, inside what look like classes"
        self._refuse("data.train", reason, "", *ways)
        return []

    def _check_names(self, part: Part, inner: _Folder, classes: list[_Folder]) -> None:
        """Refuse what is hardly meant to be a class."""
        own = {readable(one.name): one for one in classes}
        as_it_is: _Way = ("if it is a class", {part: [inner]})
        for one in classes:
            if role(one.name):
                ways: list[_Way] = [as_it_is, ("to leave it out", {"ignore": [one]})]
                parts = {kind: [c] for c in reversed(classes) if (kind := role(c.name)) in PARTS and c.holding()}
                if part == "train" and "train" in parts:
                    ways.insert(
                        0, ("to use what look like parts", {kind: parts[kind] for kind in PARTS if kind in parts})
                    )
                self._refuse(f"data.{part}", f"{one.shown} is not a class name", "", *ways)
                return
            if len(classes) > 1 and one.name.casefold() in _HOLDERS:
                reason = f"{one.shown} is unlikely to be a class next to {_named([c for c in classes if c is not one])}"
                self._refuse(f"data.{part}", reason, "", ("to leave it out", {"ignore": [one]}), as_it_is)
                return
            for below in one.all_below():
                if below is one or not below.total:
                    continue
                if readable(below.name) in own and below.name != one.name:
                    reason = f"{below.shown} repeats {own[readable(below.name)].shown}"
                    self._refuse(f"data.{part}", reason, "", ("to leave it out", {"ignore": [one]}), as_it_is)
                    return
                if role(below.name):
                    reason = f"{below.shown} looks like a part of a dataset, inside the class {readable(one.name)!r}"
                    left_out: _Way = ("to leave it out", {"ignore": [below]})
                    self._refuse(f"data.{part}", reason, "", ("if it belongs to the class", {part: [inner]}), left_out)
                    return
        as_they_are: _Way = ("if these are classes", {part: [inner]})
        if named := _names_of_parts(classes):
            reason = f"{_named(named)} could name a part or a class"
            self._refuse(f"data.{part}", reason, "a folder for each part, with class folders in it", as_they_are)
        elif alike := _alike(classes):
            reason = f"{_named(alike)} hold folders of the same names, as the parts, sources or copies of a dataset do"
            ways = [as_they_are, ("to use one of them", {part: alike[:1]})]
            if part == "train" and len(alike) > 1:
                ways.insert(1, ("to train on one and test on another", {"train": alike[:1], "test": alike[1:2]}))
            self._refuse(f"data.{part}", reason, "", *ways)

    def _check_spellings(self, members: Sequence[Member]) -> None:
        """Say which class folders are spelled in two ways that look alike, and are one class."""
        spelled: dict[str, set[str]] = {}
        for _, name, folder in members:
            own = folder if readable(folder.name) == name or folder.parent is None else folder.parent
            spelled.setdefault(name, set()).add(own.name)
        for name, spellings in spelled.items():
            if len(spellings) > 1:
                told = " and ".join(ascii(one) for one in sorted(spellings))
                self.warnings.append(f"class {name!r} is spelled in ways that look alike and are read as one: {told}")

    def _check_classes(self, members: Sequence[Member]) -> None:
        """Refuse what cannot be a classification, and classes that are held out but not trained."""
        trained = {name for part, name, _ in members if part == "train"}
        if len(trained) < 2:
            reason = f"images of one class only, {next(iter(trained))!r}" if trained else "no images in class folders"
            deeper = [folder for part, _, folder in members if part == "train" and len(folder.holding()) > 1]
            ways: list[_Way] = [("to use that folder", {"train": deeper[:1]})] if deeper else []
            self._refuse(
                "dataset", reason, "at least two class folders; --train names the folder that holds them", *ways
            )
        alike = {_shape(name): name for name in trained}
        for part in PARTS[1:]:
            held_out = {name: folder for of, name, folder in members if of == part and name not in trained}
            for name in sorted(held_out)[:EXAMPLES]:
                near = alike.get(_shape(name))
                hint = f" (spelled {name!a}; for training {near!a})" if near else ""
                reason = f"class {name!r} is held out for {_PURPOSE[part]}, but not among the training images{hint}"
                way: _Way = ("to leave it out", {"ignore": [held_out[name]]})
                self._refuse(f"data.{part}", reason, "training images of every class", way)
            if len(held_out) > EXAMPLES:
                reason = f"{len(held_out) - EXAMPLES} more classes are held out for {_PURPOSE[part]} alone"
                self._refuse(f"data.{part}", reason, "training images of every class")

    def _described(self, parts: dict[Part, list[_Folder]], top: _Folder) -> str:
        train = parts["train"]
        if len(parts) == 1:
            inside = _unwrapped(train[0], part="train")
            return "one folder per class" + (f" in {inside.shown}" if inside is not top else "")
        told = [f"{_named(parts[part])} for {_PURPOSE[part]}" for part in PARTS if part in parts]
        return "one folder per class in " + ", ".join(told)


def _names_of_parts(classes: Sequence[_Folder]) -> list[_Folder]:
    """The class folders whose names speak of parts, as train_cats and test_cats do, where they speak of several."""
    kinds = {id(one): {_WORDS[word] for word in _words(one.name) if word in _WORDS} - {"fold"} for one in classes}
    several = "train" in set().union(*kinds.values()) and len(set().union(*kinds.values())) > 1
    return [one for one in classes if several and kinds[id(one)]]


def _alike(classes: Sequence[_Folder]) -> list[_Folder]:
    """The class folders that hold several folders with images, of which others hold ones of the same names."""
    held = {id(one): {readable(below.name) for below in _unwrapped(one).holding()} for one in classes}
    count = Counter(name for names in held.values() for name in names)
    return [one for one in classes if len(held[id(one)]) > 1 and any(count[name] > 1 for name in held[id(one)])]


def _options(way: Mapping[str, Sequence[_Folder]]) -> list[str]:
    """The options of the command line that go a way; of many patterns the first few."""
    told = [f"--{key} {_quoted(_path(found[0]))}" for key, found in way.items() if key != "ignore"]
    ignored = way.get("ignore", ())
    told += [f"--ignore {_quoted(_pattern(folder))}" for folder in ignored[:3]]
    return told + (["…"] if len(ignored) > 3 else [])


def _path(folder: _Folder) -> str:
    return folder.path or "."


def _pattern(folder: _Folder) -> str:
    """What leaves out this folder, and no other of its name."""
    return "/" + re.sub(r"([*?[])", r"[\1]", folder.path)


def _holds_parts(folder: _Folder) -> bool:
    kinds = [role(one.name) for one in folder.holding()]
    return kinds.count("train") == 1 and all(len(one.holding()) > 1 for one in folder.holding() if role(one.name))


def _shape(name: str) -> str:
    """What a name looks like, roughly: without case, accents' codes, spaces and what cannot be seen."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(one for one in folded if one.isalnum())


def _quoted(path: str) -> str:
    shown = readable(path)
    return shown if re.fullmatch(r"[\w./+-]+", shown) else "'" + shown + "'"


def _named(folders: Sequence[_Folder]) -> str:
    names = [folder.shown for folder in folders]
    if len(names) > EXAMPLES:
        return ", ".join(names[:EXAMPLES]) + f" and {len(names) - EXAMPLES} more"
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _deep(top: _Folder) -> list[_Folder]:
    """The folders that hold class folders, as far as one can tell."""
    return [folder for folder in top.all_below() if len(folder.holding()) > 1] or top.holding()


def _at(top: _Folder, path: str) -> _Folder | None:
    folder: _Folder | None = top
    for name in path.split("/") if path != "." else ():
        folder = folder.folders.get(name) if folder else None
    return folder


def _holds_images(folder: _Folder, barriers: Collection[int]) -> bool:
    return any(one.images for one in folder.all_below(barriers))


def _unwrapped(
    folder: _Folder, barriers: Collection[int] = (), part: str | None = None, classes: Collection[str] = ()
) -> _Folder:
    """The folder in which a single folder holds everything, at whatever depth.

    A folder with the name of a part (other than `part`) or of one of the `classes` is no mere wrapper.
    """
    while not folder.images:
        holding = [one for one in folder.folders.values() if _holds_images(one, barriers)]
        if len(holding) != 1 or not any(_holds_images(one, barriers) for one in holding[0].folders.values()):
            break
        if role(holding[0].name) not in (None, part) or readable(holding[0].name) in classes:
            break
        folder = holding[0]
    return folder
