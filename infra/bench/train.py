"""How fast the two U-Nets of super-resolution train, against imagen-pytorch's own trainer.

ours                the real `Learner.step`: losses in micro-batches, Adam, moving average
imagentrainer       `ImagenTrainer` in the released way: float32 as torch leaves it, micro-batches of 2 that it adds up
imagentrainer_best  the same at the micro-batch that is its quickest

Each learns from batches of the preset's size. The data are random numbers that lie on the device: nothing is read.
"""

import gc
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
from infra.bench.rounds import Samples, alternate, machine, summary
from training.cascade import CascadeStage
from training.presets import PRESETS, SUPER_RESOLUTION, StagePreset
from training.step import Learner
from training.unets import imagen_library, imagen_trainer, library_unet

RELEASED = 2
"""Samples in a micro-batch of the released training."""

OTHERS = ("imagentrainer", "imagentrainer_best")
PRECISIONS = ("float32", "bfloat16")

TRIED = 16
"""Samples that the other trainer learns from in a trial of a micro-batch, if that is not larger."""


def run(preset: str | None = None, precision: str | None = None, rounds: int = 3) -> dict[str, Any]:
    """Medians of alternating rounds, a step or more each. preset: `paper` on a GPU, else `tiny`.

    precision: instead of the preset's, on a GPU. Returns, by stage, samples_per_second, tflops (of the library's own
    U-Net, forward and backward), share_of_peak (of a matrix product of the same type, measured here), peak_gib (of a
    GPU), the micro-batches and what the others reached; ratios; TF32's state; device, torch and preset.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = choose("preset", preset or ("paper" if device.type == "cuda" else "tiny"), PRESETS)
    stages = {}
    with bar("bench train", timed=False) as progress:
        for number, settings in enumerate(PRESETS[name], start=1):
            if precision is not None:
                settings = replace(settings, bfloat16=choose("precision", precision, PRECISIONS) == "bfloat16")
            told = lambda done, what, at=number: progress((at - 1) * rounds + done, 2 * rounds, f"unet{at} {what}")
            stages[f"unet{number}"] = _measure(number, settings, device, rounds, told)
            _clean(device)
    return {
        "stages": stages,
        "ratios": {
            f"{stage}_vs_{other}": _ratio(found["samples_per_second"], found[other])
            for stage, found in stages.items()
            for other in OTHERS
        },
        "preset": name,
        "data": "random numbers on the device: no loader",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "rounds": rounds,
        **machine(),
    }


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
    ours = Ours(number, settings, images)
    contenders["ours"] = ours.steps
    rates = summary(alternate(contenders, rounds, 0.0, told))
    for name, found in others.items():
        if name in contenders:
            found |= {"samples_per_second": rates["samples_per_second"][name], "spread": rates["spread"][name]}
    speed, peak = rates["samples_per_second"]["ours"], _peak(ours.stage)
    return {
        "samples_per_second": speed,
        "tflops": speed * flop / 1e12,
        "share_of_peak": speed * flop / peak,
        "peak_gib": (ours.most_memory - beside) / 2**30 if device.type == "cuda" else None,
        "peak_tflops": peak / 1e12,
        "gflop_per_sample": flop / 1e9,
        "batch_size": images.size,
        "micro_batch": ours.learner.micro_batch,
        "precision": PRECISIONS[ours.stage.bfloat16],
        "compiled": ours.stage.compiled,
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


def tf32() -> dict[str, bool]:
    """Whether float32 is rounded to TF32 now, in matrix products and in convolutions."""
    return {
        "matrix_products": torch.get_float32_matmul_precision() != "highest",
        "convolutions": torch.backends.cudnn.allow_tf32,
    }


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


class Ours:
    """Steps of the real learner, at the micro-batch after which memory ends, or the whole batch."""

    def __init__(self, number: int, settings: StagePreset, images: Images):
        self.images, self.most_memory = images, 0
        with images.device:
            self.stage = CascadeStage(number, SUPER_RESOLUTION, settings, LAYOUTS["slf"], images.device)
        self.tf32 = tf32()
        self.learner = Learner(self.stage)
        self.learner.micro_batch = self._most()
        _clean(images.device)

    def _most(self) -> int:
        """Found by doubling, without compiling each of them."""
        compiled, self.stage.compiled = self.stage.compiled, False
        size = min(RELEASED, self.images.size)
        while not self.learner.micro_batch:
            self.learner.step(self.images.fed(size), 0, 0, 1)
            if size == self.images.size:
                break
            size = min(2 * size, self.images.size)
        self.stage.compiled = compiled
        return self.learner.micro_batch or size

    def steps(self) -> Samples:
        device, fed = self.images.device, self.images.fed(self.images.size)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        while True:
            self.learner.step(fed, 0, 0, 1)
            _wait(device)
            if device.type == "cuda":
                self.most_memory = max(self.most_memory, torch.cuda.max_memory_allocated())
            yield self.images.size


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
                _clean(self.images.device)
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
            _wait(self.images.device)
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
        _wait(self.images.device)


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


def _peak(stage: CascadeStage) -> float:
    """Operations a second of a matrix product of random numbers, of the type that the stage's products have."""
    size, times = (8192, 20) if stage.device.type == "cuda" else (1024, 10)
    kind = torch.bfloat16 if stage.bfloat16 else torch.float32
    one, other = (torch.randn(size, size, device=stage.device).to(kind) for _ in range(2))
    seconds = []
    for _ in range(times):
        _wait(stage.device)
        began = time.perf_counter()
        one @ other
        _wait(stage.device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / float(np.median(seconds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def _clean(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
