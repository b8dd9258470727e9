"""The part study of portraits on disk: the same clips drawn with speech and without it, beside the true faces.

    drawings = read_drawings("portraits")
    study_portraits(store, drawings, "one-stage", 1.0, PartLooks())["studies"]

Importable without Lance, Arrow and Ray.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.faces import Faces
from evaluation.families import Key, family_of, rows_of
from evaluation.part_study import LEAST, PARTS, Distances, Within, others, part_study, published
from evaluation.portraits import Drawing, read_picture
from evaluation.truth import groups_of, stored_of, truth_of
from featurestore.errors import UsageError, choose

if TYPE_CHECKING:
    from evaluation.part_looks import PartLooks
    from featurestore.records import Records
    from featurestore.store import Store

AT_ONCE = 64
"""True faces that are read together."""

OTHERS = 2
"""People whose portraits each true face is compared with too: so many of all, and so many of the same gender."""

AGAINST = ("null", "shuffled")
"""What stands for no speech: the condition dropped (pictures at another scale, 0), or the speech of somebody else."""

Told = Callable[[int, int], None]
"""Called with how many pictures were looked at, and of how many."""


def study_portraits(
    source: "Store | Records",
    drawings: Sequence[Drawing],
    system: str | None,
    scale: float | None,
    looks: "PartLooks",
    against: str = "null",
    without: float = 0.0,
    split: str = "test",
    seed: int = 0,
    progress: Told | None = None,
) -> dict[str, Any]:
    """The study of one system's portraits by each measure of `looks`, in everybody and within gender, as JSON.

    source: where the true faces are: a store, or records of the split. system, scale: of the portraits drawn with
    speech; None: the only one there is. against: see `AGAINST`; without: the scale without speech. seed: decides who
    is whose other. Raises UsageError where there are not both kinds of portraits of at least three clips, or where it
    is not said which are meant.
    """
    rows = rows_of(drawings)
    told_by = _chosen(list(rows), system, scale, without if choose("comparison", against, AGAINST) == "null" else None)
    told = {one.clip_id: one for one in rows[told_by]}
    untold: dict[str, Drawing] = {}
    if against == "null":
        key = told_by._replace(cond_scale=without)
        if key not in rows:
            raise UsageError(
                f"{told_by.system} was drawn at {told_by.cond_scale:g} and not at {without:g}, without speech: draw it "
                f"with --scales {without:g},{told_by.cond_scale:g}, or compare with --against shuffled"
            )
        untold = {one.clip_id: one for one in rows[key]}
    clips = sorted(told.keys() & (untold or told).keys())
    if len(clips) < LEAST:
        raise UsageError(f"{len(clips)} clips were drawn both with speech and without it: at least {LEAST} are needed")
    faces = Faces.of(source, split, family_of(told_by.system).picture)
    genders = _genders(faces, clips)
    with_speech = [told[clip] for clip in clips]
    without_speech = [[untold[clip] for clip in clips]] if untold else []
    whose = borrowed(genders, seed)
    sets = [with_speech, *without_speech, *([with_speech[other] for other in row] for row in whose)]
    measured = []
    for number, drawn in enumerate(sets):

        def counted(done: int, before: int = number * len(clips)) -> None:
            if progress:
                progress(before + done, len(sets) * len(clips))

        pairs = zip(_truths(faces, clips), (read_picture(one.picture) for one in drawn), strict=True)
        measured.append(looks.distances(pairs, counted))
    about = {
        "generator": told_by.system,
        "with": f"scale {told_by.cond_scale:g}",
        "without": f"scale {without:g}" if against == "null" else "the speech of somebody else",
        **({"exclusion": told_by.exclusion} if told_by.exclusion else {}),
        "split": split,
        "seed": seed,
        "untrained": sorted({key for one in told.values() for key in one.about.get("untrained", ())}),
    }
    return {
        **about,
        "studies": studies(measured, whose, genders),
        "published": published(),
    }


def borrowed(genders: Sequence[str], seed: int) -> np.ndarray:
    """(2 x OTHERS, N) with whose portraits each of N true faces is compared beside its own: those of others, of all
    people and then of the same gender; -1 where there is nobody."""
    anybody = others(["anybody"] * len(genders), seed, OTHERS)
    return np.concatenate([anybody, others(genders, seed, OTHERS)])


def studies(
    measured: Sequence[Mapping[str, Distances]], whose: np.ndarray, genders: Sequence[str]
) -> list[dict[str, Any]]:
    """A `part_study` of each measure.

    measured: measure -> part -> (N,) distances from the true faces: of the portraits drawn with speech, of those
    without it (where there are none, others' stand for them), and of others', row by row of `borrowed`. genders: (N,),
    "" where it is not known.
    """
    told, of_others = measured[0], measured[len(measured) - len(whose) :]

    def mean(name: str, first: int) -> Distances:
        rows = list(zip(whose, of_others, strict=True))[first : first + OTHERS]
        known = {part: [np.where(row < 0, np.nan, one[name][part]) for row, one in rows] for part in PARTS}
        return {part: np.ma.masked_invalid(values).mean(0).filled(np.nan) for part, values in known.items()}

    found = []
    for name in told:
        anothers, fellows = mean(name, 0), mean(name, OTHERS)
        untold = measured[1][name] if len(measured) > 1 + len(whose) else anothers
        found.append(part_study(told[name], untold, anothers, name, {"gender": Within(genders, fellows)}))
    return found


def _chosen(keys: Sequence[Key], system: str | None, scale: float | None, without: float | None) -> Key:
    """The portraits with speech: of this system and scale, or the only ones; what a retrieval passed over most."""
    found = [
        key
        for key in keys
        if system in (None, key.system)
        and (key.cond_scale == scale if scale is not None else key.cond_scale != without)
    ]
    kinds = {(key.system, key.cond_scale) for key in found}
    if len(kinds) == 1:
        return found[-1]
    there = ", ".join(dict.fromkeys(f"{key.system} at {key.cond_scale:g}" for key in keys))
    raise UsageError(f"which portraits were drawn with speech? Say --system and --scale. There are: {there}")


def _genders(faces: Faces, clips: Sequence[str]) -> list[str]:
    sources = {"corpus": truth_of(faces, clips), "store": stored_of(faces, clips)}
    groups = groups_of(sources, len(clips)).get("gender")
    return list(groups.names) if groups else [""] * len(clips)


def _truths(faces: Faces, clips: Sequence[str]) -> Iterator[np.ndarray]:
    for first in range(0, len(clips), AT_ONCE):
        yield from faces.read(clips[first : first + AT_ONCE])[faces.picture]
