"""Filling, registering, compacting and forgetting at once, in threads: each waits for the others, or says so."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from featurestore import compaction, erasure, filling, inprocess
from featurestore.leases import LeaseHeld
from featurestore.schema import decode
from featurestore.store import Store
from featurestore.verify import verify
from tests.featurestore.conftest import clip, value, want

CLIPS = 240
WANTS = [want("ecapa"), want("gender")]
FORGOTTEN = ["made/id00003", "made/id00030", "made/id00050"]


def in_the_end(work: Callable[[], object]) -> None:
    """Do work that leaves with a clear word while others are at work."""
    while True:
        try:
            work()
            return
        except LeaseHeld:
            time.sleep(0.05)


def test_all_at_once_leave_what_one_after_the_other_would(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    for start in range(0, CLIPS // 2, 20):
        store.register(clip(number) for number in range(start, start + 20))

    def register() -> None:
        for start in range(0, CLIPS, 20):
            in_the_end(partial(store.register, [clip(number) for number in range(start, start + 20)]))

    def fill() -> None:
        for _ in range(8):
            in_the_end(fill_what_is_missing)

    def fill_what_is_missing() -> None:
        inprocess.fill(
            store, WANTS, lambda one, wanted: {n: v for key in wanted for n, v in value(key, one.clip_id).items()}
        )

    def compact() -> None:
        for _ in range(4):
            compaction.compact(store, wait=120)

    def forget() -> None:
        for speaker in FORGOTTEN:
            erasure.forget(store, [speaker], asked_by="the test", wait=120)

    fill_what_is_missing()
    with ThreadPoolExecutor() as threads:
        for job in [threads.submit(work) for work in (register, fill, compact, forget)]:
            job.result()
    again = store.register(clip(number) for number in range(CLIPS))
    assert (again.new, again.refused) == (0, 2 * len(FORGOTTEN))
    fill_what_is_missing()
    assert filling.plan(store, WANTS).fragments == []
    table = store.table("clips").to_table(columns=["clip_id", "ecapa", "gender"])
    ids = table["clip_id"].to_pylist()
    assert sorted(ids) == sorted(i for i in (clip(n).clip_id for n in range(CLIPS)) if i[:12] not in FORGOTTEN)
    made = np.stack([value("ecapa", i)["ecapa"] for i in ids]).astype(np.float16)
    np.testing.assert_array_equal(decode(table["ecapa"], (192,), "float16"), made)
    assert table["gender"].null_count == 0
    assert not verify(store)
