"""Leases: who may change which part of the store, kept in the store itself and renewed while the holder lives.

A lease is a row of the `leases` table; Lance's own commit protocol decides who gets it, on a disk as on an object
store. A holder that died on this machine is noticed at once, on another machine when its lease expires. The lease of
the resource `STORE` excludes every other one.
"""

import getpass
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lance
import psutil
import pyarrow as pa

from featurestore.errors import VoxportraitError
from featurestore.places import Place
from featurestore.schema import LEASES

STORE = "store"
"""The whole store: who holds it is alone."""

TERM = 60.0
"""Seconds until a lease that is not renewed expires; it is renewed four times as often."""


class LeaseHeld(VoxportraitError):
    """Another job holds what was asked for."""


class LeaseLost(VoxportraitError):
    """The lease was taken over while it was held: nothing may be committed under it any more."""


def who_am_i() -> str:
    """user@host, for people."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip() if boot.exists() else socket.gethostname()}:{_link(namespace)}"


def _link(path: Path) -> str:
    return os.readlink(path) if path.is_symlink() else ""


def this_process() -> str:
    """A name for this process that no other ever has: machine and process namespace, pid, start time."""
    return f"{_machine()}|{os.getpid()}|{_ticks(os.getpid()) or psutil.Process().create_time()}"


def _ticks(pid: int) -> str | None:
    """When a process started, in clock ticks since the machine did; None where that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def is_dead(process: str) -> bool:
    """True if the process surely is gone: it ran in this very process namespace and is not there any more."""
    machine, pid, started = process.split("|")
    if machine != _machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        pass
    return _ticks(int(pid)) not in (started, None)


class Lease:
    """Resources of a store held by this process, renewed by a thread until released. A context manager.

    resources: names, such as `fragment:7`, or STORE for everything. `acquire` is all or nothing; wait: seconds until it
    gives up; told: called once with who is waited for. `check` raises LeaseLost when any resource was taken over: call
    it before every commit.
    """

    def __init__(
        self,
        place: Place,
        resources: Sequence[str],
        purpose: str,
        wait: float = 0.0,
        told: Callable[[str], None] = lambda line: None,
    ):
        self.place, self.resources, self.purpose = place, sorted(resources), purpose
        self.wait, self.told = wait, told
        self.holder = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def acquire(self) -> "Lease":
        """Take all resources or raise LeaseHeld, saying who has them and what to do."""
        until, waited = time.monotonic() + self.wait, False
        while True:
            try:
                return self._acquire()
            except LeaseHeld as held:
                if time.monotonic() >= until:
                    raise
                if not waited:
                    self.told(f"waiting: {held}")
                waited = True
                time.sleep(random.uniform(0.5, 1.5) * min(2.0, max(0.1, self.wait / 20)))

    def _acquire(self) -> "Lease":
        is_mine = False
        while not is_mine:  # again where who came first is gone already
            held = self._others(self._rows())
            if alive := [row for row in held if not is_dead(row["process"])]:
                raise LeaseHeld(_explain(alive))
            self._clear(dead=sorted({row["holder"] for row in held}))
            self._take()
            rows = self._rows()
            held, is_mine = self._others(rows), self._mine(rows) == self.resources
            if held or not is_mine:
                self._delete()
            if held:
                raise LeaseHeld(_explain(held))
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def check(self) -> None:
        """Raise LeaseLost unless every resource is still held by this lease."""
        if self._lost or self._mine(self._rows()) != self.resources:
            self._lost = True
            raise LeaseLost(
                f"the lease on the store was lost while {self.purpose}: another job took it over, nothing more is "
                "written. What was finished is kept; run the command again to go on."
            )

    def release(self) -> None:
        """Give the resources back. Safe to call twice."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        self._delete()

    def __enter__(self) -> "Lease":
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def _dataset(self) -> lance.LanceDataset:
        return self.place.table("leases")

    def _rows(self) -> list[dict[str, Any]]:
        """Rows that hold what this lease is about."""
        wanted = set(self.resources)
        rows = self._dataset().to_table().to_pylist()
        return [row for row in rows if row["resource"] in wanted or STORE in (row["resource"], *self.resources)]

    def _mine(self, rows: list[dict[str, Any]]) -> list[str]:
        return sorted(row["resource"] for row in rows if row["holder"] == self.holder)

    def _others(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        now = time.time()
        return [row for row in rows if row["holder"] != self.holder and row["expires"] > now]

    def _clear(self, dead: list[str]) -> None:
        """Remove the rows of dead holders, and rows that ran out: a holder that wakes up again finds its own gone."""
        gone = [f"expires < {time.time()}", *(f"holder = '{holder}'" for holder in dead)]
        self._dataset().delete(" OR ".join(gone))

    def _take(self) -> None:
        now = time.time()
        rows = [
            {
                "resource": resource,
                "holder": self.holder,
                "who": f"{who_am_i()} {self.purpose}",
                "process": this_process(),
                "renewed": now,
                "expires": now + TERM,
            }
            for resource in self.resources
        ]
        merge = self._dataset().merge_insert("resource").when_not_matched_insert_all()
        merge.conflict_retries(30).execute(pa.Table.from_pylist(rows, LEASES))

    def _renew(self) -> None:
        wait = TERM / 4
        while not self._stop.wait(wait):
            now, wait = time.time(), TERM / 4
            try:
                dataset = self._dataset()
                dataset.update({"renewed": str(now), "expires": str(now + TERM)}, where=f"holder = '{self.holder}'")
                dataset.cleanup_old_versions(retain_versions=20)
            except Exception:  # noqa: BLE001 - tried again soon; a lease that runs out is noticed by `check`
                wait = TERM / 40

    def _delete(self) -> None:
        self._dataset().delete(f"holder = '{self.holder}'")


def _explain(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    age = max(0, time.time() - first["renewed"])
    return (
        f"the store is in use: {first['who']} (last sign of life {age:.0f} s ago). Wait for it to end, or stop it; a "
        f"job that died elsewhere frees the store {TERM:.0f} s after its last sign of life."
    )
