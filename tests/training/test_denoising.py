"""Latent stages: what reaches the U-Net, its loss by diffusers' own, drawing, and learning that goes on to the bit."""

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from featurestore import feed
from featurestore.conditioning import LAYOUTS, NO_MATRIX, system
from featurestore.errors import UsageError
from featurestore.records import Batch
from training.latent.denoising import LatentStage, draw_latents
from training.latent.presets import QUERY, LatentPreset, _unet
from training.latent.schedule import sampling_schedule, scheduler
from training.ranks import Ranks
from training.step import Learner

CPU = torch.device("cpu")
SHAPE, TOKENS = (4, 8, 8), (6, 10)
FULL, ONE = system("fine-portraitist"), system("one-stage")
STAGES = ("face", "bottom", "upper")
PRESET = LatentPreset(
    _unet((8, 16), (False, True), 1, 8, groups=4),
    batch_size=4, steps=8, condition_width=16, pooled=True, learning_rate=1e-3, sampler_steps=3, ema_decay=0.9,
    prediction="v_prediction", zero_terminal_snr=True, prior_drop=0.3, condition_drop=0.3,
)  # fmt: skip
STEPS = 4


@dataclass
class PlainCodec:
    """What is asked of a codec: its pictures are the first three channels of a latent."""

    latent_shape: tuple[int, int, int] = SHAPE
    token_shape: tuple[int, int] = TOKENS

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].clamp(-1, 1)


def stage_of(name: str = "upper", whose=FULL, layout=NO_MATRIX, **settings) -> LatentStage:
    """An untrained stage whose output layer is not small."""
    torch.manual_seed(0)
    made = LatentStage(name, whose, replace(PRESET, **settings), layout, CPU, PlainCodec())
    torch.nn.init.normal_(made.network.get_parameter("unet.conv_out.weight"), std=0.1)
    return made


@pytest.fixture(scope="module")
def stage():
    return stage_of()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fed(number: int = 0, size: int = 4, own: slice = slice(None), gone: bool = False) -> feed.Inputs:
    """The part `own` of global batch `number`; every third has no prior."""
    names = ("face_latent", "bottom_latent", "prior_face", "prior_bottom", "drawn_bottom")
    positions = np.arange(number * size, (number + 1) * size)
    beside = {name: normal(size, *SHAPE, seed=100 * number + i).half() for i, name in enumerate(names)}
    beside |= {"tokens": normal(size, *TOKENS, seed=number).half(), "query": queries(size, seed=number).half()}
    beside |= {"has_prior": torch.from_numpy((positions % 3 > 0).astype(np.uint8))}
    rows = Batch(0, number, positions[own], positions[own].astype(np.uint64), [], {}, {})
    return feed.Inputs(rows, normal(size, 256, 768)[own], {}, {name: one[own] for name, one in beside.items()})


def queries(size: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(normal(size, QUERY, seed=seed), dim=1)


def given(size: int = 3, seed: int = 5) -> dict[str, Tensor]:
    told = {"bottom": normal(size, *SHAPE, seed=seed), "prior": normal(size, *SHAPE, seed=seed + 1)}
    return {"query": queries(size, seed), **told}


# -- what the U-Net is given ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "whose", "latents"),
    [
        ("face", "one-stage", 1),
        ("bottom", "two-stage", 1),
        ("bottom", "fine-portraitist", 2),
        ("upper", "two-stage", 2),
        ("upper", "fine-portraitist", 3),
    ],
)
def test_each_stage_is_given_its_latents_on_the_channel_axis(name, whose, latents):
    made = stage_of(name, system(whose))
    assert made.network.get_submodule("unet").config.in_channels == latents * SHAPE[0]  # type: ignore[union-attr]
    inputs = made.inputs(fed())
    assert torch.equal(inputs.target.half(), fed().beside["bottom_latent" if name == "bottom" else "face_latent"])
    assert made.loss(inputs, made.noise(fed().batch, 0)).shape == (4,)
    assert len(made.columns(inputs[:2], [0, 1])) == latents - 1 + 2 + 1


