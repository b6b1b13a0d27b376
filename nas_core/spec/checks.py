"""Fields that say beside their default what may stand in them."""

from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any, NamedTuple

from nas_core.errors import InvalidValue

LARGEST = 1e9
"""Of the numbers that are no counts: milliseconds and those of a schedule."""


class Check(NamedTuple):
    """Which values a field takes; what is wrong with others, and what would be accepted, in words."""

    usable: Callable[[Any], bool]
    reason: str
    accepted: str


def choice(default: str, choices: Sequence[str]) -> Any:
    """A field that is one of `choices`."""
    return _field(default, lambda value: value in choices, "no such choice", "one of " + ", ".join(choices))


def switch(default: bool) -> Any:
    """A field that is true or false."""
    return _field(default, lambda value: type(value) is bool, "not a truth value", "true or false")


def whole(default: int, least: int, most: int = 1_000_000) -> Any:
    """A field that is an integer from `least` to `most`."""
    accepted = f"an integer from {least} to {most}"
    return _field(default, lambda value: type(value) is int and least <= value <= most, "not a usable number", accepted)


def number(default: float, above: float | None = None, below: float | None = None, most: float = LARGEST) -> Any:
    """A field that is a number from 0 to `most`, or `above` and `below` these."""
    start = "from 0" if above is None else f"above {above:g}"
    end = f"to {most:g}" if below is None else f"to below {below:g}"

    def usable(value: Any) -> bool:
        within = type(value) in (int, float) and 0 <= value <= most
        return within and (above is None or value > above) and (below is None or value < below)

    return _field(default, usable, "not a usable number", f"a number {start} {end}")


def _field(default: Any, usable: Callable[[Any], bool], reason: str, accepted: str) -> Any:
    return field(default=default, metadata={"check": Check(usable, reason, accepted)})


def check(part: Any, name: str = "") -> None:
    """Hold the dataclass `part`, which requests call `name` where it is not the whole, to what its fields say.

    Raises `InvalidValue` for the first value that cannot be used.
    """
    for one in fields(part):
        value, wanted = getattr(part, one.name), one.metadata.get("check")
        if wanted and not wanted.usable(value):
            raise InvalidValue(f"{name}.{one.name}" if name else one.name, value, wanted.reason, wanted.accepted)


class Phase:
    """A part of the settings, whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        check(self, "settings")
