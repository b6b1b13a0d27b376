"""The picture of cost and accuracy: where everything is."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dashboard.plot import (
    ORIGINS,
    Axis,
    Curve,
    Point,
    View,
    axis_of,
    curves,
    draw,
    front_line,
    labels,
    smoothed,
)
from service.domain.pareto import front

Network = tuple[float, float, float, float, str]
SIZES = [(960, 420), (350, 320)]
SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def networks(draw: Any) -> Network:
    """Cost, accuracy, the interval's ends and where it comes from."""
    low, accuracy, high = sorted(draw(st.lists(st.integers(0, 1000), min_size=3, max_size=3)))
    cost = draw(st.one_of(st.integers(0, 10**12), st.sampled_from([300_000, 300_001, 0.5])))
    return cost, accuracy / 1000, low / 1000, high / 1000, draw(st.sampled_from(sorted(ORIGINS)))


def points(found: Sequence[Network]) -> list[Point]:
    """The points of networks, of which those on the front are marked."""
    on = front([(one[0], one[1]) for one in found])
    return [
        Point(*one[:4], on_front, title=f"<{index}> & more", origin=one[4], href=f"/searches/{index}?a=1&b=2")
        for index, (one, on_front) in enumerate(zip(found, on, strict=True))
    ]


def drawn(points: list[Point], **options: Any) -> ElementTree.Element:
    """The picture's elements."""
    return ElementTree.fromstring(draw(points, "Multiply-adds", **options))


def centre(link: ElementTree.Element) -> tuple[float, float]:
    """Where the mark of a network is."""
    mark = next(one for one in link if one.get("class") == "mark")
    if mark.tag == SVG + "circle":
        return float(mark.attrib["cx"]), float(mark.attrib["cy"])
    if mark.tag == SVG + "rect":
        half = float(mark.attrib["width"]) / 2
        return float(mark.attrib["x"]) + half, float(mark.attrib["y"]) + half
    if mark.tag == SVG + "polygon":
        corners = [tuple(map(float, corner.split(","))) for corner in mark.attrib["points"].split()]
        return sum(x for x, _ in corners) / 3, sum(y for _, y in corners) / 3
    x, y, across = map(float, re.findall(r"-?[\d.]+", mark.attrib["d"])[:3])
    return x + across, y


@pytest.mark.parametrize(("width", "height"), SIZES)
@given(found=st.lists(networks(), min_size=1, max_size=12))
def test_every_network_and_every_word_is_inside_the_picture(width: int, height: int, found: Sequence[Network]) -> None:
    picture = drawn(points(found), width=width, height=height)
    links = picture.findall(f"{SVG}a")
    assert len(links) == len(found)
    frame = 56.0, 26.0, width - 14.0, height - 40.0
    for link in links:
        x, y = centre(link)
        assert frame[0] < x < frame[2] and frame[1] < y < frame[3]
        whisker = next(one for one in link if one.get("class") == "whisker")
        _, low, _, _, _, high, *_ = map(float, re.findall(r"-?[\d.]+", whisker.attrib["d"]))
        assert frame[1] < high <= y + 0.1 and y - 0.1 <= low < frame[3]
    rows: dict[str, list[tuple[float, float]]] = {}
    for text in picture.iter(f"{SVG}text"):
        wide = len(text.text or "") * 6.3
        part = {"middle": 0.5, "end": 1.0}.get(text.get("text-anchor", "start"), 0.0)
        start = float(text.attrib["x"]) - part * wide
        assert start > -3 and start + wide < width + 3, text.text
        rows.setdefault(text.attrib["y"], []).append((start, start + wide))
    for row in rows.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(row)):
            assert start > end, "one word on another"


@given(found=st.lists(networks(), min_size=1, max_size=12))
def test_the_front_is_a_stair_that_rises_and_passes_through_its_networks(
    found: Sequence[Network],
) -> None:
    shown = points(found)
    across, up = Axis(0, 2e12, 0, 1000), Axis(0, 1, 500, 0)
    corners = front_line(shown, across, up)
    for (x, y), (next_x, next_y) in itertools.pairwise(corners):
        assert (next_x > x and next_y == y) or (next_x == x and next_y < y), "to the right or up, never both"
    assert {(across.at(one.cost), up.at(one.accuracy)) for one in shown if one.on_front} <= set(corners)


def test_the_front_lies_on_top_and_is_reached_by_the_keyboard() -> None:
    found = [(300, 0.9, 0.8, 0.95, "search"), (300, 0.8, 0.7, 0.9, "search"), (100, 0.7, 0.6, 0.8, "search")]
    links = drawn(points(found)).findall(f"{SVG}a")
    assert [link.get("tabindex") for link in links] == ["-1", None, None]
    assert [link.get("class") for link in links] == ["search beaten", "search on-front", "search on-front"]
    assert links[0].findtext(f"{SVG}title") == "<1> & more" and links[0].get("href") == "/searches/1?a=1&b=2"
    assert links[1].findtext(f"{SVG}title") == links[1].get("aria-label") == "<2> & more"


def test_equal_networks_stand_in_the_middle_one_on_the_other() -> None:
    links = drawn(points([(300_000, 0.9, 0.85, 0.95, "search")] * 3)).findall(f"{SVG}a")
    assert {centre(link) for link in links} == {(501.0, 203.0)}
    assert [link.get("class") for link in links] == ["search on-front"] * 3


def test_one_network_has_no_line_and_none_is_told() -> None:
    alone = draw(points([(300_000, 0.9, 0.85, 0.95, "search")]), "Multiply-adds")
    assert "front-line" not in alone and ">300k<" in alone
    assert "No networks yet" in draw([], "Multiply-adds")