@torch.no_grad()
def predicted(stage: LatentStage, condition: Tensor, dropped: bool = False, **more: Tensor) -> Tensor:
    told = {**given(1), "has_prior": torch.tensor([True]), **more}
    return stage.predict(normal(1, *SHAPE), torch.tensor([400]), condition, torch.tensor([dropped]), told)


def test_a_row_of_zeros_is_the_learned_null_row_and_no_other():
    made = stage_of(layout=LAYOUTS["slf"])
    matrix, null = normal(1, 256, 768), made.network.get_parameter("condition.null")
    whole = predicted(made, matrix)
    matrix[:, 5] = 0
    masked = predicted(made, matrix)
    assert not torch.allclose(whole, masked)
    with torch.no_grad():
        null[6] += 10
    assert torch.equal(predicted(made, matrix), masked)
    with torch.no_grad():
        null[5] += 10
    assert not torch.allclose(predicted(made, matrix), masked)
    nothing = torch.zeros_like(matrix)
    assert torch.equal(predicted(made, nothing), predicted(made, matrix, dropped=True))


def test_speech_reaches_the_picture_unless_it_is_dropped(stage):
    one, other = normal(1, *TOKENS, seed=1), normal(1, *TOKENS, seed=2)
    assert not torch.allclose(predicted(stage, one), predicted(stage, other))
    assert torch.equal(predicted(stage, one, dropped=True), predicted(stage, other, dropped=True))


@pytest.mark.parametrize("pooled", [True, False])
def test_the_query_reaches_the_picture_beside_the_tokens_unless_it_is_dropped(pooled):
    made, tokens = stage_of(pooled=pooled), normal(1, *TOKENS)
    one, other, nothing = queries(1, 1), queries(1, 2), torch.zeros(1, QUERY)
    assert not torch.allclose(predicted(made, tokens, query=one), predicted(made, tokens, query=other))
    dropped = predicted(made, tokens, True, query=one)
    assert torch.equal(dropped, predicted(made, tokens, True, query=other))
    assert torch.equal(dropped, predicted(made, 0 * tokens, query=nothing))


def test_with_a_matrix_there_is_no_query():
    made = stage_of(layout=LAYOUTS["slf"])
    assert "query" not in made.inputs(fed()).given
    assert draw(made, [1, 2, 3], 1.0, normal(3, 256, 768), {"bottom": given()["bottom"]}).shape == (3, *SHAPE)


def test_where_there_is_no_prior_the_learned_null_prior_stands_for_it():
    made, tokens, none = stage_of(), normal(1, *TOKENS), torch.tensor([False])
    other = normal(1, *SHAPE, seed=9)
    assert not torch.allclose(predicted(made, tokens), predicted(made, tokens, prior=other))
    before = predicted(made, tokens, has_prior=none)
    assert torch.equal(predicted(made, tokens, has_prior=none, prior=other * torch.nan), before)
    with torch.no_grad():
        made.network.get_parameter("null_prior").add_(1)
    assert not torch.allclose(predicted(made, tokens, has_prior=none), before)


# -- noise and loss ------------------------------------------------------------------------------------------------


