"""How fast conditioning matrices come from a store, against one row at a time from SQLite (`rowwise.py`)."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from featurestore import inprocess
from featurestore.assembly import Assembler
from featurestore.catalogue import CATALOGUE, Constituent
from featurestore.clip import Clip
from featurestore.conditioning import LAYOUTS
from featurestore.filling import Want
from featurestore.makers import Maker
from featurestore.store import Store

BATCH = 64
ROUNDS = 5


def run(clips: int = 1024, rowwise_clips: int = 200) -> dict[str, Any]:
    """Medians of alternating rounds, warm page cache, one process.

    Returns samples_per_second of `store` (matrix and face), of `rowwise` (matrix and face), and ratios.
    """
    import torch

    from infra.bench.rowwise import Rowwise, build

    with tempfile.TemporaryDirectory() as folder:
        store = random_store(f"{folder}/store", clips)
        build(Path(folder) / "rows", rowwise_clips)
        rows = Rowwise(Path(folder) / "rows")
        loader = store.batches(LAYOUTS["slf"], BATCH, missing="zero")
        assemble = Assembler(LAYOUTS["slf"], allow_missing=True)
        rates: dict[str, list[float]] = {"store": [], "rowwise": []}
        for epoch in range(ROUNDS):
            began, seen = time.perf_counter(), 0
            for batch in loader.batches(epoch):
                assemble({key: torch.from_numpy(values) for key, values in batch.compact.items()})
                seen += len(batch.positions)
            rates["store"].append(seen / (time.perf_counter() - began))
            order = np.random.default_rng(epoch).permutation(rowwise_clips)
            began = time.perf_counter()
            for index in order:
                rows.sample(int(index))
            rates["rowwise"].append(rowwise_clips / (time.perf_counter() - began))
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    ratios = {"store_vs_rowwise": medians["store"] / medians["rowwise"]}
    return {"samples_per_second": medians, "ratios": ratios, "clips": clips, "batch": BATCH}


def random_store(uri: str, clips: int) -> Store:
    """A store of random numbers in every array that the layout `slf` uses, and random faces."""
    store = Store.open_or_create(uri)
    store.register(Clip(f"random/id{i:06d}/v/00001", "/nowhere", "train") for i in range(clips))
    keys = [k for k in LAYOUTS["slf"].constituents if CATALOGUE[k].kind in ("vector", "block")] + ["face_128"]
    wants = [Want(key, Maker(key, "random", "numpy", trained=False)) for key in keys]
    draw = np.random.default_rng(0)
    inprocess.fill(
        store, wants, lambda clip, lacks: {k: v for key in keys for k, v in _random(CATALOGUE[key], draw).items()}
    )
    return store


def _random(constituent: Constituent, draw: np.random.Generator) -> dict[str, np.ndarray]:
    if constituent.dtype == "uint8":
        face = draw.integers(0, 255, constituent.shape, dtype=np.uint8)
        return {constituent.key: face, f"{constituent.key}_guide": face[::16, ::16]}
    return {constituent.key: draw.standard_normal(constituent.shape, dtype=np.float32)}
