"""Contrast between speech and face over a global batch: symmetric InfoNCE (Radford et al. 2021, arXiv 2103.00020)."""

import hashlib
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_SCALE = 100.0
"""Of the logits, as CLIP has it: no temperature is below a hundredth."""

PARTS, BITS = 3, 24
"""A speaker is told by so many numbers of so many bits: float32 holds them exactly, and no two speakers share them."""


def speaker_numbers(clip_ids: Iterable[str]) -> list[list[float]]:
    """Numbers that are equal where the clips' speakers are, `PARTS` for each clip."""
    return [_numbers("/".join(one.split("/")[:2])) for one in clip_ids]


def _numbers(speaker: str) -> list[float]:
    digest, size = hashlib.sha256(speaker.encode()).digest(), BITS // 8
    return [float(int.from_bytes(digest[part * size : (part + 1) * size])) for part in range(PARTS)]


def scale_of(log_scale: Tensor) -> Tensor:
    """exp of a learned number, at most `LARGEST_SCALE`; beyond it the gradient stays, so that it finds its way back."""
    return (log_scale + (log_scale.clamp(max=math.log(LARGEST_SCALE)) - log_scale).detach()).exp()


def contrast(
    speech: Tensor, face: Tensor, scale: Tensor, speakers: Tensor, own: slice, everybody: tuple[Tensor, Tensor]
) -> Tensor:
    """(B,): the part of these samples in the contrast of the global batch.

    l_i = -1/2 [ log softmax_j(scale s_i . f_j)_i + log softmax_j(scale f_i . s_j)_i ], where j are all samples but
    other clips of the speaker of i: these are no negatives.

    speech, face: (B, Q) of length 1, with gradients. speakers: (N, `PARTS`). own: these samples' rows among the N.
    everybody: speech and face of all, (N, Q), whose own rows are not looked at. The gradient is that of the sum over
    all N by these samples' numbers, and by the scale the share B / N of it: added up over all parts of the global batch
    it is exact.
    """
    queries = [torch.cat([all_of[: own.start], live, all_of[own.stop :]]) for live, all_of in
               zip((speech, face), everybody, strict=True)]  # fmt: skip
    share = len(speech) / len(speakers)
    scale = share * scale + (1 - share) * scale.detach()
    logits = scale * queries[0] @ queries[1].T
    same = (speakers[:, None] == speakers[None]).all(-1)
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(others, -math.inf)
    losses = -(F.log_softmax(logits, 1).diagonal() + F.log_softmax(logits, 0).diagonal()) / 2
    own_losses = losses[own].detach()
    gradient = losses.sum() / len(speech)
    return own_losses + (gradient - gradient.detach())
