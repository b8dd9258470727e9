"""`voxportrait sample`, `evaluate` and `report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from featurestore.console import Json, Store, bar, print_json, print_table, say

Runs = Annotated[Path, typer.Option(help="Where the runs of `voxportrait train` live.")]
Portraits = Annotated[Path, typer.Option(help="The folder that `voxportrait sample` wrote.")]


def sample(
    store: Store,
    system: Annotated[str, typer.Option(help="Which system; both its U-Nets must be trained.")] = "full-input",
    runs: Runs = Path("runs"),
    scales: Annotated[str, typer.Option(help="Conditional scales, with commas between; 0 ignores the input.")] = "1,3",
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("portraits"),
    split: Annotated[str, typer.Option(help="Whose portraits: of each speaker of train, val or test.")] = "test",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sampler: Annotated[str | None, typer.Option(help="Instead of the preset's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a U-Net, instead of the preset's.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    age: Annotated[str | None, typer.Option(help="Instead of the stored: years, or unknown.")] = None,
    gender: Annotated[str | None, typer.Option(help="Instead of the stored: man, woman or unknown.")] = None,
    ethnicity: Annotated[str | None, typer.Option(help="Instead of the stored, or unknown.")] = None,
    language: Annotated[str | None, typer.Option(help="Instead of the stored, or unknown.")] = None,
    as_json: Json = False,
) -> None:
    """Draw portraits of speakers that were not trained on."""
    import featurestore
    from evaluation.portraits import draw_portraits
    from training.cli import run_folder
    from training.sampling import Portraitist

    numbers = parse_scales(scales)
    said = {"age": age, "gender": gender, "ethnicity": ethnicity, "language": language}
    attributes = {key: None if value == "unknown" else value for key, value in said.items() if value is not None}
    opened = featurestore.open(store)
    portraitist = Portraitist.load(run_folder(runs, system, 1), run_folder(runs, system, 2), device)
    with bar(system, "portraits") as progress:
        drawn = draw_portraits(
            opened,
            portraitist,
            numbers,
            out,
            split,
            seed,
            sampler=sampler,
            steps=steps,
            progress=progress,
            attributes=attributes,
        )
    if as_json:
        print_json([{"picture": str(one.picture), **one.about} for one in drawn])
    else:
        say(f"{len(drawn)} portraits in {out / system}")


def parse_scales(text: str) -> list[float]:
    """The numbers in "0,1.5,3"; a UsageError for what is not one."""
    from featurestore.errors import UsageError

    try:
        scales = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        scales = []
    if not scales or min(scales) < 0:
        raise UsageError(f"--scales takes numbers from 0 up with commas between, as in 1,3; not {text!r}")
    return scales


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


def report(
    store: Store,
    runs: Runs = Path("runs"),
    portraits: Portraits = Path("portraits"),
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("report"),
) -> None:
    """Write one page about a store, its runs and its portraits."""
    import featurestore
    from evaluation.evaluate import evaluate as run
    from evaluation.portraits import read_drawings
    from evaluation.report import build_report

    opened = featurestore.open(store)
    drawings = read_drawings(portraits)
    folders = sorted(folder.parent for folder in runs.glob("*/config.json"))
    page = build_report(opened, folders, run(opened, drawings), drawings, {}, out / "index.html", {})
    say(f"the report is {page}")


COMMANDS = (sample, evaluate, report)
