"""`voxportrait evaluate`."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation.cli.options import Export, Split, Store, keep, parse_ranks, source_of
from featurestore.console import Json, bar, print_json, print_table, say


def evaluate(
    store: Store = None,
    export: Export = None,
    portraits: Annotated[
        list[Path] | None,
        typer.Option(
            help="The folder that `voxportrait sample` wrote, portraits if it is left out; several, said again."
        ),
    ] = None,
    split: Split = "test",
    recognisers: Annotated[
        list[str] | None,
        typer.Option("--recogniser", help="dlib or a DeepFace model (vgg_face, arcface, ...); several, said again."),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="l2 or cosine; both, said again. l2 where nothing is said.")
    ] = None,
    attributes: Annotated[
        bool, typer.Option(help="Judge age, gender and ethnicity by DeepFace, as far as its weights are there.")
    ] = True,
    fid: Annotated[bool, typer.Option("--fid", help="Also the Frechet inception distance.")] = False,
    ranks: Annotated[
        str | None, typer.Option(help="The k of R@k with commas between; each paper's own if it is left out.")
    ] = None,
    training_faces: Annotated[
        int, typer.Option(min=1, help="Faces that were trained on, to look for copies among, at most.")
    ] = 4096,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Are speakers found again by their portraits, and how close are the pictures?"""
    from evaluation.evaluate import evaluate as run
    from evaluation.evaluate import usual_recognisers
    from evaluation.families import FINE_PORTRAITIST, families_of
    from evaluation.fid import Fid
    from evaluation.judges import deepface_attributes, recogniser
    from evaluation.portraits import read_drawings

    drawings = [one for folder in portraits or [Path("portraits")] for one in read_drawings(folder)]
    source, ks = source_of(store, export, split), parse_ranks(ranks)
    families = families_of(drawings)
    names = recognisers or [one.name for one in usual_recognisers(families)]
    by = [recogniser(name, metric, device) for name, metric in dict.fromkeys(product(names, metrics or ["l2"]))]
    if not recognisers and FINE_PORTRAITIST in families and "vgg_face" not in names:
        say("compared by dlib: the weights of vgg_face, the paper's, are not here (voxportrait models fetch vgg_face)")
    told = deepface_attributes(device) if attributes else None
    distance = Fid.load(device) if fid else None
    with bar("judging") as progress:
        result = run(
            source.judged,
            drawings,
            by,
            told,
            distance,
            split=split,
            ranks=ks,
            training_faces=training_faces,
            progress=progress,
        )
    if out:
        keep(result, source, out)
    if as_json:
        print_json(result)
        return
    _show(result)


def _show(result: Mapping[str, Any]) -> None:
    """The result for a person: by family retrieval in each gallery by each recogniser, feature distances, likeness and
    copies; then groups and significance."""
    for name, family in result["families"].items():
        rows = [row for row in (*result["systems"], *result["references"]) if row["family"] == name]
        _show_retrieval(result, family, rows)
        if "training_faces" in family:
            _show_distances(result, rows)
        _show_likeness(result, rows)
        _show_copies(family, rows)
    _show_groups(result)
    _show_significance(result["significance"])
    if inputs := sorted({key for row in result["systems"] for key in row["untrained"]}):
        say(f"untrained weights made these inputs of the portraits: {', '.join(inputs)}")
    if absent := result.get("attributes", {}).get("absent"):
        names = ", ".join(absent)
        say(
            f"{names}: not judged, the weights are not here. Bring them by: voxportrait models fetch {' '.join(absent)}"
        )


