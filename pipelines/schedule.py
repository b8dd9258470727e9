"""Which chunk runs where, and what happens when an actor dies: the driver's loop of a fill job.

Finished chunks stay in Ray's object store until their fragment is written, once; those of a fragment that takes longer
than `journal_every` go to the journal too.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from featurestore import filling, journal
from featurestore.errors import VoxportraitError
from featurestore.filling import Chunk, Plan, Sealed, Want
from featurestore.journal import Rejected
from featurestore.leases import Lease, LeaseLost
from featurestore.ray_cluster import start_ray
from featurestore.store import Store
from pipelines.actor import ChunkReport, Loaded, Status
from pipelines.crew import Crew
from pipelines.faults import CRASH, DEADLINE, INPUT_OUTPUT, OUT_OF_MEMORY, WORKER_ERROR, Unfit, is_final
from pipelines.readiness import lines
from pipelines.worker import PARTS

COMMIT_FRAGMENTS = 16
COMMIT_SECONDS = 60.0

ATTEMPTS = 3
"""How often a clip alone may take its worker down, or a task may fail for the machine's sake."""


_NO_MEMORY = "running low on memory"
"""What Ray says of a worker that it ended because its node had no memory left."""

DEATHS = 50
"""How many workers, or three times those of the job if that is more, may be lost in a row with no clip done between."""

SILENCE = 30.0
"""Seconds that a worker may give no sign of life beyond a clip's deadline."""


@dataclass(frozen=True)
class Standing:
    """How far a job is.

    done, total: clips, with those taken over from a job that was stopped; wall: seconds so far; rate: clips a second
    since the first worker was ready, None before; report: what became of the clips; filled: clips that got each
    constituent, counted when their fragment is written; gpu_seconds: by constituent, as `Schedule.gpu_seconds` says.
    """

    doing: str
    done: int
    total: int
    wall: float
    rate: float | None
    workers: int
    report: ChunkReport
    filled: dict[str, int]
    gpu_seconds: dict[str, float]

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take at this rate; None where nobody knows."""
        return (self.total - self.done) / self.rate if self.rate else None


Progress = Callable[[Standing], None]
"""Called about twice a second."""


@dataclass(frozen=True)
class Load:
    """A task: bring the models into memory."""


@dataclass(frozen=True)
class Seal:
    """A task: write a finished fragment's columns."""

    fragment: int


@dataclass(frozen=True)
class Keep:
    """A task: put finished chunks of a fragment into the journal."""

    fragment: int


Task = Load | Chunk | Seal | Keep


@dataclass
class _Fragment:
    """Chunks of a fragment that are not done, those that are done and in memory, and those in the journal."""

    unfinished: set[str]
    kept: list[str]
    tables: dict[str, tuple[Chunk, ChunkReport, ray.ObjectRef | None]] = field(default_factory=dict)
    since: float = 0.0
    keeping: bool = False


@dataclass
class _Running:
    """An actor and its task.

    table: where the chunk's table will be; placed: Ray has found room for the actor, since `started`; answered: when
    it said last what it was at.
    """

    actor: Any
    task: Task
    reference: ray.ObjectRef
    table: ray.ObjectRef | None
    started: float
    status: ray.ObjectRef
    seen: Status
    answered: float
    placed: bool


