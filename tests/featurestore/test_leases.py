import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore import leases
from featurestore.leases import Lease, LeaseHeld, LeaseLost


def test_only_one_of_many_gets_a_lease(store):
    uri = store.table_uri("leases")

    def attempt(_: int) -> Lease | None:
        try:
            return Lease(uri, ["a", "b"], "racing").acquire()
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(6) as pool:
        won = [lease for lease in pool.map(attempt, range(6)) if lease]
    assert len(won) == 1
    for lease in won:
        lease.release()
    with Lease(uri, ["a", "b"], "afterwards") as lease:
        lease.check()


def test_the_refusal_says_who_and_what_to_do(store):
    uri = store.table_uri("leases")
    with Lease(uri, ["fragment:1"], "filling"), pytest.raises(LeaseHeld, match=r"filling .*Wait for it to end"):
        Lease(uri, ["fragment:1", "fragment:2"], "filling").acquire()
    with Lease(uri, ["fragment:2"], "nothing of a refused lease stays"):
        pass


def test_different_resources_do_not_meet(store):
    uri = store.table_uri("leases")
    with Lease(uri, ["fragment:1"], "one") as one, Lease(uri, ["fragment:2"], "two") as two:
        one.check()
        two.check()


def test_the_lease_of_a_killed_process_is_free_at_once(store):
    uri = store.table_uri("leases")
    code = f"""
import os, signal
from featurestore.leases import Lease
Lease({uri!r}, ["fragment:1"], "dying").acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Lease(uri, ["fragment:1"], "next") as lease:
        lease.check()


def test_a_lease_that_ran_out_and_was_taken_stops_its_first_holder(store, monkeypatch):
    uri = store.table_uri("leases")
    monkeypatch.setattr(leases, "TERM", -1.0)
    first = Lease(uri, ["fragment:1"], "stalled")
    first._take(dead=[])
    monkeypatch.setattr(leases, "TERM", 60.0)
    with Lease(uri, ["fragment:1"], "next"), pytest.raises(LeaseLost, match="run the command again"):
        first.check()
