"""A real S3 server of the pip package moto, in a process of its own, behind a connection that can be spoiled."""

import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

START_SECONDS = 100
"""How long the server may take to start, on a machine that is busy with much else."""
KEYS = {"AWS_ACCESS_KEY_ID": "yoso", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
_REQUEST = re.compile(rb"^([A-Z]+) (\S+) HTTP/1\.1\r\n", re.MULTILINE)


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """A server that keeps all in its memory; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


class Line:
    """The connection to the server at `port`, which can be spoiled, and at which requests are counted.

    `spoilt` is None, or "away" (nobody listens), "silent" (nobody answers), or "torn" (on each connection, or the next
    `times`, the answer breaks off after `whole` bytes).
    """

    def __init__(self, port: int) -> None:
        self.server = port
        self.spoilt: str | None = None
        self.whole, self.times = 0, 0
        self.requests: Counter[str] = Counter()
        """By method, and what is listed: "PUT", "GET", "GET list of journal", …"""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = self._listen(0)
        self.port: int = self._listening.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def spoil(self, how: str | None, whole: int = 0, times: int = 1_000_000) -> None:
        """Break off what is under way, and spoil what comes, or mend it with None."""
        was, self.spoilt, self.whole, self.times = self.spoilt, how, whole, times
        if how == "away" and was != "away":
            self._stop_listening()
        elif how != "away" and was == "away":
            self._listening = self._listen(self.port)
            self._thread = threading.Thread(target=self._accept, daemon=True)
            self._thread.start()
        self._cut()

    def close(self) -> None:
        """End all."""
        if self.spoilt != "away":
            self._stop_listening()
        self._cut()

    def _listen(self, port: int) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(50)
        return listening

    def _stop_listening(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _cut(self) -> None:
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.server)) as server:
            with self._lock:
                self._open |= {client, server}
            answering = threading.Thread(target=self._answer, args=[server, client], daemon=True)
            answering.start()
            with suppress(OSError):
                while block := client.recv(65536):
                    for method, target in _REQUEST.findall(block):
                        query = urllib.parse.parse_qs(target.decode().partition("?")[2])
                        folder = "".join(query.get("prefix", [])).rstrip("/").rpartition("/")[2]
                        self.requests[method.decode() + (f" list of {folder}" if "list-type" in query else "")] += 1
                    if self.spoilt != "silent":
                        server.sendall(block)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            answering.join()
            with self._lock:
                self._open -= {client, server}

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        sent = 0
        with suppress(OSError):
            while block := server.recv(65536):
                if self.spoilt == "torn" and self.times and sent + len(block) > self.whole:
                    self.times -= 1
                    client.sendall(block[: self.whole - sent])
                    break
                client.sendall(block)
                sent += len(block)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def ask(port: int, service: str, **parameters: str) -> str:
    """Ask another of moto's services, such as IAM, for an `Action`; its answer as XML."""
    scope = f"Credential=yoso/20300101/us-east-1/{service}/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return _post(port, "/", urllib.parse.urlencode(parameters), headers)


@contextmanager
def asking_for_rights(port: int) -> Iterator[None]:
    """From here on the server believes only keys of IAM's users, and grants them what their policies do."""
    path, headers = "/moto-api/reset-auth", {"Content-Type": "text/plain"}
    _post(port, path, "0", headers)
    try:
        yield
    finally:
        _post(port, path, "inf", headers)


def _post(port: int, path: str, body: str, headers: dict[str, str]) -> str:
    # Not through a proxy that another test has named.
    answer = httpx.post(f"http://127.0.0.1:{port}{path}", content=body, headers=headers, timeout=30, trust_env=False)
    return answer.raise_for_status().text
