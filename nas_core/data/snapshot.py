"""The dataset that a search is of: every file of it with its part, as the search's first attempt found it.

Whoever goes on with the search compares what is there then (`compare`): a search is of one dataset, or it ends.

Which part an image is in follows from its pixels, by thresholds on a hash (`divide`), and not from how many images
there are or in which order: so a part keeps its images when others come or go, and images that look the same are
together.
"""

import gzip
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from nas_core import parallel
from nas_core.data.datasets import TEST_SHARE, UNREADABLE_SHARE, VALIDATION_SHARE, locate
from nas_core.data.decoding import Damaged, Decoding, decode
from nas_core.data.examination import examine
from nas_core.data.inspection import Inspection, inspect
from nas_core.data.layout import LeftOut, Listing, list_images, readable
from nas_core.data.manifest import Entry, digest, fingerprint
from nas_core.errors import DataChanged, InvalidValue, ReadFailed
from nas_core.spec import DataOptions
from nas_core.wording import number_of

PARTS = ("weights", "scaling", "validation", "test")
FEWEST_OUTSIDE_TEST = 3
"""Images of a class that are kept out of a test part that the dataset does not hold out itself, one for each of the
other parts."""
SAME = "looks the same as an image for"
"""How the reason begins for which an image that can be read is in no part."""
MOST_NAMED = 100
"""Files that a result names."""
PAUSES = (0.2, 1.0)
"""Seconds between the tries to read a file that the file system did not give."""
THREADS = 8
_VERSION = 1

Value = TypeVar("Value")


class Taken(NamedTuple):
    """A file of a dataset: its path below it, its class, the part that its folder says (`declared`), its size, time of
    change and BLAKE2b digest; the `part` that it is in ("training" is both W's and λ's), or why it is in none.
    """

    path: str
    label: int
    declared: str
    size: int
    mtime_ns: int
    digest: str
    part: str
    reason: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The files of an image folder, and how they are decoded. `left_out` are files that are no part of it."""

    class_names: tuple[str, ...]
    decoding: Decoding
    files: tuple[Taken, ...]
    fingerprint: str
    left_out: tuple[LeftOut, ...] = ()

    @cached_property
    def used(self) -> list[Taken]:
        """The files that are in a part, in order."""
        return [file for file in self.files if file.part]

    def to_bytes(self) -> bytes:
        """The snapshot as gzipped JSON lines: one of the whole, then one of each file."""
        head = {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "decoding": self.decoding.to_dict(),
            "left_out": [asdict(one) for one in self.left_out],
        }
        lines = [json.dumps(head), *(json.dumps(file._asdict()) for file in self.files)]
        return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The snapshot that `to_bytes` wrote."""
        head, *files = map(json.loads, gzip.decompress(content).decode().splitlines())
        left_out = tuple(LeftOut(one["reason"], one["count"], tuple(one["examples"])) for one in head["left_out"])
        taken = tuple(Taken(**file) for file in files)
        names = tuple(head["class_names"])
        return cls(names, Decoding.from_dict(head["decoding"]), taken, head["fingerprint"], left_out)


def take(
    dataset: str,
    roots: Sequence[str],
    options: DataOptions,
    shape: tuple[int, int, int],
    resize: int | None,
    weights_share: float | None,
    submitted: str | None,
) -> tuple[Path, Snapshot]:
    """Look at every file of the image folder `dataset`, and divide its images; returns its path too.

    `shape` is how many classes, channels and pixels a side the search is for, `resize` as `Decoding` has it, and
    `submitted` the fingerprint of the inspection when it was submitted. Raises `DataChanged` where they are of another
    dataset, `InvalidValue` where the dataset cannot be used, and `ReadFailed` for what the file system does not give.
    """
    classes, channels, size = shape
    root = _located(dataset, roots)  # by every worker for itself: its node may lack it

    def look() -> tuple[Inspection, Listing]:
        found = inspect(dataset, roots, anywhere=not roots, options=options, image_size=size)
        return replace(found, files=(), pixels={}), _listing(root, options, dataset, roots)

    found, listing = parallel.first(look)
    there = f"{len(found.class_names)} classes now"
    if submitted is not None and submitted != found.fingerprint:
        message = f"{dataset!r} has changed since the search was submitted, for {classes} classes; it has {there}"
        raise DataChanged(message, {"fingerprint": [submitted, found.fingerprint]})
    if found.problems:
        raise found.problems[0]
    if len(found.class_names) != classes:
        names = ", ".join(repr(name) for name in found.class_names[:20])
        message = f"the search was submitted for {classes} classes, and {dataset!r} has {there}: {names}"
        raise DataChanged(message, {"classes": [classes, len(found.class_names)]})
    decoding = replace(found.decoding, channels=channels, resize=resize)
    listed = listing.files
    looked = shared(partial(look_at, decoding), [root / file.path for file in listed])
    damaged = {file.path: one.told for file, one in zip(listed, looked, strict=True) if isinstance(one.told, str)}
    if len(damaged) > UNREADABLE_SHARE * len(listed):
        told = "; ".join(f"{readable(path)}: {reason}" for path, reason in list(damaged.items())[:5])
        reason = f"{len(damaged)} of {len(listed)} images cannot be read: {told}"
        raise InvalidValue("dataset", dataset, reason, f"at most {UNREADABLE_SHARE:.0%} that cannot be read")
    sound = {number: one.told for number, one in enumerate(looked) if not isinstance(one.told, str)}
    parts = divide(
        [pixels for pixels, _ in sound.values()],
        [seen for _, seen in sound.values()],
        [listed[number].label for number in sound],
        [listed[number].part for number in sound],
        weights_share,
    )
    part_of = dict(zip(sound, parts, strict=True))
    files = []
    for number, (file, one) in enumerate(zip(listed, looked, strict=True)):
        part, reason = part_of.get(number, ("", str(one.told)))
        files.append(Taken(file.path, file.label, file.part, file.size, file.mtime_ns, one.digest, part, reason))
    whole = fingerprint(Entry(*file[:6]) for file in files)
    return root, Snapshot(found.class_names, decoding, tuple(files), whole, listing.left_out)


