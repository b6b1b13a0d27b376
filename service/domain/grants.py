"""What a token opens: a project or all of them, to read, to submit or to do everything, perhaps until a day."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

EVERY_PROJECT = "*"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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

    `own` says that the service made the token itself, for the user whose machine it runs on.
    """

    project: str
    role: Role = Role.ADMIN
    name: str = ""
    expires_at: float = math.inf
    own: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"{self.project}:{self.role}")

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
        expires_at = math.inf
        if at:
            moment = datetime.fromisoformat(until)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            expires_at = (moment + timedelta(days=len(until) <= len("2027-01-31"))).timestamp()
        return cls(project, Role(role or Role.ADMIN), name, expires_at)
