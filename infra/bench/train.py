"""How fast stages train: the two U-Nets of super-resolution against imagen-pytorch's own trainer, and the latent ones.

ours                the real `Learner.step`: losses in micro-batches, Adam, moving average
imagentrainer       `ImagenTrainer` in the released way: float32 as torch leaves it, micro-batches of 2 that it adds up
imagentrainer_best  the same at the micro-batch that is its quickest

Each learns from batches of the preset's size. The data are random numbers that lie on the device: nothing is read.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from featurestore import feed
from featurestore.conditioning import COLUMNS, LAYOUTS, ROWS
from featurestore.console import bar
from featurestore.errors import choose
from featurestore.records import Batch
from infra.bench import latent
from infra.bench.rounds import Samples, alternate, machine, summary
from infra.bench.steps import PRECISIONS, Steps, clean, peak_of, tf32, wait
from training.cascade import CascadeStage
from training.presets import PRESETS, SUPER_RESOLUTION, StagePreset
from training.unets import imagen_library, imagen_trainer, library_unet

RELEASED = 2
"""Samples in a micro-batch of the released training."""

OTHERS = ("imagentrainer", "imagentrainer_best")
TRIED = 16
"""Samples that the other trainer learns from in a trial of a micro-batch, if that is not larger."""


SYSTEMS = ("full-input", "fine-portraitist")
"""Whose stages are measured."""


def run(
    preset: str | None = None, precision: str | None = None, system: str | None = None, rounds: int = 3
) -> dict[str, Any]:
    """Medians of alternating rounds, a step or more each. preset: `paper` on a GPU, else `tiny`.

    precision: instead of the preset's, on a GPU. system: one of `SYSTEMS`, both where it is None. Returns, by stage,
    samples_per_second, tflops (of the library's own U-Net, forward and backward), share_of_peak (of a matrix product of
    the same type, measured here), peak_gib (of a GPU), the micro-batches and what the others reached; ratios; TF32's
    state; pictures_per_second of Fine-portraitist by steps; device, torch and preset.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = choose("preset", preset or ("paper" if device.type == "cuda" else "tiny"), PRESETS)
    systems = SYSTEMS if system is None else (choose("system", system, SYSTEMS),)
    found: dict[str, Any] = {"stages": {}, "ratios": {}}
    with bar("bench train", timed=False) as progress:
        if "full-input" in systems:
            found = _cascade(name, precision, device, rounds, progress)
        if "fine-portraitist" in systems:
            more = latent.run(name, precision, device, rounds, lambda done, what: progress(done, 4, what))
            found["stages"] |= more.pop("stages")
            found |= more
    return {
        **found,
        "preset": name,
        "data": "random numbers on the device: no loader",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "rounds": rounds,
        **machine(),
    }


