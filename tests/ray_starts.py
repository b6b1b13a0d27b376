"""Rays that tests start: one after the other, whatever the number of processes of tests.

Ray gives a node thirty seconds to begin, which are too few where several begin on two cores. For an agent whose port it
is not told it waits for fifteen, too few for Python to load Ray beside other tests.
"""

import fcntl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.dispatch.local_ray import free_ports, tell_ports

AGENTS = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other test starts a Ray, and let none do so meanwhile; what starts is told its agents' ports."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(0.2):
            tell_ports(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())

    with (Path(tempfile.gettempdir()) / "yoso-tests-ray.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        telling = threading.Thread(target=tell)
        telling.start()
        try:
            yield
        finally:
            over.set()
            telling.join()


def agent_ports() -> dict[str, Any]:
    """Ports for the agents of a node, by what Ray calls them."""
    return dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True))
