"""The table of a search's states."""

from pathlib import Path

import pytest

from service.domain.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    WITH_RAY,
    IllegalTransition,
    Status,
    backoff,
    check,
    mermaid,
)


def test_every_search_can_end_and_be_cancelled_before() -> None:
    assert set(TRANSITIONS) == set(Status) and not TERMINAL & WITH_RAY
    for start in Status:
        reached, todo = {start}, [start]
        while todo:
            for status in set(TRANSITIONS[todo.pop()]) - reached:
                reached.add(status)
                todo.append(status)
        assert reached & TERMINAL
        if start != Status.CANCELLING and start not in TERMINAL:
            assert {Status.CANCELLING, Status.CANCELLED} & set(TRANSITIONS[start])
        for status in Status:
            if status in TRANSITIONS[start]:
                check(start, status)
            else:
                with pytest.raises(IllegalTransition, match=f"from {start} to {status}"):
                    check(start, status)


def test_what_has_ended_goes_on_only_by_being_queued_again() -> None:
    assert {after for end in TERMINAL for after in TRANSITIONS[end]} == {Status.QUEUED}
    assert TRANSITIONS[Status.SUCCEEDED] == {}


def test_the_documentation_draws_this_table() -> None:
    document = Path(__file__).parents[3] / "docs" / "lifecycle.md"
    assert f"```mermaid\n{mermaid()}```" in document.read_text()


def test_waits_grow_and_stay_below_five_minutes() -> None:
    waits = [backoff(attempt) for attempt in range(1, 20)]
    assert waits == sorted(waits) and waits[0] == 2 and waits[-1] == 300
