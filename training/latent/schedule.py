"""The noise of latent diffusion, by diffusers' schedulers: in training and in drawing."""

from typing import Any

from torch import Tensor

from featurestore.errors import UsageError, choose
from training.latent.presets import LatentPreset

SAMPLERS = {"ddim": "DDIMScheduler", "dpm-solver++": "DPMSolverMultistepScheduler"}
"""DDIM without noise of its own (eta 0, arXiv 2010.02502) and DPM-Solver++ of second order (arXiv 2211.01095), by their
names in diffusers."""


def scheduler(preset: LatentPreset, kind: str, **more: Any) -> Any:
    """A scheduler of diffusers with a preset's noise. It holds the state of one drawing.

    Raises UsageError where the last step is to be pure noise, which only v-prediction can learn from.
    """
    import diffusers

    prediction = choose("prediction", preset.prediction, ("epsilon", "v_prediction"))
    if preset.zero_terminal_snr and prediction != "v_prediction":
        raise UsageError(
            f"zero_terminal_snr with prediction {prediction}: pure noise says nothing of the picture; "
            "take prediction=v_prediction"
        )
    return getattr(diffusers, kind)(
        num_train_timesteps=preset.train_steps,
        beta_start=preset.beta_start,
        beta_end=preset.beta_end,
        beta_schedule=preset.schedule,
        prediction_type=prediction,
        rescale_betas_zero_snr=preset.zero_terminal_snr,
        **more,
    )


def plan(preset: LatentPreset, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
    """The sampler and the number of its steps: the preset's, or what is asked for instead."""
    return choose("sampler", sampler or preset.sampler, SAMPLERS), steps or preset.sampler_steps


def sampling_schedule(preset: LatentPreset, sampler: str) -> Any:
    """The scheduler of a sampler. Steps are spaced `trailing`: a drawing begins at the last one, however many there are
    (Lin et al., arXiv 2305.08891)."""
    more: dict[str, Any] = {"timestep_spacing": "trailing"}
    if sampler == "ddim":
        more |= {"clip_sample": False, "set_alpha_to_one": True}
    return scheduler(preset, SAMPLERS[choose("sampler", sampler, SAMPLERS)], **more)


def min_snr_weights(preset: LatentPreset, schedule: Any, times: Tensor) -> Tensor:
    """Min-SNR weights (Hang et al., arXiv 2303.09556, Eq. 7) of steps (B,): min(SNR, gamma) / SNR of errors of the
    noise, and min(SNR, gamma) / (SNR + 1) of errors of v."""
    kept = schedule.alphas_cumprod.to(times.device)[times]
    snr = kept / (1 - kept)
    return snr.clamp(max=preset.gamma) / (snr + (preset.prediction == "v_prediction"))
