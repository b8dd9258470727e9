"""Frechet inception distance (Heusel et al. 2017): torchmetrics' mathematics on the InceptionV3 that it was defined by.

    judge = Fid.load()
    judge.distance(judge.features(pictures), judge.features(faces))

Features are of dimension 2,048: with fewer pictures than that the covariances are singular and the distance is mostly
a bias that falls with their number. Compare only distances of equally many pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

FEATURES, SIDE, AT_ONCE = 2048, 299, 32

RELIABLE = 2000
"""Pictures, of either kind, below which a distance is named unreliable."""


@dataclass(frozen=True)
class Fid:
    """features: (N, H, W, 3) uint8 -> (N, D) float32."""

    features: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def load(cls, device: str | None = None) -> "Fid":
        """The network, a GPU's where there is one; a VoxportraitError where its weights cannot be had."""
        import torch

        from pipelines import weights

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network = torch.jit.load(str(weights.ensure("inception") / "default_1.pt"), map_location=device).eval()

        def features(pictures: np.ndarray) -> np.ndarray:
            found = [np.empty((0, FEATURES), np.float32)]
            with torch.inference_mode():
                for first in range(0, len(pictures), AT_ONCE):
                    some = torch.from_numpy(np.ascontiguousarray(pictures[first : first + AT_ONCE])).to(device)
                    found.append(network(_resized(some.permute(0, 3, 1, 2).float()) / 128 - 1).cpu().numpy())
            return np.concatenate(found)

        return cls(features)

    def distance(self, one: np.ndarray, other: np.ndarray) -> float:
        """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets of features, each of at least two, in float64."""
        import torch
        from torchmetrics.image.fid import FrechetInceptionDistance

        given = torch.nn.Identity()
        given.num_features = one.shape[1]
        measure = FrechetInceptionDistance(feature=given)
        for features, real in ((other, True), (one, False)):
            measure.update(torch.from_numpy(features.astype(np.float64)), real=real)
        return float(measure.compute())

    def judge(self, one: np.ndarray, other: np.ndarray) -> dict[str, Any] | None:
        """{"value", "n", "reference", "reliable"} of pictures' and true faces' features; None for fewer than two."""
        counts = len(one), len(other)
        if min(counts) < 2:
            return None
        return {
            "value": self.distance(one, other),
            "n": counts[0],
            "reference": counts[1],
            "reliable": min(counts) >= RELIABLE,
        }


def _resized(pictures: Any) -> Any:
    """(B, 3, H, W) -> (B, 3, 299, 299), bilinear with corners aligned at the top left, as TensorFlow 1 did it for the
    published distances (Parmar et al. 2022 say what other ways do to them)."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    count, channels, height, width = pictures.shape
    theta = torch.eye(2, 3, device=pictures.device)
    theta[0, 2] += 1 / width - 1 / SIDE
    theta[1, 2] += 1 / height - 1 / SIDE
    grid = affine_grid(theta.expand(count, 2, 3), [count, channels, SIDE, SIDE], align_corners=False)
    return grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
