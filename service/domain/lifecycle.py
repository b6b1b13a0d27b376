"""A search's states and the one table of the ways between them.

`queued` waits for room; `launching` is being handed to Ray; `waiting` is with Ray, which looks for resources;
`running` has begun; `finishing` has its result in its folder, which is being read. An attempt that failed and may be
tried again goes back to `queued`. From anywhere before the end a search can be cancelled, and one that has failed or
was cancelled can be queued again by its user. `docs/lifecycle.md` draws this table.
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
TRANSITIONS: dict[Status, dict[Status, str]] = {
    S.QUEUED: {S.LAUNCHING: "claimed", S.FAILED: "waited too long", S.CANCELLED: "cancel"},
    S.LAUNCHING: {
        S.WAITING: "Ray has the job",
        S.FINISHING: "result written",
        S.QUEUED: "lost, tried again",
        S.FAILED: "refused for good",
        S.CANCELLING: "cancel, or a deadline",
    },
    S.WAITING: {
        S.RUNNING: "workers started",
        S.FINISHING: "result written",
        S.QUEUED: "lost, tried again",
        S.FAILED: "failed for good",
        S.CANCELLING: "cancel, or a deadline",
    },
    S.RUNNING: {
        S.FINISHING: "result written",
        S.QUEUED: "lost, tried again",
        S.FAILED: "failed for good",
        S.CANCELLING: "cancel, or a deadline",
    },
    S.FINISHING: {
        S.SUCCEEDED: "result stored",
        S.QUEUED: "result incomplete, tried again",
        S.FAILED: "result unusable",
        S.CANCELLING: "cancel",
    },
    S.CANCELLING: {
        S.CANCELLED: "job, actors and placement groups gone",
        S.FAILED: "the same, for a deadline",
    },
    S.SUCCEEDED: {},
    S.FAILED: {S.QUEUED: "retry"},
    S.CANCELLED: {S.QUEUED: "retry"},
}
"""For each state those that may follow, and what makes them follow."""

TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
"""The states that a search stays in unless its user queues it again."""
WITH_RAY = frozenset({S.LAUNCHING, S.WAITING, S.RUNNING, S.FINISHING, S.CANCELLING})
"""The states in which a search has a lease and may hold resources of the cluster."""


class IllegalTransition(ValueError):
    """A change of state that the table does not know."""


def check(before: Status, after: Status) -> None:
    """Raise `IllegalTransition` unless a search may go from `before` to `after`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"a search cannot go from {before} to {after}")


MAX_ATTEMPTS = 3
"""Launches of one search, since it was last queued by its user, before it has failed for good."""


WAITING_SECONDS = 900.0
"""How long an attempt may wait in Ray for its workers, unless it is set otherwise. One that waits longer gives its
place back and counts as none of the `MAX_ATTEMPTS`: a cluster that is full fails no search."""

LONGEST_BACKOFF = 300.0


def backoff(attempt: int) -> float:
    """Seconds to wait before the attempt after `attempt`: 2, 4, 8, … up to five minutes."""
    return min(LONGEST_BACKOFF, 2.0 ** min(attempt, 10))


def mermaid() -> str:
    """The table as a Mermaid state diagram (https://mermaid.js.org/syntax/stateDiagram.html)."""
    lines = ["stateDiagram-v2", "    [*] --> queued: submit"]
    for before, ways in TRANSITIONS.items():
        lines += [f"    {before} --> {after}: {why}" for after, why in ways.items()]
    lines += [f"    {end} --> [*]" for end in S if end in TERMINAL]
    return "\n".join(lines) + "\n"
