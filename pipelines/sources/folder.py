"""Any folder of recordings: videos, or sounds with or without a picture of the same name.

    alice/talk.mp4                            the first folder is the speaker
    alice/monday/01.wav, alice/monday/01.jpg  a sound and its picture
    bob.mov                                   a file beside the folders is its own speaker
    clips.csv                                 optional: path (from here) and any of the columns in `COLUMNS`

Files of one folder and one name without suffix belong together: a video with a sound takes its sound from there; a
sound takes the first picture. What is left over is odd.

The clip's id is folder/<speaker>/<video>/<name>. The name is the video's or the sound's (talk.mp4); the video is
clips.csv's, else the path from here (alice%2Ftalk.mp4); where clips.csv names the video, that path takes the name's
place. In names, % is written %25 and / %2F, so that no two clips have one id. No other file has a part in a clip's id,
so that it stays when files are added.

The split is clips.csv's for all clips of a speaker; the other speakers are put into train, val or test by their hash.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.clip import SPLITS, Clip
from featurestore.errors import UsageError
from pipelines.sources.entries import Odd, is_text, walk
from pipelines.sources.splits import split_of
from pipelines.sources.tables import FACTS, NOTHING, Facts, Row, facts_of, read_rows

DATASET = "folder"
LAYOUT = "<speaker>/**/*.{mp4,mov,mkv,webm,...}, or *.{wav,flac,mp3,m4a,...} with *.{jpg,png} of the same name"
TABLE = "clips.csv"
COLUMNS = ("speaker_id", "video_id", "split", "x", "y", *FACTS)

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".3gp", ".3g2", ".mj2")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".mka")
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class _Said:
    """What clips.csv says of one clip. point: (x, y) of the speaker's face, fractions of the frame."""

    speaker: str = ""
    video: str = ""
    split: str = ""
    point: tuple[float, float] | None = None
    facts: Facts = NOTHING


@dataclass(frozen=True)
class _Recording:
    """One clip's files, as paths from the root. sound: "" where `path` has it."""

    path: str
    sound: str = ""

    @property
    def place(self) -> str:
        """The path that the clip's id has: the video's or the sound's."""
        return self.sound if _kind(self.path) == "picture" else self.path


def fits(root: Path) -> bool:
    return any(_kind(file.name) for files in walk(root) if not isinstance(files, Odd) for file in files)


def check(root: Path) -> None:
    """Raises UsageError if clips.csv puts a speaker into two splits."""
    for speaker, splits in _splits(_read_table(root)).items():
        if len(splits) > 1:
            raise UsageError(f"{root / TABLE}: speaker {speaker!r} is in {' and '.join(sorted(splits))}.")


def scan(root: Path, splits: Collection[str] = SPLITS) -> Iterator[Clip | Odd]:
    """Clips sorted by name within each folder, a folder's files before its folders.

    Raises UsageError for a wrong clips.csv.
    """
    return _scan(root, _read_table(root), splits)


def seconds(clip: Clip) -> None:
    """Not known before the file is opened."""


def _scan(root: Path, table: dict[str, _Said], splits: Collection[str]) -> Iterator[Clip | Odd]:
    split_by_speaker = {speaker: min(found) for speaker, found in _splits(table).items()}
    unused = dict.fromkeys(table)
    for files in walk(root):
        if isinstance(files, Odd):
            yield files
            continue
        names = [os.path.relpath(file.path, root) for file in files]
        for found in _recordings([name for name in names if name != TABLE]):
            if isinstance(found, Odd):
                yield found
                continue
            row = next((name for name in (found.path, found.sound) if name in table), "")
            unused.pop(row, None)
            clip = _clip(root, found, table.get(row, _Said()), split_by_speaker)
            if clip.split in splits:
                yield clip
    yield from (Odd(f"row of {TABLE} without a clip", path) for path in unused)
    for speaker, found_splits in _splits(table).items():
        if len(found_splits) > 1:
            yield Odd(f"speaker in {' and '.join(sorted(found_splits))} by {TABLE}", speaker)


def _recordings(names: list[str]) -> Iterator[_Recording | Odd]:
    """The clips that the files of one folder make."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if kind := _kind(name):
            groups[os.path.splitext(name)[0]][kind].append(name)
        else:
            yield Odd("file that is neither video, sound nor picture", name)
    for files in groups.values():
        videos, sounds, pictures = files["video"], files["sound"], files["picture"]
        if videos:
            yield from (_Recording(video, sounds[0] if sounds else "") for video in videos)
            yield from (Odd("file beside a video of the same name", name) for name in (*sounds[1:], *pictures))
        elif sounds:
            yield from (_Recording(pictures[0], sound) if pictures else _Recording(sound) for sound in sounds)
            yield from (Odd("second picture of a sound", name) for name in pictures[1:])
        else:
            yield from (Odd("picture without a sound", name) for name in pictures)


def _clip(root: Path, recording: _Recording, said: _Said, split_by_speaker: dict[str, str]) -> Clip:
    speaker = said.speaker or _speaker(recording.path)
    place, name = _quote(recording.place), _quote(os.path.basename(recording.place))
    track = ((0, *said.point, 0.0, 0.0),) if said.point else ()
    return Clip(
        clip_id=f"{DATASET}/{speaker}/{_quote(said.video) or place}/{place if said.video else name}",
        path=os.path.abspath(root / recording.path),
        sound_path=os.path.abspath(root / recording.sound) if recording.sound else "",
        split=split_by_speaker.get(speaker) or split_of(DATASET, speaker),
        face_track=track,
        **said.facts.for_clip(),
    )


def _speaker(path: str) -> str:
    first, *below = path.split(os.sep)
    return first if below else os.path.splitext(path)[0]


def _quote(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    kinds = {"video": VIDEOS, "sound": SOUNDS, "picture": PICTURES}
    return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), "")


def _splits(table: dict[str, _Said]) -> dict[str, set[str]]:
    """Speaker -> the splits that clips.csv names."""
    splits = defaultdict(set)
    for path, said in table.items():
        if said.split:
            splits[said.speaker or _speaker(path)].add(said.split)
    return splits


def _read_table(root: Path) -> dict[str, _Said]:
    """What clips.csv says, by path. Raises UsageError with file and line."""
    table: dict[str, _Said] = {}
    for place, row in read_rows(root / TABLE, ("path",), COLUMNS):
        path = os.path.normpath(row["path"])
        if os.path.isabs(path) or path.startswith(".."):
            raise UsageError(f"{place}: path {row['path']!r} does not lead down from {root}.")
        if path in table:
            raise UsageError(f"{place}: path {row['path']!r} is there twice.")
        table[path] = _said(place, row)
    return table


def _said(place: str, row: Row) -> _Said:
    for column in ("speaker_id", "video_id"):
        if "/" in row.get(column, "") or not is_text(row.get(column, "")):
            raise UsageError(f"{place}: {column} {row[column]!r} has a slash or a control character.")
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise UsageError(f"{place}: split {split!r} is not one of {', '.join(SPLITS)}.")
    return _Said(row.get("speaker_id", ""), row.get("video_id", ""), split, _point(place, row), facts_of(place, row))


def _point(place: str, row: Row) -> tuple[float, float] | None:
    texts: list[Any] = [row.get("x", ""), row.get("y", "")]
    if texts == ["", ""]:
        return None
    try:
        x, y = map(float, texts)
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise UsageError(f"{place}: x {texts[0]!r} and y {texts[1]!r} are not both fractions of the frame, 0 to 1.")
    return x, y