def _cascade(
    preset: str, precision: str | None, device: torch.device, rounds: int, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """stages and ratios of the two U-Nets."""
    stages = {}
    for number, settings in enumerate(PRESETS[preset], start=1):
        if precision is not None:
            settings = replace(settings, bfloat16=choose("precision", precision, PRECISIONS) == "bfloat16")
        told = lambda done, what, at=number: progress((at - 1) * rounds + done, 2 * rounds, f"unet{at} {what}")
        stages[f"unet{number}"] = _measure(number, settings, device, rounds, told)
        clean(device)
    ratios = {
        f"{stage}_vs_{other}": _ratio(found["samples_per_second"], found[other])
        for stage, found in stages.items()
        for other in OTHERS
    }
    return {"stages": stages, "ratios": ratios}


def _ratio(ours: float, other: dict[str, Any]) -> float | None:
    return ours / other["samples_per_second"] if "samples_per_second" in other else None


def _measure(
    number: int, settings: StagePreset, device: torch.device, rounds: int, told: Callable[[int, str], None]
) -> dict[str, Any]:
    """One stage: both trainers built, their micro-batches found, their rounds."""
    told(0, "operations")
    flop = operations(number, settings)
    images = Images(number, settings, device)
    told(0, "imagentrainer")
    contenders: dict[str, Callable[[], Samples]] = {}
    others: dict[str, dict[str, Any]]
    before = _allocated(device)
    try:
        theirs = Theirs(number, settings, images)
    except ModuleNotFoundError as missing:
        others = {name: {"not_measured": str(missing)} for name in OTHERS}
    else:
        sizes = RELEASED, theirs.quickest()
        others = {name: {"micro_batch": size, "tf32": theirs.tf32} for name, size in zip(OTHERS, sizes, strict=True)}
        for name, found in others.items():
            contenders[name] = partial(theirs.steps, found["micro_batch"])
        next(theirs.steps(RELEASED))  # Adam has its moments from here on
    beside = _allocated(device) - before
    told(0, "ours")
    with device:
        stage = CascadeStage(number, SUPER_RESOLUTION, settings, LAYOUTS["slf"], device)
    ours = Steps(stage, images)
    contenders["ours"] = ours.steps
    rates = summary(alternate(contenders, rounds, 0.0, told))
    for name, found in others.items():
        if name in contenders:
            found |= {"samples_per_second": rates["samples_per_second"][name], "spread": rates["spread"][name]}
    speed, peak = rates["samples_per_second"]["ours"], peak_of(stage)
    return {
        "samples_per_second": speed,
        "tflops": speed * flop / 1e12,
        "share_of_peak": speed * flop / peak,
        "peak_gib": (ours.most_memory - beside) / 2**30 if device.type == "cuda" else None,
        "peak_tflops": peak / 1e12,
        "gflop_per_sample": flop / 1e9,
        "batch_size": images.size,
        "micro_batch": ours.learner.micro_batch,
        "precision": PRECISIONS[stage.bfloat16],
        "compiled": stage.compiled,
        "tf32": ours.tf32,
        "spread": rates["spread"]["ours"],
        **others,
    }


def operations(number: int, settings: StagePreset) -> int:
    """Floating-point operations of a sample, forward and backward, in the library's own U-Net. Nothing is computed."""
    with torch.device("meta"):
        network = library_unet(settings.architecture, low_resolution=True)
        side = settings.crop or SUPER_RESOLUTION.sizes[number]
        picture, number_of_it = torch.zeros(1, 3, side, side), torch.zeros(1)
        matrix, kept = torch.zeros(1, ROWS, COLUMNS), torch.ones(1, ROWS, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            network(
                picture,
                number_of_it,
                text_embeds=matrix,
                text_mask=kept,
                cond_drop_prob=number_of_it,
                lowres_cond_img=picture,
                lowres_noise_times=number_of_it,
            ).sum().backward()
    return counter.get_total_flops()


class Images:
    """Random numbers of a batch's shapes on the device. size: samples in a batch."""

    def __init__(self, number: int, settings: StagePreset, device: torch.device):
        self.size, self.device = settings.batch_size, device
        self.matrix = torch.randn(self.size, ROWS, COLUMNS, device=device)
        self.target = torch.rand(self.size, 3, 128, 128, device=device)
        self.guide = torch.rand(self.size, 3, 8, 8, device=device)

    def fed(self, size: int) -> feed.Inputs:
        """What a feed would give."""
        places = np.arange(size)
        batch = Batch(0, 0, places, places.astype(np.uint64), [""] * size, {}, {})
        return feed.Inputs(batch, self.matrix[:size], {"target": self.target[:size], "guide": self.guide[:size]})


class Theirs:
    """Steps of `ImagenTrainer`, in float32 as torch leaves it."""

    UNET = 2
    """The null U-Net is its first."""

    def __init__(self, number: int, settings: StagePreset, images: Images):
        self.images = images
        trainer, library = imagen_trainer(), imagen_library()
        with images.device:
            imagen = library.Imagen(
                (library.NullUnet(), library_unet(settings.architecture, low_resolution=True)),
                image_sizes=SUPER_RESOLUTION.sizes[number - 1 : number + 1],
                text_embed_dim=COLUMNS,
                noise_schedules=("cosine", SUPER_RESOLUTION.schedules[number - 1]),
                pred_objectives=settings.objective,
                random_crop_sizes=(None, settings.crop or None),
                cond_drop_prob=settings.condition_drop,
                min_snr_loss_weight=bool(settings.gamma),
                min_snr_gamma=settings.gamma or None,
            )
            self.trainer: Any = trainer(imagen, lr=settings.learning_rate, verbose=False)
        with _torch_defaults():
            self.tf32 = tf32()

    def quickest(self) -> int:
        """The micro-batch that is the quickest, of those that memory holds, by doubling."""
        speeds: dict[int, float] = {}
        size = RELEASED
        while size <= self.images.size:
            try:
                samples = min(max(TRIED, size), self.images.size)
                self._gradients(size, size)
                began = time.perf_counter()
                self._gradients(samples, size)
            except torch.OutOfMemoryError:
                break
            finally:
                self.trainer.optim1.zero_grad()
                clean(self.images.device)
            speeds[size] = samples / (time.perf_counter() - began)
            size *= 2
        return max(speeds, key=lambda size: speeds[size])

    def steps(self, micro_batch: int) -> Samples:
        """The first step, which is not measured, is of one micro-batch."""
        samples = micro_batch
        while True:
            self._gradients(samples, micro_batch)
            with _torch_defaults():
                self.trainer.update(unet_number=self.UNET)
            wait(self.images.device)
            yield samples
            samples = self.images.size

    def _gradients(self, samples: int, micro_batch: int) -> None:
        with _torch_defaults():
            self.trainer(
                self.images.target[:samples],
                text_embeds=self.images.matrix[:samples],
                unet_number=self.UNET,
                max_batch_size=micro_batch,
            )
        wait(self.images.device)


@contextmanager
def _torch_defaults() -> Iterator[None]:
    """float32 as torch leaves it: TF32 in convolutions alone, and cuDNN does not try out what is quickest."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    _set_numerics("highest", True, False)
    try:
        yield
    finally:
        _set_numerics(*before)


def _set_numerics(products: str, convolutions: bool, tried: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions, tried


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0
