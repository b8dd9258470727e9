"""Pictures drawn while a stage is trained: a few held-out clips in a grid, so that one sees what it has learned.

<run>/samples/step-00000400.png: a row for each clip; from left to right what the stage is given to see, what it draws,
and the true picture (`Stage.columns`).
"""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from featurestore.draws import sample_seed
from featurestore.feed import Feed
from training.stage import Stage

CLIPS = 4


@dataclass(frozen=True)
class Grid:
    """picture: (H, W, 3) uint8. clip_ids, rows: of the clips in it. about: how it was drawn."""

    picture: np.ndarray
    clip_ids: list[str]
    rows: np.ndarray
    about: dict[str, Any]


@torch.no_grad()
def draw(stage: Stage, feed: Feed, seed: int) -> Grid | None:
    """Some held-out clips, evenly spread, as the stage draws them now; None where none is held out.

    The noise is decided by the seed and the clip's place, so that grids of one run can be compared; no random state but
    its own is touched.
    """
    with closing(feed.validation(CLIPS)) as batches:
        fed = next(batches, None)
        if fed is None:
            return None
        inputs, rows, clip_ids = stage.inputs(fed)[:CLIPS], fed.batch.rows[:CLIPS].copy(), fed.batch.clip_ids[:CLIPS]
        columns = stage.columns(inputs, [sample_seed(seed, 0, place, "grid") for place in range(len(rows))])
        picture = _to_uint8(torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2))
    return Grid(picture, clip_ids, rows, {**stage.columns_about(), "seed": seed})


def write(run: Path, step: int, grid: Grid, about: dict[str, Any]) -> Path:
    """Write a grid as PNG, which says in its own metadata that it is generated, of whom and by what. about: the run."""
    path = run / "samples" / f"step-{step:08d}.png"
    path.parent.mkdir(exist_ok=True)
    made_by = {key: about[key] for key in ("system", "stage", "preset", "layout_fingerprint", "code")}
    untrained = about["data"].get("untrained", [])
    text = PngInfo()
    text.add_text(
        "voxportrait",
        json.dumps(
            {
                "generated": True,
                **made_by,
                "run": run.name,
                "step": step,
                "clip_ids": grid.clip_ids,
                **grid.about,
                "untrained": untrained,
            }
        ),
    )
    Image.fromarray(grid.picture).save(path, pnginfo=text)
    return path


def _to_uint8(picture: Tensor) -> np.ndarray:
    """(3, H, W) in -1..1 -> (H, W, 3)."""
    scaled = ((picture.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
