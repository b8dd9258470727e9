"""One HTML file that shows a store, what was trained from it, and how good it is. It asks nothing of the network.

    build_report(store, [Path("runs/full-input-unet1"), ...], evaluation, drawings, {}, Path("index.html"), {})

`template.html` and `style.css` are the page; the modules beside them gather what it says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.portraits import Drawing
from evaluation.report import breakdowns, cells, data, grids, runs, scales, slf_others, slf_tables, worth
from evaluation.report.comparing import Comparison
from evaluation.report.matrix import matrix_figure
from evaluation.sweep import best_rows, recalls
from featurestore import artifacts
from featurestore.conditioning import LAYOUTS
from featurestore.records import Records
from featurestore.store import Store
from featurestore.version import code_version

HERE = Path(__file__).parent


def build_report(
    source: Store | Records,
    folders: Iterable[Path],
    evaluation: Mapping[str, Any],
    drawings: Sequence[Drawing],
    throughput: Mapping[str, Mapping[str, Any]],
    out: Path,
    about: Mapping[str, Any],
) -> Path:
    """Write the report to `out` and return that path. Whatever is not there yet (runs, portraits) is left out.

    source: the store; or records of the split that the portraits are of, where only an export is at hand: then what
    a store would say is left out too. folders: of runs. evaluation: of `evaluate`, or {}. throughput: step ->
    {"seconds", "count", "unit"}, count and unit optional; without a step `extract` the store's own jobs give it.
    about: "commands" (list of text), "machine" and "seeds" (name -> value), "synthetic" (that the people are, where
    there is no store to tell), "seen" (that models were trained on the people that were drawn), all optional, and
    whatever else is to be said of how it was made (name -> value).
    Raises UsageError where a run is none, VoxportraitError where a drawing's picture or clip is gone.
    """
    trained = runs.read_runs(folders)
    layout = replace(trained[0]["layout"], off=()) if trained else LAYOUTS["slf"]
    stored = _of_store(source, layout) if isinstance(source, Store) else _NO_STORE
    synthetic = stored["people"]["synthetic"] if stored["people"] else bool(about.get("synthetic"))
    narrower = runs.sizes(trained)
    grid = grids.systems_grid(source, drawings, evaluation)
    page = {
        "style": (HERE / "style.css").read_text(),
        **stored,
        **_judged(evaluation, synthetic, narrower),
        "synthetic": synthetic,
        "steps": _steps(throughput, stored["extraction"]),
        "runs": trained,
        "gallery": grid,
        "scale_grids": grids.scale_grids(source, drawings),
        "sizes": narrower,
        "paper": runs.PAPER,
        "commands": about.get("commands", ()),
        "machine": about.get("machine", {}),
        "seeds": about.get("seeds", {}),
        "seen": bool(about.get("seen")),
        "other": {k: v for k, v in about.items() if k not in ("commands", "machine", "seeds", "synthetic", "seen")},
        "hero": _hero(grid),
        "untrained_portraits": sorted({key for one in drawings for key in one.about["untrained"]}),
        "portrait_codes": sorted({one.about["code"] for one in drawings} - {code_version()}),
        "code": code_version(),
    }
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Store):
        artifacts.note(source, "picture", {out: artifacts.row_ids_of(source)})
    out.write_text(_template().render(page), encoding="utf-8")
    return out


_NO_STORE: Mapping[str, Any] = {
    **dict.fromkeys(("people", "coverage", "extraction", "matrix", "store")),
    "quarantine": [],
    "makers": [],
    "untrained": [],
    "store_name": "",
}


def _of_store(store: Store, layout: Any) -> dict[str, Any]:
    """What the page says of the store."""
    makers = data.makers(store)
    return {
        "people": data.people(store),
        "coverage": data.coverage(store, makers),
        "quarantine": data.quarantine(store),
        "extraction": data.extraction(store),
        "matrix": matrix_figure(store, layout),
        "makers": makers,
        "untrained": [maker for maker in makers if not maker["trained"]],
        "store": store.info(),
        "store_name": Path(store.place.shown).name,
    }


def _judged(evaluation: Mapping[str, Any], synthetic: bool, sizes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tables and curves of an evaluation; none of them where nothing was judged."""
    if not evaluation.get("systems"):
        empty: dict[str, Any] = {
            "tables": [],
            "headline": [],
            "untrained_judges": [],
            "untrained_rows": [],
            "not_judged": {},
        }
        return {**empty, **dict.fromkeys(("panels", "scale_table", "worth", "by_group"))}
    comparison = Comparison.of_evaluation(evaluation, synthetic, sizes)
    found = [
        slf_tables.retrieval(evaluation, comparison),
        slf_tables.attributes(evaluation, comparison),
        slf_tables.likeness(evaluation, comparison),
        slf_others.super_resolution(evaluation, comparison),
        slf_others.generation(evaluation, comparison),
        breakdowns.by_recogniser(evaluation),
    ]
    judges = [one["name"] for one in evaluation["recognisers"].values() if one["untrained"]]
    judges += list((evaluation.get("attributes") or {}).get("untrained") or ())
    rows = {row["name"]: row["untrained"] for row in evaluation["systems"] if row.get("untrained")}
    return {
        "tables": [table for table in found if table],
        "headline": _headline(evaluation, comparison),
        "panels": scales.scale_panels(evaluation),
        "scale_table": slf_tables.by_scale(evaluation, comparison),
        "worth": worth.significance(evaluation, comparison),
        "by_group": breakdowns.by_group(evaluation, comparison),
        "not_judged": (evaluation.get("attributes") or {}).get("absent") or {},
        "untrained_judges": list(dict.fromkeys(judges)),
        "untrained_rows": [{"system": name, "untrained": keys} for name, keys in rows.items()],
    }


def _hero(grid: Mapping[str, Any] | None) -> int:
    """The column of a grid that stands for all: the whole system's, else the first."""
    systems = [column["system"] for column in grid["columns"]] if grid else []
    return systems.index("full-input") if "full-input" in systems else 0


def _headline(evaluation: Mapping[str, Any], comparison: Comparison) -> list[dict[str, Any]]:
    """The best system's recall at the first k in each gallery."""
    best = best_rows(evaluation)
    found = []
    for gallery, about in evaluation["galleries"].items():
        firsts = {name: recalls(row, gallery, comparison.recogniser).get("1") for name, row in best.items()}
        name, one = max(firsts.items(), key=lambda item: item[1]["value"] if item[1] else -1.0)
        if one:
            cell = cells.share(one)
            found.append(
                {
                    "system": name,
                    "untrained": evaluation["recognisers"][comparison.recogniser]["untrained"],
                    "gallery": gallery.replace("-", " "),
                    "value": cell.value if cell else "",
                    "interval": cell.interval if cell else "",
                    "random": cells.percent(one["random"], 100),
                    "speakers": about["speakers"],
                }
            )
    return found


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
