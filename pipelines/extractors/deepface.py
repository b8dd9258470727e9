"""DeepFace on its PyTorch engine: age, gender and ethnicity (Serengil and Ozpinar 2021), and its recognition models.

All look at SLF's crop before the enlargement, `Face.crop_128`.
"""

from typing import Any

import numpy as np

from featurestore.makers import Maker
from pipelines.deepface_home import client_class, deepface_home
from pipelines.detectors import OPENCV, installed
from pipelines.extractors.base import Network, Resources, Values
from pipelines.faces import GEOMETRY, WHOLE, maker_of_face
from pipelines.networks import inference
from pipelines.recipe import Recipe
from pipelines.sample import Sample

ATTRIBUTE_MODELS = {"age": "Age", "gender": "Gender", "ethnicity": "Race"}
RECOGNITION_MODELS = {
    "vgg_face": "VGG-Face",
    "facenet": "Facenet",
    "facenet512": "Facenet512",
    "arcface": "ArcFace",
    "openface": "OpenFace",
    "deepface": "DeepFace",
    "deepid": "DeepID",
    "ghostfacenet": "GhostFaceNet",
}
"""Our name -> DeepFace's, as `build_model` takes it."""

ATTRIBUTE_SIZE = (224, 224)
DETECTOR = "opencv"
"""DeepFace's own default: within the crop it looks for the face again, and takes the whole crop where it finds none."""

NEAR = 5
"""Years: `age_probability` is what the model gives to the ages this near to the one it says."""

LARGE = Resources(memory=0.55, gpu=0.15, batch=16, cpu_batch=8)
SMALL = Resources(memory=0.15, gpu=0.1, batch=16)


class Attribute(Network):
    """`age`, `gender` or `ethnicity`, as `DeepFace.analyze(crop, enforce_detection=False)`, with their probabilities.

    Age is the mean of the model's distribution over 0 to 100 years, not rounded; a label is the most probable one.
    """

    needs = "face"
    resources = LARGE

    def __init__(self, attribute: str, recipe: Recipe):
        self.attribute, self.recipe = attribute, recipe
        self.name = f"deepface_{attribute}"
        self.makes = self.models = (attribute,)

    def makers(self) -> dict[str, Maker]:
        key = self.attribute
        looked = {"detector": f"{DETECTOR}, not enforced"} | ({"near": NEAR} if key == "age" else {})
        return {key: _maker(key, key, ATTRIBUTE_MODELS[key], self.recipe, looked)}

    def load(self, device: str) -> None:
        self._client = _client("facial_attribute", self.attribute, ATTRIBUTE_MODELS[self.attribute], device)

    def inputs(self, sample: Sample) -> np.ndarray:
        return self.look(sample.face.crop_128)

    def look(self, picture: np.ndarray) -> np.ndarray:
        """What the model takes of a picture of one face, (height, width, 3) uint8 RGB."""
        from deepface.modules.detection import extract_faces
        from deepface.modules.preprocessing import resize_image

        crop = np.ascontiguousarray(picture[:, :, ::-1])
        (face,) = extract_faces(crop, DETECTOR, enforce_detection=False, color_face="bgr", max_faces=1)
        return resize_image(face["face"], ATTRIBUTE_SIZE)[0]

    def infer(self, stack: np.ndarray) -> list[np.ndarray]:
        import torch

        with inference():
            faces = torch.from_numpy(stack).permute(0, 3, 1, 2).to(self._client.device)
            return list(self._client.model(faces).cpu().numpy())

    def values(self, result: np.ndarray) -> Values:
        if self.attribute == "age":
            return _age(result)
        from deepface.models.demography.DemographyUtils import GENDER_LABELS, RACE_LABELS

        label = (GENDER_LABELS if self.attribute == "gender" else RACE_LABELS)[result.argmax()]
        return {self.attribute: label.lower(), f"{self.attribute}_probability": float(result.max())}


class FaceEmbedding(Network):
    """`face_embedding_<model>`: float32, as `DeepFace.represent(crop, model, detector_backend="skip")`."""

    needs = "face"

    def __init__(self, model: str, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.name = f"face_embedding_{model}"
        self.makes, self.models = (self.name,), (model,)
        self.resources = LARGE if model in ("vgg_face", "deepface") else SMALL

    def makers(self) -> dict[str, Maker]:
        name, looked = RECOGNITION_MODELS[self.model], {"detector": "skip"}
        return {self.name: _maker(self.name, self.model, name, self.recipe, looked)}

    def load(self, device: str) -> None:
        self._client = _client("facial_recognition", self.model, RECOGNITION_MODELS[self.model], device)

    def inputs(self, sample: Sample) -> np.ndarray:
        return self.look(sample.face.crop_128)

    def look(self, picture: np.ndarray) -> np.ndarray:
        """What the model takes of a picture of one face, (height, width, 3) uint8 RGB."""
        from deepface.modules.preprocessing import resize_image

        width, height = self._client.input_shape
        return resize_image(picture[:, :, ::-1], (height, width))[0]

    def infer(self, stack: np.ndarray) -> list[np.ndarray]:
        with inference():
            return list(np.array(self._client.forward(stack), np.float32).reshape(len(stack), -1))

    def values(self, result: np.ndarray) -> Values:
        return {self.name: result}


def _age(distribution: np.ndarray) -> Values:
    years = np.arange(len(distribution))
    age = float(distribution @ years)
    return {"age": age, "age_probability": float(distribution[np.abs(years - age) <= NEAR].sum())}


def _maker(constituent: str, name: str, deepface_name: str, recipe: Recipe, looked: dict[str, Any]) -> Maker:
    library = f"{installed('deepface')}, pytorch, {installed(OPENCV)}"
    parameters = {"geometry": GEOMETRY | {"zoom": list(WHOLE)}} | looked
    return maker_of_face(recipe, constituent, f"DeepFace {deepface_name}", library, name, **parameters)


def _client(task: str, name: str, deepface_name: str, device: str) -> Any:
    """DeepFace's client of a model, with its weights, on the device."""
    import torch

    with deepface_home(name):
        client = client_class(task, deepface_name)()
    client.device = torch.device(device)
    client.model.to(client.device)
    return client
