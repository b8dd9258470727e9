"""The conditioning matrix: which constituent stands where in the 256 x 768 numbers a U-Net is conditioned on.

A layout is data: a list of blocks, a clamp, a dropout; a system is a layout with constituents off.

    layout = LAYOUTS["slf"].without("speaker-embeddings")
    matrix = Assembler(layout, "cuda")(compact)          # (B, 256, 768) float32: `featurestore.assembly`

Importable without torch, Ray or Lance. Source: the SLF paper, Table 1, and its released code (layout `slf-released`;
its slips by name are in `featurestore.slips`).
"""

import hashlib
import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.catalogue import ATTRIBUTES, CATALOGUE, Constituent, constituent
from featurestore.errors import UsageError, VoxportraitError, choose

ROWS, COLUMNS = 256, 768
LARGEST = float(np.finfo(np.float32).max)
LANGUAGES = len(ATTRIBUTES["language"])

ENCODINGS = {"vector": ("values",), "block": ("values",), "number": ("constant",), "label": ("one-hot", "level")}
"""How a constituent of each kind may be written into its block."""

_SPEAKER = ("ecapa", "pyannote", "titanet", "speakernet")
_CLASSICAL = ("short_term", "mel")
GROUPS = {
    "speaker-embeddings": _SPEAKER,
    "classical-features": _CLASSICAL,
    "audio": (*_SPEAKER, *_CLASSICAL, "language"),
    "attributes": ("age", "gender", "ethnicity"),
    "speechbrain": ("ecapa",),
    "pyannote-titanet-speakernet": ("pyannote", "titanet", "speakernet"),
    "pyaudioanalysis": ("short_term",),
    "librosa": ("mel",),
}
"""Names for constituents: SLF's switches. Its switches age, gender, ethnicity and language are constituents."""


@dataclass(frozen=True)
class Block:
    """A rectangle of the matrix and the constituent that fills it.

    row, rows, column, columns: the rectangle.
    encoding: `values`: the constituent's numbers times scale; `constant`: one number times scale in every column;
    `one-hot`: code k puts 1 into the rectangle's column codes[k] (k itself where `codes` is empty);
    `level`: code k puts codes[k] into every column.
    take: the constituent's rows that are used, in order; empty for all.
    unknown_column: a column of the matrix that is 1 where the value is unknown, dropped or off.
    switch: the constituent with which the block is left out, where that is not its own.
    Raises UsageError where the rectangle leaves the matrix or the constituent does not fit it.
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
    switch: str = ""

    def __post_init__(self):
        entry = constituent(self.constituent)
        for name in ("row", "rows", "column", "columns"):
            self._set(name, self._whole(name, getattr(self, name)))
        for name in ("take", "codes"):
            self._set(name, tuple(self._whole(name, value) for value in getattr(self, name)))
        if not isinstance(self.scale, (int, float)) or not abs(self.scale) <= LARGEST:
            raise UsageError(f"{self}: scale is {repr(self.scale)[:20]}, not a number of float32")
        self._set("scale", float(self.scale))
        self._check_rectangle()
        _FITS[_encoding(self, entry)](self, entry)
        if self.switch:
            constituent(self.switch)

    def __str__(self) -> str:
        return f"block {self.constituent}"

    @property
    def cells(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)

    @property
    def switched_by(self) -> str:
        """The constituent with which the block is left out."""
        return self.switch or self.constituent

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _whole(self, name: str, value: Any) -> int:
        try:
            return operator.index(value)
        except TypeError:
            raise UsageError(f"{self}: {name} is {value!r}, not a whole number") from None

    def _check_rectangle(self) -> None:
        for name, start, count, size in (
            ("rows", self.row, self.rows, ROWS),
            ("columns", self.column, self.columns, COLUMNS),
        ):
            if count < 1:
                raise UsageError(f"{self}: it has {count} {name}, and needs 1 at least")
            if start < 0 or start + count > size:
                raise UsageError(f"{self}: {name} {start}..{start + count - 1} leave the matrix's 0..{size - 1}")
        if self.unknown_column is not None and not 0 <= self._whole("unknown_column", self.unknown_column) < COLUMNS:
            raise UsageError(f"{self}: unknown_column {self.unknown_column} leaves the matrix's 0..{COLUMNS - 1}")

    def rectangles(self) -> Iterator[tuple[range, range]]:
        """Rows and columns of what it writes: the rectangle, and the mark for what is unknown."""
        yield range(self.row, self.row + self.rows), range(self.column, self.column + self.columns)
        if self.unknown_column is not None:
            yield range(self.row, self.row + 1), range(self.unknown_column, self.unknown_column + 1)


def _encoding(block: Block, entry: Constituent) -> str:
    """The block's encoding, if it is one for its constituent."""
    allowed = ENCODINGS.get(entry.kind)
    if allowed is None:
        raise UsageError(f"{block}: the constituent is a {entry.kind}, and the matrix takes {', '.join(ENCODINGS)}")
    if block.encoding not in allowed:
        raise UsageError(f"{block}: encoding {block.encoding!r} is not for a {entry.kind}: use {' or '.join(allowed)}")
    return block.encoding


