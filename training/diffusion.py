"""Diffusion in continuous time as imagen-pytorch has it: schedules, objectives, weights. Pure functions of tensors.

x = alpha x0 + sigma n, with alpha^2 = sigmoid(l), sigma^2 = sigmoid(-l) and l the log signal-to-noise ratio at time t
in 0 (clean) .. 1 (noise). A U-Net is told l.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

OBJECTIVES = ("noise", "x_start", "v")


def linear_log_snr(time: Tensor) -> Tensor:
    return -torch.log(torch.expm1(1e-4 + 10 * time**2))


def cosine_log_snr(time: Tensor) -> Tensor:
    return -torch.log((torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** -2 - 1).clamp(min=1e-5))


SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {"linear": linear_log_snr, "cosine": cosine_log_snr}


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of log SNRs (B,), shaped (B, 1, 1, 1) to multiply pictures."""
    log_snr = log_snr[:, None, None, None]
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def add_noise(clean: Tensor, log_snr: Tensor, noise: Tensor) -> Tensor:
    alpha, sigma = alpha_sigma(log_snr)
    return alpha * clean + sigma * noise


def objective_target(objective: str, clean: Tensor, log_snr: Tensor, noise: Tensor) -> Tensor:
    """What the U-Net is to predict: the noise, the clean picture, or v = alpha n - sigma x0 (arXiv 2202.00512)."""
    if objective == "noise":
        return noise
    if objective == "x_start":
        return clean
    alpha, sigma = alpha_sigma(log_snr)
    return alpha * noise - sigma * clean


def predicted_clean(objective: str, prediction: Tensor, noisy: Tensor, log_snr: Tensor) -> Tensor:
    """The clean picture that a prediction means."""
    if objective == "x_start":
        return prediction
    alpha, sigma = alpha_sigma(log_snr)
    if objective == "noise":
        return (noisy - sigma * prediction) / alpha.clamp(min=1e-8)
    return alpha * noisy - sigma * prediction


def min_snr_weight(objective: str, log_snr: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma loss weights (arXiv 2303.09556), one per sample."""
    snr = log_snr.exp()
    clipped = snr.clamp(max=gamma)
    return {"noise": clipped / snr, "x_start": clipped, "v": clipped / (snr + 1)}[objective]
