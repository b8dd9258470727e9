"""A store of random clips: everything that the layout `slf` reads, in numbers that do not compress."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from featurestore import inprocess
from featurestore.catalogue import ATTRIBUTES, CATALOGUE, Constituent
from featurestore.clip import Clip
from featurestore.conditioning import LAYOUTS
from featurestore.filling import Want
from featurestore.makers import Maker
from featurestore.pictures import image_guide
from featurestore.store import Store

LAYOUT = LAYOUTS["slf"]


def random_store(uri: str, clips: int, seed: int = 0) -> Store:
    """A store whose clips, all of them to be trained on, have each constituent of `LAYOUT` and a face."""
    store = Store.open_or_create(uri)
    store.register(Clip(f"random/id{i:06d}/v/00001", "/nowhere", "train") for i in range(clips))
    wants = [Want(key, Maker(key, "random", "numpy", trained=False)) for key in (*LAYOUT.constituents, "face_128")]
    draw = np.random.default_rng(seed)

    def make(clip: Clip, wanted: frozenset[str]) -> Mapping[str, Any]:
        return {name: value for key in sorted(wanted) for name, value in _random(CATALOGUE[key], draw).items()}

    inprocess.fill(store, wants, make)
    return store


def _random(entry: Constituent, draw: np.random.Generator) -> dict[str, Any]:
    if entry.key == "face_128":
        face = draw.integers(0, 256, entry.shape, np.uint8)
        return {entry.key: face, f"{entry.key}_guide": image_guide(face)}
    if entry.kind == "label":
        return {entry.key: str(draw.choice(ATTRIBUTES[entry.key])), f"{entry.key}_probability": 1.0}
    if entry.kind == "number":
        return {entry.key: float(draw.integers(15, 80)), f"{entry.key}_probability": 1.0}
    return {entry.key: draw.standard_normal(entry.shape, np.float32)}
