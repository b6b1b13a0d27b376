"""Attempts to break into a service that really runs: none may succeed."""

from pathlib import Path

import pytest

from benchmarks.break_in import ATTEMPTS, attack
from tests.hostile import ENDING, HARMLESS


@pytest.mark.slow
@pytest.mark.proof
def test_no_attempt_to_break_in_succeeds(tmp_path: Path) -> None:
    rows = attack(tmp_path)
    assert len(rows) == len(ATTEMPTS) + len(ENDING) + len(HARMLESS) + 1 and len(ATTEMPTS) > 20
    assert [(row.attack, row.got) for row in rows if row.succeeded] == []
