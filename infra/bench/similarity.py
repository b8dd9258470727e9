"""How fast the nearest clips are found: exactly for a batch and for one, and through an index."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.catalogue import CATALOGUE
from featurestore.makers import Maker
from featurestore.search import Space, build_index
from featurestore.store import Store
from infra.bench.large import clips, write_columns

KEY, NEAREST = "ecapa", 10
SPREAD = 1.0
"""Deviation of a clip from its speaker, where speakers deviate by 1 from each other."""


def measure(uri: str, vectors: int, queries: int) -> dict[str, Any]:
    """Ten nearest of 192 numbers by cosine, among clips that gather around their speakers; asked with clips.

    Returns exact_batch_seconds (all queries in one call), exact_one_ms, index_seconds to build, index_one_ms (medians),
    recall_at_10 of the index and index_vs_exact, the ratio of one exact answer's time to one of the index.
    """
    store = _vectors(uri, vectors)
    draw = np.random.default_rng(1)
    space = Space.of(store, KEY)
    rows = np.sort(draw.choice(vectors, queries, replace=False))
    asked = np.stack(space.dataset.take(rows, columns=[KEY])[KEY].to_numpy(zero_copy_only=False)).astype(np.float32)
    began = time.perf_counter()
    exact = space.nearest(asked, NEAREST, indexed=False).rows
    batch = time.perf_counter() - began
    one = _median(lambda vector: space.nearest(vector, NEAREST, indexed=False), asked[:10])
    began = time.perf_counter()
    build_index(store, KEY, anyway=True)
    building = time.perf_counter() - began
    space = Space.of(store, KEY)
    found: list[np.ndarray] = []
    indexed = _median(lambda vector: found.append(space.nearest(vector, NEAREST, indexed=True).rows[0]), asked)
    right = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return {
        "vectors": vectors,
        "queries": queries,
        "exact_batch_seconds": batch,
        "exact_one_ms": one * 1000,
        "index_seconds": building,
        "index_one_ms": indexed * 1000,
        "recall_at_10": float(np.mean(right)) / NEAREST,
        "index_vs_exact": one / indexed,
    }


def _vectors(uri: str, count: int) -> Store:
    store = Store.open_or_create(uri)
    store.register(clips(count))
    maker = Maker(KEY, "random", "numpy", trained=False)
    number = store.enter_makers([maker])[maker.digest]
    store.ensure_columns({KEY: KEY})
    width = CATALOGUE[KEY].shape[0]

    def make(fragment: int, rows: int) -> dict[str, pa.Array]:
        draw = np.random.default_rng(fragment)
        speakers = draw.normal(size=(2, width))[np.arange(rows) * 2 // rows]
        values = (speakers + SPREAD * draw.normal(size=(rows, width))).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        return {KEY: column, CATALOGUE[KEY].maker_column: pa.array(np.full(rows, number, np.int16))}

    write_columns(store, make)
    return store


def _median(ask: Callable[[np.ndarray], Any], vectors: np.ndarray) -> float:
    seconds = []
    for vector in vectors:
        began = time.perf_counter()
        ask(vector)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
