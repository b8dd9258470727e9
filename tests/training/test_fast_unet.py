"""The quick U-Net is the library's: the same answers, gradients and names, for every preset's kind of U-Net."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from featurestore.conditioning import COLUMNS, LAYOUTS, ROWS
from training.cascade import CascadeStage
from training.fast_unet import compiled_run, quicken
from training.presets import PRESETS, SUPER_RESOLUTION, stage_preset
from training.unets import imagen_library, library_unet

BATCH, SIDE = 2, 16
LESS: dict[str, Any] = {"dim": 8, "cond_dim": 16, "attn_heads": 4, "attn_dim_head": 8, "attn_pool_num_latents": 4}
LOW = ("lowres_cond_img", "lowres_noise_times")


def architectures():
    """Each preset's own flags and levels at the width of the smallest, one block a level."""
    for preset, stages in PRESETS.items():
        for number, stage in enumerate(stages, start=1):
            levels = len(stage.architecture["dim_mults"])
            few = {"dim_mults": (1, 2, 2, 4, 4)[:levels], "num_resnet_blocks": 1}
            yield pytest.param({**stage.architecture, **LESS, **few}, id=f"{preset}-unet{number}")


def drawn(network: nn.Module) -> nn.Module:
    """With weights none of which is zero or one, as after training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.5 if weight.ndim == 1 else 0.1)
    return network


def pair(architecture, low=True):
    library = drawn(library_unet(architecture, low))
    return library, quicken(copy.deepcopy(library), imagen_library())


def arguments(side=SIDE, low=True):
    torch.manual_seed(2)
    matrix = torch.randn(BATCH, ROWS, COLUMNS)
    matrix[:, 200:] = 0
    both = dict(zip(LOW, (torch.randn(BATCH, 3, side, side), torch.randn(BATCH)), strict=True))
    return (torch.randn(BATCH, 3, side, side), torch.linspace(-8, 8, BATCH)), {
        "text_embeds": matrix,
        "text_mask": (matrix != 0).any(-1),
        "cond_drop_prob": torch.tensor([0.0, 1.0]),
        **(both if low else {}),
    }


def answer(network, side=SIDE, low=True):
    """What it says, and the gradients of a loss of it."""
    args, more = arguments(side, low)
    network.zero_grad()
    says = network(*args, **more)
    says.float().square().mean().backward()
    return says.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def apart(one, other):
    return ((one - other).norm() / other.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("architecture", architectures())
def test_the_quick_unet_answers_as_the_librarys(architecture):
    side = 2 ** (len(architecture["dim_mults"]) + 1)
    library, quick = pair(architecture)
    assert [(n, p.shape) for n, p in quick.named_parameters()] == [(n, p.shape) for n, p in library.named_parameters()]
    assert quick.state_dict().keys() == library.state_dict().keys()
    (said, slopes), (says, gradients) = answer(library, side), answer(quick, side)
    assert apart(says, said) < 1e-5
    assert gradients.keys() == slopes.keys()
    whole = torch.stack([slope.norm() for slope in slopes.values()]).norm()
    for name, slope in slopes.items():
        assert (gradients[name] - slope).norm() < 1e-5 * (slope.norm() + whole), name


def test_without_a_low_resolution_picture_too():
    library, quick = pair({**stage_preset("small", 1).architecture, **LESS, "num_resnet_blocks": 1}, low=False)
    assert apart(answer(quick, low=False)[0], answer(library, low=False)[0]) < 1e-5


def test_every_part_that_has_a_quicker_one_is_exchanged():
    quick = quicken(library_unet({**stage_preset("small", 1).architecture, **LESS}, True), imagen_library())
    left = {type(part).__name__ for part in quick.modules()}
    assert not left & {"ChanRMSNorm", "LayerNorm", "Attention", "CrossAttention", "PerceiverAttention"} - {"LayerNorm"}
    assert all(type(part) is not imagen_library().LayerNorm for part in quick.modules())
    assert {"PixelUnshuffle", "_ChanRMSNorm", "_Attention", "_CrossAttention", "_PerceiverAttention"} <= left


def test_pictures_stay_channels_last_all_the_way_down_and_up():
    _, quick = pair({**stage_preset("small", 1).architecture, **LESS, "num_resnet_blocks": 1})
    quick.to(memory_format=torch.channels_last)
    (noisy, *rest), more = arguments()
    more["lowres_cond_img"] = more["lowres_cond_img"].contiguous(memory_format=torch.channels_last)
    other = []

    def look(part, given, _):
        if given[0].ndim == 4 and not given[0].is_contiguous(memory_format=torch.channels_last):
            other.append(part)

    for part in quick.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(look)
    quick(noisy.contiguous(memory_format=torch.channels_last), *rest, **more)
    assert not other


def test_under_autocast_norms_give_back_bfloat16_and_their_epsilon_is_one():
    _, quick = pair({**stage_preset("small", 2).architecture, **LESS, "num_resnet_blocks": 1})
    seen: dict[str, set] = {}

    def look(part, given, gives):
        seen.setdefault(type(part).__name__, set()).add((given[0].dtype, gives.dtype))

    for part in quick.modules():
        if type(part).__name__ in ("_ChanRMSNorm", "_LayerNorm"):
            part.register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        answer(quick)
    assert seen["_ChanRMSNorm"] == {(torch.bfloat16, torch.bfloat16)}
    assert all(one == other for one, other in seen["_LayerNorm"])
    norm = next(part for part in quick.modules() if type(part).__name__ == "_LayerNorm")
    small = torch.randn(4, len(norm.g)).bfloat16() / 100
    torch.testing.assert_close(norm(small).float(), norm(small.float()), rtol=2**-8, atol=2**-8)


def test_under_autocast_the_condition_stays_in_float32():
    _, quick = pair({**stage_preset("micro", 1).architecture, **LESS})
    seen: dict[str, torch.dtype] = {}
    for name in ("text_to_cond", "attn_pool", "norm_cond", "to_text_non_attn_cond", "init_conv"):
        look = lambda part, given, gives, name=name: seen.update({name: gives.dtype})
        quick.get_submodule(name).register_forward_hook(look)
    with torch.autocast("cpu", torch.bfloat16):
        answer(quick)
    assert seen.pop("init_conv") == torch.bfloat16
    assert set(seen.values()) == {torch.float32}


def test_norms_bear_zeros_and_large_numbers_in_bfloat16():
    _, quick = pair({**stage_preset("micro", 1).architecture, **LESS})
    norm = next(part for part in quick.modules() if type(part).__name__ == "_ChanRMSNorm")
    for size in (0.0, 1e-20, 1e15):
        x = torch.full((1, len(norm.gamma), 2, 2), size, dtype=torch.bfloat16, requires_grad=True)
        says = norm(x)
        says.sum().backward()
        assert says.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        if size == 1e15:
            torch.testing.assert_close(says[0, :, 0, 0].float(), norm.gamma.flatten(), rtol=2**-7, atol=0)


def test_it_compiles_to_one_graph_beside_the_module():
    preset = replace(stage_preset("micro", 1), compile=True)
    torch.manual_seed(0)
    stage = CascadeStage(1, SUPER_RESOLUTION, preset, LAYOUTS["slf"], torch.device("cpu"))
    drawn(stage.network)
    (noisy, log_snr), more = arguments()
    given = (
        noisy,
        log_snr,
        more["text_embeds"],
        more["cond_drop_prob"],
        more["lowres_cond_img"],
        more["lowres_noise_times"],
    )
    assert not stage.compiled
    want = stage.predict(*given)
    keys = list(stage.network.state_dict())
    stage.compiled = True
    run = compiled_run("eager")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.cascade.compiled_run", lambda: run)
        got = stage.predict(*given)
        other = stage.with_network(drawn(copy.deepcopy(stage.network))).predict(*given)
    assert apart(got, want) < 5e-5
    assert apart(other, want) > 1e-3
    assert list(stage.network.state_dict()) == keys
