"""Extractors: one file a library. Each declares what it needs and makes, and says its makers without loading a model."""

from collections.abc import Mapping
from typing import Any, Protocol

from featurestore.makers import Maker
from pipelines.sample import Sample

Values = Mapping[str, Any]
"""Column name -> value: an array for a vector or block, bytes for a picture, text or a number for a label."""


class Extractor(Protocol):
    """Makes constituents of one clip at a time.

    makes: the constituents; needs: what of a Sample it reads: `media`, `sound`, `face` or `corpus` (the clip's row
    alone); requires: columns of the clip's row that must not be NULL (`corpus_age`, ...), else there is nothing to make.
    `makers()` is cheap: it loads no model and imports no heavy library. `load()` brings the model into memory, once
    per worker, on the device named (`cpu`, `cuda`). `extract(sample)` gives the columns of all it makes.
    """

    name: str
    makes: tuple[str, ...]
    needs: str
    requires: tuple[str, ...]

    def makers(self) -> dict[str, Maker]: ...

    def load(self, device: str) -> None: ...

    def extract(self, sample: Sample) -> Values: ...
