"""Whether a running search has stalled: its workers have told of nothing for longer than is to be expected. No I/O.

Workers tell of every epoch, and how long an epoch takes differs from seconds to hours. So the longest silence to expect
follows from how long the search had run when its workers told of something last, within bounds.
"""

from service.domain.lifecycle import Status

LEAST_SECONDS = 15 * 60.0
"""No silence is too long below this: Ray itself ends workers that do not respond for ten minutes."""
MOST_SECONDS = 2 * 3600.0
"""Any silence is too long above this, which is also what a first epoch may take."""


def stalled_for(
    status: str, started_at: float | None, heard_at: float | None, progress: float, now: float
) -> float | None:
    """The seconds since the last update of a search that has stalled; None for any other."""
    if status != Status.RUNNING or started_at is None or heard_at is None:
        return None
    expected = min(max(heard_at - started_at, LEAST_SECONDS), MOST_SECONDS) if progress > 0 else MOST_SECONDS
    return now - heard_at if now - heard_at > expected else None
