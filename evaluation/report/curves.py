"""Loss curves as SVG whose colours are the report's own, light or dark."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

INK, MUTED, LINE, TRAIN, VALIDATION = "#010101", "#020202", "#030303", "#040404", "#050505"
THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    TRAIN: "var(--accent)",
    VALIDATION: "var(--warm)",
}
"""Stand-in colours for drawing, and the style sheet's variables that take their place."""


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
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
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(5.0, 2.5))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.09, 0.13, 0.76, 0.85))
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
        axes.tick_params(axis="y", which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlim(0, max(step for points in lines.values() for step, _ in points))
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0, pad=5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    return _inline(figure)


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


def _inline(figure: Any) -> str:
    """The figure as an <svg> element for HTML: no declaration, no names, no addresses, text as text."""
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
    return svg
