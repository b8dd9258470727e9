"""`voxportrait layout list|show|check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.console import Json, Licences, RequireConsent, Store, print_json, print_table, say

if TYPE_CHECKING:
    from featurestore.conditioning import Layout
    from featurestore.layout_picture import Entry
    from featurestore.readiness import OneClip, Readiness

app = typer.Typer(no_args_is_help=True, help="What stands where in the matrix, and which clips have what it takes.")

Name = Annotated[str, typer.Argument(help="slf, slf-released, or a JSON file of your own.")]
Only = Annotated[str | None, typer.Option(help="Nothing but these, with commas between: ecapa,attributes.")]
Without = Annotated[str | None, typer.Option(help="Leave these out, with commas between: constituents or groups.")]
Slips = Annotated[
    str | None,
    typer.Option(help="The released code's slips that it has, with commas between; `none`, or `all` of them."),
]


@app.command("list")
def list_layouts(as_json: Json = False) -> None:
    """The layouts, the systems, the groups of constituents, and the slips of the released code."""
    from featurestore.conditioning import GROUPS, LAYOUTS, SYSTEMS
    from featurestore.slips import SLIPS, slips_of

    if as_json:
        print_json(
            {
                "layouts": {
                    name: {"fingerprint": layout.fingerprint, "blocks": len(layout.blocks), "slips": slips_of(layout)}
                    for name, layout in LAYOUTS.items()
                },
                "systems": {
                    name: {"off": one.off, "image_guide": one.image_guide, "cond_scale": one.cond_scale}
                    for name, one in SYSTEMS.items()
                },
                "groups": GROUPS,
                "slips": {name: slip.about for name, slip in SLIPS.items()},
            }
        )
        return
    rows = [
        (name, len(layout.blocks), layout.fingerprint[:8], ", ".join(slips_of(layout)) or "none")
        for name, layout in LAYOUTS.items()
    ]
    print_table(("layout", "blocks", "fingerprint", "slips"), rows)
    print_table(
        ("system", "left out", "image guide", "paper's scale"),
        (
            (name, ", ".join(one.off) or "nothing", "yes" if one.image_guide else "no", one.cond_scale)
            for name, one in SYSTEMS.items()
        ),
    )
    print_table(("group", "constituents"), ((name, ", ".join(keys)) for name, keys in GROUPS.items()))
    print_table(("slip of the released code", "what it is"), ((name, slip.about) for name, slip in SLIPS.items()))


@app.command()
def show(
    name: Name = "slf",
    store: Annotated[
        str | None, typer.Option(envvar="VOXPORTRAIT_STORE", help="The store that has the clip.", show_default=False)
    ] = None,
    clip: Annotated[str | None, typer.Option(help="Show what this clip makes of it: its id in the store.")] = None,
    system: Annotated[str | None, typer.Option(help="With the inputs of a system: only-audio, ...")] = None,
    only: Only = None,
    without: Without = None,
    slips: Slips = None,
    out: Annotated[Path | None, typer.Option(help="Draw it: a .png, .svg or .pdf file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the layout as JSON, to edit it and use it by name.")] = None,
    as_json: Json = False,
) -> None:
    """The map of the matrix; with a clip, what is filled, unknown, missing or off, and its values."""
    import featurestore
    from featurestore.errors import UsageError
    from featurestore.layout_picture import described
    from featurestore.readiness import one_clip

    layout = _layout(name, system, only, without, slips)
    if clip is not None and store is None:
        raise UsageError(f"which store has the clip {clip}? Add --store URI")
    _check_kind(out)
    opened = featurestore.open(store) if clip is not None and store is not None else None
    found = one_clip(opened, layout, clip) if opened is not None and clip is not None else None
    entries = described(layout, found.compact if found else None, found.missing if found else ())
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        if opened is not None and found is not None:
            from featurestore import artifacts

            artifacts.note(opened, "picture", {out: [found.row_id]})
        _draw(layout, entries, found, out)
    if save:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(layout.to_json(), indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(_as_json(layout, entries, found))
        return
    print_table(*_table(layout, entries, found))
    for path in (out, save):
        if path:
            say(f"written: {path}")


@app.command()
def check(
    store: Store,
    layout: Annotated[str, typer.Option(help="slf, slf-released, or a JSON file of your own.")] = "slf",
    only: Only = None,
    without: Without = None,
    slips: Slips = None,
    split: Annotated[str | None, typer.Option(help="Only this one: train, val or test.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="The clips of this snapshot, and what they had then.")] = None,
    require_consent: RequireConsent = False,
    licences: Licences = None,
    listed: Annotated[bool, typer.Option("--list", help="Each clip that lacks something, and what.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write that list to this file.")] = None,
    as_json: Json = False,
) -> None:
    """How many clips of each split have all that a layout reads, and what the others lack."""
    import featurestore
    from featurestore.clip import SPLITS
    from featurestore.errors import choose
    from featurestore.policy import policy_of
    from featurestore.readiness import Readiness

    chosen = _layout(layout, None, only, without, slips)
    splits = SPLITS if split is None else (choose("split", split, SPLITS),)
    found = Readiness.of(featurestore.open(store), chosen, snapshot, policy_of(require_consent, licences))
    incomplete = list(found.incomplete(splits)) if listed or csv else []
    if csv:
        _write_csv(csv, incomplete)
    if as_json:
        told = _told(found, splits)
        if listed:
            told["incomplete"] = [
                {"clip_id": clip_id, "split": where, "lacks": lacks} for clip_id, where, lacks in incomplete
            ]
        print_json(told)
        return
    _print_readiness(_told(found, splits))
    if listed:
        print_table(
            ("clip", "split", "lacks"), ((clip_id, where, ", ".join(lacks)) for clip_id, where, lacks in incomplete)
        )
    if csv:
        say(f"{len(incomplete):,} clips in {csv}")


def _layout(name: str, system: str | None, only: str | None, without: str | None, slips: str | None) -> "Layout":
    """The layout that options describe: slips first, then the system's inputs, then the user's own choice."""
    from featurestore.conditioning import layout_named
    from featurestore.conditioning import system as system_named
    from featurestore.slips import SLIPS, with_slips, without_slips

    layout = layout_named(name)
    if slips is not None:
        wanted = {"none": [], "all": list(SLIPS)}.get(slips, [part.strip() for part in slips.split(",")])
        layout = with_slips(without_slips(layout, *(slip for slip in SLIPS if slip not in wanted)), *wanted)
    if system is not None:
        layout = system_named(system).layout(layout)
    return layout.chosen(only, without)


def _check_kind(out: Path | None) -> None:
    from featurestore.errors import UsageError

    if out is not None and out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--out takes a .png, .svg or .pdf file, not {out}")


def _draw(layout: "Layout", entries: "list[Entry]", found: "OneClip | None", out: Path) -> None:
    from featurestore.layout_picture import draw

    if found is None:
        draw(layout, entries).savefig(out)
        return
    import torch

    from featurestore.assembly import Assembler

    compact = {key: torch.from_numpy(values.copy()) for key, values in found.compact.items()}
    compact = compact or {"age": torch.full((1,), torch.nan)}
    matrix = Assembler(layout, allow_missing=True)(compact)[0].numpy()
    draw(layout, entries, matrix, f"clip {found.clip_id}").savefig(out)


def _table(layout: "Layout", entries: "list[Entry]", found: "OneClip | None") -> tuple[list[str], list[list[Any]], str]:
    """Columns, rows and title of the map."""
    from featurestore.layout_picture import scale, span

    columns = ["rows", "columns", "constituent", "cells", "encoding", "scale", "dropout"]
    columns += ["state", "value", "min", "mean", "max", "clamped"] if found else ["state"] if layout.off else []
    rows = []
    for entry in entries:
        block = entry.block
        taken = f", {len(block.take)} of its rows" if block.take else ""
        row = [
            span(block.row, block.rows),
            span(block.column, block.columns),
            block.constituent,
            f"{block.rows} x {block.columns}",
            block.encoding + taken,
            scale(block),
            f"{layout.dropout[block.constituent]:g}" if block.constituent in layout.dropout else "",
            entry.state,
            entry.value,
            *("" if number is None else f"{number:.3g}" for number in (entry.minimum, entry.mean, entry.maximum)),
            "" if entry.clamped is None else f"{entry.clamped:.1%}",
        ]
        rows.append(row[: len(columns)])
    clip = f", clip {found.clip_id}" if found else ""
    return columns, rows, f"layout {layout.label}{clip}; values are cut at +-{layout.clamp:g}, other cells are 0"


def _as_json(layout: "Layout", entries: "list[Entry]", found: "OneClip | None") -> dict[str, Any]:
    from featurestore.slips import slips_of

    blocks = []
    for entry in entries:
        block = entry.block
        told = {
            "constituent": block.constituent,
            "rows": [block.row, block.row + block.rows - 1],
            "columns": [block.column, block.column + block.columns - 1],
            "encoding": block.encoding,
            "scale": block.scale,
            "state": entry.state,
        }
        if found:
            told |= {name: getattr(entry, name) for name in ("value", "minimum", "mean", "maximum", "clamped")}
        blocks.append(told)
    return {
        "layout": layout.to_json(),
        "fingerprint": layout.fingerprint,
        "slips": slips_of(layout),
        "clip_id": found.clip_id if found else None,
        "blocks": blocks,
    }


def _told(found: "Readiness", splits: tuple[str, ...]) -> dict[str, Any]:
    """What a check found: by layout and system the clips of each split, and the constituents that are missing."""
    from featurestore.conditioning import SYSTEMS
    from featurestore.readiness import PICTURE

    def counts(layout: "Layout") -> dict[str, dict[str, int]]:
        whole, pictured = found.assembled(layout), found.assembled(layout, picture=True)
        return {split: {"assembled": whole[split], "with_" + PICTURE: pictured[split]} for split in splits}

    lacking = {split: found.lacking(split) for split in splits}
    return {
        "layout": found.layout.label,
        "fingerprint": found.layout.fingerprint,
        "snapshot": found.snapshot.name or None,
        "clips": {split: number for split, number in found.clips().items() if split in splits},
        "ready": counts(found.layout),
        "systems": {name: counts(system.layout(found.layout)) for name, system in SYSTEMS.items()},
        "lacking": {key: {split: lacking[split][key] for split in splits} for key in lacking[splits[0]]},
    }


def _print_readiness(told: dict[str, Any]) -> None:
    splits = list(told["clips"])
    clips = [part for split in splits for part in (told["clips"][split], None)]
    rows = [["all clips", *clips]]
    for name, ready in ((told["layout"], told["ready"]), *told["systems"].items()):
        rows.append([name, *(number for split in splits for number in ready[split].values())])
    heads = [head for split in splits for head in (split, "with a face")]
    print_table(("clips that have all it reads", *heads), rows)
    rows = [[_called(key), *(counts[split] or None for split in splits)] for key, counts in told["lacking"].items()]
    print_table(("lacking", *splits), rows)
    if lacking := [key for key, counts in told["lacking"].items() if any(counts.values())]:
        say(f"to fill what is missing: voxportrait fill --constituents {','.join(lacking)} --store URI")


def _called(key: str) -> str:
    from featurestore.readiness import PICTURE

    return f"{key}, to train on" if key == PICTURE else key


def _write_csv(path: Path, incomplete: list[tuple[str, str, list[str]]]) -> None:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("clip_id", "split", "lacks"))
        writer.writerows((clip_id, split, " ".join(lacks)) for clip_id, split, lacks in incomplete)
