"""VoxCeleb2 as it is distributed (Chung, Nagrani, Zisserman 2018), and anything laid out like it.

    dev/mp4/id00012/_raOc3-IRsw/00001.mp4     one utterance
    dev/aac/id00012/_raOc3-IRsw/00001.m4a     its sound: used wherever it is there, else the sound in the mp4
    dev/txt/id00012/_raOc3-IRsw/00001.txt     its face track; frames and boxes are those of the original video
                                              (the official mp4 is a crop of it: its boxes do not lie on the faces)
    test/mp4/..., test/aac/..., test/txt/...
    vox2_meta.csv                             speaker, VGGFace2 id, gender, set
    vox2_attributes.csv                       optional: speaker_id, age, gender, ethnicity, licence, consent,
                                              consent_until

The official split holds: test is test. Of the dev speakers a tenth is held out as `val`.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from featurestore.clip import SPLITS, Clip
from pipelines.sources import voxceleb
from pipelines.sources.entries import Odd
from pipelines.sources.speakers import Speaker, read_speakers
from pipelines.sources.splits import split_of
from pipelines.sources.voxceleb import beside, read_track

DATASET = "voxceleb2"
LAYOUT = "{dev,test}/mp4/id00012/<video>/00001.mp4, with ../txt/ and ../aac/ beside mp4/, and vox2_meta.csv"
META, ATTRIBUTES = "vox2_meta.csv", "vox2_attributes.csv"


def fits(root: Path) -> bool:
    return any(folder.is_dir() for folder in _trees(root).values())


def check(root: Path) -> None:
    """Raises UsageError if a speaker is both in dev and in test."""
    voxceleb.check_speakers(root, _trees(root))


def scan(root: Path, splits: Collection[str] = SPLITS) -> Iterator[Clip | Odd]:
    """Clips sorted by dev and test, speaker, video and utterance. Raises UsageError for a wrong csv file."""
    return _scan(root, read_speakers(root / META, root / ATTRIBUTES, "VoxCeleb2"), splits)


def seconds(clip: Clip) -> float | None:
    """By the frames of the clip's track."""
    return len(clip.face_track) / voxceleb.FRAMES_PER_SECOND or None


def _trees(root: Path, tree: str = "mp4") -> voxceleb.Trees:
    return {name: root / name / tree for name in ("dev", "test")}


def _scan(root: Path, speakers: dict[str, Speaker], splits: Collection[str]) -> Iterator[Clip | Odd]:
    sets = {}
    for found in voxceleb.utterances(_trees(root), ".mp4"):
        if isinstance(found, Odd):
            yield found
            continue
        sets[found.speaker] = found.tree
        split = split_of(DATASET, found.speaker, found.tree)
        if split not in splits:
            continue
        sound = beside(found.path, "aac", ".m4a")
        track = read_track(beside(found.path, "txt", ".txt"))
        if not track:
            yield Odd("clip without a face track", found.path)
        yield Clip(
            clip_id=f"{DATASET}/{found.speaker}/{found.video}/{found.number}",
            path=found.path,
            sound_path=sound if os.path.isfile(sound) else "",
            split=split,
            face_track=track,
            **speakers.get(found.speaker, Speaker()).facts.for_clip(),
        )
    for found in voxceleb.utterances(_trees(root, "aac"), ".m4a"):
        if isinstance(found, Odd):
            yield found
        elif not os.path.lexists(beside(found.path, "mp4", ".mp4")):
            yield Odd("sound without a video", found.path)
    yield from voxceleb.shared_speakers(_trees(root))
    yield from voxceleb.odd_speakers(sets, speakers, root / META)
