"""Our loss and our ancestral sampler are imagen-pytorch's, for the same draws."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from featurestore.conditioning import LAYOUTS
from training.cascade import CascadeStage, Inputs, Noise
from training.diffusion import SCHEDULES
from training.presets import GENERATION, SUPER_RESOLUTION, stage_preset
from training.samplers import SAMPLERS, ancestral
from training.sampling import guided
from training.unets import imagen_library

CPU = torch.device("cpu")
BATCH = 3


def stages(cascade, objective):
    """Both stages of a cascade in the library's own way, with an output layer that is not zero."""
    torch.manual_seed(1)
    both = []
    for number in (1, 2):
        preset = replace(stage_preset("micro", number), objective=objective, crop=0, gamma=5.0, enlarge="nearest")
        preset = replace(preset, most_guide_noise=1.0, condition_gain=1.0)
        stage = CascadeStage(number, cascade, preset, LAYOUTS["slf"], CPU)
        torch.nn.init.normal_(stage.network.get_parameter("final_conv.weight"), std=0.1)
        both.append(stage)
    return both


def imagen(cascade, both, objective, **more):
    library = imagen_library()
    null = (library.NullUnet(),) if cascade is SUPER_RESOLUTION else ()
    sizes = (8, 32, 128) if cascade is SUPER_RESOLUTION else (32, 128)
    networks = (*null, *(stage.network for stage in both))
    return library.Imagen(networks, image_sizes=sizes, text_embed_dim=768, pred_objectives=objective, **more)


def pictures_and_matrix():
    """Pictures of 4 x 4 squares, which every way of shrinking treats alike, and a matrix with empty rows."""
    torch.manual_seed(2)
    pictures = F.interpolate(torch.rand(BATCH, 3, 32, 32), 128)
    matrix = torch.randn(BATCH, 256, 768)
    matrix[:, 100:] = 0
    matrix[1, 20:30] = 0
    return pictures, matrix


@pytest.mark.parametrize("objective", ["noise", "v", "x_start"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("cascade", [SUPER_RESOLUTION, GENERATION], ids=lambda cascade: cascade.name)
def test_the_loss_and_its_gradients_equal_the_librarys(cascade, number, objective):
    both = stages(cascade, objective)
    stage = both[number - 1]
    pictures, matrix = pictures_and_matrix()
    theirs = imagen(cascade, both, objective)
    torch.manual_seed(3)
    expected = theirs(pictures, text_embeds=matrix, unet_number=number + (cascade is SUPER_RESOLUTION))
    expected.backward()
    want = [p.grad.clone() for p in stage.network.parameters() if p.grad is not None]

    torch.manual_seed(3)
    time = torch.zeros(BATCH).uniform_(0, 1)
    low_time = torch.zeros(1).uniform_(0, 1).expand(BATCH) if stage.low_size else torch.zeros(BATCH)
    picture = torch.randn(BATCH, 3, stage.size, stage.size)
    low_picture = torch.randn_like(picture) if stage.low_size else picture
    drop = torch.zeros(BATCH).uniform_(0, 1) >= 0.9
    noise = Noise(time, low_time, picture, low_picture, drop, torch.zeros(BATCH, 2))
    guide = F.interpolate(pictures, 8) * 2 - 1
    stage.network.zero_grad()
    loss = stage.loss(Inputs(matrix, pictures * 2 - 1, guide), noise).mean()
    loss.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    got = [p.grad for p in stage.network.parameters() if p.grad is not None]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cond_scale", [1.0, 3.0])
def test_the_ancestral_sampler_equals_the_librarys_with_classic_guidance(cond_scale):
    both = stages(GENERATION, "v")
    _, matrix = pictures_and_matrix()
    theirs = imagen(GENERATION, both, "v", timesteps=5)
    torch.manual_seed(4)
    expected = theirs.sample(
        text_embeds=matrix,
        cond_scale=cond_scale,
        cfg_remove_parallel_component=False,
        stop_at_unet_number=1,
        use_tqdm=False,
    )
    torch.manual_seed(4)
    with torch.no_grad():
        denoise = guided(both[0], matrix, cond_scale)
        got = ancestral(denoise, lambda: torch.randn(BATCH, 3, 32, 32), both[0].schedule, 5)
    torch.testing.assert_close((got.clamp(-1, 1) + 1) / 2, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_samplers_keep_the_mean_and_spread_of_a_gaussian(sampler, schedule):
    mean, spread = 0.3, 0.12
    generator = torch.Generator().manual_seed(0)

    def denoise(x, log_snr):
        """What an ideal model would see: the posterior mean of N(mean, spread^2)."""
        alpha, sigma2 = torch.sigmoid(log_snr).sqrt()[:, None, None, None], torch.sigmoid(-log_snr)[:, None, None, None]
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma2)
        return mean + gain * (x - alpha * mean)

    draw = lambda: torch.randn(2, 3, 64, 64, generator=generator)
    steps = {"ancestral": 250, "ddim": 100, "dpm-solver++": 20}[sampler]
    drawn = SAMPLERS[sampler](denoise, draw, SCHEDULES[schedule], steps)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.005)
    assert drawn.std().item() == pytest.approx(spread, rel=0.08)


def test_a_crop_is_the_square_at_its_corner_on_the_grid_of_the_low_picture():
    stage = CascadeStage(2, SUPER_RESOLUTION, stage_preset("micro", 2), LAYOUTS["slf"], CPU)
    pictures = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    corner = torch.tensor([[0.0, 0.9999], [0.5, 0.26], [1.0, 0.0]])
    cropped = stage._crop(pictures, corner)
    want = [
        picture[:, y : y + 32, x : x + 32] for picture, y, x in zip(pictures, (0, 48, 96), (96, 24, 0), strict=True)
    ]
    assert torch.equal(cropped, torch.stack(want))


@pytest.mark.parametrize("number", [1, 2])
def test_a_loss_reads_nothing_back_from_the_device(number):
    """Meta tensors have no numbers to read: on a GPU each reading would wait for it."""
    stage = CascadeStage(number, SUPER_RESOLUTION, stage_preset("micro", number), LAYOUTS["slf"], CPU)
    stage.network = lambda noisy, *told, **more: noisy * 2  # type: ignore[assignment]
    side = stage.preset.crop or stage.size
    with torch.device("meta"):
        inputs = Inputs(torch.rand(3, 256, 768), torch.rand(3, 3, 128, 128), torch.rand(3, 3, 8, 8))
        pictures = torch.rand(2, 3, 3, side, side)
        noise = Noise(torch.rand(3), torch.rand(3), pictures[0], pictures[1], torch.rand(3) > 0.5, torch.rand(3, 2))
    assert stage.loss(inputs, noise).shape == (3,)
