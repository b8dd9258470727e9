"""What training measured: one JSON object a line, and the same for TensorBoard."""

import json
from pathlib import Path
from typing import Any


class Metrics:
    """Writes <run>/metrics.jsonl and <run>/tensorboard/. Lines after `step` are taken back: they will come again."""

    def __init__(self, run: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = run / "metrics.jsonl"
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, **values: float):
        with self.path.open("a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self):
        self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics, oldest first; empty where there are none."""
    path = Path(run) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
