"""Galleries: the true faces that a portrait is searched among, one clip a speaker.

Two, and both are told: with the *same frame* that the portrait is a likeness of, as the SLF paper does it, where what
is found may be light, pose and background as well as the person; and with *another video* of the speaker, which only
the person has in common with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.faces import speaker_of, video_of

SAME_FRAME, ANOTHER_VIDEO = "same-frame", "another-video"


@dataclass(frozen=True)
class Gallery:
    """One true face of each speaker. clips: speaker -> clip, by speaker."""

    name: str
    about: str
    clips: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.clips)


def galleries(clip_ids: Iterable[str], drawn: Iterable[str] = ()) -> list[Gallery]:
    """Both galleries of the clips that have a face, less one that would be empty.

    drawn: the clips that portraits are of. The same-frame gallery has the first drawn clip of a speaker, the first of
    all where none is; the other has the first clip of a video that nothing was drawn of, and no speaker without one.
    """
    clip_ids, drawn = sorted(clip_ids), sorted(drawn)
    same = {**_first_of_each(clip_ids), **_first_of_each(drawn)}
    seen = {video_of(clip_id) for clip_id in (*drawn, *same.values())}
    another = _first_of_each(clip_id for clip_id in clip_ids if video_of(clip_id) not in seen)
    others = sum(same[speaker_of(clip_id)] != clip_id for clip_id in set(drawn))
    both = [
        Gallery(
            SAME_FRAME,
            "the frame that the portrait is a likeness of, as in the SLF paper"
            + (f"; {others} drawn clips are another one of their speaker" if others else ""),
            same,
        ),
        Gallery(ANOTHER_VIDEO, "a frame of another video of the speaker", another),
    ]
    return [gallery for gallery in both if gallery.clips]


def _first_of_each(clip_ids: Iterable[str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for clip_id in clip_ids:
        first.setdefault(speaker_of(clip_id), clip_id)
    return dict(sorted(first.items()))
