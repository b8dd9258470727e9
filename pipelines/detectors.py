"""Detectors: who finds the faces in one frame.

    detector = DETECTORS["fastmtcnn"]()
    detector.load("cpu")
    detector.detect(frame, None)

A new detector is one class here and one line in `DETECTORS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np

from featurestore.errors import VoxportraitError, choose
from pipelines import weights
from pipelines.deepface_home import deepface_home
from pipelines.networks import inference
from pipelines.reject import Reject

OPENCV = "opencv-contrib-python-headless"
"""The package that resizes and turns frames for RetinaFace, DeepFace and Face Mesh."""

SMALLEST_FACE = 20
"""Pixels: no detector is asked about a frame that is narrower or lower."""


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
    smallest_share = 1 / 12

    def maker(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "library": installed("facenet-pytorch"),
            "weights": weights.digest(self.name),
            "trained": weights.is_trained(self.name),
            "smallest_face": f"{SMALLEST_FACE} pixels, 1/{round(1 / self.smallest_share)} of the short side",
        }

    def load(self, device: str) -> None:
        import torch

        weights.ensure(self.name)
        from facenet_pytorch import MTCNN

        self._network = MTCNN(keep_all=True, device=torch.device(device)).eval()

    def detect(self, frame: np.ndarray, tracked: Box | None) -> list[Box]:
        short_side = min(frame.shape[:2])
        if short_side < SMALLEST_FACE:
            return []
        self._network.min_face_size = max(SMALLEST_FACE, round(short_side * self.smallest_share))
        with inference():
            corners, probabilities = self._network.detect(frame)
        if corners is None:
            return []
        return [_box(sides, probability) for sides, probability in zip(corners, probabilities, strict=True)]


class RetinaFace:
    """RetinaFace of retina-face, ResNet-50, as DeepFace calls it (Deng et al. 2020): SLF's detector.

    The library enlarges the frame's short side to 1,024 pixels: seconds a frame on a CPU.
    """

    name = "retinaface"
    models: tuple[str, ...] = ("retinaface",)
    threshold = 0.9

    def maker(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "library": f"{installed('retina-face')}, {installed(OPENCV)}",
            "weights": weights.digest(self.name),
            "trained": weights.is_trained(self.name),
            "smallest_face": f"{SMALLEST_FACE} pixels, probability {self.threshold}",
        }

    def load(self, device: str) -> None:
        with deepface_home(self.name):
            from retinaface import RetinaFace as library
            from retinaface.model.retinaface_pth_model import build_model

            network: Any = build_model().to(device)
        self._library = library
        self._network = lambda picture: [output.cpu() for output in network(picture.to(device))]

    def detect(self, frame: np.ndarray, tracked: Box | None) -> list[Box]:
        if min(frame.shape[:2]) < SMALLEST_FACE:
            return []
        with inference():
            found = self._library.detect_faces(frame[:, :, ::-1], self.threshold, self._network)
        boxes = [_box(face["facial_area"], face["score"]) for face in found.values()]
        return sorted(boxes, key=lambda box: box.width * box.height, reverse=True)


class Track:
    """The corpus's own boxes, taken as they are: right where they are fractions of the very frames in the clip.

    So it is in the synthetic corpus and in videos that nobody cropped. The official VoxCeleb2 is cropped around the
    face, while its boxes are fractions of the original videos: there they show another place.
    """

    name = "track"
    models: tuple[str, ...] = ()

    def maker(self) -> dict[str, Any]:
        return {"detector": self.name, "library": "", "weights": "", "trained": True}

    def load(self, device: str) -> None:
        pass

    def detect(self, frame: np.ndarray, tracked: Box | None) -> list[Box]:
        if tracked is None or not tracked.width:
            raise Reject("face", "no face", "the corpus has no face track of this clip; another detector may find one")
        return [tracked]


DETECTORS: dict[str, type[Detector]] = {detector.name: detector for detector in (FastMtcnn, RetinaFace, Track)}


def resolve_detector(name: str) -> str:
    """The detector of that name; for `auto`, RetinaFace where its trained weights are there, else fastmtcnn.

    Raises UsageError for a name that is not known.
    """
    if choose("detector", name, ("auto", *DETECTORS)) != "auto":
        return name
    return "retinaface" if not weights.missing("retinaface") and weights.is_trained("retinaface") else "fastmtcnn"


def _box(sides: Sequence[float], probability: float) -> Box:
    left, top, right, bottom = sides
    return Box(float(left), float(top), float(right - left), float(bottom - top), float(probability))


def installed(package: str) -> str:
    """Its name and version, for makers. Raises VoxportraitError if it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise VoxportraitError(f"the package {package} is not installed; run `make setup`.") from None
