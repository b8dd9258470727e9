"""What every command shares: tables and bars for people on standard error, one JSON object for machines on standard
output."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Store = Annotated[
    str,
    typer.Option(
        "--store", envvar="VOXPORTRAIT_STORE", help="The store: a folder or an object-store URI.", show_default=False
    ),
]
RequireConsent = Annotated[bool, typer.Option("--require-consent", help="Only clips with a consent that holds today.")]
Licences = Annotated[
    list[str] | None, typer.Option("--licence", help="Only clips under this licence; may be said again for another.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


def say(text: str) -> None:
    """A line for a person, on standard error."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """One machine-readable line on standard output."""
    typer.echo(json.dumps(value, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table on standard output; columns whose values are all numbers are set flush right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[i], (int, float)) or row[i] in ("", None) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if v is None else f"{v:,}" if isinstance(v, int) else str(v) for v in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(table)


@contextmanager
def bar(what: str, unit: str = "", timed: bool = True) -> Iterator[Any]:
    """A progress bar on standard error; gives `update(done, total, note="")`, which may be called from a loop.

    unit: of the rate that is shown; timed: the bar says how long the rest will take, else the note does. Where standard
    error is not a terminal, a plain line at most every ten seconds, and where it ended.
    """
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            *([TimeRemainingColumn()] if timed else []),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(what, total=None, rate="", note="")
            started = time.monotonic()

            def draw(done: int, total: int | None, note: str = "") -> None:
                rate = f"{done / max(time.monotonic() - started, 1e-3):.1f} {unit}/s" if unit else ""
                progress.update(task, completed=done, total=total, rate=rate, note=note)

            yield draw
        return

    last, seen, said = time.monotonic(), "", ""

    def line(done: int, total: int | None, note: str = "") -> None:
        nonlocal last, seen, said
        seen = f"{what}: {done}{'' if total is None else f'/{total}'} {note}".rstrip()
        if time.monotonic() - last >= 10 and seen != said:
            last, said = time.monotonic(), seen
            say(seen)

    yield line
    if said and seen != said:
        say(seen)
