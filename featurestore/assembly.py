"""Assembling: compact constituents on a device become the conditioning matrix, by copying rectangles.

assemble = Assembler(layout, "cuda")
matrix = assemble(compact, dropped)          # (B, 256, 768), valid until the next call
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from threading import local

import numpy as np
import torch
from torch import Tensor

from featurestore.catalogue import ATTRIBUTES, CATALOGUE
from featurestore.conditioning import COLUMNS, ROWS, Block, Layout
from featurestore.cores import spread
from featurestore.errors import VoxportraitError

AT_ONCE = 1 << 19
"""Numbers that a core of a CPU takes through all steps at once: they stay in its cache."""


class Assembler:
    """Makes the matrix on a device, in one buffer that is used again by the next call.

    Values are multiplied by the block's scale in float32, NaN becomes 0, and they are cut to +-clamp.
    allow_missing: a constituent that is not in the batch gives what unknown values give; else it is a VoxportraitError.
    dtype: of the matrix: torch.float32 or torch.bfloat16. reuse: False for a matrix of its own from each call.
    """

    def __init__(
        self,
        layout: Layout,
        device: str | torch.device = "cpu",
        allow_missing: bool = False,
        dtype: torch.dtype = torch.float32,
        reuse: bool = True,
    ):
        self.layout, self.device, self.allow_missing = layout, torch.device(device), allow_missing
        self.dtype, self.reuse = dtype, reuse
        self._off = [block for block in layout.blocks if block not in layout.on]
        self._runs = {block: _runs(block.take) for block in layout.on if block.encoding == "values"}
        self._tables = {
            block: _table(block, layout.clamp).to(self.device, dtype)
            for block in layout.on
            if block.encoding in ("one-hot", "level")
        }
        self._buffer = self._zeros(0)
        self._local = local()

    def __call__(
        self,
        compact: Mapping[str, Tensor],
        dropped: Mapping[str, Tensor] | None = None,
        size: int | None = None,
    ) -> Tensor:
        """(B, 256, 768) from a compact batch (see `records.Batch`) on the device; valid until the next call;
        (B, 0, 768) for a layout without blocks.

        dropped: constituent -> (B,) bool, where its value is to be treated as unknown. size: B, where the batch may
        hold no constituent at all. Raises VoxportraitError for what is missing or has the wrong shape.
        """
        size = len(next(iter(compact.values()))) if size is None else size
        self._check(compact, size)
        matrix, dropped = self._matrix(size), dropped or {}
        pieces: list[Callable[[], object]] = []
        for block in self.layout.on:
            values, unknown = compact.get(block.constituent), dropped.get(block.constituent)
            if values is None:
                _clear(matrix, block)
            elif block.encoding == "values":
                pieces += self._copies(matrix, block, values, unknown)
            else:
                pieces.append(partial(self._encode, matrix, block, values, unknown))
        if self.device.type == "cpu":
            spread(pieces)
        else:
            for piece in pieces:
                piece()
        return matrix

    def _check(self, compact: Mapping[str, Tensor], size: int) -> None:
        missing = [key for key in self.layout.constituents if key not in compact]
        if missing and not self.allow_missing:
            count = f"{len(missing)} constituents" if len(missing) > 1 else "1 constituent"
            raise VoxportraitError(
                f"the batch lacks {count} of the layout {self.layout.name}: {', '.join(missing)}; "
                "fill them, leave them out, or allow missing ones"
            )
        for block in self.layout.on:
            if block.constituent not in compact:
                continue
            clips, *shape = compact[block.constituent].shape
            if (want := CATALOGUE[block.constituent].shape) != tuple(shape):
                raise VoxportraitError(f"{block} takes {want} values, the batch has {tuple(shape)}")
            if clips != size:
                raise VoxportraitError(f"{block} has {clips} clips, the batch has {size}")

    def _zeros(self, size: int) -> Tensor:
        matrix = zeros((size, ROWS if self.layout.blocks else 0, COLUMNS), self.device, self.dtype)
        for block in self._off:
            _clear(matrix, block)
        return matrix

    def _matrix(self, size: int) -> Tensor:
        if not self.reuse:
            return self._zeros(size)
        if size > len(self._buffer):
            self._buffer = self._zeros(size)
        return self._buffer[:size]

    def _copies(self, matrix: Tensor, block: Block, values: Tensor, dropped: Tensor | None) -> Iterator[partial[None]]:
        """What fills a block's cells, a few samples at a time on a CPU."""
        clips = max(1, AT_ONCE // (block.rows * block.columns) if self.device.type == "cpu" else len(matrix))
        if values.ndim == 2:
            values = values.unsqueeze(1)
        sources = zip(*(values[:, rows].split(clips) for _, rows in self._runs[block]), strict=True)
        targets = matrix[(slice(None), *block.cells)].split(clips)
        unknown = [None] * len(targets) if dropped is None else dropped.split(clips)
        for cells, parts, gone in zip(targets, sources, unknown, strict=True):
            yield partial(self._copy, block, cells, parts, gone)

    def _copy(self, block: Block, cells: Tensor, sources: tuple[Tensor, ...], dropped: Tensor | None) -> None:
        work = self._work(cells.numel()).view(cells.shape)
        for (to, _), values in zip(self._runs[block], sources, strict=True):
            work[:, to].copy_(values)
        work.mul_(block.scale).nan_to_num_(0.0)
        if dropped is not None:
            work.masked_fill_(dropped[:, None, None], 0.0)
        if cells.dtype == work.dtype:
            torch.clamp(work, -self.layout.clamp, self.layout.clamp, out=cells)
        else:
            cells.copy_(work.clamp_(-self.layout.clamp, self.layout.clamp))

    def _work(self, numbers: int) -> Tensor:
        """Room for so many float32, each thread's own."""
        work = getattr(self._local, "work", None)
        if work is None or work.numel() < numbers:
            work = self._local.work = zeros((numbers,), self.device, torch.float32)
        return work[:numbers]

    def _encode(self, matrix: Tensor, block: Block, values: Tensor, dropped: Tensor | None) -> None:
        known = ~values.isnan() if block.encoding == "constant" else values >= 0
        if dropped is not None:
            known = known & ~dropped
        if block.encoding == "constant":
            clamp = self.layout.clamp
            numbers = (values.float() * block.scale).nan_to_num(0.0).clamp(-clamp, clamp) * known
            rows = numbers[:, None]
        else:
            rows = self._tables[block].index_select(0, torch.where(known, values + 1, 0))
        matrix[(slice(None), *block.cells)] = rows[:, None]
        if block.unknown_column is not None:
            matrix[:, block.row, block.unknown_column] = (~known).to(self.dtype)


def zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A buffer that may be written to in and outside of inference mode; on a CPU in large pages, as numpy's are."""
    with torch.inference_mode(False):
        if device.type == "cpu":
            memory = np.zeros(max(1, prod(shape)) * dtype.itemsize, np.uint8)
            return torch.from_numpy(memory).view(dtype)[: prod(shape)].view(shape)
        return torch.zeros(shape, device=device, dtype=dtype)


def _clear(matrix: Tensor, block: Block) -> None:
    """A block's cells as they are for what is unknown."""
    matrix[(slice(None), *block.cells)] = 0
    if block.unknown_column is not None:
        matrix[:, block.row, block.unknown_column] = 1


def _runs(take: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Rows that are taken, in slices: where they go, and where they come from."""
    if not take:
        return [(slice(None), slice(None))]
    runs, start = [], 0
    while start < len(take):
        step = max(1, take[start + 1] - take[start]) if start + 1 < len(take) else 1
        end = start + 1
        while end < len(take) and take[end] - take[end - 1] == step:
            end += 1
        runs.append((slice(start, end), slice(take[start], take[end - 1] + 1, step)))
        start = end
    return runs


def _table(block: Block, clamp: float) -> Tensor:
    """What stands in the block's columns: (labels + 1, columns), first for what is unknown, then for each code."""
    codes = block.codes or range(len(ATTRIBUTES[block.constituent]))
    table = torch.zeros(len(codes) + 1, block.columns)
    for row, code in enumerate(codes, start=1):
        if block.encoding == "one-hot":
            table[row, code] = 1
        else:
            table[row] = code
    return table.clamp_(-clamp, clamp)
