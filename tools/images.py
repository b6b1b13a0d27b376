"""Both images, by docker, podman or buildah, whichever works here; and whether they do what they are for.

    python -m tools.images build [service|worker]
    python -m tools.images test
    python -m tools.images search

`BASE` in the environment names another base image than that of the Dockerfiles, such as a mirror's. The test lets the
service's image migrate a database and serve on it, as its user, with what docker-compose.yml and the chart take away
from it: no capability, and no file but in `/tmp` and the storage that can be written. buildah, which runs it without a
container engine, leaves the root file system as it is; then it is only told whether the user could write there.
The search is a small one on the digits, which the service's image dispatches to a Ray that the worker's image runs.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.answers import ENDED
from service.client import Client
from service.dispatch.local_ray import free_ports
from tools.compose_by_hand import SEARCH

ROOT = Path(__file__).parents[1]
IMAGES = ("service", "worker")
PATIENCE = 120.0
SEARCH_SECONDS = 900.0
UID = 10001
ALONE = {"docker": ["docker", "info"], "podman": ["podman", "info"], "buildah": ["buildah", "--version"]}
"""What tells whether a builder works: docker's command may be there without its daemon."""

LOOK = """
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
places = [one for one in ("/", "/etc", "/usr/local/bin", "/home/yoso") if os.access(one, os.W_OK)]
print(json.dumps({"uid": os.getuid(), "capabilities": int(status["CapEff"], 16), "writable": places}))
"""


class Failed(Exception):
    """An image cannot be built, or does not do what it is for."""


def builder() -> str:
    """The first of docker, podman and buildah that works here. Raises `Failed`."""
    for name, command in ALONE.items():
        if shutil.which(name) and subprocess.run(command, capture_output=True).returncode == 0:
            return name
    raise Failed("none of docker, podman and buildah works here")


def version() -> str:
    """Yoso's own."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def build(names: tuple[str, ...] = IMAGES) -> None:
    """Build images, named yoso-NAME, with the tags `latest` and Yoso's version."""
    engine = builder()
    arguments = ["--build-arg", f"VERSION={version()}"]
    if base := os.environ.get("BASE"):
        arguments += ["--build-arg", f"BASE={base}"]
    for name in names:
        tags = [part for tag in ("latest", version()) for part in ("--tag", f"yoso-{name}:{tag}")]
        command = [engine, "build", *arguments, *tags, "--file", f"deploy/{name}.Dockerfile", "."]
        print(f"yoso-{name} by {engine}", flush=True)
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            raise Failed(f"{engine} could not build yoso-{name}")


