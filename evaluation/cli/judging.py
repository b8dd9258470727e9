"""`voxportrait evaluate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation.cli.options import Portraits
from featurestore.console import Json, Store, print_json, print_table, say


def evaluate(
    store: Store,
    portraits: Portraits = Path("portraits"),
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Are speakers found again by their portraits, and how close are the pictures?"""
    import featurestore
    from evaluation.evaluate import evaluate as run
    from evaluation.portraits import read_drawings

    result = run(featurestore.open(store), read_drawings(portraits))
    if out:
        out.write_text(json.dumps(result, indent=1))
    if as_json:
        print_json(result)
        return
    for name, gallery in result["galleries"].items():
        say(f"{name}: {gallery['speakers']} speakers, {gallery['about']}")
        print_table(*_table(result, name))


def _table(result: dict[str, Any], gallery: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of what was found in one gallery."""
    ranks = [str(k) for k in result["ranks"]]
    rows: list[list[Any]] = []
    for row in (*result["systems"], *result["references"]):
        scale = f"{row['cond_scale']:g}" if "cond_scale" in row else ""
        for by, recall in row["recall"].get(gallery, {}).items():
            cells = [f"{100 * r['value']:.0f} % ({100 * r['low']:.0f}-{100 * r['high']:.0f})" for r in recall.values()]
            cells += [""] * (len(ranks) - len(cells))
            likeness = ["" if row[m] is None else f"{row[m]['value']:.{d}f}" for m, d in (("psnr", 1), ("ssim", 2))]
            rows.append([row["name"], scale, by, row["n"], *cells, *likeness])
    return ["", "scale", "by", "n", *(f"R@{k}" for k in ranks), "PSNR", "SSIM"], rows


COMMANDS = (evaluate,)