def test_what_is_random_is_a_function_of_seed_epoch_and_position(stage):
    batch = fed(size=64).batch
    noise, part = stage.noise(batch, 0), stage.noise(replace(batch, positions=batch.positions[5:9]), 0)
    assert all(
        torch.equal(one, whole) for one, whole in zip(vars(part).values(), vars(noise[5:9]).values(), strict=True)
    )
    others = (stage.noise(batch, 1), stage.noise(replace(batch, epoch=1), 0), stage.noise(batch, 0, "validation"))
    assert not any(torch.equal(one.latent, noise.latent) for one in others)
    for drop in (noise.drop, noise.drop_prior):
        assert 0.15 < drop.float().mean() < 0.45
    assert not torch.equal(noise.drop, noise.drop_prior)
    assert not noise.drawn.any()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_error_of_the_noise_or_of_v(prediction, monkeypatch):
    """Zero for who predicts it; for who predicts nothing, the target's mean square, weighted by min-SNR."""
    settings = {"prediction": prediction, "zero_terminal_snr": False}
    made, weighted = stage_of(**settings), stage_of(**settings, gamma=5.0)
    inputs, noise = made.inputs(fed()), made.noise(fed().batch, 0)
    times = (noise.time * 1000).long()
    kept = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2, 0)[times]
    signal, sigma = (one[:, None, None, None] for one in (kept.sqrt(), (1 - kept).sqrt()))
    target = noise.latent if prediction == "epsilon" else signal * noise.latent - sigma * inputs.target
    seen: dict[str, Any] = {}

    def answer(noisy, times, condition, drop, told):
        seen.update(noisy=noisy, drop=drop, **told)
        return seen["answer"]

    for one in (made, weighted):
        monkeypatch.setattr(one, "predict", answer)
    seen["answer"] = target
    assert made.loss(inputs, noise).max() < 1e-6
    torch.testing.assert_close(seen["noisy"], signal * inputs.target + sigma * noise.latent)
    assert torch.equal(seen["drop"], noise.drop)
    assert torch.equal(seen["has_prior"], inputs.given["has_prior"] & ~noise.drop_prior)
    seen["answer"] = torch.zeros_like(target)
    plain, snr = target.square().mean((1, 2, 3)), kept / (1 - kept)
    torch.testing.assert_close(made.loss(inputs, noise), plain)
    weight = snr.clamp(max=5) / (snr if prediction == "epsilon" else snr + 1)
    torch.testing.assert_close(weighted.loss(inputs, noise), plain * weight, rtol=1e-4, atol=1e-6)


def test_a_share_of_the_bottoms_is_drawn_and_the_others_are_noised(monkeypatch):
    made = stage_of(drawn_share=0.5, bottom_noise=0.2)
    seen: dict[str, Any] = {}
    monkeypatch.setattr(made, "predict", lambda *more: seen.update(more[-1]) or torch.zeros(64, *SHAPE))
    batch = fed(size=64)
    inputs, noise = made.inputs(batch), made.noise(batch.batch, 0)
    made.loss(inputs, noise)
    assert 0.3 < noise.drawn.float().mean() < 0.7
    assert torch.equal(seen["bottom"][noise.drawn], inputs.given["drawn"][noise.drawn])
    added = (seen["bottom"] - inputs.given["bottom"])[~noise.drawn]
    assert 0.18 < added.std() < 0.22


def test_pure_noise_at_the_last_step_needs_v_prediction():
    assert scheduler(PRESET, "DDPMScheduler").alphas_cumprod[-1] < 1e-6
    with pytest.raises(UsageError, match=r"zero_terminal_snr with prediction epsilon: .* take prediction=v_prediction"):
        stage_of(prediction="epsilon")
    with pytest.raises(UsageError, match="prediction"):
        stage_of(prediction="sample")


# -- drawing -------------------------------------------------------------------------------------------------------


def draw(stage, seeds, scale=2.0, speech=None, told=None, batch_size=4, **more) -> Tensor:
    speech = normal(3, *TOKENS, seed=7) if speech is None else speech
    return draw_latents(stage, speech, given() if told is None else told, seeds, scale, batch_size=batch_size, **more)


def test_a_latent_is_decided_by_its_own_seed_and_inputs(stage):
    together, again = draw(stage, [1, 2, 3]), draw(stage, [1, 2, 3])
    assert torch.equal(together, again)
    last = {name: one[2:] for name, one in given().items()}
    alone = draw(stage, [3], speech=normal(3, *TOKENS, seed=7)[2:], told=last)
    assert torch.equal(alone[0], together[2])
    assert torch.equal(draw(stage, [1, 2, 3], batch_size=2), draw(stage, [1, 2, 3], batch_size=2))
    assert not torch.equal(draw(stage, [1, 2, 4])[2], together[2])


