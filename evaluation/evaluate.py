"""Evaluation of drawn portraits: are speakers found again, are they of the right age, gender and ethnicity, how close
is the picture to the true one, and is it one of its own or a copy?

    result = evaluate(store, read_drawings("demo/portraits"), [recogniser("dlib"), recogniser("arcface", "cosine")])

Portraits of each family of systems are judged at their own size, by the measures of their own paper; smaller ones are
enlarged to it. Beside each system stand references that no model drew: true faces, the enlarged guide, one average face
for all, the retrieved faces. docs/evaluation.md says what each number is. Works on a store and on an export's records
alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.copying import MOST, training_rows
from evaluation.faces import Faces, speaker_of
from evaluation.families import SLF, Family, Key, drawn_by, families_of, leaning_words, rows_of
from evaluation.fid import Fid
from evaluation.gallery import ANOTHER_VIDEO, OTHER_IMAGES, SAME_FRAME, Gallery, galleries
from evaluation.judges import AttributeJudge, Recogniser, recogniser, recogniser_of_features
from evaluation.panel import FID_FACES, JUDGED, TRUTH, Judged, Panel, Pictures, evenly
from evaluation.significance import COMPARISONS, WEIGHTS, Comparison, compare
from featurestore.conditioning import system as system_named
from featurestore.errors import VoxportraitError
from featurestore.records import Records

if TYPE_CHECKING:
    from evaluation.portraits import Drawing
    from featurestore.store import Store

__all__ = ("JUDGED", "TRUTH", "evaluate")

AVERAGED_FACES = 512
"""Faces of other speakers that the average face is made of, at most."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what comes now), in pictures."""


