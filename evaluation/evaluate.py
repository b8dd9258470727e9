"""Evaluation of drawn portraits: are speakers found again, and how close is the picture to the true one?

    result = evaluate(store, read_drawings("demo/portraits"))

Beside each system stand references that no model drew: true faces of another video, the enlarged guide, one average
face for all. docs/evaluation.md says what each number is. Works on a store and on an export's records alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.faces import Faces, speaker_of
from evaluation.gallery import ANOTHER_VIDEO, SAME_FRAME, Gallery, galleries
from evaluation.judges import Recogniser, recogniser
from evaluation.metrics import RANKS, mean_likeness, psnr, ranks, recalls_of, ssim
from featurestore.conditioning import SYSTEMS
from featurestore.errors import VoxportraitError
from featurestore.records import Records

if TYPE_CHECKING:
    from evaluation.portraits import Drawing
    from featurestore.store import Store

AVERAGED_FACES = 512


def evaluate(
    source: "Store | Records",
    drawings: Sequence["Drawing"],
    recognisers: Sequence[Recogniser] | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Judge each system and scale, and references. JSON-able.

    source: a store, whose test split it is, or records of the split that the portraits are of; `held_out` of records
    gives the average face. recognisers: dlib by L2 where it is None. progress: called with (done, total, what).
    Raises VoxportraitError where portraits of one system come from different checkpoints, or of a clip that is gone.
    """
    from evaluation.portraits import by_system_and_scale, read_picture

    _check_origin(drawings)
    recognisers = [recogniser("dlib")] if recognisers is None else list(recognisers)
    faces = Faces.of(source)
    found = galleries(faces.rows, {drawing.clip_id for drawing in drawings})
    searched = [Searched.of(faces, gallery, recognisers) for gallery in found]
    groups = list(by_system_and_scale(drawings).items())
    rows = []
    for done, ((system, scale), group) in enumerate(groups):
        if progress:
            progress(done, len(groups), f"{system} at {scale:g}")
        clips = [drawing.clip_id for drawing in group]
        judged = Pictures(
            system,
            f"conditional scale {scale:g}",
            clips,
            np.stack([read_picture(drawing.picture) for drawing in group]),
            faces.read(clips)["target"],
            untrained=sorted({key for drawing in group for key in drawing.about.get("untrained", ())}),
        )
        rows.append(
            {
                **row_of(judged, searched, recognisers),
                "cond_scale": scale,
                "image_guide": SYSTEMS[system].image_guide,
                "checkpoints": group[0].about["checkpoints"],
            }
        )
    if progress:
        progress(len(groups), len(groups), "")
    has_guide = any(SYSTEMS[system].image_guide for (system, _), _ in groups)
    return {
        "galleries": {
            gallery.name: {
                "speakers": len(gallery),
                "clip_ids": list(gallery.clips.values()),
                "about": gallery.about,
            }
            for gallery in found
        },
        "recognisers": {
            one.key: {"name": one.name, "metric": one.metric, "untrained": one.untrained} for one in recognisers
        },
        "ranks": [k for k in RANKS if any(k < len(gallery) for gallery in found)],
        "systems": rows,
        "references": [row_of(one, searched, recognisers) for one in references(faces, found, has_guide)],
    }


@dataclass(frozen=True)
class Pictures:
    """Pictures that are judged, and the clips that they are likenesses of.

    truths: the true faces, for PSNR and SSIM; None where likeness says nothing. only: the galleries that they are
    searched in, all where it is empty. untrained: what of their making was.
    """

    name: str
    about: str
    clip_ids: Sequence[str]
    pictures: np.ndarray
    truths: np.ndarray | None
    only: Sequence[str] = ()
    untrained: Sequence[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class Searched:
    """A gallery and its faces' embeddings, by recogniser's name."""

    gallery: Gallery
    embedded: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, faces: Faces, gallery: Gallery, recognisers: Sequence[Recogniser]) -> "Searched":
        pictures = faces.read(list(gallery.clips.values()))["target"]
        return cls(gallery, embed_by(pictures, recognisers))

    def places(self, speakers: Sequence[str], embedded: np.ndarray, one: Recogniser) -> np.ndarray:
        """The place at which each speaker is found; 0 for one who is not in the gallery."""
        number = {speaker: place for place, speaker in enumerate(self.gallery.clips)}
        here = np.array([speaker in number for speaker in speakers])
        places = np.zeros(len(speakers), np.int64)
        truth = [number[speaker] for speaker in speakers if speaker in number]
        places[here] = ranks(embedded[here], self.embedded[one.name], truth, one.metric)
        return places


