"""Which chunk runs where, and what happens when an actor dies: the driver's loop of a fill job."""

import logging
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from featurestore import filling, journal
from featurestore.errors import VoxportraitError
from featurestore.filling import Chunk, Plan, Sealed, Want
from featurestore.leases import Lease
from featurestore.store import Store
from pipelines.actor import ChunkReport, Loaded, Status
from pipelines.crew import Crew
from pipelines.faults import Unfit
from pipelines.readiness import lines

COMMIT_FRAGMENTS = 16
COMMIT_SECONDS = 60.0
ATTEMPTS = 2


class Progress(Protocol):
    """Called about twice a second: clips done and to do, rejections by reason, and what is going on."""

    def __call__(self, done: int, total: int, rejected: Counter[str], doing: str) -> None: ...


@dataclass
class _Running:
    """An actor and its task: a chunk or the sealing of a fragment; None while it loads."""

    actor: Any
    reference: ray.ObjectRef
    task: Chunk | int | None
    started: float
    status: ray.ObjectRef
    seen: Status
    answered: float


class Schedule:
    """Runs a plan. After `run`, or after it failed: report, filled, resumed, stopped, wall."""

    def __init__(
        self,
        store: Store,
        wants: Sequence[Want],
        crew: Crew,
        todo: Plan,
        lease: Lease,
        job_id: str,
        progress: Progress | None,
        should_stop: Callable[[], bool],
        told: Callable[[str], None],
    ):
        self.store, self.lease, self.job_id, self.crew, self.options = store, lease, job_id, crew, crew.options
        self.keys = [want.constituent for want in wants]
        known = store.known_makers()
        self.maker_ids = {want.constituent: known[want.maker.digest] for want in wants}
        self.progress, self.should_stop, self.told = progress, should_stop, told
        self.left_out: dict[str, str] = {}
        self.report, self.filled = ChunkReport(), Counter[str]()
        self.resumed, self.stopped, self.wall = 0, False, 0.0
        self.total = todo.work

        self.waiting: deque[Chunk] = deque()
        self.unfinished: dict[int, set[str]] = {}
        self.names: dict[int, list[str]] = {}
        self.to_seal: deque[int] = deque()
        self.sealed: list[Sealed] = []
        self.committed = time.monotonic()
        self.attempts: Counter[str] = Counter()
        self.running: list[_Running] = []
        self._take_journal(todo)

    def _take_journal(self, todo: Plan) -> None:
        """Sort chunks into those that the journal has from an earlier run and those to do."""
        for fragment, chunks in todo.chunks.items():
            have = journal.finished(self.store.uri, fragment)
            self.names[fragment], self.unfinished[fragment] = [], set()
            for chunk in chunks:
                for part in [chunk] if chunk.name in have or not _any_part(chunk, have) else chunk.alone():
                    if part.name in have:
                        self.names[fragment].append(part.name)
                        self.resumed += len(part.offsets)
                    else:
                        self.unfinished[fragment].add(part.name)
                        self.waiting.append(part)
            if not self.unfinished[fragment]:
                self.to_seal.append(fragment)

    def run(self) -> ChunkReport:
        """Do everything, or until asked to stop; what is finished is committed either way."""
        began = time.monotonic()
        try:
            if self.waiting:
                self._run_actors()
            for fragment in self.to_seal:  # all their chunks were in the journal
                self._take_sealed(filling.seal(self.store, fragment, self.names[fragment], self.keys))
            self._commit()
        finally:
            self.wall = time.monotonic() - began
            for running in self.running:
                ray.kill(running.actor)
        return self.report

    def _run_actors(self) -> None:
        if not ray.is_initialized():
            start_ray(self.options.address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.crew = self.crew.on(nodes)
        for _ in range(self.crew.size(nodes, len(self.waiting))):
            self._start_actor()
        while self.running:
            self._turn()

    def _turn(self) -> None:
        self.stopped = self.stopped or self.should_stop()
        ready, _ = ray.wait([r.reference for r in self.running], timeout=0.5)
        for running in [r for r in self.running if r.reference in ready]:
            self._finish(running)
        for running in list(self.running):
            self._watch(running)
        if len(self.sealed) >= COMMIT_FRAGMENTS or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()
        if self.progress:
            under_way = sum(r.seen.done for r in self.running if isinstance(r.task, Chunk))
            loading = all(r.task is None for r in self.running)
            doing = "stopping" if self.stopped else "starting workers" if loading else "filling"
            self.progress(self.resumed + self.report.clips + under_way, self.total, self.report.rejected, doing)

    def _start_actor(self) -> None:
        actor = self.crew.start(self.store.uri, self.keys, self.maker_ids)
        self._assign(actor, None, actor.load.remote())

    def _assign(self, actor: Any, task: Chunk | int | None, reference: ray.ObjectRef) -> None:
        now = time.monotonic()
        self.running.append(_Running(actor, reference, task, now, actor.status.remote(), Status(0, None, 0), now))

    def _next(self, actor: Any) -> None:
        """Give an idle actor its next task, or let it go."""
        if self.to_seal:
            fragment = self.to_seal.popleft()
            self._assign(actor, fragment, actor.seal.remote(fragment, self.names[fragment], self.keys))
        elif self.waiting and not self.stopped:
            chunk = self.waiting.popleft()
            self._assign(actor, chunk, actor.run.remote(chunk))
        else:
            ray.kill(actor)

    def _finish(self, running: _Running) -> None:
        """Take the result of a task; an actor that died leaves its task to be done again."""
        self.running.remove(running)
        try:
            result = ray.get(running.reference)
        except ray.exceptions.RayActorError as error:
            self._died(running, f"the worker died ({_first_line(error)})", "crash")
            return
        except ray.exceptions.RayTaskError as error:
            ray.kill(running.actor)
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, Unfit):
                self._died(running, cause.message, cause.reason)
                return
            if isinstance(cause, (VoxportraitError, OSError)):
                raise cause from None
            raise
        if isinstance(result, ChunkReport) and isinstance(running.task, Chunk):
            self.report += result
            self._chunk_done(running.task)
        elif isinstance(result, Sealed):
            self._take_sealed(result)
        elif isinstance(result, Loaded):
            self._note_broken(result.broken)
        self._next(running.actor)

    def _note_broken(self, broken: dict[str, str]) -> None:
        """Tell, once each, what workers leave out because its model cannot be loaded."""
        new = {key: why for key, why in broken.items() if key in self.keys and key not in self.left_out}
        self.left_out |= new
        for line in lines(new):
            self.told(line)

    def _take_sealed(self, sealed: Sealed) -> None:
        self.sealed.append(sealed)
        self.filled.update(sealed.filled)

    def _chunk_done(self, chunk: Chunk) -> None:
        self.names[chunk.fragment].append(chunk.name)
        self.unfinished[chunk.fragment].discard(chunk.name)
        if not self.unfinished[chunk.fragment]:
            self.names[chunk.fragment].sort()
            self.to_seal.append(chunk.fragment)

    def _watch(self, running: _Running) -> None:
        """Note what an actor is at; end it when a clip, or loading, takes longer than its deadline."""
        now = time.monotonic()
        if ray.wait([running.status], timeout=0)[0]:
            try:
                running.seen, running.answered = ray.get(running.status), now
            except ray.exceptions.RayActorError:
                return  # `_finish` sees it too
            running.status = running.actor.status.remote()
        if running.task is None:
            if now - running.started > self.options.start_deadline:
                self._never_started(running)
            return
        spent = running.seen.seconds + now - running.answered
        if isinstance(running.task, Chunk) and running.seen.clip_id and spent > self.options.deadline:
            ray.kill(running.actor)
            self.running.remove(running)
            self._died(running, f"not done in {self.options.deadline:.0f} s", "deadline")

    def _never_started(self, running: _Running) -> None:
        """Go on without a worker that Ray found no place for, or that loads for ever, as long as others work."""
        ray.kill(running.actor)
        self.running.remove(running)
        if not any(other.task is not None for other in self.running):
            limit = self.options.start_deadline
            raise VoxportraitError(f"no worker started in {limit:.0f} s: Ray has no room for one, or its models hang")

    def _died(self, running: _Running, message: str, reason: str) -> None:
        task = running.task
        if task is None:
            raise VoxportraitError(
                f"a worker could not load its models: {message}. Fill fewer constituents at a time (--constituents)."
            )
        if isinstance(task, int):
            self._retry(f"seal {task}", message)
            self.to_seal.append(task)
        elif len(task.offsets) > 1:
            self.unfinished[task.fragment].discard(task.name)
            alone = task.alone()
            self.unfinished[task.fragment].update(part.name for part in alone)
            self.waiting.extendleft(reversed(alone))
        else:
            self.attempts[task.name] += 1
            if self.attempts[task.name] < ATTEMPTS:
                self.waiting.appendleft(task)
            else:
                self._quarantine(task, reason, f"{message}, {ATTEMPTS} times")
        self._start_actor()

    def _retry(self, what: str, message: str) -> None:
        self.attempts[what] += 1
        if self.attempts[what] > ATTEMPTS:
            raise VoxportraitError(f"{what} failed {self.attempts[what]} times: {message}")

    def _quarantine(self, chunk: Chunk, reason: str, message: str) -> None:
        """Journal a clip that takes its worker down as one that gives nothing."""
        (clip,), row_ids = filling.read_clips(self.store, chunk)
        rejected = journal.Rejected(clip.clip_id, "media", self.crew.digests["media"], reason, message, ATTEMPTS)
        keys = sorted(chunk.wanted[0])
        journal.write(self.store.uri, chunk.fragment, chunk.name, row_ids, keys, [{}], self.maker_ids, [rejected])
        self.report += ChunkReport(1, Counter([reason]))
        self._chunk_done(chunk)

    def _commit(self) -> None:
        if self.sealed:
            filling.commit(self.store, self.sealed, self.lease, self.job_id)
            self.sealed = []
        self.committed = time.monotonic()


def _any_part(chunk: Chunk, names: set[str]) -> bool:
    return any(part.name in names for part in chunk.alone())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def start_ray(address: str | None) -> None:
    """Join a cluster, or start Ray on this machine, quietly."""
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray starts its processes and nothing else
    options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def stop_ray() -> None:
    """Leave the cluster, or end Ray on this machine."""
    if ray.is_initialized():
        ray.shutdown()
