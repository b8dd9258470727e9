"""Sources: how a corpus lies on disk, turned into clips. No media is opened here, however many clips there are.

    for clip in read("voxceleb2", root): ...
    inspect("voxceleb2", root)      # {"clips": ..., "speakers": ..., "odd": {...}}

A new source is one file here and one line in `SOURCES`. It has

    LAYOUT                  the layout in one line, for errors
    fits(root)              whether the folder looks like it, quickly
    check(root)             raises UsageError for what must not be trained on; `inspect` tells of it instead
    scan(root, splits)      clips of these splits in a fixed order, and whatever is odd; a wrong table raises at once
    seconds(clip)           the clip's length if it is known without opening media
"""

import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from featurestore.clip import SPLITS, Clip
from featurestore.errors import UsageError, choose
from pipelines.sources.entries import is_text
from pipelines.sources.inspection import count

FOLDER = "folder"

SOURCES: dict[str, str] = {
    "voxceleb2": "pipelines.sources.voxceleb2",
    "voxceleb1": "pipelines.sources.voxceleb1",
    "avspeech": "pipelines.sources.avspeech",
    FOLDER: "pipelines.sources.folder",
}
"""Name of a source -> the module that reads it."""


def read(source: str, root: str | Path, one_video_per_speaker: bool = False) -> Iterator[Clip]:
    """The clips of the corpus at `root`, in a fixed order, one at a time.

    one_video_per_speaker: SLF's evaluation set, see `first_clips`. Raises UsageError at once for an unknown source, a
    path that is not there, another layout, a wrong table, and a speaker in two splits.
    """
    module, root = _open(source, root)
    module.check(root)
    found = module.scan(root, ("test",) if one_video_per_speaker else SPLITS)
    clips = (item for item in found if isinstance(item, Clip))
    return iter(first_clips(clips)) if one_video_per_speaker else clips


def inspect(source: str, root: str | Path) -> dict[str, Any]:
    """What `read` finds at `root`, counted, and what is odd or missing there, with examples: see `inspection.count`."""
    module, root = _open(source, root)
    return count(source, root, module.scan(root), module.seconds)


def first_clips(clips: Iterable[Clip]) -> list[Clip]:
    """SLF's gallery: of each test speaker the first clip of the first video, sorted by speaker.

    Raises UsageError if no clip is of the test split.
    """
    first: dict[str, Clip] = {}
    for clip in clips:
        if clip.split == "test":
            first[clip.speaker_id] = min(first.get(clip.speaker_id, clip), clip, key=_order)
    if not first:
        raise UsageError("one video per speaker is taken from the test split, and no clip is test here.")
    return sorted(first.values(), key=_order)


def _order(clip: Clip) -> list[str]:
    return clip.clip_id.split("/")


def _open(source: str, root: str | Path) -> tuple[Any, Path]:
    """The source's module and the folder, once it is one that the source can read."""
    choose("source", source, SOURCES)
    root = Path(os.path.abspath(root))
    modules = {name: import_module(path) for name, path in SOURCES.items()}
    known = "".join(f"\n  {name}: {module.LAYOUT}" for name, module in modules.items())
    if not (root.is_dir() and is_text(str(root))):
        raise UsageError(f"{str(root)!r} is not a folder. Known layouts:{known}")
    others = [name for name in modules if name not in (source, FOLDER) and modules[name].fits(root)]
    if modules[source].fits(root) and not (source == FOLDER and others):
        return modules[source], root
    if source != FOLDER and not others and modules[FOLDER].fits(root):
        others = [FOLDER]
    hint = f"; this looks like {' or '.join(others)}" if others else ""
    raise UsageError(f"{root} is not laid out as {source}{hint}. Known layouts:{known}")
