"""What a store costs: planning and coverage over a million clips, bytes written for a byte that is kept.

Everything goes through real registration, real leases and real commits; only the values are random, so that nothing
compresses. Yardsticks: the bytes of the values themselves; for similarity, the exact answer of every vector.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from featurestore import filling, inprocess, journal
from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.console import bar
from featurestore.errors import VoxportraitError
from featurestore.filling import Want
from featurestore.makers import Maker
from featurestore.schema import value_fields
from featurestore.store import Store
from infra.bench import similarity
from infra.bench.large import clips, write_columns

ONE_PASS = (
    "media", "ecapa", "short_term", "mel", "speech", "age", "gender", "ethnicity", "face", "face_128", "face_parts",
    "face_embedding_dlib",
)  # fmt: skip
BACKFILL = ("pyannote", "mel_log")
SMALL_VECTOR = ("titanet",)

MAKERS = 3
"""How many makers share a maker column of the large table."""

PICTURE_BYTES = 12_000
"""Of a face as JPEG."""


@dataclass(frozen=True)
class Size:
    """clips: of the large table; filled: clips whose values are really written; rounds: of coverage; vectors, queries:
    of the search for similar clips."""

    clips: int = 1_000_000
    filled: int = 1_024
    rounds: int = 3
    vectors: int = 200_000
    queries: int = 200


def run(size: Size = Size()) -> dict[str, Any]:
    """Plans in a process of its own, for its memory.

    Returns plan_1m (seconds until the last chunk is cut, peak_gib of the process), coverage_1m_seconds (median),
    bytes_per_payload_byte: everything that was written, registering, journal, leases and manifests among it, over the
    bytes of the values: one_pass (`ONE_PASS` into a new store), one_pass_journaled (the same, every chunk in the
    journal before: the worst case), backfill (`BACKFILL` into a full store), small_vector (`SMALL_VECTOR` alone: a few
    hundred bytes a clip, beside which leases and manifests show); similar: see `similarity.measure`; registering and
    what the large table weighs; the machine's cores, and how busy it was: times on a busy machine mean little.
    """
    with tempfile.TemporaryDirectory() as folder, bar("bench store", "steps") as progress:
        progress(0, 6)
        large = Store.open_or_create(f"{folder}/large")
        began = time.perf_counter()
        large.register(clips(size.clips))
        registering = time.perf_counter() - began
        progress(1, 6, "maker columns")
        _fill_halves(large)
        progress(2, 6, "plan and coverage")
        planned = _apart("ask", large.uri, str(size.rounds))
        progress(3, 6, "one pass")
        store = Store(f"{folder}/store")
        ratios = {"one_pass": _written_per_byte(lambda: _make_store(store, size.filled, ONE_PASS))}
        ratios["backfill"] = _written_per_byte(lambda: _fill(store, BACKFILL))
        ratios["small_vector"] = _written_per_byte(lambda: _fill(store, SMALL_VECTOR))
        progress(4, 6, "journaled")
        other = Store(f"{folder}/other")
        ratios["one_pass_journaled"] = _written_per_byte(lambda: _make_store(other, size.filled, ONE_PASS, _keep_all))
        progress(5, 6, "similar")
        nearest = similarity.measure(f"{folder}/vectors", size.vectors, size.queries)
        progress(6, 6)
        return {
            "plan_1m": {"seconds": planned["plan_seconds"], "peak_gib": planned["peak_gib"]},
            "coverage_1m_seconds": planned["coverage_seconds"],
            "bytes_per_payload_byte": ratios,
            "similar": nearest,
            "clips": size.clips,
            "clips_filled": size.filled,
            "chunks": planned["chunks"],
            "registering_seconds": registering,
            "table_mib": _weight(large, "clips.lance") / 2**20,
            "cores": os.cpu_count(),
            "load": planned["load"],
            "manifest_mib": max(f.size for f in large.place.list("clips.lance/_versions")) / 2**20,
        }


# -- a large table ---------------------------------------------------------------------------------------------------


def _wants(keys: Sequence[str], parameter: int = 0) -> list[Want]:
    return [
        Want(key, maker, (), (("face", "detector"), (key, maker.digest)))
        for key in keys
        for maker in [Maker(key, "random", "numpy", parameters={"number": parameter}, trained=False)]
    ]


def _fill_halves(store: Store) -> None:
    """In each maker column a maker for every other clip, of `MAKERS` in turn, without values; 1 % in quarantine."""
    keys = (*ONE_PASS, *BACKFILL)
    numbers = {}
    for parameter in range(MAKERS):
        wants = _wants(keys, parameter)
        makers = store.enter_makers(want.maker for want in wants)
        numbers[parameter] = [makers[want.maker.digest] for want in wants]
    store.ensure_columns({key: key for key in keys})

    def halves(fragment: int, rows: int) -> dict[str, pa.Array]:
        turn = np.arange(rows) % (2 * MAKERS)
        return {
            CATALOGUE[key].maker_column: pa.array(
                np.array([numbers[t % MAKERS][i] for t in range(2 * MAKERS)], np.int16)[turn], mask=turn % 2 == 1
            )
            for i, key in enumerate(keys)
        }

    write_columns(store, halves)
    dataset = store.table("clips")
    bad = dataset.take(range(0, dataset.count_rows(), 100), columns=["clip_id"])["clip_id"].to_pylist()
    rejected = [journal.Rejected(clip_id, "face", "detector", "no face", "no face in 8 frames") for clip_id in bad]
    store.insert("quarantine", [one.row("bench") for one in rejected])


def _ask(uri: str, rounds: str) -> dict[str, Any]:
    """Plan everything and cut it into chunks, then coverage; the peak is of the plan."""
    store = Store.open(uri)
    began = time.perf_counter()
    todo = filling.plan(store, _wants((*ONE_PASS, *BACKFILL)))
    chunks = sum(len(todo.chunks(fragment)) for fragment in todo.fragments)
    plan_seconds = time.perf_counter() - began
    peak_gib = _peak() / 2**30
    seconds = []
    for _ in range(int(rounds)):
        began = time.perf_counter()
        store.coverage()
        seconds.append(time.perf_counter() - began)
    return {
        "plan_seconds": plan_seconds,
        "peak_gib": peak_gib,
        "chunks": chunks,
        "coverage_seconds": float(np.median(seconds)),
        "load": os.getloadavg()[0],
    }


def _peak() -> int:
    """Bytes of memory that this process had at most."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def _apart(task: str, *arguments: str) -> dict[str, Any]:
    """The result of a task in a new process."""
    command = [sys.executable, "-m", "infra.bench.store", task, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise VoxportraitError(f"measuring failed: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout)


# -- bytes -----------------------------------------------------------------------------------------------------------


def _written_per_byte(fill: Callable[[], int]) -> float:
    """Bytes that this process wrote while `fill` ran, over the bytes of the values, which `fill` returns."""
    before = psutil.Process().io_counters().write_chars
    payload = fill()
    return (psutil.Process().io_counters().write_chars - before) / payload


def _make_store(
    store: Store, count: int, keys: Sequence[str], first: Callable[[Store, list[Want]], int] | None = None
) -> int:
    """A new store, filled; first: what to do before, instead of whose work the fill then only finishes."""
    Store.open_or_create(store.uri).register(clips(count))
    made = first(store, _wants(keys)) if first else 0
    return made + _fill(store, keys)


def _fill(store: Store, keys: Sequence[str]) -> int:
    """Fill random values; returns their bytes."""
    values = _Values()
    inprocess.fill(store, _wants(keys), values.make)
    return values.bytes


def _keep_all(store: Store, wants: list[Want]) -> int:
    """Make every chunk and put it into the journal, as a job that is killed before its first fragment is whole."""
    values = _Values()
    makers = store.enter_makers(want.maker for want in wants)
    numbers = {want.constituent: makers[want.maker.digest] for want in wants}
    todo = filling.plan(store, wants)
    for fragment in todo.fragments:
        for chunk in todo.chunks(fragment):
            journal.write(store.place, chunk.name, inprocess.fill_chunk(store, chunk, values.make, numbers))
    return values.bytes


class _Values:
    """Makes random values of any constituent, and counts their bytes."""

    def __init__(self) -> None:
        self.bytes = 0
        self._draw = np.random.default_rng(0)

    def make(self, clip: Clip, wanted: frozenset[str]) -> Mapping[str, Any]:
        return {field.name: self._value(key, field) for key in sorted(wanted) for field in value_fields(CATALOGUE[key])}

    def _value(self, key: str, field: pa.Field) -> Any:
        kind = field.type
        if pa.types.is_fixed_size_binary(kind):
            self.bytes += kind.byte_width
            dtype = journal.dtypes(CATALOGUE[key])[field.name]
            return np.frombuffer(self._draw.bytes(kind.byte_width), np.uint8).view(dtype)
        if pa.types.is_fixed_size_list(kind):
            self.bytes += kind.list_size * kind.value_type.bit_width // 8
            return self._draw.normal(size=kind.list_size)
        if pa.types.is_binary(kind):
            self.bytes += PICTURE_BYTES
            return self._draw.bytes(PICTURE_BYTES)
        if pa.types.is_string(kind):
            text = self._draw.bytes(32).hex()
            self.bytes += len(text)
            return text
        self.bytes += 4
        return int(self._draw.integers(1_000_000))


def _weight(store: Store, folder: str) -> int:
    return sum(info.size for info in store.place.list(folder, recursive=True))


if __name__ == "__main__":
    print(json.dumps({"ask": _ask}[sys.argv[1]](*sys.argv[2:])))
