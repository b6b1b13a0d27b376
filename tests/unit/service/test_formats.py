"""Numbers and times as people read them."""

import pytest

from nas_core.spec import parse_count
from service import formats


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (297_294, "297k"), (600_000_000, "600M"), (1_484_539_776, "1.48G")],
)
def test_counts_are_short(number: int, text: str) -> None:
    assert formats.short(number) == text


@pytest.mark.parametrize("number", [300_000, 600_000_000, 1_500_000])
def test_a_round_budget_reads_back_as_itself(number: int) -> None:
    assert parse_count(formats.short(number)) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (42.4, "42 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_name_two_units(seconds: float, text: str) -> None:
    assert formats.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text
