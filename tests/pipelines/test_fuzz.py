"""Damaged copies of a real mp4: each gives values or a reason, and a process that dies or hangs is seen as such."""

import os
import time
from pathlib import Path

import pytest

from infra import fuzz as fuzzing
from infra.damage import DAMAGES, damaged
from infra.fuzz import fuzz

COPIES = 40


def test_every_damaged_copy_gives_values_or_a_reason(talking_head):
    report = fuzz(Path(talking_head.path), COPIES, seed=0, processes=1)
    assert report.odd == {}
    assert report.ends["values"] + report.ends["rejected"] == COPIES
    assert min(report.ends["values"], report.ends["rejected"]) > 3
    assert report.clean
    assert {"media: truncated", "sound: damaged", "face: damaged"} <= set(report.reasons)
    assert report.largest_mib < 2_048


def test_copies_are_the_same_for_the_same_seed_and_all_damaged(talking_head):
    data = Path(talking_head.path).read_bytes()
    copies = [damaged(data, 3, number) for number in range(30)]
    assert copies == [damaged(data, 3, number) for number in range(30)]
    assert len({data, *copies}) == 31
    assert damaged(data, 4, 0) != copies[0]


@pytest.mark.parametrize("size", [0, 1, 9, 100])
def test_small_files_are_damaged_too(size):
    for number in range(20 * len(DAMAGES)):
        assert isinstance(damaged(bytes(size), 0, number), bytes)


def test_a_crash_and_a_hang_are_counted_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "_serve", answer)
    monkeypatch.setattr(fuzzing, "damaged", lambda data, seed, number: CONTENT[number])
    (tmp_path / "a.mp4").write_bytes(b"x")
    report = fuzz(tmp_path / "a.mp4", len(CONTENT), processes=1, deadline=3)
    assert report.ends == {"values": 2, "rejected": 1, "crashed": 1, "hung": 1, "failed": 1}
    assert report.odd == {1: "crashed SIGABRT", 3: "hung for 3 s", 4: "failed KeyError"}
    assert report.reasons == {"media: truncated": 1}
    assert report.unaccounted == 0
    assert not report.clean


CONTENT = [b"good", b"crash", b"bad", b"hang", b"raise", b"good"]


def answer(connection) -> None:
    """What the real processes do, with the end that the file's content names."""
    connection.send("ready")
    while True:
        content = Path(connection.recv()).read_bytes()
        if content == b"crash":
            os.abort()
        if content == b"hang":
            time.sleep(60)
        ends = {
            b"good": fuzzing.Attempt("values"),
            b"bad": fuzzing.Attempt("rejected", ("media: truncated",)),
            b"raise": fuzzing.Attempt("failed", ("KeyError",)),
        }
        connection.send(ends[content])
