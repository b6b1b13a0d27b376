"""Folders of images as hypothesis draws them: layouts, names, links, modes and damage of every kind."""

import io
import os
import shutil
import struct
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from nas_core.spec import DataOptions


@dataclass(frozen=True)
class Content:
    """A file: which of `contents`, and how many copies that differ, by numbers from the `first`."""

    kind: str
    count: int = 1
    first: int = 0


@dataclass(frozen=True)
class Link:
    """A symbolic link to what the path leads to, seen from the folder that holds it."""

    target: str


@dataclass(frozen=True)
class Pipe:
    """A named pipe."""


Tree = dict[bytes, Any]
"""What a folder holds, by name: a tree, a `Content`, a `Link` or a `Pipe`."""

PARTS = [
    *("train", "Training", "TRAIN", "seg_train", "test", "Testing"),
    *("val", "valid", "dev", "holdout", "fold1", "2. fold"),
]
CLASSES = [
    *("cats", "dogs", "Dogs", "images", "data", "a b", "-x", "[1]"),
    *("Käse", unicodedata.normalize("NFD", "Käse")),
]
HIDDEN = [".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "._1.png", "Thumbs.db"]
FILES = ["1.png", "2.jpg", "3.JPEG", "4.tif", "5.avif", "6", "7.txt", "8.webp", "9.gif", "a.csv", "0.tga"]


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, format, **options)
    return written.getvalue()


@cache
def contents(kind: str, number: int) -> bytes:
    """The bytes of a file of the kind; those of another number differ."""
    random = np.random.default_rng([number, *kind.encode()])
    grey = random.integers(0, 256, (9, 7), dtype=np.uint8)
    colour = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    match kind:
        case "grey":
            return _encoded(Image.fromarray(grey), "PNG")
        case "colour":
            return _encoded(Image.fromarray(colour), "BMP")
        case "jpeg":
            return _encoded(Image.fromarray(colour), "JPEG", exif=exif)
        case "clear":
            return _encoded(Image.fromarray(np.dstack([colour, colour[..., :1]])), "WEBP", lossless=True)
        case "deep":
            return _encoded(Image.fromarray(grey.astype(np.uint16) * 16), "PNG")
        case "float":
            return _encoded(Image.fromarray(grey.astype(np.float32) / 255), "TIFF")
        case "nan":
            return _encoded(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)), "TIFF")
        case "film":
            return _encoded(Image.fromarray(grey), "GIF", save_all=True, append_images=[Image.fromarray(255 - grey)])
        case "plain":
            return _encoded(Image.new("L", (5, 5), number), "PNG")
        case "thin":
            return _encoded(Image.fromarray(colour.reshape(1, -1, 3)), "PNG")
        case "cut":
            return contents("grey", number)[:60]
        case "bomb":
            head = struct.pack(">II", 50_000, 50_000)
            whole = contents("grey", number)
            return whole[:16] + head + whole[24:]
        case "bytes":
            return random.bytes(50 + number)
        case "text":
            return b"P1 is no image\n" * (number + 1)
        case _:
            return b""


USUAL = ["grey", "colour", "jpeg", "clear", "deep", "float"]
KINDS = [*USUAL, "nan", "film", "plain", "thin", "cut", "bomb", "bytes", "text", "empty"]


def _names(*choices: str) -> st.SearchStrategy[bytes]:
    odd = st.one_of(
        st.text(min_size=1, max_size=8).map(lambda name: name.encode("utf-8", "surrogatepass")),
        st.binary(min_size=1, max_size=6),
        st.sampled_from([b"caf\xe9", b"n" * 255, b"..png", b" ", b"a\nb", b"~$1.png"]),
    )
    usual = st.sampled_from([os.fsencode(name) for name in choices])
    return st.one_of(usual, usual, usual, odd).filter(_is_a_name)


def _is_a_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and not {0, 47} & set(name) and len(name) <= 255


TARGETS = [".", "..", "../..", "nowhere", "train", "cats", "../cats", "../test", "1.png", "/dev/null", "{outside}"]


def _leaves() -> st.SearchStrategy[Any]:
    usual = st.builds(Content, st.sampled_from(USUAL), st.integers(1, 12))
    return st.one_of(
        usual,
        usual,
        st.builds(Content, st.sampled_from(KINDS), st.integers(1, 2)),
        st.builds(Link, st.sampled_from(TARGETS)),
        st.builds(Pipe),
    )


_of_class = st.dictionaries(_names(*FILES), _leaves(), min_size=1, max_size=3)
_class_folders = st.dictionaries(_names(*CLASSES), _of_class, min_size=1, max_size=4)
_of_parts = st.dictionaries(_names(*PARTS), _class_folders, min_size=1, max_size=4)

trees: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(_class_folders, _of_parts, st.dictionaries(_names(*CLASSES), _of_parts, min_size=1, max_size=3)),
    lambda inner: st.dictionaries(_names(*PARTS, *CLASSES, *HIDDEN, *FILES), st.one_of(inner, _leaves()), max_size=4),
    max_leaves=6,
)
"""Trees of folders, many of them near to a layout that is known."""


