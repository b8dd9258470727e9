"""`voxportrait store forget|erasures`."""

import json
import sys
from typing import Annotated

import typer

from featurestore.console import Json, Store, bar, print_json, print_table, say


def forget(
    store: Store,
    speaker: Annotated[
        list[str] | None, typer.Option(help="dataset/speaker, or the speaker alone; may be said again for another.")
    ] = None,
    clip: Annotated[list[str] | None, typer.Option(help="A clip's id; may be said again for another.")] = None,
    asked_by: Annotated[str, typer.Option(help="Who asked for it; kept for ever.")] = "",
    reason: Annotated[str, typer.Option(help="Why; kept for ever, so without the name of who is forgotten.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="End what was begun and not done; names nobody.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for who is at work in the store.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Forget speakers or clips for ever, with proof: no byte of them is left, and they are never registered again."""
    import featurestore
    from featurestore import erasure
    from featurestore.errors import UsageError

    opened = featurestore.open(store)
    speakers, clips = speaker or [], clip or []
    if resume and (speakers or clips):
        raise UsageError("--resume ends what was begun; name nobody beside it")
    begun = erasure.unfinished(opened)
    if dry_run:
        if begun:
            say(begun)
        planned = None if resume else erasure.preview(opened, speakers, clips)
        if as_json:
            print_json({"begun": begun is not None, "planned": planned})
        elif planned:
            _show(planned)
        return
    if resume and not begun:
        say("nothing is begun and not done")
    if not resume:
        if begun:
            say(f"{begun}; it is ended first")
        else:
            _show(erasure.preview(opened, speakers, clips))
        if not yes and sys.stdin.isatty():
            typer.confirm("Forget them for ever?", abort=True, err=True)
    with bar("forgetting") as draw:
        if resume:
            done = erasure.resume(opened, wait, say, draw)
        else:
            done = [erasure.forget(opened, speakers, clips, asked_by, reason, wait, say, draw)]
    if as_json:
        print_json(
            [
                {
                    "erasure_id": one.erasure_id,
                    "epoch": one.epoch,
                    "clips": one.clips,
                    "proof": one.proof,
                    "not_here": one.settled.elsewhere,
                    "checkpoints": one.settled.checkpoints,
                }
                for one in done
            ]
        )
        return
    for one in done:
        found = one.proof
        say(
            f"{one.clips} clips are forgotten. Of {found['pieces']:,} values searched for, {found['found_before']:,} "
            f"were found before; {found['found_after']:,} are found now, in {found['files']:,} files of "
            f"{found['bytes'] / 1e6:,.1f} MB."
        )
        if found["shared"]:
            say(f"{found['shared']:,} values stay, because other clips hold the very same bytes")
        if found["unprovable"]:
            say(
                f"{found['unprovable']:,} values were too short or too even to be searched for; they went with the rest"
            )
        for path in one.settled.elsewhere:
            say(f"this picture or export was not found here; remove it there: {path}")
    for path, erased in (done[-1].settled.checkpoints if done else {}).items():
        say(f"trained on {erased:,} clips that are forgotten; train it again: {path}")


def _show(planned: dict) -> None:
    rows = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in planned.items()]
    print_table(("to be forgotten", ""), rows)


def erasures(store: Store, as_json: Json = False) -> None:
    """What was forgotten: who asked, when, how many clips, and the proof. Nobody is named."""
    import featurestore
    from featurestore import artifacts, erasure

    opened = featurestore.open(store)
    columns = ["erasure_id", "state", "asked_by", "reason", "started", "ended", "clips", "epoch", "proof"]
    rows = opened.table("erasures").to_table(columns=columns).sort_by("started").to_pylist()
    for row in rows:
        row["proof"] = json.loads(row["proof"]) if row["proof"] else None
    checkpoints = artifacts.checkpoints(opened)
    if as_json:
        print_json({"erasures": rows, "checkpoints": checkpoints})
        return
    if not rows:
        say("nobody was forgotten")
        return
    shown = [{**row, "started": f"{row['started']:%Y-%m-%d %H:%M}", "found": _found(row["proof"])} for row in rows]
    names = ("started", "state", "clips", "asked_by", "reason", "found")
    print_table(
        ("asked", "state", "clips", "by", "reason", "found before / after"), ([one[n] for n in names] for one in shown)
    )
    for path, erased in checkpoints.items():
        say(f"trained on {erased:,} clips that are forgotten; train it again: {path}")
    if begun := erasure.unfinished(opened):
        say(begun)


def _found(proof: dict | None) -> str:
    return f"{proof['found_before']:,} / {proof['found_after']:,}" if proof else ""


COMMANDS = (forget, erasures)
