"""The conditioning matrix of one real clip as a figure: each block in its place, with its name."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.report import pictures
from featurestore.catalogue import ATTRIBUTES
from featurestore.conditioning import COLUMNS, ROWS, Block, Layout
from featurestore.errors import VoxportraitError
from featurestore.loader import Loader
from featurestore.records import Batch
from featurestore.store import Store
from featurestore.store_records import StoreRecords

WIDTH, HEIGHT, LABEL_X, LABEL_GAP = 660, 430, 690, 23
"""Of the figure, in its own units: the matrix, where the names stand, and how far they are apart."""

POSITIVE, NEGATIVE = (15, 118, 110), (194, 87, 26)


@dataclass
class Label:
    """A block's rectangle (x, y, width, height), and its name at height `label_y`. state: `filled`, `unknown` in this
    clip, or `absent` from the store."""

    name: str
    shape: str
    note: str
    state: str
    x: float
    y: float
    width: float
    height: float
    label_y: float


def matrix_figure(store: Store, layout: Layout) -> dict[str, Any] | None:
    """What the template draws: the matrix of the first test clip (or training clip) that has all it needs; None where
    there is no such clip."""
    batch, absent = _one_clip(store, layout)
    if batch is None:
        return None
    import torch

    from featurestore.assembly import Assembler

    compact = {key: torch.from_numpy(values.copy()) for key, values in batch.compact.items()}
    matrix = Assembler(layout, allow_missing=True)(compact)[0].numpy()
    labels = [_label(block, batch, layout, absent) for block in sorted(layout.blocks, key=lambda b: b.row)]
    _spread(labels)
    return {
        "picture": pictures.png(_colours(matrix, layout)),
        "labels": labels,
        "clip_id": batch.clip_ids[0],
        "layout": layout.label,
        "not_zero": float((matrix != 0).mean()),
        "clamp": layout.clamp,
        "dropout": dict(layout.dropout),
        "absent": absent,
        "padding": _padding(layout),
        "width": WIDTH,
        "height": HEIGHT,
        "label_x": LABEL_X,
    }


def _one_clip(store: Store, layout: Layout) -> tuple[Batch | None, list[str]]:
    for split in ("test", "train"):
        try:
            records = StoreRecords(store, layout, missing="zero", split=split)
        except VoxportraitError:
            continue
        absent = [key for key in layout.constituents if key not in records.constituents]
        return next(Loader(records, 1).in_order(records.rows)).copy(), absent
    return None, []


def _label(block: Block, batch: Batch, layout: Layout, absent: list[str]) -> Label:
    key, state, note = block.constituent, "filled", ""
    if key in absent or key in layout.off:
        state, note = "absent", "off" if key in layout.off else "not extracted, zero"
    elif block.encoding == "constant":
        value = float(batch.compact[key][0])
        state, note = ("unknown", "unknown") if np.isnan(value) else ("filled", f"{value:.0f} years")
    elif block.encoding != "values":
        code = int(batch.compact[key][0])
        names = ATTRIBUTES.get(key)
        state, note = ("unknown", "unknown") if code < 0 else ("filled", names[code] if names else str(code))
    x, y = block.column * WIDTH / COLUMNS, block.row * HEIGHT / ROWS
    width, height = block.columns * WIDTH / COLUMNS, block.rows * HEIGHT / ROWS
    return Label(key, f"{block.rows} × {block.columns}", note, state, x, y, width, height, y + height / 2)


def _spread(labels: list[Label]) -> None:
    """Move names apart until none touches the next, as little as may be and within the figure."""
    lowest = HEIGHT - 4.0
    for i, label in enumerate(labels):
        above = labels[i - 1].label_y + LABEL_GAP if i else 10.0
        label.label_y = max(label.label_y, above)
    for label in reversed(labels):
        label.label_y = min(label.label_y, lowest)
        lowest = label.label_y - LABEL_GAP


def _colours(matrix: np.ndarray, layout: Layout) -> np.ndarray:
    """(256, 768, 4) uint8: sign as colour; size, within its own block, as opacity."""
    strength = np.zeros_like(matrix)
    for block in layout.blocks:
        cells = np.abs(matrix[block.cells])
        if cells.any():
            strength[block.cells] = np.clip(cells / np.percentile(cells[cells > 0], 98), 0, 1) ** 0.6
    coloured = np.empty((*matrix.shape, 4), np.uint8)
    coloured[..., :3] = np.where((matrix >= 0)[..., None], POSITIVE, NEGATIVE)
    coloured[..., 3] = np.rint(strength * 31) * 8
    coloured[strength == 0] = 0
    return coloured


def _padding(layout: Layout) -> int:
    """Rows at the end that no block uses."""
    return ROWS - max(block.row + block.rows for block in layout.blocks)
