"""An environment with the records of what Yoso needs when it runs: what it is developed with is not in it.

    python -m tools.shipped FOLDER

What SBOM and licences are made of. Every package is described as it is installed here, with all extras but `dev`.
"""

import sys
import tomllib
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def shipped() -> list[Distribution]:
    """The packages, in the order of their names. Raises `PackageNotFoundError` for one that is not installed."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = [one for name, of_extra in project["optional-dependencies"].items() if name != "dev" for one in of_extra]
    found: dict[str, Distribution] = {}
    taken: set[tuple[str, str]] = set()
    waiting = [Requirement(one) for one in (*project["dependencies"], *extras)]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        one = found[name] = found.get(name) or distribution(name)
        for extra in {"", *asked.extras} - {extra for other, extra in taken if other == name}:
            taken.add((name, extra))
            needs = (Requirement(text) for text in one.requires or ())
            waiting += (need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra}))
    return [found[name] for name in sorted(found)]


def describe(folder: Path) -> Path:
    """Make the environment in `folder`; returns its interpreter."""
    venv.create(folder, clear=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for one in shipped():
        record = packages / f"{one.name}-{one.version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(one.read_text("METADATA") or "")
    return folder / "bin" / "python"


if __name__ == "__main__":
    describe(Path(sys.argv[1]))
