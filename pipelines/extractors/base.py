"""What an extractor is. One that runs a network over many clips at once is a `Network`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurestore.makers import Maker
from pipelines.batching import BATCH_SIZES
from pipelines.sample import Sample

Values = Mapping[str, Any]
"""Column name -> value: an array for a vector or block, bytes for a picture, text or a number for a label."""


@dataclass(frozen=True)
class Resources:
    """What an extractor takes of a worker.

    memory: GiB of main memory that its model and one batch add; gpu: share of a GPU; batch: clips that a GPU takes at
    once, and cpu_batch: that a CPU does, each one of `BATCH_SIZES`.
    """

    memory: float = 0.1
    gpu: float = 0.0
    batch: int = 1
    cpu_batch: int = 1

    def __post_init__(self):
        for size in (self.batch, self.cpu_batch):
            if size not in BATCH_SIZES:
                raise ValueError(f"a batch has {', '.join(map(str, BATCH_SIZES))} places, not {size}")


class Extractor(ABC):
    """Makes constituents of a clip; what it makes depends on that clip alone.

    makes: the constituents; needs: what of a Sample it reads: `media`, `sound`, `face` or `corpus` (the clip's row
    alone); requires: columns of the clip's row that must not be NULL (`corpus_age`, ...), else there is nothing to
    make; models: the names in `pipelines.weights.MODELS` that must be there; resources: what it takes of a worker.
    """

    name: str
    makes: tuple[str, ...]
    needs: str
    requires: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    resources: Resources = Resources()

    @abstractmethod
    def makers(self) -> dict[str, Maker]:
        """The maker of each constituent. Cheap: it loads no model and imports no heavy library.

        Raises VoxportraitError if weights that it must name are not there.
        """

    def load(self, device: str) -> None:  # noqa: B027 - most need nothing
        """Bring the model into memory, once per worker, on the device named (`cpu`, `cuda`)."""

    @abstractmethod
    def extract(self, sample: Sample) -> Values:
        """The columns of all that it makes. Raises Reject for what this clip cannot give."""


class Network(Extractor):
    """An extractor whose model takes several clips at once: as many as `resources` says, padded to that number."""

    @abstractmethod
    def inputs(self, sample: Sample) -> np.ndarray:
        """What the model takes of one clip: an array of the same shape and type for every clip."""

    @abstractmethod
    def infer(self, stack: np.ndarray, /) -> Sequence[Any] | np.ndarray:
        """(B, ...) inputs -> B results, each of which depends on its own input alone."""

    @abstractmethod
    def values(self, result: Any) -> Values:
        """One clip's columns of one result of `infer`."""

    def extract(self, sample: Sample) -> Values:
        (result,) = self.infer(self.inputs(sample)[None])
        return self.values(result)
