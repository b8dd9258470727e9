"""Batches: one shape whatever is missing, halved when memory is short, and one bad input costs nobody else."""

import numpy as np
import pytest

from pipelines.batching import Batches
from pipelines.extractors.base import Resources
from pipelines.faults import DEVICE, OUT_OF_MEMORY, Unfit, fault_of


class Doubling:
    """A network that doubles its inputs, notes the shapes it saw, and may refuse batches or inputs."""

    def __init__(self, room: int = 16, hates: float | None = None):
        self.room, self.hates = room, hates
        self.sizes: list[int] = []

    def __call__(self, stack: np.ndarray) -> np.ndarray:
        self.sizes.append(len(stack))
        if len(stack) > self.room:
            raise MemoryError("no room")
        if self.hates is not None and (stack == self.hates).any():
            raise ValueError(f"cannot take {self.hates}")
        return 2 * stack


def inputs(*places: int) -> dict[int, np.ndarray]:
    return {place: np.full(3, place, np.float32) for place in places}


@pytest.mark.parametrize("size", [1, 4, 16])
def test_every_place_gets_its_own_result(size):
    results = Batches(Doubling(), size).run(inputs(0, 3, 5, 14))
    assert {place: result.tolist() for place, result in results.items()} == {
        place: [2 * place] * 3 for place in (0, 3, 5, 14)
    }


def test_the_shape_does_not_depend_on_what_is_missing():
    for places in ((0, 1, 2, 3), (2,), (1, 3)):
        network = Doubling()
        Batches(network, 4).run(inputs(*places))
        assert network.sizes == [4]


def test_a_batch_without_room_is_halved_and_stays_so():
    network = Doubling(room=4)
    batches = Batches(network, 16)
    assert set(batches.run(inputs(*range(16)))) == set(range(16))
    assert network.sizes == [16, 8, 4, 4, 4, 4]
    batches.run(inputs(0))
    assert network.sizes[-1] == 4


def test_an_input_without_room_alone_is_its_own_error():
    results = Batches(Doubling(room=0), 4).run(inputs(0, 1))
    assert all(fault_of(result) == OUT_OF_MEMORY for result in results.values())


def test_one_bad_input_costs_nobody_else():
    results = Batches(Doubling(hates=2), 4).run(inputs(0, 1, 2, 3))
    assert isinstance(results[2], ValueError)
    assert [results[place][0] for place in (0, 1, 3)] == [0, 2, 6]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", OUT_OF_MEMORY),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", OUT_OF_MEMORY),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", OUT_OF_MEMORY),
        ("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory", OUT_OF_MEMORY),
        ("CUDA error: an illegal memory access was encountered", DEVICE),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_faults_of_the_machine_are_told_from_those_of_a_clip(text, fault):
    assert fault_of(RuntimeError(text)) == fault


def test_torch_s_own_errors_are_told():
    import torch

    assert fault_of(torch.OutOfMemoryError("no room")) == OUT_OF_MEMORY
    assert fault_of(torch.AcceleratorError("device-side assert triggered")) == DEVICE


def test_unfit_travels_between_processes():
    import pickle

    again = pickle.loads(pickle.dumps(Unfit(DEVICE, "a message")))  # noqa: S301
    assert (again.reason, again.message) == (DEVICE, "a message")


def test_sizes_that_do_not_divide_the_places_are_refused():
    with pytest.raises(ValueError, match="not 3"):
        Resources(batch=3)
