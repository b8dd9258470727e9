"""What VoxCeleb1 and VoxCeleb2 share on disk: trees of speakers, videos and utterances, and face tracks.

A tree is `<tree>/id00012/<video>/00001.<suffix>`; the same utterance lies at the same place in the trees beside it.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError
from pipelines.sources.entries import Odd, entries, is_folder, listed, oddity
from pipelines.sources.speakers import Speaker

FRAMES_PER_SECOND = 25
"""Of the videos that the tracks count frames in."""

Trees = Mapping[str, Path]
"""`dev`, `test` or the tree's own name -> its folder."""

Track = tuple[tuple[int, float, float, float, float], ...]

_SPEAKER = re.compile(r"id[0-9]{5}")
_VALUE = r"[ \t]+(-?[0-9]{1,6}(?:\.[0-9]{1,20})?)"
_TRACK_ROW = re.compile(rf"^[ \t]*([0-9]{{1,9}}){_VALUE * 4}[ \t\r]*$", re.MULTILINE)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Utterance:
    """One file of a tree. tree: the tree's name; number: the file's name without suffix."""

    tree: str
    speaker: str
    video: str
    number: str
    path: str


def utterances(trees: Trees, suffix: str) -> Iterator[Utterance | Odd]:
    """Everything in the trees, sorted by tree, speaker, video and utterance. No file is looked into."""
    file_name = re.compile(rf"[0-9]{{5}}{re.escape(suffix)}")
    for tree, folder in trees.items():
        for speaker in entries(folder):
            if not (is_folder(speaker) and _SPEAKER.fullmatch(speaker.name)):
                yield _odd(speaker, "not a speaker's folder (id and five digits)")
                continue
            videos = listed(speaker.path)
            if isinstance(videos, Odd):
                yield videos
                continue
            for video in videos:
                if oddity(video.name) or not is_folder(video):
                    yield _odd(video, "not a video's folder")
                    continue
                files = listed(video.path)
                if isinstance(files, Odd):
                    yield files
                    continue
                for file in files:
                    if is_folder(file) or not file_name.fullmatch(file.name):
                        yield _odd(file, f"not an utterance (five digits and {suffix})")
                        continue
                    number = file.name.removesuffix(suffix)
                    yield Utterance(tree, speaker.name, video.name, number, os.path.abspath(file.path))


def beside(path: str, tree: str, suffix: str) -> str:
    """Where the utterance at `path` lies in another tree."""
    *above, _, speaker, video, name = path.split(os.sep)
    return os.sep.join([*above, tree, speaker, video, os.path.splitext(name)[0] + suffix])


def read_track(path: str | Path) -> Track:
    """The (frame, x, y, w, h) rows of a track file; its head and its tail are passed over.

    Boxes are in the file's unit: fractions of the frame in VoxCeleb2, pixels in VoxCeleb1. A frame is 1/25 s. Empty if
    there is no such file, or it cannot be read.
    """
    if not os.path.isfile(path):
        return ()
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    rows = _TRACK_ROW.findall(text)
    return tuple((int(frame), float(x), float(y), float(w), float(h)) for frame, x, y, w, h in rows)


def check_speakers(root: Path, trees: Trees) -> None:
    """Raise UsageError if a speaker is in two trees, because one of them may be test."""
    if shared := [odd.name for odd in shared_speakers(trees)]:
        names = ", ".join(shared[:_SHOWN]) + (f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else "")
        raise UsageError(f"{root}: speakers both in {' and in '.join(trees)}, so that test would be known: {names}.")


def shared_speakers(trees: Trees) -> Iterator[Odd]:
    """The speakers that are in more than one tree."""
    places = defaultdict(list)
    for tree, folder in trees.items():
        for entry in entries(folder):
            if _SPEAKER.fullmatch(entry.name):
                places[entry.name].append(tree)
    for speaker, found in sorted(places.items()):
        if len(found) > 1:
            yield Odd(f"speaker both in {' and in '.join(found)}", speaker)


def odd_speakers(sets: Mapping[str, str], speakers: Mapping[str, Speaker], meta: Path) -> Iterator[Odd]:
    """What does not fit between the meta file and `sets`: speaker -> the set that its folder says, "" for none."""
    if not meta.is_file():
        yield Odd("file missing", meta.name)
        return
    for speaker, folder in sorted(sets.items()):
        said = speakers.get(speaker, Speaker()).set
        if not said:
            yield Odd(f"speaker missing in {meta.name}", speaker)
        elif folder and said != folder:
            yield Odd(f"speaker of another set in {meta.name}", speaker)


def _odd(entry: os.DirEntry[str], otherwise: str) -> Odd:
    return Odd(oddity(entry.name) or otherwise, entry.path)
