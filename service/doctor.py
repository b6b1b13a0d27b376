"""Is everything there that Yoso needs on this machine? Each finding that is not well says what to do about it."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from nas_core.errors import InvalidValue
from nas_core.version import UNKNOWN, __version__
from nas_core.wording import number_of
from service import proxies
from service.client import Bearer, default_url
from service.counts import Counts
from service.dispatch.executors.ray_jobs import RayJobs
from service.dispatch.process import elsewhere, remote
from service.domain.scheduling import RayUnavailable
from service.folders.runs import Runs
from service.settings import Settings
from service.store.database import connect, is_newer, reading, revision_of

IMPORT_SECONDS = 120.0
"""How long loading torch may take: on a cold disk it is slow."""
CLOCK_SECONDS = 2.0
"""By how much the clocks of this machine and the database may differ."""
FREE_BYTES = 5 * 2**30
PROBE = """
import json, torch, torchvision
torchvision.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "gpus": gpus}))
"""
"""What a worker needs to load. The operator is there only where torchvision was built for this very torch."""


class State(StrEnum):
    """How well something is."""

    GOOD = "good"
    UNSURE = "unsure"
    """It works, or is not needed; but it may not be what was meant."""
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """What was found of the `part` that was looked at, and the `remedy` where it is not good."""

    part: str
    state: State
    told: str
    remedy: str = ""


def examine(environment: dict[str, str] | None = None) -> Iterator[Finding]:
    """Look at one part after the other, in the order in which they need each other; nothing is changed.

    The settings are those of the environment (default: the process's own).
    """
    yield installation()
    yield worker()
    try:
        settings = Settings.from_environment(environment)
    except InvalidValue as error:
        told = f"{error.field}: {error.reason} (got {error.value!r})"
        yield Finding("settings", State.BAD, told, f"accepted: {error.accepted}")
        return
    yield Finding("settings", State.GOOD, f"YOSO_* variables can be used; storage {settings.storage}")
    yield from database(settings)
    yield storage(settings)
    yield from data_roots(settings)
    if settings.rate_storage is not None:
        yield rate_storage(settings.rate_storage)
    yield ray(settings)
    yield running()


def installation() -> Finding:
    """Python and Yoso's own package."""
    told = f"Yoso {__version__} on Python {platform.python_version()}, {platform.machine()}"
    if __version__ == UNKNOWN:
        return Finding("installation", State.UNSURE, told, "`pip install .` in the checkout, or `make setup`")
    return Finding("installation", State.GOOD, told)


def worker() -> Finding:
    """What searches run on: torch, torchvision and Ray load, and which GPUs there are.

    It is loaded in a process of its own: the service loads none of it.
    """
    remedy = "where searches run on this machine, install the extra: `pip install 'yoso[worker]'`"
    if _version("torch") == "not installed" or _version("ray") == "not installed":
        return Finding("worker", State.UNSURE, "torch or Ray is not installed: this machine cannot search", remedy)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("worker", State.BAD, f"torch does not load within {IMPORT_SECONDS:g} s", "look at the disk")
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        remedy = "install torch and torchvision of matching releases, as constraints.txt pins them"
        return Finding("worker", State.BAD, f"torch {_version('torch')} cannot be used: {why}", remedy)
    found = json.loads(done.stdout.splitlines()[-1])
    versions = f"torch {found['torch']}, torchvision {found['torchvision']}, Ray {_version('ray')}"
    if found["gpus"]:
        return Finding("worker", State.GOOD, f"{versions}; GPUs: {', '.join(found['gpus'])}")
    if shutil.which("nvidia-smi"):
        remedy = "install a torch built for the driver's CUDA, or a newer driver: `nvidia-smi` shows its version"
        return Finding("worker", State.BAD, f"{versions}; torch does not see this machine's GPU", remedy)
    return Finding(
        "worker", State.GOOD, f"{versions}; no GPU, so searches run on {number_of(os.cpu_count() or 1, 'CPU')}"
    )


def database(settings: Settings) -> Iterator[Finding]:
    """The database: whether it answers, its revision, and whether its clock is this machine's."""
    if settings.database_url.startswith("sqlite:///"):
        path = Path(settings.database_url.removeprefix("sqlite:///"))
        if not path.exists():
            yield Finding("database", State.GOOD, f"{path} is made at the first start")
            return
    try:
        engine = connect(settings.database_url)
    except InvalidValue as error:
        yield Finding("database", State.BAD, f"{error.reason} (got {error.value})", f"accepted: {error.accepted}")
        return
    try:
        with reading(engine) as session:
            before = time.time()
            postgresql = engine.dialect.name == "postgresql"
            theirs = float(session.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))) if postgresql else None
            ours = (before + time.time()) / 2
            revision, newest = revision_of(session.connection())
    except InvalidValue as error:
        yield Finding("database", State.BAD, f"{error.reason} (got {error.value})", f"accepted: {error.accepted}")
        return
    except (SQLAlchemyError, OSError) as error:
        told = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        yield Finding("database", State.BAD, f"it cannot be used: {told}", "check YOSO_DATABASE_URL and the server")
        return
    finally:
        engine.dispose()
    if is_newer(revision):
        told = f"revision {revision} of a newer version; this one needs {newest} and can use it still"
        yield Finding("database", State.UNSURE, told, "install that version here too")
    elif revision != newest and postgresql:
        told = f"{'empty' if revision is None else f'revision {revision}'}, and this version needs {newest}"
        yield Finding("database", State.BAD, told, "`yoso migrate`")
    else:
        told = "empty; it is set up at the first start" if revision is None else f"revision {revision}"
        yield Finding("database", State.GOOD, f"{engine.dialect.name}, {told}")
    if theirs is not None:
        apart = theirs - ours
        well = abs(apart) <= CLOCK_SECONDS
        told = f"the database's is {abs(apart):.1f} s {'ahead' if apart > 0 else 'behind'}"
        yield Finding("clock", State.GOOD if well else State.BAD, told, "" if well else "run an NTP client on both")


