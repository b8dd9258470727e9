"""Finding the speaker's face in one frame of a clip, and cutting it out in SLF's geometry.

    detector = DETECTORS[DEFAULT_DETECTOR]()
    detector.load("cpu")
    face = find_face(detector, clip, media)
    face.target_128, face.guide_8, face.jpeg_256

Geometry (SLF, released code): the detected box is grown by 0.4 of its height above and below and 0.5 of its width left
and right and cut at the frame's edge; its long side becomes 128, centred on black; of this 128 x 128 picture the box
(14, 0, 114, 100) is enlarged to 128. Here both steps are one resampling of the frame, so that nothing is blurred twice.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from PIL import Image

from featurestore.clip import Clip
from pipelines import weights
from pipelines.decoding import Media
from pipelines.reject import Reject

GROW_HEIGHT, GROW_WIDTH = 0.4, 0.5
CANVAS, ZOOM = 128, (14, 0, 114, 100)
TARGET_SIZE, PICTURE_SIZE, GUIDE_SIZE = 128, 256, 8
JPEG_QUALITY = 95

TEST_FRAME = 10
ATTEMPTS = 5
DEFAULT_DETECTOR = "fastmtcnn"

GEOMETRY: dict[str, Any] = {
    "grow": [GROW_HEIGHT, GROW_WIDTH],
    "canvas": CANVAS,
    "zoom": list(ZOOM),
    "resampling": "bicubic, antialiased, once",
    "guide": "block means",
    "frame": f"{TEST_FRAME} in test, else by sha256 of the clip id; {ATTEMPTS} attempts",
}
"""What of this module's choices changes a face's values, for its maker's parameters."""


@dataclass(frozen=True)
class Box:
    """A detected face: left, top, width, height in pixels of the frame, and the detector's probability."""

    x: float
    y: float
    width: float
    height: float
    probability: float


class Detector(Protocol):
    """Finds faces in one frame. `maker()` is cheap and JSON-able: name, version, weights and what else matters."""

    name: str

    def maker(self) -> dict[str, Any]: ...

    def load(self, device: str) -> None: ...

    def detect(self, frame: np.ndarray) -> list[Box]: ...


class FastMtcnn:
    """MTCNN of facenet-pytorch with the weights in its package (Zhang et al. 2016)."""

    name = "fastmtcnn"
    smallest_face, smallest_share = 20, 1 / 12

    def maker(self) -> dict[str, Any]:
        return {
            "detector": self.name,
            "library": f"facenet-pytorch {version('facenet-pytorch')}",
            "weights": weights.digest(self.name),
            "smallest_face": f"{self.smallest_face} pixels, 1/{round(1 / self.smallest_share)} of the short side",
        }

    def load(self, device: str) -> None:
        import torch

        weights.ensure(self.name)
        from facenet_pytorch import MTCNN

        self._network = MTCNN(keep_all=True, device=torch.device(device)).eval()

    def detect(self, frame: np.ndarray) -> list[Box]:
        """(height, width, 3) uint8 RGB -> all faces, the largest first."""
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


DETECTORS: dict[str, type[FastMtcnn]] = {FastMtcnn.name: FastMtcnn}


@dataclass(frozen=True)
class Face:
    """The face found in one frame. frame_index: which; box: where; frame: (height, width, 3) uint8 RGB, the whole."""

    frame_index: int
    box: Box
    frame: np.ndarray

    @cached_property
    def target_128(self) -> np.ndarray:
        """(128, 128, 3) uint8: the face as a training target."""
        return cut_face(self.frame, self.box, TARGET_SIZE)

    @cached_property
    def guide_8(self) -> np.ndarray:
        """(8, 8, 3) uint8: the target at 8 x 8."""
        return shrink_to_guide(self.target_128)

    @cached_property
    def jpeg_256(self) -> bytes:
        """The same region at 256 x 256, JPEG of quality 95, 4:4:4."""
        file = io.BytesIO()
        picture = Image.fromarray(cut_face(self.frame, self.box, PICTURE_SIZE))
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return file.getvalue()


def find_face(detector: Detector, clip: Clip, media: Media) -> Face:
    """The largest face in the clip's frame, or in the first of a few others that shows one.

    The frame is number 10 for the test split, else a pseudo-random one fixed by the clip's id. Raises Reject(`face`).
    """
    tried = []
    for index in candidate_frames(clip, media.frame_count):
        tried.append(index)
        frame = media.frame(index)
        boxes = [box for box in detector.detect(frame) if _lies_in(box, frame)]
        if boxes:
            return Face(index, max(boxes, key=lambda box: box.width * box.height), frame)
    if not tried:
        media.frame(0)
    raise Reject("face", "no face", f"{detector.name} finds no face in frames {', '.join(map(str, tried))}")


def candidate_frames(clip: Clip, frame_count: int) -> Iterator[int]:
    """The frames to look for a face in, in order, each once: spread evenly over the clip from the first on."""
    if not frame_count:
        return
    hashed = int.from_bytes(hashlib.sha256(f"frame/{clip.clip_id}".encode()).digest()[:8], "big")
    first = min(TEST_FRAME, frame_count - 1) if clip.split == "test" else hashed % frame_count
    yield from dict.fromkeys((first + step * frame_count // ATTEMPTS) % frame_count for step in range(ATTEMPTS))


def cut_face(frame: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The region SLF's geometry gives for `box`, (size, size, 3) uint8; black where it leaves the grown box."""
    height, width = frame.shape[:2]
    left = max(0, round(box.x - GROW_WIDTH * box.width))
    top = max(0, round(box.y - GROW_HEIGHT * box.height))
    right = min(width, round(box.x + (1 + GROW_WIDTH) * box.width))
    bottom = min(height, round(box.y + (1 + GROW_HEIGHT) * box.height))

    pixel = max(right - left, bottom - top) / CANVAS
    region_left = (left + right) / 2 + (ZOOM[0] - CANVAS / 2) * pixel
    region_top = (top + bottom) / 2 + (ZOOM[1] - CANVAS / 2) * pixel
    region = (ZOOM[2] - ZOOM[0]) * pixel

    margin = int(np.ceil(max(left - region_left, top - region_top, 0))) + 1
    padded = np.pad(frame[top:bottom, left:right], ((margin, margin), (margin, margin), (0, 0)))
    corner = (region_left - left + margin, region_top - top + margin)
    return np.asarray(
        Image.fromarray(padded).resize(
            (size, size), Image.Resampling.BICUBIC, box=(*corner, corner[0] + region, corner[1] + region)
        )
    )


def shrink_to_guide(target: np.ndarray) -> np.ndarray:
    """(128, 128, 3) uint8 -> (8, 8, 3) uint8, the rounded mean of each block of 16 x 16 pixels."""
    block = TARGET_SIZE // GUIDE_SIZE
    means = target.reshape(GUIDE_SIZE, block, GUIDE_SIZE, block, 3).mean((1, 3))
    return np.rint(means).astype(np.uint8)


def _lies_in(box: Box, frame: np.ndarray) -> bool:
    """Whether the box's centre is a place of the frame, so that there is something to cut out."""
    height, width = frame.shape[:2]
    inside = 0 <= box.x + box.width / 2 < width and 0 <= box.y + box.height / 2 < height
    return inside and min(box.width, box.height) > 1
