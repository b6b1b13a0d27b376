"""Storages by URL, and what goes wrong with them: one exception and one patience, whatever serves them."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import fsspec.config
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError

from nas_core.errors import InvalidValue

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""What `pip install yoso[…]` adds for the URLs of each scheme."""
CALL_SECONDS = 60.0
"""How long a call on a server may take with all that is tried again in it, unless YOSO_STORAGE_SECONDS says otherwise;
for each megabyte that it sends, a second more."""
WHOLE_FILE = 10
"""To read a file whole, of whatever size, may take so many times as long."""
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the machine"
_RIGHTS = 'its keys need what docs/deploy.md lists under "Object storage"'
_SERVER = "check its address, such as AWS_ENDPOINT_URL, and the network"
_REMEDIES = {
    "NoSuchBucket": "make the bucket, or name another in YOSO_STORAGE",
    "InvalidAccessKeyId": _KEYS, "SignatureDoesNotMatch": _KEYS, "ExpiredToken": _KEYS, "NoCredentialsError": _KEYS,
    "AccessDenied": _RIGHTS, "403": _RIGHTS,
    "EndpointConnectionError": _SERVER, "ConnectTimeoutError": _SERVER, "ReadTimeoutError": _SERVER,
    "ConnectionClosedError": _SERVER, "FSTimeoutError": _SERVER,
}  # fmt: skip
"""What to do about errors, by S3's codes and by the names of exceptions."""


class StorageUnavailable(OSError):
    """The storage does not do what it should, such as a disk that is full or a server that is away: try again later."""

    def __str__(self) -> str:
        return str(self.strerror or super().__str__())


@contextmanager
def storage_errors(missing_is_normal: bool = True, of: type[Exception] = Exception) -> Iterator[None]:
    """Turn whatever `of` errors a file system raises in here into `StorageUnavailable`.

    Object stores raise errors of their own libraries, which need not be `OSError`s (botocore's are not). A file that is
    missing, or there already, is no trouble: `FileNotFoundError`, unless `missing_is_normal` is off or its bucket is
    missing too, and `FileExistsError` pass. So does what is no `Exception`.
    """
    try:
        yield
    except (StorageUnavailable, FileExistsError):
        raise
    except FileNotFoundError as error:
        if missing_is_normal and _code(error) != "NoSuchBucket":
            raise
        raise StorageUnavailable(error.errno, _words(error)) from error
    except of as error:
        raise StorageUnavailable(getattr(error, "errno", None), _words(error)) from error


def open_storage(url: str) -> tuple[Any, str]:
    """The fsspec file system at a URL or of a local path, whose methods raise `StorageUnavailable` as `storage_errors`
    has it, and the path in its terms.

    A server that says nothing is not waited for without end. Raises `InvalidValue` where the URL's scheme is unknown,
    or needs a package that is not installed.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    try:
        seconds = float(os.environ.get("YOSO_STORAGE_SECONDS") or CALL_SECONDS)
        if not 0 < seconds < float("inf"):
            raise ValueError
    except ValueError as error:
        value = os.environ["YOSO_STORAGE_SECONDS"]
        raise InvalidValue("YOSO_STORAGE_SECONDS", value, "not a time", "seconds, above 0") from error
    try:
        fs, root = url_to_fs(url, **(_s3_options(seconds) if EXTRAS.get(scheme) == "s3" else {}))
    except (ImportError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        extra = EXTRAS.get(scheme)
        install = f"{scheme}://… with the package that serves it: `pip install yoso[{extra}]`"
        accepted = f"a folder, or {install if extra else 's3://BUCKET/FOLDER or gs://BUCKET/FOLDER'}"
        raise InvalidValue("YOSO_STORAGE", url, f"cannot be used: {reason}", accepted) from error
    if EXTRAS.get(scheme) == "s3":
        fs.retries = 2  # around botocore's own, for answers that break off
    return Guarded(fs, seconds), str(root).rstrip("/")


def _s3_options(seconds: float) -> dict[str, Any]:
    """Options of s3fs, so that a call tells what is wrong before it is broken off; FSSPEC_S3 overrides them."""
    patience = {"connect_timeout": seconds / 6, "read_timeout": seconds / 6}
    given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": patience | {"retries": {"mode": "standard", "total_max_attempts": 2}} | given}


class Guarded:
    """An fsspec file system whose methods raise `StorageUnavailable` as `storage_errors` has it, also where a server
    says nothing for `seconds`.
    """

    def __init__(self, fs: Any, seconds: float = CALL_SECONDS) -> None:
        self.fs, self.seconds = fs, seconds

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.fs, name)
        if not callable(value):
            return value
        # Whoever sends waits for the server's word to go on (100 Continue), which read_timeout does not bound.
        twin = getattr(self.fs, f"_{name}", None) if getattr(self.fs, "async_impl", False) else None
        waits = inspect.iscoroutinefunction(twin)

        @wraps(value)
        def guarded(*arguments: Any, **options: Any) -> Any:
            if waits:
                whole = WHOLE_FILE if name == "cat_file" and options.get("end") is None else 1
                sent = sum(len(one) for one in arguments if isinstance(one, bytes))
                options["timeout"] = whole * self.seconds + sent / 1e6
            with storage_errors():
                return value(*arguments, **options)

        return guarded


def _code(error: BaseException) -> str | None:
    """What S3 calls an error, which s3fs has turned into one of Python's."""
    response = getattr(error.__cause__ or error, "response", None)
    return str(response.get("Error", {}).get("Code")) if isinstance(response, dict) else None


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        words = str(error.strerror)
    elif isinstance(error, FSTimeoutError):
        words = "FSTimeoutError: no answer in time"
    else:
        told = str(error).strip().splitlines()
        words = f"{type(error).__name__}: {told[0][:300]}" if told else type(error).__name__
    remedy = _REMEDIES.get(_code(error) or "") or _REMEDIES.get(type(error).__name__)
    return f"{words} ({remedy})" if remedy else words
