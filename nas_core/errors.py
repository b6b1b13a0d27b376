"""The one error for a value that somebody gave and that cannot be used."""

from typing import Any


class InvalidValue(ValueError):
    """A value that cannot be used: which field, what was given, why not, and what would be accepted.

    `field` is the path of the value in the request, such as `"budgets"` or `"space.channels"`.
    """

    def __init__(self, field: str, value: Any, reason: str, accepted: str) -> None:
        super().__init__(f"{field}: {reason} (got {value!r}; accepted: {accepted})")
        self.field = field
        self.value = value
        self.reason = reason
        self.accepted = accepted

    def __reduce__(self) -> tuple[type["InvalidValue"], tuple[Any, ...]]:
        return type(self), (self.field, self.value, self.reason, self.accepted)
