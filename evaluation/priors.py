"""On whose faces portraits may lean: a store's, by its own search or by what the codec says of its clips, or an
export's.

    portraitist = leaning(portraitist, store=store, policy=Policy(require_consent=True))

A store is searched by its constituent `speech_query` where the very encoder of the codec made that; otherwise, and of
an export, the codec hears all training clips once, and what it heard is kept in the runs. Nobody who was forgotten is
leaned on, and nobody whom the policy does not allow.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from featurestore.conditioning import NO_MATRIX
from featurestore.errors import UsageError, VoxportraitError, choose
from featurestore.feed import Feed
from featurestore.loader import Loader
from featurestore.policy import Policy
from featurestore.records import Records
from training.latent.encoding import ScaledCodec
from training.latent.portraitist import EXCLUSION, LatentPortraitist
from training.latent.priors import EncodedPriors, Prior, Priors
from training.latent.retrieval import EXCLUSIONS

if TYPE_CHECKING:
    from featurestore.search import Space
    from featurestore.store import Store
    from training.portraitist import AnyPortraitist

QUERY, PICTURES = "speech_query", ("face", "bottom")
NULL = "none"
"""In place of an exclusion: nobody's face."""
SAME = 0.999
"""Cosine of two queries of one clip from which on one encoder made both: they are stored with half precision."""

Told = Callable[[str], None]


def leaning(
    portraitist: "AnyPortraitist",
    store: "Store | None" = None,
    export: Path | None = None,
    exclusion: str | None = None,
    policy: Policy = Policy(),
    null: bool = False,
    told: Told = lambda line: None,
) -> "AnyPortraitist":
    """A portraitist that knows on whose faces to lean, the same one where its system leans on nobody's.

    store, export: whose training clips; both: the export's, as far as the store still has them. exclusion: of
    `retrieval.EXCLUSIONS`. policy: who may be leaned on. null: on the learned null prior instead. told: is told where
    priors come from. Raises UsageError where that is not said, or nothing is to be said of this system.
    """
    if not isinstance(portraitist, LatentPortraitist) or not portraitist.leans:
        if exclusion or null:
            raise UsageError(f"{portraitist.system} leans on no retrieved face: leave --exclusion and --no-prior out")
        return portraitist
    chosen = exclusion or EXCLUSION
    if null:
        return portraitist.leaning(None, chosen)
    if export is not None:
        return portraitist.leaning(_of_export(portraitist, export, store, policy, told), chosen)
    if store is None:
        raise UsageError(
            f"{portraitist.system} leans on a retrieved face: say where to look for one, --store or --export with the "
            "clips that it was trained on, or draw on the null prior with --no-prior"
        )
    return portraitist.leaning(_of_store(portraitist, store, policy, told), chosen)


def leaning_by(portraitist: "AnyPortraitist", exclusions: Sequence[str], **where: Any) -> list["AnyPortraitist"]:
    """The portraitist for each exclusion, `NULL` for the null prior; one where its system leans on nobody's face.

    where: of `leaning`.
    """
    if not isinstance(portraitist, LatentPortraitist) or not portraitist.leans:
        return [portraitist]
    named = [choose("exclusion", one, (*EXCLUSIONS, NULL)) for one in exclusions]
    priors = None
    if set(named) - {NULL}:
        found = leaning(portraitist, **where)
        assert isinstance(found, LatentPortraitist)
        priors = found.priors
    return [portraitist.leaning(None) if one == NULL else portraitist.leaning(priors, one) for one in named]


def _of_export(
    portraitist: LatentPortraitist, export: Path, store: "Store | None", policy: Policy, told: Told
) -> Priors:
    from featurestore.exports import ExportRecords

    trained = _as_trained(portraitist)
    records = ExportRecords(export, portraitist.layout, PICTURES, **trained)
    if store is not None:
        from featurestore.exporting import check

        check(store, records)
    allowed = None
    if not policy.takes_all:
        asked = ExportRecords(export, portraitist.layout, PICTURES, **{**trained, "policy": policy})
        allowed = set(asked.clip_ids(asked.rows))
    return EncodedPriors.of(records, portraitist.codec, allowed, told)


def _of_store(portraitist: LatentPortraitist, store: "Store", policy: Policy, told: Told) -> Priors:
    from featurestore import snapshots
    from featurestore.store_records import StoreRecords

    space = _space(store, portraitist.codec)
    if space is not None:
        return StorePriors(store, space, portraitist.codec, policy)
    name = portraitist.about[-1]["data"].get("snapshot")
    known = name in [row["name"] for row in snapshots.listed(store)]
    told(
        f"{store.place.shown} has no {QUERY} by this codec's encoder: the codec hears its clips, unless it did. For "
        f"the store's own search: voxportrait export-speech, then voxportrait fill --constituents {QUERY}"
    )
    trained, snapshot = _as_trained(portraitist), name if known else None
    records = StoreRecords(store, portraitist.layout, PICTURES, snapshot=snapshot, **trained)
    allowed = None
    if policy.where:
        table = store.table("clips").to_table(columns=["clip_id"], filter=policy.where)
        allowed = set(table["clip_id"].to_pylist())
    return EncodedPriors.of(records, portraitist.codec, allowed, told)


