"""VoxCeleb2 as it is distributed (Chung, Nagrani, Zisserman 2018), and anything laid out like it.

    dev/mp4/id00012/_raOc3-IRsw/00001.mp4     one utterance
    dev/txt/id00012/_raOc3-IRsw/00001.txt     its face track; frames and boxes are those of the original video
    test/mp4/..., test/txt/...
    vox2_meta.csv                             speaker, VGGFace2 id, gender, set
    vox2_attributes.csv                       optional: speaker_id, age, gender, ethnicity, licence, consent

The official split holds: test is test. Of the dev speakers a tenth is held out as `val`.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.clip import Clip
from featurestore.errors import UsageError
from pipelines.sources.speakers import META, Speaker, read_speakers
from pipelines.sources.splits import is_validation

DATASET = "voxceleb2"
FOLDERS = ("dev", "test")
EXAMPLES = 5
LAYOUT = "{dev,test}/mp4/id00012/<video>/00001.mp4, {dev,test}/txt/id00012/<video>/00001.txt and vox2_meta.csv"

_SPEAKER = re.compile(r"id\d{5}")
_UTTERANCE = re.compile(r"\d{5}\.mp4")
_TRACK_ROW = re.compile(r"\d+(\s+-?\d+(\.\d+)?){4}\s*")


@dataclass(frozen=True)
class _File:
    """One entry in the mp4 tree: where it is, and what is odd about it ("" for a clip)."""

    folder: str
    path: str
    odd: str = ""


def read(root: Path) -> Iterator[Clip]:
    """Clips sorted by dev and test, speaker, video and utterance. What is no clip is left out: `inspect` tells of it.

    Raises UsageError for another layout, for a wrong csv file, and if a speaker is both in dev and in test.
    """
    _check_layout(root)
    speakers = read_speakers(root)
    if shared := _shared_speakers(root):
        raise UsageError(f"{root}: speakers both in dev and in test, so that test would be known: {_some(shared)}.")
    return (_clip(root, file, speakers) for file in _files(root) if not file.odd)


def inspect(root: Path) -> dict[str, Any]:
    """Counts of clips, speakers, videos, bytes and splits, and `odd`: what -> how many, with examples."""
    _check_layout(root)
    speakers = read_speakers(root)
    odd: dict[str, list[str]] = defaultdict(list)
    clips, members, videos, size = Counter[str](), defaultdict[str, set[str]](set), set(), 0
    for file in _files(root):
        name = os.path.relpath(file.path, root)
        if file.odd:
            odd[file.odd].append(name)
            continue
        speaker, video = file.path.split(os.sep)[-3:-1]
        split = _split(file.folder, speaker)
        clips[split] += 1
        members[split].add(speaker)
        videos.add((speaker, video))
        size += os.path.getsize(file.path)
        if not os.path.isfile(_track_path(file)):
            odd["clip without a face track"].append(name)
    present = set().union(*members.values())
    for what, names in _odd_speakers(root, present, speakers).items():
        odd[what] += names
    return {
        "source": DATASET,
        "clips": clips.total(),
        "speakers": len(present),
        "videos": len(videos),
        "bytes": size,
        "splits": {split: {"clips": clips[split], "speakers": len(members[split])} for split in sorted(clips)},
        "attributes": {
            name: sum(getattr(speakers.get(s), name, None) is not None for s in present)
            for name in ("age", "gender", "ethnicity")
        },
        "odd": {what: {"count": len(names), "examples": names[:EXAMPLES]} for what, names in odd.items() if names},
    }


def read_track(path: str | Path) -> tuple[tuple[int, float, float, float, float], ...]:
    """The (frame, x, y, w, h) rows of a track file, boxes as fractions of the frame; its head and tail are passed over.

    Empty if there is no such file.
    """
    if not os.path.isfile(path):
        return ()
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    rows = (line.split() for line in lines if _TRACK_ROW.fullmatch(line.strip()))
    return tuple((int(frame), float(x), float(y), float(w), float(h)) for frame, x, y, w, h in rows)


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder. Expected VoxCeleb2: {LAYOUT}.")
    if not any((root / folder / "mp4").is_dir() for folder in FOLDERS):
        raise UsageError(f"{root} holds neither dev/mp4 nor test/mp4. Expected VoxCeleb2: {LAYOUT}.")


def _files(root: Path) -> Iterator[_File]:
    """Everything in the mp4 trees in a fixed order, one folder in memory at a time."""
    for folder in FOLDERS:
        for speaker in _entries(root / folder / "mp4"):
            if not (speaker.is_dir() and _SPEAKER.fullmatch(speaker.name)):
                yield _File(folder, speaker.path, "not a speaker's folder (id and five digits)")
                continue
            for video in _entries(speaker.path):
                if not (video.is_dir() and video.name.isprintable()):
                    yield _File(folder, video.path, "not a video's folder")
                    continue
                for utterance in _entries(video.path):
                    right = utterance.is_file() and _UTTERANCE.fullmatch(utterance.name)
                    yield _File(folder, utterance.path, "" if right else "not an utterance (five digits and .mp4)")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    if not os.path.isdir(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}.") from error


def _clip(root: Path, file: _File, speakers: dict[str, Speaker]) -> Clip:
    speaker_id, video, utterance = file.path.removesuffix(".mp4").split(os.sep)[-3:]
    speaker = speakers.get(speaker_id, Speaker())
    return Clip(
        clip_id=f"{DATASET}/{speaker_id}/{video}/{utterance}",
        path=os.path.abspath(file.path),
        split=_split(file.folder, speaker_id),
        licence=speaker.licence,
        consent=speaker.consent,
        corpus_age=speaker.age,
        corpus_gender=speaker.gender,
        corpus_ethnicity=speaker.ethnicity,
        face_track=read_track(_track_path(file)),
    )


def _split(folder: str, speaker_id: str) -> str:
    if folder == "test":
        return "test"
    return "val" if is_validation(DATASET, speaker_id) else "train"


def _track_path(file: _File) -> str:
    *head, speaker, video, utterance = file.path.split(os.sep)
    return os.sep.join([*head[:-1], "txt", speaker, video, utterance.removesuffix(".mp4") + ".txt"])


def _shared_speakers(root: Path) -> list[str]:
    dev, test = ({entry.name for entry in _entries(root / folder / "mp4")} for folder in FOLDERS)
    return sorted(name for name in dev & test if _SPEAKER.fullmatch(name))


def _odd_speakers(root: Path, present: set[str], speakers: dict[str, Speaker]) -> dict[str, list[str]]:
    """What does not fit between the folders and vox2_meta.csv."""
    odd = {"speaker both in dev and in test": _shared_speakers(root)}
    if not (root / META).is_file():
        return odd | {"file missing": [META]}
    sets = {speaker: speakers[speaker].set if speaker in speakers else "" for speaker in sorted(present)}
    odd[f"speaker missing in {META}"] = [s for s, folder in sets.items() if not folder]
    odd[f"speaker of another set in {META}"] = [
        s for s, folder in sets.items() if folder and not (root / folder / "mp4" / s).is_dir()
    ]
    return odd


def _some(names: list[str]) -> str:
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more
