"""Detectors: who finds the faces in one frame.

    detector = DETECTORS["fastmtcnn"]()
    detector.load("cpu")
    detector.detect(frame, None)

A new detector is one class here and one line in `DETECTORS`.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from pipelines import weights


@dataclass(frozen=True)
class Box:
    """A detected face: left, top, width, height in pixels of the frame, and the detector's probability."""

    x: float
    y: float
    width: float
    height: float
    probability: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


class Detector(Protocol):
    """Finds faces in one frame.

    models: the names in `pipelines.weights.MODELS` that must be there. `maker()` is cheap and JSON-able: detector,
    library, weights (sha256), trained, and what else matters. `detect(frame, tracked)` takes a (height, width, 3) uint8
    RGB frame and the corpus's own box in it, None where the corpus has none, and gives all faces, the largest first.
    """

    name: str
    models: tuple[str, ...]

    def maker(self) -> dict[str, Any]: ...

    def load(self, device: str) -> None: ...

    def detect(self, frame: np.ndarray, tracked: Box | None) -> list[Box]: ...


class FastMtcnn:
    """MTCNN of facenet-pytorch with the weights in its package (Zhang et al. 2016)."""

    name = "fastmtcnn"
    models: tuple[str, ...] = ("fastmtcnn",)
    smallest_face, smallest_share = 20, 1 / 12

    def maker(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "library": f"facenet-pytorch {version('facenet-pytorch')}",
            "weights": weights.digest(self.name),
            "trained": True,
            "smallest_face": f"{self.smallest_face} pixels, 1/{round(1 / self.smallest_share)} of the short side",
        }

    def load(self, device: str) -> None:
        import torch

        weights.ensure(self.name)
        from facenet_pytorch import MTCNN

        self._network = MTCNN(keep_all=True, device=torch.device(device)).eval()

    def detect(self, frame: np.ndarray, tracked: Box | None) -> list[Box]:
        short_side = min(frame.shape[:2])
        if short_side < self.smallest_face:
            return []
        self._network.min_face_size = max(self.smallest_face, round(short_side * self.smallest_share))
        corners, probabilities = self._network.detect(frame)
        if corners is None:
            return []
        return [
            Box(float(left), float(top), float(right - left), float(bottom - top), float(probability))
            for (left, top, right, bottom), probability in zip(corners, probabilities, strict=True)
        ]


DETECTORS: dict[str, type[Detector]] = {detector.name: detector for detector in (FastMtcnn,)}
