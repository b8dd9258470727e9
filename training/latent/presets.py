"""Named sizes of Fine-portraitist's stages. Plain data: nothing here runs.

What the paper leaves open is a setting of its own; docs/fine_portraitist.md has the reasons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.settings import Settings

QUERY = 512
"""Numbers of a speech query Z_s, in every preset: a column of the store has one shape."""


@dataclass(frozen=True)
class CodecPreset(Settings):
    """How the codec is built and pre-trained: the speech encoder, the face encoder and the face decoder.

    autoencoder: arguments of diffusers.AutoencoderKL. side: of its pictures, in pixels.
    speech_widths: channels of the speech encoder's levels, each of half the time and frequency of the one before.
    token_width: numbers of a speech token.
    speech_encoder: `convolutional`, or `audioclip` where its weights are there.
    fused: constituents (speaker embeddings) that the query and the tokens are made of too.
    contrast, reconstruction, perceptual, kl, adversarial: weights of the losses; 0 leaves one out.
    temperature: at the start, of the contrast; it is learned.
    """

    autoencoder: Mapping[str, Any]
    side: int = 256
    speech_widths: tuple[int, ...] = (32, 64, 128, 256)
    token_width: int = 256
    speech_encoder: str = "convolutional"
    fused: tuple[str, ...] = ()
    contrast: float = 0.1
    reconstruction: float = 1.0
    perceptual: float = 1.0
    kl: float = 1e-6
    adversarial: float = 0.0
    temperature: float = 0.01


@dataclass(frozen=True)
class LatentPreset(Settings):
    """How a latent diffusion stage is built, trained and drawn with.

    unet: arguments of diffusers.UNet2DConditionModel, less sizes and channels that the codec and the stage decide.
    condition_width: numbers of each row that is attended to. matrix_gain: factor on a matrix that is attended to
    instead of speech tokens: its numbers are small beside the rows' learned places, and few steps learn nothing of
    them. pooled: the condition, in one, is added to the step's embedding too, as in SDXL (arXiv 2307.01952).
    schedule, beta_start, beta_end: of the noise, by diffusers' name: its `scaled_linear` is latent diffusion's linear.
    prediction: `epsilon` or `v_prediction`. zero_terminal_snr: the last step is pure noise (arXiv 2305.08891).
    gamma: of min-SNR weights, 0 for none. time_power: training draws the time 1 - (1 - u)^time_power, u uniform: above
    1 there is more of the noisiest times, which alone need the condition to tell the main features.
    condition_drop: probability of training on the null condition. prior_drop: likewise on the null prior.
    exclusion: whose clips a prior in training may not be of: `clip`, `video` or `identity` of the query.
    drawn_share: of the bottoms that the upper stage learns from, how many are the bottom stage's own drawings;
    bottom_noise: standard deviation of what is added to the others, in latents' own.
    """

    unet: Mapping[str, Any]
    condition_width: int = 256
    matrix_gain: float = 1.0
    pooled: bool = False
    schedule: str = "scaled_linear"
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    train_steps: int = 1000
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False
    gamma: float = 0.0
    time_power: float = 1.0
    condition_drop: float = 0.1
    prior_drop: float = 0.1
    exclusion: str = "identity"
    drawn_share: float = 0.0
    bottom_noise: float = 0.0
    sampler: str = "ddim"
    sampler_steps: int = 50


def _kl(channels: tuple[int, ...], layers: int, latent: int = 4, groups: int = 32) -> dict[str, Any]:
    """AutoencoderKL: each level but the last halves the sides, so that four are f8."""
    return {
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": latent,
        "norm_num_groups": groups,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
    }


def _unet(
    channels: tuple[int, ...], attention: tuple[bool, ...], layers: int, head: int, groups: int = 32
) -> dict[str, Any]:
    """UNet2DConditionModel: attention to itself and to the condition in the levels where it is said, by heads of `head`
    numbers (the library's `attention_head_dim` is how many heads there are)."""
    return {
        "block_out_channels": channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attention)),
        "layers_per_block": layers,
        "attention_head_dim": tuple(channel // head for channel in channels),
        "norm_num_groups": groups,
    }


