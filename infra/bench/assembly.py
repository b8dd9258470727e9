"""How fast conditioning matrices come from a store, against one row at a time from SQLite and against memory itself.

rowwise         one sample at a time, as the released SLF data set is read (`rowwise.py`)
assembled       a loader on the store, and a feed: float32 (B, 256, 768) and the 128 px image as float32, on the CPU
compact         the loader alone: float16 constituents and uint8 pictures, in random order
cached          as `assembled`, from an export on the local disk, which is what a node's cache is
cached_compact  as `compact`, from the export
feed            the feed alone, again and again on one batch
memcpy          numpy copies as many bytes as one assembled sample touches, in one thread, past every cache
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.conditioning import Layout
from featurestore.console import bar
from featurestore.exporting import export
from featurestore.exports import ExportRecords
from featurestore.feed import Feed
from featurestore.loader import GROUP, Loader
from featurestore.records import PICTURES, Field
from featurestore.store_records import StoreRecords
from infra.bench.random_store import LAYOUT, random_store
from infra.bench.rounds import Samples, alternate, machine, summary
from infra.bench.rowwise import Rowwise, build

WARM = 4
"""Groups of clips that a loader gives before it is measured: by then it reads ahead as it does all day."""

PAST_CACHES = 256 << 20
"""Bytes of a buffer that is copied: more where the processor's last cache holds a quarter of it."""

RATIOS = (
    ("assembled", "rowwise"),
    ("assembled", "memcpy"),
    ("compact", "memcpy"),
    ("cached", "rowwise"),
    ("cached", "memcpy"),
    ("cached_compact", "memcpy"),
)


def run(rows: int = 5_000, batch_size: int = 64, rounds: int = 5, seconds: float = 1.0) -> dict[str, Any]:
    """Medians of alternating rounds over `rows` random clips, read in random order, hot page cache, one process.

    Returns samples_per_second and spread of the contenders; ratios of medians; bytes_per_sample that an assembled
    sample touches (compact row read, rectangles and pictures written); limited_by and cached_limited_by: what the
    pipeline waits for; waited: the share of its time for which the feed waited for the loader; the machine.
    """
    with tempfile.TemporaryDirectory() as folder, bar("bench assembly", timed=False) as progress:
        progress(0, rounds + 1, f"{rows:,} rows, twice")
        with ThreadPoolExecutor(1) as beside:
            building = beside.submit(build, Path(folder) / "rows", rows)
            store = random_store(f"{folder}/store", rows)
            building.result()
        cache = Path(folder) / "cache.safetensors"
        export(store, cache, LAYOUT)
        stored, kept = StoreRecords(store, LAYOUT), ExportRecords(cache, LAYOUT)
        assembled, compact = Loader(stored, batch_size), Loader(stored, batch_size)
        cached, cached_compact = Loader(kept, batch_size), Loader(kept, batch_size)
        touched = bytes_per_sample(stored.fields, LAYOUT)
        contenders: dict[str, Callable[[], Samples]] = {
            "rowwise": lambda: _rowwise(Rowwise(Path(folder) / "rows"), rows),
            "assembled": lambda: _assembled(assembled),
            "compact": lambda: _compact(compact),
            "cached": lambda: _assembled(cached),
            "cached_compact": lambda: _compact(cached_compact),
            "feed": lambda: _feed(compact),
            "memcpy": _Memory(touched, batch_size).copied,
        }
        rates = alternate(contenders, rounds, seconds, lambda done, name: progress(done + 1, rounds + 1, name))
    found = summary(rates)
    medians = found["samples_per_second"]
    return {
        "samples_per_second": medians,
        "ratios": {f"{one}_vs_{other}": medians[one] / medians[other] for one, other in RATIOS},
        "bytes_per_sample": touched,
        "limited_by": _limit(assembled, "lance reads"),
        "cached_limited_by": _limit(cached, "cache reads"),
        "waited": {"assembled": assembled.timing.share, "cached": cached.timing.share},
        "spread": found["spread"],
        "rows": rows,
        "batch_size": batch_size,
        "rounds": rounds,
        **machine(),
    }


def bytes_per_sample(fields: Mapping[str, Field], layout: Layout) -> int:
    """What an assembled sample touches: its compact row, the float32 of its rectangles and of its pictures."""
    row = sum(field.nbytes for field in fields.values())
    rectangles = sum(rows * columns for _, _, rows, _, columns in layout.rectangles)
    pictures = sum(prod(field.shape) for name, field in fields.items() if name in PICTURES)
    return row + 4 * (rectangles + pictures)


def _limit(loader: Loader, reads: str) -> str:
    """What a pipeline spends more of its time on: waiting for reads, or assembling."""
    return reads if loader.timing.share > 0.5 else "assembly"


# -- contenders ------------------------------------------------------------------------------------------------------


def _rowwise(samples: Rowwise, rows: int) -> Samples:
    for index in np.random.default_rng(0).permutation(rows):
        samples.sample(int(index))
        yield 1


def _assembled(loader: Loader) -> Samples:
    yield from (len(inputs.batch) for inputs in _warm(loader, Feed(loader, LAYOUT, dropout_seed=loader.seed)))


def _compact(loader: Loader) -> Samples:
    yield from (len(batch) for batch in _warm(loader, loader))


def _warm(loader: Loader, batches: "Feed | Loader") -> Iterator[Any]:
    return islice(batches, WARM * -(-GROUP // loader.batch_size), None)


def _feed(loader: Loader) -> Samples:
    feed, batch = Feed(loader, LAYOUT, dropout_seed=loader.seed), next(iter(loader)).copy()
    yield from (len(feed.move(batch).batch) for _ in repeat(None))


class _Memory:
    """Copies as many bytes as batches of samples touch, from one place to the next of buffers past every cache."""

    def __init__(self, bytes_per_sample: int, batch_size: int):
        self.samples, self.step = batch_size, bytes_per_sample * batch_size
        size = max(PAST_CACHES, 4 * _last_cache(), self.step)
        self.source, self.target = np.ones(size, np.uint8), np.ones(size, np.uint8)

    def copied(self) -> Samples:
        while True:
            for first in range(0, len(self.source) - self.step + 1, self.step):
                here = slice(first, first + self.step)
                np.copyto(self.target[here], self.source[here])
                yield self.samples


def _last_cache() -> int:
    """Bytes of the processor's largest cache, 0 where the system does not say."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes), default=0)
