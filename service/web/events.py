"""Numbers of events, as streams of them have them."""

from typing import Annotated

from pydantic import Field

Seq = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""The number of an event; 0 is before the first."""


def last_seen(text: str | None) -> int | None:
    """The number in a `Last-Event-ID`; None where it is none that was ever sent."""
    return int(text) if text and text.isdecimal() and len(text) < 19 else None