class Schedule:
    """Runs a plan. After `run`, or after it failed: report, filled, gpu_seconds, resumed, stopped, wall."""

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
        self.resumed, self.stopped, self.wall = todo.resumed, False, 0.0
        self.todo, self.total = todo, todo.work + todo.resumed

        self.waiting: deque[Chunk] = deque()
        self.to_open = deque(todo.fragments)
        self.fragments: dict[int, _Fragment] = {}
        self.users = Counter(name for names in todo.journal.values() for name in names)
        self.to_seal: deque[int] = deque()
        self.sealed: list[Sealed] = []
        self.committed = time.monotonic()
        self.attempts: Counter[str] = Counter()
        self.deaths = self.workers = 0
        self.began = time.monotonic()
        self.filling_since: float | None = None
        self.condemned: dict[str, list[Rejected]] = {}
        self.running: list[_Running] = []

    @property
    def gpu_seconds(self) -> dict[str, float]:
        """By constituent: seconds that its network ran on a GPU, times the share of the GPU that its worker holds.

        What is made without a network, faces' detection among them, counts as none; a worker that waits, too.
        """
        share = self.crew.resources["GPU"]
        return {key: seconds * share for key, seconds in self.report.inference.items()} if share else {}

    def run(self) -> ChunkReport:
        """Do everything, or until asked to stop; what is finished is committed either way, and after an error."""
        self.began = time.monotonic()
        try:
            if self.todo.work:
                self._run_actors()
            else:
                self._seal_the_journal()
            self._commit()
        except LeaseLost:
            raise
        except Exception:
            self._salvage()
            raise
        finally:
            self.wall = time.monotonic() - self.began
            for running in self.running:
                ray.kill(running.actor)
        return self.report

    def _salvage(self) -> None:
        """Keep of a job that failed what can be kept, while it holds its lease."""
        try:
            self.lease.check()
        except (VoxportraitError, OSError, ValueError):
            return
        for state in self.fragments.values():
            for name, (_, _, table) in state.tables.items():
                with suppress(Exception):
                    journal.write(self.store.place, name, ray.get(table, timeout=10))  # type: ignore[arg-type]
        with suppress(Exception):
            self._commit()

    def _seal_the_journal(self) -> None:
        """Finish a job that was killed when all its chunks were in the journal: no worker is needed."""
        for fragment, kept in self.todo.journal.items():
            self.stopped = self.should_stop()
            if self.stopped:
                break
            self._take_sealed(filling.seal(self.store, fragment, self.todo.columns, [], kept))
            self._commit_if_due()

    def _run_actors(self) -> None:
        self.stopped = self.should_stop()
        if self.stopped:
            return
        if not ray.is_initialized():
            start_ray(self.options.address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.crew = self.crew.on(nodes)
        chunks = sum(len(self.todo.chunks(fragment)) for fragment in self.todo.fragments[:64])
        self.workers = self.crew.size(nodes, max(1, chunks))
        for _ in range(self.workers):
            self._start_actor()
        while self.running:
            self._turn()

    def _turn(self) -> None:
        if not self.stopped and self.should_stop():
            self.stopped = True
            for running in self.running:
                running.actor.stop.remote()
        ready, _ = ray.wait([r.reference for r in self.running], num_returns=len(self.running), timeout=0.05)
        if not ready:
            ready, _ = ray.wait([r.reference for r in self.running], timeout=0.45)
        for running in [r for r in self.running if r.reference in ready]:
            self._finish(running)
        for running in list(self.running):
            self._watch(running)
        self._commit_if_due()
        if self._is_done():
            for running in self.running:  # they still load, for nothing
                ray.kill(running.actor)
            self.running = []
        if self.progress:
            self.progress(self.standing())

    def standing(self) -> Standing:
        """How far the job is now."""
        now = time.monotonic()
        done = self.report.clips + sum(r.seen.done for r in self.running if isinstance(r.task, Chunk))
        loading = bool(self.running) and all(isinstance(r.task, Load) for r in self.running)
        return Standing(
            doing="stopping" if self.stopped else "starting workers" if loading else "filling",
            done=self.resumed + done,
            total=self.total,
            wall=now - self.began,
            rate=done / (now - self.filling_since) if done and self.filling_since else None,
            workers=len(self.running),
            report=self.report,
            filled=dict(self.filled),
            gpu_seconds=self.gpu_seconds,
        )

    def _is_done(self) -> bool:
        return not (self._is_chunk_left() or self.to_seal or self._to_keep()) and all(
            isinstance(running.task, Load) for running in self.running
        )

    # -- handing out ---------------------------------------------------------------------------------------------

    def _start_actor(self) -> None:
        actor = self.crew.start(self.store.uri, self.keys, self.maker_ids)
        self._assign(actor, Load(), actor.load.remote())

    def _assign(self, actor: Any, task: Task, reference: ray.ObjectRef, table: ray.ObjectRef | None = None) -> None:
        now, status, placed = time.monotonic(), actor.status.remote(), not isinstance(task, Load)
        self.running.append(_Running(actor, task, reference, table, now, status, Status(0, (), 0), now, placed))

    def _next(self, actor: Any) -> None:
        """Give an idle actor its next task, or let it go."""
        if self.to_seal:
            fragment = self.to_seal.popleft()
            state = self.fragments[fragment]
            tables = [table for _, _, table in state.tables.values()]
            self._assign(actor, Seal(fragment), actor.seal.remote(fragment, self.todo.columns, state.kept, *tables))
        elif (due := self._to_keep()) is not None:
            self.lease.check()
            state = self.fragments[due]
            state.keeping = True
            tables = [table for _, _, table in state.tables.values()]
            self._assign(actor, Keep(due), actor.keep.remote(list(state.tables), *tables))
        elif self._is_chunk_left():
            chunk = self.waiting.popleft()
            self.filling_since = self.filling_since or time.monotonic()
            self._assign(actor, chunk, *actor.run.remote(chunk, self.condemned.get(chunk.name, ())))
        else:
            ray.kill(actor)

    def _to_keep(self) -> int | None:
        """A fragment whose finished chunks have been in memory alone for long, or any when the job stops."""
        now = time.monotonic()
        for fragment, state in self.fragments.items():
            is_due = self.stopped or now - state.since > self.options.journal_every
            if state.tables and state.unfinished and is_due and not state.keeping:
                return fragment
        return None

    def _is_chunk_left(self) -> bool:
        while not self.waiting and self.to_open and not self.stopped:
            self._open(self.to_open.popleft())
        return bool(self.waiting) and not self.stopped

    def _open(self, fragment: int) -> None:
        chunks = self.todo.chunks(fragment)
        kept = list(self.todo.journal.get(fragment, ()))
        self.fragments[fragment] = _Fragment({chunk.name for chunk in chunks}, kept)
        self.waiting.extend(chunks)
        if not chunks:
            self.to_seal.append(fragment)

    # -- taking results ------------------------------------------------------------------------------------------

    def _finish(self, running: _Running) -> None:
        """Take the result of a task; an actor that died leaves its task to be done again."""
        self.running.remove(running)
        try:
            result = ray.get(running.reference)
        except ray.exceptions.RayError as error:
            self._failed(running, error)
            return
        match running.task:
            case Load():
                self.attempts["load"] = 0
                self._note_broken(result)
            case Chunk() as chunk:
                self._chunk_done(chunk, result, running.table)
            case Keep(fragment):
                state = self.fragments[fragment]
                state.keeping = False
                state.kept += result
                self.users.update(result)
                state.tables = {name: done for name, done in state.tables.items() if name not in result}
                state.since = time.monotonic()
                self._seal_if_whole(fragment)
            case Seal(fragment):
                del self.fragments[fragment]
                self._take_sealed(result)
        self._next(running.actor)

    def _failed(self, running: _Running, error: ray.exceptions.RayError) -> None:
        """Have what failed done again, unless that is of no use; its actor goes."""
        ray.kill(running.actor)
        cause = getattr(error, "cause", None)
        match cause if isinstance(cause, Exception) else error:
            case ray.exceptions.ObjectLostError():
                self._lost(running)
            case Unfit() as unfit:
                self._died(running, unfit.message, unfit.reason)
            case OSError() as failure if not is_final(failure):
                self._died(running, str(failure), INPUT_OUTPUT)
            case (VoxportraitError() | OSError()) as final:
                raise final from None
            case ray.exceptions.RayActorError() as death:
                line = _first_line(death)
                self._died(running, f"the worker died ({line})", OUT_OF_MEMORY if _NO_MEMORY in str(death) else CRASH)
            case other:
                self._died(running, f"{type(other).__name__}: {_first_line(other)}", WORKER_ERROR)

    def _note_broken(self, loaded: Loaded) -> None:
        """Tell, once each, what workers leave out because its model cannot be loaded."""
        new = {key: why for key, why in loaded.broken.items() if key in self.keys and key not in self.left_out}
        self.left_out |= new
        for line in lines(new):
            self.told(line)

    def _take_sealed(self, sealed: Sealed) -> None:
        self.sealed.append(sealed)
        self.filled.update(sealed.filled)

    def _chunk_done(self, chunk: Chunk, report: ChunkReport, table: ray.ObjectRef | None) -> None:
        """Take a chunk's result; of one that was stopped on the way, the clips that were done."""
        state = self.fragments[chunk.fragment]
        self.report += report
        if not state.tables:
            state.since = time.monotonic()
        if report.clips:
            state.tables[chunk.name] = (chunk, report, table)
        if chunk.name not in self.condemned:
            self.deaths = 0
        if report.clips == len(chunk.offsets):
            state.unfinished.discard(chunk.name)
        self._seal_if_whole(chunk.fragment)

    def _seal_if_whole(self, fragment: int) -> None:
        state = self.fragments[fragment]
        if not state.unfinished and not state.keeping and fragment not in self.to_seal:
            self.to_seal.append(fragment)

    def _commit_if_due(self) -> None:
        if len(self.sealed) >= COMMIT_FRAGMENTS or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        if self.sealed:
            filling.commit(self.store, self.sealed, self.lease, self.job_id)
            self.users.subtract(name for one in self.sealed for name in one.kept)
            done = {name for one in self.sealed for name in one.kept if self.users[name] <= 0}
            journal.remove(self.store.place, done - self.todo.foreign)
            self.sealed = []
        self.committed = time.monotonic()

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def _watch(self, running: _Running) -> None:
        """Note what an actor is at; end it when a clip, or loading, takes longer than its deadline."""
        now = time.monotonic()
        if ray.wait([running.status], timeout=0)[0]:
            try:
                running.seen = ray.get(running.status)
            except ray.exceptions.RayError:
                return  # `_finish` sees it too
            if not running.placed:
                running.started = now
            running.answered, running.placed = now, True
            running.status = running.actor.status.remote()
        silent, limit = now - running.answered, self.options.start_deadline
        if isinstance(running.task, Load):
            if now - running.started > limit:
                self._wait_no_longer(running)
            return
        if not running.seen.at and min(running.seen.seconds, now - running.started) > limit:
            self._end(running, f"reading or writing the store was not done in {limit:.0f} s", INPUT_OUTPUT)
            return
        if isinstance(running.task, Chunk):
            limit = self.options.deadline * max(1, len(running.seen.at))
        if running.seen.at and running.seen.seconds > limit:
            self._end(running, f"not done in {self.options.deadline:g} s", DEADLINE)
        elif silent > limit + SILENCE:
            self._end(running, f"no sign of life for {silent:.0f} s", DEADLINE if running.seen.at else CRASH)

    def _end(self, running: _Running, message: str, reason: str) -> None:
        ray.kill(running.actor)
        self.running.remove(running)
        self._died(running, message, reason)

    def _wait_no_longer(self, running: _Running) -> None:
        """Replace a worker that loads for ever. One that Ray has no room for waits on, as long as others are there."""
        limit = self.options.start_deadline
        if running.placed:
            self._end(running, f"not done in {limit:.0f} s", DEADLINE)
        elif not any(other.placed for other in self.running):
            raise VoxportraitError(f"no worker started in {limit:.0f} s: Ray has no room for one")

    def _died(self, running: _Running, message: str, reason: str) -> None:
        """Have the task of an actor that died, or could not do it, done again, a bounded number of times."""
        self._count_death(message)
        match running.task:
            case Load():
                self._count("load", f"a worker could not load its models: {message}. Fill fewer constituents at a time")
            case Seal(fragment):
                self._count(f"seal {fragment}", f"fragment {fragment} could not be written: {message}")
                self.to_seal.append(fragment)
            case Keep(fragment):
                self._count(f"keep {fragment}", f"the journal could not be written: {message}")
                self.fragments[fragment].keeping = False
                self._seal_if_whole(fragment)
            case Chunk() as chunk:
                self._again(chunk, running.seen.at, message, reason)
        self._start_actor()

    def _count_death(self, message: str) -> None:
        self.deaths += 1
        if self.deaths > max(DEATHS, 3 * self.workers):
            raise VoxportraitError(
                f"{self.deaths} workers were lost in a row and no clip was done: {message}. The machine or an "
                "extractor is at fault, not the clips. What is finished is kept; run the command again."
            )

    def _count(self, what: str, message: str) -> None:
        self.attempts[what] += 1
        if self.attempts[what] > ATTEMPTS:
            raise VoxportraitError(f"{message} ({ATTEMPTS} attempts). What is finished is kept; run the command again.")

    def _again(self, chunk: Chunk, at: Sequence[int], message: str, reason: str) -> None:
        """Run a chunk again, its clips alone; of one that hangs, those alone that it was at. A clip that takes its
        worker down alone is left without what it was at then."""
        self.attempts[chunk.name] += 1
        tries = self.attempts[chunk.name]
        if len(chunk.offsets) > 1:
            if reason == DEADLINE and at:
                rest = [i for i in range(len(chunk.offsets)) if i not in at]
                parts = [chunk.part([i], str(chunk.offsets[i])) for i in at]
                self.attempts.update(part.name for part in parts)
                parts += [chunk.part(rest, "r")] if rest else []
            else:
                parts = chunk.alone()
        elif tries < (2 if reason == DEADLINE else ATTEMPTS):
            parts = [chunk]
        else:
            parts = [self._condemn(chunk, message, reason, tries)]
        unfinished = self.fragments[chunk.fragment].unfinished
        unfinished.discard(chunk.name)
        unfinished.update(part.name for part in parts)
        self.waiting.extendleft(reversed(parts))

    def _condemn(self, chunk: Chunk, message: str, reason: str, tries: int) -> Chunk:
        """The chunk of one clip without what takes its worker down, which goes to quarantine."""
        whats = journal.marked(self.store.place, chunk.name)
        if not whats:
            raise VoxportraitError(f"workers fail before they reach a clip: {message} ({tries} attempts)")
        (clip,), _ = filling.read_clips(self.store, chunk)
        rejected = [
            Rejected(clip.clip_id, what, self.crew.digests[what], reason, f"{message}, {tries} times", tries)
            for what in whats
        ]
        needs = {key: PARTS[extractor.needs] for extractor in self.crew.extractors for key in extractor.makes}
        lost = frozenset(key for key in chunk.wanted[0] if {key, *needs[key]} & set(whats))
        left = chunk.without(lost, "w")
        self.condemned[left.name] = [*self.condemned.pop(chunk.name, ()), *rejected]
        return left

    def _lost(self, running: _Running) -> None:
        """Do chunks again whose results were in the memory of a node that is gone."""
        self._count_death("finished clips were lost with their node")
        match running.task:
            case Seal(fragment) | Keep(fragment):
                state = self.fragments[fragment]
                state.keeping = False
                lost = [chunk for chunk, _, _ in state.tables.values()]
                for _, report, _ in state.tables.values():
                    self.report -= report
                state.tables = {}
                state.unfinished.update(chunk.name for chunk in lost)
                self.waiting.extendleft(reversed(lost))
            case Chunk() as chunk:
                self.waiting.appendleft(chunk)
        self._start_actor()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
