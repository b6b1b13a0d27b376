"""Files below the service's storage, which workers write too and which are therefore opened with care.

A local folder is gone down component by component, and a symbolic link is refused wherever it stands: whoever swaps
a folder for a link between two steps is refused as well. Nothing but plain files is opened, and never so that opening
waits. A file that has another name outside its folder (a hard link) is refused too: it may be somebody else's.
"""

import errno
import functools
import itertools
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from nas_core.storage import StorageUnavailable, open_storage, storage_errors
from service.folders.model import BadFolder

BLOCK = 1024 * 1024
"""Bytes of a file that are in memory at a time while it is sent."""
MOST_NAMES = 1_000_000
"""Files in one folder."""
local_errors = functools.partial(storage_errors, of=OSError)
_PROBE = ".probe"
"""The folder of the file that tells whether a storage can be written."""
_PART = re.compile(r"[A-Za-z0-9_.=-]{1,255}")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True)
class Content:
    """A file of `size` bytes, as blocks of it that are read when they are asked for."""

    size: int
    blocks: Iterator[bytes]


def whole(content: bytes) -> Content:
    """What is in memory already."""
    return Content(len(content), iter([content]))


class Storage(Protocol):
    """Files by names such as "k3v9qa2m7xw4/journal/0001-000001.jsonl", below one root.

    All methods raise `StorageUnavailable`, and those that read raise `BadFolder` for what no worker of Yoso leaves.
    """

    def read(self, name: str, most: int) -> bytes:
        """A file's content. Raises `FileNotFoundError`, and `BadFolder` where it is larger than `most` bytes."""

    def tail(self, name: str, size: int) -> bytes:
        """At most the last `size` bytes of a file. Raises `FileNotFoundError`."""

    def open(self, name: str, most: int) -> Content:
        """A file's content, block by block. Raises as `read`."""

    def names(self, name: str) -> list[str]:
        """The names in a folder, in order, "" being the root; none where there is no such folder."""

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: nobody sees a part of it, and of several who write it at once one wins."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file whole and for good; False where it is there already, which is left as it is."""

    def size(self, name: str) -> int:
        """The bytes of all files below a folder; 0 where there is none."""

    def remove(self, name: str) -> None:
        """Remove a folder with all that is in it, or nothing where there is none."""

    def check(self) -> None:
        """Raise `StorageUnavailable` unless the storage can be used."""


def storage_of(url: str) -> tuple[Storage, str]:
    """The storage at an fsspec URL or in a local folder, and its root in terms of the file system.

    Raises `InvalidValue` where that is unknown, or needs a package that is not installed.
    """
    fs, root = open_storage(url)
    protocols = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
    return (LocalStorage(root) if "file" in protocols else RemoteStorage(fs, root)), root


def parts_of(name: str) -> list[str]:
    """The components of a name. Raises `BadFolder` where one is none, such as `..`."""
    parts = name.split("/")
    for part in parts:
        if not _PART.fullmatch(part) or part in (".", ".."):
            raise BadFolder(name, "its name", part, "names of letters, digits and -_=.")
    return parts


