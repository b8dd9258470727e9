import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore import leases
from featurestore.leases import STORE, Lease, LeaseHeld, LeaseLost


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
