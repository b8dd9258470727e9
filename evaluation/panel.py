"""The judges of one family of systems, with all that they compare portraits with: made ready once, then asked of each
row of portraits. Pictures are looked at a few hundred at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evaluation.copying import (
    MOST,
    Priors,
    Trained,
    chosen_rows,
    computed_faces,
    copying,
    retrieved,
    stored_faces,
    training_rows,
)
from evaluation.faces import AT_ONCE, LABELS, Faces, joined
from evaluation.families import Family
from evaluation.fid import Fid
from evaluation.gallery import Gallery
from evaluation.judges import AttributeJudge, Recogniser
from evaluation.likeness import feature_distances
from evaluation.metrics import Found, decade, mean, psnr, root_mean_square, share_of, ssim
from evaluation.truth import Groups, Labels, groups_of, is_known, stored_of, truth_of

FID_FACES = 10_000
"""True faces that FID compares with, at most: evenly of the split's."""

JUDGED, TRUTH, STORED = "the same judge on the true face", "the corpus's own", "the store's label"

WITHIN = 10
"""Years within which Fine-portraitist's paper counts an age as right."""

MEASURES = ("gender", "ethnicity", "age_group", "age_within_10", "age_rmse")

Told = Callable[[int, str], None]
"""Called with how many pictures were looked at, and what comes."""