def _located(dataset: str, roots: Sequence[str]) -> Path:
    return Path(locate(dataset, roots, anywhere=True).path or ".")


class Looked(NamedTuple):
    """What a file holds, and what an image in it looks like."""

    digest: str
    told: tuple[str, str] | str
    """Digests of its pixels as they are and as the network sees them; or why it cannot be used."""


def look_at(decoding: Decoding, file: Path) -> Looked:
    """What a file holds. Raises `ReadFailed`."""

    def look() -> tuple[str, str] | str:
        try:
            pixels = examine(file, decoding.background).pixels
            seen = hashlib.blake2b(decode(file, decoding).data, digest_size=16).hexdigest()
            return pixels, seen
        except Damaged as error:
            return str(error)

    return Looked(patiently(lambda: digest(file), str(file)), patiently(look, str(file)))


def patiently(read: Callable[[], Value], path: str) -> Value:
    """What `read` returns, tried a few times: a file system may have the hiccups. Raises `ReadFailed`."""
    for pause in (*PAUSES, None):
        try:
            return read()
        except OSError as error:
            if isinstance(error, Damaged):
                raise
            if pause is None:
                raise ReadFailed(f"{readable(path)}: {(error.strerror or str(error)).lower()}") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def shared(task: Callable[[Any], Value], items: Sequence[Any]) -> list[Value]:
    """What `task` makes of each of the `items`; every worker does its share and tells the others."""
    rank, workers = parallel.world()
    own = list(threads().map(task, items[rank::workers]))
    made: list[Any] = [None] * len(items)
    for number, some in enumerate(parallel.each(own)):
        made[number::workers] = some
    return made


@cache
def threads() -> ThreadPoolExecutor:
    """The threads that read and decode, started when first needed and joined when the process ends."""
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="decode")


def compare(dataset: str, roots: Sequence[str], options: DataOptions, known: Snapshot) -> Path:
    """Raise `DataChanged` unless the image folder `dataset`, whose path is returned, is that of the snapshot.

    Files whose size and time of change are as they were are taken for the same; the others are read again, shared out
    to the workers. Raises `InvalidValue` where the folder is not there, and `ReadFailed`.
    """
    root = _located(dataset, roots)
    listing = parallel.first(lambda: _listing(root, options, dataset, roots))
    if not listing.files:
        problem = listing.problems[0]
        reason = f"{problem.field}: {problem.reason}"
        raise DataChanged(f"{dataset!r} can no longer be read as when the search began: {reason}", {"layout": reason})
    names, listed = listing.class_names, listing.files
    before = {file.path: file for file in known.files}
    now = {file.path: file for file in listed}
    changes = {
        "classes added": sorted(set(names) - set(known.class_names)),
        "classes removed": sorted(set(known.class_names) - set(names)),
        "files added": sorted(now.keys() - before.keys()),
        "files removed": sorted(before.keys() - now.keys()),
        "files moved to another class or part": [],
        "files changed": [],
    }
    suspects = []
    for path in sorted(now.keys() & before.keys()):
        is_now, was = now[path], before[path]
        if (names[is_now.label], is_now.part) != (known.class_names[was.label], was.declared):
            changes["files moved to another class or part"].append(path)
        elif is_now.size != was.size:
            changes["files changed"].append(path)
        elif is_now.mtime_ns != was.mtime_ns:
            suspects.append(path)
    digests = shared(lambda path: patiently(lambda: digest(root / path), path), suspects)
    rewritten = [path for path, found in zip(suspects, digests, strict=True) if found != before[path].digest]
    changes["files changed"] = sorted(changes["files changed"] + rewritten)
    if any(changes.values()):
        raise changed(dataset, changes)
    return root


def _listing(root: Path, options: DataOptions, dataset: str, roots: Sequence[str]) -> Listing:
    held_out = options.test is not None or options.validation is not None
    options = replace(options, test="val") if dataset == "imagenet" and not held_out else options
    return list_images(root, options, within=roots)


SINGULAR = {"classes": "class", "files": "file"}


