"""Workers that train one network together: each has its part of every global batch, all have the same weights."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featurestore.errors import VoxportraitError

BUCKET = 32 << 20
"""Numbers of gradients that are added up over the workers at once."""


@dataclass(frozen=True)
class Ranks:
    """Which worker this is, and how many there are. Where there is one, nothing is asked of torch.distributed.

    Gradients are added up here, once a step, and not by DistributedDataParallel in the middle of a backward pass: so a
    worker may take its part in as many micro-batches as its memory wants, and may start over.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sums(self, *numbers: float) -> list[float]:
        """The sum of each number over all workers, on the CPU: nobody waits for a device."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Until all workers are here."""
        self.sums(0)

    def same(self, what: str, value: str, advice: str) -> None:
        """Raises VoxportraitError, on one worker at least, where workers differ in something that all must have."""
        number = zlib.crc32(value.encode())
        (total,) = self.sums(number)
        if total != number * self.size:
            raise VoxportraitError(f"worker {self.rank} does not see the same {what} as the others: {advice}")

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows (n, D) of all workers in the workers' order, (N, D), and the place of this one's first."""
        if self.size == 1:
            return rows, 0
        counts = [int(count) for count in self.sums(*(len(rows) * (rank == self.rank) for rank in range(self.size)))]
        first = sum(counts[: self.rank])
        everybody = rows.new_zeros(sum(counts), rows.shape[1])
        everybody[first : first + len(rows)] = rows
        torch.distributed.all_reduce(everybody)
        return everybody, first

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes its sum over all workers; one that a worker lacks counts as zero."""
        if self.size == 1:
            return
        for bucket in _buckets([p for p in parameters if p.requires_grad]):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([p.grad.reshape(-1) for p in bucket if p.grad is not None])
            torch.distributed.all_reduce(flat)
            for parameter, summed in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad.copy_(summed.view_as(parameter))  # type: ignore[union-attr]

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Every worker gets the first one's."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.contiguous()
                torch.distributed.broadcast(sent, 0)
                tensor.copy_(sent)


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters in groups of about `BUCKET` numbers, last layers first, each of one type."""
    buckets: list[list[nn.Parameter]] = []
    for parameter in reversed(parameters):
        last = buckets[-1] if buckets else []
        full = sum(p.numel() for p in last) >= BUCKET
        if not last or full or last[0].dtype != parameter.dtype:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets
