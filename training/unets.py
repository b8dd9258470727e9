"""imagen-pytorch's U-Nets, built offline and with the condition drop decided from outside, one sample at a time."""

import contextlib
import importlib.util
import io
import itertools
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from featurestore.conditioning import COLUMNS, ROWS
from training.fast_unet import quicken


@cache
def imagen_library() -> ModuleType:
    """The module `imagen_pytorch.imagen_pytorch`, imported without a model hub and without the rest of its package,
    whose trainer wants Arrow.

    Importing it asks a hub for T5's configuration; here it is given one whose width is the matrix's. Its keep mask is
    drawn inside the U-Net; here a tensor of probabilities 0 and 1, one per sample, is taken as the mask itself.
    """
    import transformers

    configuration: Any = transformers.T5Config
    configuration.from_pretrained = classmethod(lambda cls, name: cls(d_model=COLUMNS))
    try:
        with _unstarted("imagen_pytorch"):
            import imagen_pytorch.imagen_pytorch as library
    finally:
        del configuration.from_pretrained

    draw_mask = library.prob_mask_like

    def keep_mask(shape, prob, device):
        return prob.bool() if isinstance(prob, torch.Tensor) else draw_mask(shape, prob, device)

    library.prob_mask_like = keep_mask
    return library


@contextlib.contextmanager
def _unstarted(package: str) -> Iterator[None]:
    """Modules of a package can be imported here without its own code being run."""
    spec = importlib.util.find_spec(package)
    if spec is None or package in sys.modules:
        yield
        return
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]


def library_unet(architecture: Mapping[str, Any], low_resolution: bool) -> nn.Module:
    """imagen-pytorch's own U-Net; arguments as of `build_unet`."""
    unet = imagen_library().Unet
    with contextlib.redirect_stdout(io.StringIO()):  # it prints advice about small widths
        return unet(**architecture, text_embed_dim=COLUMNS, max_text_len=ROWS, lowres_cond=low_resolution)


def build_unet(architecture: Mapping[str, Any], low_resolution: bool) -> nn.Module:
    """A U-Net conditioned on the matrix, and on a low-resolution picture where `low_resolution` says so, its parts
    exchanged for quicker ones.

    architecture: arguments of `imagen_pytorch.Unet`. The weights are drawn from torch's global random state.
    """
    return quicken(library_unet(architecture, low_resolution), imagen_library())


@cache
def imagen_trainer() -> type:
    """imagen-pytorch's own `ImagenTrainer`, imported without its data sets, which want Arrow.

    Raises ModuleNotFoundError where one of its other needs is not installed: accelerate, ema-pytorch, pytorch-warmup.
    """
    imagen_library()
    data: Any = ModuleType("imagen_pytorch.data")
    data.cycle = itertools.cycle
    sys.modules[data.__name__] = data
    try:
        with _unstarted("imagen_pytorch"):
            from imagen_pytorch.trainer import ImagenTrainer
    finally:
        del sys.modules[data.__name__]
    return ImagenTrainer
