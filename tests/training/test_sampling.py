"""Portraits: decided by their own seed and inputs, guided in the classic way, of the right two U-Nets."""

import numpy as np
import pytest

from featurestore.conditioning import LAYOUTS, given
from featurestore.errors import UsageError, VoxportraitError
from featurestore.slips import with_slips
from tests.training.clips import clips_in_memory
from training.loop import train
from training.sampling import Portraitist


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both U-Nets of both cascades, hardly trained."""
    folder = tmp_path_factory.mktemp("cascades")
    for system in ("full-input", "no-image-guide"):
        for unet in (1, 2):
            train(folder / f"{system}-{unet}", clips_in_memory(), system, unet, "micro", steps=8, device="cpu")
    return folder


@pytest.fixture(scope="module")
def painter(runs):
    return Portraitist.load(runs / "full-input-1", runs / "full-input-2", device="cpu")


@pytest.fixture(scope="module")
def clips():
    batch = next(clips_in_memory().in_order(np.arange(3, dtype=np.uint64))).copy()
    return batch.compact, batch.guide


def test_portraits_have_their_shapes_and_their_seeds(painter, clips):
    compact, guide = clips
    seen = []
    made = painter.draw(compact, [1, 2, 3], 2.0, guide, batch_size=2, progress=lambda *step: seen.append(step))
    assert (made.pictures.shape, made.coarse.shape) == ((3, 128, 128, 3), (3, 32, 32, 3))
    assert made.pictures.dtype == made.coarse.dtype == np.uint8
    assert seen == [(2, 3), (3, 3)]
    again = painter.draw(compact, [1, 2, 4], 2.0, guide, batch_size=2)
    np.testing.assert_array_equal(made.pictures[:2], again.pictures[:2])
    assert (made.pictures[2] != again.pictures[2]).any()


def test_a_portrait_does_not_depend_on_its_batch(painter, clips):
    compact, guide = clips
    together = painter.draw(compact, [1, 2, 3], 3.0, guide, batch_size=2).pictures
    for i in (2, 1):
        alone = painter.draw({k: v[[i]] for k, v in compact.items()}, [i + 1], 3.0, guide[[i]], batch_size=2).pictures
        assert np.abs(alone[0].astype(int) - together[i]).max() <= 1


def test_scale_0_ignores_the_condition_and_others_do_not(runs, clips):
    painter = Portraitist.load(runs / "no-image-guide-1", runs / "no-image-guide-2", device="cpu")
    compact, _ = clips
    mirrored = {key: values[::-1].copy() for key, values in compact.items()}
    unconditional = [painter.draw(inputs, [7, 8, 9], 0.0, batch_size=3).pictures for inputs in (compact, mirrored)]
    np.testing.assert_array_equal(unconditional[0], unconditional[1])
    conditional = [painter.draw(inputs, [7, 8, 9], 8.0, batch_size=3).pictures for inputs in (compact, mirrored)]
    assert (conditional[0] != conditional[1]).any()
    assert (conditional[0] != unconditional[0]).any()


def test_the_guide_decides_the_picture_in_super_resolution_and_is_needed(painter, clips):
    compact, guide = clips
    with pytest.raises(UsageError, match="needs an image guide"):
        painter.draw(compact, [1, 2, 3])
    one, other = (painter.draw(compact, [1] * 3, 1.0, g, batch_size=3).coarse for g in (guide, 255 - guide))
    assert (one != other).any()


def test_what_a_layout_withholds_is_unknown_when_portraits_are_drawn(painter, clips, monkeypatch):
    compact, guide = clips
    stored, unknown = (
        painter.draw(inputs, [1, 2, 3], 8.0, guide, batch_size=3).pictures
        for inputs in (compact, given(compact, {"gender": None}))
    )
    monkeypatch.setattr(painter, "layout", with_slips(painter.layout, "gender-withheld"))
    withheld = painter.draw(compact, [1, 2, 3], 8.0, guide, batch_size=3).pictures
    np.testing.assert_array_equal(withheld, unknown)
    assert (withheld != stored).any()


def test_other_samplers_and_steps_can_be_asked_for(painter, clips):
    compact, guide = clips
    drawn = [
        painter.draw(compact, [1] * 3, 1.0, guide, sampler, steps, batch_size=3).coarse
        for sampler, steps in [("ddim", 3), ("ancestral", 3), ("dpm-solver++", 3), ("dpm-solver++", 5)]
    ]
    assert all((a != b).any() for i, a in enumerate(drawn) for b in drawn[:i])
    with pytest.raises(UsageError, match="unknown sampler 'euler'"):
        painter.draw(compact, [1] * 3, 1.0, guide, "euler")


def test_only_the_two_unets_of_one_system_and_layout_go_together(runs):
    with pytest.raises(UsageError, match="holds U-Net 2, not U-Net 1"):
        Portraitist.load(runs / "full-input-2", runs / "full-input-1")
    with pytest.raises(UsageError, match="must agree"):
        Portraitist.load(runs / "full-input-1", runs / "no-image-guide-2")
    with pytest.raises(VoxportraitError, match="has the layout slf"):
        Portraitist.load(runs / "full-input-1", runs / "full-input-2", layout=LAYOUTS["slf-released"])


def test_portraits_are_drawn_from_the_guide_alone(painter, clips):
    _, guide = clips
    portraits = painter.draw({}, [1, 2], 1.0, guide[:2], steps=1, batch_size=2)
    assert portraits.pictures.shape == (2, 128, 128, 3)
