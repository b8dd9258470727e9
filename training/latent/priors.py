"""The training clips whose faces portraits lean on, when portraits are drawn.

priors = EncodedPriors.of(records, portraitist.codec)
found = priors.find(queries, ["vox2/id00017/video/00001"], "identity")
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import VoxportraitError
from featurestore.records import Records
from featurestore.tensor_file import TensorFile
from training.latent.encoding import ScaledCodec, Told, encodings
from training.latent.retrieval import nearest

if TYPE_CHECKING:
    from featurestore.store import Store


@dataclass(frozen=True)
class Prior:
    """A training clip that is leaned on. similarity: cosine of its speech query and the asking one's; place: whatever
    finds its face again."""

    clip_id: str
    similarity: float
    place: int


class Priors(Protocol):
    """Where faces to lean on are found. lender: the store that the people are in, as far as it is known."""

    @property
    def lender(self) -> "Store | None": ...

    def find(self, queries: np.ndarray, clip_ids: Sequence[str], exclusion: str) -> list[Prior | None]:
        """Of each of (B, QUERY) queries the nearest clip that `exclusion` (`retrieval.EXCLUSIONS`) leaves, None where
        it leaves none. clip_ids: whose the queries are."""
        ...

    def faces(self, priors: Sequence[Prior]) -> tuple[Tensor, Tensor]:
        """The latents of the faces and of their bottoms, (B, c, h, w) each, as stages have them."""
        ...


class EncodedPriors:
    """The clips of an encoded file: see `encoding`. clip_ids: of those that may be leaned on, in the order of `lines`,
    their places in the file."""

    def __init__(
        self, file: TensorFile, lines: np.ndarray, clip_ids: Sequence[str], device: torch.device, lender: "Store | None"
    ):
        self.file, self.lines, self.clip_ids, self.device, self.lender = file, lines, list(clip_ids), device, lender
        self._queries = file.arrays["query"][lines].astype(np.float32)

    @classmethod
    def of(
        cls,
        records: Records,
        codec: ScaledCodec,
        allowed: Collection[str] | None = None,
        told: Told = lambda line: None,
    ) -> "EncodedPriors":
        """The clips that records give for training, as this codec has them; they are encoded where they are not yet.

        allowed: ids of those that may be leaned on, all where it is None. Raises VoxportraitError where none is left.
        """
        _, file = encodings(records, codec.frozen, told)
        held = file.arrays["row_id"]
        order = np.argsort(held)
        ids = records.clip_ids(records.rows)
        here = [row for row, one in zip(records.rows.tolist(), ids, strict=True) if _may(one, allowed)]
        found = order[np.minimum(np.searchsorted(held, here, sorter=order), len(held) - 1)]
        lines = found[held[found] == np.array(here, np.uint64)]
        if not len(lines):
            raise VoxportraitError(
                "there is nobody to lean on: no training clip that may be used has speech, a face and its parts"
            )
        names = records.clip_ids(held[lines])
        return cls(file, lines, names, codec.frozen.device, getattr(records, "store", None))

    def find(self, queries: np.ndarray, clip_ids: Sequence[str], exclusion: str) -> list[Prior | None]:
        found = nearest(queries, self._queries, clip_ids, self.clip_ids, exclusion, self.device)
        return [
            Prior(self.clip_ids[place], float(similarity), int(self.lines[place])) if place >= 0 else None
            for place, similarity in zip(found.places.tolist(), found.similarity, strict=True)
        ]

    def faces(self, priors: Sequence[Prior]) -> tuple[Tensor, Tensor]:
        """Raises VoxportraitError where the file was removed since, as forgetting somebody in it does."""
        if self.file.is_removed():
            raise VoxportraitError(f"{self.file.path} was removed, as forgetting somebody in it does: run it again")
        lines = [prior.place for prior in priors]
        face, bottom = (
            torch.from_numpy(self.file.arrays[name][lines]).to(self.device).float()
            for name in ("face_latent", "bottom_latent")
        )
        return face, bottom


def _may(clip_id: str, allowed: Collection[str] | None) -> bool:
    return bool(clip_id) and (allowed is None or clip_id in allowed)
