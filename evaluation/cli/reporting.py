"""`voxportrait sweep` and `voxportrait report`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluation.cli.options import Export, Portraits, Runs, Split, Store, keep, parse_scales, source_of
from featurestore.console import Json, Licences, RequireConsent, bar, print_json, print_table, say

if TYPE_CHECKING:
    from evaluation.portraits import Drawing
    from evaluation.sweep import Source

EVALUATION = "evaluation.json"


def sweep(
    store: Store = None,
    export: Export = None,
    runs: Runs = Path("runs"),
    systems: Annotated[
        str | None, typer.Option(help="With commas between; all that are trained.", show_default=False)
    ] = None,
    scales: Annotated[str, typer.Option(help="Conditional scales: 0..8, or a list as 0,1.5,3.")] = "0..8",
    out: Annotated[Path, typer.Option(help="Where the pictures go, and evaluation.json.")] = Path("portraits"),
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Judge all of them too.")] = False,
    split: Split = "test",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Portraits that are drawn at once.")] = 8,
    sampler: Annotated[str | None, typer.Option(help="Instead of the preset's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a U-Net, instead of the preset's.")] = None,
    exclusions: Annotated[
        str,
        typer.Option(
            help="Whose faces Fine-portraitist does not lean on, each in turn: clip,video,identity; none: null prior."
        ),
    ] = "identity",
    require_consent: RequireConsent = False,
    licences: Licences = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu.")] = None,
    as_json: Json = False,
) -> None:
    """Draw portraits by every trained system at every scale.

    What was drawn before is not drawn again: a sweep that was stopped goes on when the same command is run again.
    """
    from evaluation.portraits import other_code, without_meaning
    from evaluation.sweep import sweep as run
    from featurestore.conditioning import names_in
    from featurestore.policy import policy_of

    numbers = parse_scales(scales)
    chosen = _trained(runs, systems)
    source = source_of(store, export, split, policy_of(require_consent, licences))
    options = {"seed": seed, "sampler": sampler, "steps": steps, "batch_size": batch_size}
    with bar("sweep", "portraits") as progress:
        drawings = run(
            source,
            chosen,
            runs,
            numbers,
            out,
            device,
            progress,
            names_in(exclusions),
            say,
            **options,
        )
    if line := other_code(drawings):
        say(line)
    if line := without_meaning(key for one in drawings for key in one.about["untrained"]):
        say(line)
    result = _judge(source, drawings, device) if evaluate else {}
    if evaluate:
        keep(result, source, out / EVALUATION)
        _write_cards(runs, chosen, result)
    if as_json:
        print_json({"systems": chosen, "scales": numbers, "portraits": len(drawings), "out": str(out), **_told(result)})
        return
    if result:
        _print_best(result)
    say(f"{len(drawings)} portraits of {len(chosen)} systems at {len(numbers)} scales in {out}")
    if result:
        say(f"judged in {out / EVALUATION}; a page of it: voxportrait report --portraits {out}")


def report(
    store: Store = None,
    export: Export = None,
    runs: Runs = Path("runs"),
    portraits: Portraits = Path("portraits"),
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="The JSON of `evaluate` or `sweep`; the one beside the portraits, else they are judged now.",
            show_default=False,
        ),
    ] = None,
    part_study: Annotated[
        Path | None, typer.Option(help="part_study.json of `voxportrait part-study`.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("report"),
    split: Split = "test",
    as_json: Json = False,
) -> None:
    """Write one page about a store, its runs and its portraits, beside the published numbers.

    From an export the page has what the file and the runs tell.
    """
    from evaluation.portraits import INDEX, read_drawings
    from evaluation.report import build_report

    source = source_of(store, export, split)
    drawings = read_drawings(portraits) if any(portraits.glob(f"*/scale-*/{INDEX}")) else []
    folders = sorted(folder.parent for folder in runs.glob("*/config.json"))
    result = _evaluation(source, drawings, evaluation, portraits)
    about = {
        "commands": _commands(folders, drawings, store, export, runs, portraits, out),
        "seen": split == "train",
    }
    study = _read(part_study, "part-study", "studies") if part_study else None
    page = build_report(source.judged, folders, result, drawings, {}, out / "index.html", about, study)
    if as_json:
        print_json({"page": str(page), "portraits": len(drawings), "runs": len(folders)})
    else:
        say(f"the report is {page}")


def _trained(runs: Path, systems: str | None) -> list[str]:
    """The wanted systems that are trained; a line names those that are not, a UsageError where none is."""
    from evaluation.families import family_of
    from evaluation.sweep import trained_systems
    from featurestore.conditioning import system as system_named
    from featurestore.errors import UsageError

    wanted = [system_named(name.strip()).name for name in systems.split(",") if name.strip()] if systems else []
    trained = trained_systems(runs)
    chosen = [name for name in trained if name in (wanted or trained)]
    if not chosen:
        raise UsageError(
            f"no system{' of ' + ', '.join(wanted) if wanted else ''} is trained in {runs}: all its stages must be. "
            f"Train one with: voxportrait train --runs {runs} --system {wanted[0] if wanted else 'full-input'}"
        )
    besides = [name for one in chosen for name in family_of(one).systems]
    if lacking := [name for name in dict.fromkeys(wanted or besides) if name not in trained]:
        say(f"not trained in {runs}, passed over: {', '.join(lacking)}")
    return chosen


def _judge(source: "Source", drawings: Sequence["Drawing"], device: str | None = None) -> dict[str, Any]:
    """As `voxportrait evaluate` judges when it is told nothing more."""
    from evaluation.evaluate import evaluate
    from evaluation.judges import deepface_attributes

    with bar("judging") as progress:
        attributes = deepface_attributes(device)
        return evaluate(source.judged, drawings, None, attributes, split=source.split, progress=progress)


def _write_cards(runs: Path, systems: Sequence[str], result: Mapping[str, Any]) -> None:
    """The model card of each run, with what was judged."""
    from featurestore.conditioning import system as system_named
    from training import card
    from training.cli import run_folder

    for system in systems:
        for stage in system_named(system).stages:
            card.write(run_folder(runs, system, stage), result)


def _evaluation(
    source: "Source", drawings: Sequence["Drawing"], given: Path | None, portraits: Path
) -> Mapping[str, Any]:
    """What was judged: read where it is of these very portraits, else judged now; {} without portraits."""
    from evaluation.families import rows_of
    from evaluation.portraits import digest

    path = given or portraits / EVALUATION
    if given or path.exists():
        found = _read(path, "evaluate", "systems")
        judged = {
            (row["name"], row["cond_scale"], row.get("exclusion"), row.get("portraits")) for row in found["systems"]
        }
        drawn = {(*key, digest(group)) for key, group in rows_of(drawings).items()}
        if given or judged == drawn:
            return found
        say(f"{path} is of other portraits than are there now: they are judged again")
    return _judge(source, drawings) if drawings else {}


def _read(path: Path, command: str, rows: str) -> Mapping[str, Any]:
    """The JSON that a command wrote, whose `rows` are a list of objects; a UsageError where it is none."""
    from featurestore.errors import UsageError

    if not path.exists():
        raise UsageError(f"there is no {path}: make it with voxportrait {command} --out")
    try:
        found = json.loads(path.read_text())
        if all(isinstance(row, dict) for row in found[rows]):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"{path} is not the JSON of voxportrait {command}: leave it out, or make it again")


def _commands(
    folders: Sequence[Path],
    drawings: Sequence["Drawing"],
    store: str | None,
    export: Path | None,
    runs: Path,
    portraits: Path,
    out: Path,
) -> list[str]:
    """The commands that make the runs, the portraits and the page again."""
    data = f"--export {export.name}" if export else f"--store {Path(str(store)).name}"
    commands = []
    for folder in folders:
        about = json.loads((folder / "config.json").read_text())
        commands.append(
            f"voxportrait train {data} --runs {runs.name} --system {about['system']} --stage {about['stage']} "
            f"--preset {about['preset']} --steps {about['steps']} --batch-size {about['batch_size']} "
            f"--seed {about['seed']} --missing {about['data'].get('missing', 'refuse')}"
        )
    made: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        made.setdefault(_options(drawing.about), []).append(drawing)
    for options, group in made.items():
        systems = ",".join(dict.fromkeys(one.system for one in group))
        scales = ",".join(f"{scale:g}" for scale in sorted({one.cond_scale for one in group}))
        commands.append(
            f"voxportrait sweep {data} --runs {runs.name} --systems {systems} --scales {scales} --out {portraits.name}"
            f"{options} --evaluate"
        )
    return [*commands, f"voxportrait report {data} --runs {runs.name} --portraits {portraits.name} --out {out.name}"]


def _options(about: Mapping[str, Any]) -> str:
    """The options of `sweep` that made a picture, as far as they are none of its own."""
    from training.stages import settings_of

    draws = [one for one in about["checkpoints"] if one["stage"] != "codec"]
    presets: list[Any] = [settings_of(one["stage"], one["preset"]) for one in draws]
    asked = {
        "sampler": about["sampler"] if about["sampler"] != [one.sampler for one in presets] else [],
        "steps": about["sampler_steps"] if about["sampler_steps"] != [one.sampler_steps for one in presets] else [],
        "seed": [about["base_seed"]] if about.get("base_seed") else [],
        "exclusions": [exclusion] if (exclusion := _exclusion(about)) != "identity" else [],
    }
    return "".join(f" --{name} {values[0]}" for name, values in asked.items() if values)


def _exclusion(about: Mapping[str, Any]) -> str:
    retrieval = about.get("retrieval", {"exclusion": "identity"})
    return retrieval["exclusion"] if retrieval else "none"


def _told(result: Mapping[str, Any]) -> dict[str, Any]:
    """The best scale of each system, for machines."""
    return {"best": _best(result)} if result else {}


def _best(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    from evaluation.sweep import best_rows, leading, recalls

    gallery, recogniser = leading(result)
    return [
        {
            "system": name,
            "cond_scale": row["cond_scale"],
            "n": row["n"],
            "gallery": gallery,
            "recogniser": recogniser,
            "recall": recalls(row, gallery, recogniser),
        }
        for name, row in best_rows(result).items()
    ]


def _print_best(result: Mapping[str, Any]) -> None:
    rows = _best(result)
    cells = [
        [row["system"], f"{row['cond_scale']:g}", row["n"], *(_share(row["recall"].get(k)) for k in ("1", "5"))]
        for row in rows
    ]
    if rows:
        title = f"the best scale of each system by R@1, {rows[0]['gallery']}, {rows[0]['recogniser']}"
        print_table(("system", "scale", "n", "R@1", "R@5"), cells, title)


def _share(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    low, high, guess = (f"{100 * found[key]:.0f}" for key in ("low", "high", "random"))
    return f"{100 * found['value']:.0f} % ({low} to {high}), guessing {guess} %"


COMMANDS = (sweep, report)
