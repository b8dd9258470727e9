"""Small files of a run, written whole or not at all."""

from pathlib import Path

UNFINISHED = ".new"
"""Ends the name of a file that is being written."""


def write_whole(path: Path, text: str) -> None:
    """Replace a file's text: where that is killed or the disk is full, what was there stays as it was."""
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.write_text(text)
    unfinished.replace(path)
