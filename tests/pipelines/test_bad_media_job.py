"""All odd media in one job: each clip ends as values or as one quarantine row, and nothing stops the others."""

from pathlib import Path

import pytest

from featurestore.store import Store
from pipelines.job import fill
from pipelines.recipe import Recipe
from pipelines.sources import read
from tests.pipelines.media import ODD, same

MADE = {"media": "media", "speech": "sound", "short_term": "sound", "face": "face", "face_128": "face"}
"""Constituent -> what of a clip it needs."""
GOOD = 3


@pytest.fixture(scope="module")
def job(talking_head, ray_here, tmp_path_factory):
    """The store that one job makes of a folder with every odd file, each a speaker, among good ones."""
    root = tmp_path_factory.mktemp("odd") / "heads"
    odd = {name: one for name, one in ODD.items() if name != "folder.mp4"}
    for i, (name, one) in enumerate(odd.items()):
        (root / f"odd {i:02d}").mkdir(parents=True)
        one.make(Path(talking_head.path), root / f"odd {i:02d}" / name)
    for i in range(GOOD):
        (root / f"good {i}").mkdir()
        same(Path(talking_head.path), root / f"good {i}" / "talk.mp4")
    store = Store.open_or_create(str(root.parent / "store"))
    registered = store.register(read("folder", root))
    assert registered.new == len(odd) + GOOD
    summary = fill(store, list(MADE), recipe=Recipe(detector="fastmtcnn"))
    rows = store.table("clips").to_table(columns=["path", *(f"{key}_maker" for key in MADE)]).to_pylist()
    refused = {row["clip_id"]: row for row in store.table("quarantine").to_table().to_pylist()}
    ids = store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist()
    return summary, odd, dict(zip(ids, rows, strict=True)), refused, len(store.table("quarantine"))


def test_every_odd_clip_has_its_values_or_one_reason(job):
    _, odd, rows, refused, _ = job
    seen = set()
    for clip_id, row in rows.items():
        name = Path(row["path"]).name
        expected = odd.get(name)
        if not expected or not expected.what:
            assert clip_id not in refused, name
        else:
            assert (refused[clip_id]["constituent"], refused[clip_id]["reason"]) == (expected.what, expected.reason)
            assert len(refused[clip_id]["message"]) > 20
        seen.add(name)
    assert seen == {*odd, "talk.mp4"}


def test_a_clip_gives_all_that_its_fault_leaves(job):
    _, odd, rows, _, _ = job
    for row in rows.values():
        expected = odd.get(Path(row["path"]).name)
        fault = expected.what if expected else ""
        lost = {key for key, needed in MADE.items() if fault and fault in ("media", needed)}
        assert {key for key in MADE if row[f"{key}_maker"] is None} == lost, row["path"]


def test_nothing_is_quarantined_twice_or_counted_wrong(job):
    summary, odd, rows, refused, quarantined = job
    assert quarantined == len(refused) == sum(bool(one.what) for one in odd.values())
    assert sum(summary.quarantined.values()) == quarantined
    assert summary.clips == len(rows)
