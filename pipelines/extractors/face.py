"""The speaker's face, cut out in SLF's geometry: as a picture and as a training target."""

from importlib.metadata import version

import numpy as np

from featurestore.makers import Maker
from pipelines.extractors.base import Extractor, Values
from pipelines.faces import GEOMETRY, face_maker
from pipelines.recipe import Recipe
from pipelines.sample import Sample


class FaceCrop(Extractor):
    """`face`: 256 x 256 JPEG with box, probability and frame; `face_128`: (128, 128, 3) uint8 and its 8 x 8 guide."""

    name = "face"
    makes = ("face", "face_128")
    needs = "face"

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def makers(self) -> dict[str, Maker]:
        found = face_maker(self.recipe)
        return {
            key: Maker(
                key,
                found["detector"],
                f"pillow {version('pillow')}",
                found["weights"],
                {"face": found, "geometry": GEOMETRY},
                found["trained"],
            )
            for key in self.makes
        }

    def extract(self, sample: Sample) -> Values:
        face = sample.face
        box = face.box
        return {
            "face": face.jpeg_256,
            "face_box": np.array([box.x, box.y, box.width, box.height], np.float32),
            "face_probability": box.probability,
            "face_frame": face.frame_index,
            "face_128": face.target_128,
            "face_128_guide": face.guide_8,
        }
