"""What a person may choose about how values are made. Each choice is part of the makers it touches."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How constituents are made where there is more than one way.

    detector: who finds faces, a name of `pipelines.detectors.DETECTORS`, or `auto`: RetinaFace where its trained
    weights are there, else fastmtcnn;
    face: which of several faces is the speaker's: the `largest`, or the one nearest the corpus's `track`. A clip whose
    corpus gives a point (AVSpeech) always has the face nearest to it;
    attributes: who says age, gender and ethnicity: the `corpus` or `deepface`.
    """

    detector: str = "auto"
    face: str = "largest"
    attributes: str = "corpus"


FACES = ("largest", "track")
ATTRIBUTES = ("corpus", "deepface")