def embed_by(pictures: np.ndarray, recognisers: Sequence[Recogniser]) -> dict[str, np.ndarray]:
    """Recogniser's name -> (N, D): one that is there by two metrics looks once."""
    return {name: one.embed(pictures) for name, one in {one.name: one for one in recognisers}.items()}


def row_of(judged: Pictures, searched: Sequence[Searched], recognisers: Sequence[Recogniser]) -> dict[str, Any]:
    """One row of the result."""
    speakers = [speaker_of(clip_id) for clip_id in judged.clip_ids]
    embedded = embed_by(judged.pictures, recognisers)
    recall: dict[str, Any] = {}
    for one in searched:
        if judged.only and one.gallery.name not in judged.only:
            continue
        for by in recognisers:
            places = one.places(speakers, embedded[by.name], by)
            found = recalls_of(places[places > 0], len(one.gallery))
            recall.setdefault(one.gallery.name, {})[by.key] = {str(k): asdict(value) for k, value in found.items()}
    likeness = {
        name: None if judged.truths is None else asdict(mean_likeness(measure, judged.pictures, judged.truths))
        for name, measure in (("psnr", psnr), ("ssim", ssim))
    }
    return {
        "name": judged.name,
        "about": judged.about,
        "n": len(judged),
        "untrained": list(judged.untrained),
        "recall": recall,
        **likeness,
    }


def references(faces: Faces, found: Sequence[Gallery], has_guide: bool) -> list[Pictures]:
    """Pictures that no model drew, of the galleries' speakers."""
    by_name = {gallery.name: list(gallery.clips.values()) for gallery in found}
    first, rows = by_name[SAME_FRAME], []
    true = faces.read(first)
    if ANOTHER_VIDEO in by_name:
        about = "true faces of another video of the same speakers: as far as the recogniser can go"
        clips = by_name[ANOTHER_VIDEO]
        rows.append(Pictures("another video", about, clips, faces.read(clips)["target"], None, [SAME_FRAME]))
    if has_guide:
        about = "the 8 x 8 guide, enlarged: what super-resolution starts from"
        rows.append(Pictures("enlarged guide", about, first, enlarged(true["guide"]), true["target"]))
    others = faces.records.held_out
    if len(others):
        seen = faces.read_rows(others[:: -(-len(others) // AVERAGED_FACES)])["target"]
        average = np.rint(seen.mean(0)).astype(np.uint8)
        about = f"the mean of {len(seen)} faces of other speakers, the same for everybody"
        rows.append(Pictures("average face", about, first, np.repeat(average[None], len(first), 0), true["target"]))
    return rows


def enlarged(guides: np.ndarray, size: int = 128) -> np.ndarray:
    """(N, 8, 8, 3) uint8 -> (N, size, size, 3) uint8, bicubic."""
    import cv2

    return np.stack([cv2.resize(guide, (size, size), interpolation=cv2.INTER_CUBIC) for guide in guides])


def _check_origin(drawings: Sequence["Drawing"]) -> None:
    origin: dict[str, Any] = {}
    for drawing in drawings:
        if origin.setdefault(drawing.system, drawing.about["checkpoints"]) != drawing.about["checkpoints"]:
            raise VoxportraitError(
                f"portraits of {drawing.system} come from different checkpoints: draw all its scales again"
            )
