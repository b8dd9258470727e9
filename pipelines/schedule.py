"""Which chunk runs where, and what happens when an actor dies: the driver's loop of a fill job.

Finished chunks stay in Ray's object store until their fragment is written, once; those of a fragment that takes longer
than `journal_every` go to the journal too.
"""

import logging
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from featurestore import filling, journal
from featurestore.errors import VoxportraitError
from featurestore.filling import Chunk, Plan, Sealed, Want
from featurestore.journal import Rejected
from featurestore.leases import Lease
from featurestore.store import Store
from pipelines.actor import ChunkReport, Loaded, Status
from pipelines.crew import Crew
from pipelines.faults import Unfit, is_final
from pipelines.readiness import lines
from pipelines.worker import PARTS

COMMIT_FRAGMENTS = 16
COMMIT_SECONDS = 60.0

ATTEMPTS = 3
"""How often a clip alone may take its worker down, or a task may fail for the machine's sake."""


class Progress(Protocol):
    """Called about twice a second: clips done and to do, rejections by reason, and what is going on."""

    def __call__(self, done: int, total: int, rejected: Counter[str], doing: str) -> None: ...


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
    tables: dict[str, tuple[Chunk, ray.ObjectRef | None]] = field(default_factory=dict)
    since: float = 0.0
    keeping: bool = False


