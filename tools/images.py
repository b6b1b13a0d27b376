"""Both images, by docker, podman or buildah, whichever works here; and whether the service's does what it is for.

    python -m tools.images build [service|worker]
    python -m tools.images test

`BASE` in the environment names another base image than that of the Dockerfiles, such as a mirror's. The test lets the
service's image migrate a database and serve on it, as its user, with what docker-compose.yml and the chart take away
from it: no capability, and no file but in `/tmp` and the storage that can be written. buildah, which runs it without a
container engine, leaves the root file system as it is; then it is only told whether the user could write there.
"""

import json
import os
import secrets
import shutil
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

from service.dispatch.local_ray import free_ports

ROOT = Path(__file__).parents[1]
IMAGES = ("service", "worker")
PATIENCE = 120.0
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
    """The service's image, how it is run, and the folder that its containers have as `/storage`."""

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
        hard = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        whole = [self.engine, "run", "--rm", "--init", "--network", "host", *hard, *variables, *volume]
        return [*whole, "yoso-service", *command]

    def run(self, environment: dict[str, str], *command: str) -> str:
        """What a command prints in the image. Raises `Failed`."""
        told = subprocess.run(self.command(environment, *command), capture_output=True, text=True)
        if told.returncode != 0:
            raise Failed(f"{' '.join(command[:3])} ended with {told.returncode}: {told.stderr.strip()[-2000:]}")
        return told.stdout


@contextmanager
def image() -> Iterator[Image]:
    """The service's image with a storage that its user may write."""
    engine = builder()
    with tempfile.TemporaryDirectory(prefix="yoso-image-") as folder:
        storage, container = Path(folder) / "storage", ""
        storage.mkdir()
        Path(folder).chmod(0o755)
        storage.chmod(0o777)
        if engine == "buildah":
            made = subprocess.run(
                ["buildah", "from", "--pull-never", "yoso-service"], capture_output=True, text=True, check=True
            )
            container = made.stdout.strip()
        try:
            yield Image(engine, storage, container)
        finally:
            if container:
                subprocess.run(["buildah", "rm", container], capture_output=True)


def test() -> None:
    """Let the service's image migrate, serve and answer. Raises `Failed`."""
    with image() as built:
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
        command = built.command(environment, "yoso", "serve", "--no-dispatch")
        log = built.storage.parent / "log"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                answers = _answers(f"http://127.0.0.1:{port}", process)
            except Failed as error:
                raise Failed(f"{error}: {log.read_text(errors='replace').strip()[-2000:]}") from error
            finally:
                process.terminate()
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
            case _:
                raise Failed("python -m tools.images build [service|worker], or test")
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
