"""The fault drill: real jobs on a real store, killed at named points and at random, compared with an undisturbed one.

drill = Drill(folder, address, seed)
drill.register()
drill.run("fill", [Kill("worker", 100), Kill("before commit", 200)])
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.failpoints import Point
from featurestore.store import Store

KIT = Path(__file__).parent / "kit"
KEYS = ("drill_vector", "drill_block", "drill_picture", "drill_label")
FRAGMENTS, FRAGMENT = 20, 24
CLIPS = FRAGMENTS * FRAGMENT
POINTS: tuple[Point, ...] = ("column file", "journal", "before commit", "after commit", "forget", "compaction")


@dataclass(frozen=True, order=True)
class Kill:
    """A SIGKILL once so many values are made: of a `worker`, the `driver`, the driver `and workers`, the whole job
    `with Ray`, or of who comes first to a named point."""

    after: int
    whom: str


@contextmanager
def kit(folder: Path, pace: float, nodes: int = 1) -> Iterator[dict[str, str]]:
    """The drill's constituents in this process, and the variables that bring them and its orders into others."""
    variables = {
        "PYTHONPATH": os.pathsep.join([str(KIT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DRILL_LOG": str(folder / "made.log"),
        "DRILL_PACE": str(pace),
        "DRILL_NODES": str(nodes),
        "VOXPORTRAIT_FAILPOINTS": str(folder / "orders"),
    }
    (folder / "orders").mkdir()
    (folder / "made.log").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(KIT))
        import drillkit

        for key, entry in drillkit.CONSTITUENTS.items():
            patch.setitem(CATALOGUE, key, entry)
        yield variables


@contextmanager
def cluster(variables: Mapping[str, str], nodes: int = 1, **resources: Any) -> Iterator[Cluster]:
    """Ray nodes on this machine that jobs join, with these variables in their workers."""
    node = {"num_cpus": 2 // nodes, "memory": 8 * 2**30 // nodes, "object_store_memory": 100_000_000, **resources}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        made = _started(node, nodes)
        patch.undo()
        try:
            yield made
        finally:
            made.shutdown()


def _started(node: Mapping[str, Any], nodes: int, attempts: int = 3) -> Cluster:
    """A cluster, tried again where the machine is so busy that Ray does not wait for its own parts."""
    lean = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
    try:
        made = Cluster(initialize_head=True, head_node_args={**node, **lean})
        for _ in range(nodes - 1):
            made.add_node(**node)
        return made
    except Exception:  # Ray raises plain ones
        if attempts == 1:
            raise
        return _started(node, nodes, attempts - 1)


@dataclass
class Drill:
    """A store under fire. address: of the Ray that jobs join; kills: those that were survived, by whom they hit."""

    folder: Path
    variables: dict[str, str]
    address: str
    random: random.Random
    name: str = "store"
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def uri(self) -> str:
        return str(self.folder / self.name)

    @property
    def store(self) -> Store:
        return Store.open(self.uri)

    @property
    def orders(self) -> Path:
        return Path(self.variables["VOXPORTRAIT_FAILPOINTS"])

    def register(self) -> None:
        """Clips of 30 speakers, in pieces, each a fragment."""
        store = Store.open_or_create(self.uri)
        for start in range(0, CLIPS, FRAGMENT):
            store.register(clip(number) for number in range(start, start + FRAGMENT))

    def made(self) -> list[list[str]]:
        """What was made in all stores of the drill: clip id, constituent, node, process."""
        return [line.split() for line in Path(self.variables["DRILL_LOG"]).read_text().splitlines()]

    def fill(self, kills: Sequence[Kill] = (), *options: object) -> subprocess.CompletedProcess[str]:
        """A fill job, killed as the plan says; one that is killed with Ray has a Ray of its own."""
        ray = () if any(kill.whom == "with Ray" for kill in kills) else ("--ray-address", self.address)
        return self.run(["fill", "--constituents", ",".join(KEYS), "--journal-every", 0, *ray, *options], kills)

    def run(self, arguments: Sequence[object], kills: Sequence[Kill] = ()) -> subprocess.CompletedProcess[str]:
        """A command on the store, killed as the plan says; comes back when it ended."""
        before = len(self.made())
        command = [sys.executable, "-m", "voxportrait", *map(str, arguments), "--store", self.uri]
        with open(self.folder / "out", "w+") as out, open(self.folder / "err", "w+") as err:
            job = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | self.variables)
            waiting = sorted(kills)
            ordered: list[str] = []
            while job.poll() is None:
                ordered = self._obeyed(ordered)
                due = waiting and len(self.made()) - before >= waiting[0].after and waiting[0].whom not in ordered
                if due and waiting[0].whom in POINTS:
                    ordered.append(waiting.pop(0).whom)
                    (self.orders / ordered[-1]).touch()
                elif due and self._kill(job, waiting[0].whom):
                    waiting.pop(0)
                time.sleep(0.04)
            for left in self._obeyed(ordered):
                (self.orders / left).unlink(missing_ok=True)
            out.seek(0), err.seek(0)
            return subprocess.CompletedProcess(command, job.returncode, out.read(), err.read())

    def _obeyed(self, ordered: list[str]) -> list[str]:
        left = [point for point in ordered if (self.orders / point).exists()]
        self.kills.update(set(ordered) - set(left))
        return left

    def _kill(self, job: subprocess.Popen, whom: str) -> bool:
        """Kill whom the drill wants; False if there is nobody yet."""
        mine = psutil.Process(job.pid).children(recursive=True)
        workers = [process for process in psutil.Process().children(recursive=True) if _is_worker(process)]
        victims = {
            "worker": self.random.sample(workers, min(1, len(workers))),
            "driver": [job],
            "and workers": [job, *workers],
            "with Ray": [job, *mine],
        }[whom]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.kills[whom] += bool(victims)
        return bool(victims)


def clip(number: int) -> Clip:
    return Clip(f"drill/id{number // 16:05d}/video{number % 16:02d}/00001", f"/nowhere/{number}.mp4", "train")


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "ray::FillActor" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
