"""Twelve clips in memory whose faces are plain colours that their gender tells: enough to see that training learns."""

import numpy as np

from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords

COLOURS = np.array([[220, 40, 40], [40, 60, 220]], np.uint8)
"""The faces of men and of women."""


def clips_in_memory(batch_size: int = 4, seed: int = 0, held_out: tuple[int, ...] = (10, 11), **more) -> Loader:
    random = np.random.default_rng(0)
    gender = np.arange(12) % 2
    target = np.broadcast_to(COLOURS[gender][:, None, None], (12, 128, 128, 3)).copy()
    target[:, :, ::16] //= 2
    compact: dict[str, np.ndarray] = {
        "ecapa": random.normal(0, 20, (12, 192)).astype(np.float16),
        "titanet": random.normal(0, 0.1, (12, 192)).astype(np.float16),
        "age": random.uniform(20, 70, 12).astype(np.float32),
        "gender": gender.astype(np.int64),
    }
    names = [f"test/id{i:05d}/video/00001" for i in range(12)]
    return Loader(MemoryRecords(names, compact, target, held_out=held_out, **more), batch_size, seed)