def storage(settings: Settings) -> Finding:
    """Whether the storage can be written to and read, and what is free of a local one."""
    local = "://" not in settings.storage
    if local and not Path(settings.storage).exists():
        return Finding("storage", State.GOOD, f"{settings.storage} is made at the first start")
    try:
        problem = Runs(settings.storage).problem()
    except InvalidValue as error:
        return Finding("storage", State.BAD, f"{error.reason} (got {error.value!r})", f"accepted: {error.accepted}")
    if problem is not None:
        return Finding("storage", State.BAD, problem, "check YOSO_STORAGE, its rights and its credentials")
    if not local:
        return Finding("storage", State.GOOD, f"{settings.storage} answers")
    free = shutil.disk_usage(settings.storage).free
    told = f"{settings.storage}, {free / 2**30:.1f} GiB free"
    if free < FREE_BYTES:
        return Finding("storage", State.UNSURE, told, "make room: delete searches, or set YOSO_KEEP_CHECKPOINTS_DAYS")
    return Finding("storage", State.GOOD, told)


def data_roots(settings: Settings) -> Iterator[Finding]:
    """Whether the folders that datasets may lie in are there and can be read."""
    for root in settings.roots_of(None):
        if not Path(root).is_dir():
            told = f"{root} is no folder here" if Path(root).exists() else f"{root} is not there"
            yield Finding("data root", State.BAD, told, "mount it, here and on every node, or fix YOSO_DATA_ROOTS")
        elif not os.access(root, os.R_OK | os.X_OK):
            yield Finding(
                "data root", State.BAD, f"{root} may not be read by this user", f"chmod o+rx {root}, or chown"
            )
        else:
            yield Finding("data root", State.GOOD, f"{root} can be read")


def rate_storage(url: str) -> Finding:
    """Whether the Redis at `url` can count requests for all replicas. The URL may have a password, and is not told."""
    try:
        problem = Counts(url).problem()
    except InvalidValue as error:
        return Finding("rate storage", State.BAD, error.reason, f"accepted: {error.accepted}")
    if problem is not None:
        told = f"YOSO_RATE_STORAGE is unavailable ({problem}): each replica limits clients on its own"
        return Finding("rate storage", State.UNSURE, told, "check the URL, its password and the server")
    return Finding("rate storage", State.GOOD, "YOSO_RATE_STORAGE answers: the replicas limit clients together")


