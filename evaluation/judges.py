"""Who judges portraits: face recognisers, which say how near two faces are, and who tells age, gender and ethnicity.

    dlib = recogniser("dlib")                    # or any DeepFace model: recogniser("arcface", "cosine")
    dlib.embed(pictures)
    deepface_attributes().judge(pictures)["gender"]

A judge sees a portrait as it sees a true face: the geometry of `face_128` and `face`, which show the same square of the
frame at 128 and at 256 px, says where the face is, so that a bad portrait is judged and not left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from evaluation.metrics import METRICS
from featurestore.errors import choose

Embed = Callable[[np.ndarray], np.ndarray]
"""(N, S, S, 3) uint8 faces, S 128 or 256 -> (N, D) float32."""

JUDGED = ("age", "gender", "ethnicity")


@dataclass(frozen=True)
class Recogniser:
    """A face recogniser and how two of its embeddings are compared. untrained: its weights were never trained."""

    name: str
    embed: Embed
    metric: str = "l2"
    untrained: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}-{self.metric}"


@dataclass(frozen=True)
class AttributeJudge:
    """Who tells age, gender and ethnicity from a picture.

    judge: (N, S, S, 3) uint8 -> those of `JUDGED` that it tells: `age` (N,) years, the others (N,) codes of
    `catalogue.ATTRIBUTES`. untrained: which of them are from weights that were never trained; absent: which it cannot
    tell, and why.
    """

    name: str
    judge: Callable[[np.ndarray], dict[str, np.ndarray]]
    untrained: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


def recogniser_names() -> tuple[str, ...]:
    """dlib, whose trained weights come as a package, and DeepFace's."""
    from pipelines.extractors.deepface import RECOGNITION_MODELS

    return ("dlib", *RECOGNITION_MODELS)


def recogniser(name: str, metric: str = "l2", device: str | None = None) -> Recogniser:
    """A recogniser by its name; it loads its weights when it first looks, once.

    device: of DeepFace's models, a GPU where there is one. Raises UsageError for a name or a metric that is none (it
    lists the known ones), VoxportraitError where the weights are not there.
    """
    from pipelines import weights

    choose("metric", metric, METRICS)
    weights.ensure(choose("recogniser", name, recogniser_names()))
    return Recogniser(name, _embed_of(name, _device(device)), metric, not weights.is_trained(name))


def recogniser_of_features(metric: str = "l2", device: str | None = None) -> Recogniser:
    """VGG-Face, by whose features Fine-portraitist's paper compares, where its trained weights are there, else dlib."""
    from pipelines import weights

    here = weights.missing("vgg_face") is None and weights.is_trained("vgg_face")
    return recogniser("vgg_face" if here else "dlib", metric, device)


@cache
def _embed_of(name: str, device: str) -> Embed:
    if name == "dlib":
        return _dlib()
    from pipelines.extractors.deepface import FaceEmbedding
    from pipelines.recipe import Recipe

    model = _Loaded(FaceEmbedding(name, Recipe()), device)
    return lambda pictures: np.array(model(pictures), np.float32).reshape(len(pictures), -1)


def _dlib() -> Embed:
    from pipelines.detectors import Box
    from pipelines.extractors.dlib import TARGET_BOX, DlibFaces

    load = cache(DlibFaces)

    def embed(pictures: np.ndarray) -> np.ndarray:
        times, place = pictures.shape[1] / 128, TARGET_BOX
        box = Box(place.x * times, place.y * times, place.width * times, place.height * times, place.probability)
        return load().embed_all(pictures, box)

    return embed


@cache
def deepface_attributes(device: str | None = None) -> AttributeJudge:
    """DeepFace's age, gender and ethnicity, as far as their weights are there."""
    from pipelines import weights
    from pipelines.extractors.deepface import Attribute
    from pipelines.recipe import Recipe

    absent = {key: reason for key in JUDGED if (reason := weights.missing(key))}
    models = {key: _Loaded(Attribute(key, Recipe()), _device(device)) for key in JUDGED if key not in absent}

    def judge(pictures: np.ndarray) -> dict[str, np.ndarray]:
        told = {key: [model.values(one)[key] for one in model(pictures)] for key, model in models.items()}
        return {key: np.array([_number(key, value) for value in values]) for key, values in told.items()}

    return AttributeJudge("DeepFace", judge, tuple(key for key in models if not weights.is_trained(key)), absent)


def _number(key: str, value: Any) -> float | int:
    from featurestore.conditioning import attribute_code

    return float(value) if key == "age" else attribute_code(key, value)


class _Loaded:
    """A network of `pipelines.extractors` that is loaded when it first looks; gives a result a picture."""

    def __init__(self, network: Any, device: str):
        self.values, self._network, self._device = network.values, network, device
        self._load = cache(lambda: network.load(device))
        self._at_once = network.resources.cpu_batch if device == "cpu" else network.resources.batch

    def __call__(self, pictures: np.ndarray) -> list[Any]:
        self._load()
        results: list[Any] = []
        for first in range(0, len(pictures), self._at_once):
            looked = [self._network.look(picture) for picture in pictures[first : first + self._at_once]]
            results += self._network.infer(np.stack(looked))
        return results


def _device(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