def test_guidance_goes_from_the_null_prediction_through_the_conditions(stage, monkeypatch):
    """At scale 0 the speech is not heard at all, whatever it is; above 1 it is null + (speech - null) x scale."""
    one, other = draw(stage, [1, 2, 3], 0.0), draw(stage, [1, 2, 3], 0.0, speech=normal(3, *TOKENS, seed=8))
    assert torch.equal(one, other)
    heard, calls = stage.predict, []

    def predict(noisy, times, condition, drop, told):
        calls.append(drop.tolist())
        return heard(noisy, times, condition, drop, told)

    monkeypatch.setattr(stage, "predict", predict)
    drawn = {scale: draw(stage, [1], scale, normal(1, *TOKENS), given(1), 1, steps=1) for scale in (0.0, 1.0, 3.0)}
    assert calls == [[True], [False], [False, True]]
    torch.testing.assert_close(drawn[3.0], drawn[0.0] + (drawn[1.0] - drawn[0.0]) * 3, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_sampler_finds_the_only_latent_that_a_perfect_prediction_knows(stage, sampler, prediction, monkeypatch):
    made = stage_of(prediction=prediction, zero_terminal_snr=prediction == "v_prediction")
    truth, kept = 3 * normal(2, *SHAPE, seed=3), made.schedule.alphas_cumprod

    def perfect(noisy, times, *_):
        signal, sigma = (one[times][:, None, None, None] for one in (kept.sqrt(), (1 - kept).sqrt()))
        noise = (noisy - signal * truth) / sigma
        return noise if prediction == "epsilon" else signal * noise - sigma * truth

    monkeypatch.setattr(made, "predict", perfect)
    drawn = draw(made, [1, 2], 1.0, normal(2, *TOKENS), given(2), 2, sampler=sampler, steps=8)
    torch.testing.assert_close(drawn, truth, rtol=0.02, atol=0.02)


def test_a_drawing_begins_at_the_last_step_whatever_their_number():
    for sampler in ("ddim", "dpm-solver++"):
        for steps in (2, 7, 50):
            made = sampling_schedule(PRESET, sampler)
            made.set_timesteps(steps)
            assert made.timesteps[0] == 999
            assert len(made.timesteps) == steps


def test_without_a_prior_it_is_drawn_as_with_none(stage):
    nobody = torch.zeros(3, dtype=torch.bool)
    without = draw(stage, [1, 2, 3], told={name: one for name, one in given().items() if name != "prior"})
    assert torch.equal(draw(stage, [1, 2, 3], told={**given(), "has_prior": nobody}), without)
    assert not torch.equal(draw(stage, [1, 2, 3]), without)
    some = draw(stage, [1, 2, 3], told={**given(), "has_prior": torch.tensor([True, False, True])})
    assert torch.equal(some[1], without[1])
    assert not torch.equal(some[0], without[0])
    with pytest.raises(UsageError, match="the stage upper draws from a bottom face, and none is given"):
        draw(stage, [1, 2, 3], told={"query": given()["query"]})
    with pytest.raises(UsageError, match="the stage upper hears the query beside the tokens, and none is given"):
        draw(stage, [1, 2, 3], told={"bottom": given()["bottom"]})


# -- learning ------------------------------------------------------------------------------------------------------


def weights(learner: Learner) -> Tensor:
    both = (learner.stage.network, learner.average)
    return torch.cat([p.detach().reshape(-1) for network in both for p in network.parameters()])


def learnt(name: str, ranks: Ranks = Ranks(), share: slice = slice(None), micro_batch: int | None = None) -> Tensor:
    """Weights after some steps; in one of them, of two workers the first has all and the second nothing."""
    stage = stage_of(name, ONE if name == "face" else FULL, drawn_share=0.5, bottom_noise=0.1)
    learner = Learner(stage, ranks, micro_batch)
    for step in range(STEPS):
        own = share
        if ranks.size > 1 and step == 1:
            own = slice(None) if ranks.is_first else slice(0)
        learner.step(fed(step, own=own), 0, step, STEPS, samples=4)
    return weights(learner)


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    half = slice(2 * rank, 2 * rank + 2)
    made = {name: learnt(name, Ranks(rank, 2), half, 1 if rank else None) for name in STAGES}
    torch.save(made, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folder of two workers."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("name", STAGES)
def test_two_workers_learn_what_one_does(together, name):
    first, second = (torch.load(together / f"{rank}.pt", weights_only=True)[name] for rank in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, learnt(name), rtol=1e-3, atol=2e-5)