def _show_retrieval(result: Mapping[str, Any], family: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    for gallery in family["galleries"]:
        about = result["galleries"][gallery]
        for key, judge in result["recognisers"].items():
            found = [(row, row["recall"][gallery][key]) for row in rows if gallery in row["recall"]]
            ranks = [str(k) for k in family["ranks"] if any(str(k) in recall for _, recall in found)]
            table = [[*_name(row), row["n"], *(_percent(recall.get(k)) for k in ranks)] for row, recall in found]
            first = found[0][1] if found else {}
            guessing = ["guessing", "", "", *(f"{100 * first[k]['random']:.1f}" if k in first else "-" for k in ranks)]
            of = f" of {about['speakers']} people" if about["images"] != about["speakers"] else ""
            title = f"Found among {about['images']}{of} ({gallery}), % and 95 %, by {key}{_mark(judge)}"
            print_table(["", "scale", "n", *(f"R@{k}" for k in ranks)], [*table, guessing], title)


def _show_distances(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    for name, judge in {one["name"]: one for one in result["recognisers"].values()}.items():
        table = []
        for row in rows:
            if found := row.get("features", {}).get(name):
                table.append([*_name(row), found["l2"]["n"], *(_spread(found[one]) for one in found)])
        title = f"Feature distances to the true face by {name}, mean and 95 %{_mark(judge)}"
        print_table(["", "scale", "n", "L1", "L2", "1 - cos", "degrees"], table, title)


def _show_copies(family: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    asked = ("nearer_to_prior", "prior_is_nearest", "prior_person_is_nearest")
    table = [
        [*_name(row), row["prior"]["n"] - row["prior"]["gone"], key, *(_percent(told[one]) for one in asked)]
        for row in rows
        for key, told in row.get("copying", {}).items()
        if row["prior"]["n"]
    ]
    if table:
        heads = ["", "scale", "n", "by", "nearer to it", "it is nearest", "its person is"]
        print_table(heads, table, "Copies of the retrieved face? % and 95 %")
        for name, faces in family["training_faces"].items():
            say(f"faces that were trained on, for {name} to compare with: {faces['about']}")


def _mark(judge: Mapping[str, Any]) -> str:
    return " (UNTRAINED: no meaning)" if judge["untrained"] else ""


def _spread(found: Mapping[str, Any]) -> str:
    """A mean in three digits and its interval in two."""
    return f"{found['value']:.3g} ({found['low']:.2g}-{found['high']:.2g})"


def _show_likeness(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    untrained = result.get("attributes", {}).get("untrained", ())
    names = ("gender", "ethnicity", "age_group", "age_within_10", "age_rmse")
    told = [
        (name, against)
        for name, against in product(names, ("judged", "truth"))
        if any(against in row.get("attributes", {}).get(name, {}) for row in rows)
    ]
    short = {"ethnicity": "ethn.", "age_group": "age", "age_within_10": "±10", "age_rmse": "years"}
    marks = {"judged": "", "truth": " true"}
    heads = [
        short.get(name, name) + marks[against] + ("?" if name.split("_")[0] in untrained else "")
        for name, against in told
    ]
    has_fid = any(row["fid"] for row in rows)
    table = [
        [
            *_name(row),
            *(_number(row[name], digits) for name, digits in (("psnr", 1), ("ssim", 2))),
            *([_number(row["fid"], 1) + ("" if row["fid"] and row["fid"]["reliable"] else "?")] if has_fid else []),
            *(_attribute(row.get("attributes", {}).get(name, {}).get(against), name) for name, against in told),
        ]
        for row in rows
    ]
    title = "Likeness to the true face" + ("; attributes in %, RMSE of age in years" if told else "")
    print_table(["", "scale", "PSNR", "SSIM", *(["FID"] if has_fid else []), *heads], table, title)
    if any(head.endswith("?") for head in heads):
        say(f"?: UNTRAINED weights judged {', '.join(untrained)}: without meaning")
    if any(row["fid"] and not row["fid"]["reliable"] for row in rows):
        say("FID?: unreliable, of fewer than 2,000 pictures")


def _show_groups(result: Mapping[str, Any]) -> None:
    """Recall by group of each system at its best scale, in the leading gallery by the leading recogniser."""
    from evaluation.sweep import best_rows, leading

    gallery, key = leading(result)
    ranks = [str(k) for k in result["ranks"] if k < result["galleries"][gallery]["speakers"]]
    if not ranks or result["recognisers"][key]["untrained"]:
        return
    table = []
    for row in best_rows(result).values():
        for groups in row["groups"].values():
            for name, group in groups.items() if len(groups) > 1 else ():
                recall = group["recall"][gallery][key]
                table.append([*_name(row), name, group["n"], *(_percent(recall.get(k)) for k in ranks)])
    if table:
        title = f"By group, each system at its best scale ({gallery}, {key}); % and 95 % interval"
        print_table(["", "scale", "group", "n", *(f"R@{k}" for k in ranks)], table, title)


def _show_significance(significance: Sequence[Mapping[str, Any]]) -> None:
    table = []
    for one in significance:
        best = one["at_best"]
        scales = f"{best['scale_all']:g}, {best['scale_without']:g}"
        value = "-" if best["value"] is None else f"{best['value']:.0f} {best['band']}"
        interval = "-" if best["low"] is None else f"{best['low']:.0f} to {best['high']:.0f}"
        table.append([one["about"], one["gallery"], one["recogniser"], scales, value, interval])
    if table:
        title = "What an input brings: significance, each system at its best scale (at equal ones: --json)"
        print_table(["input", "gallery", "by", "scales", "S, %", "95 %"], table, title)


def _name(row: Mapping[str, Any]) -> list[str]:
    from evaluation.families import leaning_words

    name = ", ".join(filter(None, (row["name"], leaning_words(row["name"], row.get("exclusion")))))
    return [name, f"{row['cond_scale']:g}" if "cond_scale" in row else ""]


def _percent(share: Mapping[str, Any] | None) -> str:
    return f"{100 * share['value']:.0f} ({100 * share['low']:.0f}-{100 * share['high']:.0f})" if share else "-"


def _number(value: Mapping[str, Any] | None, digits: int) -> str:
    return f"{value['value']:.{digits}f}" if value else "-"


def _attribute(value: Mapping[str, Any] | None, name: str) -> str:
    return _number(value, 1) if name == "age_rmse" else f"{100 * value['value']:.0f}" if value else "-"


COMMANDS = (evaluate,)
