"""Galleries: the true faces that a portrait is searched among.

Of one face a speaker there are two, and both are told: with the *same frame* that the portrait is a likeness of, as the
SLF paper does it, where what is found may be light, pose and background as well as the person; and with *another
video* of the speaker, which only the person has in common with it.

Fine-portraitist's paper searches all test images and does not say which of them is a hit. *Every image* takes its words
as they stand: any image of the speaker, the portrait's own frame among them. *Other images* passes over the video that
the portrait is of. *Identity mean* has one mean feature vector of all images of a speaker.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evaluation.faces import speaker_of, video_of
from evaluation.metrics import Found, find

SAME_FRAME, ANOTHER_VIDEO = "same-frame", "another-video"
EVERY_IMAGE, OTHER_IMAGES, IDENTITY_MEAN = "every-image", "other-images", "identity-mean"


@dataclass(frozen=True)
class Gallery:
    """True faces of speakers. faces: speaker -> their clips, by speaker. is_mean: one entry a speaker, the mean vector
    of their faces; is_apart: faces of the video that a portrait is of are passed over when it is searched for."""

    name: str
    about: str
    faces: Mapping[str, tuple[str, ...]]
    is_mean: bool = False
    is_apart: bool = False

    def __len__(self) -> int:
        """The entries that there are to choose from."""
        return len(self.faces) if self.is_mean else sum(map(len, self.faces.values()))

    @property
    def is_chosen(self) -> bool:
        """Whether it has one chosen face a speaker."""
        return self.name in (SAME_FRAME, ANOTHER_VIDEO)

    @property
    def clips(self) -> dict[str, str]:
        """Speaker -> the clip of their first face."""
        return {speaker: clips[0] for speaker, clips in self.faces.items()}

    @cached_property
    def _entries(self) -> list[str]:
        return [clip_id for clips in self.faces.values() for clip_id in clips]

    def find(
        self,
        queries: np.ndarray,
        clip_ids: Sequence[str],
        seen: np.ndarray,
        place: Mapping[str, int],
        metric: str,
    ) -> Found:
        """Where the speakers of portraits are found. queries: (N, D), portraits of the clips `clip_ids`; seen: (C, D),
        true faces by the places of their clips."""
        number = {speaker: n for n, speaker in enumerate(self.faces)}
        own = np.array([number.get(speaker_of(clip_id), -1) for clip_id in clip_ids], np.int64)
        vectors = seen[[place[clip_id] for clip_id in self._entries]]
        people = np.array([number[speaker_of(clip_id)] for clip_id in self._entries], np.int64)
        if self.is_mean:
            sums = np.zeros((len(self.faces), vectors.shape[1]), np.float64)
            np.add.at(sums, people, vectors)
            vectors, people = sums / np.bincount(people)[:, None], np.arange(len(self.faces))
        passed = None
        if self.is_apart:
            videos = {video: n for n, video in enumerate(dict.fromkeys(map(video_of, self._entries)))}
            passed = (
                np.array([videos[video_of(clip_id)] for clip_id in self._entries], np.int64),
                np.array([videos.get(video_of(clip_id), -1) for clip_id in clip_ids], np.int64),
            )
        return find(queries, vectors, people, own, passed, metric)


def galleries(
    clip_ids: Iterable[str], drawn: Iterable[str] = (), names: Sequence[str] = (SAME_FRAME, ANOTHER_VIDEO)
) -> list[Gallery]:
    """The galleries of these names, of the clips that have a face, less those that would be empty.

    drawn: the clips that portraits are of. The same-frame gallery has the first drawn clip of a speaker, the first of
    all where none is; another-video has the first clip of a video that nothing was drawn of, and no speaker without.
    """
    clip_ids, drawn = sorted(clip_ids), sorted(drawn)
    same = {**_first_of_each(clip_ids), **_first_of_each(drawn)}
    seen = {video_of(clip_id) for clip_id in (*drawn, *same.values())}
    another = _first_of_each(clip_id for clip_id in clip_ids if video_of(clip_id) not in seen)
    others = sum(same[speaker_of(clip_id)] != clip_id for clip_id in set(drawn))
    every = _all_of_each(clip_ids)
    known = [
        Gallery(
            SAME_FRAME,
            "the frame that the portrait is a likeness of, as in the SLF paper"
            + (f"; {others} drawn clips are another one of their speaker" if others else ""),
            _alone(same),
        ),
        Gallery(ANOTHER_VIDEO, "a frame of another video of the speaker", _alone(another)),
        Gallery(EVERY_IMAGE, "every face; any of the speaker's is a hit, the portrait's own frame too", every),
        Gallery(
            OTHER_IMAGES, "every face but those of the portrait's own video; any of the speaker's is a hit", every,
            is_apart=True,
        ),
        Gallery(IDENTITY_MEAN, "one mean vector of all faces of each speaker", every, is_mean=True),
    ]  # fmt: skip
    return [gallery for gallery in known if gallery.name in names and gallery.faces]


def _alone(clips: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {speaker: (clip_id,) for speaker, clip_id in clips.items()}


def _first_of_each(clip_ids: Iterable[str]) -> dict[str, str]:
    return {speaker: clips[0] for speaker, clips in _all_of_each(clip_ids).items()}


def _all_of_each(clip_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for clip_id in clip_ids:
        found.setdefault(speaker_of(clip_id), []).append(clip_id)
    return {speaker: tuple(clips) for speaker, clips in sorted(found.items())}