def test_baselines_have_marks_of_their_own_and_a_legend() -> None:
    found = [(100, 0.9, 0.8, 0.95, origin) for origin in ORIGINS]
    with_baselines, without = drawn(points(found)), drawn(points(found[:1]))
    words = ["".join(text.itertext()) for text in with_baselines.iter(f"{SVG}text")]
    assert set(ORIGINS.values()) <= set(words)
    assert not set(ORIGINS.values()) & {"".join(text.itertext()) for text in without.iter(f"{SVG}text")}
    marks = [next(one for one in link if one.get("class") == "mark").tag for link in with_baselines.findall(f"{SVG}a")]
    assert len(set(marks)) == 4


def test_costs_stand_on_a_logarithmic_axis_where_they_span_much() -> None:
    wide, narrow = axis_of([100_000, 800_000], 0, 900, True), axis_of([300_000, 600_000], 0, 900, True)
    assert wide.logarithmic and not narrow.logarithmic and not axis_of([0, 800_000], 0, 900, True).logarithmic
    assert math.isclose(wide.at(200_000) - wide.at(100_000), wide.at(800_000) - wide.at(400_000))
    assert "logarithmic" in draw(points([(1, 0.9, 0.8, 1, "search"), (9, 0.9, 0.8, 1, "search")]), "Multiply-adds")


@given(st.floats(1e-3, 1e12), st.floats(1.001, 1e6), st.sampled_from([280, 890]), st.booleans())
def test_ticks_rise_at_a_distance_and_are_told_apart(low: float, ratio: float, width: int, logarithmic: bool) -> None:
    axis = axis_of([low, low * ratio], 0, width, logarithmic)
    ticks = axis.ticks(76)
    assert len(ticks) >= 1 and all(axis.low <= tick <= axis.high for tick in ticks)
    assert len(ticks) >= 4 or width < 890 or axis.logarithmic
    assert all(axis.at(b) - axis.at(a) >= 75.9 for a, b in itertools.pairwise(ticks))
    for unit in ("", "ms"):
        assert len(set(labels(ticks, unit))) == len(ticks)


@pytest.mark.parametrize(
    ("ticks", "unit", "told"),
    [
        ([100e3, 200e3, 500e3, 1e6], "", ["100k", "200k", "500k", "1M"]),
        ([299_250, 299_500, 299_750], "", ["299.25k", "299.50k", "299.75k"]),
        ([0.975, 0.98], "%", ["97.5\N{NO-BREAK SPACE}%", "98.0\N{NO-BREAK SPACE}%"]),
        ([2.5, 5.0], "ms", ["2.5\N{NO-BREAK SPACE}ms", "5.0\N{NO-BREAK SPACE}ms"]),
    ],
)
def test_ticks_have_units(ticks: list[float], unit: str, told: list[str]) -> None:
    assert labels(ticks, unit) == told


def test_a_picture_that_stands_alone_brings_its_style_and_one_on_a_page_has_none() -> None:
    shown = points([(300_000, 0.9, 0.85, 0.95, "search")])
    assert "<style>" in draw(shown, "Multiply-adds", alone=True)
    assert not re.search("<style|style=", draw(shown, "Multiply-adds"))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 0.99))
def test_a_smoothed_value_is_the_mean_of_those_so_far_weighted_by_age(values: list[float], weight: float) -> None:
    found = smoothed(list(enumerate(values, start=3)), weight)
    assert [epoch for epoch, _ in found] == list(range(3, 3 + len(values)))
    for index, (_, value) in enumerate(found):
        weights = [weight ** (index - before) for before in range(index + 1)]
        mean = sum(w * one for w, one in zip(weights, values, strict=False)) / sum(weights)
        assert value == pytest.approx(mean, rel=1e-9, abs=1e-6)


@given(st.integers(1, 50), st.integers(1, 30), st.floats(0.01, 0.99))
def test_a_range_of_epochs_has_what_all_epochs_have_there(first: int, more: int, weight: float) -> None:
    line = Curve("one", [(epoch, math.sin(epoch)) for epoch in range(1, 61)])
    last = first + more
    picture = ElementTree.fromstring(curves([line], "Loss", "%", View(weight, first, last)))
    assert (picture.get("data-first"), picture.get("data-last")) == (str(first), str(last))
    raw, smooth = (
        [float(number) for number in re.findall(r"-?[\d.]+", path.get("d") or "")]
        for path in picture.iter(f"{SVG}path")
        if "curve" in (path.get("class") or "")
    )
    seen = range(first, min(last, 60) + 1)
    assert len(raw) == len(smooth) == 2 * len(seen)
    left, right = float(picture.get("data-left") or 0), float(picture.get("data-right") or 0)
    assert raw[0] == smooth[0] == left and (last > 60 or raw[-2] == right)
    # Both stand on one axis, whatever it is: the differences of the smoothed curve are in the raw one's scale.
    averages = dict(smoothed(line.points, weight))
    (low, high) = (min(seen, key=math.sin), max(seen, key=math.sin))
    scale = (raw[2 * (high - first) + 1] - raw[2 * (low - first) + 1]) / (math.sin(high) - math.sin(low) or 1)
    for index, epoch in enumerate(seen):
        expected = raw[2 * index + 1] + scale * (averages[epoch] - math.sin(epoch))
        assert len(seen) == 1 or smooth[2 * index + 1] == pytest.approx(expected, abs=1.5)


def test_a_range_without_values_says_so() -> None:
    picture = curves([Curve("one", [(1, 0.5), (2, 0.4)])], "Loss", view=View(0.0, 10, 20))
    assert "No values in these epochs" in picture and "curve nr-1" not in picture
