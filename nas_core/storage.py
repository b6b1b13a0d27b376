"""What goes wrong with a storage, as one exception whatever serves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


class StorageUnavailable(OSError):
    """The storage does not do what it should, such as a disk that is full or a server that is away: try again later."""


@contextmanager
def storage_errors(missing_is_normal: bool = True, of: type[Exception] = Exception) -> Iterator[None]:
    """Turn whatever `of` errors a file system raises in here into `StorageUnavailable`.

    Object stores raise errors of their own libraries, which need not be `OSError`s (botocore's are not). A file that is
    missing, or there already, is no trouble: `FileNotFoundError`, unless `missing_is_normal` is off, and
    `FileExistsError` pass. So does what is no `Exception`.
    """
    try:
        yield
    except (StorageUnavailable, FileExistsError):
        raise
    except FileNotFoundError as error:
        if missing_is_normal:
            raise
        raise StorageUnavailable(error.errno, _words(error)) from error
    except of as error:
        raise StorageUnavailable(getattr(error, "errno", None), _words(error)) from error


class Guarded:
    """An fsspec file system whose methods raise `StorageUnavailable` as `storage_errors` has it."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.fs, name)
        if not callable(value):
            return value

        @wraps(value)
        def guarded(*arguments: Any, **options: Any) -> Any:
            with storage_errors():
                return value(*arguments, **options)

        return guarded


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0][:300]}" if told else type(error).__name__
