"""Sources: how a corpus lies on disk, turned into clips. No media is opened here, however many clips there are.

    for clip in read("voxceleb2", root): ...
    inspect("voxceleb2", root)      # {"clips": ..., "speakers": ..., "odd": {...}}

A new source is one file here with `read(root)` and `inspect(root)`, and one line in `SOURCES`.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from featurestore.clip import Clip
from featurestore.errors import choose

SOURCES: dict[str, str] = {"voxceleb2": "pipelines.sources.voxceleb2"}
"""Name of a source -> the module that reads it."""


def read(source: str, root: str | Path) -> Iterator[Clip]:
    """The clips of the corpus at `root`, in a fixed order, one at a time.

    Raises UsageError at once for an unknown source, a path that is not there or another layout.
    """
    return _module(source).read(Path(root))


def inspect(source: str, root: str | Path) -> dict[str, Any]:
    """What `read` finds at `root`, counted, and what is odd or missing there, with examples."""
    return _module(source).inspect(Path(root))


def _module(source: str) -> Any:
    return import_module(SOURCES[choose("source", source, SOURCES)])
