"""The files of a dataset with a digest of what each holds, and the fingerprint of them all."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """An image of a folder as `ImageFile` lists it, and the BLAKE2b digest of the file's bytes."""

    path: str
    label: int
    part: str
    size: int
    mtime_ns: int
    digest: str


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
