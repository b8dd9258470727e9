import numpy as np
import pytest

from featurestore.conditioning import LAYOUTS, SYSTEMS
from featurestore.errors import VoxportraitError
from featurestore.loader import Loader
from tests.featurestore.conftest import clip, fill, value, want

LAYOUT = SYSTEMS["full-input"].layout(LAYOUTS["slf"])


@pytest.fixture
def filled(store):
    fill(store, [want("ecapa"), want("face_128"), want("gender")], {clip(1).clip_id: "no sound"})
    return store


def test_a_batch_holds_the_values_of_its_clips(filled):
    batch = next(Loader(filled, LAYOUT, 8).batches(0))
    assert set(batch.compact) == {"ecapa", "gender"}
    for i, clip_id in enumerate(batch.clip_ids):
        np.testing.assert_array_equal(batch.compact["ecapa"][i], value("ecapa", clip_id)["ecapa"].astype(np.float16))
        np.testing.assert_array_equal(batch.target[i], value("face_128", clip_id)["face_128"])
        np.testing.assert_array_equal(batch.guide[i], value("face_128", clip_id)["face_128_guide"])
    assert batch.compact["gender"].tolist() == [1] * 8


def test_an_epoch_is_every_usable_clip_once_in_an_order_of_its_own(filled):
    loader = Loader(filled, LAYOUT, 10, seed=3)
    epochs = [[i for batch in loader.batches(epoch) for i in batch.clip_ids] for epoch in (0, 1)]
    assert len(epochs[0]) == len(set(epochs[0])) == 230  # 239 train clips, one of them without values, in full batches
    assert clip(1).clip_id not in epochs[0]
    assert epochs[0] != epochs[1]
    again = [i for batch in Loader(filled, LAYOUT, 10, seed=3).batches(0) for i in batch.clip_ids]
    assert again == epochs[0]


def test_a_resume_goes_on_where_it_was(filled):
    loader = Loader(filled, LAYOUT, 10)
    whole = [batch.clip_ids for batch in loader.batches(2)]
    assert [batch.clip_ids for batch in loader.batches(2, start=7)] == whole[7:]


@pytest.mark.parametrize("batch_size", [10, 120])
def test_an_unfinished_epoch_lets_its_reader_go(filled, batch_size):
    import threading

    batches = Loader(filled, LAYOUT, batch_size).batches(0)
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.name == "loader":
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_the_run_record_names_what_is_untrained_and_absent(filled):
    about = Loader(filled, LAYOUT, 10).describe()
    assert about["clips"] == 239
    assert "ecapa" in about["untrained"]
    assert "titanet" in about["absent"]


def test_a_store_without_faces_says_what_is_missing(store):
    fill(store, [want("ecapa")])
    with pytest.raises(VoxportraitError, match="no clip of split 'train'"):
        Loader(store, LAYOUT, 8)