@dataclass
class _Running:
    """An actor and its task. table: where the chunk's table will be."""

    actor: Any
    task: Task
    reference: ray.ObjectRef
    table: ray.ObjectRef | None
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
        self.condemned: dict[str, list[Rejected]] = {}
        self.running: list[_Running] = []

    def run(self) -> ChunkReport:
        """Do everything, or until asked to stop; what is finished is committed either way."""
        began = time.monotonic()
        try:
            if self.todo.work:
                self._run_actors()
            else:
                self._seal_the_journal()
            self._commit()
        finally:
            self.wall = time.monotonic() - began
            for running in self.running:
                ray.kill(running.actor)
        return self.report

    def _seal_the_journal(self) -> None:
        """Finish a job that was killed when all its chunks were in the journal: no worker is needed."""
        for fragment, kept in self.todo.journal.items():
            self._take_sealed(filling.seal(self.store, fragment, self.todo.columns, [], kept))

    def _run_actors(self) -> None:
        if not ray.is_initialized():
            start_ray(self.options.address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.crew = self.crew.on(nodes)
        chunks = sum(len(self.todo.chunks(fragment)) for fragment in self.todo.fragments[:64])
        for _ in range(self.crew.size(nodes, max(1, chunks))):
            self._start_actor()
        while self.running:
            self._turn()

    def _turn(self) -> None:
        self.stopped = self.stopped or self.should_stop()
        ready, _ = ray.wait([r.reference for r in self.running], num_returns=len(self.running), timeout=0.05)
        if not ready:
            ready, _ = ray.wait([r.reference for r in self.running], timeout=0.45)
        for running in [r for r in self.running if r.reference in ready]:
            self._finish(running)
        for running in list(self.running):
            self._watch(running)
        if len(self.sealed) >= COMMIT_FRAGMENTS or time.monotonic() - self.committed > COMMIT_SECONDS:
            self._commit()
        if self._is_done():
            for running in self.running:  # they still load, for nothing
                ray.kill(running.actor)
            self.running = []
        if self.progress:
            under_way = sum(r.seen.done for r in self.running if isinstance(r.task, Chunk))
            loading = bool(self.running) and all(isinstance(r.task, Load) for r in self.running)
            doing = "stopping" if self.stopped else "starting workers" if loading else "filling"
            self.progress(self.resumed + self.report.clips + under_way, self.total, self.report.rejected, doing)

    def _is_done(self) -> bool:
        return not (self._is_chunk_left() or self.to_seal or self._to_keep()) and all(
            isinstance(running.task, Load) for running in self.running
        )

    # -- handing out ---------------------------------------------------------------------------------------------

    def _start_actor(self) -> None:
        actor = self.crew.start(self.store.uri, self.keys, self.maker_ids)
        self._assign(actor, Load(), actor.load.remote())

    def _assign(self, actor: Any, task: Task, reference: ray.ObjectRef, table: ray.ObjectRef | None = None) -> None:
        now = time.monotonic()
        status = actor.status.remote()
        self.running.append(_Running(actor, task, reference, table, now, status, Status(0, None, 0), now))

    def _next(self, actor: Any) -> None:
        """Give an idle actor its next task, or let it go."""
        if self.to_seal:
            fragment = self.to_seal.popleft()
            state = self.fragments[fragment]
            tables = [reference for _, reference in state.tables.values()]
            self._assign(actor, Seal(fragment), actor.seal.remote(fragment, self.todo.columns, state.kept, *tables))
        elif (due := self._to_keep()) is not None:
            state = self.fragments[due]
            state.keeping = True
            tables = [reference for _, reference in state.tables.values()]
            self._assign(actor, Keep(due), actor.keep.remote(list(state.tables), *tables))
        elif self._is_chunk_left():
            chunk = self._next_chunk()
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

    def _next_chunk(self) -> Chunk:
        return self.waiting.popleft()

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
        except ray.exceptions.RayActorError as error:
            self._died(running, f"the worker died ({_first_line(error)})", "crash")
            return
        except ray.exceptions.ObjectLostError:
            ray.kill(running.actor)
            self._lost(running)
            return
        except ray.exceptions.RayTaskError as error:
            ray.kill(running.actor)
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, ray.exceptions.ObjectLostError):
                self._lost(running)
            elif isinstance(cause, Unfit):
                self._died(running, cause.message, cause.reason)
            elif isinstance(cause, OSError) and not is_final(cause):
                self._died(running, str(cause), "input or output error")
            elif isinstance(cause, (VoxportraitError, OSError)):
                raise cause from None
            else:
                raise
            return
        match running.task:
            case Load():
                self.attempts["load"] = 0
                self._note_broken(result)
            case Chunk() as chunk:
                self.report += result
                self._chunk_done(chunk, running.table)
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

    def _note_broken(self, loaded: Loaded) -> None:
        """Tell, once each, what workers leave out because its model cannot be loaded."""
        new = {key: why for key, why in loaded.broken.items() if key in self.keys and key not in self.left_out}
        self.left_out |= new
        for line in lines(new):
            self.told(line)

    def _take_sealed(self, sealed: Sealed) -> None:
        self.sealed.append(sealed)
        self.filled.update(sealed.filled)

    def _chunk_done(self, chunk: Chunk, table: ray.ObjectRef | None) -> None:
        state = self.fragments[chunk.fragment]
        if not state.tables:
            state.since = time.monotonic()
        state.tables[chunk.name] = (chunk, table)
        state.unfinished.discard(chunk.name)
        self._seal_if_whole(chunk.fragment)

    def _seal_if_whole(self, fragment: int) -> None:
        state = self.fragments[fragment]
        if not state.unfinished and not state.keeping and fragment not in self.to_seal:
            self.to_seal.append(fragment)

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
                running.seen, running.answered = ray.get(running.status), now
            except ray.exceptions.RayActorError:
                return  # `_finish` sees it too
            running.status = running.actor.status.remote()
        if isinstance(running.task, Load):
            if now - running.started > self.options.start_deadline:
                self._never_started(running)
            return
        spent = running.seen.seconds + now - running.answered
        if isinstance(running.task, Chunk) and running.seen.at is not None and spent > self.options.deadline:
            ray.kill(running.actor)
            self.running.remove(running)
            self._died(running, f"not done in {self.options.deadline:.0f} s", "deadline")

    def _never_started(self, running: _Running) -> None:
        """Go on without a worker that Ray found no place for, or that loads for ever, as long as others work."""
        ray.kill(running.actor)
        self.running.remove(running)
        if all(isinstance(other.task, Load) for other in self.running):
            limit = self.options.start_deadline
            raise VoxportraitError(f"no worker started in {limit:.0f} s: Ray has no room for one, or its models hang")

    def _died(self, running: _Running, message: str, reason: str) -> None:
        """Have the task of an actor that died, or could not do it, done again, a bounded number of times."""
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

    def _count(self, what: str, message: str) -> None:
        self.attempts[what] += 1
        if self.attempts[what] > ATTEMPTS:
            raise VoxportraitError(f"{message} ({ATTEMPTS} attempts). What is finished is kept; run the command again.")

    def _again(self, chunk: Chunk, at: int | None, message: str, reason: str) -> None:
        """Run a chunk again. A clip that hangs is run alone, and so are all when the worker died twice; one that takes
        its worker down alone is left without what it was at then."""
        self.attempts[chunk.name] += 1
        tries = self.attempts[chunk.name]
        if len(chunk.offsets) > 1:
            if reason == "deadline" and at is not None:
                rest = [i for i in range(len(chunk.offsets)) if i != at]
                parts = [chunk.part([at], str(chunk.offsets[at])), chunk.part(rest, f"without-{chunk.offsets[at]}")]
                self.attempts[parts[0].name] = 1
            else:
                parts = chunk.alone() if tries > 1 else [chunk]
        elif tries < (2 if reason == "deadline" else ATTEMPTS):
            parts = [chunk]
        else:
            parts = [self._condemn(chunk, message, reason, tries)]
        unfinished = self.fragments[chunk.fragment].unfinished
        unfinished.discard(chunk.name)
        unfinished.update(part.name for part in parts)
        self.waiting.extendleft(reversed(parts))

    def _condemn(self, chunk: Chunk, message: str, reason: str, tries: int) -> Chunk:
        """The chunk of one clip without what takes its worker down, which goes to quarantine."""
        (clip,), _ = filling.read_clips(self.store, chunk)
        whats = journal.marked(self.store.place, chunk.name) or ["media"]
        rejected = [
            Rejected(clip.clip_id, what, self.crew.digests[what], reason, f"{message}, {tries} times", tries)
            for what in whats
        ]
        needs = {key: PARTS[extractor.needs] for extractor in self.crew.extractors for key in extractor.makes}
        lost = frozenset(key for key in chunk.wanted[0] if {key, *needs[key]} & set(whats))
        left = chunk.without(lost, f"without-{'-'.join(whats)}")
        self.condemned[left.name] = [*self.condemned.pop(chunk.name, ()), *rejected]
        return left

    def _lost(self, running: _Running) -> None:
        """Do finished chunks again whose tables were in the memory of a node that is gone."""
        if isinstance(running.task, (Seal, Keep)):
            fragment = running.task.fragment
            self._count(f"lost {fragment}", f"finished clips of fragment {fragment} were lost with their node")
            state = self.fragments[fragment]
            chunks = [chunk for chunk, _ in state.tables.values()]
            self.report.clips -= sum(len(chunk.offsets) for chunk in chunks)
            state.tables, state.keeping = {}, False
            state.unfinished.update(chunk.name for chunk in chunks)
            self.waiting.extendleft(reversed(chunks))
        self._start_actor()


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