def _values_fit(block: Block, entry: Constituent) -> None:
    _refuse(block, codes=block.codes, unknown_column=block.unknown_column)
    *lead, columns = entry.shape
    stored = lead[0] if lead else 1
    if beyond := [row for row in block.take if not 0 <= row < stored]:
        raise UsageError(f"{block}: take has row {beyond[0]}, the constituent has rows 0..{stored - 1}")
    rows = len(block.take) or stored
    if len(lead) > 1 or (rows, columns) != (block.rows, block.columns):
        taken = f", {rows} of its rows are taken" if block.take else ""
        shape = " x ".join(map(str, entry.shape if len(entry.shape) > 1 else (1, columns)))
        raise UsageError(f"{block}: {block.rows} x {block.columns} cells, the constituent has {shape} values{taken}")


def _number_fits(block: Block, entry: Constituent) -> None:
    _refuse(block, take=block.take, codes=block.codes)


def _one_hot_fits(block: Block, entry: Constituent) -> None:
    _refuse(block, take=block.take)
    if block.rows != 1:
        raise UsageError(f"{block}: one-hot takes 1 row, not {block.rows}")
    labels = ATTRIBUTES.get(block.constituent, ())
    for label, column in zip(labels, _codes(block, labels) or range(len(labels)), strict=True):
        if not 0 <= column < block.columns:
            raise UsageError(f"{block}: {label} is column {column}, the block's are 0..{block.columns - 1}")


def _level_fits(block: Block, entry: Constituent) -> None:
    _refuse(block, take=block.take)
    if not _codes(block, ATTRIBUTES.get(block.constituent, ())):
        raise UsageError(f"{block}: level needs a code for each label, and there are none")
    if beyond := [code for code in block.codes if abs(code) > 1 << 24]:
        raise UsageError(f"{block}: the level {str(beyond[0])[:20]} is more than float32 can tell")


_FITS = {"values": _values_fit, "constant": _number_fits, "one-hot": _one_hot_fits, "level": _level_fits}


def _codes(block: Block, labels: tuple[str, ...]) -> tuple[int, ...]:
    if not labels:
        raise UsageError(f"{block}: which labels it may have is not known here, so they have no codes")
    if block.codes and len(block.codes) != len(labels):
        raise UsageError(f"{block}: {len(block.codes)} codes for {len(labels)} labels ({', '.join(labels)})")
    return block.codes


def _refuse(block: Block, **given: Any) -> None:
    for name, value in given.items():
        if value not in ((), None):
            raise UsageError(f"{block}: {name} {value} is not for the encoding {block.encoding}")


