"""A run goes on when others are forgotten, and says so when clips that it was trained on are."""

import pytest

from featurestore import artifacts, erasure, snapshots
from featurestore.conditioning import LAYOUTS, SYSTEMS
from featurestore.errors import VoxportraitError
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want
from training.data import check_run, note_run
from training.presets import stage_preset
from training.run import describe_run, open_run_directory

SYSTEM = SYSTEMS["full-input"]
LAYOUT = SYSTEM.layout(LAYOUTS["slf"])
OTHERS = [clip(n).clip_id for n in (5, 15)]  # of the split `test`
OURS = [clip(n).clip_id for n in (7, 8)]


@pytest.fixture
def filled(tmp_path) -> Store:
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(30))
    fill(store, [want("ecapa"), want("face_128")])
    return store


def begin(store: Store, run, snapshot: str | None = None) -> None:
    """What training does before its first step."""
    loader = store.batches(LAYOUT, 4, missing="zero", held_out="test", snapshot=snapshot)
    about = describe_run(SYSTEM, "unet1", "micro", stage_preset("micro", 1), LAYOUT, 0, 10, loader)
    check_run(run, loader)
    open_run_directory(run, about)
    note_run(run, loader)


def test_forgetting_others_does_not_stop_a_run(filled, tmp_path):
    begin(filled, tmp_path / "run")
    erasure.forget(filled, clips=OTHERS)
    begin(filled, tmp_path / "run")
    assert artifacts.checkpoints(filled) == {}


def test_a_run_on_who_was_forgotten_is_refused_in_one_line(filled, tmp_path):
    begin(filled, tmp_path / "run")
    erasure.forget(filled, clips=OURS)
    with pytest.raises(VoxportraitError, match=r"run holds 2 clips that were forgotten since"):
        begin(filled, tmp_path / "run")


def test_a_run_on_a_snapshot_goes_on_with_empty_places_and_says_it(filled, tmp_path):
    snapshots.take(filled, "first")
    begin(filled, tmp_path / "run", "first")
    erasure.forget(filled, clips=OURS)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"run holds 2 clips that were forgotten since"):
            begin(filled, tmp_path / "run", "first")
    assert artifacts.checkpoints(filled) == {str(tmp_path / "run"): 2}
