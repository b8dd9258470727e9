"""`voxportrait evaluate`."""

import json
from pathlib import Path
from typing import Annotated

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
    say(f"gallery: {result['gallery']['speakers']} speakers, {result['gallery']['embedding']} embeddings")
    ranks = [str(k) for k in result["ranks"]]
    rows = []
    for row in (*result["systems"], *result["references"]):
        recalls = (row["recall"].get(k) for k in ranks)
        cells = [
            f"{r['value']:.0%} ({r['low']:.0%} to {r['high']:.0%}), random {r['random']:.0%}" for r in recalls if r
        ]
        likeness = ["" if row[m] is None else f"{row[m]['value']:.{d}f}" for m, d in (("psnr", 1), ("ssim", 2))]
        scale = f"{row['cond_scale']:g}" if "cond_scale" in row else ""
        rows.append((row["name"], scale, row["n"], *cells, *likeness))
    print_table(("", "scale", "n", *(f"R@{k}" for k in ranks), "PSNR", "SSIM"), rows)


COMMANDS = (evaluate,)
