"""What a token opens: a project or all of them, to read, to submit or to do everything, perhaps until a day."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

from nas_core.errors import InvalidValue

EVERY_PROJECT = "*"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


SPAN = re.compile(r"(\d{1,6})([hdwy])")
HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}


class NotAllowed(RuntimeError):
    """Somebody's token does not open what they want to do; the text says what would."""


class Role(StrEnum):
    """What may be done with a token; each may also do what those before it may."""

    READ = "read"
    """Look at everything of the project."""
    SUBMIT = "submit"
    """Submit, and steer what was submitted under the same name."""
    ADMIN = "admin"
    """Steer everything of the project; for all projects also change weights and quotas."""


@dataclass(frozen=True)
class Grant:
    """What a token opens. `name` is told of whoever uses it, in events; `expires_at` is in seconds since 1970.

    `own` says that the service made the token itself, for the user whose machine it runs on; `person` that there is no
    token, and somebody has signed on (`service.domain.sign_on`).
    """

    project: str
    role: Role = Role.ADMIN
    name: str = ""
    expires_at: float = math.inf
    own: bool = False
    person: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"{self.project}:{self.role}")

    @property
    def confined_to(self) -> str | None:
        """The one project that it opens; None for all."""
        return None if self.project == EVERY_PROJECT else self.project

    @property
    def whose(self) -> str:
        """Whoever uses it, as sentences begin."""
        return self.name if self.person else f"The token {self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The grant that `PROJECT[:ROLE[:NAME]][@DAY]` describes. Raises `ValueError` where it describes none.

        It holds until the end of the day, in UTC, or until the time that is given (ISO 8601).
        """
        what, at, until = text.partition("@")
        project, _, rest = what.partition(":")
        role, _, name = rest.partition(":")
        if not (project == EVERY_PROJECT or NAME.fullmatch(project)) or (name and not NAME.fullmatch(name)):
            raise ValueError("not a name")
        expires_at = _moment(until) if at else math.inf
        return cls(project, Role(role or Role.ADMIN), name, expires_at)

    def check_manages(self) -> None:
        """Raises `NotAllowed` unless this may manage tokens and read the audit log: that takes an admin's."""
        if self.role != Role.ADMIN:
            raise NotAllowed(
                f"{self.whose} may {self.role}; this needs an admin of the project, or of all projects (*)."
            )

    def check_gives(self, other: "Grant") -> None:
        """Raises `NotAllowed`, or `InvalidValue` for the end, where `other` opens anything that this does not."""
        self.check_manages()
        if self.project not in (EVERY_PROJECT, other.project):
            raise NotAllowed(f"{self.whose} makes tokens for the project {self.project} only.")
        if other.expires_at > self.expires_at:
            asked, own = until(other.expires_at), until(self.expires_at)
            raise InvalidValue("expires", asked, "later than your own token's end", f"until {own} at most")


def until(moment: float) -> str | None:
    """A time in seconds since 1970 as ISO 8601 in UTC; None where it never comes."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") if math.isfinite(moment) else None


def end_of(text: str, now: float) -> float:
    """When a token ends that is to hold for 90d (12h, 4w, 1y), or until a day or a time, in seconds since 1970.

    Raises `InvalidValue` where the text is none of these, or the time has gone by.
    """
    span = SPAN.fullmatch(text)
    try:
        end = now + 3600.0 * int(span[1]) * HOURS[span[2]] if span else _moment(text)
        until(end)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidValue(
            "expires", text, "not a time", "such as 90d, 12h, 2027-01-31 or 2027-01-31T12:00Z"
        ) from error
    if end <= now:
        raise InvalidValue("expires", text, "in the past", "a time in the future, such as 90d")
    return end


def _moment(text: str) -> float:
    """The end of a day in UTC, or a time (ISO 8601), in seconds since 1970. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment + timedelta(days=len(text) <= len("2027-01-31"))).timestamp()
