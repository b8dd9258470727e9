"""dlib: face recognition embedding (King 2017, ResNet of 29 layers, 128 numbers; same person below 0.6 on photographs).

Threshold: on rendered faces 0.6 is too wide; calibrate on the corpus at hand.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np

from featurestore.makers import Maker
from pipelines import weights
from pipelines.detectors import Box
from pipelines.extractors.base import Extractor, Resources, Values
from pipelines.faces import maker_of_face
from pipelines.recipe import Recipe
from pipelines.sample import Sample

CHIP_SIZE, CHIP_PADDING = 150, 0.25
AT_ONCE = 32
"""Faces that the network takes together."""
TARGET_BOX = Box(14, 28, 100, 100, 1.0)
"""Where the face lies in a `face_128` picture: SLF's geometry puts the detected box, made square, at (18, 36, 91, 91),
and up to 15 pixels higher where the grown box was cut at the frame's edge."""


class DlibFaces:
    """The landmarks and the embedding network in memory."""

    def __init__(self):
        import dlib

        folder = weights.ensure("dlib")
        self._dlib = dlib
        self._landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, picture: np.ndarray, box: Box) -> np.ndarray:
        """(height, width, 3) uint8 RGB and the face's box in it -> (128,) float32."""
        return np.array(self._network.compute_face_descriptor(self._chip(picture, box)), np.float32)

    def embed_all(self, pictures: Iterable[np.ndarray], box: Box) -> np.ndarray:
        """(N, height, width, 3) uint8 RGB whose faces are all in the same box -> (N, 128) float32, by batches."""
        chips = [self._chip(picture, box) for picture in pictures]
        batches = (chips[first : first + AT_ONCE] for first in range(0, len(chips), AT_ONCE))
        found = [vector for batch in batches for vector in self._network.compute_face_descriptor(batch)]
        return np.array(found, np.float32).reshape(-1, 128)

    def _chip(self, picture: np.ndarray, box: Box) -> np.ndarray:
        """The face turned upright and cut out, (150, 150, 3) uint8.

        The landmarks were trained on square boxes: they are looked for in the square around the box's centre.
        """
        side = max(box.width, box.height)
        left, top = box.x + (box.width - side) / 2, box.y + (box.height - side) / 2
        square = self._dlib.rectangle(round(left), round(top), round(left + side) - 1, round(top + side) - 1)
        picture = np.ascontiguousarray(picture)
        return self._dlib.get_face_chip(picture, self._landmarks(picture, square), CHIP_SIZE, CHIP_PADDING)


class FaceEmbedding(Extractor):
    """`face_embedding_dlib`: (128,) float32, of the face found in the clip's frame."""

    name = "face_embedding_dlib"
    makes = ("face_embedding_dlib",)
    needs = "face"
    models = ("dlib",)
    resources = Resources(memory=0.1)

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def makers(self) -> dict[str, Maker]:
        model, library = "dlib_face_recognition_resnet_model_v1", f"dlib-bin {version('dlib-bin')}"
        chip = [CHIP_SIZE, CHIP_PADDING]
        return {self.name: maker_of_face(self.recipe, self.name, model, library, "dlib", chip=chip)}

    def load(self, device: str) -> None:
        self._faces: Any = DlibFaces()

    def extract(self, sample: Sample) -> Values:
        face = sample.face
        return {"face_embedding_dlib": self._faces.embed(face.frame, face.box)}


def embed_faces(images: np.ndarray) -> np.ndarray:
    """(N, 128, 128, 3) uint8 pictures in the geometry of `face_128`, real or generated -> (N, 128) float32.

    No detection: the face is where the geometry puts it, so that a bad portrait is embedded and not left out.
    """
    return DlibFaces().embed_all(images, TARGET_BOX)
