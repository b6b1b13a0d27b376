"""A network as a picture: each block's operations and edges, as one SVG that needs nothing else.

Edges are as thick as they were strong when the search ended, dead operations are left out, and every part says what it
is and costs when pointed at. Colours follow the reader's light or dark setting unless a theme is asked for.
"""

from html import escape
from typing import Literal, NamedTuple

from nas_core.space import cost
from nas_core.space.blocks import Block, Edge
from nas_core.space.operations import OPERATIONS, Convolution, Pool
from nas_core.space.references import Reference
from nas_core.space.space import Architecture
from nas_core.space.topology import Part

_LABELS = {
    "separable3": "sep 3×3",
    "separable5": "sep 5×5",
    "max_pool3": "max 3×3",
    "average_pool3": "avg 3×3",
    "identity": "identity",
    "dilated3": "dil 3×3",
    "dilated5": "dil 5×5",
    "convolution3": "conv 3×3",
    "depthwise3": "dw 3×3",
    "separable3_se": "sep 3×3 SE",
    "inverted_bottleneck3": "inv 3×3",
    "inverted_bottleneck5": "inv 5×5",
    "inverted_bottleneck3_e6": "inv 3×3 ×6",
    "inverted_bottleneck3_plain": "inv plain",
}

# Distances in pixels.
_COLUMN, _ROW, _BOX, _TALL = 104, 62, 78, 26
_MARGIN, _TITLE, _LINE = 18, 34, 22
_NARROWEST, _WIDEST, _PANEL = 800, 1180, 360
"""What the titles need, what a screen shows at full size, and what the title of a block needs."""
_FONT, _FONT_OF_NAMES = 'font-size="12"', 'font-size="10" font-family="monospace"'

_LIGHT = "--ink:#1d2530;--soft:#6b7684;--paper:#ffffff;--panel:#f6f8fa;--line:#d5dbe2;--conv:#2463c4;--pool:#b25f00"
_DARK = "--ink:#e6ebf1;--soft:#97a3b1;--paper:#14181d;--panel:#1b2128;--line:#39424d;--conv:#7db0ff;--pool:#f0ab55"

RULES = (
    ".architecture .paper{fill:var(--paper)}.architecture .panel{fill:var(--panel);stroke:var(--line)}"
    ".architecture .ink{fill:var(--ink)}.architecture .soft{fill:var(--soft)}"
    ".architecture .edge{fill:none;stroke:var(--ink)}"
    ".architecture .node rect{fill:var(--paper);stroke:var(--soft);stroke-width:1.2}"
    ".architecture .node text{fill:var(--ink)}"
    ".architecture .conv.alive rect{stroke:var(--conv);stroke-width:1.8}"
    ".architecture .pool.alive rect{stroke:var(--pool);stroke-width:1.8}"
    ".architecture .plain.alive rect{stroke:var(--ink);stroke-width:1.8}"
)
"""What draws what with which of the colours, for a page that has the picture inside it too."""

Theme = Literal["auto", "light", "dark", "page"]


def draw(genotype: Architecture | Reference, theme: Theme = "auto") -> str:
    """A network as SVG text: an architecture with one panel a block, of which equal neighbours share one; a reference
    with one line a part.

    `theme` is "light", "dark" or "auto", which follows the reader's setting; "page" leaves colours and `RULES` to the
    page around it.
    """
    return _lines(genotype, theme) if isinstance(genotype, Reference) else _panels(genotype, theme)


