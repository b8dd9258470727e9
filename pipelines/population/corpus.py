"""Write the population as a corpus: mp4 clips in VoxCeleb2's own layout, with the truth beside them.

synthesize(Path("corpus"), speakers=40, clips=80, seed=0)

corpus/vox2_meta.csv                              the official table of speakers, trailing blanks and all
corpus/vox2_attributes.csv                        age, gender, ethnicity, licence and consent of each speaker
corpus/truth.parquet                              every latent and attribute of each speaker
corpus/{dev,test}/mp4/idNNNNN/<video>/NNNNN.mp4   the clips
corpus/{dev,test}/txt/idNNNNN/<video>/NNNNN.txt   their face tracks: true boxes, one a frame
corpus/corpus.json                                what was asked for, so that a killed run goes on where it was
"""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError, VoxportraitError
from pipelines.population.files import UNFINISHED, write_text
from pipelines.population.people import Person, draw_person, stream
from pipelines.population.tables import identity_of, write_speaker_tables
from pipelines.population.voices import require_espeak

VERSION = 1
"""Raised whenever the same seed would give other people, frames or sound."""

PLAN = "corpus.json"
MOST_SPEAKERS = 99_999
TEST_SHARE = 0.3
VIDEO_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ClipPlan:
    """One clip to be filmed: whose, their video with this number, and where it goes under the corpus's folder."""

    person: Person
    video: int
    mp4: str
    track: str
    identity: str
    reference: str

    def is_complete(self, root: Path) -> bool:
        return (root / self.mp4).exists() and (root / self.track).exists()


def synthesize(
    root: Path,
    speakers: int,
    clips: int,
    seed: int = 0,
    test_speakers: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict:
    """Write a corpus of `clips` six-second clips in all, spread evenly over `speakers`, under `root`.

    test_speakers: how many of them are in the test set (30 % as usual, at least one of two); workers: processes (one a
    CPU as usual); progress: called with (clips there, clips wanted). Clips that are there already are kept. The same
    arguments but `workers` give the same bytes. Returns the folder, the counts of speakers, test speakers and clips,
    how many clips were made and kept, and the seconds it took. Raises UsageError for counts that cannot be, for a
    folder that holds something else or another corpus, and where espeak-ng is missing.
    """
    started = time.monotonic()
    test_speakers = _check(speakers, clips, seed, test_speakers)
    require_espeak()
    wanted = {"version": VERSION, "seed": seed, "speakers": speakers, "clips": clips, "test_speakers": test_speakers}
    _claim(root, wanted)
    people = [draw_person(seed, index) for index in range(speakers)]
    sets = assign_sets(seed, speakers, test_speakers)
    write_speaker_tables(root, people, sets)
    shares = [clips // speakers + (index < clips % speakers) for index in range(speakers)]
    plans = [plan for who in people for plan in plan_clips(who, sets[who.index], shares[who.index])]
    missing = [plan for plan in plans if not plan.is_complete(root)]
    kept = len(plans) - len(missing)
    progress = progress or (lambda done, total: None)
    progress(kept, clips)
    for done, _ in enumerate(_film(root, missing, workers or os.cpu_count() or 1), start=kept + 1):
        progress(done, clips)
    return {
        "root": str(root),
        "speakers": speakers,
        "test_speakers": test_speakers,
        "clips": clips,
        "made": len(missing),
        "kept": kept,
        "seconds": round(time.monotonic() - started, 2),
    }


def assign_sets(seed: int, speakers: int, test_speakers: int) -> list[str]:
    """`dev` or `test` for each speaker: those whose own lot is lowest are the test set."""
    lots = [stream(seed, "set", index).random() for index in range(speakers)]
    test = set(sorted(range(speakers), key=lots.__getitem__)[:test_speakers])
    return ["test" if index in test else "dev" for index in range(speakers)]


def plan_clips(person: Person, dataset: str, videos: int) -> list[ClipPlan]:
    """The person's first videos, one clip each, numbered through as VoxCeleb2 numbers a speaker's utterances."""
    identity = identity_of(person.index)
    plans = []
    for video in range(videos):
        letters = stream(person.seed, "video", person.index, video).choice(list(VIDEO_ID_LETTERS), 11)
        reference = "".join(letters)
        place = f"{identity}/{reference}/{video + 1:05d}"
        mp4, track = f"{dataset}/mp4/{place}.mp4", f"{dataset}/txt/{place}.txt"
        plans.append(ClipPlan(person, video, mp4, track, identity, reference))
    return plans


def _check(speakers: int, clips: int, seed: int, test_speakers: int | None) -> int:
    """The number of test speakers; UsageError for counts that cannot be."""
    if not 1 <= speakers <= MOST_SPEAKERS:
        raise UsageError(f"speakers is {speakers}; it must be from 1 to {MOST_SPEAKERS}")
    if clips < speakers:
        raise UsageError(f"{clips} clips are too few for {speakers} speakers: give at least one clip a speaker")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must not be negative")
    if test_speakers is None:
        return max(1, round(TEST_SHARE * speakers)) if speakers > 1 else 0
    if not 0 <= test_speakers <= speakers:
        raise UsageError(f"test speakers are {test_speakers}; they must be from 0 to {speakers}")
    return test_speakers


def _claim(root: Path, wanted: dict) -> None:
    """Make the folder this corpus's own, or see that it is."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a folder")
    plan = root / PLAN
    if plan.exists():
        try:
            there = json.loads(plan.read_text())
        except json.JSONDecodeError as error:
            raise UsageError(f"{plan} cannot be read; delete {root} or choose another folder") from error
        if there != wanted:
            raise UsageError(f"{root} holds another corpus ({_listed(there)}); delete it or choose another folder")
        return
    if root.exists() and not all(path.name.endswith(UNFINISHED) for path in root.iterdir()):
        raise UsageError(f"{root} is not empty and not a synthetic corpus; choose another folder")
    write_text(plan, json.dumps(wanted, indent=2) + "\n")


def _listed(plan: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items()) if isinstance(plan, dict) else "unknown"


def _film(root: Path, plans: list[ClipPlan], workers: int) -> Iterator[ClipPlan]:
    """Film the clips and yield each when it is on disk. An interrupt waits for the clips under way."""
    if workers == 1 or len(plans) < 2:
        with _one_thread():
            for plan in plans:
                yield _film_one(root, plan)
        return
    pool = ProcessPoolExecutor(min(workers, len(plans)), multiprocessing.get_context("spawn"), _start_worker)
    try:
        for future in as_completed([pool.submit(_film_one, root, plan) for plan in plans]):
            yield future.result()
    except BrokenProcessPool as error:
        message = "a process that films clips died (out of memory?); run the same again to go on, with fewer workers"
        raise VoxportraitError(message) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _film_one(root: Path, plan: ClipPlan) -> ClipPlan:
    from pipelines.population.recording import record_clip

    record_clip(plan.person, plan.video, root / plan.mp4, root / plan.track, plan.identity, plan.reference)
    return plan


def _start_worker() -> None:
    """A worker leaves interrupts to its parent, ends when the parent is killed, and computes on one thread."""
    import cv2
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    threadpool_limits(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    import cv2
    from threadpoolctl import threadpool_limits

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(threads)
