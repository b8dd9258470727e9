"""Is a portrait the speaker's, or a copy of somebody who was trained on?

Fine-portraitist leans on a retrieved face of its training data. Asked of each portrait: is it nearer to that face than
to the speaker's own, and is that face the nearest of all those that were trained on?
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.faces import Faces, speaker_of
from evaluation.judges import Recogniser
from evaluation.metrics import apart, mean, nearest, share_of

MOST = 4096
"""Training faces that are looked at where the store does not hold what a recogniser says of them."""

STORED = ("dlib",)
"""Recognisers whose stored embeddings are of the same cut as is judged by here: dlib cuts faces out by their landmarks;
DeepFace's take the crop as it is, and extraction shows them a wider one."""

STORED_AT_ONCE = 8192


@dataclass(frozen=True)
class Trained:
    """Faces that models were trained on, as a recogniser sees them. parts: gives (clip ids, (n, D)), anew each time it
    is called; count: how many; about: where they come from."""

    parts: Callable[[], Iterator[tuple[Sequence[str], np.ndarray]]]
    count: int
    about: str


@dataclass(frozen=True)
class Priors:
    """The retrieved faces that are here. seen: recogniser's name -> (P, D); place: clip -> its row in that."""

    seen: Mapping[str, np.ndarray]
    place: Mapping[str, int]


def training_rows(faces: Faces) -> Mapping[str, int]:
    """The clips with a face that models were trained on: those held out from the people who are drawn, or themselves
    where they were trained on."""
    return faces.rows if getattr(faces.records, "split", "") == "train" else faces.others


def chosen_rows(faces: Faces, priors: Sequence[str], most: int) -> dict[str, int]:
    """At most so many training faces, evenly, and every retrieved one: clip -> row."""
    rows = training_rows(faces)
    step = max(1, -(-len(rows) // most)) if most else len(rows) + 1
    evenly = list(rows)[::step] if most else []
    return {clip_id: rows[clip_id] for clip_id in sorted({*evenly, *(one for one in priors if one in rows)})}


def stored_faces(faces: Faces, by: Recogniser) -> Trained | None:
    """The training faces as the store has them, where it has what this recogniser says of them; else None."""
    if faces.store is None or by.name not in STORED:
        return None
    import pyarrow as pa

    from featurestore.catalogue import constituent
    from featurestore.schema import decode
    from pipelines import weights

    entry, wanted = constituent(f"face_embedding_{by.name}"), training_rows(faces)
    dataset = faces.store.table("clips")
    if entry.maker_column not in dataset.schema.names:
        return None
    made = faces.store.table("makers").to_table(columns=["id", "weights", "trained"]).to_pylist()
    same = [row["id"] for row in made if row["weights"] == weights.digest(by.name) and row["trained"] != by.untrained]
    if not same:
        return None
    where = f"{entry.maker_column} IN ({', '.join(map(str, same))})"

    def parts() -> Iterator[tuple[Sequence[str], np.ndarray]]:
        columns = ["clip_id", entry.key]
        for batch in dataset.scanner(columns=columns, filter=where, batch_size=STORED_AT_ONCE).to_batches():
            clip_ids = batch["clip_id"].to_pylist()
            here = [i for i, clip_id in enumerate(clip_ids) if clip_id in wanted]
            if here:
                vectors = decode(batch[entry.key].take(pa.array(here)), entry.shape, entry.dtype)
                yield [clip_ids[i] for i in here], np.asarray(vectors, np.float32)

    known = dataset.to_table(columns=["clip_id"], filter=where)["clip_id"].to_pylist()
    count = sum(clip_id in wanted for clip_id in known)
    about = f"{count:,} of {len(wanted):,} faces, as the store holds them"
    return Trained(parts, count, about) if count else None


def computed_faces(rows: Mapping[str, int], seen: np.ndarray, of: int) -> Trained:
    """Training faces that were looked at now. rows: clip -> row; seen: (T, D) in their order; of: all there are."""
    about = f"{len(rows):,} of {of:,} faces, evenly, and every retrieved one" if len(rows) < of else f"all {of:,} faces"
    return Trained(lambda: iter([(list(rows), seen)] if rows else []), len(rows), about)


def nearest_of(portraits: np.ndarray, trained: Trained, metric: str) -> list[str]:
    """The clip of the training face that each of (N, D) portraits is nearest to; "" where there is none."""
    far, found = np.full(len(portraits), np.inf), [""] * len(portraits)
    for clip_ids, seen in trained.parts():
        rows, distances = nearest(portraits, seen, metric)
        for i in np.flatnonzero(distances < far):
            far[i], found[i] = distances[i], clip_ids[rows[i]]
    return found


def copying(
    portraits: np.ndarray,
    own: np.ndarray,
    clip_ids: Sequence[str],
    leaned_on: Sequence[str | None],
    priors: Priors,
    trained: Trained,
    by: Recogniser,
) -> dict[str, Any]:
    """What a recogniser says of copying. portraits, own: (N, D), of portraits and of the faces they are likenesses of,
    of clips `clip_ids`; leaned_on: the clip that each retrieved.

    {"nearer_to_prior": share of the portraits with a prior that are nearer to it than to the speaker's own face,
    "prior_is_nearest": share whose nearest training face is the prior's, "prior_person_is_nearest": is of the prior's
    person, "nearest": clip -> training clip}; shares None where nobody has a prior that is here.
    """
    found = nearest_of(portraits, trained, by.metric) if trained.count else [""] * len(portraits)
    here = [i for i, prior in enumerate(leaned_on) if prior in priors.place]
    shares: dict[str, Any] = dict.fromkeys(("nearer_to_prior", "prior_is_nearest", "prior_person_is_nearest"))
    if here:
        faces = priors.seen[by.name][[priors.place[str(leaned_on[i])] for i in here]]
        to_prior, to_own = (apart(portraits[here], some, by.metric) for some in (faces, own[here]))
        shares["nearer_to_prior"] = asdict(share_of(to_prior < to_own))
        if trained.count:
            same = [found[i] == leaned_on[i] for i in here]
            person = [found[i] != "" and speaker_of(found[i]) == speaker_of(str(leaned_on[i])) for i in here]
            shares["prior_is_nearest"] = asdict(share_of(np.array(same)))
            shares["prior_person_is_nearest"] = asdict(share_of(np.array(person)))
    return {**shares, "nearest": {clip_id: one for clip_id, one in zip(clip_ids, found, strict=True) if one}}


def retrieved(
    clip_ids: Sequence[str], leaned_on: Sequence[str | None], similarities: Sequence[float | None], here: Mapping
) -> dict[str, Any]:
    """What portraits leaned on: {"n": of them with a prior, "gone": whose prior's face is not here, "own": whose prior
    is of the speaker, "faces": different priors, "similarity": mean cosine of the speech features, or None}."""
    priors = [(clip_id, prior) for clip_id, prior in zip(clip_ids, leaned_on, strict=True) if prior]
    known = [value for value in similarities if value is not None]
    return {
        "n": len(priors),
        "gone": sum(prior not in here for _, prior in priors),
        "own": sum(speaker_of(clip_id) == speaker_of(prior) for clip_id, prior in priors),
        "faces": len({prior for _, prior in priors}),
        "similarity": asdict(mean(known)) if known else None,
    }
