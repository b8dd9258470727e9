"""The nearest clips to a voice or a face: exactly, or through an index where one is built.

space = Space.of(store, "ecapa")
found = space.nearest(vectors, k=10, where="split = 'test'")  # (Q, 192): the column is read once for all of them
similar(store, "vox2/id00012/21Uxsk56VDQ/00001", by="ecapa", k=10).table
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from featurestore.catalogue import CATALOGUE, Constituent
from featurestore.errors import UsageError, choose
from featurestore.leases import STORE, Lease
from featurestore.policy import Policy
from featurestore.schema import candidate, candidates, decode
from featurestore.store import Store

EUCLIDEAN = ("face_embedding_dlib",)
"""The vectors that are compared by their distance, as their makers mean them to be; the others by their cosine."""

INDEX_PAYS = 50_000
"""Vectors from which on an index answers clearly sooner than reading them all."""

READ_ROWS, AT_ONCE = 8192, 1024
"""Stored vectors, and vectors asked for, that are compared in one product: 32 MiB of it."""


@dataclass(frozen=True)
class Hits:
    """The nearest clips of Q vectors, nearest first.

    rows: (Q, k) int64, `_rowid` in `clips`, -1 where there are fewer than k; scores: (Q, k) float64, the cosine (high
    is near) or the distance (low is near), NaN where there is none.
    """

    rows: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Space:
    """The vectors of one constituent that one maker made, as they were when it was opened.

    column: the constituent, or a candidate (`ecapa@1f2e3d4c`); maker: its row of `makers`; alone: no other maker made
    any of the column.
    """

    dataset: lance.LanceDataset
    column: str
    constituent: Constituent
    maker: dict[str, Any]
    alone: bool

    @classmethod
    def of(cls, store: Store, by: str, maker: int | None = None) -> "Space":
        """Open the vectors of `by`; maker: whose, where several made them. Raises UsageError where there are none."""
        dataset = store.table("clips")
        entry = _vector(dataset, by)
        makers = {row["id"]: row for row in store.table("makers").to_table().to_pylist()}
        found: list[int] = []
        if f"{by}_maker" in dataset.schema.names:
            codes = dataset.to_table(columns=[f"{by}_maker"])[0].drop_null().to_numpy()
            found = np.flatnonzero(np.bincount(codes)).tolist()
        if not found:
            raise UsageError(f"no clip has {by} yet. Make it with: voxportrait fill --constituents {entry.key}")
        if maker is None and len(found) > 1:
            names = ", ".join(f"{code} ({makers[code]['model']})" for code in found)
            raise UsageError(f"several makers made {by}, and their vectors are not to be compared: say one of {names}")
        return cls(dataset, by, entry, makers[found[0] if maker is None else maker], len(found) == 1)

    @property
    def metric(self) -> str:
        """`cosine`, or `euclidean`."""
        return "euclidean" if self.constituent.key in EUCLIDEAN else "cosine"

    @property
    def lance_metric(self) -> str:
        """The metric as Lance calls it."""
        return {"cosine": "cosine", "euclidean": "L2"}[self.metric]

    @property
    def index(self) -> str | None:
        """The name of the vector index, where one is built."""
        return next((i.name for i in self.dataset.describe_indices() if i.field_names == [self.column]), None)

    def nearest(
        self,
        vectors: np.ndarray,
        k: int = 10,
        where: str | None = None,
        policy: Policy = Policy(),
        indexed: bool | None = None,
        without: Sequence[Sequence[int]] | None = None,
    ) -> Hits:
        """The k nearest clips of each of (Q, d) vectors, of those that meet a condition on `clips` and a policy.

        indexed: through the index; None: one vector goes through it where it is built, and a batch is compared with
        every vector, which are read once in bounded memory. without: for each vector the rows that are no answer.
        """
        asked = np.atleast_2d(np.asarray(vectors, np.float64))
        if asked.ndim != 2 or asked.shape[1:] != self.constituent.shape:
            raise UsageError(f"{self.column} has vectors of {self.constituent.shape[0]} numbers, not {asked.shape}")
        if k < 1:
            raise UsageError("k is at least 1")
        if self.metric == "cosine":
            asked = _unit(asked)
        if where is not None:
            self._judge(where)
        left_out = without or [()] * len(asked)
        name = self.index if indexed or (indexed is None and len(asked) == 1) else None
        if indexed and name is None:
            raise UsageError(f"{self.column} has no index. Build it with: voxportrait store index {self.column}")
        own = None if self.alone and name else f"`{self.column}_maker` = {self.maker['id']}"
        condition = " AND ".join(f"({part})" for part in (own, where, policy.where) if part) or None
        width = k + max(map(len, left_out), default=0)
        find = self._through_index if name else self._exactly
        rows = find(asked.astype(np.float32), width, condition)
        return self._settled(asked, rows, k, left_out)

    def _judge(self, where: str) -> None:
        """Raise UsageError for what is no condition on `clips`, whole in itself: it must not undo those beside it."""
        if not _is_whole(where):
            raise UsageError(
                f"the condition {where!r} cannot be judged: its brackets do not match, or it has a comment"
            )
        try:
            self.dataset.scanner(columns=["clip_id"], filter=where).explain_plan()
        except (ValueError, OSError, RuntimeError) as error:
            said = re.sub(r",? ?/\S+\.rs:\d+:\d+", "", str(error).splitlines()[0])
            raise UsageError(f"the condition {where!r} cannot be judged: {said}") from error

    def _exactly(self, asked: np.ndarray, k: int, condition: str | None) -> np.ndarray:
        """(Q, k) rows, of all vectors that meet the condition, -1 where there are fewer."""
        best = np.full((len(asked), k), -np.inf, np.float32)
        rows = np.full((len(asked), k), -1, np.int64)
        for row_ids, block in self._blocks(condition):
            for start in range(0, len(asked), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                new = self._closeness(asked[part], block)
                better = (new > best[part].min(axis=1, keepdims=True)).any(axis=0)
                scores = np.concatenate([best[part], new[:, better]], axis=1)
                ids = np.concatenate([rows[part], np.tile(row_ids[better], (len(new), 1))], axis=1)
                top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
                best[part], rows[part] = np.take_along_axis(scores, top, 1), np.take_along_axis(ids, top, 1)
        return rows

    def _blocks(self, condition: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row ids and vectors, about `READ_ROWS` at a time."""
        scanner = self.dataset.scanner(
            columns=[self.column], filter=condition, with_row_id=True, batch_size=READ_ROWS, scan_in_order=False
        )
        held: list[pa.RecordBatch] = []
        for batch in scanner.to_batches():
            held.append(batch)
            if sum(map(len, held)) >= READ_ROWS:
                yield self._block(pa.Table.from_batches(held))
                held = []
        if held:
            yield self._block(pa.Table.from_batches(held))

    def _block(self, table: pa.Table, precision: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Row ids, and their vectors: at length one where it is the cosine that compares them."""
        stored = decode(table[self.column], self.constituent.shape, self.constituent.dtype)
        vectors: np.ndarray = stored.astype(precision)
        return table["_rowid"].to_numpy().astype(np.int64), _unit(vectors) if self.metric == "cosine" else vectors

    def _closeness(self, asked: np.ndarray, block: np.ndarray) -> np.ndarray:
        """(Q, n): the cosine of unit vectors, or the squared distance times -1."""
        product = asked @ block.T
        if self.metric == "cosine":
            return product
        return 2 * product - (block**2).sum(1) - (asked**2).sum(1)[:, None]

    def _through_index(self, asked: np.ndarray, k: int, condition: str | None) -> np.ndarray:
        """(Q, k) rows as the index finds them; the vectors themselves decide among ten times as many."""
        rows = np.full((len(asked), k), -1, np.int64)
        for i, vector in enumerate(asked):
            nearest = {
                "column": self.column,
                "q": vector.astype(self.constituent.dtype),
                "k": k,
                "metric": self.lance_metric,
                "nprobes": 20,
                "refine_factor": 10,
            }
            scanner = self.dataset.scanner(
                columns=["_distance"], nearest=nearest, filter=condition, prefilter=True, with_row_id=True
            )
            found = scanner.to_table()["_rowid"].to_numpy()
            rows[i, : len(found)] = found
        return rows

    def _settled(self, asked: np.ndarray, rows: np.ndarray, k: int, left_out: Sequence[Sequence[int]]) -> Hits:
        """The k nearest among (Q, m) rows, with scores in double precision from the vectors themselves."""
        row_ids = np.setdiff1d(rows, [-1])
        stored = _rows(self.dataset, row_ids, [self.column])
        known, vectors = self._block(stored.sort_by("_rowid"), np.float64)
        best = np.full((len(asked), k), -1, np.int64)
        scores = np.full((len(asked), k), np.nan)
        for i, vector in enumerate(asked):
            ids = np.setdiff1d(np.intersect1d(rows[i], known), left_out[i])
            near = vectors[np.searchsorted(known, ids)]
            if self.metric == "cosine":
                score = near @ vector
                order = np.argsort(-score, kind="stable")[:k]
            else:
                score = np.linalg.norm(near - vector, axis=1)
                order = np.argsort(score, kind="stable")[:k]
            best[i, : len(order)], scores[i, : len(order)] = ids[order], score[order]
        return Hits(best, scores)


def nearest(store: Store, vectors: np.ndarray, by: str = "ecapa", k: int = 10, **options: Any) -> Hits:
    """The k nearest clips of each of (Q, d) vectors: see `Space.nearest`."""
    return Space.of(store, by).nearest(vectors, k, **options)


@dataclass(frozen=True)
class Similar:
    """An answer: clips (clip_id, speaker_id, split, and `similarity` or `distance`), and the space they are near in."""

    table: pa.Table
    space: Space


def similar(
    store: Store,
    to: str | np.ndarray,
    by: str = "ecapa",
    k: int = 10,
    where: str | None = None,
    policy: Policy = Policy(),
    other_speakers: bool = False,
    indexed: bool | None = None,
) -> Similar:
    """The clips nearest to a clip, by its id, or to a vector that the same maker made.

    where: a condition on `clips` in SQL; other_speakers: none of the clip's own speaker. The clip itself is no answer.
    Raises UsageError for a clip that is not there, has no such vector, or is refused by the policy.
    """
    _vector(store.table("clips"), by)
    without: Sequence[int] = ()
    if isinstance(to, str):
        vector, maker, without = _of_clip(store, to, by, policy, other_speakers)
        space = Space.of(store, by, maker)
    elif other_speakers:
        raise UsageError("a file from outside has no speaker in the store: leave out --other-speakers")
    else:
        vector, space = np.asarray(to), Space.of(store, by)
    found = space.nearest(vector[None], k, where, policy, indexed, [without])
    rows = found.rows[0][found.rows[0] >= 0]
    described = _rows(space.dataset, rows, ["clip_id", "speaker_id", "split"])
    place = {row_id: row for row, row_id in enumerate(described["_rowid"].to_pylist())}
    described = described.take(pa.array([place[row] for row in rows.tolist()], pa.int64())).drop_columns(["_rowid"])
    score = "similarity" if space.metric == "cosine" else "distance"
    return Similar(described.append_column(score, pa.array(found.scores[0][: len(rows)])), space)


def _of_clip(
    store: Store, clip_id: str, by: str, policy: Policy, with_speaker: bool
) -> tuple[np.ndarray, int, list[int]]:
    """A clip's vector, its maker's number, and the rows that are no answer: its own, or all of its speaker."""
    dataset = store.table("clips")
    if by not in dataset.schema.names:
        raise UsageError(f"no clip has {by} yet. Make it with: voxportrait fill --constituents {by.split('@')[0]}")
    condition = f"clip_id = {_text(clip_id)}"
    columns = ["dataset", "speaker_id", by, f"{by}_maker"]
    found = dataset.scanner(columns=columns, filter=condition, with_row_id=True).to_table()
    if not len(found):
        known = dataset.head(1, columns=["clip_id"])["clip_id"].to_pylist()
        example = f". Clips are called as {known[0]!r} is." if known else ": it is empty."
        raise UsageError(f"there is no clip {clip_id!r} in the store{example}")
    if policy.where and not dataset.count_rows(f"({condition}) AND ({policy.where})"):
        raise UsageError(f"clip {clip_id} may not be used: its licence or consent does not allow it")
    (row,) = found.drop_columns([by]).to_pylist()
    if row[f"{by}_maker"] is None:
        raise UsageError(f"clip {clip_id} has no {by}: fill it, or see why not with: voxportrait store quarantine")
    entry = CATALOGUE[by.split("@")[0]]
    vector = decode(found[by], entry.shape, entry.dtype)[0]
    without = [row["_rowid"]]
    if with_speaker:
        speaker = f"speaker_id = {_text(row['speaker_id'])} AND dataset = {_text(row['dataset'])}"
        without = dataset.scanner(columns=[], filter=speaker, with_row_id=True).to_table()["_rowid"].to_pylist()
    return vector, row[f"{by}_maker"], without


def build_index(
    store: Store,
    by: str,
    anyway: bool = False,
    wait: float = 0.0,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Build the vector index of a constituent, or bring the one that is there up to date, alone in the store.

    Returns {"by", "vectors", "index": its name or None, "state": `built`, `up to date` or `does not pay`}. It does not
    pay for fewer than `INDEX_PAYS` vectors, and then is built only `anyway`. wait: seconds for others to leave.
    """
    with Lease(store.place, [STORE], f"indexing {by}", wait=wait, told=told) as lease:
        space = Space.of(store, by)
        vectors = space.dataset.count_rows(f"`{by}_maker` IS NOT NULL")
        lease.check()
        name, state = space.index, "up to date"
        if name:
            space.dataset.optimize.optimize_indices(index_names=[name])
        elif vectors < INDEX_PAYS and not anyway:
            state = "does not pay"
        else:
            name, state = candidate(space.constituent.key, space.maker["digest"]), "built"
            space.dataset.create_index(by, "IVF_RQ", name=name, metric=space.lance_metric)
    return {"by": by, "vectors": vectors, "index": name, "state": state}


def _vector(dataset: lance.LanceDataset, by: str) -> Constituent:
    """The catalogue's entry of what clips can be compared by; a UsageError lists what there is."""
    keys = [key for key, entry in CATALOGUE.items() if entry.kind == "vector"]
    proposed = [name for key, names in candidates(dataset.schema.names).items() if key in keys for name in names]
    return CATALOGUE[choose("vector", by, [*keys, *proposed]).split("@")[0]]


def _rows(dataset: lance.LanceDataset, row_ids: np.ndarray, columns: list[str]) -> pa.Table:
    """Rows by their ids, in any order, with `_rowid`."""
    condition = f"_rowid IN ({', '.join(map(str, row_ids.tolist()))})" if len(row_ids) else "false"
    return dataset.scanner(columns=columns, filter=condition, with_row_id=True).to_table()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length one; a row of zeros stays as it is."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _is_whole(condition: str) -> bool:
    """Whether a condition in SQL stays one when it is put in brackets: Lance reads it only up to a bracket too many."""
    bare, depth = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "", condition), 0
    for sign in bare:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            return False
    return depth == 0 and "--" not in bare and "/*" not in bare


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
