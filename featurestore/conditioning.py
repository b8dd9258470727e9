"""The conditioning matrix: which constituent stands where in the 256 x 768 numbers a U-Net is conditioned on.

A layout is data: a list of blocks, a clamp, a dropout; a system is a layout with constituents off.

    layout = LAYOUTS["slf"].without("speaker-embeddings")
    matrix = Assembler(layout, "cuda")(compact)          # (B, 256, 768) float32: `featurestore.assembly`

Importable without torch, Ray or Lance. Source: the SLF paper, Table 1, and its released
code (layout `slf-released`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from featurestore.catalogue import ATTRIBUTES, constituent
from featurestore.errors import UsageError, VoxportraitError, choose

ROWS, COLUMNS = 256, 768
LANGUAGES = len(ATTRIBUTES["language"])

ENCODINGS = ("values", "constant", "one-hot", "level")

GROUPS = {
    "speaker-embeddings": ("ecapa", "pyannote", "titanet", "speakernet"),
    "classical-features": ("short_term", "mel"),
    "attributes": ("age", "gender", "ethnicity"),
}
"""Names for several constituents at once; SLF's finer switches are the constituents themselves."""


@dataclass(frozen=True)
class Block:
    """A rectangle of the matrix and the constituent that fills it.

    row, rows, column, columns: the rectangle.
    encoding: `values`: the constituent's numbers times scale; `constant`: one number times scale in every column;
    `one-hot`: code k puts 1 into the rectangle's column codes[k] (k itself where `codes` is empty);
    `level`: code k puts codes[k] into every column.
    take: the constituent's rows that are used, in order; empty for all.
    unknown_column: a column of the matrix that is 1 where the value is unknown, dropped or off.
    """

    constituent: str
    row: int
    rows: int
    column: int
    columns: int
    encoding: str = "values"
    scale: float = 1.0
    take: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    unknown_column: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "take", tuple(self.take))
        object.__setattr__(self, "codes", tuple(self.codes))
        constituent(self.constituent)
        choose("encoding", self.encoding, ENCODINGS)
        if min(self.row, self.column) < 0 or self.row + self.rows > ROWS or self.column + self.columns > COLUMNS:
            raise UsageError(
                f"block {self.constituent}: rows {self.row}..{self.row + self.rows - 1} and columns {self.column}.."
                f"{self.column + self.columns - 1} leave the {ROWS} x {COLUMNS} matrix"
            )

    @property
    def cells(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


@dataclass(frozen=True)
class Layout:
    """What turns constituents into the matrix.

    blocks: in any order, without overlap. clamp: values are cut to +-clamp.
    dropout: constituent -> probability of being unknown in training, drawn per sample.
    off: constituents that are left out: their cells are as for unknown ones.
    """

    name: str
    blocks: tuple[Block, ...]
    clamp: float = 10.0
    dropout: Mapping[str, float] = field(default_factory=dict)
    off: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "off", tuple(sorted(self.off)))
        taken = np.full((ROWS, COLUMNS), -1, np.int16)
        for index, block in enumerate(self.blocks):
            if (other := taken[block.cells].max()) >= 0:
                raise UsageError(f"blocks {self.blocks[other].constituent} and {block.constituent} overlap")
            taken[block.cells] = index

    @property
    def constituents(self) -> tuple[str, ...]:
        """The constituents that are read, each once, in the order of the blocks."""
        return tuple(dict.fromkeys(b.constituent for b in self.blocks if b.constituent not in self.off))

    @property
    def rectangles(self) -> list[tuple[str, int, int, int, int]]:
        """(constituent, row, rows, column, columns) of each block that is on: the map of the matrix."""
        return [
            (b.constituent, b.row, b.rows, b.column, b.columns) for b in self.blocks if b.constituent not in self.off
        ]

    def without(self, *names: str) -> "Layout":
        """The layout with constituents or groups of them (`GROUPS`) off. A UsageError for a name that is neither."""
        every = dict.fromkeys(b.constituent for b in self.blocks)
        off = set(self.off)
        for name in names:
            off.update(GROUPS[name] if name in GROUPS else (choose("constituent or group", name, [*every, *GROUPS]),))
        return replace(self, off=tuple(off & set(every)))

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Layout":
        """The layout that `to_json` described; a UsageError names a field that is not one."""
        try:
            return cls(**{**data, "blocks": tuple(Block(**block) for block in data["blocks"])})
        except (TypeError, KeyError) as error:
            raise UsageError(f"not the description of a layout: {error}") from None

    @property
    def fingerprint(self) -> str:
        """sha256 over everything but the name: equal where the matrices are."""
        data = {key: value for key, value in self.to_json().items() if key != "name"}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def require(self, other: "Layout", whose: str):
        """A VoxportraitError if `other` would make other matrices than this one."""
        if self.fingerprint != other.fingerprint:
            raise VoxportraitError(
                f"{whose} has the layout {other.label}, not {self.label}: use the one it was made with"
            )

    @property
    def label(self) -> str:
        """For a person: the name, what is off, and the fingerprint's first eight digits."""
        off = f" without {', '.join(self.off)}" if self.off else ""
        return f"{self.name}{off} ({self.fingerprint[:8]})"