@dataclass(frozen=True)
class Layout:
    """What turns constituents into the matrix.

    blocks: in any order, without overlap. clamp: values are cut to +-clamp.
    dropout: constituent -> probability of being unknown in training, drawn per sample.
    off: constituents, or groups of them, that are left out: their cells are as for unknown ones.
    groups: names for several constituents at once, beside or instead of those of `GROUPS`.
    cancelled: constituents that are all left out as long as none of them is off.
    withheld: constituents that are unknown whenever portraits are drawn.
    beside: constituents that a model takes as they are stored, beside the matrix or instead of it.
    Raises UsageError that names the block.
    """

    name: str
    blocks: tuple[Block, ...]
    clamp: float = 10.0
    dropout: Mapping[str, float] = field(default_factory=dict)
    off: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(GROUPS))
    cancelled: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isprintable():
            raise UsageError(f"a layout's name is a line of text, not {self.name!r}")
        changed = {
            "blocks": tuple(self.blocks),
            "clamp": self._number("clamp", self.clamp),
            "dropout": {key: self._number(f"dropout of {key}", chance) for key, chance in self.dropout.items()},
            "groups": {name: tuple(keys) for name, keys in {**GROUPS, **self.groups}.items()},
            "cancelled": tuple(self.cancelled),
            "withheld": tuple(self.withheld),
            "beside": tuple(self.beside),
        }
        for name, value in changed.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "off", tuple(sorted(self._expanded(self.off))))
        self._check_blocks()
        self._check_dropout()
        named = (*self.cancelled, *self.withheld, *self.beside, *(key for keys in self.groups.values() for key in keys))
        for key in named:
            constituent(key)

    @property
    def every(self) -> tuple[str, ...]:
        """The constituents of all blocks, each once, in the order of the blocks."""
        return tuple(dict.fromkeys(block.constituent for block in self.blocks))

    @property
    def on(self) -> tuple[Block, ...]:
        """The blocks that are filled; the cells of the others are as for what is unknown."""
        off = set(self.off)
        cancelled = () if off & set(self.cancelled) else self.cancelled
        return tuple(b for b in self.blocks if b.switched_by not in off and b.constituent not in cancelled)

    @property
    def constituents(self) -> tuple[str, ...]:
        """The constituents that are read, each once: in the order of the blocks, then those beside the matrix."""
        return tuple(dict.fromkeys([*(block.constituent for block in self.on), *self.beside]))

    @property
    def rectangles(self) -> list[tuple[str, int, int, int, int]]:
        """(constituent, row, rows, column, columns) of each block that is on: the map of the matrix."""
        return [(b.constituent, b.row, b.rows, b.column, b.columns) for b in self.on]

    def without(self, *names: str) -> "Layout":
        """The layout with constituents or groups of them off. A UsageError for a name that is neither."""
        return replace(self, off=(*self.off, *self._expanded(names)))

    def only(self, *names: str) -> "Layout":
        """The layout with all off but these constituents or groups of them; what is off already stays off."""
        return self.without(*(key for key in self.every if key not in self._expanded(names)))

    def chosen(self, only: str | None = None, without: str | None = None) -> "Layout":
        """`only` and `without` of names with commas between, as commands take them; None: neither."""
        layout = self if only is None else self.only(*names_in(only))
        return layout if without is None else layout.without(*names_in(without))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: what is off, and the fields that are not at their defaults."""
        blocks = [_told(block) for block in self.blocks]
        return json.loads(json.dumps({**_told(self), "off": self.off, "blocks": blocks}))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Layout":
        """The layout that `to_json` described; a UsageError names what is wrong, and where."""
        if not isinstance(data, Mapping) or not isinstance(data.get("blocks", []), list):
            raise UsageError("a layout is described by a JSON object with a list of blocks")
        blocks = []
        for number, block in enumerate(data.get("blocks", ())):
            called = block.get("constituent", number) if isinstance(block, Mapping) else number
            blocks.append(_made(Block, block, f"block {called}"))
        return _made(cls, {**data, "blocks": blocks} if "blocks" in data else data, "the layout")

    @property
    def fingerprint(self) -> str:
        """sha256 over everything but names: layouts that share it make the same matrices."""
        data = {key: value for key, value in self.to_json().items() if key not in ("name", "groups")}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def require(self, other: "Layout", whose: str):
        """A VoxportraitError if `other` would make other matrices than this one; it names the first difference."""
        if self.fingerprint != other.fingerprint:
            raise VoxportraitError(
                f"{whose} has the layout {other.label}, not {self.label}: {_difference(other, self)}; use the one it "
                "was made with"
            )

    @property
    def label(self) -> str:
        """For a person: the name, what is off, and the fingerprint's first eight digits."""
        off = f" without {', '.join(self.off)}" if self.off else ""
        return f"{self.name}{off} ({self.fingerprint[:8]})"

    def _expanded(self, names) -> set[str]:
        """The constituents of this layout that constituents or groups name."""
        keys: set[str] = set()
        for name in names:
            known = choose("constituent or group", name, [*self.every, *self.groups])
            keys.update(self.groups.get(known, (known,)))
        return keys & set(self.every)

    def _number(self, name: str, value: Any) -> float:
        if isinstance(value, (int, float)) and 0 <= value <= LARGEST:
            return float(value)
        raise UsageError(f"the layout {self.name}: {name} is {repr(value)[:20]}, not a number from 0 up")

    def _check_blocks(self) -> None:
        for one, other in combinations(self.blocks, 2):
            for rows, columns in one.rectangles():
                for more_rows, more_columns in other.rectangles():
                    shared, both = _common(rows, more_rows), _common(columns, more_columns)
                    if shared and both:
                        raise UsageError(
                            f"{one} (rows {_span(rows)}) and {other} (rows {_span(more_rows)}) overlap in rows "
                            f"{_span(shared)}, columns {_span(both)}"
                        )

    def _check_dropout(self) -> None:
        for key, chance in self.dropout.items():
            choose(f"constituent of the layout {self.name}", key, self.every)
            if CATALOGUE[key].kind not in ("label", "number"):
                raise UsageError(f"dropout of {key}: it is a {CATALOGUE[key].kind}; only attributes can be dropped")
            if chance > 1:
                raise UsageError(f"dropout of {key} is {chance:g}, not a probability from 0 to 1")


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _span(numbers: range) -> str:
    return f"{numbers.start}..{numbers.stop - 1}"


