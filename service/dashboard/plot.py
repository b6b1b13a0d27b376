"""Networks by cost and accuracy, and curves by epoch, as SVG pictures: pure functions without a database or a request.

On a page the picture is styled by the page's style sheets; one that stands alone carries them (`static/plot.css`). All
coordinates are pixels from the upper left.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from nas_core.space import FAMILIES
from nas_core.space.references import TITLES
from nas_core.wording import number_of
from service.formats import percent, short

ORIGINS = {
    **{"search": "found by a search", "random": "random, of the same cost", "thin": "complete, made thinner"},
    **{family: f"{TITLES[family]}, scaled" for family in FAMILIES},
}
"""Where networks come from, and what the legend says of it: what nobody searched for is what a search must beat."""

LOGARITHMIC_FROM = 4.0
"""The ratio of the dearest to the cheapest from which on costs stand on a logarithmic axis."""

_MARGIN = 0.06
"""What an axis shows beyond the first and the last value, as a part of what lies between them."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 56.0, 14.0, 26.0, 40.0, 20.0
_FONT_WIDTH = 6.3
"""About how wide a letter is."""
_STYLE = (Path(__file__).parent / "static" / "plot.css").read_text()


@dataclass(frozen=True)
class Point:
    """A network on the picture: its cost, its accuracy with the interval's ends, and where it leads."""

    cost: float
    accuracy: float
    low: float
    high: float
    on_front: bool
    title: str
    origin: str = "search"
    href: str | None = None


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `first` to `last`; `logarithmic` ones are positive."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log(one) if self.logarithmic else one for one in (self.low, self.high, value))
        return self.first + (value - low) / (high - low) * (self.last - self.first)

    def ticks(self, gap: float) -> list[float]:
        """Round values on the axis, ascending, at least `gap` pixels apart."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for mantissas in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 6, 8), (1, 2, 5), (1, 3), (1,)):
                found = [m * 10.0**decade for decade in decades for m in mantissas]
                found = [value for value in found if self.low <= value <= self.high]
                if all(abs(self.at(b) - self.at(a)) >= gap for a, b in itertools.pairwise(found)):
                    return found
            return found[:: math.ceil(gap / abs(self.at(10.0) - self.at(1.0)))]
        least = (self.high - self.low) * gap / abs(self.last - self.first)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= least)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [index * step for index in range(first, last + 1)]


def axis_of(values: Sequence[float], first: float, last: float, may_be_logarithmic: bool = False) -> Axis:
    """An axis that shows all values, with a little room at both ends; equal values stand in its middle."""
    low, high = min(values), max(values)
    if may_be_logarithmic and low > 0 and high >= LOGARITHMIC_FROM * low:
        room = (high / low) ** _MARGIN
        return Axis(low / room, high * room, first, last, logarithmic=True)
    room = (high - low) * _MARGIN or abs(low) * 0.1 or 1.0
    return Axis(low - room, high + room, first, last)


def labels(ticks: Sequence[float], unit: str = "") -> list[str]:
    """The ticks in words, with as many digits as tell them apart: 300k, 1.2M, 97.5 %, 2.5 ms."""
    if unit == "%":
        digits = _digits([tick * 100 for tick in ticks])
        return [percent(tick, digits) for tick in ticks]
    if unit:
        digits = _digits(ticks)
        return [f"{tick:.{digits}f}\N{NO-BREAK SPACE}{unit}" for tick in ticks]
    if all(math.isclose(tick, float(f"{tick:.3g}")) for tick in ticks):
        return [short(tick) for tick in ticks]
    largest = max(ticks)
    size, suffix = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= s), (1.0, ""))
    digits = _digits([tick / size for tick in ticks])
    return [f"{tick / size:.{digits}f}{suffix}" for tick in ticks]


def _digits(numbers: Sequence[float]) -> int:
    """How many decimals the numbers need."""
    for digits in range(9):
        if all(math.isclose(number, round(number, digits), rel_tol=1e-6, abs_tol=1e-12) for number in numbers):
            return digits
    return 9


def front_line(points: Sequence[Point], across: Axis, up: Axis) -> list[tuple[float, float]]:
    """The front's corners: the best accuracy at no more than a cost, which is a step at each network of the front."""
    corners: list[tuple[float, float]] = []
    for point in sorted((point for point in points if point.on_front), key=lambda point: (point.cost, point.accuracy)):
        x, y = across.at(point.cost), up.at(point.accuracy)
        if corners and corners[-1] != (x, y):
            corners.append((x, corners[-1][1]))
        if not corners or corners[-1] != (x, y):
            corners.append((x, y))
    return corners


