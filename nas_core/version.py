"""Which Yoso this is."""

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"
"""The version of a bare checkout, of which no package is installed."""


def _installed() -> str:
    try:
        return version("yoso")
    except PackageNotFoundError:
        return UNKNOWN


__version__ = _installed()
"""The version of the installed package, or `UNKNOWN`."""
