"""The faces that portraits are searched among and compared with: one clip a test speaker, and a second one of another
video."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from featurestore.catalogue import CATALOGUE
from featurestore.errors import VoxportraitError
from featurestore.schema import decode
from featurestore.store import Store

FACE_MAKER = CATALOGUE["face_128"].maker_column


def clips_with_face(store: Store, split: str) -> list[dict[str, str]]:
    """{"clip_id", "video_id"} of the split's clips that have a face, sorted by clip id."""
    dataset = store.table("clips")
    if FACE_MAKER not in dataset.schema.names:
        return []
    columns = ["clip_id", "video_id"]
    table = dataset.to_table(columns=[*columns, "split", FACE_MAKER])
    chosen = np.array(table["split"].to_pylist()) == split
    chosen &= table[FACE_MAKER].is_valid().to_numpy()
    return table.select(columns).take(np.flatnonzero(chosen)).sort_by("clip_id").to_pylist()


def speaker_of(clip_id: str) -> str:
    """`<dataset>/<speaker>` of a clip's id: speakers of two datasets are never one."""
    return "/".join(clip_id.split("/")[:2])


def first_clips(store: Store, split: str = "test") -> dict[str, str]:
    """Speaker -> the first clip of the first video that has a face: the gallery, as in the SLF paper."""
    return _first_of_each(clips_with_face(store, split))


def second_clips(store: Store, split: str = "test") -> dict[str, str]:
    """Speaker -> the first clip of another video than the gallery's; speakers of one video are left out."""
    first = first_clips(store, split)
    videos = {speaker: clip_id.split("/")[2] for speaker, clip_id in first.items()}
    clips = clips_with_face(store, split)
    return _first_of_each([clip for clip in clips if clip["video_id"] != videos[speaker_of(clip["clip_id"])]])


def _first_of_each(clips: Sequence[dict[str, str]]) -> dict[str, str]:
    first: dict[str, str] = {}
    for clip in clips:
        first.setdefault(speaker_of(clip["clip_id"]), clip["clip_id"])
    return dict(sorted(first.items()))


def read_columns(store: Store, clip_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """The columns of clips, in the order given; a VoxportraitError names a clip that is not in the store."""
    dataset = store.table("clips")
    known = dataset.to_table(columns=["clip_id"])["clip_id"].to_pylist()
    row_of = {clip_id: row for row, clip_id in enumerate(known)}
    if gone := [clip_id for clip_id in clip_ids if clip_id not in row_of]:
        raise VoxportraitError(f"clip {gone[0]} is not in {store.place.shown}: draw the portraits of this store")
    rows = np.array([row_of[clip_id] for clip_id in clip_ids], np.int64)
    order = np.argsort(rows)
    return dataset.take(rows[order].tolist(), columns=list(columns)).take(np.argsort(order))


def read_faces(store: Store, clip_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """`face_128` (N, 128, 128, 3) and its guide (N, 8, 8, 3), uint8, of clips in the order given; a clip that has no
    face is a ValueError."""
    if not clip_ids:
        return np.empty((0, 128, 128, 3), np.uint8), np.empty((0, 8, 8, 3), np.uint8)
    table = read_columns(store, clip_ids, ["face_128", "face_128_guide"])
    return decode(table["face_128"], (128, 128, 3), "uint8"), decode(table["face_128_guide"], (8, 8, 3), "uint8")
