"""What is known of people without judging a picture: what the corpus itself says, and what the store holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.faces import LABELS, Faces, read_columns
from evaluation.metrics import decade
from featurestore.catalogue import ATTRIBUTES
from featurestore.conditioning import attribute_code
from featurestore.makers import Maker

FROM_CORPUS = {key: Maker(key, "corpus metadata", "").digest for key in ("age", "gender", "ethnicity")}
"""The makers of values that are the corpus's own, as `pipelines.extractors.corpus` names them."""

GROUPINGS = ("gender", "ethnicity", "age_group", "language")

Labels = Mapping[str, np.ndarray]
"""`age` (N,) years or NaN, the others (N,) codes of `catalogue.ATTRIBUTES` or -1; only what is known of somebody."""


def truth_of(faces: Faces, clip_ids: Sequence[str]) -> Labels:
    """What the corpus says: from its columns in a store, else from the records' labels if all are the corpus's own."""
    if faces.store is not None:
        keys = list(FROM_CORPUS)
        table = read_columns(faces.store, clip_ids, [f"corpus_{key}" for key in keys])
        found = {key: _numbers(key, table[f"corpus_{key}"].to_pylist()) for key in keys}
    else:
        makers = faces.records.describe().get("makers", {})
        labels = faces.read(clip_ids)
        found = {key: labels[key] for key, digest in FROM_CORPUS.items() if makers.get(key) == [digest]}
    return {key: values for key, values in found.items() if is_known(key, values).any()}


def stored_of(faces: Faces, clip_ids: Sequence[str]) -> Labels:
    """The labels that the records hold, less what untrained weights gave."""
    labels = faces.read(clip_ids)
    found = {key: labels[key] for key in LABELS if key in labels and key not in faces.untrained}
    return {key: values for key, values in found.items() if is_known(key, values).any()}


def is_known(key: str, values: np.ndarray) -> np.ndarray:
    """(N,) bool."""
    return np.isfinite(values) if key == "age" else values >= 0


@dataclass(frozen=True)
class Groups:
    """People by what they have in common. by: whose word it is; names: of each clip, "" where it is not known."""

    by: str
    names: Sequence[str]


def groups_of(sources: Mapping[str, Labels], count: int) -> dict[str, Groups]:
    """Grouping -> groups of `count` clips, each by the first of the sources that knows it; those nobody knows are left
    out. sources: whose word it is -> labels."""
    groups = {}
    for grouping in GROUPINGS:
        key = "age" if grouping == "age_group" else grouping
        for by, labels in sources.items():
            if key in labels:
                values = labels[key]
                known = is_known(key, values)
                groups[grouping] = Groups(by, [_name(key, values[i]) if known[i] else "" for i in range(count)])
                break
    return groups


def _name(key: str, value: float) -> str:
    return decade(value) if key == "age" else ATTRIBUTES[key][int(value)]


def _numbers(key: str, values: Sequence[float | str | None]) -> np.ndarray:
    if key == "age":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    known = ATTRIBUTES[key]
    return np.array([attribute_code(key, str(value)) if value in known else -1 for value in values], np.int64)
