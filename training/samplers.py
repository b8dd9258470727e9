"""Samplers: from noise to a picture in few or many steps, along a grid of log signal-to-noise ratios.

`denoise(x, log_snr)` gives the clean picture the model sees in x, (B, 3, H, W) each; `draw()` gives fresh noise of that
shape. Steps and formulas are named at each sampler. Coefficients are computed on the CPU, where the grid is, so that
nothing waits for a device on the way.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from training.diffusion import alpha_sigma

Denoise = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[], Tensor]
Schedule = Callable[[Tensor], Tensor]

_START = 0.999
"""Time at which the short samplers start: at 1 the signal is too weak for float32."""


def ancestral(denoise: Denoise, draw: Draw, schedule: Schedule, steps: int) -> Tensor:
    """The library's own sampler (DDPM's posterior, that is DDIM with eta 1), uniform in time from 1 to 0."""
    return _ddim(denoise, draw, schedule(torch.linspace(1.0, 0.0, steps + 1)), eta=1.0)


def ddim(denoise: Denoise, draw: Draw, schedule: Schedule, steps: int) -> Tensor:
    """DDIM with eta 0 (arXiv 2010.02502, Equation 12), uniform in time."""
    return _ddim(denoise, draw, schedule(torch.linspace(_START, 0.0, steps + 1)), eta=0.0)


def dpm_solver(denoise: Denoise, draw: Draw, schedule: Schedule, steps: int) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, Algorithm 2), uniform in log SNR, the last step of first order."""
    first, last = schedule(torch.tensor([_START, 0.0])).tolist()
    grid = torch.linspace(first, last, steps + 1)
    x = draw()
    told = grid.to(x.device)
    before = None
    for step, (here, there) in enumerate(pairwise(grid)):
        clean = denoise(x, told[step].expand(len(x)))
        towards = clean if before is None or step == steps - 1 else 1.5 * clean - 0.5 * before
        (_, sigma), (alpha_next, sigma_next) = _coefficients(here), _coefficients(there)
        half_step = (there - here) / 2
        x = (sigma_next / sigma).item() * x - (alpha_next * torch.expm1(-half_step)).item() * towards
        before = clean
    return x


SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "dpm-solver++": dpm_solver}
STEPS = {"ancestral": 1000, "ddim": 50, "dpm-solver++": 25}
"""How many steps each takes where nobody says: the library's own, and what is usual for the short ones."""


def _coefficients(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = alpha_sigma(log_snr[None])
    return alpha.squeeze(), sigma.squeeze()


def _ddim(denoise: Denoise, draw: Draw, grid: Tensor, eta: float) -> Tensor:
    steps = len(grid) - 1
    x = draw()
    told = grid.to(x.device)
    for step, (here, there) in enumerate(pairwise(grid)):
        clean = denoise(x, told[step].expand(len(x)))
        (alpha, sigma), (alpha_next, sigma_next) = _coefficients(here), _coefficients(there)
        noise = (x - alpha.item() * clean) / sigma.item()
        fresh = eta * sigma_next * (-torch.expm1(here - there)).sqrt()
        x = alpha_next.item() * clean + (sigma_next**2 - fresh**2).sqrt().item() * noise
        if eta > 0 and step < steps - 1:
            x = x + fresh.item() * draw()
    return x
