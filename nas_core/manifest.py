"""The files of a dataset with a digest of what each holds, and the fingerprint of them all.

To read every file takes long; a file whose size and time of change are as they were is believed to hold what it held.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nas_core.layout import ImageFile, Progress


class Entry(NamedTuple):
    """An image of a folder as `ImageFile` lists it, and the BLAKE2b digest of the file's bytes."""

    path: str
    label: int
    part: str
    size: int
    mtime_ns: int
    digest: str


def manifest(
    root: Path,
    files: Sequence[ImageFile],
    known: Mapping[str, Entry] | None = None,
    progress: Progress | None = None,
) -> list[Entry]:
    """The `files` below `root` with their digests.

    A file that is in `known` (by its path) with the same size and time of change is not read again. Raises `OSError`
    where a file cannot be read.
    """

    def entry(file: ImageFile) -> Entry:
        before = (known or {}).get(file.path)
        if before is not None and (before.size, before.mtime_ns) == (file.size, file.mtime_ns):
            return Entry(*file, before.digest)
        return Entry(*file, digest(root / file.path))

    entries = []
    with ThreadPoolExecutor(8, thread_name_prefix="digest") as threads:
        for done in threads.map(entry, files):
            entries.append(done)
            if progress is not None and len(entries) % 1000 == 0:
                progress("reading", len(entries), len(files))
    return entries


def digest(file: Path) -> str:
    """The BLAKE2b digest of the bytes of `file`, as 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
        while chunk := stream.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def fingerprint(entries: Iterable[Entry]) -> str:
    """What tells one dataset from another: a digest of the path, class, part, size and content of every file."""
    found = hashlib.blake2b(digest_size=16)
    for entry in sorted(entries):
        fields = (entry.path, entry.label, entry.part, entry.size, entry.digest)
        found.update(repr(fields).encode("utf-8", "surrogateescape"))
    return found.hexdigest()
