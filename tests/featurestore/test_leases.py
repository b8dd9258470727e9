import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from featurestore import artifacts, inprocess, leases, snapshots
from featurestore.leases import STORE, Lease, LeaseHeld, LeaseLost
from tests.featurestore.conftest import want


def test_only_one_of_many_gets_a_lease(store):

    def attempt(_: int) -> Lease | None:
        try:
            return Lease(store.place, ["a", "b"], "racing").acquire()
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(6) as pool:
        won = [lease for lease in pool.map(attempt, range(6)) if lease]
    assert len(won) == 1
    for lease in won:
        lease.release()
    with Lease(store.place, ["a", "b"], "afterwards") as lease:
        lease.check()


def test_the_refusal_says_who_and_what_to_do(store):
    with Lease(store.place, ["fragment:1"], "filling"), pytest.raises(LeaseHeld, match=r"filling .*Wait for it to end"):
        Lease(store.place, ["fragment:1", "fragment:2"], "filling").acquire()
    with Lease(store.place, ["fragment:2"], "nothing of a refused lease stays"):
        pass


def test_different_resources_do_not_meet(store):
    with Lease(store.place, ["fragment:1"], "one") as one, Lease(store.place, ["fragment:2"], "two") as two:
        one.check()
        two.check()


def test_the_lease_of_a_killed_process_is_free_at_once(store):
    code = f"""
import os, signal
from featurestore.leases import Lease
from featurestore.places import Place
Lease(Place({store.uri!r}), ["fragment:1"], "dying").acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Lease(store.place, ["fragment:1"], "next") as lease:
        lease.check()


def test_a_lease_that_ran_out_and_was_taken_stops_its_first_holder(store, monkeypatch):
    monkeypatch.setattr(leases, "TERM", -1.0)
    first = Lease(store.place, ["fragment:1"], "stalled")
    first._take()
    monkeypatch.setattr(leases, "TERM", 60.0)
    with Lease(store.place, ["fragment:1"], "next"), pytest.raises(LeaseLost, match="run the command again"):
        first.check()


def test_the_whole_store_excludes_every_part_both_ways(store):
    with Lease(store.place, ["fragment:1"], "filling"), pytest.raises(LeaseHeld, match="filling"):
        Lease(store.place, [STORE], "forgetting").acquire()
    with Lease(store.place, [STORE], "forgetting") as whole:
        with pytest.raises(LeaseHeld, match="forgetting"):
            Lease(store.place, ["fragment:1"], "filling").acquire()
        whole.check()


def test_a_lease_is_waited_for_and_that_is_said(store):
    told: list[str] = []
    first = Lease(store.place, ["fragment:1"], "filling").acquire()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(Lease(store.place, [STORE], "forgetting", wait=60, told=told.append).acquire)
        while not told:
            assert not second.done()
        first.release()
        second.result(30).release()
    assert "waiting" in told[0]
    assert "filling" in told[0]
    assert len(told) == 1


def test_a_process_lives_whatever_becomes_of_the_wall_clock(monkeypatch):
    me = leases.this_process()
    now = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: now - 3600)
    assert not leases.is_dead(me)


def test_a_process_that_may_not_be_seen_lives(monkeypatch):
    me = leases.this_process()
    read = Path.read_text

    def hidden(path: Path) -> str:
        if path.name == "stat":
            raise FileNotFoundError(path)
        return read(path)

    def refuse(*what: object) -> None:
        raise PermissionError

    def see_nothing(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(Path, "read_text", hidden)
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(psutil, "Process", see_nothing)
    assert not leases.is_dead(me)


def test_a_process_that_ended_is_dead_and_so_is_one_whose_number_another_has():
    code = "from featurestore.leases import this_process; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert leases.is_dead(ended)
    machine, pid, started = leases.this_process().split("|")
    assert leases.is_dead(f"{machine}|{pid}|{int(started) - 1}")


def test_a_lease_is_renewed_again_after_the_storage_was_gone_for_a_moment(store, tmp_path):
    turn, came, folder = threading.Semaphore(0), threading.Semaphore(0), tmp_path / "store" / "leases.lance"
    waits: list[float] = []

    class Turns(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            came.release()
            turn.acquire()
            return self.is_set()

    lease = Lease(store.place, ["fragment:1"], "filling")
    lease._stop = Turns()
    lease.acquire()
    assert came.acquire(timeout=60)
    before = lease._rows()[0]["renewed"]
    folder.rename(tmp_path / "gone")
    turn.release()
    assert came.acquire(timeout=60)
    (tmp_path / "gone").rename(folder)
    turn.release()
    assert came.acquire(timeout=60)
    assert lease._rows()[0]["renewed"] > before
    assert waits[1] < waits[0] == waits[2] == leases.TERM / 4
    lease._stop.set()
    turn.release()
    lease.release()


def test_a_lease_that_is_got_has_its_rows_though_another_came_and_went_meanwhile(store, monkeypatch):
    first, others = Lease(store.place, ["a", "b"], "first"), [Lease(store.place, ["b"], "second")]
    take = first._take

    def late() -> None:
        other = others.pop().acquire() if others else None
        take()
        if other:
            other.release()

    monkeypatch.setattr(first, "_take", late)
    with first:
        first.check()


@pytest.mark.parametrize(
    ("act", "table"),
    [
        (lambda store: inprocess.fill(store, [want("gender")], lambda clip, wanted: {}), "makers"),
        (lambda store: snapshots.take(store, "mine"), "snapshots"),
        (lambda store: artifacts.register(store, "picture", {Path("a.png"): [1]}), "artifacts"),
    ],
)
def test_nothing_is_written_under_a_lease_that_was_lost(store, monkeypatch, act, table):
    acquire = Lease.acquire

    def robbed(lease: Lease) -> Lease:
        acquire(lease)
        store.table("leases").delete("true")
        return lease

    monkeypatch.setattr(Lease, "acquire", robbed)
    with pytest.raises(LeaseLost):
        act(store)
    assert store.table(table).count_rows() == 0


def test_no_column_is_added_under_a_lease_that_was_lost(store, monkeypatch):
    plan = inprocess.filling.plan

    def late(*what):
        store.table("leases").delete("true")
        return plan(*what)

    monkeypatch.setattr(inprocess.filling, "plan", late)
    with pytest.raises(LeaseLost):
        inprocess.fill(store, [want("gender")], lambda clip, wanted: {})
    assert "gender" not in store.table("clips").schema.names
