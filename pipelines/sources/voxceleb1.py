"""VoxCeleb1 as it is distributed (Nagrani, Chung, Zisserman 2017), with the face frames released beside it.

    wav/id10001/1zcIwhmdeo4/00001.wav         one utterance; also dev/wav/... and test/wav/...
    unzippedFaces/A.J._Buckley/1.6/1zcIwhmdeo4/0000375.jpg    cropped faces of a video, one a second
    txt/id10001/1zcIwhmdeo4/00001.txt         its face track, beside wav/
    vox1_meta.csv                             VoxCeleb1 id, VGGFace1 id (the name), gender, nationality, set
    vox1_attributes.csv                       optional: speaker_id, age, gender, ethnicity, licence, consent,
                                              consent_until

A clip is a wav file with a folder of pictures: `<video>/<utterance>/` if there is such a folder, else the whole
`<video>/`, whose frames show the same person but may be of another utterance. The speaker's folder has the id or the
name, with or without `1.6` below it. A clip without pictures has its wav file alone.

The tracks are in pixels of videos whose size is not known here, and the frames are cropped already: a clip has no face
track. The set is the folder's, else the meta file's, else the release's: id10270 to id10309 are test.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from featurestore.clip import SPLITS, Clip
from pipelines.sources import voxceleb
from pipelines.sources.entries import Odd, entries, unreadable
from pipelines.sources.speakers import Speaker, read_speakers
from pipelines.sources.splits import split_of
from pipelines.sources.voxceleb import Utterance, beside, read_track

DATASET = "voxceleb1"
LAYOUT = (
    "{dev,test}/wav/id10001/<video>/00001.wav or wav/id10001/<video>/00001.wav, with "
    "unzippedFaces/<name or id>/1.6/<video>/*.jpg, and vox1_meta.csv"
)
META, ATTRIBUTES, FACES = "vox1_meta.csv", "vox1_attributes.csv", "unzippedFaces"

_TEST_SPEAKERS = ("id10270", "id10309")


def fits(root: Path) -> bool:
    return any(entry.name.startswith("id") for folder in _trees(root).values() for entry in entries(folder))


def check(root: Path) -> None:
    """Raises UsageError if a speaker is in two of dev, test and wav."""
    voxceleb.check_speakers(root, _trees(root))


def scan(root: Path, splits: Collection[str] = SPLITS) -> Iterator[Clip | Odd]:
    """Clips sorted by dev, test and wav, speaker, video and utterance. Raises UsageError for a wrong csv file."""
    return _scan(root, read_speakers(root / META, root / ATTRIBUTES, "VoxCeleb1"), splits)


def seconds(clip: Clip) -> float | None:
    """By the frames of the utterance's track."""
    track = read_track(beside(clip.sound_path or clip.path, "txt", ".txt"))
    return len(track) / voxceleb.FRAMES_PER_SECOND or None


def _trees(root: Path) -> voxceleb.Trees:
    return {"dev": root / "dev" / "wav", "test": root / "test" / "wav", "wav": root / "wav"}


def _scan(root: Path, speakers: dict[str, Speaker], splits: Collection[str]) -> Iterator[Clip | Odd]:
    sets = {}
    for found in voxceleb.utterances(_trees(root), ".wav"):
        if isinstance(found, Odd):
            yield found
            continue
        speaker = speakers.get(found.speaker, Speaker())
        sets[found.speaker] = found.tree if found.tree != "wav" else ""
        split = split_of(DATASET, found.speaker, sets[found.speaker] or speaker.set or _released_set(found.speaker))
        if split not in splits:
            continue
        pictures = _pictures(root / FACES, found, speaker.name)
        if isinstance(pictures, Odd):
            yield pictures
            pictures = ""
        elif not pictures:
            yield Odd("clip without face frames", found.path)
        yield Clip(
            clip_id=f"{DATASET}/{found.speaker}/{found.video}/{found.number}",
            path=pictures or found.path,
            sound_path=found.path if pictures else "",
            split=split,
            **speaker.facts.for_clip(),
        )
    yield from voxceleb.shared_speakers(_trees(root))
    yield from voxceleb.odd_speakers(sets, speakers, root / META)


def _released_set(speaker: str) -> str:
    first, last = _TEST_SPEAKERS
    return "test" if first <= speaker <= last else "dev"


def _pictures(faces: Path, utterance: Utterance, name: str) -> str | Odd:
    """The folder with the utterance's pictures, or with its video's; "" if there is neither, Odd if it is closed."""
    names = dict.fromkeys((utterance.speaker, name, name.rstrip(".")))
    for speaker in (faces / each for each in names if each and os.sep not in each):
        for video in (speaker / "1.6" / utterance.video, speaker / utterance.video):
            for folder in (video / utterance.number, video):
                try:
                    if _has_pictures(folder):
                        return os.path.abspath(folder)
                except OSError:
                    return unreadable(folder)
    return ""


def _has_pictures(folder: Path) -> bool:
    try:
        with os.scandir(folder) as found:
            return any(entry.name.lower().endswith(".jpg") and not entry.name.startswith(".") for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return False
