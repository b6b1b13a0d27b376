"""What the cost may be at every moment of a search: a straight line from the complete network to the smallest budget,
and then that."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

DESCENT = 0.85
"""The share of a search in which the cost comes down. In the rest what is left trains at the smallest budget."""


@dataclass(frozen=True)
class Schedule:
    """The targets of a search for ascending `budgets` that begins at the cost of the `complete` network.

    Progress is the share of the search that is done, 0 … 1. `gradual` is off where nothing but the end has a target,
    as in the paper.
    """

    complete: float
    budgets: Sequence[int]
    gradual: bool = True

    def target(self, progress: float) -> float:
        """The most that the network may cost at `progress`."""
        if not self.gradual:
            return self.complete if progress < 1 else float(self.budgets[0])
        return self.complete + (self.budgets[0] - self.complete) * min(progress / DESCENT, 1.0)

    def due(self, progress: float, found: Collection[int]) -> list[int]:
        """The budgets, largest first, that the target has passed by `progress` and that are not among those `found`.

        Not the smallest before the end: its network goes on to train.
        """
        target = self.target(progress)
        passed = [budget for budget in self.budgets if budget not in found and budget >= target]
        return [budget for budget in reversed(passed) if progress >= 1 or budget != self.budgets[0]]
