"""Evaluation of drawn portraits: are speakers found again, are they of the right age, gender and ethnicity, and how
close is the picture to the true one?

    result = evaluate(store, read_drawings("demo/portraits"), [recogniser("dlib"), recogniser("arcface", "cosine")])

Beside each system stand references that no model drew: true faces, the enlarged guide, one average face for all.
docs/evaluation.md says what each number is. Works on a store and on an export's records alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.faces import LABELS, Faces, speaker_of
from evaluation.fid import Fid
from evaluation.gallery import ANOTHER_VIDEO, SAME_FRAME, Gallery, galleries
from evaluation.judges import AttributeJudge, Recogniser, recogniser
from evaluation.metrics import (
    RANKS,
    decade,
    mean_likeness,
    psnr,
    ranks,
    recalls_of,
    root_mean_square,
    share_of,
    ssim,
)
from evaluation.significance import COMPARISONS, WEIGHTS, Comparison, compare
from evaluation.truth import Groups, Labels, groups_of, is_known, stored_of, truth_of
from featurestore.conditioning import SYSTEMS
from featurestore.errors import VoxportraitError
from featurestore.records import Records

if TYPE_CHECKING:
    from evaluation.portraits import Drawing
    from featurestore.store import Store

AVERAGED_FACES = 512
"""Faces of other speakers that the average face is made of, at most."""

FID_FACES = 10_000
"""True faces that FID compares with, at most: evenly of the split's."""

JUDGED, TRUTH, STORED = "the same judge on the true face", "the corpus's own", "the store's label"

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what comes now)."""


def evaluate(
    source: "Store | Records",
    drawings: Sequence["Drawing"],
    recognisers: Sequence[Recogniser] | None = None,
    attributes: AttributeJudge | None = None,
    fid: Fid | None = None,
    *,
    split: str = "test",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge each system and scale, and references. JSON-able; docs/evaluation.md has its form.

    source: a store, of whose `split` the portraits are; or records that were opened for that split, whose `held_out`
    gives the average face. recognisers: dlib by L2 where it is None. attributes, fid: not judged where they are None.
    Raises VoxportraitError where portraits of one system come from different checkpoints, a clip is not there, or no
    clip of the split has a face.
    """
    from evaluation.portraits import by_system_and_scale, digest

    _check_origin(drawings)
    recognisers = [recogniser("dlib")] if recognisers is None else list(recognisers)
    drawn = by_system_and_scale(drawings)
    faces = Faces.of(source, split)
    both = galleries(faces.rows, {drawing.clip_id for drawing in drawings})
    has_guide = any(SYSTEMS[system].image_guide for system, _ in drawn)
    portraits = [
        Pictures(
            system, f"conditional scale {scale:g}", [drawing.clip_id for drawing in group], partial(_read_drawn, group)
        )
        for (system, scale), group in drawn.items()
    ]
    beside = list(references(faces, both, has_guide))
    judges = Judges.ready(faces, both, [*portraits, *beside], recognisers, attributes, fid)
    told = _counted(progress, len(portraits) + len(beside))
    judged = [judges.judge(one, told) for one in portraits]
    systems = [
        {
            **row.told(judges),
            "cond_scale": scale,
            "image_guide": SYSTEMS[system].image_guide,
            "checkpoints": group[0].about["checkpoints"],
            "portraits": digest(group),
            "untrained": sorted({key for drawing in group for key in drawing.about.get("untrained", ())}),
        }
        for row, ((system, scale), group) in zip(judged, drawn.items(), strict=True)
    ]
    by_name: dict[str, dict[float, Judged]] = {}
    for (system, scale), row in zip(drawn, judged, strict=True):
        by_name.setdefault(system, {})[scale] = row
    return {
        "galleries": {
            one.name: {"speakers": len(one), "clip_ids": list(one.clips.values()), "about": one.about} for one in both
        },
        "recognisers": {
            one.key: {"name": one.name, "metric": one.metric, "untrained": one.untrained} for one in recognisers
        },
        **({"attributes": judges.about_attributes(attributes)} if attributes else {}),
        "groups": {name: groups.by for name, groups in judges.groups.items()},
        "ranks": [k for k in RANKS if any(k < len(gallery) for gallery in both)],
        "systems": systems,
        "references": [judges.judge(one, told).told(judges) for one in beside],
        "significance": list(significances(by_name, judges)),
    }