def _as_trained(portraitist: LatentPortraitist) -> dict[str, Any]:
    """By what the clips were chosen that the stages learned from: so that what was encoded then is found again."""
    data = portraitist.about[-1]["data"]
    policy = data.get("policy", {})
    return {
        "missing": data.get("missing", "zero"),
        "policy": Policy(policy.get("require_consent", False), tuple(policy.get("licences", ()))),
    }


def _space(store: "Store", codec: ScaledCodec) -> "Space | None":
    """The queries of a store, where this very encoder made them: one of them is made again."""
    from featurestore.catalogue import CATALOGUE
    from featurestore.schema import decode
    from featurestore.search import Space

    try:
        space = Space.of(store, QUERY)
    except UsageError:
        return None
    condition = f"{QUERY}_maker = {space.maker['id']} AND speech_maker IS NOT NULL"
    if codec.frozen.preset.fused or "speech_maker" not in space.dataset.schema.names:
        return None
    one = space.dataset.scanner(columns=["speech", QUERY], filter=condition, limit=1).to_table()
    if not len(one):
        return None
    speech, stored = (decode(one[key], CATALOGUE[key].shape, CATALOGUE[key].dtype) for key in ("speech", QUERY))
    _, query = codec.hear({"speech": torch.from_numpy(np.array(speech))})
    made = query[0].cpu().numpy()
    cosine = float(made @ stored[0].astype(np.float32)) / max(float(np.linalg.norm(stored[0].astype(np.float32))), 1e-9)
    return space if cosine > SAME else None


class StorePriors:
    """The training clips of a store, found by its search. policy: who may be leaned on."""

    def __init__(self, store: "Store", space: "Space", codec: ScaledCodec, policy: Policy):
        from featurestore.store_records import StoreRecords

        self.lender, self._space, self._codec, self._policy = store, space, codec, policy
        self._records: Records = StoreRecords(store, NO_MATRIX, PICTURES, missing="zero", policy=policy)
        self._where = "split = 'train' AND face_maker IS NOT NULL AND face_parts_maker IS NOT NULL"

    def find(self, queries: np.ndarray, clip_ids: Sequence[str], exclusion: str) -> list[Prior | None]:
        """See `Priors.find`."""
        without = [self._rows_like(clip_id, EXCLUSIONS[exclusion]) for clip_id in clip_ids]
        hits = self._space.nearest(queries, 1, self._where, self._policy, without=without)
        rows, scores = hits.rows[:, 0], hits.scores[:, 0]
        names = dict(zip(rows.tolist(), self._names(rows), strict=True))
        return [
            Prior(names[row], float(score), row) if row >= 0 else None
            for row, score in zip(rows.tolist(), scores, strict=True)
        ]

    def faces(self, priors: Sequence[Prior]) -> tuple[Tensor, Tensor]:
        """Raises VoxportraitError where one was forgotten meanwhile."""
        rows = np.array([prior.place for prior in priors], np.uint64)
        feed = Feed(Loader(self._records, len(rows), remainder="keep"), NO_MATRIX, self._codec.frozen.device)
        for batch in feed.loader.in_order(rows):
            if len(batch) < len(rows):
                break
            fed = feed.move(batch)
            face, bottom = (self._codec.encode(fed.pictures[name] * 2 - 1).half().float() for name in PICTURES)
            return face, bottom
        raise VoxportraitError("somebody to lean on was forgotten meanwhile: run it again")

    def _names(self, rows: np.ndarray) -> list[str]:
        known = rows[rows >= 0].astype(np.uint64)
        names = iter(self._records.clip_ids(known))
        return [next(names) if row >= 0 else "" for row in rows]

    def _rows_like(self, clip_id: str, depth: int) -> list[int]:
        """The rows of clips that have so many parts of their ids in common with this one."""
        columns = ("dataset", "speaker_id", "video_id")
        parts = dict(zip(columns[:depth], clip_id.split("/"), strict=False))
        parts |= {"clip_id": clip_id} if depth > len(columns) else {}
        condition = " AND ".join(f"{name} = '{_quoted(value)}'" for name, value in parts.items())
        found = self._space.dataset.scanner(columns=[], filter=condition, with_row_id=True).to_table()
        return found["_rowid"].to_pylist()


def _quoted(text: str) -> str:
    return text.replace("'", "''")
