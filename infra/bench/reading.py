"""Whether a record cache pays: compact rows in random order from a store and from an export, wherever their pages are.

    hot           the page cache holds everything
    cold          it holds nothing: every byte comes from the disk
    object_store  each request is answered `LATENCY` late (`objects.py`); only a store is read so, an export is a local
                  file, and a node's cache is an export

A case ends in the loader's readers where they are not one: `store_cold_4`.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from featurestore.console import bar
from featurestore.exporting import export
from featurestore.exports import ExportRecords
from featurestore.loader import Loader
from featurestore.records import fields_of
from featurestore.store import Store
from infra.bench.objects import Server, serving
from infra.bench.random_store import LAYOUT, random_store
from infra.bench.rounds import machine, summary

LATENCY = 0.02
"""Seconds until the object store answers."""

COLD_PART = 5
"""One of so many clips is read in a cold round: a disk that reads their neighbours too does it in vain."""

FAR_CLIPS = 2_048
"""Clips that a round reads from the object store."""

STEP = 0.005
"""Seconds that a trainer needs for a batch, waiting for its GPU."""

EXPORT = "export/records.safetensors"

FROM_DISK = 0.5
"""Of a row's bytes: what the disk must have read of it at least, if its pages were cold."""


@dataclass(frozen=True)
class Reading:
    """What a round of a case found. waited: share of the time; disk_bytes, requests: in all."""

    clips: int
    seconds: float
    waited: float
    disk_bytes: int
    requests: int


@dataclass(frozen=True)
class Case:
    """A way to read. clips: of a round, at the end of an epoch; drop: a folder whose pages are to be cold."""

    open: Callable[[], Loader]
    clips: int
    drop: Path | None = None
    server: Server | None = None

    def read(self, epoch: int, step: float = 0.0) -> Reading:
        """One round, from the first question to the last batch. step: seconds that the trainer takes for a batch."""
        loader = self.open()
        if self.drop:
            forget_pages(self.drop)
        asked, read = self._asked(), psutil.Process().io_counters().read_bytes
        began = time.perf_counter()
        for _ in loader.batches(epoch, max(0, loader.batches_per_epoch - self.clips // loader.batch_size)):
            if step:
                time.sleep(step)
        seconds = time.perf_counter() - began
        read = psutil.Process().io_counters().read_bytes - read
        return Reading(loader.timing.samples, seconds, loader.timing.share, read, self._asked() - asked)

    def _asked(self) -> int:
        return self.server.requests() if self.server else 0


def run(rows: int = 5_000, batch_size: int = 64, rounds: int = 3) -> dict[str, Any]:
    """Medians of alternating rounds over `rows` random clips: an epoch, or its end if cold or far away.

    Returns, by case, samples_per_second and spread; disk_bytes_per_sample and requests_per_sample; waited: the share of
    the time for which a trainer waits who takes `STEP` for a batch. A cold case is None where the pages could not be
    dropped, as in memory file systems. bytes_per_row, and the machine.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(folder, LATENCY) as server,
        bar("bench reading", timed=False) as progress,
    ):
        progress(0, rounds + 2, f"{rows:,} rows")
        store = random_store(f"{folder}/store", rows)
        Path(folder, EXPORT).parent.mkdir()
        export(store, Path(folder, EXPORT), LAYOUT)
        cases = _cases(store, Path(folder), server, batch_size)
        found: dict[str, list[Reading]] = {name: [] for name in cases}
        for number in range(rounds):
            for name, case in cases.items():
                progress(number + 1, rounds + 2, name)
                found[name].append(case.read(number))
        waiting = {}
        for name, case in cases.items():
            progress(rounds + 1, rounds + 2, f"{name}, trainer")
            waiting[name] = case.read(rounds, STEP)
    row = sum(field.nbytes for field in fields_of(LAYOUT.constituents).values())
    warm = {name for name, case in cases.items() if case.drop and _of_each(found[name], "disk_bytes") < FROM_DISK * row}
    measured = {name: readings for name, readings in found.items() if name not in warm}
    results: dict[str, dict[str, Any]] = {
        **summary({name: [one.clips / one.seconds for one in readings] for name, readings in measured.items()}),
        "waited": {name: waiting[name].waited for name in measured},
    }
    return {
        **{what: numbers | dict.fromkeys(sorted(warm)) for what, numbers in results.items()},
        "disk_bytes_per_sample": {name: _of_each(found[name], "disk_bytes") for name in cases if cases[name].drop},
        "requests_per_sample": {name: _of_each(found[name], "requests") for name in cases if cases[name].server},
        "bytes_per_row": row,
        "rows": rows,
        "batch_size": batch_size,
        "rounds": rounds,
        **machine(),
    }


def _of_each(readings: list[Reading], what: str) -> float:
    """How much of something a clip cost: the median of rounds."""
    return float(np.median([getattr(one, what) / one.clips for one in readings]))


def _cases(store: Store, folder: Path, server: Server, batch_size: int) -> dict[str, Case]:
    far = Store(server.address("store"))
    records = folder / EXPORT
    rows = store.table("clips").count_rows()
    few = max(batch_size, rows // COLD_PART)

    def batches(place: Store, readers: int) -> Callable[[], Loader]:
        return lambda: place.batches(LAYOUT, batch_size, readers=readers)

    def exported(readers: int) -> Callable[[], Loader]:
        return lambda: Loader(ExportRecords(records, LAYOUT), batch_size, readers=readers)

    return {
        "store_hot": Case(batches(store, 1), rows),
        "export_hot": Case(exported(1), rows),
        "store_cold": Case(batches(store, 1), few, folder / "store"),
        "store_cold_4": Case(batches(store, 4), few, folder / "store"),
        "export_cold": Case(exported(1), few, records.parent),
        "export_cold_4": Case(exported(4), few, records.parent),
        "store_object_store": Case(batches(far, 1), FAR_CLIPS, server=server),
        "store_object_store_4": Case(batches(far, 4), FAR_CLIPS, server=server),
        "store_object_store_8": Case(batches(far, 8), FAR_CLIPS, server=server),
    }


def forget_pages(folder: Path) -> None:
    """Drop a folder's files from the page cache, less the pages that somebody has mapped."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