def draw(
    points: Sequence[Point], cost: str, unit: str = "", width: int = 960, height: int = 420, alone: bool = False
) -> str:
    """The picture as SVG text; `cost` names the horizontal axis, whose numbers are in `unit`.

    Points on the front are drawn last, so that no other lies on them, and they alone are stops of the tabulator key: a
    table tells of the others. A picture that is to stand `alone` carries its style.
    """
    shown = [origin for origin in ORIGINS if any(point.origin == origin for point in points)]
    legend = _legend(shown, width) if shown not in ([], ["search"]) else []
    top = _TOP + _ROW * (1 + max(row for row, _, _ in legend) if legend else 0)
    left, right, bottom = _LEFT, width - _RIGHT, height - _BOTTOM
    on_front = sum(point.on_front for point in points)
    words = f"{len(points)} networks by {cost.lower()} and accuracy, {on_front} of them on the front"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'class="pareto" role="group" aria-label="{escape(words)}" font-family="system-ui, sans-serif" font-size="12">'
    ]
    if alone:
        parts += [f"<title>{escape(words)}</title>", f"<style>{_STYLE}</style>"]
        parts.append(f'<rect class="paper" width="{width}" height="{height}"/>')
    if not points:
        parts.append(f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">No networks yet</text></svg>')
        return "\n".join(parts)

    across = axis_of([point.cost for point in points], left, right, may_be_logarithmic=True)
    up = axis_of([end for point in points for end in (point.low, point.high, point.accuracy)], bottom, top)
    parts.append(f'<text x="{left - 48}" y="16">Accuracy on test data, with its 95\N{NO-BREAK SPACE}% interval</text>')
    scale = ", logarithmic" if across.logarithmic else ""
    parts.append(f'<text x="{right}" y="{height - 6}" text-anchor="end">{escape(cost)}{scale}</text>')
    for row, x, origin in legend:
        y = _TOP + _ROW * row + 4
        parts.append(f'<g class="{_kind(origin)}" aria-hidden="true">{_mark(origin, x + 6, y, 5)}</g>')
        parts.append(f'<text x="{x + 18:.1f}" y="{y + 4:.1f}">{escape(ORIGINS[origin])}</text>')

    parts.append('<g aria-hidden="true">')
    heights = [tick for tick in up.ticks(44) if 0 <= tick <= 1]
    for tick, label in zip(heights, labels(heights, "%"), strict=True):
        y = up.at(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    costs = across.ticks(76)
    for tick, label in zip(costs, labels(costs, unit), strict=True):
        x = across.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
        # What stands at the edge would be cut off.
        middle = min(max(x, left + len(label) * _FONT_WIDTH / 2), right - len(label) * _FONT_WIDTH / 2)
        parts.append(f'<text x="{middle:.1f}" y="{bottom + 17}" text-anchor="middle">{label}</text>')
    corners = front_line(points, across, up)
    if len(corners) > 1:
        parts.append(f'<path class="front-line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}"/>')
    parts.append("</g>")
    for point in sorted(points, key=lambda point: (point.on_front, point.cost)):
        x, y, low, high = across.at(point.cost), up.at(point.accuracy), up.at(point.low), up.at(point.high)
        kind = f"{_kind(point.origin)} {'on-front' if point.on_front else 'beaten'}"
        whisker = f'<path class="whisker" d="M{x - 3:.1f} {low:.1f}h6m-3 0V{high:.1f}m-3 0h6"/>'
        mark = _mark(point.origin, x, y, 5 if point.on_front else 4)
        drawn = f"{whisker}{mark}<title>{escape(point.title)}</title>"
        if point.href is None:
            parts.append(f'<g class="{kind}">{drawn}</g>')
        else:
            how = f'aria-label="{escape(point.title)}"' if point.on_front else 'tabindex="-1"'
            # By its id a page that changes knows the network again, in each of its pictures.
            where = escape(point.href)
            parts.append(f'<a id="{width}:{where}" class="{kind}" href="{where}" {how}>{drawn}</a>')
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Curve:
    """A quantity by epoch: (epoch, value) in order of epochs."""

    label: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class View:
    """How curves are shown: the weight of their smoothing, and the first and last epoch; None for all."""

    smooth: float = 0.0
    first: int | None = None
    last: int | None = None

    def shows(self, epoch: int) -> bool:
        """Whether an epoch is in the range."""
        return (self.first or epoch) <= epoch <= (self.last or epoch)


def smoothed(points: Sequence[tuple[int, float]], weight: float) -> list[tuple[int, float]]:
    """The exponential moving average of a curve, where `weight` is from 0 up to, but not, 1.

    The average starts at zero and is divided by the sum of its weights, as in TensorBoard (`resmoothDataset` in
    tensorboard/components/vz_line_chart2/line-chart.ts), so that the first values count no more than others.
    """
    mean, total, found = 0.0, 0.0, []
    for epoch, value in points:
        mean = weight * mean + (1 - weight) * value
        total = weight * total + (1 - weight)
        found.append((epoch, mean / total))
    return found


def curves(
    lines: Sequence[Curve], name: str, unit: str = "", view: View = View(), width: int = 440, height: int = 240
) -> str:
    """Curves of one quantity over the epochs as SVG text; the page styles the n-th by the class `nr-n`.

    `name` and `unit` are the vertical axis', which is logarithmic where there is no unit and the values ask for it.
    A curve that is smoothed is also drawn as it is, by the class `raw`. For scripts, the picture has its first and last
    epoch and where they are.
    """
    last = max(epoch for line in lines for epoch, _ in line.points)
    left, right, bottom = _LEFT, width - _RIGHT, height - _BOTTOM
    start = view.first or 1
    across = Axis(start, view.last or max(last, start + 1), left, right)
    drawn = [
        (f"curve {kind}nr-{number}", line.label, [(epoch, value) for epoch, value in points if view.shows(epoch)])
        for number, line in enumerate(lines, start=1)
        for kind, points in (("raw ", line.points if view.smooth else ()), ("", smoothed(line.points, view.smooth)))
    ]
    drawn = [one for one in drawn if one[2]]
    words = f"{name} by epoch, {number_of(len(lines), 'curve')}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="curves" role="img" '
        f'aria-label="{escape(words)}" font-family="system-ui, sans-serif" font-size="12" '
        f'data-first="{across.low:.0f}" data-last="{across.high:.0f}" data-left="{left:g}" data-right="{right:g}">'
    ]
    for tick in across.ticks(60):
        if tick == round(tick):
            parts.append(f'<text x="{across.at(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{tick:.0f}</text>')
    if not drawn:
        parts.append(f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">No values in these epochs</text>')
        return "\n".join([*parts, "</svg>"])
    up = axis_of([value for *_, points in drawn for _, value in points], bottom, 8.0, may_be_logarithmic=not unit)
    heights = [tick for tick in up.ticks(36) if unit != "%" or 0 <= tick <= 1]
    for tick, label in zip(heights, labels(heights, unit), strict=True):
        parts.append(f'<path class="grid" d="M{left} {up.at(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{left - 8}" y="{up.at(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    for kind, label, points in drawn:
        path = "L".join(f"{across.at(epoch):.1f} {up.at(value):.1f}" for epoch, value in points)
        dot = "h0" if len(points) == 1 else ""
        parts.append(f'<path class="{kind}" d="M{path}{dot}"><title>{escape(label)}</title></path>')
    return "\n".join([*parts, "</svg>"])


def _kind(origin: str) -> str:
    """What colours the mark of a network."""
    return "reference" if origin in FAMILIES else origin


def _mark(origin: str, x: float, y: float, size: float) -> str:
    """A disc for what was found by a search; a diamond, a square and triangles for what was not."""
    if origin == "random":
        s = size * 1.3
        return f'<path class="mark" d="M{x - s:.1f} {y:.1f}l{s:.1f} {-s:.1f} {s:.1f} {s:.1f} {-s:.1f} {s:.1f}z"/>'
    if origin == "thin":
        return f'<rect class="mark" x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}"/>'
    if origin in FAMILIES:
        # One family's triangle points elsewhere than another's.
        turn = list(FAMILIES).index(origin) / len(FAMILIES)
        angles = [2 * math.pi * (corner + turn) / 3 for corner in range(3)]
        corners = " ".join(f"{x + 1.4 * size * math.sin(a):.1f},{y - 1.4 * size * math.cos(a):.1f}" for a in angles)
        return f'<polygon class="mark" points="{corners}"/>'
    return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'


def _legend(origins: Sequence[str], width: int) -> list[tuple[int, float, str]]:
    """The row and the left end of each origin's entry, in as many rows as the width asks for."""
    placed, row, x = [], 0, 8.0
    for origin in origins:
        needed = 18 + len(ORIGINS[origin]) * _FONT_WIDTH + 16
        if x + needed > width and x > 8.0:
            row, x = row + 1, 8.0
        placed.append((row, x, origin))
        x += needed
    return placed