def evaluate(
    source: "Store | Records",
    drawings: Sequence["Drawing"],
    recognisers: Sequence[Recogniser] | None = None,
    attributes: AttributeJudge | None = None,
    fid: Fid | None = None,
    *,
    split: str = "test",
    ranks: Sequence[int] = (),
    training_faces: int = MOST,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge each system, scale and exclusion, and references. JSON-able; docs/evaluation.md has its form.

    source: a store, of whose `split` the portraits are; or records that were opened for that split, whose `held_out`
    gives the average face and the training faces. recognisers: where it is None, dlib by L2 for SLF's systems, and for
    Fine-portraitist's VGG-Face where it is there. attributes, fid: not judged where they are None. ranks: the k of
    recall at k, each paper's own where it is empty. training_faces: that are looked at for copies, at most.
    Raises VoxportraitError where portraits of one system come from different checkpoints, a clip is not there, or no
    clip of the split has a face.
    """
    _check_origin(drawings)
    families = families_of(drawings)
    recognisers = usual_recognisers(families) if recognisers is None else list(recognisers)
    faces = {family.name: Faces.of(source, split, family.picture) for family in families}
    common = set.intersection(*(set(one.rows) for one in faces.values()))
    drawn = {drawing.clip_id for drawing in drawings}
    told = _Counted(progress)
    panels, rows, beside = {}, {}, {}
    for family in families:
        own, searched = faces[family.name], galleries(common, drawn & common, family.galleries)
        rows[family.name] = dict(_drawn(family, own, drawn_by(family, drawings)))
        beside[family.name] = list(references(own, searched, rows[family.name]))
        pictures = [*rows[family.name].values(), *beside[family.name]]
        told.expect(_to_look_at(own, searched, pictures, attributes, fid))
        panels[family.name] = Panel.ready(
            family, ranks or family.ranks, own, searched, pictures, recognisers, attributes, fid, told, training_faces
        )
    judged = {key: panels[name].judge(one, told) for name, some in rows.items() for key, one in some.items()}
    first = next(iter(panels.values()))
    known = {gallery.name: gallery for panel in panels.values() for gallery in panel.galleries}
    return {
        "galleries": {
            name: {
                "speakers": len(gallery.faces),
                "images": len(gallery),
                "clip_ids": list(gallery.clips.values()) if gallery.is_chosen else [],
                "about": gallery.about,
            }
            for name, gallery in known.items()
        },
        "recognisers": {
            one.key: {"name": one.name, "metric": one.metric, "untrained": one.untrained} for one in recognisers
        },
        **({"attributes": first.about_attributes(attributes)} if attributes else {}),
        "families": {name: panel.about() for name, panel in panels.items()},
        "groups": {name: groups.by for panel in panels.values() for name, groups in panel.groups.items()},
        "ranks": [k for k in _all_ranks(panels.values()) if any(k < len(gallery) for gallery in known.values())],
        "systems": [
            panels[name].row(judged[key]) for name, some in rows.items() for key in some
        ],
        "references": [
            panels[name].row(panels[name].judge(one, told)) for name, some in beside.items() for one in some
        ],
        "significance": list(significances(judged, panels[SLF.name])) if SLF.name in panels else [],
    }  # fmt: skip


def clips_named(result: Mapping[str, Any]) -> list[str]:
    """The clips that a result names: of galleries, and of training faces that portraits are nearest to."""
    nearest = [copying["nearest"] for row in result["systems"] for copying in row.get("copying", {}).values()]
    found = [clip_id for gallery in result["galleries"].values() for clip_id in gallery["clip_ids"]]
    return sorted({*found, *(clip_id for one in nearest for pair in one.items() for clip_id in pair)})


def usual_recognisers(families: Sequence[Family]) -> list[Recogniser]:
    """Those by which these families are judged where nobody says: dlib; where there may be copies, VGG-Face if it is
    here."""
    asked = [recogniser_of_features() if family.has_prior else recogniser("dlib") for family in families]
    return list({one.key: one for one in asked}.values())


def _all_ranks(panels: Any) -> list[int]:
    return sorted({k for panel in panels for k in panel.ranks})


def _drawn(family: Family, faces: Faces, drawings: Sequence["Drawing"]) -> Iterator[tuple[Key, Pictures]]:
    """The portraits of one family, row by row."""
    from evaluation.portraits import digest

    for key, group in rows_of(drawings).items():
        passed = leaning_words(key.system, key.exclusion)
        more = {
            "cond_scale": key.cond_scale,
            "exclusion": key.exclusion,
            "image_guide": system_named(key.system).image_guide,
            "checkpoints": group[0].about["checkpoints"],
            "portraits": digest(group),
            "untrained": sorted({one for drawing in group for one in drawing.about.get("untrained", ())}),
        }
        yield (
            key,
            Pictures(
                key.system,
                ", ".join(filter(None, (f"conditional scale {key.cond_scale:g}", passed))),
                [drawing.clip_id for drawing in group],
                partial(_read_drawn, group, faces.side),
                retrieval=[one.about.get("retrieval") or {} for one in group] if family.has_prior else (),
                more=more,
            ),
        )


def references(faces: Faces, both: Sequence[Gallery], rows: Mapping[Key, Pictures]) -> Iterator[Pictures]:
    """Pictures that no model drew, of the galleries' speakers. rows: of the portraits that they stand beside."""
    by_name = {gallery.name: gallery.clips for gallery in both}
    same = by_name[SAME_FRAME]
    first = list(same.values())
    if another := by_name.get(ANOTHER_VIDEO):
        own, others = [same[speaker] for speaker in another], list(another.values())
        about = "true faces of another video: as far as the recogniser can go"
        yield Pictures("another video", about, own, partial(_read_faces, faces, others), [SAME_FRAME], False)
        about = "the true faces: as far as the recogniser can go among other videos"
        only = [ANOTHER_VIDEO, OTHER_IMAGES]
        yield Pictures("true face", about, own, partial(_read_faces, faces, own), only, False, True)
    if any(one.more["image_guide"] for one in rows.values()):
        about = "the 8 x 8 guide, enlarged: what super-resolution starts from"
        yield Pictures("enlarged guide", about, first, partial(_read_guides, faces, first))
    if len(faces.records.held_out):
        others_rows = evenly(faces.records.held_out, AVERAGED_FACES)
        total = np.zeros((faces.side, faces.side, 3))
        faces.look(others_rows, lambda some: _add(total, some), lambda n: None)
        average = np.rint(total / len(others_rows)).astype(np.uint8)
        about = f"the mean of {len(others_rows)} faces of other speakers, the same for everybody"
        yield Pictures("average face", about, first, lambda part: np.repeat(average[None], len(first[part]), 0))
    yield from _retrieved_faces(faces, rows)


def _retrieved_faces(faces: Faces, rows: Mapping[Key, Pictures]) -> Iterator[Pictures]:
    """The faces that portraits leaned on, as if they were the portraits: what copying would get. Once an exclusion."""
    known = training_rows(faces)
    done: set[str | None] = set()
    for key, one in rows.items():
        pairs = [
            (clip_id, known[prior])
            for clip_id, told in zip(one.clip_ids, one.retrieval, strict=bool(one.retrieval))
            if (prior := told.get("clip_id") or "") in known
        ]
        if pairs and key.exclusion not in done:
            done.add(key.exclusion)
            clip_ids, priors = [clip_id for clip_id, _ in pairs], np.array([row for _, row in pairs], np.uint64)
            about = f"the retrieved faces themselves, {key.exclusion} excluded: what copying would get"
            read = partial(_read_rows, faces, priors)
            yield Pictures("retrieved face", about, clip_ids, read, more={"exclusion": key.exclusion})


def significances(judged: Mapping[Key, Judged], panel: Panel) -> Iterator[dict[str, Any]]:
    """The SLF paper's comparisons, as far as both systems were drawn, in each gallery and by each recogniser: where
    both were drawn at the same scale, and each at its best."""
    rows: dict[str, dict[float, Judged]] = {}
    for key, one in judged.items():
        rows.setdefault(key.system, {})[key.cond_scale] = one
    for asked in COMPARISONS:
        if asked.all in rows and asked.without in rows:
            for gallery in panel.galleries:
                for by in panel.recognisers:
                    where = (gallery.name, by.key)
                    yield _significance(asked, rows[asked.all], rows[asked.without], where, len(gallery))


def _significance(
    asked: Comparison,
    everything: Mapping[float, Judged],
    without: Mapping[float, Judged],
    where: tuple[str, str],
    size: int,
) -> dict[str, Any]:
    best, other = best_scale(everything, where), best_scale(without, where)
    compared = partial(_compared, where=where, size=size)
    return {
        **asdict(asked),
        "gallery": where[0],
        "recogniser": where[1],
        "at_equal_scales": [
            {"scale": scale, **compared(everything[scale], without[scale])} for scale in everything if scale in without
        ],
        "at_best": {"scale_all": best, "scale_without": other, **compared(everything[best], without[other])},
    }


def best_scale(rows: Mapping[float, Judged], where: tuple[str, str]) -> float:
    """The scale of the highest recall at 1; of equal ones at 3, 5 and 10, and of those that are equal in all the
    smallest."""

    def hits(scale: float) -> list[int]:
        return [-rows[scale].found[where].hits(k) for k in WEIGHTS]

    return min(rows, key=lambda scale: (*hits(scale), scale))


def _compared(one: Judged, other: Judged, where: tuple[str, str], size: int) -> dict[str, Any]:
    """Significance over the clips that both were asked for, paired, people drawn anew whole."""
    mine, theirs = (
        {
            clip: place
            for clip, place in zip(row.pictures.clip_ids, row.found[where].place.tolist(), strict=True)
            if place
        }
        for row in (one, other)
    )
    clips = [clip for clip in mine if clip in theirs]
    speakers = [speaker_of(clip) for clip in clips]
    return asdict(compare([mine[clip] for clip in clips], [theirs[clip] for clip in clips], size, speakers))


def enlarged(pictures: np.ndarray, size: int = 128) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N, size, size, 3) uint8, bicubic."""
    import cv2

    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in pictures])


def _read_drawn(drawings: Sequence["Drawing"], side: int, part: slice) -> np.ndarray:
    """Portraits, enlarged to the side at which they are judged."""
    from evaluation.portraits import read_picture

    pictures = [read_picture(drawing.picture) for drawing in drawings[part]]
    return np.stack([one if len(one) == side else enlarged(one[None], side)[0] for one in pictures])


def _read_faces(faces: Faces, clip_ids: Sequence[str], part: slice) -> np.ndarray:
    return _read_rows(faces, faces.rows_of(clip_ids), part)


def _read_rows(faces: Faces, rows: np.ndarray, part: slice) -> np.ndarray:
    return faces.read_rows(rows[part], [faces.picture])[faces.picture]


def _read_guides(faces: Faces, clip_ids: Sequence[str], part: slice) -> np.ndarray:
    return enlarged(faces.read_rows(faces.rows_of(clip_ids[part]), ["guide"])["guide"], faces.side)


def _add(total: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Add faces to their sum; nothing of each is kept."""
    total += faces.sum(0, dtype=np.float64)
    return {}