def changed(dataset: str, changes: Mapping[str, Sequence[str]]) -> DataChanged:
    """What is raised for the `changes`, paths or names by kind."""
    told = []
    for kind, some in changes.items():
        if some:
            more = ", …" if len(some) > 5 else ""
            of, what = kind.split(" ", 1)  # what they are, and what became of them
            told.append(
                f"{number_of(len(some), SINGULAR[of])} {what} ({', '.join(readable(one) for one in some[:5])}{more})"
            )
    counted = {
        kind: {"count": len(some), "examples": [readable(one) for one in some[:5]]}
        for kind, some in changes.items()
        if some
    }
    return DataChanged(f"{dataset!r} is not the dataset that the search began with: {'; '.join(told)}", counted)


def divide(
    pixels: Sequence[str],
    seen: Sequence[str],
    labels: Sequence[int],
    declared: Sequence[str],
    weights_share: float | None,
) -> list[tuple[str, str]]:
    """The part of each image ("training" is both W's and λ's), or an empty one and why.

    `pixels` are digests of the images, by which they are divided, `seen` those of what the network sees of them, and
    `declared` the parts that the dataset says: "train", "validation", "test". What it holds out stays so. A fifth of
    what is to train on is for the test where nothing is, a tenth of the rest for validation likewise, and W gets
    `weights_share` of what is left, λ the remainder; where it is None, both get all of it (paper, table 3).

    All images with the same `pixels` are in the test, or none is. One that is not held out, but of which the network
    sees the same as of one that is, is in no part. Where the thresholds leave a class without an image in a part, the
    one nearest to the threshold is taken; the test keeps one image and leaves `FEWEST_OUTSIDE_TEST` to the other parts,
    where a class has as many. So an image leaves the test, when others are removed, only if its class has fewer than
    these left outside of it.
    """
    where = np.array([{"train": 0, "validation": 1, "test": 2}[part] for part in declared])
    of_class = np.array(labels)
    keys, views = np.array(pixels), np.array(seen)
    drawn = np.array([_drawn(one) for one in pixels]).reshape(-1, 3)
    classes = [np.flatnonzero(of_class == label) for label in np.unique(of_class)]
    reasons = [""] * len(keys)

    if not (where == 2).any():
        _hold_out_test(where, keys, drawn[:, 0], classes)
    _leave_out_same(where, views, 2, reasons, "test")
    if not (where == 1).any():
        for members in classes:
            own = members[where[members] == 0]
            where[_nearest(own, drawn[:, 1], VALIDATION_SHARE, least=1, rest=2)] = 1
    _leave_out_same(where, views, 1, reasons, "validation")
    names = np.array(["training", "validation", "test", ""], dtype=object)[where]
    if weights_share is not None:
        for members in classes:
            own = members[where[members] == 0]
            names[own] = "scaling"
            names[_nearest(own, drawn[:, 2], weights_share, least=1, rest=1)] = "weights"
    return list(zip(names.tolist(), reasons, strict=True))


def _leave_out_same(where: Any, views: Any, held: int, reasons: list[str], name: str) -> None:
    """Take the images out that look the same as one that is held out, and note for which part that is."""
    told = set(views[where == held].tolist())
    for number in np.flatnonzero((where >= 0) & (where < held)).tolist():
        if views[number] in told:
            where[number] = -1
            reasons[number] = f"{SAME} {name}"


def _drawn(key: str) -> tuple[float, float, float]:
    """Three numbers between 0 and 1 that follow from `key`: against the test's threshold, validation's and W's."""
    found = hashlib.blake2b(key.encode(), digest_size=24, person=b"yoso parts").digest()
    first, second, third = (int.from_bytes(found[start : start + 8], "big") / 2**64 for start in (0, 8, 16))
    return first, second, third


def _nearest(own: Any, drawn: Any, share: float, least: int, rest: int) -> Any:
    """Those of the images `own` with a number below `share`.

    They are at least the `least` with the smallest numbers, and leave `rest` over, where there are as many.
    """
    order = own[np.argsort(drawn[own], kind="stable")]
    count = int((drawn[own] < share).sum())
    return order[: max(min(count, len(own) - rest), min(least, max(len(own) - 1, 0)))]


def _hold_out_test(where: Any, keys: Any, drawn: Any, classes: Sequence[Any]) -> None:
    """Put the images for the test into that part; those with the same pixels go together."""
    train = where == 0
    chosen: set[str] = set(keys[train & (drawn < TEST_SHARE)].tolist())
    for members in classes:
        own = members[train[members]]
        order = list(dict.fromkeys(keys[own[np.argsort(drawn[own], kind="stable")]].tolist()))
        counts = Counter(keys[own].tolist())
        inside = [key for key in order if key in chosen]
        outside = sum(count for key, count in counts.items() if key not in chosen)
        if not inside:
            chosen.update(order[:1])
        while len(inside) > 1 and outside < FEWEST_OUTSIDE_TEST:
            key = inside.pop()
            chosen.discard(key)
            outside += counts[key]
    where[train & np.isin(keys, list(chosen))] = 2
