"""Which images a folder holds, of which class and in which part: the one place that knows how datasets are laid out.

What is certain is used, under any of the usual names and in any case. What could be read in two ways is refused, with
the options that say which is meant (`DataOptions`). Every file is in a part, or is counted among what is left out.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from nas_core import decoding
from nas_core.errors import InvalidValue
from nas_core.spec import NO_OPTIONS, DataOptions

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".qoi", ".ico", ".psd", ".dds", ".tga"),
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


def list_images(root: Path, options: DataOptions = NO_OPTIONS, progress: Progress | None = None) -> Listing:
    """List the images below `root` by class and part. Files are looked at only where their suffix says too little.

    Raises `OSError` where `root` itself cannot be read.
    """
    left = _LeftOut()
    folders = _walk(root, options.ignore, left, progress)
    top = folders[0]
    reading = _Reading(options)
    members = reading.read(top)
    names = sorted({name for _, name, _ in members if name is not None})
    files: list[ImageFile] = []
    if not reading.problems:
        number = {name: label for label, name in enumerate(names)}
        taken: set[int] = set()
        skip = {id(folder) for _, _, folder in members}
        for part, name, folder in members:
            for one in folder.all_below(skip - {id(folder)}):
                taken.add(id(one))
                files += [ImageFile(one.of(file.name), number[name], part, *file[1:]) for file in one.images]
    else:
        taken = set()
    for folder in folders:
        if id(folder) not in taken:
            for file in folder.images:
                left.add(reading.reason_not_used(folder), folder.of(file.name))
    order = {part: number for number, part in enumerate(PARTS)}
    files.sort(key=lambda file: (order[file.part], file.label, file.path))
    return Listing(
        reading.words, tuple(names), tuple(files), left.sorted(), tuple(reading.warnings), tuple(reading.problems)
    )


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
    for pattern in patterns:
        if fnmatchcase(name, pattern) or fnmatchcase(path, pattern.strip("/")):
            return pattern
    return None


def _walk(root: Path, ignore: Sequence[str], left: _LeftOut, progress: Progress | None) -> list[_Folder]:
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
    os.scandir(root).close()  # a root that cannot be read is the caller's
    waiting, links, unknown = [top], [], []  # type: list[_Folder], list[tuple[_Folder, str]], list[tuple[_Folder, _File]]
    listed = 0
    while waiting or links:
        if not waiting:
            links.sort(key=lambda link: link[0].of(link[1]), reverse=True)
            parent, name = links.pop()
            _follow(root, parent, name, seen, waiting, left)
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
            listed += 1
            path, reason = folder.of(entry.name), folder.left_out
            directory = entry.is_dir(follow_symlinks=False)
            if not reason and _is_hidden(entry.name):
                reason = f"in a hidden or system folder: {entry.name}" if directory else "hidden or system file"
            if not reason and (pattern := _matching(path, entry.name, ignore)):
                reason = f"ignored, as it matches {pattern!r}"
            if directory:
                _enter(root, _Folder(path, folder, reason), entry.stat(follow_symlinks=False), seen, waiting, left)
            elif reason:
                left.add(reason, path)
            else:
                _sort_in(entry, folder, links, unknown, left)
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
    root: Path,
    folder: _Folder,
    status: os.stat_result,
    seen: dict[tuple[int, int], str],
    waiting: list[_Folder],
    left: _LeftOut,
) -> None:
    """Walk `folder` next, unless it was walked already."""
    assert folder.parent is not None
    if not folder.left_out:
        identity = _identity(status)
        if identity in seen:
            folder.parent.links[folder.name] = seen[identity]
            left.add("folder that was reached already, through another path", folder.path)
            return
        seen[identity] = folder.path
        folder.parent.folders[folder.name] = folder
    waiting.append(folder)


def _follow(
    root: Path,
    parent: _Folder,
    name: str,
    seen: dict[tuple[int, int], str],
    waiting: list[_Folder],
    left: _LeftOut,
) -> None:
    """Walk the folder that a link leads to."""
    try:
        status = os.stat(root / parent.of(name))
    except OSError:
        left.add("link that leads nowhere", parent.of(name))
        return
    _enter(root, _Folder(parent.of(name), parent), status, seen, waiting, left)


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
        except decoding.Damaged as error:
            return str(error)

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
_BESIDE = ("dataset", "datasets", "set", "data", "images", "image", "imgs", "img", "pictures", "photos", "files")
_BESIDE_TOO = ("seg", "x", "split", "folder", "part", "ds")


def role(name: str) -> str | None:
    """What the name of a folder says that it holds: "train", "validation", "test", a "fold", or nothing (None)."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", parted.casefold())
    telling = [word for word in words if word not in _BESIDE + _BESIDE_TOO] or words
    joined = "".join(telling)
    for beside in ("", *_BESIDE):
        for found in (joined.removesuffix(beside), joined.removeprefix(beside)):
            if (kind := _WORDS.get(found)) and (kind != "fold" or re.search(r"\d", name)):
                return kind
    return None


