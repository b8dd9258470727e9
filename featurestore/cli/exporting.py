"""`voxportrait store export`."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.console import Json, Licences, RequireConsent, Store, bar, print_json, say

ABOUT = "This file holds voices and faces of people: keep it as you keep the store, and remove it when it is done with."


def export(
    store: Store,
    out: Annotated[Path, typer.Option(help="The file to write, for example october.safetensors.", show_default=False)],
    clips: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many: each split keeps its share, and speakers take turns."),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="Whose constituents are written: slf, slf-released, or a JSON file.")
    ] = "slf",
    constituents: Annotated[
        str | None, typer.Option(help="Instead of a layout: ecapa,mel,age, ...", show_default=False)
    ] = None,
    pictures: Annotated[
        str, typer.Option(help="Of target, guide, face (256 px, JPEG), bottom; '': none.")
    ] = "target,guide",
    snapshot: Annotated[str | None, typer.Option(help="The clips of this snapshot, in its places.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Instead of train and val: one; may be said again for another.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of --clips.")] = 0,
    missing: Annotated[
        str,
        typer.Option(help="Clips that lack a constituent: refuse (an error), zero (zeros there), or skip them."),
    ] = "refuse",
    require_consent: RequireConsent = False,
    licences: Licences = None,
    as_json: Json = False,
) -> None:
    """Write compact rows and pictures to one safetensors file, from which train --export trains without the store.

    The file is there when it is whole; Ctrl-C and a full disk leave nothing of it. Forgetting knows of it.
    """
    from dataclasses import asdict

    import featurestore
    from featurestore.clip import SPLITS
    from featurestore.conditioning import layout_named, names_in
    from featurestore.errors import choose
    from featurestore.exporting import Chosen, export
    from featurestore.interrupt import stop_on_signal
    from featurestore.policy import policy_of

    wanted = Chosen.of(names_in(constituents)) if constituents is not None else layout_named(layout)
    splits = [choose("split", name, SPLITS) for name in split or ("train", "val")]
    with bar("exporting", "clips") as progress, stop_on_signal() as should_stop:
        done = export(
            featurestore.open(store),
            out,
            wanted,
            names_in(pictures) if pictures else [],
            missing,
            splits,
            snapshot,
            policy_of(require_consent, licences),
            clips,
            seed,
            progress,
            should_stop,
        )
    counts = ", ".join(f"{count:,} {name}" for name, count in done.splits.items())
    size = f"{done.bytes / 1e6:,.1f} MB, {done.bytes_a_clip / 1e3:,.1f} KB a clip"
    say(f"{out}: {done.clips:,} clips ({counts}), {size}, {done.clips / done.seconds:,.0f} clips/s")
    say(ABOUT)
    if as_json:
        print_json({**asdict(done), "bytes_a_clip": done.bytes_a_clip})


COMMANDS = (export,)