@dataclass(frozen=True)
class Pictures:
    """Pictures that are judged. clip_ids: of each, the clip whose face it is a likeness of; read: gives the pictures,
    (N, 128, 128, 3) uint8; only: the galleries that they are searched in, all where it is empty; is_drawn: whether they
    are likenesses, for which PSNR, SSIM and FID say something."""

    name: str
    about: str
    clip_ids: Sequence[str]
    read: Callable[[], np.ndarray]
    only: Sequence[str] = ()
    is_drawn: bool = True


@dataclass(frozen=True)
class Judged:
    """What the judges said of pictures. places: (gallery, recogniser's key) -> (N,) the place at which each speaker was
    found, 0 for one who is not in the gallery; told: attribute -> (N,); likeness: `psnr`, `ssim`, `fid`."""

    pictures: Pictures
    places: Mapping[tuple[str, str], np.ndarray]
    attributes: Labels
    likeness: Mapping[str, Any]

    def told(self, judges: "Judges") -> dict[str, Any]:
        """A row of the result."""
        found = judges.attributes_of(self)
        return {
            "name": self.pictures.name,
            "about": self.pictures.about,
            "n": len(self.pictures.clip_ids),
            "untrained": [],
            "recall": judges.recall(self.places),
            **({"attributes": found} if found else {}),
            **self.likeness,
            "groups": dict(self._groups(judges)),
        }

    def _groups(self, judges: "Judges") -> Iterator[tuple[str, Any]]:
        for grouping, groups in judges.groups.items():
            mine = np.array([groups.names[judges.number[clip_id]] for clip_id in self.pictures.clip_ids])
            yield (
                grouping,
                {
                    name: {
                        "n": int((mine == name).sum()),
                        "recall": judges.recall({key: places[mine == name] for key, places in self.places.items()}),
                    }
                    for name in sorted(set(mine.tolist()) - {""})
                },
            )


