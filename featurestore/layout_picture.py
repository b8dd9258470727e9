"""A layout as a map: its blocks in words and as a picture, with the values of one clip where one is given.

entries = described(layout, compact, missing)
draw(layout, entries, matrix, "a clip").savefig("matrix.png")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from featurestore.catalogue import ATTRIBUTES
from featurestore.conditioning import COLUMNS, ROWS, Block, Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITIVE, NEGATIVE = (15, 118, 110), (194, 87, 26)
INK, MUTED, LINE = "#1d2129", "#6a7280", "#e4e1d8"
STATES = {"filled": "#0f766e", "unknown": "#d9a441", "missing": "#b4434a", "off": "#b3b0a7"}
"""What a block can be for a clip, and its colour."""
PADDING = "#f1efe9"


@dataclass(frozen=True)
class Entry:
    """A block, and what a clip makes of it.

    state: `filled`, `unknown`, `missing` (the clip has no such constituent), `off`; "" without a clip.
    value: of an attribute, for a person. minimum, mean, maximum: of the block's cells; clamped: the share of values
    beyond the clamp or no number. None where it is not filled.
    """

    block: Block
    state: str = ""
    value: str = ""
    minimum: float | None = None
    mean: float | None = None
    maximum: float | None = None
    clamped: float | None = None


def described(
    layout: Layout, compact: Mapping[str, np.ndarray] | None = None, missing: Sequence[str] = ()
) -> list[Entry]:
    """The blocks from the first row to the last.

    compact: of one clip, as in `records.Batch`; missing: the constituents that it lacks.
    """
    blocks = sorted(layout.blocks, key=lambda block: (block.row, block.column))
    if compact is None:
        return [Entry(block, "" if block in layout.on else "off") for block in blocks]
    return [_described(block, layout, compact, missing) for block in blocks]


def _described(block: Block, layout: Layout, compact: Mapping[str, np.ndarray], missing: Sequence[str]) -> Entry:
    key = block.constituent
    if block not in layout.on:
        return Entry(block, "off")
    if key in missing or key not in compact:
        return Entry(block, "missing")
    if block.encoding == "values":
        stored = compact[key][0].astype(np.float32)
        numbers = (stored[list(block.take)] if block.take else stored) * np.float32(block.scale)
        cut = np.clip(np.nan_to_num(numbers, nan=0.0), -layout.clamp, layout.clamp)
        beyond = ~(np.abs(numbers) <= layout.clamp)
        return Entry(block, "filled", "", float(cut.min()), float(cut.mean()), float(cut.max()), float(beyond.mean()))
    number = float(compact[key][0])
    if np.isnan(number) or (block.encoding != "constant" and number < 0):
        return Entry(block, "unknown")
    if block.encoding == "constant":
        scaled = number * block.scale
        cell = float(np.clip(scaled, -layout.clamp, layout.clamp))
        return Entry(block, "filled", f"{number:.0f} years", cell, cell, cell, float(abs(scaled) > layout.clamp))
    label = ATTRIBUTES[key][int(number)]
    if block.encoding == "level":
        level = float(block.codes[int(number)])
        return Entry(block, "filled", label, level, level, level, 0.0)
    return Entry(block, "filled", label, 0.0, 1 / block.columns, 1.0, 0.0)


def span(start: int, count: int) -> str:
    """Rows or columns for a person: `7`, or `1..26`."""
    return str(start) if count == 1 else f"{start}..{start + count - 1}"


def scale(block: Block) -> str:
    """The scale as the tables write it: `/200`, `x10`, `x1`."""
    if block.encoding not in ("values", "constant"):
        return ""
    nearest = Fraction(block.scale).limit_denominator(100_000)
    return f"/{nearest.denominator}" if nearest.numerator == 1 and nearest.denominator > 1 else f"x{block.scale:g}"


def colours(matrix: np.ndarray, layout: Layout) -> np.ndarray:
    """(256, 768, 4) uint8: sign as colour; size, within its own block, as opacity."""
    strength = np.zeros_like(matrix)
    for block in layout.blocks:
        cells = np.abs(matrix[block.cells])
        if cells.any():
            strength[block.cells] = np.clip(cells / np.percentile(cells[cells > 0], 98), 0, 1) ** 0.6
        if block.unknown_column is not None:
            strength[block.row, block.unknown_column] = abs(matrix[block.row, block.unknown_column]) > 0
    coloured = np.empty((*matrix.shape, 4), np.uint8)
    coloured[..., :3] = np.where((matrix >= 0)[..., None], POSITIVE, NEGATIVE)
    coloured[..., 3] = np.rint(strength * 31) * 8
    coloured[strength == 0] = 0
    return coloured


def spread(wanted: Sequence[float], gap: float, lowest: float, highest: float) -> list[float]:
    """Heights of names: ascending ones moved apart until none touches the next, as little as may be, within bounds."""
    heights: list[float] = []
    for height in wanted:
        heights.append(max(height, heights[-1] + gap if heights else lowest))
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], highest)
        highest = heights[i] - gap
    return heights


_DPI = 200
_LEFT, _TOP, _BOTTOM, _STRIP, _GAP, _NAMES = 90, 150, 110, 34, 36, 790
_WIDE, _HIGH = 2 * COLUMNS, 4 * ROWS
"""Of the picture, in pixels: a column is two wide, a row four high."""


def draw(layout: Layout, entries: Sequence[Entry], matrix: np.ndarray | None = None, about: str = "") -> "Figure":
    """The map as a figure. matrix: (256, 768) of the clip that `entries` are of; without one, the blocks alone.

    Beside the matrix: what each row is for this clip, and whether the U-Net sees it (rows of zeros it does not).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strips = 0 if matrix is None else 2 * _STRIP + 2 * _GAP
    width, height = _LEFT + _WIDE + strips + _NAMES, _TOP + _HIGH + _BOTTOM
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def axes(left: float, wide: float) -> "Axes":
        made = figure.add_axes((left / width, _BOTTOM / height, wide / width, _HIGH / height))
        made.set_ylim(ROWS, 0)
        for spine in made.spines.values():
            spine.set_color(LINE)
        return made

    sheet = axes(_LEFT, _WIDE)
    _draw_sheet(sheet, layout, entries, matrix)
    if matrix is not None:
        _draw_strips([axes(_LEFT + _WIDE + _GAP + i * (_STRIP + _GAP // 2), _STRIP) for i in (0, 1)], entries, matrix)
    names = axes(_LEFT + _WIDE + strips, _NAMES)
    names.set_axis_off()
    names.set_xlim(0, _NAMES)
    _draw_names(names, entries)
    figure.text(_LEFT / width, 1 - 34 / height, layout.label, size=10.5, weight="bold", color=INK, va="center")
    figure.text(_LEFT / width, 1 - 74 / height, about, size=7.5, color=MUTED, va="center")
    _draw_legend(figure, width, height, matrix is not None)
    return figure


def _draw_sheet(sheet: "Axes", layout: Layout, entries: Sequence[Entry], matrix: np.ndarray | None) -> None:
    from matplotlib.patches import Rectangle

    sheet.set_xlim(0, COLUMNS)
    ends = sorted({entry.block.row for entry in entries} | {entry.block.row + entry.block.rows for entry in entries})
    used = max(ends, default=0)
    if used < ROWS:
        sheet.axhspan(used, ROWS, color=PADDING, linewidth=0)
        sheet.text(8, (used + ROWS) / 2, f"padding, {ROWS - used} rows", size=6.5, color=MUTED, va="center")
    for entry in entries:
        block = entry.block
        box = (block.column, block.row), block.columns, block.rows
        if entry.state in ("unknown", "missing", "off"):
            sheet.add_patch(
                Rectangle(*box, facecolor="white", edgecolor=STATES[entry.state], hatch="//////", linewidth=0)
            )
        elif matrix is None:
            sheet.add_patch(Rectangle(*box, facecolor="#d5e9e5", linewidth=0))
        colour = STATES.get(entry.state, STATES["filled"])
        sheet.add_patch(Rectangle(*box, fill=False, edgecolor=colour, linewidth=0.5, zorder=3))
        end, middle = block.column + block.columns, block.row + block.rows / 2
        sheet.plot((end, COLUMNS), (middle, middle), color=LINE, linewidth=0.5, zorder=0)
    if matrix is not None:
        extent = (0, COLUMNS, ROWS, 0)
        sheet.imshow(colours(matrix, layout), extent=extent, aspect="auto", interpolation="nearest", zorder=2)
    sheet.xaxis.tick_top()
    sheet.set_xticks([*range(0, COLUMNS, 128), COLUMNS], [*map(str, range(0, COLUMNS, 128)), "767"])
    sheet.set_yticks(_apart(ends), [str(row) for row in _apart(ends)])
    sheet.tick_params(colors=MUTED, labelsize=6, length=2, width=0.5, pad=2)


def _apart(rows: Sequence[int], least: int = 7) -> list[int]:
    """Those rows whose numbers do not touch each other in the margin."""
    chosen: list[int] = []
    for row in rows:
        if not chosen or row - chosen[-1] >= least:
            chosen.append(row)
    return chosen


def _draw_strips(strips: Sequence["Axes"], entries: Sequence[Entry], matrix: np.ndarray) -> None:
    from matplotlib.colors import to_rgb

    state = np.full((ROWS, 1, 3), to_rgb(PADDING))
    for name in reversed(STATES):
        for entry in entries:
            if entry.state == name:
                state[entry.block.row : entry.block.row + entry.block.rows] = to_rgb(STATES[name])
    seen = np.where((matrix != 0).max(axis=1)[:, None, None], to_rgb(INK), to_rgb("#ffffff"))
    for axes, rows, title in zip(strips, (state, seen), ("state", "seen"), strict=True):
        axes.imshow(rows, extent=(0, 1, ROWS, 0), aspect="auto", interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, size=6, color=MUTED, pad=3)


def _draw_names(names: "Axes", entries: Sequence[Entry]) -> None:
    for x, title in ((225, "rows"), (335, "columns")):
        names.text(x, -7, title, size=6, color=MUTED, va="center")
    middles = [entry.block.row + entry.block.rows / 2 for entry in entries]
    for entry, middle, height in zip(entries, middles, spread(middles, 9.0, 3, ROWS - 3), strict=True):
        colour = MUTED if entry.state in ("unknown", "missing", "off") else INK
        names.plot((0, 14, 52, 62), (middle, middle, height, height), color="#c9c6bd", linewidth=0.6)
        names.text(72, height, entry.block.constituent, size=7.5, color=colour, va="center")
        block = entry.block
        names.text(225, height, span(block.row, block.rows), size=6.5, color=MUTED, va="center")
        names.text(335, height, span(block.column, block.columns), size=6.5, color=MUTED, va="center")
        names.text(455, height, _note(entry), size=7, color=STATES.get(entry.state, MUTED), va="center")


def _note(entry: Entry) -> str:
    if entry.minimum is None or entry.value:
        return entry.value or entry.state or scale(entry.block)
    cut = f", {entry.clamped:.1%} cut" if entry.clamped else ""
    return f"{entry.minimum:.2f} … {entry.maximum:.2f}{cut}"


def _draw_legend(figure: "Figure", width: float, height: float, with_clip: bool) -> None:
    if not with_clip:
        return
    chips = [
        ("positive", np.array(POSITIVE) / 255, None),
        ("negative", np.array(NEGATIVE) / 255, None),
        *((name, colour, None) for name, colour in STATES.items() if name != "filled"),
        ("seen by the U-Net", INK, None),
        ("row of zeros: masked", "#ffffff", MUTED),
    ]
    from matplotlib.patches import Rectangle

    x = _LEFT
    for name, colour, edge in chips:
        box = Rectangle(
            (x / width, 38 / height), 22 / width, 22 / height, facecolor=colour, edgecolor=edge or "none", linewidth=0.5
        )
        figure.add_artist(box)
        figure.text((x + 32) / width, 49 / height, name, size=6.5, color=MUTED, va="center")
        x += 32 + 12 * len(name) + 40
