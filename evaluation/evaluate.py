"""Evaluation of drawn portraits: are speakers found again, and how close is the picture to the true one?

    result = evaluate(store, read_drawings("demo/portraits"))

The gallery is SLF's: one true face of each test speaker, the picture that the portrait is a likeness of. Beside each
system stand references that no model drew: true faces of another video, the enlarged guide, one average face for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.faces import clips_with_face, first_clips, read_faces, second_clips
from evaluation.metrics import RANKS, mean_likeness, psnr, recall_at, ssim
from evaluation.portraits import Drawing, by_system_and_scale, read_picture
from featurestore.conditioning import SYSTEMS
from featurestore.errors import VoxportraitError
from featurestore.store import Store

Embed = Callable[[np.ndarray], np.ndarray]
"""(N, 128, 128, 3) uint8 faces -> (N, D) float32."""

AVERAGED_FACES = 512


def evaluate(store: Store, drawings: Sequence[Drawing], embed: Embed | None = None) -> dict[str, Any]:
    """Retrieval, PSNR and SSIM of each system and scale, and of references. JSON-able.

    embed: the face recogniser for gallery and portraits alike, dlib's by default.
    Returns {"gallery": {"speakers", "embedding", "clip_ids"}, "ranks": [k], "systems": [row], "references": [row]}.
    A row is {"name", "about", "n", "recall": {k: {"hits", "n", "value", "low", "high", "random"}}, "psnr", "ssim"},
    psnr and ssim being {"n", "value", "low", "high"} or None; rows of systems also have "cond_scale", "image_guide".
    Raises VoxportraitError where portraits of one system come from different checkpoints, or of a clip that is gone.
    """
    _check_origin(drawings)
    embedding = getattr(embed, "__name__", "custom") if embed else "dlib"
    gallery = Gallery.of(store, embed or _dlib())
    return {
        "gallery": {"speakers": len(gallery.clips), "embedding": embedding, "clip_ids": list(gallery.clips.values())},
        "ranks": [k for k in RANKS if k < len(gallery.clips)],
        "systems": [_system_row(store, gallery, group) for group in by_system_and_scale(drawings).values()],
        "references": _reference_rows(store, gallery, drawings) if gallery.clips else [],
    }


@dataclass(frozen=True)
class Gallery:
    """True faces that pictures are searched among. clips: speaker -> clip, sorted; faces: (G, 128, 128, 3) uint8;
    embedded: (G, D)."""

    clips: dict[str, str]
    faces: np.ndarray
    embedded: np.ndarray
    embed: Embed

    @classmethod
    def of(cls, store: Store, embed: Embed) -> "Gallery":
        """The gallery of a store's test speakers."""
        clips = first_clips(store)
        faces, _ = read_faces(store, list(clips.values()))
        return cls(clips, faces, embed(faces) if clips else np.empty((0, 0), np.float32), embed)

    def row(
        self, name: str, about: str, speakers: Sequence[str], pictures: np.ndarray, truths: np.ndarray | None
    ) -> dict[str, Any]:
        """One row of the result. truths: what PSNR and SSIM compare with; None where likeness says nothing."""
        places = list(self.clips)
        if strangers := set(speakers) - set(places):
            raise VoxportraitError(f"speaker {min(strangers)} has no face in the gallery: draw the portraits again")
        recalls = recall_at(self.embed(pictures), self.embedded, [places.index(speaker) for speaker in speakers])
        return {
            "name": name,
            "about": about,
            "n": len(speakers),
            "recall": {str(recall.k): asdict(recall) for recall in recalls},
            "psnr": None if truths is None else asdict(mean_likeness(psnr, pictures, truths)),
            "ssim": None if truths is None else asdict(mean_likeness(ssim, pictures, truths)),
        }


def _system_row(store: Store, gallery: Gallery, drawings: Sequence[Drawing]) -> dict[str, Any]:
    system, scale = drawings[0].system, drawings[0].cond_scale
    pictures = np.stack([read_picture(drawing.picture) for drawing in drawings])
    truths, _ = read_faces(store, [drawing.clip_id for drawing in drawings])
    row = gallery.row(system, f"conditional scale {scale:g}", [d.speaker for d in drawings], pictures, truths)
    return {**row, "cond_scale": scale, "image_guide": SYSTEMS[system].image_guide}


def _reference_rows(store: Store, gallery: Gallery, drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    """Rows that no model drew, for the gallery's speakers."""
    rows, speakers = [], list(gallery.clips)
    if second := second_clips(store):
        faces, _ = read_faces(store, list(second.values()))
        about = "true faces of another video of the same speakers: as far as the recogniser can go"
        rows.append(gallery.row("another video", about, list(second), faces, None))
    if any(SYSTEMS[drawing.system].image_guide for drawing in drawings):
        _, guides = read_faces(store, list(gallery.clips.values()))
        about = "the 8 x 8 guide, enlarged: what super-resolution starts from"
        rows.append(gallery.row("enlarged guide", about, speakers, enlarged(guides), gallery.faces))
    if train := [clip["clip_id"] for clip in clips_with_face(store, "train")]:
        faces, _ = read_faces(store, train[:: -(-len(train) // AVERAGED_FACES)])
        average = np.rint(faces.mean(0)).astype(np.uint8)
        about = f"the mean of {len(faces)} training faces, the same for everybody"
        rows.append(
            gallery.row("average face", about, speakers, np.repeat(average[None], len(speakers), 0), gallery.faces)
        )
    return rows


def enlarged(guides: np.ndarray, size: int = 128) -> np.ndarray:
    """(N, 8, 8, 3) uint8 -> (N, size, size, 3) uint8, bicubic."""
    import cv2

    return np.stack([cv2.resize(guide, (size, size), interpolation=cv2.INTER_CUBIC) for guide in guides])


def _check_origin(drawings: Sequence[Drawing]) -> None:
    origin: dict[str, Any] = {}
    for drawing in drawings:
        if origin.setdefault(drawing.system, drawing.about["checkpoints"]) != drawing.about["checkpoints"]:
            raise VoxportraitError(
                f"portraits of {drawing.system} come from different checkpoints: draw all its scales again"
            )


def _dlib() -> Embed:
    from pipelines.extractors.dlib import embed_faces

    return embed_faces
