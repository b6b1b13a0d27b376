"""Numbers with their nouns."""

import pytest

from nas_core.wording import number_of, resources


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1.0, "CPU", "1 CPU"),
        (0.5, "CPU", "0.5 CPUs"),
        (2000, "epoch", "2,000 epochs"),
        (2, "search", "2 searches"),
        (3, "class", "3 classes"),
        (1, "such worker", "1 such worker"),
        (123_456_789, "file", "123,456,789 files"),
    ],
)
def test_a_number_has_the_right_noun(number: float, noun: str, words: str) -> None:
    assert number_of(number, noun) == words


def test_resources_are_counted_each() -> None:
    assert resources(2.0, 1) == "2 CPUs and 1 GPU"
