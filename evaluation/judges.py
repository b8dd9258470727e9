"""Who judges portraits: face recognisers, which say how near two faces are.

    dlib = recogniser("dlib")                    # or any DeepFace model: recogniser("arcface", "cosine")
    dlib.embed(pictures)

A judge sees a portrait as it sees a true face: where the geometry of `face_128` puts the face, without looking for one,
so that a bad portrait is judged and not left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation.metrics import METRICS
from featurestore.errors import choose

Embed = Callable[[np.ndarray], np.ndarray]
"""(N, 128, 128, 3) uint8 faces -> (N, D) float32."""


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


def recogniser(name: str, metric: str = "l2", device: str | None = None) -> Recogniser:
    """A recogniser by its name; a UsageError lists the known names and metrics."""
    choose("metric", metric, METRICS)
    choose("recogniser", name, ("dlib",))
    from pipelines.extractors.dlib import embed_faces

    return Recogniser(name, embed_faces, metric)
