"""How fast the stages of Fine-portraitist train, by the real `Learner.step`, and how fast it draws.

The data are random numbers that lie on the device, and the retrieved priors among them: nothing is read or retrieved.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from featurestore import feed
from featurestore.catalogue import CATALOGUE
from featurestore.conditioning import COLUMNS, ROWS, system
from featurestore.errors import choose
from featurestore.records import Batch
from infra.bench.rounds import alternate, summary
from infra.bench.steps import PRECISIONS, Steps, clean, peak_of, wait
from training.latent.codec import Codec, Frozen
from training.latent.denoising import LatentStage, draw_latents
from training.latent.perceptual import weights_file
from training.latent.presets import QUERY, CodecPreset, LatentPreset
from training.latent.pretraining import CodecStage
from training.stages import settings_of

SYSTEM = system("fine-portraitist")
DRAWN = (50, 25)
"""Steps of the sampler, of each of the two stages that a portrait takes."""

COUNTED = 2
"""Samples whose operations are counted."""


LATENTS = ("face_latent", "bottom_latent", "drawn_bottom", "prior_face", "prior_bottom")


def run(
    preset: str, precision: str | None, device: torch.device, rounds: int, told: Callable[[int, str], None]
) -> dict[str, Any]:
    """stages: of `codec`, `bottom` and `upper` samples_per_second, tflops, share_of_peak, ..., and of the codec
    `without`, the loss whose weights are missing here; pictures_per_second: by how many steps, drawn at scale 1 in
    batches of the preset's size and decoded."""
    choices = {} if precision is None else {"bfloat16": choose("precision", precision, PRECISIONS) == "bfloat16"}
    settings = {name: settings_of(name, preset, choices) for name in SYSTEM.stages}
    layout, stages, drawers = SYSTEM.layout(), {}, []
    of_codec = cast(CodecPreset, settings["codec"])
    without = ["perceptual"] if of_codec.perceptual and not weights_file().exists() else []
    if without:
        of_codec = replace(of_codec, perceptual=0.0)
    with device:
        codec = Frozen(Codec(of_codec), of_codec, device, {}, Path())
    for done, name in enumerate(SYSTEM.stages):
        told(done, name)
        with device:
            if name == "codec":
                stage: Any = CodecStage(of_codec, layout, device)
            else:
                stage = LatentStage(name, SYSTEM, cast(LatentPreset, settings[name]), layout, device, codec)
        clips = Clips(settings[name].batch_size, of_codec, codec, device)
        stages[name] = {**_measure(stage, clips, rounds), **({"without": without} if name == "codec" else {})}
        if name != "codec":
            drawers.append(stage)
        clean(device)
    told(len(SYSTEM.stages), "pictures")
    return {"stages": stages, "pictures_per_second": {str(steps): _drawn(drawers, codec, steps) for steps in DRAWN}}


class Clips:
    """Random numbers of a batch's shapes on the device. size: clips in a batch."""

    def __init__(self, size: int, preset: CodecPreset, codec: Frozen, device: torch.device):
        self.size, self.device = size, device
        latents = {name: torch.randn(size, *codec.latent_shape, device=device) for name in LATENTS}
        fused = {key: torch.randn(size, *CATALOGUE[key].shape, device=device) for key in preset.fused}
        self.beside: dict[str, Tensor] = {
            "speech": torch.randint(-9000, 9000, (size, *CATALOGUE["speech"].shape), dtype=torch.int16, device=device),
            "tokens": torch.randn(size, *codec.token_shape, device=device),
            "query": torch.nn.functional.normalize(torch.randn(size, QUERY, device=device), dim=1),
            "has_prior": torch.ones(size, dtype=torch.uint8, device=device),
            **latents,
            **fused,
        }
        self.matrix = torch.zeros(size, ROWS, COLUMNS, device=device) if SYSTEM.layout().blocks else torch.zeros(size)
        self.pictures = {name: torch.rand(size, 3, 256, 256, device=device) for name in ("face", "bottom")}

    def fed(self, size: int) -> feed.Inputs:
        """What a feed would give."""
        places = np.arange(size)
        names = [f"random/id{number:05d}/video/00001" for number in places]
        batch = Batch(0, 0, places, places.astype(np.uint64), names, {}, {})
        first = lambda many: {name: one[:size] for name, one in many.items()}
        return feed.Inputs(batch, self.matrix[:size], first(self.pictures), first(self.beside))


def _measure(stage: Any, clips: Clips, rounds: int) -> dict[str, Any]:
    flop = _operations(stage, clips)
    ours = Steps(stage, clips)
    rates = summary(alternate({"ours": ours.steps}, rounds, 0.0))
    speed, peak = rates["samples_per_second"]["ours"], peak_of(stage)
    return {
        "samples_per_second": speed,
        "tflops": speed * flop / 1e12,
        "share_of_peak": speed * flop / peak,
        "peak_gib": ours.most_memory / 2**30 if clips.device.type == "cuda" else None,
        "peak_tflops": peak / 1e12,
        "gflop_per_sample": flop / 1e9,
        "batch_size": clips.size,
        "micro_batch": ours.learner.micro_batch,
        "precision": PRECISIONS[stage.bfloat16],
        "compiled": stage.compiled,
        "tf32": ours.tf32,
        "spread": rates["spread"]["ours"],
    }


def _operations(stage: Any, clips: Clips) -> float:
    """Floating-point operations of a sample's loss, forward and backward."""
    compiled, stage.compiled = stage.compiled, False
    fed = clips.fed(COUNTED)
    inputs, noise = stage.inputs(fed), stage.noise(fed.batch, 0)
    if stage.shows:
        inputs = stage.meet(inputs, stage.shown(inputs).detach(), 0)
    with FlopCounterMode(display=False) as counter:
        stage.loss(inputs, noise).sum().backward()
    stage.network.zero_grad(set_to_none=True)
    stage.compiled = compiled
    return counter.get_total_flops() / COUNTED


def _drawn(stages: list[LatentStage], codec: Frozen, steps: int) -> float:
    """Portraits a second: bottom, face and decoder, after a first picture that is not measured."""
    size = stages[-1].preset.batch_size
    clips = Clips(size, codec.preset, codec, stages[-1].device)
    given: Mapping[str, Tensor] = {"has_prior": clips.beside["has_prior"] > 0}

    def draw(steps: int) -> None:
        bottom = None
        for stage in stages:
            told = {**given, "query": clips.beside["query"], "prior": clips.beside[stage.prior or "prior_face"]}
            told |= {} if bottom is None else {"bottom": bottom}
            bottom = draw_latents(stage, clips.beside["tokens"], told, range(size), 1.0, None, steps, size)
        assert bottom is not None
        codec.decode(bottom)
        wait(codec.device)

    draw(1)
    began = time.perf_counter()
    draw(steps)
    return size / (time.perf_counter() - began)
