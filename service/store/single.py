"""SQLite is for one process: whoever serves or dispatches holds the database's lock file for as long as it lives."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from nas_core.errors import InvalidValue


@contextmanager
def hold(url: str) -> Iterator[None]:
    """Be the only process that serves or dispatches on the SQLite database `url`; PostgreSQL is for any number.

    The kernel lets the lock go when the process ends, however it ends. Raises `InvalidValue` where another has it.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        yield
        return
    path = Path(f"{parsed.database}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            reason = f"process {lock.read().strip() or 'unknown'} holds {path}, and SQLite serves one process only"
            accepted = "another database; for several processes PostgreSQL: YOSO_DATABASE_URL=postgresql://…"
            raise InvalidValue("YOSO_DATABASE_URL", url, reason, accepted) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
