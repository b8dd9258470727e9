"""Exports: compact rows and pictures of a store's clips in one safetensors file, for training without the store.

    records = ExportRecords("october.safetensors", layout)
    loader = Loader(records, batch_size=64, seed=0)

docs/exports.md says what is in the file; `exporting` writes it. Importable without Arrow, Lance or Ray.
"""

import copy
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import numpy as np

from featurestore.catalogue import ATTRIBUTES, CATALOGUE, constituent
from featurestore.clip import SPLITS
from featurestore.errors import UsageError, VoxportraitError, choose
from featurestore.policy import Policy
from featurestore.records import ARRAYS, PICTURES, Field, fields_of
from featurestore.selection import MISSING, identity_in_snapshot, identity_of_clips, refuse_lacking
from featurestore.tensor_file import Tensor, TensorFile

if TYPE_CHECKING:
    from featurestore.conditioning import Layout
    from featurestore.store import Store

FORMAT = "1"
"""Version of what is in the file, in its metadata as `voxportrait.export`."""

NOTE = (
    "Biometric data: voices and faces of people. Use it under their consent and licences, which are in it, and remove "
    "it when somebody in it is forgotten."
)

TEXTS = ("clip_id", "licence", "consent")
"""UTF-8 of all clips one after another, and in `<name>.offsets` (N + 1,) where each begins and ends."""

NEVER = -(2**31)
"""`consent_until` of a consent that does not end; else days since 1970-01-01."""

_EPOCH = date(1970, 1, 1)
_FIRST_DAY, _LAST_DAY = (date.min - _EPOCH).days, (date.max - _EPOCH).days

STORED = {"target": "target", "guide": "guide", "face": "face", "bottom": "face_parts"}
"""Of each picture: the tensor that it is read from. `face` holds JPEG files as a text, `face_parts` landmarks."""

LANDMARKS = Field((468, 2), "float16")

_APART = 32
"""Rows that a thread is worth."""

_LOOKED_AT = 16
"""Rows of a read by which it is told whether the disk must be asked for them: then it is asked for all of them at once,
as page faults would fetch four times as much, one after another."""


