"""`voxportrait report`."""

from pathlib import Path
from typing import Annotated

import typer

from evaluation.cli.options import Portraits, Runs
from featurestore.console import Store, say


def report(
    store: Store,
    runs: Runs = Path("runs"),
    portraits: Portraits = Path("portraits"),
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("report"),
) -> None:
    """Write one page about a store, its runs and its portraits."""
    import featurestore
    from evaluation.evaluate import evaluate as run
    from evaluation.portraits import read_drawings
    from evaluation.report import build_report

    opened = featurestore.open(store)
    drawings = read_drawings(portraits)
    folders = sorted(folder.parent for folder in runs.glob("*/config.json"))
    page = build_report(opened, folders, run(opened, drawings), drawings, {}, out / "index.html", {})
    say(f"the report is {page}")


COMMANDS = (report,)
