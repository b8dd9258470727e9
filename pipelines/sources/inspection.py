"""What a source finds, counted. Files are asked for their size, and never opened."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from featurestore.clip import Clip
from pipelines.sources.entries import Odd

EXAMPLES = 5

_ATTRIBUTES = ("age", "gender", "ethnicity")


def count(
    source: str, root: Path, found: Iterable[Clip | Odd], seconds: Callable[[Clip], float | None]
) -> dict[str, Any]:
    """Counts of everything found at `root`; `odd`: what -> how many, with examples.

    hours: of the clips whose length the source knows, None if it knows none; sounds: clips whose sound is a file of its
    own; bytes: of all files of the clips; attributes: speakers that the corpus says it of.
    """
    clips, odd, examples = Counter[str](), Counter[str](), defaultdict[str, list[str]](list)
    speakers, attributes = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    videos = set()
    size = sounds = 0
    length, last_path = 0.0, ""
    for item in found:
        if isinstance(item, Odd):
            odd[item.what] += 1
            if len(examples[item.what]) < EXAMPLES:
                examples[item.what].append(_shown(item.name, root))
            continue
        clips[item.split] += 1
        speakers[item.split].add(item.speaker_id)
        videos.add((item.speaker_id, item.video_id))
        for name in _ATTRIBUTES:
            if getattr(item, f"corpus_{name}") is not None:
                attributes[name].add(item.speaker_id)
        sounds += bool(item.sound_path)
        length += seconds(item) or 0.0
        size += _size(item.path) * (item.path != last_path) + _size(item.sound_path)
        last_path = item.path
    return {
        "source": source,
        "clips": clips.total(),
        "speakers": len(set().union(*speakers.values())),
        "videos": len(videos),
        "hours": round(length / 3600, 3) if length else None,
        "bytes": size,
        "sounds": sounds,
        "splits": {split: {"clips": clips[split], "speakers": len(speakers[split])} for split in sorted(clips)},
        "attributes": {name: len(attributes[name]) for name in _ATTRIBUTES},
        "odd": {what: {"count": number, "examples": examples[what]} for what, number in odd.items()},
    }


def _size(path: str) -> int:
    """Bytes of a file or of the files in a folder; 0 for what is not there."""
    with suppress(OSError):
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                return sum(entry.stat().st_size for entry in entries if entry.is_file())
        return os.path.getsize(path)
    return 0


def _shown(name: str, root: Path) -> str:
    short = name.removeprefix(f"{root}{os.sep}")
    return short if short.isprintable() else ascii(short)[1:-1]
