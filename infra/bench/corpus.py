"""How fast synthetic clips are written."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.population.corpus import synthesize


def run(speakers: int = 12, clips: int = 36) -> dict[str, Any]:
    """Clips per second with one process a core, the start of the processes included."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        synthesize(Path(folder) / "corpus", speakers, clips, seed=0)
        seconds = time.perf_counter() - began
    return {"clips_per_second": clips / seconds, "clips": clips, "cores": os.cpu_count()}