@dataclass(frozen=True)
class Judges:
    """All that pictures are judged by, and what is known of the people that they are likenesses of.

    embedded: gallery -> recogniser's name -> (G, D). number: clip -> its number among all clips that pictures are
    likenesses of; judged, truth: attribute -> by that number; groups: by grouping. real: FID's features of true faces.
    """

    faces: Faces
    galleries: Sequence[Gallery]
    recognisers: Sequence[Recogniser]
    embedded: Mapping[str, Mapping[str, np.ndarray]]
    attributes: AttributeJudge | None
    number: Mapping[str, int]
    judged: Labels
    truth: Labels
    groups: Mapping[str, Groups]
    fid: Fid | None
    real: np.ndarray

    @classmethod
    def ready(
        cls,
        faces: Faces,
        both: Sequence[Gallery],
        pictures: Sequence[Pictures],
        recognisers: Sequence[Recogniser],
        attributes: AttributeJudge | None,
        fid: Fid | None,
    ) -> "Judges":
        clips = sorted({clip_id for one in pictures for clip_id in one.clip_ids})
        judged = attributes.judge(faces.read(clips)["target"]) if attributes else {}
        truth = truth_of(faces, clips)
        untrained = attributes.untrained if attributes else ()
        trusted = {key: values for key, values in judged.items() if key not in untrained}
        sources = {TRUTH: truth, JUDGED: trusted, STORED: stored_of(faces, clips)}
        rows = _evenly(np.array(list(faces.rows.values()), np.uint64), FID_FACES if fid else 0)
        parts = [rows[first : first + AVERAGED_FACES] for first in range(0, len(rows), AVERAGED_FACES)]
        return cls(
            faces,
            both,
            recognisers,
            {one.name: _embed(faces.read(list(one.clips.values()))["target"], recognisers) for one in both},
            attributes,
            {clip_id: number for number, clip_id in enumerate(clips)},
            judged,
            truth,
            groups_of(sources, len(clips)),
            fid,
            np.concatenate([fid.features(faces.read_rows(part)["target"]) for part in parts]) if fid else np.empty(0),
        )

    def judge(self, one: Pictures, told: Callable[[str], None]) -> Judged:
        """Look at pictures."""
        told(one.name)
        pictures = one.read()
        embedded, speakers = _embed(pictures, self.recognisers), [speaker_of(clip_id) for clip_id in one.clip_ids]
        places = {
            (gallery.name, by.key): self._places(gallery, by, embedded[by.name], speakers)
            for gallery in self.galleries
            for by in self.recognisers
            if gallery.name in (one.only or [gallery.name])
        }
        likeness: dict[str, Any] = {"psnr": None, "ssim": None, "fid": None}
        if one.is_drawn:
            truths = self.faces.read(one.clip_ids)["target"]
            likeness |= {
                name: asdict(mean_likeness(measure, pictures, truths))
                for name, measure in (("psnr", psnr), ("ssim", ssim))
            }
            likeness["fid"] = self.fid.judge(self.fid.features(pictures), self.real) if self.fid else None
        return Judged(one, places, self.attributes.judge(pictures) if self.attributes else {}, likeness)

    def _places(self, gallery: Gallery, by: Recogniser, embedded: np.ndarray, speakers: Sequence[str]) -> np.ndarray:
        number = {speaker: place for place, speaker in enumerate(gallery.clips)}
        here = np.array([speaker in number for speaker in speakers], bool)
        own = [number[speaker] for speaker in speakers if speaker in number]
        places = np.zeros(len(speakers), np.int64)
        places[here] = ranks(embedded[here], self.embedded[gallery.name][by.name], own, by.metric)
        return places

    def recall(self, places: Mapping[tuple[str, str], np.ndarray]) -> dict[str, dict[str, dict[str, Any]]]:
        """gallery -> recogniser -> k -> recall, of those who are in the gallery."""
        sizes = {gallery.name: len(gallery) for gallery in self.galleries}
        recall: dict[str, dict[str, dict[str, Any]]] = {}
        for (gallery, key), found in places.items():
            values = recalls_of(found[found > 0], sizes[gallery])
            recall.setdefault(gallery, {})[key] = {str(k): asdict(value) for k, value in values.items()}
        return recall

    def attributes_of(self, judged: Judged) -> dict[str, Any]:
        """Name -> {`judged`, `truth`} of pictures on which somebody told attributes, against either."""
        numbers = [self.number[clip_id] for clip_id in judged.pictures.clip_ids]
        found: dict[str, Any] = {}
        for against, known in (("judged", self.judged), ("truth", self.truth)):
            for key in (key for key in LABELS if key in judged.attributes and key in known):
                true, seen = known[key][numbers], judged.attributes[key]
                true, seen = true[is_known(key, true)], seen[is_known(key, true)]
                if not len(true):
                    continue
                if key == "age":
                    same = np.array([decade(a) == decade(b) for a, b in zip(seen, true, strict=True)])
                    found.setdefault("age_group", {})[against] = asdict(share_of(same))
                    found.setdefault("age_rmse", {})[against] = asdict(root_mean_square(seen - true))
                else:
                    found.setdefault(key, {})[against] = asdict(share_of(seen == true))
        return {key: found[key] for key in ("gender", "ethnicity", "age_group", "age_rmse") if key in found}

    def about_attributes(self, judge: AttributeJudge) -> dict[str, Any]:
        """Who judged, which of the judges are untrained, which are not there and why, and what is compared with."""
        against = {"judged": JUDGED} | ({"truth": TRUTH} if self.truth else {})
        return {
            "judge": judge.name,
            "untrained": list(judge.untrained),
            "absent": dict(judge.absent),
            "against": against if self.judged else {},
        }


