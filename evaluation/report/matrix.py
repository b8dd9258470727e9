"""The conditioning matrix of one real clip as a figure: each block in its place, with its name."""

from dataclasses import dataclass
from typing import Any

from evaluation.report import pictures
from featurestore.conditioning import COLUMNS, ROWS, Layout
from featurestore.errors import VoxportraitError
from featurestore.layout_picture import Entry, colours, described, spread
from featurestore.loader import Loader
from featurestore.records import Batch
from featurestore.store import Store
from featurestore.store_records import StoreRecords

WIDTH, HEIGHT, LABEL_X, LABEL_GAP = 660, 430, 690, 23
"""Of the figure, in its own units: the matrix, where the names stand, and how far they are apart."""


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
    labels = [_label(entry) for entry in described(layout, batch.compact, absent)]
    heights = spread([label.label_y for label in labels], LABEL_GAP, 10.0, HEIGHT - 4.0)
    for label, height in zip(labels, heights, strict=True):
        label.label_y = height
    return {
        "picture": pictures.png(colours(matrix, layout)),
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


def _label(entry: Entry) -> Label:
    block = entry.block
    state = entry.state if entry.state in ("filled", "unknown") else "absent"
    note = {"filled": entry.value, "missing": "not extracted, zero"}.get(entry.state, entry.state)
    x, y = block.column * WIDTH / COLUMNS, block.row * HEIGHT / ROWS
    width, height = block.columns * WIDTH / COLUMNS, block.rows * HEIGHT / ROWS
    return Label(block.constituent, f"{block.rows} × {block.columns}", note, state, x, y, width, height, y + height / 2)


def _padding(layout: Layout) -> int:
    """Rows at the end that no block uses."""
    return ROWS - max(block.row + block.rows for block in layout.blocks)
