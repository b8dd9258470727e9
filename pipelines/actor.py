"""The Ray actor that fills chunks: it reads the clips, makes what they lack, and writes what it made itself."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa
import ray

from featurestore import filling, journal
from featurestore.errors import VoxportraitError
from featurestore.journal import Rejected
from featurestore.store import Store
from pipelines.batching import PLACES
from pipelines.extractors import Extractor, extractors_for
from pipelines.recipe import Recipe
from pipelines.worker import Outcome, Worker


@dataclass
class ChunkReport:
    """What became of a chunk: clips done, reasons of rejections, and by constituent seconds and lost float16 values.

    inference: the seconds of those in which a network ran.
    """

    clips: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    inference: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: "ChunkReport") -> "ChunkReport":
        self.clips += other.clips
        for name in ("rejected", "seconds", "inference", "losses"):
            getattr(self, name).update(getattr(other, name))
        return self

    def __isub__(self, other: "ChunkReport") -> "ChunkReport":
        self.clips -= other.clips
        for name in ("rejected", "seconds", "inference", "losses"):
            setattr(self, name, getattr(self, name) - getattr(other, name))
        return self


@dataclass(frozen=True)
class Loaded:
    """An actor is ready. broken: constituent -> why its model could not be loaded."""

    broken: dict[str, str]


@dataclass(frozen=True)
class Status:
    """What an actor is doing: clips done of its chunk, the numbers in it of those it is at, and for how long."""

    done: int
    at: tuple[int, ...]
    seconds: float


@ray.remote
class FillActor:
    """Runs chunks one after another in one thread while another, made by `max_concurrency=2`, answers `status`."""

    def __init__(
        self,
        uri: str,
        constituents: Sequence[str],
        maker_ids: dict[str, int],
        digests: dict[str, str],
        recipe: Recipe,
        device: str,
        threads: int,
    ):
        self.store = Store(uri)
        self.constituents, self.recipe, self.device, self.threads = constituents, recipe, device, threads
        self.maker_ids, self.digests = maker_ids, digests
        self.done, self.since = 0, time.monotonic()
        self.at: tuple[int, ...] = ()
        self.stopping = False

    def load(self) -> Loaded:
        """Bring the models into memory."""
        extractors = extractors_for(self.constituents, self.recipe)
        _check_makers(extractors, self.digests)
        self.worker = Worker(extractors, self.device, self.recipe)
        broken = self.worker.load()
        pin_threads(self.threads)
        return Loaded(broken)

    def status(self) -> Status:
        return Status(self.done, self.at, time.monotonic() - self.since)

    def stop(self) -> None:
        """Come back with the clips that are done, soon."""
        self.stopping = True

    @ray.method(num_returns=2)
    def run(self, chunk: filling.Chunk, rejected: Sequence[Rejected] = ()) -> tuple[ChunkReport, pa.Table]:
        """Fill a chunk, or, when asked to stop, its first clips.

        rejected: what the driver has found that a clip of it cannot give.
        """
        clips, row_ids = filling.read_clips(self.store, chunk)
        number = {clip.clip_id: i for i, clip in enumerate(clips)}

        def at(clip_ids: Sequence[str], whats: Sequence[str]) -> None:
            here = tuple(number[clip_id] for clip_id in clip_ids)
            if self.at != here or len(here) > 1:
                self.at, self.since = here, time.monotonic()
            if len(clips) == 1:
                journal.mark(self.store.place, chunk.name, whats)

        places = [offset % PLACES for offset in chunk.offsets]
        outcomes: list[Outcome] = []
        for _, group in groupby(range(len(clips)), lambda i: places[i] // self.worker.group):
            if self.stopping and not rejected:
                break
            members = list(group)
            outcomes += self.worker.fill_group(
                [clips[i] for i in members], [chunk.wanted[i] for i in members], [places[i] for i in members], at
            )
            self.done += len(members)
        self.done, self.at = 0, ()
        if len(clips) == 1:
            journal.marked(self.store.place, chunk.name)
        found = [
            Rejected(clip.clip_id, r.what, self.digests[r.what], r.reason, r.message, r.attempts)
            for clip, outcome in zip(clips, outcomes, strict=False)
            for r in outcome.rejected
        ]
        keys = sorted(frozenset.union(*chunk.wanted))
        values = [outcome.values for outcome in outcomes]
        known = [*rejected, *found] if outcomes else []
        table, losses = journal.chunk_table(row_ids[: len(values)], keys, values, self.maker_ids, known)
        report = ChunkReport(len(outcomes), Counter(r.reason for r in known), losses=Counter(losses))
        for outcome in outcomes:
            report.seconds.update(outcome.seconds)
            report.inference.update(outcome.inference)
        return report, table

    def keep(self, names: Sequence[str], *tables: pa.Table) -> Sequence[str]:
        """Put finished chunks into the journal."""
        for name, table in zip(names, tables, strict=True):
            journal.write(self.store.place, name, table)
        return names

    def seal(self, fragment: int, columns: Mapping[str, str], kept: Sequence[str], *tables: pa.Table) -> filling.Sealed:
        """Write a finished fragment's columns from its chunks, in memory and in the journal."""
        return filling.seal(self.store, fragment, columns, tables, kept)


def pin_threads(threads: int) -> None:
    """Hold the libraries that are loaded to their share of the cores; Ray has set OMP_NUM_THREADS for the others."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def _check_makers(extractors: Sequence[Extractor], digests: dict[str, str]) -> None:
    """Refuse to work where a library or weights file of this node is another than the driver's."""
    for extractor in extractors:
        for key, maker in extractor.makers().items():
            if key in digests and maker.digest != digests[key]:
                raise VoxportraitError(
                    f"node {os.uname().nodename} would make {key} by other weights or another library version than "
                    "the job was planned with. See: voxportrait models verify --ray-address"
                )
