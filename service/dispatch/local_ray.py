"""A Ray of the service's own on this machine.

It runs in a session of its own, so that it survives the service's sudden death; the next service finds it by
`ray.json` in the storage and goes on with it. An orderly stop of the service stops it too.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import httpx

from service import proxies
from service.dispatch.executors.ray_jobs import Endpoint
from service.settings import SECRETS

log = logging.getLogger(__name__)
START_SECONDS = 100.0
SLOW = "timed out during startup"
"""What Ray says when a node of its own has taken too long to begin."""
AGENTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
"""Ports of a node's agents. For those that they choose themselves Ray waits fifteen seconds, which a busy machine may
take to load Python, and then ends: https://github.com/ray-project/ray/issues/65983."""
STOP_SECONDS = 20.0
KILL_SECONDS = 10.0
WITHHELD = frozenset({
    "RAY_ADDRESS", "RAY_AUTH_TOKEN", "YOSO_TOKEN", *SECRETS, *(f"{name}_FILE" for name in SECRETS),
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
})  # fmt: skip
"""What Ray does not get of the service's environment."""
WITHHELD_PREFIXES = ("MLFLOW_", "OTEL_EXPORTER_", "PG")
"""Nor what the clients of MLflow, OTLP and PostgreSQL are told."""


class LocalRay:
    """Starts, finds again and stops a Ray head whose whereabouts are kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "ray.json"
        self.child: subprocess.Popen[bytes] | None = None

    def ensure(self) -> Endpoint:
        """Where Ray listens, after starting it if it is not there.

        Ray gives itself half a minute, and is given a second one: a busy machine may take longer. Raises
        `RuntimeError` with what Ray printed where it does not start.
        """
        known = self._known()
        if known is not None and (answers(known) or self._wait(known, self._pid())):
            return known
        self.stop()
        try:
            return self._start()
        except RuntimeError as error:
            if SLOW not in str(error):
                raise
            log.warning("Ray did not start in its time; trying again")
            return self._start()

    def endpoint(self) -> Endpoint:
        """Where Ray listens, as far as is known; an address that nobody answers at where it is not."""
        return self._known() or Endpoint("http://127.0.0.1:1")

    def alive(self) -> bool:
        """Whether Ray's own process is there."""
        if self.child is not None and self.child.poll() is not None:
            self.child = None
        return self._own() is not None

    def stop(self) -> None:
        """Stop Ray and everything it runs; nothing happens where there is none."""
        pid = self._own()
        if pid is not None:
            log.info("stopping the local Ray")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            give_up = time.monotonic() + STOP_SECONDS
            while session_members(pid) and time.monotonic() < give_up:
                if self.child is not None:
                    self.child.poll()
                time.sleep(0.1)
            # A process that is killed takes a moment to be gone.
            give_up = time.monotonic() + KILL_SECONDS
            while (left := session_members(pid)) and time.monotonic() < give_up:
                for member in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(member, signal.SIGKILL)
                time.sleep(0.1)
            if self.child is not None:
                self.child.wait()
                self.child = None
        if self.record.exists():
            shutil.rmtree(json.loads(self.record.read_text()).get("temp_dir", ""), ignore_errors=True)
            self.record.unlink()

    def _start(self) -> Endpoint:
        self.folder.mkdir(parents=True, exist_ok=True)
        gcs, dashboard, client, *agents = free_ports(3 + len(AGENTS))
        token = secrets.token_hex(32)
        token_file = self.folder / "ray-token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        # Ray's sockets lie in its temporary folder, and a socket's path may have no more than about 100 characters.
        temp_dir = tempfile.mkdtemp(prefix="yoso-ray-")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={gcs}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
        command += [f"--ray-client-server-port={client}"]
        command += [f"--{name}={port}" for name, port in zip(AGENTS, agents, strict=True)]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats", f"--temp-dir={temp_dir}"]
        environment = ray_environment(token_file) | {"YOSO_RAY_FOLDER": str(self.folder)}
        with (self.folder / "ray.log").open("wb") as output:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        temporary = self.record.with_suffix(".tmp")
        url = f"http://127.0.0.1:{dashboard}"
        known = {"pid": self.child.pid, "url": url, "temp_dir": temp_dir, "agent": agents[0]}
        temporary.write_text(json.dumps(known))
        temporary.replace(self.record)
        endpoint = Endpoint(url, token)
        if not self._wait(endpoint, self.child.pid):
            printed = (self.folder / "ray.log").read_text(errors="replace").strip().splitlines()
            self.stop()
            raise RuntimeError("the local Ray did not start: " + " | ".join(printed[-3:]))
        log.info("started a local Ray at %s", endpoint.url)
        return endpoint

    def _wait(self, endpoint: Endpoint, pid: int | None) -> bool:
        """Whether Ray answers, and the agent that starts jobs listens, before its process ends or patience does."""
        give_up = time.monotonic() + START_SECONDS
        while pid is not None and self.alive() and time.monotonic() < give_up:
            tell_ports(session_members(pid))
            if answers(endpoint) and self._agent_listens():
                return True
            time.sleep(0.2)
        return False

    def _known(self) -> Endpoint | None:
        try:
            return Endpoint(json.loads(self.record.read_text())["url"], (self.folder / "ray-token").read_text())
        except (OSError, ValueError, KeyError):
            return None

    def _agent_listens(self) -> bool:
        port = json.loads(self.record.read_text()).get("agent")
        with socket.socket() as one:
            return port is None or one.connect_ex(("127.0.0.1", port)) == 0

    def _own(self) -> int | None:
        """Ray's own process, where it is alive: a child of this one, or what an earlier one has left."""
        # A child's environment cannot be read in the moment in which it becomes Ray.
        if self.child is not None:
            return self.child.pid
        pid = self._pid()
        return pid if pid is not None and is_ours(pid, self.folder) else None

    def _pid(self) -> int | None:
        try:
            return int(json.loads(self.record.read_text())["pid"])
        except (OSError, ValueError, KeyError):
            return None