_NO, _YES = False, True
_QUICK: dict[str, Any] = {"warmup": 20, "final_rate": 0.05, "clip": 1.0}
_WARM: dict[str, Any] = {"temperature": 0.1}
"""The contrast begins gently where there are few steps: at the paper's 0.01 they teach it nothing."""
_SPEECH_FASTER = {"speech": 10.0}
"""The paper's learning rates: 1e-4 for the face encoder and decoder, 1e-3 for the speech encoder."""

# fmt: off
_CODECS = {
    "micro": CodecPreset(_kl((8, 16, 16), 1, groups=4), batch_size=8, steps=20, side=64, speech_widths=(8, 16, 32, 32),
                         token_width=32, learning_rate=5e-3, ema_decay=0.9, perceptual=0.0, **_QUICK, **_WARM),
    "tiny":  CodecPreset(_kl((16, 32, 32), 1, groups=8), batch_size=16, steps=600, side=64,
                         speech_widths=(16, 32, 64, 64), token_width=64, learning_rate=2e-3, ema_decay=0.98,
                         perceptual=0.0, **_QUICK, **_WARM),
    "small": CodecPreset(_kl((64, 128, 128, 256), 1), batch_size=64, steps=4000, side=128, learning_rate=2e-4,
                         rates=_SPEECH_FASTER, ema_decay=0.995, bfloat16=True, **_QUICK, **_WARM),
    "paper": CodecPreset(_kl((128, 256, 512, 512), 2), batch_size=64, steps=100000, side=256,
                         speech_widths=(64, 128, 256, 512), token_width=512, rates=_SPEECH_FASTER),
    "paper-f4": CodecPreset(_kl((128, 256, 512), 2, latent=3), batch_size=64, steps=100000, side=256,
                            speech_widths=(64, 128, 256, 512), token_width=512, rates=_SPEECH_FASTER),
}
_MICRO = _unet((16, 32),             (_NO, _YES),             1,  8, groups=4)
_TINY  = _unet((32, 64, 96),         (_NO, _YES, _YES),       1, 16, groups=8)
_SMALL = _unet((96, 192, 288, 384),  (_YES, _YES, _YES, _NO), 1, 32)
_PAPER = _unet((224, 448, 672, 896), (_YES, _YES, _YES, _NO), 2, 32)
_F4    = _unet((224, 448, 672, 896), (_NO, _YES, _YES, _YES), 2, 32)
_EAGER: dict[str, Any] = {
    **_QUICK, "prediction": "v_prediction", "zero_terminal_snr": True, "matrix_gain": 30.0, "pooled": True,
    "time_power": 2.0,
}
"""For training in seconds or minutes: v is learned soonest, as at the noisiest steps it is the picture itself, and a
drawing that begins with pure noise has been trained on it."""
_DIFFUSIONS = {
    "micro": LatentPreset(_MICRO, batch_size=8,  steps=20,  condition_width=32, learning_rate=5e-3, ema_decay=0.9,
                          sampler_steps=10, **_EAGER),
    "tiny":  LatentPreset(_TINY,  batch_size=16, steps=600, condition_width=64, learning_rate=2e-3, ema_decay=0.98,
                          sampler_steps=25, **_EAGER),
    "small": LatentPreset(_SMALL, batch_size=64, steps=4000, learning_rate=4e-4, ema_decay=0.995, sampler_steps=25,
                          bfloat16=True, **_EAGER),
    "paper": LatentPreset(_PAPER, batch_size=64, steps=100000, condition_width=512, compile=True),
    "paper-f4": LatentPreset(_F4, batch_size=64, steps=100000, condition_width=512, compile=True),
}
# fmt: on

PRESETS: Mapping[str, Mapping[str, Settings]] = {
    "codec": _CODECS,
    "face": _DIFFUSIONS,
    "bottom": _DIFFUSIONS,
    "upper": _DIFFUSIONS,
}
"""Settings by stage and preset: `micro` for tests, `tiny` for a CPU in minutes, `small` for a GPU in minutes, `paper`
with the paper's sizes, as far as it says them, on latents of 32 x 32 x 4; `paper-f4` on 64 x 64 x 3. Both in float32
until bfloat16 was compared with it at their size (`--set bfloat16=true`)."""
