"""How near portraits are to true faces in what a recogniser sees: Fine-portraitist's feature distances."""

from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.metrics import apart, mean

DISTANCES = ("l1", "l2", "cosine", "degrees")


def feature_distances(portraits: np.ndarray, faces: np.ndarray) -> dict[str, Any]:
    """The mean distances of (N, D) features of portraits to those of the faces they are of, with intervals.

    l1: sum of the absolute differences; l2: Euclidean; cosine: 1 - cos; degrees: the angle. The features are taken as
    the recogniser gives them: DeepFace's VGG-Face are of length 1, dlib's are not. Features that are no numbers are
    left out. Distance -> {"n", "value", "low", "high"}, {} where nothing is left.
    """
    known = np.isfinite(portraits).all(1) & np.isfinite(faces).all(1)
    one, other = np.asarray(portraits, np.float64)[known], np.asarray(faces, np.float64)[known]
    if not len(one):
        return {}
    cosine = apart(one, other, "cosine")
    found = {
        "l1": np.abs(one - other).sum(1),
        "l2": np.sqrt(apart(one, other, "l2")),
        "cosine": cosine,
        "degrees": np.degrees(np.arccos(np.clip(1 - cosine, -1, 1))),
    }
    return {name: asdict(mean(values)) for name, values in found.items()}