def ray(settings: Settings) -> Finding:
    """Whether the Ray cluster of the settings answers, with nodes, in this machine's version."""
    if settings.rayjob is not None:
        return kubernetes(settings)
    if settings.ray_address is None:
        if _version("ray") == "not installed":
            told = "YOSO_RAY_ADDRESS is not set, and no Ray is installed here"
            return Finding("Ray", State.BAD, told, "set it to a cluster's dashboard, or `pip install 'yoso[worker]'`")
        return Finding("Ray", State.GOOD, "YOSO_RAY_ADDRESS is not set: `yoso serve` starts a Ray on this machine")
    jobs = RayJobs(lambda: remote(settings))
    try:
        nodes = [node for node in jobs.nodes() if node.alive]
        theirs = _ray_version(settings)
    except (RayUnavailable, OSError) as error:
        remedy = "check YOSO_RAY_ADDRESS (the dashboard's URL) and RAY_AUTH_TOKEN"
        return Finding("Ray", State.BAD, f"{settings.ray_address}: {error}", remedy)
    finally:
        jobs.close()
    told = (
        f"{settings.ray_address}: Ray {theirs or 'of unknown version'}, {number_of(len(nodes), 'node')}, "
        f"{number_of(sum(node.cpus for node in nodes), 'CPU')}, {number_of(sum(node.gpus for node in nodes), 'GPU')}"
    )
    if not nodes or not any(node.cpus for node in nodes):
        return Finding("Ray", State.BAD, told, "start nodes with CPUs: `ray start --address=…`")
    return Finding("Ray", State.GOOD, told)


def kubernetes(settings: Settings) -> Finding:
    """Whether Kubernetes lets this pod list KubeRay's RayJobs."""
    try:
        jobs = elsewhere(settings)
    except InvalidValue as error:
        return Finding(
            "Ray", State.UNSURE, f"YOSO_EXECUTOR=rayjob: {error.reason}", "run `yoso doctor` in a dispatcher"
        )
    try:
        jobs.nodes()
        count = len(jobs.running())
    except RayUnavailable as error:
        remedy = "install KubeRay, and give the service account's role create, get, list and delete of rayjobs"
        return Finding("Ray", State.BAD, f"YOSO_EXECUTOR=rayjob: {error}", remedy)
    finally:
        jobs.close()
    groups = ", ".join(f"{group.name} to {group.max_nodes}" for group in settings.node_groups)
    return Finding("Ray", State.GOOD, f"YOSO_EXECUTOR=rayjob: Kubernetes has {count} RayJobs of Yoso; groups {groups}")


def _ray_version(settings: Settings) -> str | None:
    endpoint = remote(settings)
    headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
    try:
        with proxies.client(httpx.Client, endpoint.url, timeout=10.0, headers=headers) as client:
            told: Any = client.get(f"{endpoint.url}/api/version").json()
        return str(told["ray_version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def running() -> Finding:
    """Whether a service answers where this machine's commands look for one, and is ready."""
    try:
        url = default_url()
    except InvalidValue as error:
        return Finding("service", State.BAD, str(error), "`yoso login URL` keeps where it is")
    try:
        with proxies.client(httpx.Client, url, timeout=10.0, auth=Bearer()) as client:
            ready, own = client.get(f"{url}/readyz"), client.get(f"{url}/api/v1/searches?limit=1")
    except httpx.HTTPError as error:
        told = f"none answers at {url} ({type(error).__name__})"
        return Finding("service", State.UNSURE, told, "`yoso serve` starts one; YOSO_URL names one elsewhere")
    if own.status_code == 401:
        return Finding("service", State.BAD, f"{url} does not know this token", "set YOSO_TOKEN to one of its tokens")
    if ready.status_code != 200:
        lacks = ready.text if ready.status_code == 503 else f"it answers with {ready.status_code}"
        return Finding("service", State.BAD, f"{url} is not ready: {lacks[:300]}", f"{url}/readyz says what it lacks")
    return Finding("service", State.GOOD, f"{url} is ready")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