Member = tuple[Part, str, _Folder]
"""A folder all of whose images, unless another member is below it, are of one part and class."""


class _Reading:
    """How a tree of folders is read: as which parts and classes, in which words, with what warnings and problems."""

    def __init__(self, options: DataOptions) -> None:
        self.options = options
        self.words = ""
        self.warnings: list[str] = []
        self.problems: list[InvalidValue] = []
        self.parts: dict[Part, list[_Folder]] = {}

    def refuse(self, field: str, value: object, reason: str, accepted: str) -> None:
        self.problems.append(InvalidValue(field, value, reason, accepted))

    def reason_not_used(self, folder: _Folder) -> str:
        """Why the images in `folder` are in no part."""
        if self.problems:
            return "in a layout that is not clear"
        return "outside the class folders"

    def read(self, top: _Folder) -> list[Member]:
        """The members of the dataset; none where there are problems."""
        if not top.total:
            self.refuse("dataset", None, "no images", _ACCEPTED)
            return []
        self._choose(top)
        members = [] if self.problems else self._members()
        return [] if self.problems else members

    def _choose(self, top: _Folder) -> None:
        base = _unwrapped(top)
        found: dict[str, list[_Folder]] = {}
        others = []
        for folder in base.folders.values():
            if kind := role(folder.name):
                found.setdefault(kind, []).append(folder)
            elif folder.total:
                others.append(folder)
        for part in PARTS:
            if given := getattr(self.options, part):
                chosen = _at(top, given)
                if chosen is None or not chosen.total:
                    reason = "no such folder in the dataset" if chosen is None else "no images in this folder"
                    self.refuse(f"data.{part}", given, reason, "one of " + _named(top.holding()))
                else:
                    self.parts[part] = [chosen]
        for part in PARTS:
            if part not in self.parts and found.get(part):
                self.parts[part] = found[part]
        self.parts.setdefault("train", [base])
        said = {part: " and ".join(folder.shown for folder in folders) for part, folders in self.parts.items()}
        self.words = f"one folder per class in {' / '.join(said.values())}"

    def _members(self) -> list[Member]:
        members: list[Member] = []
        chosen = {id(folder) for folders in self.parts.values() for folder in folders}
        for part, folders in self.parts.items():
            for folder in folders:
                inner = _unwrapped(folder)
                members += [
                    (part, readable(one.name), one)
                    for one in inner.folders.values()
                    if one.total and id(one) not in chosen
                ]
        trained = {name for part, name, _ in members if part == "train"}
        if len(trained) < 2:
            reason = "images of one class only" if trained else "no images in sub-folders"
            self.refuse("dataset", None, reason, "a folder with at least two sub-folders of images")
        for part in PARTS[1:]:
            if part in self.parts and not any(of == part for of, _, _ in members):
                empty = self.parts[part][0].shown
                self.refuse(f"data.{part}", empty, f"no images in {empty!r}", "images of every class to test with")
        for part, name, _ in members:
            if name not in trained:
                reason = f"class {name!r} is in the {part} images, but not among the training images"
                self.refuse("dataset", name, reason, "training images of every class")
        return members


_ACCEPTED = "a folder with at least two sub-folders of images"


def _named(folders: Sequence[_Folder]) -> str:
    names = [folder.shown for folder in folders]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _at(top: _Folder, path: str) -> _Folder | None:
    folder: _Folder | None = top
    for name in path.split("/") if path != "." else ():
        folder = folder.folders.get(name) if folder else None
    return folder


def _unwrapped(folder: _Folder) -> _Folder:
    """The folder in which a single folder holds everything, at whatever depth."""
    while not folder.images and len(holding := folder.holding()) == 1:
        only = holding[0]
        if role(only.name) or not only.holding():
            break
        folder = only
    return folder
