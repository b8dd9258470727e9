"""imagen-pytorch's U-Net with some parts exchanged for equal ones that are quick on a GPU.

    unet = quicken(library.Unet(...), library)

A part takes over the parameters of the one it stands for, under their names: state_dict, checkpoints and the order of
parameters stay the library's. In float32 results differ by the rounding of sums alone. Under autocast each norm works
in float32 and gives back the type it was given, so that what follows stays in bfloat16, and a LayerNorm has one epsilon
in training and sampling.
"""

from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
"""Of LayerNorm: the library's in float32. In other types it takes 1e-3."""

UNSHUFFLE = "b c (h s1) (w s2) -> b (c s1 s2) h w"
"""The pattern of the library's Downsample, which is `pixel_unshuffle` by 2."""

CONDITION = ("text_to_cond", "attn_pool", "norm_cond", "to_text_non_attn_cond")
"""The condition's way to the U-Net: little work, and what bfloat16 does harm to (see docs/speed.md)."""

GRAPHS = 64
"""How many graphs may be compiled: one for each shape of a batch, with gradients and without, of each kind of U-Net."""


def quicken(network: nn.Module, library: ModuleType) -> nn.Module:
    """The same U-Net, its parts exchanged in place where there is a quicker one. library: imagen_pytorch's module."""
    for name, part in network.named_children():
        setattr(network, name, quicken(part, library))
        if isinstance(network, library.Unet) and name in CONDITION:
            part = getattr(network, name)
            part.__class__ = type(f"Float32{type(part).__name__}", (_Float32, type(part)), {})
    if isinstance(network, library.Rearrange) and network.pattern == UNSHUFFLE:
        return nn.PixelUnshuffle(2)
    if isinstance(network, library.LayerNorm) and (network.dim != -1 or network.stable):
        return network
    quick = next((quick for name, quick in QUICK.items() if type(network) is getattr(library, name)), None)
    return quick(network) if quick else network


def run(network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """The network's own answer."""
    return network(*args, **kwargs)


@cache
def compiled_run(backend: str = "inductor"):
    """`run`, compiled to one graph for each shape: the network is an argument, and stays what it is."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    return torch.compile(run, fullgraph=True, dynamic=False, backend=backend)


def use_tensor_cores(device: torch.device) -> None:
    """What float32 is on a GPU: matrix products and convolutions round their inputs to TF32, 10 bits of mantissa.

    torch by itself does so in convolutions alone. Also lets cuDNN try which of its convolutions is the quickest.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


class _Part(nn.Module):
    """Takes over all that a part of the library holds."""

    def __init__(self, of: nn.Module):
        super().__init__()
        self.__dict__.update(of.__dict__)


class _Float32:
    """Mixed into a part that works in float32 under autocast too."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float(), *args, **kwargs)  # type: ignore[misc]


class _ChanRMSNorm(_Part):
    """x / |x| x sqrt(channels) x gamma, over the channels of (B, C, H, W)."""

    gamma: Tensor
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        return (F.normalize(x.float(), dim=1) * (self.gamma * self.scale)).to(x.dtype)


class _LayerNorm(_Part):
    """Over the last dimension, with a gain and no bias."""

    g: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.g.shape, self.g, None, EPSILON).to(x.dtype)


class _Heads(_Part):
    """Attention by cosine similarity: softmax(scale x (q / |q| x q_scale) (k / |k| x k_scale)) v, without a mask."""

    heads: int
    scale: float
    q_scale: Tensor
    k_scale: Tensor
    null_kv: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (B, H, N, D); k, v: (B, H, M, D). Returns (B, H, N, D)."""
        q = (F.normalize(q.float(), dim=-1) * self.q_scale).to(v.dtype)
        k = (F.normalize(k.float(), dim=-1) * self.k_scale).to(v.dtype)
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)

    def split(self, x: Tensor) -> Tensor:
        """(B, N, H D) -> (B, H, N, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def nulls(self, like: Tensor) -> Tensor:
        """The learned null key and value side by side, (B, 1, 2 D)."""
        return self.null_kv.flatten().to(like.dtype).expand(len(like), 1, -1)


class _Attention(_Heads):
    """Multi-query: all heads share keys and values, so that they are one head with H N queries."""

    norm: nn.Module
    to_q: nn.Module
    to_kv: nn.Module
    to_context: nn.Module | None
    to_out: nn.Module

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        q, kv = self.to_q(x), self.to_kv(x)
        kv = torch.cat((self.nulls(kv), kv), dim=1)
        if context is not None and self.to_context is not None:
            kv = torch.cat((self.to_context(context), kv), dim=1)
        k, v = kv.unsqueeze(1).chunk(2, dim=-1)
        queries = q.unflatten(-1, (self.heads, -1)).flatten(1, 2).unsqueeze(1)
        return self.to_out(self.attend(queries, k, v).view_as(q))


class _CrossAttention(_Heads):
    norm: nn.Module
    norm_context: nn.Module
    to_q: nn.Module
    to_kv: nn.Module
    to_out: nn.Module

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, kv = self.to_q(self.norm(x)), self.to_kv(self.norm_context(context))
        k, v = (self.split(half) for half in kv.chunk(2, dim=-1))
        null_k, null_v = (null.unsqueeze(1).expand(-1, self.heads, -1, -1) for null in self.nulls(kv).chunk(2, dim=-1))
        k, v = torch.cat((null_k, k), dim=2), torch.cat((null_v, v), dim=2)
        return self.to_out(self.attend(self.split(q), k, v).transpose(1, 2).flatten(2))


class _PerceiverAttention(_Heads):
    norm: nn.Module
    norm_latents: nn.Module
    to_q: nn.Module
    to_kv: nn.Module
    to_out: nn.Module

    def forward(self, x: Tensor, latents: Tensor, mask: None = None) -> Tensor:
        x, latents = self.norm(x), self.norm_latents(latents)
        q, kv = self.to_q(latents), self.to_kv(torch.cat((x, latents), dim=-2))
        k, v = (self.split(half) for half in kv.chunk(2, dim=-1))
        return self.to_out(self.attend(self.split(q), k, v).transpose(1, 2).flatten(2))


QUICK: dict[str, type[_Part]] = {
    "ChanRMSNorm": _ChanRMSNorm,
    "LayerNorm": _LayerNorm,
    "Attention": _Attention,
    "CrossAttention": _CrossAttention,
    "PerceiverAttention": _PerceiverAttention,
}
"""The library's parts and what stands for them."""
