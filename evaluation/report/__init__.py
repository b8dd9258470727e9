"""One HTML file that shows a store, what was trained from it, and how good it is. It asks nothing of the network.

    build_report(store, [Path("runs/full-input-unet1"), ...], evaluation, drawings, {}, Path("index.html"), {})

`template.html` and `style.css` are the page; the modules beside them gather what it says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.portraits import Drawing
from evaluation.report import data, results
from evaluation.report.matrix import matrix_figure
from featurestore import artifacts
from featurestore.conditioning import LAYOUTS
from featurestore.store import Store
from featurestore.version import code_version

HERE = Path(__file__).parent


def build_report(
    store: Store,
    runs: Iterable[Path],
    evaluation: Mapping[str, Any],
    drawings: Sequence[Drawing],
    throughput: Mapping[str, Mapping[str, Any]],
    out: Path,
    about: Mapping[str, Any],
) -> Path:
    """Write the report to `out` and return that path. Whatever is not there yet (runs, portraits) is left out.

    evaluation: of `evaluate`, or {}. throughput: step -> {"seconds", "count", "unit"}, count and unit optional;
    without a step `extract` the store's own jobs give it. about: "commands" (list of text), "machine" and "seeds"
    (name -> value), all optional, and whatever else is to be said of how it was made (name -> value).
    Raises UsageError where a run is none, VoxportraitError where a drawing's picture or clip is gone.
    """
    makers, trained = data.makers(store), results.read_runs(runs)
    layout = replace(trained[0]["layout"], off=()) if trained else LAYOUTS["slf"]
    extraction = data.extraction(store)
    page = {
        "style": (HERE / "style.css").read_text(),
        "people": data.people(store),
        "coverage": data.coverage(store, makers),
        "quarantine": data.quarantine(store),
        "extraction": extraction,
        "steps": _steps(throughput, extraction),
        "matrix": matrix_figure(store, layout),
        "runs": trained,
        "gallery": results.gallery(store, drawings),
        "results": results.results(evaluation),
        "published": results.published(evaluation),
        "makers": makers,
        "untrained": [maker for maker in makers if not maker["trained"]],
        "sizes": results.sizes(trained),
        "paper": results.PAPER,
        "store": store.info(),
        "store_name": Path(store.place.shown).name,
        "commands": about.get("commands", ()),
        "machine": about.get("machine", {}),
        "seeds": about.get("seeds", {}),
        "other": {k: v for k, v in about.items() if k not in ("commands", "machine", "seeds")},
        "code": code_version(),
    }
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    artifacts.note(store, "picture", {out: artifacts.row_ids_of(store)})
    out.write_text(_template().render(page), encoding="utf-8")
    return out


def _steps(throughput: Mapping[str, Mapping[str, Any]], extraction: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps' seconds, counts and rates, in the order given."""
    known = dict(throughput)
    if extraction and "extract" not in known:
        known = {"extract": {"seconds": extraction["wall"], "count": extraction["clips"], "unit": "clips"}, **known}
    longest = max((step["seconds"] for step in known.values()), default=0)
    return [
        {
            "name": name,
            "seconds": step["seconds"],
            "count": step.get("count"),
            "unit": step.get("unit", ""),
            "rate": step["count"] / step["seconds"] if step.get("count") and step["seconds"] else None,
            "share": step["seconds"] / longest if longest else 0.0,
        }
        for name, step in known.items()
    ]


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "span": lambda ends: "–".join(_number(end) for end in sorted(set(ends))),
        "percent": lambda value: f"{100 * value:.0f}",
        "markup": Markup,
        "seconds": _seconds,
        "million": lambda value: f"{value / 1e6:.1f} million" if value >= 1e5 else f"{value / 1e3:.0f} thousand",
    }
    return environment.get_template("template.html")


def _number(value: int) -> str:
    """A number with thin spaces between its thousands."""
    return f"{value:,}".replace(",", "\u202f")


def _seconds(value: float) -> str:
    """Seconds for a person: `< 0.1 s`, `0.4 s`, `34 s`, `3 min 05 s`."""
    if value < 0.05:
        return "< 0.1 s"
    if value < 10:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
