"""Finding the speaker's face in one frame of a clip, and cutting it out in SLF's geometry.

    finder = FaceFinder(Recipe())
    finder.load("cpu")
    face = finder.find(clip, media)
    face.target_128, face.guide_8, face.jpeg_256, face.crop_128

Geometry (SLF, released code): the detected box is grown by 0.4 of its height above and below and 0.5 of its width left
and right and cut at the frame's edge; its long side becomes 128, centred on black; of this 128 x 128 picture the box
(14, 0, 114, 100) is enlarged to 128. Here both steps are one resampling of the frame, so that nothing is blurred twice.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from featurestore.clip import Clip
from featurestore.makers import Maker
from pipelines import weights
from pipelines.detectors import DETECTORS, Box, Detector, resolve_detector
from pipelines.recipe import Recipe
from pipelines.reject import Reject

if TYPE_CHECKING:
    from pipelines.decoding import Media

GROW_HEIGHT, GROW_WIDTH = 0.4, 0.5
CANVAS, WHOLE, ZOOM = 128, (0, 0, 128, 128), (14, 0, 114, 100)
TARGET_SIZE, PICTURE_SIZE, GUIDE_SIZE = 128, 256, 8
JPEG_QUALITY = 95

TEST_FRAME = 10
ATTEMPTS = 5

GEOMETRY: dict[str, Any] = {
    "grow": [GROW_HEIGHT, GROW_WIDTH],
    "canvas": CANVAS,
    "zoom": list(ZOOM),
    "resampling": "bicubic, antialiased, once",
    "guide": "block means",
}
"""What of this module's choices changes how a face is cut out, for makers' parameters."""

FRAMES = f"{TEST_FRAME} in test, else by sha256 of the clip id; {ATTEMPTS} attempts"
"""Which frames are looked at, for makers' parameters."""


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
    def crop_128(self) -> np.ndarray:
        """(128, 128, 3) uint8: the face before the enlargement, as SLF shows it to DeepFace."""
        return cut_face(self.frame, self.box, CANVAS, WHOLE)

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


class FaceFinder:
    """Finds the speaker's face in a clip, as a recipe says."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.detector: Detector = DETECTORS[resolve_detector(recipe.detector)]()

    def load(self, device: str) -> None:
        self.detector.load(device)

    def find(self, clip: Clip, media: "Media") -> Face:
        """The speaker's face in the clip's frame, or in the first of a few others that shows one.

        The frame is number 10 for the test split, else a pseudo-random one fixed by the clip's id. Of several faces it
        is the one that `which_face` says. Frames that cannot be decoded are passed over. Raises Reject(`face`).
        """
        if not media.frame_count:
            media.frame(0)
        tried, damage = [], None
        for index in candidate_frames(clip, media.frame_count):
            try:
                frame = media.frame(index)
            except Reject as reject:
                damage = reject
                continue
            tried.append(index)
            tracked = tracked_box(clip, index, media.frame_count, frame)
            boxes = [box for box in self.detector.detect(frame, tracked) if _lies_in(box, frame)]
            if boxes:
                return Face(index, which_face(boxes, tracked, self.recipe), frame)
        if damage and not tried:
            raise damage
        raise Reject("face", "no face", f"{self.detector.name} finds no face in frames {', '.join(map(str, tried))}")


def face_maker(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe decides which face is found, and in which frame: for makers' parameters."""
    from pipelines.decoding import picture_decoder

    detector = DETECTORS[resolve_detector(recipe.detector)]()
    return detector.maker() | {"face": recipe.face, "frame": FRAMES, "decoder": picture_decoder()}


def maker_of_face(
    recipe: Recipe, constituent: str, model: str, library: str, weights_name: str, **parameters: Any
) -> Maker:
    """The maker of a model that looks at the face which the recipe finds; untrained where either is."""
    found = face_maker(recipe)
    trained = found["trained"] and weights.is_trained(weights_name)
    return Maker(constituent, model, library, weights.digest(weights_name), {"face": found} | parameters, trained)


def tracked_box(clip: Clip, index: int, frame_count: int, frame: np.ndarray) -> Box | None:
    """The corpus's box, in pixels, for frame `index` of a clip; a point is a box of no size. None without a track."""
    if not clip.face_track:
        return None
    row = min(index * len(clip.face_track) // frame_count, len(clip.face_track) - 1)
    _, x, y, w, h = clip.face_track[row]
    height, width = frame.shape[:2]
    return Box(x * width, y * height, w * width, h * height, 1.0)


def which_face(boxes: Sequence[Box], tracked: Box | None, recipe: Recipe) -> Box:
    """The speaker's box: the nearest to the corpus's point, or to its track if the recipe says so; else the largest."""
    if tracked is None or (recipe.face == "largest" and tracked.width > 0):
        return max(boxes, key=lambda box: box.width * box.height)
    x, y = tracked.centre
    return min(boxes, key=lambda box: (box.centre[0] - x) ** 2 + (box.centre[1] - y) ** 2)


def candidate_frames(clip: Clip, frame_count: int) -> Iterator[int]:
    """The frames to look for a face in, in order, each once: spread evenly over the clip from the first on."""
    if not frame_count:
        return
    hashed = int.from_bytes(hashlib.sha256(f"frame/{clip.clip_id}".encode()).digest()[:8], "big")
    first = min(TEST_FRAME, frame_count - 1) if clip.split == "test" else hashed % frame_count
    yield from dict.fromkeys((first + step * frame_count // ATTEMPTS) % frame_count for step in range(ATTEMPTS))


class Region(NamedTuple):
    """A square of a frame: left, top, side, in pixels of the frame."""

    left: float
    top: float
    side: float


def grow(box: Box, frame: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the grown box, cut at the frame's edge."""
    height, width = frame.shape[:2]
    return (
        max(0, round(box.x - GROW_WIDTH * box.width)),
        max(0, round(box.y - GROW_HEIGHT * box.height)),
        min(width, round(box.x + (1 + GROW_WIDTH) * box.width)),
        min(height, round(box.y + (1 + GROW_HEIGHT) * box.height)),
    )


def region_of(box: Box, frame: np.ndarray, zoom: tuple[int, int, int, int] = ZOOM) -> Region:
    """The square of the frame that SLF's geometry shows for `box`: of `face` and `face_128`, or of `crop_128`."""
    left, top, right, bottom = grow(box, frame)
    pixel = max(right - left, bottom - top) / CANVAS
    return Region(
        (left + right) / 2 + (zoom[0] - CANVAS / 2) * pixel,
        (top + bottom) / 2 + (zoom[1] - CANVAS / 2) * pixel,
        (zoom[2] - zoom[0]) * pixel,
    )


def cut_face(frame: np.ndarray, box: Box, size: int, zoom: tuple[int, int, int, int] = ZOOM) -> np.ndarray:
    """`region_of` the box as a picture, (size, size, 3) uint8; black where it leaves the grown box."""
    left, top, right, bottom = grow(box, frame)
    region = region_of(box, frame, zoom)
    margin = int(np.ceil(max(left - region.left, top - region.top, 0))) + 1
    padded = np.pad(frame[top:bottom, left:right], ((margin, margin), (margin, margin), (0, 0)))
    x, y = region.left - left + margin, region.top - top + margin
    return np.asarray(
        Image.fromarray(padded).resize(
            (size, size), Image.Resampling.BICUBIC, box=(x, y, x + region.side, y + region.side)
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
    x, y = box.centre
    inside = 0 <= x < width and 0 <= y < height
    return inside and min(box.width, box.height) > 1
