"""One HTML file that shows a store, what was trained from it, and how good it is. It asks nothing of the network.

    build_report(store, [Path("runs/full-input-unet1"), ...], evaluation, drawings, {}, Path("index.html"), {})

`template.html` and `style.css` are the page; the modules beside them gather what it says.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.families import FINE_PORTRAITIST, SLF, drawn_by, part_of
from evaluation.gallery import ANOTHER_VIDEO, SAME_FRAME
from evaluation.portraits import Drawing
from evaluation.report import (
    breakdowns,
    cells,
    data,
    grids,
    portraitist_grids,
    portraitist_tables,
    runs,
    scales,
    slf_others,
    slf_tables,
    worth,
)
from evaluation.report.comparing import Comparison
from evaluation.report.matrix import matrix_figure
from evaluation.report.portraitist_comparing import Comparison as PortraitistComparison
from evaluation.sweep import best_rows, leading, recalls
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
    part_study: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report to `out` and return that path. Whatever is not there yet (runs, portraits) is left out.

    source: the store; or records of the split that the portraits are of, where only an export is at hand: then what
    a store would say is left out too. folders: of runs. evaluation: of `evaluate`, or {}. throughput: step ->
    {"seconds", "count", "unit"}, count and unit optional; without a step `extract` the store's own jobs give it.
    about: "commands" (list of text), "machine" and "seeds" (name -> value), "synthetic" (that the people are, where
    there is no store to tell), "seen" (that models were trained on the people that were drawn), all optional, and
    whatever else is to be said of how it was made (name -> value). part_study: the JSON of `voxportrait part-study`.
    Raises UsageError where a run is none, VoxportraitError where a drawing's picture or clip is gone.
    """
    trained = runs.read_runs(folders)
    layouts = [run["layout"] for run in trained if run["layout"].blocks]
    layout = replace(layouts[0], off=()) if layouts else LAYOUTS["slf"]
    stored = _of_store(source, layout) if isinstance(source, Store) else _NO_STORE
    synthetic = stored["people"]["synthetic"] if stored["people"] else bool(about.get("synthetic"))
    narrower = runs.sizes(trained)
    slf, portraitist = part_of(evaluation, SLF), part_of(evaluation, FINE_PORTRAITIST)
    by_slf, by_portraitist = drawn_by(SLF, drawings), drawn_by(FINE_PORTRAITIST, drawings)
    grid = grids.systems_grid(source, by_slf, slf)
    sheets = portraitist_grids.portraitist_grids(source, by_portraitist, portraitist)
    page = {
        "style": (HERE / "style.css").read_text(),
        **stored,
        **_judged(slf, synthetic, narrower),
        **_by_portraitists(portraitist, synthetic, part_study or {}),
        **_not_trusted(evaluation),
        "headline": [*_headline(slf, "full-input"), *_headline(portraitist, "fine-portraitist")],
        "synthetic": synthetic,
        "steps": _steps(throughput, stored["extraction"]),
        "runs": trained,
        "gallery": grid,
        "scale_grids": grids.scale_grids(source, by_slf),
        "portraitist_grids": sheets,
        "sizes": narrower,
        "paper": runs.PAPER,
        "commands": about.get("commands", ()),
        "machine": about.get("machine", {}),
        "seeds": about.get("seeds", {}),
        "seen": bool(about.get("seen")),
        "other": {k: v for k, v in about.items() if k not in ("commands", "machine", "seeds", "synthetic", "seen")},
        "hero": _hero(grid, sheets),
        "drawn_speakers": len({one.speaker for one in drawings}),
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
    """The tables and curves of SLF's systems; none of them where nothing was judged."""
    if not evaluation:
        return {"tables": [], **dict.fromkeys(("panels", "scale_table", "worth", "by_group"))}
    comparison = Comparison.of_evaluation(evaluation, synthetic, sizes)
    found = [
        slf_tables.retrieval(evaluation, comparison),
        slf_tables.attributes(evaluation, comparison),
        slf_tables.likeness(evaluation, comparison),
        slf_others.super_resolution(evaluation, comparison),
        slf_others.generation(evaluation, comparison),
        breakdowns.by_recogniser(evaluation),
    ]
    return {
        "tables": [table for table in found if table],
        "panels": scales.scale_panels(evaluation),
        "scale_table": slf_tables.by_scale(evaluation, comparison),
        "worth": worth.significance(evaluation, comparison),
        "by_group": breakdowns.by_group(evaluation, comparison.recogniser, comparison.of("recogniser", "few")),
    }


def _by_portraitists(evaluation: Mapping[str, Any], synthetic: bool, part_study: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of Fine-portraitist's systems; none of them where nothing was judged."""
    found = [portraitist_tables.part_study(part_study)]
    if not evaluation:
        return {"portraitist_tables": [table for table in found if table], "portraitist_groups": None}
    compared = PortraitistComparison.of_evaluation(evaluation, synthetic)
    one = {**evaluation, "galleries": {compared.gallery: evaluation["galleries"][compared.gallery]}}
    found += [
        portraitist_tables.ablation(evaluation, compared),
        portraitist_tables.beside_others(evaluation, compared, "table_2_avspeech", "Table II", "AVSpeech"),
        portraitist_tables.beside_others(evaluation, compared, "table_3_voxceleb", "Table III", "VoxCeleb"),
        portraitist_tables.retrieval(evaluation, compared),
        portraitist_tables.copies(evaluation, compared),
    ]
    if recognisers := breakdowns.by_recogniser(one):
        found.append(replace(recognisers, key="portraitist-recognisers"))
    groups = breakdowns.by_group(one, compared.recogniser, compared.of("features", "few"))
    return {
        "portraitist_tables": [table for table in found if table],
        "portraitist_groups": groups and replace(groups, key="portraitist-groups"),
    }


def _not_trusted(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What of an evaluation has no meaning, and what was not judged."""
    judges = [one["name"] for one in evaluation.get("recognisers", {}).values() if one["untrained"]]
    judges += list((evaluation.get("attributes") or {}).get("untrained") or ())
    rows = {row["name"]: row["untrained"] for row in evaluation.get("systems", ()) if row.get("untrained")}
    return {
        "not_judged": (evaluation.get("attributes") or {}).get("absent") or {},
        "untrained_judges": list(dict.fromkeys(judges)),
        "untrained_rows": [{"system": name, "untrained": keys} for name, keys in rows.items()],
    }


HERO = 6
"""Pairs at the top."""


def _hero(grid: Mapping[str, Any] | None, sheets: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The pairs at the top: {"pairs": [(speaker, true face, portrait)], "caption", "link"}, of the whole system where
    it was drawn; None without portraits."""
    if grid:
        systems = [column["system"] for column in grid["columns"]]
        at = systems.index("full-input") if "full-input" in systems else 0
        column = grid["columns"][at]
        rows = [(row["speaker"], row["face"], row["portraits"][at]) for row in grid["rows"] if row["portraits"][at]]
        return {
            "pairs": [(speaker, face, portrait["picture"]) for speaker, face, portrait in rows[:HERO]],
            "caption": f"drawn by {column['system']} from {column['inputs']}, at scale {column['scale']:g}",
            "link": "portraits",
        }
    if pairs := portraitist_grids.hero(sheets):
        head = sheets[0]["heads"][-1]
        caption = f"drawn by {head['name']} from speech, {head['about']}"
        return {"pairs": pairs[:HERO], "caption": caption, "link": "portraitists"}
    return None


def _headline(evaluation: Mapping[str, Any], favourite: str) -> list[dict[str, Any]]:
    """The best system's recall at the first k among the faces of each gallery of chosen ones; of equal ones the
    favourite's."""
    best, found = best_rows(evaluation), []
    recogniser = leading(evaluation)[1]
    for gallery, about in evaluation.get("galleries", {}).items():
        firsts = {name: recalls(row, gallery, recogniser).get("1") for name, row in best.items()}
        name, one = max(firsts.items(), key=lambda item: (item[1]["value"] if item[1] else -1.0, item[0] == favourite))
        if one and gallery in (SAME_FRAME, ANOTHER_VIDEO):
            cell = cells.share(one)
            found.append(
                {
                    "system": name,
                    "untrained": evaluation["recognisers"][recogniser]["untrained"],
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
