"""A network over several clips at once: batches of one shape, halved when the device has no room for them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipelines.faults import OUT_OF_MEMORY, fault_of

PLACES = 16
"""Places of a group of clips. A clip's place is fixed: a rerun computes it in the same place of the same shape."""

BATCH_SIZES = (1, 2, 4, 8, PLACES)


class Infer(Protocol):
    """(B, ...) inputs -> B results, each of which depends on its own input alone."""

    def __call__(self, stack: np.ndarray, /) -> Sequence[Any] | np.ndarray: ...


class Batches:
    """Runs `infer`, (B, ...) -> B results, over inputs at their places.

    size: places of a batch, one of `BATCH_SIZES`. An empty place holds a copy of a neighbour: shapes never
    depend on what is missing. A batch that does not fit into memory halves `size`, for good.
    """

    def __init__(self, infer: Infer, size: int):
        self.infer, self.size = infer, size

    def run(self, inputs: Mapping[int, np.ndarray]) -> dict[int, Any]:
        """Place -> input to place -> result, or the exception that this input alone raises."""
        results: dict[int, Any] = {}
        while waiting := sorted(inputs.keys() - results.keys()):
            first = waiting[0] - waiting[0] % self.size
            together = [place for place in waiting if place < first + self.size]
            try:
                results |= self._infer(inputs, together, first)
            except Exception as error:  # noqa: BLE001 - foreign code: what one input breaks must not cost the others
                if fault_of(error) == OUT_OF_MEMORY and self.size > 1:
                    self.size //= 2
                    _release_memory()
                elif len(together) == 1:
                    results[together[0]] = error
                else:
                    for place in together:
                        results |= self._alone(inputs, place, first)
        return results

    def _infer(self, inputs: Mapping[int, np.ndarray], together: Sequence[int], first: int) -> dict[int, Any]:
        filled = [place if place in together else together[0] for place in range(first, first + self.size)]
        made = self.infer(np.stack([inputs[place] for place in filled]))
        return {place: made[place - first] for place in together}

    def _alone(self, inputs: Mapping[int, np.ndarray], place: int, first: int) -> dict[int, Any]:
        try:
            return self._infer(inputs, [place], first)
        except Exception as error:  # noqa: BLE001 - as above
            return {place: error}


def _release_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