@dataclass(frozen=True)
class Image:
    """An image, how it is run, and the folder that its containers have as `/storage`."""

    name: str
    engine: str
    storage: Path
    container: str = ""
    """Of buildah, which has one for all commands."""

    def command(self, environment: dict[str, str], *command: str) -> list[str]:
        """What runs a command in the image, with this machine's network."""
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        volume = ["--volume", f"{self.storage}:/storage"]
        if self.engine == "buildah":
            own = ["--user", f"{UID}:{UID}", "--cap-drop", "all", *variables, *volume]
            return ["buildah", "run", "--isolation", "chroot", *own, self.container, "--", *command]
        hard = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        if self.name == "service":
            hard += ["--read-only", "--tmpfs", "/tmp"]
        whole = [self.engine, "run", "--rm", "--init", "--network", "host", "--shm-size", "2g", *hard]
        return [*whole, *variables, *volume, f"yoso-{self.name}", *command]

    def run(self, environment: dict[str, str], *command: str) -> str:
        """What a command prints in the image. Raises `Failed`."""
        told = subprocess.run(self.command(environment, *command), capture_output=True, text=True)
        if told.returncode != 0:
            raise Failed(f"{' '.join(command[:3])} ended with {told.returncode}: {told.stderr.strip()[-2000:]}")
        return told.stdout

    @contextmanager
    def running(self, environment: dict[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command in the image, which is stopped at the end. A `Failed` within gets the end of what it printed."""
        log = self.storage.parent / f"{self.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(environment, *command), stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield process
        except Failed as error:
            raise Failed(f"{error}; {self.name}: {log.read_text(errors='replace').strip()[-2000:]}") from error
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


@contextmanager
def folder() -> Iterator[Path]:
    """A storage that the user of the images may write."""
    with tempfile.TemporaryDirectory(prefix="yoso-image-") as made:
        storage = Path(made) / "storage"
        storage.mkdir()
        Path(made).chmod(0o755)
        storage.chmod(0o777)
        yield storage


@contextmanager
def image(name: str, storage: Path) -> Iterator[Image]:
    """One of the images, with a storage."""
    engine, container = builder(), ""
    if engine == "buildah":
        command = ["buildah", "from", "--pull-never", f"yoso-{name}"]
        container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield Image(name, engine, storage, container)
    finally:
        if container:
            subprocess.run(["buildah", "rm", container], capture_output=True)


def test() -> None:
    """Let the service's image migrate, serve and answer. Raises `Failed`."""
    with folder() as storage, image("service", storage) as built:
        own = json.loads(built.run({}, "python", "-c", LOOK))
        wrong = [place for place in own["writable"] if built.engine != "buildah" or place != "/home/yoso"]
        if own["uid"] != UID or own["capabilities"] or wrong:
            rights = f"with capabilities {own['capabilities']:x}, and may write {wrong}"
            raise Failed(f"it runs as user {own['uid']}, {rights}")
        told = built.run({}, "yoso", "--version").strip()
        if told != f"yoso {version()}":
            raise Failed(f"it says that it is {told}, and {version()} was built")
        (port,) = free_ports(1)
        environment = {"YOSO_STORAGE": "/storage", "YOSO_PORT": str(port)}
        environment["YOSO_TOKENS"] = f"vision:admin:test={secrets.token_hex(16)}"
        built.run(environment, "yoso", "migrate")
        with built.running(environment, "yoso", "serve", "--no-dispatch") as process:
            answers = _answers(f"http://127.0.0.1:{port}", process)
        print(f"yoso-service {version()} by {built.engine}: user {UID}, no capability; {', '.join(answers)}")


def _answers(url: str, process: subprocess.Popen[bytes]) -> list[str]:
    """What the service answers at the places that say how it is, once it is there. Raises `Failed`."""
    give_up = time.monotonic() + PATIENCE
    with httpx.Client(base_url=url, trust_env=False) as client:
        while True:
            try:
                health, page = client.get("/healthz"), client.get("/api/v1/searches")
                break
            except httpx.TransportError as error:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise Failed(f"it does not serve: {error}") from error
                time.sleep(0.5)
    if health.status_code != 200 or page.status_code != 401:
        raise Failed(f"/healthz answers {health.status_code}, searches without a token {page.status_code}")
    return [f"/healthz {health.status_code}", f"searches without a token {page.status_code}"]


def search() -> None:
    """Let a small search run through both images. Raises `Failed`."""
    api, gcs, dashboard, agent, proxy = free_ports(5)
    token = secrets.token_hex(16)
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    head = [
        "ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--node-ip-address=127.0.0.1",
        f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={proxy}",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    own = {"YOSO_STORAGE": "/storage", "YOSO_PORT": str(api), "YOSO_TOKENS": f"digits={token}"}
    own |= ray | {"YOSO_RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    url = f"http://127.0.0.1:{api}"
    with (
        folder() as storage,
        image("service", storage) as service,
        image("worker", storage) as worker,
        Client(url, token) as client,
        worker.running(ray, *head),
        service.running(own, "yoso", "serve") as serving,
    ):
        _answers(url, serving)
        give_up = time.monotonic() + SEARCH_SECONDS
        while not client.ready():
            if time.monotonic() > give_up:
                raise Failed(f"the service is not ready after {SEARCH_SECONDS:.0f} s")
            time.sleep(2)
        search_id = client.submit(**SEARCH)["id"]
        while (found := client.get(search_id))["status"] not in ENDED:
            if time.monotonic() > give_up:
                raise Failed(f"the search is still {found['status']} after {SEARCH_SECONDS:.0f} s: {found['reason']}")
            time.sleep(2)
        if found["status"] != "succeeded":
            raise Failed(f"the search {found['status']}: {found['error']}")
        for one in found["architectures"]:
            weights = len(client.download(one["files"]["weights"]))
            cost, accuracy = f"{one['multiply_adds']:,} multiply-adds", f"accuracy {one['accuracy']:.1%}"
            print(f"{one['budget']:,}, {one['origin']}: {cost}, {accuracy}, {weights:,} bytes of weights")
        if {one["budget"] for one in found["architectures"]} != set(SEARCH["budgets"]):
            raise Failed("a network is missing")
        print(f"a search on the digits by yoso-service and yoso-worker {version()}, in attempt {found['attempt']}")


def main() -> None:
    """Do what the command line says."""
    try:
        match sys.argv[1:]:
            case ["build"]:
                build()
            case ["build", name] if name in IMAGES:
                build((name,))
            case ["test"]:
                test()
            case ["search"]:
                search()
            case _:
                raise Failed("python -m tools.images build [service|worker], test, or search")
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