_DROPOUT = {"age": 0.2, "gender": 0.2, "ethnicity": 0.2, "language": 0.2}
_EVERY_SECOND = (0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 15, *range(16, 31))
_LAST_26 = tuple(range(5, 31))
"""Of `pyannote`, which holds windows of 3 s that start at 1, 3, 5, 7, 9 and 11 to 21 s (16), and all those of 6 s (10),
12 s (4) and 24 s (1), in this order."""

# fmt: off
_SLF = Layout("slf", dropout=_DROPOUT, blocks=(
    #     constituent   row rows col cols
    Block("ecapa",        0,   1,  0, 192, scale=1 / 200),
    Block("pyannote",     1,  26,  0, 512, scale=1 / 400, take=_EVERY_SECOND),
    Block("titanet",     27,   1,  0, 192, scale=10),
    Block("speakernet",  28,   1,  0, 256),
    Block("short_term",  29,  79,  0,  68, scale=1 / 100),
    Block("mel",        108, 111,  0, 128, scale=1 / 100),
    Block("language",   219,   1,  0,  LANGUAGES, "one-hot"),
    Block("age",        220,   1,  0, 768, "constant", scale=1 / 100),
    Block("gender",     221,   1,  0,   2, "one-hot"),
    Block("ethnicity",  222,   1,  0,   6, "one-hot"),
))

# As in the released code, slips included. One slip is not here: Portuguese and Spanish share column 16.
_SLF_RELEASED = Layout("slf-released", dropout=_DROPOUT, blocks=(
    Block("age",          0,   1,   0, 767, "constant", scale=1 / 100, unknown_column=767),
    Block("ethnicity",    1,   1,   0,  17, "one-hot", codes=(0, 16, 2, 3, 4, 5)),
    Block("gender",       2,   1,   0, 768, "level", codes=(1, -1)),
    Block("language",     3,   1,   0,  LANGUAGES, "one-hot"),
    Block("ecapa",        4,   1, 288, 192, scale=1 / 200),
    Block("pyannote",     5,  26,   0, 512, scale=1 / 400, take=_LAST_26),
    Block("titanet",     31,   1, 160, 192, scale=10),
    Block("speakernet",  32,   1, 128, 256),
    Block("short_term",  33,  79,  60,  68, scale=1 / 100),
    Block("mel",        112, 111,   0, 128, scale=1 / 100),
))
# fmt: on

LAYOUTS = {layout.name: layout for layout in (_SLF, _SLF_RELEASED)}


@dataclass(frozen=True)
class System:
    """A named choice of inputs: what of the layout is off, whether the 8 x 8 guide is used, the paper's scale."""

    name: str
    off: tuple[str, ...]
    image_guide: bool
    cond_scale: float | None

    def layout(self, base: Layout = _SLF) -> Layout:
        return base.without(*self.off)


_SPEAKER, _CLASSICAL, _ATTRIBUTES = GROUPS
# fmt: off
SYSTEMS = {system.name: system for system in (
    #      name                        off                                                   guide  scale
    System("only-image-guide",         (_SPEAKER, _CLASSICAL, _ATTRIBUTES, "language"),      True,  None),
    System("full-input",               (),                                                   True,  8),
    System("no-image-guide",           (),                                                   False, 2),
    System("no-speaker-embedding",     (_SPEAKER,),                                          True,  8),
    System("no-audio",                 (_SPEAKER, _CLASSICAL, "language"),                   True,  4),
    System("only-audio",               (_ATTRIBUTES,),                                       False, 2),
    System("speaker-embedding-only",   (_ATTRIBUTES, _CLASSICAL, "language"),                False, 4),
    System("no-additional-attributes", (_ATTRIBUTES,),                                       True,  4),
)}
"""SLF's eight systems, in the paper's order. Language counts as audio, as in the paper."""
# fmt: on


def system(name: str) -> System:
    """The system of that name; a UsageError lists the known ones."""
    return SYSTEMS[choose("system", name, SYSTEMS)]


def attribute_code(key: str, label: str | None) -> int:
    """The code of a label of gender, ethnicity or language, -1 where it is None."""
    return -1 if label is None else ATTRIBUTES[key].index(choose(key, label, ATTRIBUTES[key]))