class LocalStorage:
    """A local folder. Below `root`, which is the operator's and may be reached by links, there is none."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, name: str, most: int) -> bytes:
        """See `Storage.read`."""
        with self._file(name) as (file, size), local_errors():
            _check_size(name, size, most)
            content = _exactly(file, most + 1)
        _check_size(name, len(content), most)
        return content

    def tail(self, name: str, size: int) -> bytes:
        """See `Storage.tail`."""
        with self._file(name) as (file, whole), local_errors():
            os.lseek(file, max(0, whole - size), os.SEEK_SET)
            return _exactly(file, size)

    def open(self, name: str, most: int) -> Content:
        """See `Storage.open`."""
        with self._file(name) as (file, size):
            _check_size(name, size, most)
            return Content(size, _Blocks(name, os.dup(file), size))

    def names(self, name: str) -> list[str]:
        """See `Storage.names`."""
        found: list[str] = []
        try:
            with self._folder(name) as folder, local_errors(), os.scandir(folder) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) > MOST_NAMES:
                        raise BadFolder(
                            name, "the folder", f"more than {MOST_NAMES:,} files", f"at most {MOST_NAMES:,}"
                        )
        except FileNotFoundError:
            return []
        return sorted(found)

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        *above, last = parts_of(name)
        try:
            with self._folder("/".join(above)) as folder, local_errors():
                os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, content: bytes) -> None:
        """See `Storage.write`."""
        *above, last = parts_of(name)
        with self._folder("/".join(above), make=True) as folder, local_errors(missing_is_normal=False):
            temporary = _temporary(folder, content)
            try:
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage.create`."""
        *above, last = parts_of(name)
        with self._folder("/".join(above), make=True) as folder, local_errors(missing_is_normal=False):
            temporary = _temporary(folder, content)
            try:
                os.link(temporary, last, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary, dir_fd=folder)
            return True

    def size(self, name: str) -> int:
        """See `Storage.size`. Links are not followed, nor is what lies deeper than a path can name counted."""
        total, files = 0, 0
        with suppress(FileNotFoundError), self._folder(name) as top:
            folders = ["."]
            while folders and files < MOST_NAMES:
                above = folders.pop()
                with suppress(OSError):  # removed meanwhile, or a link by now
                    folder = os.open(above, _OPEN | os.O_DIRECTORY, dir_fd=top)
                    try:
                        with os.scandir(folder) as entries:
                            for entry in entries:
                                if entry.is_dir(follow_symlinks=False):
                                    folders.append(f"{above}/{entry.name}")
                                else:
                                    total += entry.stat(follow_symlinks=False).st_size
                                files += 1
                    finally:
                        os.close(folder)
        return total

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        *above, last = parts_of(name)
        with suppress(FileNotFoundError), self._folder("/".join(above)) as folder, local_errors():
            _remove(folder, last)

    def check(self) -> None:
        """See `Storage.check`."""
        with local_errors(missing_is_normal=False):
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "the storage cannot be read and written")

    @contextmanager
    def _folder(self, name: str, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder; "" is the root."""
        with local_errors():
            if make:
                os.makedirs(self.root, exist_ok=True)
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts_of(name) if name else ():
                if make:
                    with local_errors(missing_is_normal=False), suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                below = self._open(name, part, folder, os.O_DIRECTORY)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _file(self, name: str) -> Iterator[tuple[int, int]]:
        """A descriptor of a plain file, and its size."""
        *above, last = parts_of(name)
        with self._folder("/".join(above)) as folder:
            file = self._open(name, last, folder, 0)
            try:
                with local_errors():
                    found = os.fstat(file)
                    if not stat.S_ISREG(found.st_mode):
                        raise BadFolder(name, "the file", _kind(found.st_mode), "a plain file")
                    if found.st_nlink > 1 and not _all_names_are_here(file, folder):
                        raise BadFolder(name, "the file", f"a file of {found.st_nlink} names", "one without hard links")
                yield file, found.st_size
            finally:
                os.close(file)

    def _open(self, name: str, part: str, folder: int, more: int) -> int:
        with local_errors():
            try:
                return os.open(part, _OPEN | more, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP):
                    mode = os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode
                    raise BadFolder(name, part, _kind(mode), "a folder" if more else "a plain file") from error
                raise


class RemoteStorage:
    """A file system of fsspec's that is not local, such as an object store. It has neither links nor devices."""

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root
        self._probed = False
        """Whether it could be written, listed and read when it was last looked at."""

    def read(self, name: str, most: int) -> bytes:
        """See `Storage.read`."""
        path = self._path(name)
        with storage_errors():
            try:
                content = bytes(self.fs.cat_file(path, start=0, end=most + 1))
            except StorageUnavailable as error:
                # An empty object has no first byte to begin at.
                if "range" not in str(error).lower() or self.fs.info(path)["size"] != 0:
                    raise
                content = b""
        _check_size(name, len(content), most)
        return content

    def tail(self, name: str, size: int) -> bytes:
        """See `Storage.tail`."""
        path = self._path(name)
        with storage_errors():
            whole = int(self.fs.info(path)["size"])
            return bytes(self.fs.cat_file(path, start=max(0, whole - size), end=whole)) if whole else b""

    def open(self, name: str, most: int) -> Content:
        """See `Storage.open`."""
        path = self._path(name)
        with storage_errors():
            size = int(self.fs.info(path)["size"])
        _check_size(name, size, most)

        def blocks() -> Iterator[bytes]:
            for start in range(0, size, 4 * BLOCK):
                with storage_errors():
                    yield bytes(self.fs.cat_file(path, start=start, end=min(size, start + 4 * BLOCK)))

        return Content(size, blocks())

    def names(self, name: str) -> list[str]:
        """See `Storage.names`."""
        path = self._path(name)
        try:
            with storage_errors():
                self.fs.invalidate_cache()
                return sorted(str(one).rstrip("/").rpartition("/")[2] for one in self.fs.ls(path, detail=False))
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        with storage_errors():
            self.fs.invalidate_cache()
            return bool(self.fs.exists(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """See `Storage.write`."""
        with storage_errors(missing_is_normal=False):
            self.fs.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage.create`."""
        try:
            with storage_errors(missing_is_normal=False):
                self.fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def size(self, name: str) -> int:
        """See `Storage.size`."""
        with storage_errors():
            self.fs.invalidate_cache()
            return sum(int(one["size"]) for one in self.fs.find(self._path(name), detail=True).values())

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        with suppress(FileNotFoundError), storage_errors():
            self.fs.invalidate_cache()
            self.fs.rm(self._path(name), recursive=True)
            if left := self.names(name):  # of what S3 refuses to delete, s3fs says nothing
                raise StorageUnavailable(errno.EACCES, f"{name} cannot be removed: {left[0]} is still there")

    def check(self) -> None:
        """See `Storage.check`.

        The first time, and after trouble, a small file is written; then it is only read.
        """
        folder = f"{self.root}/{_PROBE}"
        known, self._probed = self._probed, False
        with storage_errors(missing_is_normal=False):
            if not known:
                self.fs.pipe_file(f"{folder}/probe", b"yoso")
                self.fs.invalidate_cache()
                self.fs.ls(folder, detail=False)
            self.fs.cat_file(f"{folder}/probe", start=0, end=4)
        self._probed = True

    def _path(self, name: str) -> str:
        return "/".join([self.root, *(parts_of(name) if name else ())])


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise BadFolder(name, "the file", f"more than {most:,} bytes", f"at most {most:,} bytes")


def _exactly(file: int, size: int) -> bytes:
    """The next `size` bytes, or what there are until the end."""
    found = []
    while size and (block := os.read(file, min(BLOCK, size))):
        found.append(block)
        size -= len(block)
    return b"".join(found)


class _Blocks:
    """The blocks of an open file, which is closed after the last, or when nobody wants them any more."""

    def __init__(self, name: str, file: int, size: int) -> None:
        self.name, self.file, self.left = name, file, size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            self.__del__()
            raise StopIteration
        with local_errors():
            block = os.read(self.file, min(BLOCK, self.left))
        if not block:
            raise StorageUnavailable(errno.EIO, f"{self.name} became shorter while it was read")
        self.left -= len(block)
        return block

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file, self.left = -1, 0


def _remove(folder: int, name: str) -> None:
    """Remove `name` from a folder, with all that is below it; a link goes, and not what it points to.

    However deep it is, this neither recurses nor holds more than three descriptors: what is below the folders of `name`
    is moved up to them. Interrupted, it may be called again.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    top = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=folder)
    try:
        while entries := _entries(top):
            for entry, is_folder in entries:
                if not is_folder:
                    os.unlink(entry, dir_fd=top)
                    continue
                below = os.open(entry, _OPEN | os.O_DIRECTORY, dir_fd=top)
                try:
                    for one, also in _entries(below):
                        if also:
                            os.rename(one, uuid.uuid4().hex, src_dir_fd=below, dst_dir_fd=top)
                        else:
                            os.unlink(one, dir_fd=below)
                finally:
                    os.close(below)
                os.rmdir(entry, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=folder)


def _entries(folder: int) -> list[tuple[str, bool]]:
    """The names in a folder, and which are folders; at most a thousand."""
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in itertools.islice(entries, 1000)]


def _all_names_are_here(file: int, folder: int) -> bool:
    """Whether all names of a file are in one folder, as in the moment when a file that is written takes its name."""
    for _ in range(5):
        found = os.fstat(file)
        if found.st_nlink <= 1:
            return True
        names = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".tmp") or entry.inode() == found.st_ino:
                    with suppress(FileNotFoundError):
                        other = entry.stat(follow_symlinks=False)
                        names += (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino)
        if names >= found.st_nlink:
            return True
        time.sleep(0.002)
    return False


def _temporary(folder: int, content: bytes) -> str:
    """The name of a new file in a folder, with `content`.

    It is not forced to the disk: with the machine Ray dies too, and the next attempt writes it.
    """
    name = f".{uuid.uuid4().hex}.tmp"
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        with open(file, "wb") as writing:
            writing.write(content)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    return name


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFREG: "a plain file",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
