"""`voxportrait store quarantine list|show|release`."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featurestore.console import Json, Store, print_json, print_table, say

Reason = Annotated[str | None, typer.Option(help="Only those of this reason.", show_default=False)]
What = Annotated[
    str | None, typer.Option("--constituent", help="Only what could not give this: media, sound, face, ecapa, ...")
]
ClipId = Annotated[str | None, typer.Option("--clip", help="Only this clip.", show_default=False)]


class _ListFirst(TyperGroup):
    """`quarantine` alone lists."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in context.help_option_names)
        return super().parse_args(context, args if named else ["list", *args])


app = typer.Typer(cls=_ListFirst, help="Clips that could not give something: list, show, release.")


@app.command("list")
def list_rows(
    store: Store, reason: Reason = None, constituent: What = None, clip: ClipId = None, as_json: Json = False
) -> None:
    """The clips that could not give something, and why: how many of each kind, then each."""
    import featurestore
    from featurestore.quarantine import Which, counts, rows

    found = rows(featurestore.open(store), Which(reason, constituent, clip))
    if as_json:
        print_json({"counts": counts(found), "rows": found.to_pylist()})
        return
    if not len(found):
        say("nothing is in quarantine" if Which(reason, constituent, clip) == Which() else "none of these is")
        return
    print_table(("reason", "constituent", "clips"), (list(row.values()) for row in counts(found)))
    columns = ("clip_id", "constituent", "reason", "message", "attempts")
    print_table(columns, ([row[c] for c in columns] for row in found.to_pylist()))


@app.command()
def show(
    clip: Annotated[str, typer.Argument(help="The clip's id.", show_default=False)], store: Store, as_json: Json = False
) -> None:
    """All that is known of a clip in quarantine."""
    import featurestore
    from featurestore.quarantine import about

    found = about(featurestore.open(store), clip)
    if as_json:
        print_json(found)
        return
    print_table(("", clip), ((name, value) for name, value in found["clip"].items() if value and name != "clip_id"))
    for row in found["quarantine"]:
        job = row.pop("job")
        row |= {"job": ", ".join(str(value) for value in job.values() if value)}
        print_table((row["constituent"], row["reason"]), ((n, row[n]) for n in ("message", "attempts", "model", "job")))
    if not found["quarantine"]:
        say("it is not in quarantine")


@app.command()
def release(
    store: Store,
    reason: Reason = None,
    constituent: What = None,
    clip: ClipId = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for another job to leave the clips.")] = 0,
    as_json: Json = False,
) -> None:
    """Let clips out of quarantine; the next fill tries them again."""
    import featurestore
    from featurestore.errors import UsageError
    from featurestore.quarantine import Which
    from featurestore.quarantine import release as let_out

    which = Which(reason, constituent, clip)
    if (which == Which()) != everything:
        raise UsageError("say which to release: --clip, --reason, --constituent, or --all alone")
    number = let_out(featurestore.open(store), which, wait, say)
    if as_json:
        print_json({"released": number})
    else:
        say(f"released: {number:,}" + (". The next fill tries them again." if number else ""))
