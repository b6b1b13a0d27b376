"""What is given out: the packages, what they need, and under which licences."""

import json
import os
import sqlite3
import subprocess
import sys
import time
import venv
import zipfile
from contextlib import closing
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from shutil import copytree, ignore_patterns

import fastapi
import httpx
import pytest

from nas_core.version import __version__
from service.dispatch.local_ray import free_ports
from service.store.database import revisions
from tools import shipped

ROOT = Path(__file__).parents[2]
PACKAGES = ("nas_core", "service", "worker", "yoso")
START_SECONDS = 60


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints, without this checkout on its path; it must succeed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("YOSO_")}
    done = subprocess.run(words, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def given_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("given-out")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for name in PACKAGES:
        copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "direct", source, cwd=folder)
    return folder


def contents(wheel: Path) -> dict[str, str]:
    """The files of a wheel with their digests."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_the_wheel_has_every_file_of_the_packages_and_the_sdist_makes_the_same(given_out: Path) -> None:
    name = f"yoso-{__version__}-py3-none-any.whl"
    found = contents(given_out / name)
    assert found == contents(given_out / "direct" / name)
    files = {path for one in PACKAGES for path in (ROOT / one).rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(ROOT)) for path in files if path.parent.name != "__pycache__"}
    assert {file for file in found if ".dist-info/" not in file} == wanted
    kinds = {Path(file).suffix for file in wanted}
    assert kinds >= {".html", ".js", ".css", ".svg", ".json", ".mako", ".typed"}


def test_the_wheel_runs_from_an_environment_of_its_own(given_out: Path, tmp_path: Path) -> None:
    """Away from the checkout: the command, the face, a migration, and a service with its pages."""
    home = tmp_path / "installed"
    venv.create(home)
    [packages] = home.glob("lib/python*/site-packages")
    [wheel] = given_out.glob("*.whl")
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # What Yoso needs is not installed once more.
    (packages / "needed.pth").write_text(str(Path(fastapi.__file__).parents[1]))

    assert run(home / "bin" / "yoso", "--version", cwd=tmp_path) == f"yoso {__version__}\n"
    told = run(python, "-c", "import yoso; print(yoso.__file__, yoso.SearchSpec, yoso.Client)", cwd=tmp_path)
    assert told == f"{packages}/yoso/__init__.py <class 'nas_core.spec.specification.SearchSpec'> " + (
        "<class 'service.client.Client'>\n"
    )
    database = f"sqlite:///{tmp_path}/migrated.db"
    settings = {"YOSO_STORAGE": str(tmp_path / "storage"), "YOSO_DATABASE_URL": database}
    run(home / "bin" / "yoso", "migrate", cwd=tmp_path, **settings)
    with closing(sqlite3.connect(tmp_path / "migrated.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(revisions()[0],)]

    [port] = free_ports(1)
    settings |= {"YOSO_PORT": str(port), "YOSO_TOKENS": "vision=" + "t" * 20}
    with (tmp_path / "log").open("w") as log:
        command: list[str | Path] = [home / "bin" / "yoso", "serve", "--no-dispatch"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            give_up = time.monotonic() + START_SECONDS
            while True:
                try:
                    page = client.get("/login")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < give_up and process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            assert page.status_code == 200 and "Sign in" in page.text
            for file in (ROOT / "service" / "dashboard" / "static").rglob("*.css"):
                served = client.get(f"/static/{file.relative_to(ROOT / 'service' / 'dashboard' / 'static')}")
                assert served.content == file.read_bytes()
            headers = {"Authorization": "Bearer " + "t" * 20}
            assert client.get("/openapi.json", headers=headers).json()["info"]["version"] == __version__
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the records of what is shipped; its interpreter."""
    return shipped.describe(tmp_path_factory.mktemp("shipped") / "environment")


def licences(described: Path) -> "subprocess.CompletedProcess[str]":
    """pip-licenses, as `make licences` runs it."""
    command = [sys.executable, "-m", "piplicenses", "--python", str(described)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_what_is_shipped_has_licences_that_are_allowed(described: Path) -> None:
    told = licences(described)
    assert told.returncode == 0, told.stderr
    assert "LGPL-3.0-only" in told.stdout and "| fastapi " in told.stdout


def test_another_licence_is_refused(described: Path, tmp_path: Path) -> None:
    [packages] = described.parents[1].glob("lib/python*/site-packages")
    record = packages / "copyleft-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: copyleft\nVersion: 1.0\nLicense-Expression: Apache-2.0 AND AGPL-3.0-only\n"
    )
    try:
        told = licences(described)
    finally:
        (record / "METADATA").unlink()
        record.rmdir()
    assert told.returncode == 1 and "was found for package copyleft:1.0" in told.stderr


def test_the_sbom_lists_what_is_shipped_and_nothing_else(described: Path) -> None:
    options = ["--pyproject", "pyproject.toml", "--no-validate"]
    told = run(sys.executable, "-m", "cyclonedx_py", "environment", *options, described, cwd=ROOT)
    listed = {one["name"]: one["version"] for one in json.loads(told)["components"]}
    assert listed == {one.name: one.version for one in shipped.shipped()}
    assert listed["torch"] == version("torch") and not listed.keys() & {"pytest", "moto", "mypy"}