def ray_environment(token_file: Path) -> dict[str, str]:
    """This process's environment, with what makes Ray's processes ask for, and send, the token in `token_file`.

    Ray and what runs on it have no business with the service's own secrets.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in WITHHELD and not name.startswith(WITHHELD_PREFIXES)
    }
    # The packages are found by the job's driver even where the service runs from a checkout.
    paths = [str(Path(__file__).parents[2]), *filter(None, own.get("PYTHONPATH", "").split(os.pathsep))]
    return (
        own
        | proxies.direct(own)
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray would first wait for half a minute for its actors to leave the only node that there is.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        }
    )


def answers(endpoint: Endpoint) -> bool:
    """Whether Ray's Jobs interface answers there."""
    try:
        headers = {"Authorization": f"Bearer {endpoint.token}"}
        with proxies.client(httpx.Client, endpoint.url, headers=headers, timeout=5) as client:
            return client.get(f"{endpoint.url}/api/jobs/").status_code == 200
    except httpx.HTTPError:
        return False


def is_ours(pid: int, folder: Path) -> bool:
    """Whether `pid` is a process that `LocalRay` started for `folder`, and not a later one of the same number."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"YOSO_RAY_FOLDER={folder}".encode() in environment


def session_members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    members.append(int(entry.name))
    return members


def tell_ports(processes: Iterable[int]) -> None:
    """Tell those of `processes` that are Ray's raylets where their dashboard's agents will listen.

    A raylet is not told the port that `ray start` was given, and waits for a file with it, which the agent writes at
    the end of its start (`AGENTS`).
    """
    for process in processes:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
            options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
            port = re.search(r"--listen-port=([1-9]\d*)", options.get("dashboard_agent_command", ""))
            if words[0].endswith("/raylet") and port is not None:
                file = Path(options["session_dir"]) / f"dashboard_agent_listen_port_{options['node_id']}"
                if not file.exists():
                    file.with_suffix(".yoso").write_text(port[1])
                    file.with_suffix(".yoso").replace(file)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
