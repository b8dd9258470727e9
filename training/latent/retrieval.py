"""The retrieval prior: of all training clips the one whose speech is nearest, whose face a portrait then leans on.

    found = nearest(queries, candidates, clip_ids, candidate_ids, "identity")

Speech is compared by the cosine of the queries Z_s. In training the clips of the query's own identity are no
candidates, or the prior would be the answer (`EXCLUSIONS`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from featurestore.errors import VoxportraitError, choose

EXCLUSIONS = {"clip": 4, "video": 3, "identity": 2}
"""Whose clips are no candidates: those that have so many parts of the query's clip id,
<dataset>/<speaker>/<video>/<utterance>, in common with it."""

AT_ONCE = 1 << 26
"""Cosines that are held at once."""


@dataclass(frozen=True)
class Nearest:
    """Of each of Q queries the nearest candidate. places: (Q,) int64 among the candidates, -1 where there was none;
    similarity: (Q,) float32, their cosine, 0 where there was none."""

    places: np.ndarray
    similarity: np.ndarray


def nearest(
    queries: np.ndarray,
    candidates: np.ndarray,
    clip_ids: Sequence[str],
    candidate_ids: Sequence[str],
    exclusion: str | None,
    device: torch.device | str = "cpu",
    at_once: int = AT_ONCE,
) -> Nearest:
    """The most similar candidate of each query, by one matrix product, in pieces of queries.

    queries (Q, D), candidates (N, D): of any length but 0. clip_ids, candidate_ids: whose they are, "" of nobody: such
    a query finds none, such a candidate is none. exclusion: one of `EXCLUSIONS`; None where no query is a candidate.
    Raises VoxportraitError where a query could find itself.
    """
    if exclusion is None and (themselves := (set(clip_ids) & set(candidate_ids)) - {""}):
        raise VoxportraitError(
            f"{len(themselves)} clips would be searched for among themselves ({min(themselves)}): their own face would "
            f"be their prior; exclude by {', '.join(EXCLUSIONS)}"
        )
    depth = 4 if exclusion is None else EXCLUSIONS[choose("exclusion", exclusion, EXCLUSIONS)]
    askers, owners = _codes(clip_ids, candidate_ids, depth)
    known, there = (torch.from_numpy(np.array([bool(one) for one in ids], bool)) for ids in (clip_ids, candidate_ids))
    pool = _unit(torch.tensor(candidates).to(device))
    owners, there = owners.to(device), there.to(device)
    places = torch.full((len(queries),), -1, dtype=torch.int64)
    similarity = torch.zeros(len(queries))
    size = max(1, at_once // max(1, len(pool)))
    for first in range(0, len(queries) if len(pool) else 0, size):
        piece = slice(first, first + size)
        cosines = _unit(torch.tensor(queries[piece]).to(device)) @ pool.T
        cosines.masked_fill_((askers[piece].to(device)[:, None] == owners) | ~there, -torch.inf)
        best, place = cosines.max(1)
        found = (best > -torch.inf).cpu() & known[piece]
        places[piece] = torch.where(found, place.cpu(), -1)
        similarity[piece] = torch.where(found, best.cpu(), 0.0)
    return Nearest(places.numpy(), similarity.numpy())


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _codes(clip_ids: Sequence[str], candidate_ids: Sequence[str], depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers that are equal where the first `depth` parts of two clips' ids are."""
    numbers: dict[str, int] = {}
    coded = [numbers.setdefault("/".join(one.split("/")[:depth]), len(numbers)) for one in (*clip_ids, *candidate_ids)]
    codes = torch.tensor(coded, dtype=torch.int64)
    return codes[: len(clip_ids)], codes[len(clip_ids) :]
