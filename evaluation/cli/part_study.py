"""`voxportrait part-study`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation.cli.options import Export, Portraits, Split, Store, source_of
from featurestore.console import Json, bar, print_json, print_table, say


def part_study(
    store: Store = None,
    export: Export = None,
    portraits: Portraits = Path("portraits"),
    system: Annotated[
        str | None, typer.Option(help="Whose portraits, where there are several.", show_default=False)
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Of the portraits with speech, where there are several.", show_default=False)
    ] = None,
    without_scale: Annotated[float, typer.Option(help="Of the portraits without speech.")] = 0.0,
    against: Annotated[
        str,
        typer.Option(help="What stands for no speech: null, the other scale, or shuffled, another's speech."),
    ] = "null",
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "--measure", help="landmarks, lab or lpips; several, said again. landmarks and lab where nothing is said."
        ),
    ] = None,
    split: Split = "test",
    synthetic: Annotated[
        int | None,
        typer.Option(
            min=12, help="No portraits: so many synthetic people, half of them drawn from voices.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="Of lpips: cuda where there is one, else cpu.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of part_study.json, .csv and .png.")] = Path("part-study"),
    as_json: Json = False,
) -> None:
    """Which parts of the face does speech tell? Portraits with speech against those without it, part by part."""
    from evaluation.part_figure import draw_forest, write_table
    from evaluation.part_looks import PartLooks

    looks = PartLooks(measures or ("landmarks", "lab"), device)
    if synthetic is not None:
        result = _of_people(synthetic, seed, looks)
    else:
        from evaluation.part_portraits import study_portraits
        from evaluation.portraits import read_drawings, without_meaning

        drawings = read_drawings(portraits)
        source = source_of(store, export, split)
        with bar("part study", "pictures") as progress:
            result = study_portraits(
                source.judged, drawings, system, scale, looks, against, without_scale, split, seed, progress
            )
        if line := without_meaning(result["untrained"]):
            say(line)
    out.mkdir(parents=True, exist_ok=True)
    (out / "part_study.json").write_text(json.dumps(result, indent=1) + "\n")
    write_table(result, out / "part_study.csv")
    draw_forest(result, out / "part_study.png")
    if as_json:
        print_json(result)
        return
    _show(result)
    say(f"all numbers in {out / 'part_study.json'} and .csv, a picture in {out / 'part_study.png'}")


def _of_people(count: int, seed: int, looks: Any) -> dict[str, Any]:
    from evaluation.voice_heads import hear, study_heads
    from pipelines.population.people import draw_person

    with bar("voices", "people") as progress:
        voices = hear(seed, count, lambda done: progress(done, count))
    people = [draw_person(seed, index) for index in range(count)]
    with bar("part study", "pictures") as progress:
        return study_heads(voices, people, looks, seed, progress)


def _show(result: Mapping[str, Any]) -> None:
    from evaluation.part_figure import comparisons
    from evaluation.part_looks import MEASURES
    from evaluation.part_study import says
    from evaluation.voice_heads import HEADS

    names = {**MEASURES, "heads": HEADS}
    for study in result["studies"]:
        table = []
        for against, found in comparisons(study):
            for part, row in found["parts"].items():
                effect = f"{row['d']:.2f} ({row['d_low']:.2f} to {row['d_high']:.2f})"
                numbers = (f"{row['told']:.2f}", f"{row['untold']:.2f}", f"{row['t']:.2f}")
                p = tuple(f"{row[name]:.2g}" for name in ("p", "p_bonferroni", "p_holm"))
                table.append([against, found["n"], part, *numbers, *p, effect, says(row)])
        title = f"{study['measure']}: {names[study['measure']]}"
        heads = ["against", "n", "part", "with", "against", "t", "p", "Bonferroni", "Holm", "d, 95 %", "by speech"]
        print_table(heads, table, title)
        if study["left_out"]:
            say(f"{study['left_out']} pairs are left out: one of the pictures shows no face")
    paper = result["published"]
    cells = [[part, f"{row['t']:.2f}", f"{row['d']:.3f}"] for part, row in paper["parts"].items()]
    print_table(["part", "t", "d"], cells, f"published (Fine-portraitist, Table I), n = {paper['n']:,}")


COMMANDS = (part_study,)