def _to_look_at(
    faces: Faces,
    searched: Sequence[Gallery],
    pictures: Sequence[Pictures],
    attributes: AttributeJudge | None,
    fid: Fid | None,
) -> int:
    """Pictures, about: training faces are known when they are looked at."""
    clips = {clip_id for one in pictures for clip_id in one.clip_ids}
    every = {clip_id for gallery in searched for some in gallery.faces.values() for clip_id in some}
    real = len(evenly(np.array(list(faces.rows.values())), FID_FACES)) if fid else 0
    return len(clips | every) + real + (len(clips) if attributes else 0) + sum(len(one.clip_ids) for one in pictures)


class _Counted:
    """Tells a person how many pictures were looked at."""

    def __init__(self, progress: Progress | None):
        self._progress, self._done, self._total = progress, 0, 0

    def expect(self, pictures: int) -> None:
        self._total += pictures

    def __call__(self, pictures: int, what: str) -> None:
        self._done += pictures
        self._total = max(self._total, self._done)
        if self._progress:
            self._progress(self._done, self._total, what)


def _check_origin(drawings: Sequence["Drawing"]) -> None:
    origin: dict[str, Any] = {}
    for key, group in rows_of(drawings).items():
        clip_ids = [drawing.clip_id for drawing in group]
        if twice := [one for one, other in pairwise(clip_ids) if one == other]:
            raise VoxportraitError(
                f"there are two portraits of {twice[0]} by {key.system} at scale {key.cond_scale:g}: judge folder by "
                "folder"
            )
    for drawing in drawings:
        if origin.setdefault(drawing.system, drawing.about["checkpoints"]) != drawing.about["checkpoints"]:
            raise VoxportraitError(
                f"portraits of {drawing.system} come from different checkpoints: draw all its scales again"
            )
