"""Rays that tests start: one after the other, whatever the number of processes of tests.

Ray gives a node thirty seconds to begin, which are too few where several begin on two cores.
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other test starts a Ray, and let none do so meanwhile."""
    with (Path(tempfile.gettempdir()) / "yoso-tests-ray.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
