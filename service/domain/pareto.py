"""The Pareto front: the networks of which no other is at once as cheap and as accurate."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of (cost, accuracy) pairs those that no other dominates: no dearer and no less accurate, and better in one.

    Equal points are all on the front, or none is.
    """
    on = [False] * len(points)
    best = float("-inf")
    by_cost = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    cheapest = float("nan")
    for index in by_cost:
        cost, accuracy = points[index]
        if accuracy > best or (accuracy == best and cost == cheapest):
            on[index] = True
            best, cheapest = accuracy, cost
    return on
