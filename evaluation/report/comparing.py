"""In plain words: how far a number measured here can be compared with the paper's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.report import paper
from evaluation.sweep import leading

FEW = 50
"""Portraits of a row below which its intervals are what is to be read."""


@dataclass(frozen=True)
class Comparison:
    """gallery, recogniser: those by which systems are put in order here. sentences: topic -> what to know of it."""

    gallery: str
    recogniser: str
    sentences: Mapping[str, str]

    @classmethod
    def of_evaluation(
        cls, evaluation: Mapping[str, Any], synthetic: bool, sizes: Iterable[Mapping[str, Any]] = ()
    ) -> "Comparison":
        """synthetic: that the people are. sizes: of `training.sizes`, what was trained."""
        gallery, recogniser = leading(evaluation)
        words = {
            "people": _people(evaluation, gallery, synthetic),
            "size": _size(list(sizes)),
            "recogniser": _recogniser(evaluation["recognisers"], recogniser),
            "galleries": _galleries(evaluation["galleries"]),
            "judge": _judge(evaluation),
            "best": "Each system stands at the scale of its highest R@1, here as in the paper: picked after seeing the "
            "result, which flatters it.",
            "few": _few(evaluation),
        }
        return cls(gallery, recogniser, {topic: sentence for topic, sentence in words.items() if sentence})

    def of(self, *topics: str) -> tuple[str, ...]:
        """The sentences on these topics, where there is something to say."""
        return tuple(self.sentences[topic] for topic in topics if topic in self.sentences)


def _people(evaluation: Mapping[str, Any], gallery: str, synthetic: bool) -> str:
    who = "Synthetic people here, real speakers of VoxCeleb2 in the paper" if synthetic else "Not the paper's people"
    size = evaluation["galleries"].get(gallery, {}).get("speakers")
    if not size:
        return f"{who}."
    return (
        f"{who}; {size} faces to choose from instead of {paper.SPEAKERS}: guessing finds {100 / size:.1f} % at R@1 "
        f"instead of {100 / paper.SPEAKERS:.1f} %."
    )


def _size(sizes: list[Mapping[str, Any]]) -> str:
    if not sizes:
        return ""
    least, most = min(size["narrower"][0] for size in sizes), max(size["narrower"][1] for size in sizes)
    names = " and ".join(size["preset"] for size in sizes)
    times = f"{least}" if least == most else f"{least} to {most}"
    return f"Models of preset {names} here, {times} times narrower than the paper's, and trained far less."


def _recogniser(recognisers: Mapping[str, Mapping[str, Any]], key: str) -> str:
    if not key:
        return ""
    one = recognisers[key]
    if one["untrained"]:
        return f"Faces are compared by {one['name']} with untrained weights: these recalls have no meaning."
    if (one["name"], one["metric"]) == ("vgg_face", "l2"):
        return "Faces are compared by VGG-Face and L2, as in the paper, in a later version of it."
    by = f"{one['name']} ({one['metric'].replace('l2', 'L2')})"
    return f"Faces are compared by {by} here, by VGG-Face (L2) in the paper."


def _galleries(galleries: Mapping[str, Any]) -> str:
    same = "“Same frame” searches the very picture that the portrait is a likeness of, as the paper does"
    if {"same-frame", "another-video"} <= set(galleries):
        return (
            f"{same}; “another video” searches another picture of the speaker, which is harder and which the paper "
            "does not give."
        )
    return f"{same}; no second video of these speakers was had." if "same-frame" in galleries else ""


def _judge(evaluation: Mapping[str, Any]) -> str:
    if not any(row.get("attributes") for row in evaluation["systems"]):
        return ""
    attributes = evaluation.get("attributes") or {}
    judge = str(attributes.get("judge") or "a classifier")
    if untrained := attributes.get("untrained"):
        return f"Judged by {judge}, untrained in {', '.join(untrained)}: there the numbers have no meaning."
    return f"Judged by {judge} here, by DeepFace in the paper; where the truth is known, against that too."


def _few(evaluation: Mapping[str, Any]) -> str:
    most = max((row["n"] for row in evaluation["systems"]), default=0)
    if not most or most >= FEW:
        return ""
    return f"With {most} portraits a row the intervals are wide: read them before the numbers."