@dataclass(frozen=True)
class About:
    """What an export says of itself.

    store: where it was made from; created, code: when and by which code; snapshot, digest: "" where it was not made of
    one; erasure_epoch: of the store when it was made; constituents: of the layout, also those that no clip had;
    makers: digests by constituent; untrained: those of `makers` that were never trained; labels: by constituent, in the
    order of their codes; missing, policies: by which clips were chosen, the last policy a snapshot's own; sample: how
    many clips and by which seed, {} for all; identity: of the records of the first split with all this.
    """

    store: str
    created: str
    code: str
    snapshot: str
    digest: str
    erasure_epoch: int
    constituents: list[str]
    pictures: list[str]
    splits: list[str]
    makers: dict[str, list[str]]
    untrained: list[str]
    labels: dict[str, list[str]]
    policies: list[dict[str, Any]]
    missing: str
    sample: dict[str, int]
    identity: str = ""

    @property
    def needed(self) -> tuple[str, ...]:
        """The constituents that every clip has, for its pictures."""
        return tuple(dict.fromkeys(key for name in self.pictures for key in PICTURES[name].made_of))

    def metadata(self) -> dict[str, str]:
        return {"voxportrait.export": FORMAT, "note": NOTE, "about": json.dumps(vars(self))}

    @classmethod
    def of(cls, file: TensorFile) -> "About":
        """What a file says of itself; a VoxportraitError where it is no export, or of another format."""
        made_by = file.metadata.get("voxportrait.export")
        if made_by is None:
            raise VoxportraitError(f"{file.path} is a safetensors file, and no export: make one with store export")
        if made_by != FORMAT:
            raise VoxportraitError(
                f"{file.path} has format {made_by[:20]} of an export, and this version of voxportrait reads format "
                f"{FORMAT}: export it again"
            )
        try:
            about = cls(**json.loads(file.metadata["about"]))
            for field in fields(cls):
                kind: Any = get_origin(field.type) or field.type
                if not isinstance(value := getattr(about, field.name), kind):
                    raise ValueError(f"{field.name} is {value!r}")
            lists = [about.constituents, about.untrained, *about.makers.values(), *about.labels.values()]
            if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists):
                raise ValueError("a list of texts is none")
            for one in about.policies:
                Policy(one["require_consent"], tuple(one["licences"]))
            if not (set(about.pictures) <= set(PICTURES) and set(about.splits) <= set(SPLITS)):
                raise ValueError(f"pictures {about.pictures}, splits {about.splits}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise VoxportraitError(f"{file.path} is damaged: what it says of itself: {str(error)[:100]}") from None
        return about


class ExportRecords:
    """The records of an export: see `records.Records`. The same rows, order and identity as `StoreRecords` of it.

    layout: whose constituents are read; all that the file has where it is None. pictures, missing, split, held_out: see
    `store_records.StoreRecords`. policy: which clips may be used; those the file was made under hold too, judged on
    the day of this one. Places of clips that may not be used stay empty. threads: that a read is shared by.
    store: the one it was checked against, if it was (`exporting.check`).
    Raises VoxportraitError where the file is none, damaged, or lacks what is asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: "Layout | None" = None,
        pictures: Sequence[str] = ("target", "guide"),
        missing: str = "refuse",
        split: str = "train",
        held_out: str = "val",
        policy: Policy | None = None,
        threads: int = min(4, os.cpu_count() or 1),
    ):
        self.path, self.missing, self.split = Path(path), choose("missing", missing, MISSING), split
        self._file = TensorFile(self.path)
        self.about = About.of(self._file)
        self.store: Store | None = None
        self._wanted = tuple(self.about.constituents if layout is None else layout.constituents)
        self._require("constituent", self._wanted, self.about.constituents)
        self._require("picture", pictures, self.about.pictures)
        self._require("split", [split], self.about.splits)
        for key in self._wanted:
            constituent(key)
        self.fields: Mapping[str, Field] = fields_of(self._wanted, pictures)
        self.needed = tuple(dict.fromkeys(key for name in pictures for key in PICTURES[name].made_of))
        self.constituents = tuple(key for key in self._wanted if key in self.about.makers)
        self._check_tensors()
        self._read_places()
        self.rows, self.held_out = self._places(split), self._places(held_out)
        if not len(self.rows):
            raise VoxportraitError(f"no clip of split {split!r} in {path} has what is asked for")
        self.identity = self._identity()
        self.policies = self._policies(policy or Policy())
        self.policy = self.policies[0]
        self.leave_out(self._refused_rows())
        stored = {STORED.get(name, name) for name in self.fields} & self._file.tensors.keys()
        self._largest = max(stored or {"row_id"}, key=lambda name: self._file.tensors[name].row_bytes)
        self._threads, self._pool = threads, ThreadPoolExecutor(threads, "export")

    @property
    def row_ids(self) -> np.ndarray:
        """The stable row ids, in the store, of the clips in the file: (N,) uint64."""
        return self._file.arrays["row_id"]

    @property
    def told(self) -> str:
        """A line for a person: what this is, and what is not known of it without the store."""
        about = self.about
        named = f" (snapshot {about.snapshot})" if about.snapshot else ""
        return (
            f"{self.path}: {len(self.row_ids):,} clips of {about.store}{named}, made {about.created}, erasure epoch "
            f"{about.erasure_epoch}. Whether somebody was forgotten since is known by the store alone"
        )

    def read(self, rows: np.ndarray, out: Mapping[str, np.ndarray]) -> np.ndarray:
        """See `records.Records`. Raises VoxportraitError for a face that is no picture, and where the file was removed
        since it was opened, as forgetting does."""
        if self._file.is_removed():
            raise VoxportraitError(
                f"{self.path} was removed while it was read, as forgetting somebody in it does: what was trained from "
                "it goes on from a new one"
            )
        lines = self._lines(rows)
        here = lines >= 0
        chosen = lines[here]
        if self._file.is_cold(self._largest, chosen[:: max(1, len(chosen) // _LOOKED_AT)]):
            self._will_need(chosen)
        cuts = np.linspace(0, len(chosen), max(1, min(self._threads, len(chosen) // _APART)) + 1).astype(int)
        parts = [slice(*pair) for pair in pairwise(cuts.tolist())]
        for _ in self._pool.map(lambda part: self._copy(chosen[part], part, out), parts):
            pass
        return here

    def will_need(self, rows: np.ndarray) -> None:
        """Have the disk read these rows ahead, without waiting: where the file is larger than the memory."""
        lines = self._lines(rows)
        self._will_need(lines[lines >= 0])

    def _will_need(self, lines: np.ndarray) -> None:
        for name in dict.fromkeys(STORED.get(key, key) for key in self.fields):
            if name == "face":
                starts = self._file.arrays["face.offsets"]
                self._file.will_need(name, starts[lines], starts[lines + 1] - starts[lines])
            elif name in self._file.tensors:
                self._file.will_need(name, lines)

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        """The ids of the clips in these rows, in their order; "" where a place is empty."""
        return [self._text("clip_id", line) if line >= 0 else "" for line in self._lines(rows).tolist()]

    def only(self, names: Iterable[str]) -> "ExportRecords":
        """See `records.Records`; `describe` is of all fields."""
        other, wanted = copy.copy(self), set(names)
        other.fields = {name: field for name, field in self.fields.items() if name in wanted}
        return other

    def describe(self) -> dict[str, Any]:
        """What is trained on, as `StoreRecords.describe` says it."""
        about = self.about
        used = {key: about.makers[key] for key in (*self.constituents, *self.needed)}
        named = {"snapshot": about.snapshot, "digest": about.digest} if about.snapshot else {}
        return {
            "clips": len(self.rows),
            **named,
            **({"sample": about.sample} if about.sample else {}),
            "identity": self.identity,
            "erasure_epoch": about.erasure_epoch,
            "policy": {name: value for name, value in self.policy.record().items() if name != "judged"},
            "held_out": len(self.held_out),
            "makers": used,
            "missing": self.missing,
            "lacking": self.lacking(self.split) if self.missing == "zero" else {},
            "absent": [key for key in self._wanted if key not in self.constituents],
            "untrained": [key for key, digests in used.items() if set(about.untrained) & set(digests)],
        }

    def lacking(self, split: str) -> dict[str, int]:
        """Constituent -> clips of a split that have the pictures and lack it, where there are any."""
        usable = self._has(split, self.needed)
        counts = {key: int((usable & ~self._had(key)).sum()) for key in self._wanted}
        return {key: number for key, number in counts.items() if number}

    def leave_out(self, rows: np.ndarray) -> None:
        """Empty the places of these rows."""
        self._line[np.isin(self._row_ids, rows)] = -1

    def made_by(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each constituent and the digest of the maker of each clip's value, "" where it has none: (N,) text."""
        codes = self._file.arrays["maker"]
        for number, (key, digests) in enumerate(self.about.makers.items()):
            yield key, np.array([*digests, ""])[codes[:, number]]

    # -- opening ---------------------------------------------------------------------------------------------------

    def _require(self, what: str, names: Sequence[str], held: Sequence[str]) -> None:
        if lacks := [name for name in names if name not in held]:
            raise UsageError(f"{self.path} lacks the {what} {', '.join(lacks)}: it holds {', '.join(held) or 'none'}")

    def _check_tensors(self) -> None:
        """Compare every tensor that is read with the shape it must have."""
        clips = self._shape("row_id")[0]
        empty = self._shape("empty.row_id")[0]
        makers = len(self.about.makers)
        expected = {
            "row_id": Tensor("uint64", (clips,)),
            "place": Tensor("int64", (clips,)),
            "split": Tensor("int8", (clips,)),
            "maker": Tensor("int16", (clips, makers)),
            "consent_until": Tensor("int32", (clips,)),
            "empty.row_id": Tensor("uint64", (empty,)),
            "empty.place": Tensor("int64", (empty,)),
            "empty.split": Tensor("int8", (empty,)),
            "empty.maker": Tensor("int16", (empty, makers)),
        }
        for name in TEXTS + (("face",) if "face" in self.fields else ()):
            expected[f"{name}.offsets"] = Tensor("int64", (clips + 1,))
            expected[name] = Tensor("uint8", self._shape(name))
        for key, field in self.fields.items():
            if key in self.constituents or (key in PICTURES and key != "face"):
                stored = LANDMARKS if key == "bottom" else field
                expected[STORED.get(key, key)] = Tensor(stored.dtype, (clips, *stored.shape))
        for name, one in expected.items():
            has = self._file.tensors.get(name)
            if has is None:
                raise VoxportraitError(f"{self.path} is damaged: it has no tensor {name}")
            if (has.dtype, has.shape) != (one.dtype, one.shape):
                raise VoxportraitError(
                    f"{name} in {self.path} is {has.shape} {has.dtype}, and {one.shape} {one.dtype} is wanted"
                )
        self._check_numbers()

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._file.tensors[name].shape if name in self._file.tensors else None
        if shape is None or len(shape) != 1:
            raise VoxportraitError(f"{self.path} is damaged: its tensor {name} is {shape}, and (N,) is wanted")
        return shape

    def _check_numbers(self) -> None:
        """Numbers that point somewhere point into the file."""
        arrays, makers = self._file.arrays, [len(digests) for digests in self.about.makers.values()]
        for name in (*TEXTS, "face"):
            if name in TEXTS or name in self.fields:
                ends = arrays[f"{name}.offsets"]
                ascend = (ends[1:] >= ends[:-1]).all()
                self._sound(name, ends[0] == 0 and ends[-1] == len(arrays[name]) and ascend)
        for lead in ("", "empty."):
            codes, splits = arrays[f"{lead}maker"], arrays[f"{lead}split"]
            self._sound(f"{lead}maker", ((codes >= -1) & (codes < makers)).all())
            self._sound(f"{lead}split", ((splits >= -1) & (splits < len(SPLITS))).all())
        until = arrays["consent_until"][arrays["consent_until"] != NEVER]
        self._sound("consent_until", ((until >= _FIRST_DAY) & (until <= _LAST_DAY)).all())
        for name in ("place", "row_id"):
            both = np.concatenate([arrays[name], arrays[f"empty.{name}"]])
            self._sound(name, len(np.unique(both)) == len(both))
        for key in self.constituents:
            if CATALOGUE[key].kind == "label":
                labels = self.about.labels.get(key)
                if labels != list(ATTRIBUTES[key]):
                    raise VoxportraitError(f"{key} in {self.path} has other labels than this version: export it again")
                self._sound(key, ((arrays[key] >= -1) & (arrays[key] < len(labels))).all())

    def _sound(self, name: str, is_sound: Any) -> None:
        if not is_sound:
            raise VoxportraitError(f"{self.path} is damaged: numbers of {name} are out of range")

    def _read_places(self) -> None:
        """All places in order, with the line of the file that holds each, -1 for an empty one."""
        arrays = self._file.arrays
        order = np.argsort(np.concatenate([arrays["place"], arrays["empty.place"]]))
        self._row_ids, self._splits, self._makers = (
            np.concatenate([arrays[name], arrays[f"empty.{name}"]])[order] for name in ("row_id", "split", "maker")
        )
        self._line = np.where(order < len(arrays["place"]), order, -1)
        self._by_row = np.argsort(self._row_ids)

    def _had(self, key: str) -> np.ndarray:
        """The places that had a value: (places,) bool."""
        if key not in self.about.makers:
            return np.zeros(len(self._row_ids), bool)
        return self._makers[:, list(self.about.makers).index(key)] >= 0

    def _has(self, split: str, keys: Sequence[str]) -> np.ndarray:
        usable = self._splits == SPLITS.index(choose("split", split, SPLITS))
        for key in keys:
            usable &= self._had(key)
        return usable

    def _places(self, split: str) -> np.ndarray:
        if self.missing == "refuse":
            refuse_lacking(split, int(self._has(split, self.needed).sum()), self.lacking(split))
        return self._row_ids[self._has(split, (*self.needed, *(self._wanted if self.missing == "skip" else ())))]

    def _identity(self) -> str:
        about, keys = self.about, {*self._wanted, *self.needed}
        is_whole = not about.sample and set(self.needed) == set(about.needed)
        if about.missing == "skip":
            is_whole &= self.missing == "skip" and keys == {*about.constituents, *about.needed}
        if about.snapshot and is_whole:
            return identity_in_snapshot(self.split, about.digest, self.missing, keys)
        return identity_of_clips(self.split, self.clip_ids(self.rows))

    def _policies(self, given: Policy) -> tuple[Policy, ...]:
        """The policy that is asked for, else the one the file was made under, then all of the file's."""
        own = [Policy(one["require_consent"], tuple(one["licences"]), given.judged) for one in self.about.policies]
        return (own[0] if given.takes_all and own else given, *own)

    def _refused_rows(self) -> np.ndarray:
        """Rows of clips that a policy does not allow."""
        if all(policy.takes_all for policy in self.policies):
            return np.empty(0, np.uint64)
        consents, licences = (self._texts(name) for name in ("consent", "licence"))
        rights = list(zip(consents, self._file.arrays["consent_until"].tolist(), licences, strict=True))
        allowed = {
            one: all(policy.allows_one(one[0], _day(one[1]), one[2]) for policy in self.policies) for one in set(rights)
        }
        return self.row_ids[[not allowed[one] for one in rights]]

    # -- reading ---------------------------------------------------------------------------------------------------

    def _lines(self, rows: np.ndarray) -> np.ndarray:
        """The line of the file that holds each row, -1 where its place is empty."""
        found = np.searchsorted(self._row_ids, rows, sorter=self._by_row)
        places = self._by_row[np.minimum(found, len(self._by_row) - 1)]
        return np.where(self._row_ids[places] == rows, self._line[places], -1)

    def _text(self, name: str, line: int) -> str:
        starts = self._file.arrays[f"{name}.offsets"]
        return self._file.arrays[name][starts[line] : starts[line + 1]].tobytes().decode(errors="replace")

    def _texts(self, name: str) -> list[str]:
        whole, ends = self._file.arrays[name].tobytes(), self._file.arrays[f"{name}.offsets"].tolist()
        return [whole[a:b].decode(errors="replace") for a, b in pairwise(ends)]

    def _copy(self, lines: np.ndarray, part: slice, out: Mapping[str, np.ndarray]) -> None:
        """Fill a part of the arrays with these lines of the file."""
        for key, field in self.fields.items():
            target = out[key][part]
            if key in _DRAWN:
                _DRAWN[key](self, lines, field, target)
            elif key in self.constituents or key in PICTURES:
                np.take(self._file.arrays[key], lines, axis=0, out=target, mode="clip")
            else:
                target[...] = 0 if CATALOGUE[key].kind in ARRAYS else np.nan if field.dtype == "float32" else -1

    def _read_faces(self, lines: np.ndarray, field: Field, out: np.ndarray) -> None:
        import cv2
        from PIL import Image

        data, starts = self._file.arrays["face"], self._file.arrays["face.offsets"]
        for place, line in enumerate(lines.tolist()):
            jpeg = data[starts[line] : starts[line + 1]]
            try:
                with Image.open(io.BytesIO(jpeg.tobytes()), formats=["JPEG"]) as picture:  # reads its head alone
                    size = picture.size
                if size != field.shape[1::-1]:
                    raise ValueError(f"it is {size[0]} x {size[1]}")
                out[place] = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
            except (OSError, ValueError, TypeError, cv2.error) as error:
                name = self._text("clip_id", line)
                raise VoxportraitError(f"the face of {name} in {self.path} is no picture: {error}") from None

    def _read_bottoms(self, lines: np.ndarray, field: Field, out: np.ndarray) -> None:
        from featurestore.face_parts import bottom_mask

        landmarks = np.take(self._file.arrays["face_parts"], lines, axis=0, mode="clip")
        for place, points in enumerate(landmarks):
            out[place] = bottom_mask(points, field.shape[0])


_DRAWN: dict[str, Callable[[ExportRecords, np.ndarray, Field, np.ndarray], None]] = {
    "face": ExportRecords._read_faces,
    "bottom": ExportRecords._read_bottoms,
}
"""Pictures that are not stored as they are handed over."""


def _day(days: int) -> date | None:
    return None if days == NEVER else _EPOCH + timedelta(days)