@st.composite
def _sound(draw: st.DrawFn) -> Tree:
    """A dataset in a usual layout, with images that differ, and oddities in some folders."""
    classes = draw(st.sampled_from([["cats", "dogs"], ["Käse", "a b", "[1]"]]))
    parts = draw(st.sampled_from([[], ["train"], ["TRAIN", "Testing"], ["train", "valid"], ["train", "dev", "test"]]))
    odd = st.dictionaries(_names(*HIDDEN, "7.txt", "x.png"), _leaves(), max_size=2)
    tree: Tree = {}
    for at, part in enumerate(parts or [""]):
        folder = tree.setdefault(part.encode(), {}) if part else tree
        for number, name in enumerate(classes):
            kind, first = draw(st.sampled_from(USUAL)), 1000 * at + 100 * number
            folder[name.encode()] = draw(odd) | {b"1.png": Content(kind, draw(st.integers(9, 12)), first)}
    return tree


sound = _sound()
"""Trees most of which can be searched on."""


@dataclass(frozen=True)
class Edit:
    """What happens to a file of a dataset, the `which`-th of those there are then."""

    kind: str
    which: int
    other: int


EDITS = [
    *("add", "remove", "replace", "swap", "touch", "rename", "move", "class", "cut", "link", "hide", "name"),
    *("part", "folder", "text"),
]
edits = st.lists(st.builds(Edit, st.sampled_from(EDITS), st.integers(0, 99), st.integers(0, 99)), max_size=3)


def apply(edit: Edit, root: Path, outside: Path) -> None:
    """Change a file below `root`, or add to it; what is not there any more stays so."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        return
    file, fresh = files[edit.which % len(files)], contents("colour", 5000 + edit.other)
    status, other = file.stat(), files[edit.other % len(files)]
    match edit.kind:
        case "add":
            file.with_name(f"new{edit.other}.png").write_bytes(fresh)
        case "remove":
            file.unlink()
        case "replace":
            file.write_bytes(fresh)
        case "swap":  # neither the size nor the times tell
            content = bytearray(file.read_bytes())
            if content:
                content[edit.other % len(content)] ^= 1
            file.write_bytes(content)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "touch":
            os.utime(file, ns=(0, edit.other))
        case "rename":
            file.rename(file.with_name(f"named{edit.other}.png"))
        case "move":
            file.rename(other.with_name(f"moved{edit.other}.png"))
        case "class":
            (file.parent.parent / "more").mkdir(exist_ok=True)
            for number in range(9):
                (file.parent.parent / "more" / f"{number}.png").write_bytes(contents("grey", 6000 + number))
        case "cut":
            file.write_bytes(file.read_bytes()[: edit.other])
        case "link":
            file.unlink()
            file.symlink_to(other if other != file else outside / "cats" / "1.png")
        case "hide":
            file.rename(file.with_name(f".{edit.other}.png"))
        case "name":
            file.parent.rename(file.parent.with_name(f"class {edit.other}")) if file.parent != root else None
        case "part":
            held_out = root / "test" / file.parent.name
            held_out.mkdir(parents=True, exist_ok=True)
            for one in [one for one in file.parent.iterdir() if one.is_file() and one.parent != held_out]:
                (held_out / one.name).write_bytes(one.read_bytes())
        case "folder":
            file.unlink()
            file.mkdir()
            (file / "1.png").write_bytes(fresh)
        case _:
            file.with_name("notes.txt").write_text("text")


_paths = st.none() | st.sampled_from([".", "train", "test", "data/train", "cats", "Training", "fold1", "nowhere"])
options = st.builds(
    DataOptions,
    train=_paths,
    test=_paths,
    validation=_paths,
    ignore=st.lists(st.sampled_from(["*.gif", "cats", "/test", "data/*", "[", "fold2", "*"]), max_size=2).map(tuple),
    channels=st.sampled_from([None, 1, 3]),
    background=st.sampled_from(["white", "black"]),
)


def write(tree: Tree, root: Path, outside: Path) -> None:
    """Write the tree below `root`, which is made; what a system does not take is passed over."""
    waiting: list[tuple[Tree, bytes]] = [(tree, os.fsencode(root))]
    while waiting:
        inner, path = waiting.pop()
        os.makedirs(path, exist_ok=True)
        for name, node in inner.items():
            here = path + b"/" + name
            try:
                if isinstance(node, dict):
                    waiting.append((node, here))
                elif isinstance(node, Link):
                    os.symlink(node.target.replace("{outside}", str(outside)), here)
                elif isinstance(node, Pipe):
                    os.mkfifo(here)
                else:
                    for number in range(node.count):
                        with open(here if number == 0 else path + b"/%d" % number + name[:200], "xb") as file:
                            file.write(contents(node.kind, node.first + number))
            except FileExistsError:
                continue


@contextmanager
def written(tree: Tree) -> Iterator[Path]:
    """The tree in a folder of its own, beside another with images that links may lead to."""
    above = Path(mkdtemp(prefix="yoso-tree-"))
    try:
        beside: Tree = {b"cats": {b"1.png": Content("grey", 9)}, b"dogs": {b"1.png": Content("jpeg", 9)}}
        write(beside, above / "outside", above)
        write(tree, above / "data", above / "outside")
        yield above / "data"
    finally:
        shutil.rmtree(above)
