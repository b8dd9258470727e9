"""Named sizes of the two U-Nets of a cascade, and the cascades. Plain data: nothing here runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.conditioning import System
from featurestore.errors import choose
from training.settings import Settings


@dataclass(frozen=True)
class Cascade:
    """The picture sizes from guide to portrait (0: no guide) and the noise schedule of each U-Net.

    The schedules are what imagen-pytorch gives by default: its first two U-Nets get the cosine, all others the linear
    one, and in super-resolution a null U-Net is the first.
    """

    name: str
    sizes: tuple[int, int, int]
    schedules: tuple[str, str]


SUPER_RESOLUTION = Cascade("super-resolution", (8, 32, 128), ("cosine", "linear"))
GENERATION = Cascade("generation", (0, 32, 128), ("cosine", "cosine"))


def cascade_of(system: System) -> Cascade:
    """Super-resolution from the 8 px guide where the system uses it, else generation from the matrix alone."""
    return SUPER_RESOLUTION if system.image_guide else GENERATION


@dataclass(frozen=True)
class StagePreset(Settings):
    """How one U-Net of a cascade is built, trained and sampled.

    architecture: arguments of imagen_pytorch.Unet.
    objective: `noise`, `x_start` or `v`, weighted by min-SNR with gamma; gamma 0: not weighted.
    time_power: training draws the time 1 - (1 - u)^time_power, u uniform: above 1 there is more of the noisiest times,
    the only ones that need the matrix to tell the picture's main features.
    crop: side of the square it is trained on, 0 for the whole picture.
    condition_drop: probability of training on the null condition.
    condition_gain: factor on the matrix: at 1, as in the paper, the library's start makes its numbers small beside the
    positions that are added to them, and few steps learn nothing from them.
    enlarge: how the low-resolution picture is brought to size, `nearest` or `bilinear`.
    guide_noise: time to which it is noised in sampling; most_guide_noise: the largest such time in training.
    """

    architecture: Mapping[str, Any]
    objective: str = "noise"
    gamma: float = 5.0
    time_power: float = 1.0
    crop: int = 0
    condition_drop: float = 0.1
    condition_gain: float = 1.0
    guide_noise: float = 0.2
    most_guide_noise: float = 1.0
    enlarge: str = "nearest"
    sampler: str = "dpm-solver++"
    sampler_steps: int = 25


_THIN = {
    "attn_heads": 4,
    "attn_dim_head": 16,
    "attn_pool_num_latents": 8,
    "memory_efficient": True,
    "init_cross_embed": False,
    "use_global_context_attn": False,
    "final_resnet_block": False,
    "init_conv_to_final_conv_residual": True,
}
"""What keeps a small U-Net small: few heads, and almost nothing at full resolution."""


def _unet(
    dim: int, cond_dim: int, mults: tuple[int, ...], blocks: Any, attention: tuple[bool, ...], **more: Any
) -> dict[str, Any]:
    return {
        "dim": dim,
        "cond_dim": cond_dim,
        "dim_mults": mults,
        "num_resnet_blocks": blocks,
        "layer_attns": attention,
        "layer_cross_attns": attention,
        "attend_at_middle": any(attention),
        **more,
    }


_NO, _YES = False, True
# fmt: off
_MICRO_1 = _unet( 16,  32, (1, 2),             1, (_NO, _YES),             **_THIN)
_MICRO_2 = _unet(  8,  16, (1, 2),             1, (_NO, _NO),              **_THIN)
_TINY_1  = _unet( 16,  64, (2, 4, 6, 6, 6),    1, (_NO, _NO, _YES, _YES, _YES), **_THIN)
_TINY_2  = _unet(  8,  64, (2, 4, 8),          1, (_NO, _NO, _NO),         **_THIN)
_SMALL_1 = _unet( 64, 256, (1, 2, 4, 8),       2, (_NO, _YES, _YES, _YES))
_SMALL_2 = _unet( 32, 256, (1, 2, 4, 8),       2, (_NO, _NO, _NO, _YES),   memory_efficient=True)
_PAPER_1 = _unet(192, 512, (1, 2, 4, 8),       3, (_NO, _YES, _YES, _YES))
_PAPER_2 = _unet(128, 512, (1, 2, 4, 8), (2, 4, 8, 8), (_NO, _NO, _NO, _YES))

_QUICK: dict[str, Any] = {
    "objective": "x_start", "enlarge": "bilinear", "guide_noise": 0.03, "most_guide_noise": 0.06,
    "warmup": 20, "final_rate": 0.05, "clip": 1.0, "sampler_steps": 8,
}
"""For training in seconds: the clean picture is what a small U-Net learns soonest, and a guide that is hardly noised
leaves it the least to find out."""
_EAGER: dict[str, Any] = {**_QUICK, "gamma": 0.0, "time_power": 3.0, "condition_gain": 30.0, "learning_rate": 2e-3}
"""And for what the matrix says to be learned in seconds too."""
_SHARP: dict[str, Any] = {**_QUICK, "gamma": 0.3, "learning_rate": 6e-3}
_GPU: dict[str, Any] = {
    "objective": "v", "time_power": 2.0, "condition_gain": 30.0, "enlarge": "bilinear", "guide_noise": 0.1,
    "most_guide_noise": 0.3, "learning_rate": 5e-4, "warmup": 100, "final_rate": 0.05, "ema_decay": 0.995, "clip": 1.0,
    "bfloat16": True,
}
"""For training in minutes on a GPU: not compiled, as a study of minutes has many stages that would be."""

PRESETS: dict[str, tuple[StagePreset, StagePreset]] = {
    "micro": (
        StagePreset(_MICRO_1, batch_size=4,   steps=20,     **_EAGER | {"learning_rate": 1e-3}, ema_decay=0.9),
        StagePreset(_MICRO_2, batch_size=4,   steps=20,     **_SHARP, ema_decay=0.9, crop=32),
    ),
    "tiny": (
        StagePreset(_TINY_1, batch_size=8,   steps=700,    **_EAGER, ema_decay=0.99),
        StagePreset(_TINY_2, batch_size=16,  steps=200,    **_SHARP, ema_decay=0.98, crop=64),
    ),
    "small": (
        StagePreset(_SMALL_1, batch_size=128, steps=4000,   **_GPU),
        StagePreset(_SMALL_2, batch_size=64,  steps=4000,   **_GPU, crop=64),
    ),
    "paper": (
        StagePreset(_PAPER_1, batch_size=128, steps=100000, sampler="ancestral", sampler_steps=1000, compile=True),
        StagePreset(_PAPER_2, batch_size=128, steps=100000, sampler="ancestral", sampler_steps=1000, compile=True),
    ),
}
"""(U-Net 1, U-Net 2) by name: `micro` for tests, `tiny` for a CPU in a minute, `small` for a GPU in minutes, `paper`
with the paper's sizes (how long it trained is not published; 100,000 steps are 32 passes over its training set)."""
# fmt: on


def stage_preset(name: str, unet: int) -> StagePreset:
    """The preset of U-Net 1 or 2; a UsageError lists the known names."""
    return PRESETS[choose("preset", name, PRESETS)][unet - 1]