def references(faces: Faces, both: Sequence[Gallery], has_guide: bool) -> Iterator[Pictures]:
    """Pictures that no model drew, of the galleries' speakers."""
    by_name = {gallery.name: gallery.clips for gallery in both}
    same = by_name[SAME_FRAME]
    first = list(same.values())
    if another := by_name.get(ANOTHER_VIDEO):
        own, others = [same[speaker] for speaker in another], list(another.values())
        about = "true faces of another video: as far as the recogniser can go"
        yield Pictures("another video", about, own, lambda: faces.read(others)["target"], [SAME_FRAME], False)
        about = "the true faces: as far as the recogniser can go among other videos"
        yield Pictures("true face", about, own, lambda: faces.read(own)["target"], [ANOTHER_VIDEO], False)
    if has_guide:
        about = "the 8 x 8 guide, enlarged: what super-resolution starts from"
        yield Pictures("enlarged guide", about, first, lambda: enlarged(faces.read(first)["guide"]))
    if len(faces.records.held_out):
        seen = faces.read_rows(_evenly(faces.records.held_out, AVERAGED_FACES))["target"]
        average = np.rint(seen.mean(0)).astype(np.uint8)
        about = f"the mean of {len(seen)} faces of other speakers, the same for everybody"
        yield Pictures("average face", about, first, lambda: np.repeat(average[None], len(first), 0))


def significances(rows: Mapping[str, Mapping[float, Judged]], judges: Judges) -> Iterator[dict[str, Any]]:
    """The paper's comparisons, as far as both systems were drawn, in each gallery and by each recogniser: where both
    were drawn at the same scale, and each at its best. rows: system -> scale -> what was judged."""
    for asked in COMPARISONS:
        if asked.all in rows and asked.without in rows:
            for gallery in judges.galleries:
                for by in judges.recognisers:
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
        places = rows[scale].places[where]
        return [-int(((places > 0) & (places <= k)).sum()) for k in WEIGHTS]

    return min(rows, key=lambda scale: (*hits(scale), scale))


def _compared(one: Judged, other: Judged, where: tuple[str, str], size: int) -> dict[str, Any]:
    """Significance over the clips that both were asked for, paired, people drawn anew whole."""
    mine, theirs = (
        {clip: place for clip, place in zip(row.pictures.clip_ids, row.places[where].tolist(), strict=True) if place}
        for row in (one, other)
    )
    clips = [clip for clip in mine if clip in theirs]
    speakers = [speaker_of(clip) for clip in clips]
    return asdict(compare([mine[clip] for clip in clips], [theirs[clip] for clip in clips], size, speakers))


def enlarged(guides: np.ndarray, size: int = 128) -> np.ndarray:
    """(N, 8, 8, 3) uint8 -> (N, size, size, 3) uint8, bicubic."""
    import cv2

    return np.stack([cv2.resize(guide, (size, size), interpolation=cv2.INTER_CUBIC) for guide in guides])


def _read_drawn(drawings: Sequence["Drawing"]) -> np.ndarray:
    from evaluation.portraits import read_picture

    return np.stack([read_picture(drawing.picture) for drawing in drawings])


def _embed(pictures: np.ndarray, recognisers: Sequence[Recogniser]) -> dict[str, np.ndarray]:
    """Recogniser's name -> (N, D): one that is there by two metrics looks once."""
    return {name: one.embed(pictures) for name, one in {one.name: one for one in recognisers}.items()}


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // most))] if most else rows[:0]


def _counted(progress: Progress | None, total: int) -> Callable[[str], None]:
    done = -1

    def told(what: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, what)

    return told


def _check_origin(drawings: Sequence["Drawing"]) -> None:
    origin: dict[str, Any] = {}
    for drawing in drawings:
        if origin.setdefault(drawing.system, drawing.about["checkpoints"]) != drawing.about["checkpoints"]:
            raise VoxportraitError(
                f"portraits of {drawing.system} come from different checkpoints: draw all its scales again"
            )