def _lines(reference: Reference, theme: Theme) -> str:
    """A reference's parts: what each is made of, what it gives out and what it costs."""
    parts = reference.parts()
    summary = (
        f"{reference.variant}: {reference.multiply_adds:,} multiply-adds, {reference.parameters:,} parameters, "
        f"{'/'.join(map(str, reference.widths))} channels"
    )
    rows = [
        (
            part.name,
            " · ".join(step.name for step in part.steps),
            f"{part.channels} channels, {part.size}×{part.size} in",
            f"{_short(int(cost.of_part(part).multiply_adds))} multiply-adds",
        )
        for part in parts
    ]
    height = _TITLE + 30 + _LINE * len(rows)
    drawn = _opening(summary, _NARROWEST, height, theme)
    for number, (name, made_of, entering, counted) in enumerate(rows):
        y = _TITLE + 30 + _LINE * number
        drawn.append(
            f'<text class="ink" x="{_MARGIN}" y="{y}" {_FONT} font-weight="600">{escape(name)}</text>'
            f'<text class="ink" x="110" y="{y}" {_FONT}>{escape(made_of)}</text>'
            f'<text class="soft" x="{_NARROWEST - 170}" y="{y}" {_FONT} text-anchor="end">{escape(entering)}</text>'
            f'<text class="soft" x="{_NARROWEST - _MARGIN}" y="{y}" {_FONT} text-anchor="end">{escape(counted)}</text>'
        )
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _opening(summary: str, width: int, height: int, theme: Theme) -> list[str]:
    """The beginning of a picture, with its title."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(summary)}" font-family="system-ui, sans-serif" class="architecture">',
        f"<title>{escape(summary)}</title>",
        *([] if theme == "page" else [f"<style>{_style(theme)}</style>"]),
        f'<rect class="paper" width="{width}" height="{height}"/>',
        f'<text class="ink" x="{_MARGIN}" y="30" font-size="16" font-weight="600">{escape(summary)}</text>',
    ]


def _panels(architecture: Architecture, theme: Theme) -> str:
    space = architecture.space
    runs = _runs(architecture)
    grids = [_Grid.of(architecture, first) for first, _ in runs]
    panel_width = max(_PANEL, _COLUMN * max(len(grid.columns) for grid in grids) + 2 * _MARGIN)
    columns = max(1, min(len(runs), 3, _WIDEST // (panel_width + _MARGIN)))
    panel_width = max(panel_width, _NARROWEST // columns)
    width = columns * (panel_width + _MARGIN) + _MARGIN
    lines = [grids[start : start + columns] for start in range(0, len(grids), columns)]
    heights = [_TITLE + _ROW * (max(len(grid.levels) for grid in line) + 2) + _MARGIN for line in lines]
    tops = [_TITLE + 36 + sum(heights[:line]) + _MARGIN * line for line in range(len(lines))]
    blocks = [part for part in architecture.parts() if part.kind == "block"]
    summary = (
        f"{space.name}: {architecture.multiply_adds:,} multiply-adds, {architecture.parameters:,} parameters, "
        f"{'/'.join(map(str, architecture.widths))} channels"
    )
    drawn = _opening(summary, width, tops[-1] + heights[-1] + _MARGIN, theme)
    others = [
        f"{part.name} {_short(int(cost.of_part(part).multiply_adds))}"
        for part in architecture.parts()
        if part.kind != "block"
    ]
    told = f"Besides the blocks, in multiply-adds: {', '.join(others)}"
    drawn.append(f'<text class="soft" x="{_MARGIN}" y="52" {_FONT}>{escape(told)}</text>')
    for place, ((first, last), grid) in enumerate(zip(runs, grids, strict=True)):
        x, y = _MARGIN + place % columns * (panel_width + _MARGIN), tops[place // columns]
        part = blocks[first]
        title = f"Block {first + 1}" if first == last else f"Blocks {first + 1}–{last + 1}"
        each = cost.of_part(part).multiply_adds
        detail = f"{part.channels} channels, {part.size}×{part.size}, {_short(each)} multiply-adds"
        drawn.append(f'<g transform="translate({x} {y})">')
        drawn.append(f'<rect class="panel" width="{panel_width}" height="{heights[place // columns]}" rx="8"/>')
        drawn.append(f'<text class="ink" x="14" y="22" font-size="13" font-weight="600">{title}</text>')
        drawn.append(
            f'<text class="soft" x="{panel_width - 14}" y="22" font-size="11" text-anchor="end">{escape(detail)}</text>'
        )
        drawn += _block(architecture, architecture.blocks[first], part, grid, panel_width)
        drawn.append("</g>")
    return "\n".join([*drawn, "</svg>"]) + "\n"


class _Grid(NamedTuple):
    """The levels and the operations (as columns) of a block in which anything is alive, in order."""

    levels: list[int]
    columns: list[int]

    @classmethod
    def of(cls, architecture: Architecture, block: int) -> "_Grid":
        space, alive = architecture.space, architecture.blocks[block].operations
        columns = {(node - 1) % len(space.operations) for node in alive}
        return cls(sorted({space.level(node) for node in alive}), sorted(columns))


def _runs(architecture: Architecture) -> list[tuple[int, int]]:
    """First and last index of neighbouring blocks that are alike and stand in the same stage."""
    stages, blocks = architecture.space.stage_of_block, architecture.blocks
    runs: list[tuple[int, int]] = []
    for index, block in enumerate(blocks):
        if runs and blocks[index - 1] == block and stages[index - 1] == stages[index]:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    return runs


def _block(architecture: Architecture, block: Block, part: Part, grid: _Grid, panel_width: int) -> list[str]:
    space = architecture.space
    output = space.nodes + 1
    middle = panel_width / 2

    def place(node: int) -> tuple[float, float]:
        """The centre of a node; the input stands at the top and the output at the bottom."""
        if node == 0:
            return middle, _TITLE + _ROW * 0.5
        if node == output:
            return middle, _TITLE + _ROW * (len(grid.levels) + 1.5)
        column = grid.columns.index((node - 1) % len(space.operations))
        x = middle + _COLUMN * (column + 0.5 - len(grid.columns) / 2)
        return x, _TITLE + _ROW * (grid.levels.index(space.level(node)) + 1.5)

    strongest = max((edge.strength for edge in block.edges), default=1.0)
    parts = [_edge(architecture, edge, place(edge.source), place(edge.target), strongest) for edge in block.edges]
    for node in (0, *sorted(block.operations), output):
        x, y = place(node)
        if node in (0, output):
            label, kind, told = ("input" if node == 0 else "output"), "end", architecture.node_name(node)
            if not block.edges and node == output:
                label, told = "shortcut", "this block is its shortcut"
            font = _FONT
        else:
            name = space.operation(node)
            counted = int(cost.operation(name, part.channels, part.size).multiply_adds)
            kind = _kind(name)
            label, font = (_LABELS[name], _FONT) if name in _LABELS else (_shortened(name), _FONT_OF_NAMES)
            told = f"{architecture.node_name(node)}: {_short(counted)} multiply-adds"
        parts.append(
            f'<g class="node {kind} alive"><title>{escape(told)}</title>'
            f'<rect x="{x - _BOX / 2:g}" y="{y - _TALL / 2:g}" width="{_BOX}" height="{_TALL}" rx="6"/>'
            f'<text x="{x:g}" y="{y + 4:g}" {font} text-anchor="middle">{escape(label)}</text></g>'
        )
    return parts


def _kind(name: str) -> str:
    """What colours an operation: a convolution in it, else a pool, else neither."""
    layers = OPERATIONS[name]
    if any(isinstance(layer, Convolution) for layer in layers):
        return "conv"
    return "pool" if any(isinstance(layer, Pool) for layer in layers) else "plain"


def _shortened(name: str) -> str:
    """A registered name in at most 11 letters, which fit a box in `_FONT_OF_NAMES`; the end often is the kernel."""
    return name if len(name) <= 11 else f"{name[:6]}…{name[-4:]}"


def _edge(
    architecture: Architecture, edge: Edge, start: tuple[float, float], end: tuple[float, float], strongest: float
) -> str:
    """A curve from the lower side of one node to the upper side of another, bent round what stands between."""
    share = edge.strength / strongest
    (x1, y1), (x2, y2) = (start[0], start[1] + _TALL / 2), (end[0], end[1] - _TALL / 2)
    bend = (y2 - y1) * 0.5
    # Edges over several rows in one column swing out, so that they pass beside the boxes.
    aside = _COLUMN * 0.64 if abs(x1 - x2) < 1 and y2 - y1 > _ROW else 0
    told = f"{architecture.node_name(edge.source)} → {architecture.node_name(edge.target)}, λ = {edge.strength:.3f}"
    return (
        f'<path class="edge" d="M{x1:g} {y1:g} '
        f'C{x1 + aside:g} {y1 + bend:g} {x2 + aside:g} {y2 - bend:g} {x2:g} {y2:g}" '
        f'stroke-width="{0.8 + 2.7 * share:.2f}" opacity="{0.4 + 0.55 * share:.2f}">'
        f"<title>{escape(told)}</title></path>"
    )


def _style(theme: Theme) -> str:
    colours = {
        "light": f".architecture{{{_LIGHT}}}",
        "dark": f".architecture{{{_DARK}}}",
        "auto": f".architecture{{{_LIGHT}}}@media(prefers-color-scheme:dark){{.architecture{{{_DARK}}}}}",
    }[theme]
    return colours + RULES


def _short(number: int) -> str:
    """A count for people: 1.48G, 600M, 16.4k."""
    for limit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{suffix}"
    return str(number)