@dataclass(frozen=True)
class Pictures:
    """Pictures that are judged. clip_ids: of each, the clip whose face it is a likeness of; read: gives the pictures of
    a part of them, (n, S, S, 3) uint8; only: the galleries that they are searched in, all where it is empty.
    is_drawn: whether they are likenesses, for which PSNR, SSIM and FID say something; is_truth: whether they are the
    true faces themselves. retrieval: what each leaned on ({"clip_id", "similarity", "exclusion"}), where it is known;
    more: what else the row says."""

    name: str
    about: str
    clip_ids: Sequence[str]
    read: Callable[[slice], np.ndarray]
    only: Sequence[str] = ()
    is_drawn: bool = True
    is_truth: bool = False
    retrieval: Sequence[Mapping[str, Any]] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What the judges said of pictures. found: (gallery, recogniser's key) -> where each speaker was found; attributes:
    attribute -> (N,); likeness: `psnr`, `ssim`, `fid`, `features`, `prior`, `copying`, as the row has them."""

    pictures: Pictures
    found: Mapping[tuple[str, str], Found]
    attributes: Labels
    likeness: Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """All that pictures are judged by, and what is known of the people that they are likenesses of.

    seen: recogniser's name -> (C, D), the true faces; place: clip -> its row in that. number: clip -> its number among
    all clips that pictures are likenesses of; judged, truth: attribute -> by that number; groups: by grouping. real:
    FID's features of true faces. priors, trained: what copying is looked for in, trained by recogniser's name.
    """

    family: Family
    ranks: Sequence[int]
    faces: Faces
    galleries: Sequence[Gallery]
    recognisers: Sequence[Recogniser]
    seen: Mapping[str, np.ndarray]
    place: Mapping[str, int]
    attributes: AttributeJudge | None
    number: Mapping[str, int]
    judged: Labels
    truth: Labels
    groups: Mapping[str, Groups]
    fid: Fid | None
    real: np.ndarray
    priors: Priors
    trained: Mapping[str, Trained]

    @classmethod
    def ready(
        cls,
        family: Family,
        ranks: Sequence[int],
        faces: Faces,
        galleries: Sequence[Gallery],
        pictures: Sequence[Pictures],
        recognisers: Sequence[Recogniser],
        attributes: AttributeJudge | None,
        fid: Fid | None,
        told: Told,
        most: int = MOST,
    ) -> "Panel":
        """most: training faces that are looked at for copying."""
        clips = sorted({clip_id for one in pictures for clip_id in one.clip_ids})
        every = sorted({*clips, *(c for gallery in galleries for some in gallery.faces.values() for c in some)})
        drawn = faces.rows_of(clips)
        judged = faces.look(drawn, attributes.judge, lambda n: told(n, "ages")) if attributes else {}
        truth = truth_of(faces, clips)
        untrained = attributes.untrained if attributes else ()
        trusted = {key: values for key, values in judged.items() if key not in untrained}
        sources = {TRUTH: truth, JUDGED: trusted, STORED: stored_of(faces, clips)}
        real = evenly(np.array(list(faces.rows.values()), np.uint64), FID_FACES if fid else 0)
        priors, trained = _trained(family, faces, pictures, recognisers, most, told)
        return cls(
            family,
            ranks,
            faces,
            galleries,
            recognisers,
            faces.look(faces.rows_of(every), lambda some: embed(some, recognisers), lambda n: told(n, "true faces")),
            {clip_id: place for place, clip_id in enumerate(every)},
            attributes,
            {clip_id: number for number, clip_id in enumerate(clips)},
            judged,
            truth,
            groups_of(sources, len(clips)),
            fid,
            faces.look(real, lambda some: {"": fid.features(some)}, lambda n: told(n, "FID"))[""]
            if fid
            else np.empty(0),
            priors,
            trained,
        )

    def judge(self, one: Pictures, told: Told) -> Judged:
        """Look at pictures."""
        parts = []
        for first in range(0, len(one.clip_ids), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            parts.append(self._look(one, part))
            told(len(one.clip_ids[part]), one.name)
        saw = joined(parts)
        embedded = {by.name: saw[f"seen {by.name}"] for by in self.recognisers}
        found = {
            (gallery.name, by.key): gallery.find(
                embedded[by.name], one.clip_ids, self.seen[by.name], self.place, by.metric
            )
            for gallery in self.galleries
            for by in self.recognisers
            if gallery.name in (one.only or [gallery.name])
        }
        likeness: dict[str, Any] = {"psnr": None, "ssim": None, "fid": None}
        if one.is_drawn:
            likeness |= {name: asdict(mean(saw[name])) for name in ("psnr", "ssim")}
            likeness["fid"] = self.fid.judge(saw["fid"], self.real) if self.fid else None
        own = [self.place[clip_id] for clip_id in one.clip_ids]
        if not one.is_truth:
            likeness["features"] = {
                name: feature_distances(vectors, self.seen[name][own]) for name, vectors in embedded.items()
            }
        if one.retrieval:
            likeness |= self._copying(one, embedded, own)
        return Judged(one, found, {key: saw[key] for key in LABELS if key in saw}, likeness)

    def _look(self, one: Pictures, part: slice) -> dict[str, np.ndarray]:
        pictures = one.read(part)
        saw = {f"seen {name}": vectors for name, vectors in embed(pictures, self.recognisers).items()}
        if self.attributes:
            saw |= self.attributes.judge(pictures)
        if one.is_drawn:
            truths = self.faces.read_rows(self.faces.rows_of(one.clip_ids[part]), [self.faces.picture])
            pairs = list(zip(pictures, truths[self.faces.picture], strict=True))
            saw |= {name: np.array([measure(*pair) for pair in pairs]) for name, measure in LIKENESS.items()}
            if self.fid:
                saw["fid"] = self.fid.features(pictures)
        return saw

    def _copying(self, one: Pictures, embedded: Mapping[str, np.ndarray], own: Sequence[int]) -> dict[str, Any]:
        leaned_on = [told.get("clip_id") for told in one.retrieval]
        similarities = [told.get("similarity") for told in one.retrieval]
        return {
            "prior": retrieved(one.clip_ids, leaned_on, similarities, self.priors.place),
            "copying": {
                by.key: copying(
                    embedded[by.name],
                    self.seen[by.name][own],
                    one.clip_ids,
                    leaned_on,
                    self.priors,
                    self.trained[by.name],
                    by,
                )
                for by in self.recognisers
            },
        }

    def row(self, judged: Judged) -> dict[str, Any]:
        """A row of the result."""
        attributes = self._attributes_of(judged)
        return {
            "name": judged.pictures.name,
            "about": judged.pictures.about,
            "family": self.family.name,
            "n": len(judged.pictures.clip_ids),
            "untrained": [],
            "recall": self._recall(judged.found),
            **({"attributes": attributes} if attributes else {}),
            **judged.likeness,
            "groups": dict(self._groups_of(judged)),
            **judged.pictures.more,
        }

    def _recall(self, found: Mapping[tuple[str, str], Found]) -> dict[str, dict[str, dict[str, Any]]]:
        """gallery -> recogniser -> k -> recall, of those who are in the gallery."""
        recall: dict[str, dict[str, dict[str, Any]]] = {}
        for (gallery, key), one in found.items():
            recall.setdefault(gallery, {})[key] = {
                str(k): asdict(value) for k, value in one.recalls(self.ranks).items()
            }
        return recall

    def _groups_of(self, judged: Judged) -> Iterator[tuple[str, Any]]:
        for grouping, groups in self.groups.items():
            mine = np.array([groups.names[self.number[clip_id]] for clip_id in judged.pictures.clip_ids])
            yield (
                grouping,
                {
                    name: {
                        "n": int((mine == name).sum()),
                        "recall": self._recall({key: found.of(mine == name) for key, found in judged.found.items()}),
                    }
                    for name in sorted(set(mine.tolist()) - {""})
                },
            )

    def _attributes_of(self, judged: Judged) -> dict[str, Any]:
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
                    near = np.abs(seen - true) <= WITHIN
                    found.setdefault("age_within_10", {})[against] = asdict(share_of(near))
                    found.setdefault("age_rmse", {})[against] = asdict(root_mean_square(seen - true))
                else:
                    found.setdefault(key, {})[against] = asdict(share_of(seen == true))
        return {key: found[key] for key in MEASURES if key in found}

    def about_attributes(self, judge: AttributeJudge) -> dict[str, Any]:
        """Who judged, which of the judges are untrained, which are not there and why, and what is compared with."""
        against = {"judged": JUDGED} | ({"truth": TRUTH} if self.truth else {})
        return {
            "judge": judge.name,
            "untrained": list(judge.untrained),
            "absent": dict(judge.absent),
            "against": against if self.judged else {},
        }

    def about(self) -> dict[str, Any]:
        """How this family is judged."""
        return {
            "picture": self.family.picture,
            "side": self.family.side,
            "ranks": list(self.ranks),
            "galleries": [gallery.name for gallery in self.galleries],
            **(
                {"training_faces": {name: {"n": one.count, "about": one.about} for name, one in self.trained.items()}}
                if self.trained
                else {}
            ),
        }


LIKENESS = {"psnr": psnr, "ssim": ssim}
"""Of two pictures."""


def embed(pictures: np.ndarray, recognisers: Iterable[Recogniser]) -> dict[str, np.ndarray]:
    """Recogniser's name -> (N, D): one that is there by two metrics looks once."""
    return {name: one.embed(pictures) for name, one in {one.name: one for one in recognisers}.items()}


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly; none where it is 0."""
    return rows[:: max(1, -(-len(rows) // most))] if most else rows[:0]


def _trained(
    family: Family,
    faces: Faces,
    pictures: Sequence[Pictures],
    recognisers: Sequence[Recogniser],
    most: int,
    told: Told,
) -> tuple[Priors, dict[str, Trained]]:
    """The retrieved faces, and the training faces by recogniser: as the store has them, else as they are looked at."""
    if not family.has_prior:
        return Priors({}, {}), {}
    asked = sorted({prior for one in pictures for told in one.retrieval if (prior := told.get("clip_id"))})
    stored = {by.name: stored_faces(faces, by) for by in recognisers}
    rows, all_rows = chosen_rows(faces, asked, 0 if all(stored.values()) else most), training_rows(faces)
    seen: dict[str, np.ndarray] = {by.name: np.empty((0, 1)) for by in recognisers}
    if rows:
        numbers = np.array(list(rows.values()), np.uint64)
        seen = faces.look(numbers, lambda some: embed(some, recognisers), lambda n: told(n, "training faces"))
    place = {clip_id: place for place, clip_id in enumerate(rows)}
    return Priors(seen, place), {
        name: one or computed_faces(rows, seen[name], len(all_rows)) for name, one in stored.items()
    }
