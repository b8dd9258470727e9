"""Portraits: decided by their own seed and inputs, guided in the classic way, of the right two U-Nets."""

import numpy as np
import pytest
import torch

from featurestore.conditioning import LAYOUTS, given
from featurestore.draws import sample_seed
from featurestore.errors import UsageError, VoxportraitError
from featurestore.slips import with_slips
from tests.training.clips import clips_in_memory
from training import diffusion
from training.cascade import enlarge
from training.loop import train
from training.samplers import SAMPLERS
from training.sampling import Portraitist, draw_stage, plan, threshold


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both U-Nets of both cascades, hardly trained."""
    folder = tmp_path_factory.mktemp("cascades")
    for system in ("full-input", "no-image-guide"):
        for unet in ("unet1", "unet2"):
            train(folder / f"{system}-{unet}", clips_in_memory(), system, unet, "micro", steps=8, device="cpu")
    return folder


@pytest.fixture(scope="module")
def painter(runs):
    return Portraitist.load(runs / "full-input-unet1", runs / "full-input-unet2", device="cpu")


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


@pytest.mark.parametrize("cond_scale", [0.0, 1.0, 3.0])
def test_a_portrait_does_not_depend_on_its_batch_to_the_bit(painter, clips, cond_scale):
    compact, guide = clips

    def draw(chosen, batch_size):
        inputs = {key: values[chosen] for key, values in compact.items()}
        seeds = [i + 1 for i in chosen]
        return painter.draw(inputs, seeds, cond_scale, guide[chosen], steps=2, batch_size=batch_size)

    together, turned = draw([0, 1, 2], 4), draw([2, 1, 0], 3)
    for i in range(3):
        alone = draw([i], 4)
        for one, many, other in zip(*(vars(made).values() for made in (alone, together, turned)), strict=True):
            np.testing.assert_array_equal(one[0], many[i])
            np.testing.assert_array_equal(one[0], other[2 - i])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_scale_0_is_the_unconditional_model_to_the_bit(painter, clips, sampler):
    """Drawn anew here without guidance: the U-Net on the null condition alone."""
    matrix = torch.rand(2, 256, 768)
    for stage, side in zip(painter.stages, (8, 32), strict=True):
        low = torch.rand(2, 3, side, side) * 2 - 1
        with torch.inference_mode():
            guided = draw_stage(stage, matrix, [4, 5], 0.0, low, sampler, 3)
            generators = [
                torch.Generator().manual_seed(sample_seed(seed, 0, stage.number, "portrait")) for seed in (4, 5)
            ]
            draw = lambda g=generators, s=stage.size: torch.stack([torch.randn(3, s, s, generator=one) for one in g])
            log_snr = diffusion.linear_log_snr(torch.full((2,), stage.preset.guide_noise))
            noised = diffusion.add_noise(enlarge(low, stage.size, stage.preset.enlarge), log_snr, draw())

            def unconditional(noisy, here, stage=stage, noised=noised, log_snr=log_snr):
                told = stage.predict(noisy, here, torch.zeros_like(matrix), torch.ones(2).bool(), noised, log_snr)
                return threshold(diffusion.predicted_clean(stage.preset.objective, told, noisy, here))

            expected = SAMPLERS[sampler](unconditional, draw, stage.schedule, 3).clamp(-1, 1)
        assert torch.equal(guided, expected)
        assert guided.std() > 0


def test_the_ancestral_sampler_takes_the_librarys_thousand_steps_where_nobody_says(painter):
    preset = painter.stages[0].preset
    assert plan(preset) == ("dpm-solver++", preset.sampler_steps)
    assert plan(preset, "ancestral") == ("ancestral", 1000)
    assert plan(preset, "ancestral", 7) == ("ancestral", 7)
    assert plan(preset, steps=7) == ("dpm-solver++", 7)


def test_scale_0_ignores_the_condition_and_others_do_not(runs, clips):
    painter = Portraitist.load(runs / "no-image-guide-unet1", runs / "no-image-guide-unet2", device="cpu")
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
    with pytest.raises(UsageError, match="holds the stage unet2, not unet1"):
        Portraitist.load(runs / "full-input-unet2", runs / "full-input-unet1")
    with pytest.raises(UsageError, match="must agree"):
        Portraitist.load(runs / "full-input-unet1", runs / "no-image-guide-unet2")
    with pytest.raises(VoxportraitError, match="has the layout slf"):
        Portraitist.load(runs / "full-input-unet1", runs / "full-input-unet2", layout=LAYOUTS["slf-released"])


def test_portraits_are_drawn_from_the_guide_alone(painter, clips):
    _, guide = clips
    portraits = painter.draw({}, [1, 2], 1.0, guide[:2], steps=1, batch_size=2)
    assert portraits.pictures.shape == (2, 128, 128, 3)
