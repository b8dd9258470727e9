"""`voxportrait demo` and `bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.console import Json, print_json, print_table, say

BENCHMARKS = ("assembly", "corpus", "extract", "precision", "reading", "sample", "store", "train")
OPTIONS = {
    "assembly": ("rows", "batch_size"),
    "reading": ("rows", "batch_size"),
    "train": ("preset", "precision", "system"),
    "precision": ("preset", "steps"),
    "sample": ("runs", "export", "system", "pictures"),
}
"""What each benchmark may be told; the others take nothing."""


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
    which: Annotated[
        str, typer.Argument(help="assembly, corpus, extract, precision, reading, sample, store, train or all.")
    ] = "all",
    rows: Annotated[int | None, typer.Option(min=1, help="Clips of `assembly` and `reading`.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Batch of `assembly` and `reading`.")] = None,
    preset: Annotated[str | None, typer.Option(help="Of `train` and `precision`: micro, tiny, small, paper.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of `train` on a GPU: float32, bfloat16.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Of the short run of `precision`.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Of `sample`: where a trained system lies.")] = None,
    export: Annotated[Path | None, typer.Option(help="Of `sample`, with --runs: whose clips are drawn.")] = None,
    system: Annotated[str | None, typer.Option(help="Of `sample`, with --runs, and of `train`: which system.")] = None,
    pictures: Annotated[int | None, typer.Option(min=2, help="Of `sample`, with --runs: people at most.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed, as ratios against named yardsticks."""
    from importlib import import_module

    from featurestore.errors import UsageError, choose

    names = BENCHMARKS if which == "all" else (choose("benchmark", which, BENCHMARKS),)
    options = {
        "rows": rows, "batch_size": batch_size, "preset": preset, "precision": precision, "steps": steps,
        "runs": runs, "export": export, "system": system, "pictures": pictures,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        takers = [bench for bench, taken in OPTIONS.items() if name in taken]
        if which not in takers:
            raise UsageError(f"--{name.replace('_', '-')} is of {' and '.join(takers)}, not of {which}")
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
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value, start=1))
        if isinstance(value, dict):
            yield from _lines(value, f"{before}{key} ")
        else:
            yield before + key, value


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:,.4g}" if isinstance(value, (int, float)) else "not measured" if value is None else str(value)


COMMANDS = (demo, bench)
