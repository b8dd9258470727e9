"""Assembling: compact constituents on a device become the conditioning matrix, by copying rectangles.

assemble = Assembler(layout, "cuda")
matrix = assemble(compact, dropped)          # (B, 256, 768), valid until the next call
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from featurestore.conditioning import COLUMNS, ROWS, Block, Layout
from featurestore.errors import VoxportraitError


class Assembler:
    """Makes the matrix on a device, in one buffer that is used again by the next call.

    allow_missing: a constituent that is not in the batch gives zero rows; else it is a VoxportraitError.
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
        self._on = [block for block in layout.blocks if block.constituent not in layout.off]
        self._off = [block for block in layout.blocks if block.constituent in layout.off]
        self._buffer = self._zeros(0)
        self._work: dict[str, Tensor] = {}
        self._take = {b: torch.tensor(b.take, device=self.device) for b in layout.blocks if b.take}
        self._codes = {b: torch.tensor(b.codes or range(b.columns), device=self.device) for b in layout.blocks}

    def __call__(self, compact: Mapping[str, Tensor], dropped: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, 256, 768) from a compact batch (see `records.Batch`) on the device; valid until the next call.

        dropped: constituent -> (B,) bool, where its value is to be treated as unknown.
        """
        missing = [key for key in self.layout.constituents if key not in compact]
        if missing and not self.allow_missing:
            raise VoxportraitError(
                f"the batch lacks {', '.join(missing)}: fill them, leave them out, or allow missing ones"
            )
        matrix = self._matrix(len(next(iter(compact.values()))))
        for block in self._on:
            key = block.constituent
            if key in missing:
                _clear(matrix, block)
            elif block.encoding == "values":
                self._copy(matrix, block, compact[key])
            else:
                self._encode(matrix, block, compact[key], (dropped or {}).get(key))
        return matrix

    def _zeros(self, size: int) -> Tensor:
        matrix = torch.zeros(size, ROWS, COLUMNS, device=self.device, dtype=self.dtype)
        for block in self._off:
            _clear(matrix, block)
        return matrix

    def _matrix(self, size: int) -> Tensor:
        if not self.reuse:
            return self._zeros(size)
        if size > len(self._buffer):
            self._buffer = self._zeros(size)
        return self._buffer[:size]

    def _copy(self, matrix: Tensor, block: Block, values: Tensor) -> None:
        cells = matrix[(slice(None), *block.cells)]
        if block.take:
            values = values.index_select(1, self._take[block])
        if values.ndim == 2:
            values = values.unsqueeze(1)
        if values.shape != cells.shape:
            want, got = tuple(cells.shape[1:]), tuple(values.shape[1:])
            raise VoxportraitError(f"block {block.constituent} takes {want} values, the batch has {got}")
        work = self._float(block, values)
        work.mul_(block.scale).nan_to_num_(0.0).clamp_(-self.layout.clamp, self.layout.clamp)
        cells.copy_(work)

    def _float(self, block: Block, values: Tensor) -> Tensor:
        """The values in float32, in a buffer of the block's own: arithmetic is faster there than in the matrix."""
        work = self._work.get(block.constituent)
        if work is None or len(work) < len(values):
            work = self._work[block.constituent] = torch.empty(values.shape, device=self.device)
        return work[: len(values)].copy_(values)

    def _encode(self, matrix: Tensor, block: Block, values: Tensor, dropped: Tensor | None) -> None:
        cells = matrix[(slice(None), *block.cells)]
        known = ~values.isnan() if block.encoding == "constant" else values >= 0
        if dropped is not None:
            known = known & ~dropped
        if block.encoding == "constant":
            numbers = (values * block.scale).nan_to_num(0.0).clamp(-self.layout.clamp, self.layout.clamp) * known
            cells.copy_(numbers[:, None, None].expand_as(cells))
        elif block.encoding == "one-hot":
            columns = self._codes[block][values.clamp(min=0)]
            cells.zero_().scatter_(2, columns[:, None, None], known.to(self.dtype)[:, None, None])
        else:
            levels = self._codes[block][values.clamp(min=0)] * known
            cells.copy_(levels[:, None, None].expand_as(cells))
        if block.unknown_column is not None:
            matrix[:, block.row, block.unknown_column] = (~known).to(self.dtype)


def _clear(matrix: Tensor, block: Block) -> None:
    """A block's cells as they are for what is unknown."""
    matrix[(slice(None), *block.cells)] = 0
    if block.unknown_column is not None:
        matrix[:, block.row, block.unknown_column] = 1
