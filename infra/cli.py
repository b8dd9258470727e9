"""`voxportrait demo` and `bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.console import Json, print_json, print_table, say

BENCHMARKS = ("assembly", "corpus", "extract", "reading", "store")
ROWS_BENCHMARKS = ("assembly", "reading")
"""Those that make a store of as many rows as they are told."""


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    speakers: Annotated[int, typer.Option(min=3, help="Synthetic people.")] = 52,
    test_speakers: Annotated[int, typer.Option(min=2, help="How many of them are never trained on.")] = 12,
    clips: Annotated[int, typer.Option(min=6, help="Clips of all of them together.")] = 120,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps a U-Net, instead of the preset's.")] = None,
    as_json: Json = False,
) -> None:
    """The whole chain on synthetic people, ending in a report."""
    from infra.demo import Demo, Size

    summary = Demo(folder, Size(speakers, test_speakers, clips, seed, steps)).run()
    if as_json:
        print_json(summary)


def bench(
    which: Annotated[str, typer.Argument(help="assembly, corpus, extract, reading, store or all.")] = "all",
    rows: Annotated[int | None, typer.Option(min=1, help="Clips of `assembly` and `reading`.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Batch of `assembly` and `reading`.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed, as ratios against named yardsticks."""
    from importlib import import_module

    from featurestore.errors import UsageError, choose

    names = BENCHMARKS if which == "all" else (choose("benchmark", which, BENCHMARKS),)
    given = {name: value for name, value in (("rows", rows), ("batch_size", batch_size)) if value is not None}
    if given and which not in ROWS_BENCHMARKS:
        raise UsageError(f"--rows and --batch-size are of {' and '.join(ROWS_BENCHMARKS)}, not of {which}")
    results = {}
    for name in names:
        say(f"measuring {name}")
        results[name] = import_module(f"infra.bench.{name}").run(**given)
    if as_json:
        print_json(results if which == "all" else results[which])
        return
    for name, result in results.items():
        print_table((name, ""), [(words.replace("_", " "), _plain(value)) for words, value in _lines(result)])


def _lines(result: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """What a benchmark found, a line for each number: the words that lead to it, and the number."""
    for key, value in result.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{before}{key} ")
        else:
            yield before + key, value


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:,.4g}" if isinstance(value, (int, float)) else "not measured" if value is None else str(value)


COMMANDS = (demo, bench)
