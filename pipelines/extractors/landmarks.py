"""MediaPipe's Face Mesh (Kartynnik et al. 2019), run by LiteRT: 468 landmarks of the face, on one thread of the CPU.

The model looks at a square 1.5 times as large as the face, turned so that the eyes are level, as in MediaPipe: first
around the detector's box, then around the landmarks found there.
"""

from typing import Any, NamedTuple

import numpy as np

from featurestore.makers import Maker
from pipelines import weights
from pipelines.detectors import OPENCV, Box, installed
from pipelines.extractors.base import Extractor, Resources, Values
from pipelines.faces import GEOMETRY, maker_of_face, region_of
from pipelines.recipe import Recipe
from pipelines.reject import Reject
from pipelines.sample import Sample

MODEL_SIZE = 192
ROOM = 1.5
LEFT_EYE, RIGHT_EYE = 33, 263
"""The outer corners of the eyes, left and right in the picture."""
THRESHOLD = 0.5
"""MediaPipe's: below this score there is no face."""


class View(NamedTuple):
    """A turned square of a frame: centre, side (pixels), angle of its x axis (radians, clockwise in the picture)."""

    x: float
    y: float
    side: float
    angle: float

    def matrix(self) -> np.ndarray:
        """(2, 3) from pixel numbers of the model's picture to pixel numbers of the frame, centres on whole numbers."""
        scale = self.side / MODEL_SIZE
        cos, sin = scale * np.cos(self.angle), scale * np.sin(self.angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        first = np.array([self.x, self.y]) - 0.5 - turn @ np.full(2, (MODEL_SIZE - 1) / 2)
        return np.column_stack([turn, first])


class FaceMesh:
    """The model in memory."""

    def __init__(self):
        from ai_edge_litert.interpreter import Interpreter

        path = weights.ensure("face_landmarks") / "face_landmark.tflite"
        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._landmarks, self._score = (output["index"] for output in self._interpreter.get_output_details()[:2])

    def find(self, frame: np.ndarray, box: Box) -> tuple[np.ndarray, float]:
        """Frame (height, width, 3) uint8 RGB and the face's box -> (468, 2) float32 in pixels of the frame, score 0..1.

        A frame's first pixel reaches from 0 to 1. What the model gives are taken for pixel numbers: only so do the
        landmarks of a face and of its mirror image agree.
        """
        first, _ = self._look(frame, View(*box.centre, ROOM * max(box.width, box.height), 0.0))
        return self._look(frame, _around(first))

    def _look(self, frame: np.ndarray, view: View) -> tuple[np.ndarray, float]:
        import cv2

        matrix = view.matrix()
        seen = cv2.warpAffine(frame, matrix, (MODEL_SIZE, MODEL_SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        self._interpreter.set_tensor(self._input, seen[None].astype(np.float32) / 255)
        self._interpreter.invoke()
        points = self._interpreter.get_tensor(self._landmarks).reshape(-1, 3)[:, :2]
        logit = self._interpreter.get_tensor(self._score).item()
        return (points @ matrix[:, :2].T + matrix[:, 2] + 0.5).astype(np.float32), float(1 / (1 + np.exp(-logit)))


class FaceParts(Extractor):
    """`face_parts`: (468, 2) float32, x and y as fractions of the `face` picture, and their score 0..1."""

    name = "face_parts"
    makes = ("face_parts",)
    needs = "face"
    models = ("face_landmarks",)
    resources = Resources(memory=0.1)

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def makers(self) -> dict[str, Maker]:
        library = f"{installed('ai-edge-litert')}, {installed(OPENCV)}"
        looked = {"geometry": GEOMETRY, "room": ROOM, "looks": 2, "threshold": THRESHOLD}
        return {
            self.name: maker_of_face(
                self.recipe, self.name, "MediaPipe face_landmark", library, "face_landmarks", **looked
            )
        }

    def load(self, device: str) -> None:
        self._mesh: Any = FaceMesh()

    def extract(self, sample: Sample) -> Values:
        face = sample.face
        points, score = self._mesh.find(face.frame, face.box)
        if not score >= THRESHOLD:
            raise Reject(
                "face_parts", "no landmarks", f"MediaPipe sees no face in the box that was found ({score:.2f})"
            )
        left, top, side = region_of(face.box, face.frame)
        parts = (points - np.array([left, top], np.float32)) / np.float32(side)
        return {"face_parts": parts, "face_parts_score": score}


def _around(points: np.ndarray) -> View:
    """MediaPipe's next view: the square around the landmarks, along the line from eye to eye."""
    x, y = (points.min(0) + points.max(0)) / 2
    across, down = points[RIGHT_EYE] - points[LEFT_EYE]
    return View(float(x), float(y), ROOM * float(np.ptp(points, axis=0).max()), float(np.arctan2(down, across)))
