"""How long what searches leave behind is kept: by kind, and by project."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag

from nas_core.errors import InvalidValue
from service.domain.grants import NAME

FOREVER = "forever"
ACCEPTED = f"days, and others for single projects, such as 30 or 30,vision=365,audio={FOREVER}"


class Part(IntFlag):
    """What may be removed of a search that has ended, while the search, its results and their provenance stay."""

    CHECKPOINTS = 1
    """What an attempt goes on from, and finals from their trials' states: without it, a retry begins anew."""
    EVENTS = 2
    """What it told epoch by epoch: for its curves, in its journal, and for TensorBoard."""
    LOGS = 4
    """What its drivers have printed."""

    @property
    def words(self) -> list[str]:
        """The names of all that are meant."""
        return [part.name.lower() for part in Part if part in self and part.name]


@dataclass(frozen=True)
class Kept:
    """For how many days: `days` for all projects but those in `projects`; None is for ever."""

    days: float | None = None
    projects: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def forever(self) -> bool:
        """Whether nothing is ever removed."""
        return self.days is None and all(days is None for days in self.projects.values())

    @classmethod
    def parse(cls, name: str, text: str) -> "Kept":
        """What the setting `name` says. Raises `InvalidValue`."""
        found: dict[str, float | None] = {}
        for part in re.split(r"[,\s]+", text.strip()):
            project, equals, days = part.rpartition("=")
            if (equals and not NAME.fullmatch(project)) or project in found:
                told = f"{part!r} names no project, or one that is named twice"
                raise InvalidValue(name, text, told, ACCEPTED)
            found[project] = _days(name, text, days)
        return cls(found.pop("", None), found)


def _days(name: str, text: str, days: str) -> float | None:
    if days == FOREVER:
        return None
    try:
        number = float(days)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise InvalidValue(name, text, f"{days!r} is not a time", ACCEPTED)
    return number


@dataclass(frozen=True)
class Retention:
    """How long whole searches are kept once they have ended, and parts of them; and the audit log, and messages to
    webhooks (days).
    """

    searches: Kept = Kept()
    parts: Mapping[Part, Kept] = field(default_factory=dict)
    audit_days: float | None = 365.0
    delivery_days: float | None = 30.0


NOTHING = Part(0)
BY_DEFAULT = Retention()