def _told(described: Block | Layout) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    told = {}
    for one in fields(described):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        value = getattr(described, one.name)
        if value != default:
            told[one.name] = value
    return told


def _made(kind: type, data: Any, what: str) -> Any:
    """A Block or Layout from its fields."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{what} is {data!r}, not a JSON object")
    for name, value in data.items():
        known = {one.name: one for one in fields(kind)}
        wanted = known[choose(f"field of {what}", name, known)].type
        if str(wanted).startswith("tuple") and not isinstance(value, (list, tuple)):
            raise UsageError(f"{what}: {name} is {repr(value)[:40]}, not a list")
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    if lacking := [name for name in needed if name not in data]:
        raise UsageError(f"{what} lacks {' and '.join(lacking)}")
    try:
        return kind(**data)
    except (TypeError, AttributeError) as error:
        raise UsageError(f"{what} is not described as it should be: {error}") from None


def _difference(was: Layout, now: Layout) -> str:
    """The first thing in which two layouts differ, with both values."""
    before, after = ({(b.constituent, b.row): b for b in layout.blocks} for layout in (was, now))
    for block in was.blocks:
        other = after.get((block.constituent, block.row))
        if other is None:
            others = [b for b in now.blocks if b.constituent == block.constituent]
            if not others:
                return f"it has {block} (row {block.row}), which this one lacks"
            other = others[0]
        for one in fields(Block):
            if (had := getattr(block, one.name)) != (has := getattr(other, one.name)):
                return f"{block}: its {one.name} is {_short(had)}, not {_short(has)}"
    if more := [block for key, block in after.items() if key not in before]:
        return f"it lacks {more[0]} (row {more[0].row})"
    for one in fields(Layout):
        had, has = getattr(was, one.name), getattr(now, one.name)
        if one.name not in ("name", "blocks", "groups") and had != has:
            return f"its {one.name} is {_short(had)}, not {_short(has)}"
    return "its blocks are in another order"


def _short(value: Any) -> str:
    return str(value or "nothing" if isinstance(value, (tuple, dict)) else value)[:80]


_DROPOUT = {"age": 0.2, "gender": 0.2, "ethnicity": 0.2, "language": 0.2}
EVERY_SECOND = (0, 1, 2, 3, 4, 5, 7, 9, 11, 13, 15, *range(16, 31))
LAST_26 = tuple(range(5, 31))
"""Of `pyannote`, which holds windows of 3 s that start at 1, 3, 5, 7, 9 and 11 to 21 s (16), and all those of 6 s (10),
12 s (4) and 24 s (1), in this order."""

_free = (column for column in range(LANGUAGES) if column not in (1, 16))
SHARED_16 = tuple(16 if label in ("Portuguese", "Spanish") else next(_free) for label in ATTRIBUTES["language"])
"""Columns of the languages in the released code: Portuguese and Spanish share 16, and 1 is free. The order of the
others is not known; here they have the columns that are left, in the order of `ATTRIBUTES`."""

# fmt: off
_SLF = Layout("slf", dropout=_DROPOUT, blocks=(
    #     constituent   row rows col cols
    Block("ecapa",        0,   1,  0, 192, scale=1 / 200),
    Block("pyannote",     1,  26,  0, 512, scale=1 / 400, take=EVERY_SECOND),
    Block("titanet",     27,   1,  0, 192, scale=10),
    Block("speakernet",  28,   1,  0, 256),
    Block("short_term",  29,  79,  0,  68, scale=1 / 100),
    Block("mel",        108, 111,  0, 128, scale=1 / 100),
    Block("language",   219,   1,  0,  LANGUAGES, "one-hot"),
    Block("age",        220,   1,  0, 768, "constant", scale=1 / 100),
    Block("gender",     221,   1,  0,   2, "one-hot"),
    Block("ethnicity",  222,   1,  0,   6, "one-hot"),
))

_SLF_RELEASED = Layout("slf-released", dropout=_DROPOUT, blocks=(
    Block("age",          0,   1,   0, 767, "constant", scale=1 / 100, unknown_column=767),
    Block("ethnicity",    1,   1,   0,  17, "one-hot", codes=(0, 16, 2, 3, 4, 5)),
    Block("gender",       2,   1,   0, 768, "level", codes=(1, -1)),
    Block("language",     3,   1,   0,  LANGUAGES, "one-hot", codes=SHARED_16),
    Block("ecapa",        4,   1, 288, 192, scale=1 / 200),
    Block("pyannote",     5,  26,   0, 512, scale=1 / 400, take=LAST_26),
    Block("titanet",     31,   1, 160, 192, scale=10),
    Block("speakernet",  32,   1, 128, 256),
    Block("short_term",  33,  79,  60,  68, scale=1 / 100),
    Block("mel",        112, 111,   0, 128, scale=1 / 100),
))
# fmt: on

LAYOUTS = {layout.name: layout for layout in (_SLF, _SLF_RELEASED)}
"""`slf`: the paper's order, slips mended. `slf-released`: the table of the released code, with the three slips that the
table shows; `featurestore.slips` has all of them."""

NO_MATRIX = Layout("no-matrix", blocks=())
"""For models that take constituents as they are stored, and no matrix."""


def layout_named(name_or_path: str) -> Layout:
    """A layout by its name, or from the JSON file in which somebody wrote one (see `Layout.to_json`).

    Raises UsageError for an unknown name, and for a file that cannot be read or describes none.
    """
    known = {**LAYOUTS, NO_MATRIX.name: NO_MATRIX}
    return known.get(name_or_path) or _layout_in(name_or_path)


def _layout_in(path: str) -> Layout:
    if not Path(path).is_file() and Path(path).suffix != ".json":
        choose("layout", path, [*LAYOUTS, "a JSON file"])
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        return Layout.from_json({"name": Path(path).stem, **data} if isinstance(data, dict) else data)
    except OSError as error:
        raise UsageError(f"the layout {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the layout {path} is not JSON: {error}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def names_in(text: str) -> list[str]:
    """Names with commas between, as commands take them. A UsageError where there is none."""
    if names := [part.strip() for part in text.split(",") if part.strip()]:
        return names
    raise UsageError(f"names with commas between are wanted, not {text!r}")


@dataclass(frozen=True)
class System:
    """A named choice of inputs, and what is trained of it.

    off: what of the layout is left out. image_guide: whether the 8 x 8 guide is used. cond_scale: the paper's.
    stages: what is trained, in order. base: the layout it has where none is said. beside: constituents that it takes
    as they are stored. pictures: of records, what it learns from (`records.PICTURES`).
    """

    name: str
    off: tuple[str, ...]
    image_guide: bool
    cond_scale: float | None
    stages: tuple[str, ...] = ("unet1", "unet2")
    base: Layout = _SLF
    beside: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ("target", "guide")

    def layout(self, base: Layout | None = None) -> Layout:
        base = base or self.base
        layout = base.without(*(name for name in self.off if name in base.groups or name in base.every))
        beside = tuple(dict.fromkeys((*layout.beside, *self.beside)))
        return layout if beside == layout.beside else replace(layout, beside=beside)


# fmt: off
SYSTEMS = {system.name: system for system in (
    #      name                        off                                               guide  scale
    System("only-image-guide",         ("audio", "attributes"),                          True,  None),
    System("full-input",               (),                                               True,  8),
    System("no-image-guide",           (),                                               False, 2),
    System("no-speaker-embedding",     ("speaker-embeddings",),                          True,  8),
    System("no-audio",                 ("audio",),                                       True,  4),
    System("only-audio",               ("attributes",),                                  False, 2),
    System("speaker-embedding-only",   ("attributes", "classical-features", "language"), False, 4),
    System("no-additional-attributes", ("attributes",),                                  True,  4),
)}
"""SLF's eight systems, in the paper's order. Language counts as audio, as in the paper."""
# fmt: on


def _portraitist(name: str, *stages: str) -> System:
    return System(name, (), False, 1, stages, NO_MATRIX, ("speech",), ("face", "bottom"))


PORTRAITISTS = {
    system.name: system
    for system in (
        _portraitist("one-stage", "codec", "face"),
        _portraitist("two-stage", "codec", "bottom", "upper"),
        _portraitist("fine-portraitist", "codec", "bottom", "upper"),
    )
}
"""Fine-portraitist's three (its Table IV): the face from speech alone; first its bottom, then the upper face; and that
with the retrieval prior. With a layout that has blocks they are conditioned on its matrix instead of speech tokens."""


def system(name: str) -> System:
    """The system of that name; a UsageError lists the known ones."""
    known = {**SYSTEMS, **PORTRAITISTS}
    return known[choose("system", name, known)]


def attribute_code(key: str, label: str | None) -> int:
    """The code of a label of gender, ethnicity or language, -1 where it is None."""
    return -1 if label is None else ATTRIBUTES[key].index(choose(key, label, ATTRIBUTES[key]))


def given(compact: Mapping[str, np.ndarray], attributes: Mapping[str, float | str | None]) -> dict[str, np.ndarray]:
    """A compact batch whose attributes are these for every clip, in place of the stored ones.

    attributes: `age` in years, `gender`, `ethnicity` and `language` by their labels; None: unknown.
    Raises UsageError for what is no attribute, no label (it lists the known ones), or no age.
    """
    clips = len(next(iter(compact.values()), ()))
    replaced = dict(compact)
    for key, value in attributes.items():
        if choose("attribute", key, ("age", *ATTRIBUTES)) == "age":
            replaced[key] = np.full(clips, np.nan if value is None else _years(value), np.float32)
        else:
            replaced[key] = np.full(clips, attribute_code(key, None if value is None else str(value)), np.int64)
    return replaced


def _years(value: float | str) -> float:
    try:
        years = float(value)
    except ValueError:
        years = math.nan
    if not 0 <= years <= 150:
        raise UsageError(f"age is {value!r}, not a number of years from 0 to 150")
    return years
