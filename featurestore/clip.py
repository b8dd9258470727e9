"""A clip as a source describes it, before anything is decoded."""

import re
from dataclasses import dataclass
from datetime import date

from featurestore.errors import VoxportraitError

SPLITS = ("train", "val", "test")
_CLIP_ID = re.compile(r"[^/\x00-\x1f]+(/[^/\x00-\x1f]+){3}")


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance of one speaker: a face track with its sound.

    clip_id: `<dataset>/<speaker>/<video>/<utterance>`; path: the media file, or a picture, or a folder of frames;
    sound_path: the file with the sound where it is another one; split: `train`, `val` or `test`;
    licence, consent: as the corpus says, "" where it says nothing; consent_until: the last day it holds;
    corpus_*: what the corpus itself says of the speaker (None where it says nothing); age in years, gender `man` or
    `woman`, ethnicity one of `catalogue.ATTRIBUTES`; face_track: (frame, x, y, w, h) rows in the order of the clip's
    frames, boxes as fractions of the frame, empty where the corpus has none. A single row with w = h = 0 is a point:
    the speaker's face is the one nearest to it, in every frame.
    """

    clip_id: str
    path: str
    split: str
    sound_path: str = ""
    licence: str = ""
    consent: str = ""
    consent_until: date | None = None
    corpus_age: float | None = None
    corpus_gender: str | None = None
    corpus_ethnicity: str | None = None
    face_track: tuple[tuple[int, float, float, float, float], ...] = ()

    def __post_init__(self):
        if not _CLIP_ID.fullmatch(self.clip_id):
            raise VoxportraitError(f"clip id {self.clip_id!r} is not <dataset>/<speaker>/<video>/<utterance>")
        if self.split not in SPLITS:
            raise VoxportraitError(f"clip {self.clip_id}: split {self.split!r} is not one of {', '.join(SPLITS)}")

    @property
    def dataset(self) -> str:
        return self.clip_id.split("/")[0]

    @property
    def speaker_id(self) -> str:
        return self.clip_id.split("/")[1]

    @property
    def video_id(self) -> str:
        return self.clip_id.split("/")[2]
