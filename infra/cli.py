"""`voxportrait demo` and `bench`."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.console import Json, print_json, print_table, say


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
    which: Annotated[str, typer.Argument(help="assembly, corpus, extract, store or all.")] = "all",
    as_json: Json = False,
) -> None:
    """Measure speed, as ratios against named yardsticks."""
    from importlib import import_module

    from featurestore.errors import choose

    known = ("assembly", "corpus", "extract", "store")
    names = known if which == "all" else (choose("benchmark", which, known),)
    results = {}
    for name in names:
        say(f"measuring {name}")
        results[name] = import_module(f"infra.bench.{name}").run()
    if as_json:
        print_json(results if which == "all" else results[which])
        return
    for name, result in results.items():
        rows = []
        for key, value in result.items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            rows += [(f"{key} {part}".strip().replace("_", " "), _plain(number)) for part, number in inner]
        print_table((name, ""), rows)


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,.4g}" if isinstance(value, (int, float)) else "not measured" if value is None else str(value)


COMMANDS = (demo, bench)
