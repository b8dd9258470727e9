"""In plain words: how far a number measured here can be compared with the Fine-portraitist paper's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.families import FINE_PORTRAITIST
from evaluation.gallery import EVERY_IMAGE
from evaluation.report.comparing import FEW
from evaluation.sweep import leading


@dataclass(frozen=True)
class Comparison:
    """gallery, recogniser: those by which the paper's columns are filled here, the recogniser also by its name as
    `features`. sentences: topic -> what to know of it. training_faces: recogniser's name -> which they are."""

    gallery: str
    recogniser: str
    features: str
    sentences: Mapping[str, str]
    training_faces: Mapping[str, str]

    @classmethod
    def of_evaluation(cls, evaluation: Mapping[str, Any], synthetic: bool) -> "Comparison":
        """evaluation: of this family alone. synthetic: that the people are."""
        first, recogniser = leading(evaluation)
        galleries = evaluation["galleries"]
        gallery = EVERY_IMAGE if EVERY_IMAGE in galleries else first
        judge = evaluation["recognisers"].get(recogniser, {})
        words = {
            "people": _people(galleries.get(gallery, {}), synthetic),
            "features": _features(judge),
            "cosine": "The paper does not say in what its cosine distance is measured; 5 to 83 is likely degrees, as "
            "in Speech2Face, and stands beside ours in degrees.",
            "judge": _judge(evaluation),
            "gallery": "The paper gives no size of its gallery and no level of guessing: its R@k cannot be compared "
            "with ours in number.",
            "galleries": "“Every image” takes the paper at its word: all test images are searched, and any of the "
            "speaker is a hit, the portrait's own frame too. “Other images” passes over the portrait's own video, so "
            "that only the person can be found. “Identity mean” has one mean vector of features a speaker, of all "
            "images, the portrait's own frame among them.",
            "few": _few(evaluation),
        }
        about = evaluation.get("families", {}).get(FINE_PORTRAITIST.name, {}).get("training_faces", {})
        return cls(
            gallery,
            recogniser,
            judge.get("name", ""),
            {topic: sentence for topic, sentence in words.items() if sentence},
            {name: one["about"] for name, one in about.items()},
        )

    def of(self, *topics: str) -> tuple[str, ...]:
        """The sentences on these topics, where there is something to say."""
        return tuple(self.sentences[topic] for topic in topics if topic in self.sentences)


def _people(gallery: Mapping[str, Any], synthetic: bool) -> str:
    who = "Synthetic people here, real speakers in the paper" if synthetic else "Not the paper's people"
    if not gallery:
        return f"{who}."
    return f"{who}; {gallery['images']:,} images of {gallery['speakers']:,} people to choose from."


def _features(judge: Mapping[str, Any]) -> str:
    if not judge:
        return ""
    if judge["untrained"]:
        return f"Features are {judge['name']}'s with untrained weights: these distances and recalls have no meaning."
    if judge["name"] == "vgg_face":
        return (
            "Features are VGG-Face's, as in the paper, in DeepFace's form: 4,096 numbers of length 1. The paper does "
            "not say what its own are brought to, so that L1 and L2 may be of another unit."
        )
    return (
        f"Features are {judge['name']}'s here, VGG-Face's in the paper: its distances are of another unit and cannot "
        "be compared in number; what can be is which system is nearer."
    )


def _judge(evaluation: Mapping[str, Any]) -> str:
    if not any(row.get("attributes") for row in evaluation["systems"]):
        return ""
    attributes = evaluation.get("attributes") or {}
    judge, untrained = str(attributes.get("judge") or "a classifier"), attributes.get("untrained")
    words = f"Gender and age are {judge}'s word here, a paid service's (Face++) in the paper: not comparable in number."
    return words + (f" Untrained in {', '.join(untrained)}: without meaning." if untrained else "")


def _few(evaluation: Mapping[str, Any]) -> str:
    most = max((row["n"] for row in evaluation["systems"]), default=0)
    return f"With {most} portraits a row the intervals are wide: read them before the numbers." if most < FEW else ""
