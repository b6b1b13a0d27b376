"""A search's states and the one table of the ways between them.

`queued` waits for room; `launching` is being handed to Ray; `waiting` is with Ray, which looks for resources;
`running` has begun; `finishing` has its result in its folder, which is being read. An attempt that failed and may be
tried again goes back to `queued`. From anywhere before the end a search can be cancelled.
"""

from enum import StrEnum


class Status(StrEnum):
    """Where a search stands."""

    QUEUED = "queued"
    LAUNCHING = "launching"
    WAITING = "waiting"
    RUNNING = "running"
    FINISHING = "finishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


S = Status
TRANSITIONS: dict[Status, frozenset[Status]] = {
    S.QUEUED: frozenset({S.LAUNCHING, S.CANCELLING, S.CANCELLED}),
    S.LAUNCHING: frozenset({S.WAITING, S.RUNNING, S.FINISHING, S.QUEUED, S.FAILED, S.CANCELLING}),
    S.WAITING: frozenset({S.RUNNING, S.FINISHING, S.QUEUED, S.FAILED, S.CANCELLING}),
    S.RUNNING: frozenset({S.WAITING, S.FINISHING, S.QUEUED, S.FAILED, S.CANCELLING}),
    S.FINISHING: frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLING}),
    S.CANCELLING: frozenset({S.CANCELLED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, ways in TRANSITIONS.items() if not ways)
WITH_RAY = frozenset({S.LAUNCHING, S.WAITING, S.RUNNING, S.FINISHING, S.CANCELLING})
"""The states in which a search may hold resources of the cluster."""


class IllegalTransition(ValueError):
    """A change of state that the table does not know."""


def check(before: Status, after: Status) -> None:
    """Raise `IllegalTransition` unless a search may go from `before` to `after`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"a search cannot go from {before} to {after}")


MAX_ATTEMPTS = 3
"""Launches of one search before it has failed for good."""


def backoff(attempt: int) -> float:
    """Seconds to wait before the attempt after `attempt`: 2, 4, 8, … up to five minutes."""
    return min(300.0, 2.0**attempt)
