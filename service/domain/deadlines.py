"""How long a search may wait until it starts, and how long it may run. No I/O.

It waits from when its user has queued it until its workers have started for the first time; in a sweep that is paused
and behind the searches of its sweep it does not. It runs while its state is `running`: the time of all attempts since
its user last queued it is added up. Both are measured by the database's clock.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from nas_core.errors import InvalidValue

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|m|h|d|w|)")
LEAST, MOST = 1.0, 365 * 86400.0
"""Seconds that a deadline may be at least, and at most."""
ACCEPTED = "1 s to 365 d: a text such as 30min, 2h or 7d, or a number of seconds; nothing for no deadline"

Span = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]})]
"""A span of time as users give it; `seconds` holds it to the rules."""
WAIT = (
    "Maximum time until its workers start for the first time, such as 2h or a number of seconds; then it fails. "
    "Default: no limit."
)
RUN = (
    "Maximum running time of all attempts together, such as 12h or a number of seconds; then it is stopped and fails. "
    "A retry resumes from its last checkpoint. Default: no limit."
)


class NewDeadlines(BaseModel):
    """Deadlines of what is queued again, instead of those that it had; null lifts one."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"max_run": "24h"}]})

    max_wait: Span = Field(None, description=WAIT)
    max_run: Span = Field(None, description=RUN)

    def parse(self) -> dict[str, float | None]:
        """Those that are given, in seconds. Raises `InvalidValue`."""
        given = {"max_wait": self.max_wait, "max_run": self.max_run}
        return {name: seconds(name, value) for name, value in given.items() if name in self.model_fields_set}


@dataclass(frozen=True)
class Deadlines:
    """How many seconds a search may wait and run; None where that does not matter."""

    max_wait: float | None
    max_run: float | None

    @classmethod
    def parse(cls, max_wait: Any, max_run: Any) -> Self:
        """What a request means. Raises `InvalidValue`."""
        return cls(seconds("max_wait", max_wait), seconds("max_run", max_run))


def seconds(field: str, value: Any) -> float | None:
    """The span of time in seconds that the `value` of a field means. Raises `InvalidValue`."""
    if value is None:
        return None
    number: float
    if isinstance(value, str):
        span = SPAN.fullmatch(value.strip())
        if span is None:
            raise InvalidValue(field, value, "not a duration", ACCEPTED)
        number = float(span[1]) * UNITS[span[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    else:
        raise InvalidValue(field, value, "not a duration", ACCEPTED)
    if not LEAST <= number <= MOST:  # which NaN is not, either
        reason = "too long" if number > MOST else "too short" if number < LEAST else "not a duration"
        raise InvalidValue(field, value, reason, ACCEPTED)
    return float(number)
