"""What training measured: one JSON object a line, and the same for TensorBoard."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.files import write_whole


class Metrics:
    """Writes <run>/metrics.jsonl, <run>/tensorboard/ and, for pictures, <run>/samples/tensorboard/.

    Lines after `step` are taken back: they will come again.
    """

    def __init__(self, run: Path, step: int):
        self.path, self._pictures = run / "metrics.jsonl", run / "samples" / "tensorboard"
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._purge = step + 1 if step else None
        self._board = self._writer(run / "tensorboard")
        self._album: Any = None

    def write(self, step: int, **values: float) -> None:
        with self.path.open("a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def show(self, step: int, name: str, picture: np.ndarray) -> list[Path]:
        """A picture (H, W, 3) uint8 for TensorBoard; returns the files that hold such pictures."""
        self._album = self._album or self._writer(self._pictures)
        self._album.add_image(name, picture, step, dataformats="HWC")
        self._album.flush()
        return sorted(self._pictures.iterdir())

    def close(self) -> None:
        self._board.close()
        if self._album:
            self._album.close()

    def _writer(self, folder: Path) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=self._purge)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics, oldest first; empty where there are none."""
    path = Path(run) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
