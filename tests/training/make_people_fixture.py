"""Make people.npz: eight synthetic people: real ECAPA embeddings of their voices, their faces at 32 px.

    voxportrait corpus synth eight --speakers 8 --clips 48 --seed 3 --test-speakers 0
    voxportrait extract voxceleb2 eight --store eight.store --constituents ecapa,face_128
    voxportrait store export --store eight.store --constituents ecapa --split train --out eight.safetensors
    python -m tests.training.make_people_fixture eight.safetensors

ecapa: (8, 6, 192) float16, six clips of each; faces: (8, 32, 32, 3) uint8, of the first. None of them exists: CC0-1.0.
"""

import sys
from pathlib import Path

import numpy as np

from featurestore.exports import ExportRecords
from featurestore.records import Slab

OUT = Path(__file__).with_name("people.npz")
PEOPLE, CLIPS = 8, 6


def main(export: str) -> None:
    records = ExportRecords(export)
    slab = Slab(records.fields, len(records.rows))
    records.read(records.rows, slab.arrays)
    order = np.argsort(records.clip_ids(records.rows))
    ecapa, faces = (slab.arrays[name][order] for name in ("ecapa", "target"))
    first = faces[::CLIPS].reshape(PEOPLE, 32, 4, 32, 4, 3).mean((2, 4)).round().astype(np.uint8)
    np.savez_compressed(OUT, ecapa=ecapa.reshape(PEOPLE, CLIPS, 192), faces=first)


if __name__ == "__main__":
    main(sys.argv[1])
