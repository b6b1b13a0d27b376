"""The public face: `import yoso`."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import yoso


def test_every_name_is_there_and_none_that_is_not() -> None:
    assert all(getattr(yoso, name) is not None for name in yoso.__all__)
    assert yoso.__version__ == version("yoso")
    with pytest.raises(AttributeError, match="module 'yoso' has no attribute 'Serach'"):
        getattr(yoso, "Serach")  # noqa: B009


@pytest.mark.parametrize(
    ("name", "unneeded"),
    [
        ("__version__", {"httpx", "fastapi", "ray", "torch"}),
        ("SearchSpace", {"httpx", "fastapi", "ray", "torch"}),
        ("Search", {"httpx", "fastapi", "ray", "sqlalchemy"}),
        ("Client", {"fastapi", "ray", "sqlalchemy", "torch"}),
    ],
)
def test_a_name_loads_no_more_than_it_needs(name: str, unneeded: set[str]) -> None:
    code = f"import sys, yoso; yoso.{name}; print({unneeded!r} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
