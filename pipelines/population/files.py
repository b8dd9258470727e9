"""Files that are whole or not there: written under another name, then renamed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".part"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the name to write to; it becomes `path` when the block ends well. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    yield unfinished
    unfinished.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a small text file, lines ending as given."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")
