"""The Ray actor that fills chunks: it reads the clips, makes what they lack, and writes a journal file itself."""

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import ray

from featurestore import filling, journal
from featurestore.errors import VoxportraitError
from featurestore.store import Store
from pipelines.batching import PLACES
from pipelines.extractors import Extractor, extractors_for
from pipelines.recipe import Recipe
from pipelines.worker import Outcome, Worker


@dataclass
class ChunkReport:
    """What became of a chunk: clips done, reasons of rejections, seconds and lost float16 values by constituent."""

    clips: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: "ChunkReport") -> "ChunkReport":
        self.clips += other.clips
        self.rejected += other.rejected
        self.seconds += other.seconds
        self.losses += other.losses
        return self


@dataclass(frozen=True)
class Loaded:
    """An actor is ready. broken: constituent -> why its model could not be loaded."""

    broken: dict[str, str]


@dataclass(frozen=True)
class Status:
    """What an actor is doing: clips done of its chunk, the clip it is at, seconds it has been at it."""

    done: int
    clip_id: str | None
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
        self.clip_id: str | None = None

    def load(self) -> Loaded:
        """Bring the models into memory."""
        extractors = extractors_for(self.constituents, self.recipe)
        _check_makers(extractors, self.digests)
        self.worker = Worker(extractors, self.device, self.recipe)
        broken = self.worker.load()
        _pin_threads(self.threads)
        return Loaded(broken)

    def status(self) -> Status:
        return Status(self.done, self.clip_id, time.monotonic() - self.since)

    def _at(self, clip_id: str) -> None:
        self.clip_id, self.since = clip_id, time.monotonic()

    def run(self, chunk: filling.Chunk) -> ChunkReport:
        """Fill a chunk and journal it."""
        self.done = 0
        clips, row_ids = filling.read_clips(self.store, chunk)
        places = [offset % PLACES for offset in chunk.offsets]
        outcomes: list[Outcome] = []
        for _, group in groupby(range(len(clips)), lambda i: places[i] // self.worker.group):
            members = list(group)
            outcomes += self.worker.fill_group(
                [clips[i] for i in members], [chunk.wanted[i] for i in members], [places[i] for i in members], self._at
            )
            self.done += len(members)
        rejected = [
            journal.Rejected(clip.clip_id, r.what, self.digests[r.what], r.reason, r.message)
            for clip, outcome in zip(clips, outcomes, strict=True)
            for r in outcome.rejected
        ]
        report = ChunkReport(len(clips))
        for outcome in outcomes:
            report.seconds.update(outcome.seconds)
        self.clip_id = None
        keys = sorted(frozenset.union(*chunk.wanted))
        losses = journal.write(
            self.store.uri,
            chunk.fragment,
            chunk.name,
            row_ids,
            keys,
            [o.values for o in outcomes],
            self.maker_ids,
            rejected,
        )
        report.losses.update(losses)
        report.rejected.update(r.reason for r in rejected)
        return report

    def seal(self, fragment: int, names: Sequence[str], keys: Sequence[str]) -> filling.Sealed:
        """Write a finished fragment's columns from its journal."""
        return filling.seal(self.store, fragment, names, keys)


def _pin_threads(threads: int) -> None:
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
