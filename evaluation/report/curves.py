"""Curves as SVG whose colours are the report's own, light or dark: losses over steps, measures over scales."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INK, MUTED, LINE, TRAIN, VALIDATION = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = tuple(f"#0606{i:02x}" for i in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""A colour and a marker for each of the eight systems, so that they can be told apart without colours too."""
MOST_INTERVALS = 3
"""Lines in a panel up to which their intervals are drawn."""
THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    TRAIN: "var(--accent)",
    VALIDATION: "var(--warm)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)},
}
"""Stand-in colours for drawing, and the style sheet's variables that take their place."""


@dataclass(frozen=True)
class Series:
    """A line of a panel: (scale, value, low, high) by scale, ends None where no interval is known. system: its place
    among the eight, which gives colour and marker; published: the paper's, dotted and hollow."""

    system: int
    points: Sequence[tuple[float, float, float | None, float | None]]
    published: bool = False


def scale_curve(series: Sequence[Series], label: str, guessing: float | None = None) -> str:
    """A measure over the conditional scale as an inline <svg>; guessing: a level to mark. label: what it shows."""
    figure, axes = _axes((4.2, 2.6), (0.09, 0.11, 0.89, 0.86))
    if guessing is not None:
        axes.axhline(guessing, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
    few = sum(not one.published for one in series) <= MOST_INTERVALS
    for i, one in enumerate(series):
        scales, values, lows, highs = zip(*sorted(one.points), strict=True)
        colour, marker = SERIES[one.system], MARKERS[one.system]
        if few and not one.published and None not in lows + highs:
            shifted = [scale + 0.06 * (i - len(series) / 2) for scale in scales]
            axes.vlines(shifted, lows, highs, color=colour, linewidth=1.0, alpha=0.55)
        axes.plot(
            scales,
            values,
            color=colour,
            linewidth=1.1 if one.published else 1.7,
            linestyle=(0, (4, 2)) if one.published else "-",
            marker=marker,
            markersize=5.5 if marker in "P*X" else 4.8,
            markerfacecolor="none" if one.published else colour,
            markeredgewidth=1.1,
            clip_on=False,
        )
    axes.margins(x=0.03)
    return _inline(figure, label)


def series_key(system: int) -> str:
    """The line and marker of a system as a small <svg>, for a legend; it says nothing by itself."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.42, 0.16))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot((0, 1, 2), (0, 0, 0), color=SERIES[system], marker=MARKERS[system], markevery=[1], linewidth=1.7)
    return _inline(figure)


def loss_curve(metrics: Sequence[Mapping[str, Any]], label: str = "loss over steps") -> str | None:
    """Training and validation loss over steps as an inline <svg>; None where fewer than two points were measured.

    metrics: rows of metrics.jsonl. The axis is logarithmic where the losses span more than a factor of three.
    """
    lines = {
        name: [(row["step"], row[key]) for row in metrics if key in row]
        for name, key in (("training", "loss"), ("validation", "validation_loss"))
    }
    losses = [loss for points in lines.values() for _, loss in points]
    if len(losses) < 2:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = _axes((5.0, 2.5), (0.09, 0.13, 0.76, 0.85))
    for points, colour, width in zip(lines.values(), (TRAIN, VALIDATION), (1.4, 1.8), strict=True):
        if points:
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) < 12 else None
            axes.plot(steps, values, color=colour, linewidth=width, marker=marker, markersize=3.2, clip_on=False)
    _name_ends(axes, lines)
    if min(losses) > 0 and max(losses) / min(losses) > 3:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(losses) / min(losses) < 50 else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="y", which="minor", length=0)
    axes.set_xlim(0, max(step for points in lines.values() for step, _ in points))
    return _inline(figure, label)


def _axes(size: tuple[float, float], place: tuple[float, float, float, float]) -> tuple[Any, Any]:
    """A figure of that size in inches with one pair of axes in the report's manner."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=size)
    FigureCanvasSVG(figure)
    axes = figure.add_axes(place)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0, pad=5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    return figure, axes


def _name_ends(axes: Any, lines: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Names at the ends of the lines, in their colours, the higher line's above."""
    ends = {name: points[-1] for name, points in lines.items() if points}
    highest = max(ends, key=lambda name: ends[name][1])
    for name, colour in (("training", TRAIN), ("validation", VALIDATION)):
        if name in ends:
            raised = (6 if name == highest else -6) if len(ends) > 1 else 0
            axes.annotate(
                name,
                ends[name],
                xytext=(6, raised),
                textcoords="offset points",
                color=colour,
                fontsize=9,
                va="center",
                annotation_clip=False,
            )


def _inline(figure: Any, label: str = "") -> str:
    """The figure as an <svg> element for HTML: no declaration, no names, no addresses, text as text. label: what it
    shows, for those who do not see it; without one it is hidden from them."""
    import html

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "voxportrait"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\sid="[a-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    told = f'role="img" aria-label="{html.escape(label)}"' if label else 'aria-hidden="true"'
    return svg.replace("<svg", f"<svg {told}", 1)
