"""A small store without media: clips of made-up speakers, filled with values that are functions of the clip's id."""

import hashlib
from typing import Any

import numpy as np
import pytest

from featurestore import filling, journal
from featurestore.clip import Clip
from featurestore.filling import Want
from featurestore.leases import Lease
from featurestore.makers import Maker
from featurestore.store import Store


def clip(number: int, **known: Any) -> Clip:
    split = "test" if number % 5 == 0 else "train"
    clip_id = f"made/id{number // 2:05d}/video{number % 2}/00001"
    return Clip(clip_id, f"/nowhere/{number}.mp4", split, corpus_gender="woman", **known)


def want(key: str, parameter: int = 0, requires: tuple[str, ...] = ()) -> Want:
    maker = Maker(key, "made-up", "numpy", parameters={"parameter": parameter}, trained=False)
    return Want(key, maker, requires, ((key, maker.digest), ("media", "decoder")))


def value(key: str, clip_id: str, parameter: int = 0) -> dict[str, Any]:
    """The columns of a constituent of a clip."""
    seed = int.from_bytes(hashlib.sha256(f"{key}{clip_id}{parameter}".encode()).digest()[:4], "big")
    draw = np.random.default_rng(seed)
    if key == "ecapa":
        return {"ecapa": draw.normal(size=192).astype(np.float32)}
    if key == "face_128":
        face = draw.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        return {"face_128": face, "face_128_guide": face[::16, ::16]}
    return {"gender": "woman", "gender_probability": 1.0}


def fill(store: Store, wants: list[Want], reject: dict[str, str] | None = None, only: int | None = None) -> int:
    """A fill job in one process; `reject`: clip id -> reason; only: journal so many chunks and stop, as if killed."""
    store.enter_makers(w.maker for w in wants)
    ids = store.known_makers()
    maker_ids = {w.constituent: ids[w.maker.digest] for w in wants}
    parameters = {w.constituent: w.maker.parameters["parameter"] for w in wants}
    store.ensure_columns(filling.plan(store, wants).columns)
    todo = filling.plan(store, wants)
    run = 0
    with Lease(store.place, [f"fragment:{f}" for f in todo.fragments], "testing") as lease:
        for fragment in todo.fragments:
            tables = []
            for chunk in todo.chunks(fragment):
                if run == only:
                    return run
                run += 1
                clips, row_ids = filling.read_clips(store, chunk)
                values: list[dict[str, Any]] = []
                rejected = []
                for one, wanted in zip(clips, chunk.wanted, strict=True):
                    if reason := (reject or {}).get(one.clip_id):
                        rejected.append(journal.Rejected(one.clip_id, "media", "decoder", reason, "made up"))
                        values.append({})
                        continue
                    columns: dict[str, Any] = {}
                    for key in wanted:
                        columns |= value(key, one.clip_id, parameters[key])
                    values.append(columns)
                keys = sorted(frozenset.union(*chunk.wanted))
                table, _ = journal.chunk_table(row_ids, keys, values, maker_ids, rejected)
                tables.append(table)
                if only is not None:
                    journal.write(store.place, chunk.name, table)
            kept = todo.journal.get(fragment, [])
            sealed = filling.seal(store, fragment, todo.columns, tables, kept)
            filling.commit(store, [sealed], lease, "job")
            journal.remove(store.place, kept)
    return run


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store.open_or_create(str(tmp_path / "store"))
    for part in (range(256), range(256, 300)):
        made.register(clip(n) for n in part)
    return made
