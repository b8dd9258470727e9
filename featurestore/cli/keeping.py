"""`voxportrait store snapshot|snapshots|drift|promote|discard|compact|verify|reset`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.console import Json, Licences, RequireConsent, Store, bar, print_json, print_table, say

if TYPE_CHECKING:
    from featurestore.promotion import Drift

Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for other jobs to leave the store.")]
Key = Annotated[str, typer.Argument(help="The constituent: ecapa, mel, ...", show_default=False)]
Candidate = Annotated[
    str | None,
    typer.Option(help="Which candidate, where there are several: ecapa@1f2e3d4c, or 1f2e3d4c.", show_default=False),
]


def snapshot(
    name: Annotated[str, typer.Argument(help="What to call it: letters, digits, dots, dashes.", show_default=False)],
    store: Store,
    where: Annotated[str | None, typer.Option(help="Only clips under this condition, in SQL: split = 'train'.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the snapshot of this name; no clip is removed.")] = False,
    require_consent: RequireConsent = False,
    licences: Licences = None,
    as_json: Json = False,
) -> None:
    """Record which clips there are and who made each of their values, under a name to train on."""
    import featurestore
    from featurestore.policy import policy_of
    from featurestore.snapshots import drop as drop_one
    from featurestore.snapshots import take

    opened = featurestore.open(store)
    if drop:
        drop_one(opened, name)
        print_json({"dropped": name}) if as_json else say(f"dropped: {name}")
        return
    taken = take(opened, name, policy_of(require_consent, licences), where).describe()
    if as_json:
        print_json(taken)
    else:
        say(f"{taken['clips']:,} clips, {len(taken['constituents'])} constituents, content {taken['digest'][:16]}")


def snapshots(store: Store, as_json: Json = False) -> None:
    """The snapshots, oldest first."""
    import featurestore
    from featurestore.snapshots import listed

    rows = listed(featurestore.open(store))
    if as_json:
        print_json(rows)
    elif not rows:
        say("there is no snapshot. Take one: voxportrait store snapshot NAME")
    else:
        texts = (
            (
                r["name"],
                r["clips"],
                f"{r['created']:%Y-%m-%d %H:%M}",
                r["who"],
                r["selection"]["where"],
                r["digest"][:16],
            )
            for r in rows
        )
        print_table(("name", "clips", "created", "who", "where", "content"), texts)


def drift(constituent: Key, store: Store, candidate: Candidate = None, as_json: Json = False) -> None:
    """Compare a candidate's values with the live ones."""
    import featurestore
    from featurestore import promotion

    seen = promotion.drift(featurestore.open(store), constituent, candidate)
    print_json(seen.as_dict()) if as_json else _show(seen)


def promote(
    constituent: Key,
    store: Store,
    candidate: Candidate = None,
    force: Annotated[bool, typer.Option("--force", help="A person's word, whatever the drift says. Recorded.")] = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Make a candidate's values the live ones, after a look at their drift. The old ones stay as a candidate."""
    from dataclasses import asdict

    import featurestore
    from featurestore import promotion

    done = promotion.promote(featurestore.open(store), constituent, candidate, force, wait, say)
    if as_json:
        print_json(asdict(done))
        return
    _show(done.drift)
    say(f"{done.drift.candidate} is live as {constituent}" + (", by a person's word" if done.forced else ""))
    if done.kept_as:
        say(f"what was live is {done.kept_as}: promote it to go back, or voxportrait store discard {done.kept_as}")
    if done.dropped:
        say(f"its vector index is of the old values and dropped: voxportrait store index {constituent}")


def _show(seen: "Drift") -> None:
    rows: list[tuple[str, Any]] = [
        ("clips with both", seen.clips),
        ("compared", seen.probed),
        ("would lose their value", seen.lost),
        ("would get one", seen.gained),
    ]
    rows += [(name.replace("_", " "), _number(value)) for name, value in seen.measures.items()]
    rows += [("against it", line) for line in seen.against]
    print_table((seen.candidate, "against the live values"), rows)


def _number(value: float | int | None) -> str:
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def discard(
    candidate: Annotated[str, typer.Argument(help="The candidate: ecapa@1f2e3d4c.", show_default=False)],
    store: Store,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Drop a candidate's values."""
    import featurestore
    from featurestore import promotion

    clips = promotion.discard(featurestore.open(store), candidate, wait, say)
    if as_json:
        print_json({"discarded": candidate, "clips": clips})
    else:
        say(f"{candidate} is gone, {clips:,} clips had it; voxportrait store compact frees its bytes")


def compact(
    store: Store,
    wait: Wait = 0,
    discard_journal: Annotated[
        bool, typer.Option("--discard-journal", help="Also remove what stopped jobs finished and did not commit.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Merge small fragments, and remove old versions and files that nothing needs any more.

    Snapshots stay as they are. A query under way at the same time may have to be asked again.
    """
    from dataclasses import asdict

    import featurestore
    from featurestore import compaction

    with bar("compacting", "merges") as progress:
        done = compaction.compact(featurestore.open(store), wait, say, progress, discard_journal)
    if as_json:
        print_json(asdict(done))
        return
    freed = f"{done.bytes_freed / 1e6:,.1f} MB freed" if done.bytes_freed >= 0 else "no bytes freed"
    say(
        f"{done.fragments_before:,} fragments are {done.fragments_after:,}; {freed}; {done.versions_removed:,} old "
        f"versions and {done.orphans_removed:,} orphan files removed"
    )


def verify(
    store: Store,
    sources: Annotated[bool, typer.Option("--sources", help="Also compare each source file's sha256.")] = False,
    as_json: Json = False,
) -> None:
    """Look at everything in the store, and name what is wrong and what to do. Repairs nothing; 1 if something is wrong.

    With --sources every byte of the corpus is read; of folders of frames only that they are there is looked at.
    """
    import featurestore
    from featurestore.verify import verify as look

    with bar("looking", "fragments") as progress:
        found = look(featurestore.open(store), sources, progress, say)
    if as_json:
        print_json({"ok": not found, "findings": [finding.as_dict() for finding in found]})
    elif found:
        print_table(("check", "where", "what is wrong", "what to do"), (list(f.as_dict().values()) for f in found))
    else:
        say("everything is as it should be")
    if found:
        raise typer.Exit(1)


def reset(
    store: Store,
    clips: Annotated[list[str] | None, typer.Option("--clip", help="This clip; may be said again.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="All clips whose source is another file now.")] = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Take away all values of clips, so that the next fill makes them anew. The clips stay registered."""
    import featurestore
    from featurestore import stale as sources
    from featurestore.errors import UsageError

    if bool(clips) == stale:
        raise UsageError("say which clips: --clip ID, or --stale alone")
    opened = featurestore.open(store)
    count = sources.reset(opened, clips or sources.stale_clips(opened), wait, say)
    if as_json:
        print_json({"reset": count})
    else:
        say(f"reset: {count:,}" + (". The next fill makes their values anew." if count else ""))


COMMANDS = (snapshot, snapshots, drift, promote, discard, compact, verify, reset)
