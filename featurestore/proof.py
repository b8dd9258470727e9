"""The search for bytes: which of many values are anywhere in the files of a store. It knows nothing of tables.

Each value stands for itself by one piece of it, the one of most distinct bytes. A file is read once, as 8-byte words:
wherever a piece of at least 15 bytes lies, one of its words lies on a word of the file, so eight words a piece are
looked up in a table for every word of the file, and what they find is compared in full.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pyarrow import fs

from featurestore.places import Place

PIECE = 4096
"""Bytes of a value that are searched for, at most."""

SHORTEST, DISTINCT = 16, 8
"""A piece proves something from so many bytes on, of which so many are different."""

_WORD, _ANCHOR = 8, 15
_BLOCK = 1 << 20
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def piece(value: bytes) -> bytes | None:
    """The piece of a value that is searched for; None where it is too short or too even to prove anything."""
    first = max(0, len(value) - PIECE)
    starts = np.unique(np.linspace(0, first, min(9, 1 + -(-first // PIECE)) if first else 1).astype(int))
    best = max((value[start : start + PIECE] for start in starts.tolist()), key=_distinct)
    return best if len(best) >= SHORTEST and _distinct(best) >= DISTINCT else None


class Finder:
    """Finds which of `pieces` are in data."""

    def __init__(self, pieces: Sequence[bytes]):
        self.pieces = pieces
        self.longest = max(map(len, pieces), default=0)
        anchors = [_anchor(one) for one in pieces]
        words = np.array(
            [
                int.from_bytes(one[at + k : at + k + _WORD], "little")
                for one, at in zip(pieces, anchors, strict=True)
                for k in range(_WORD)
            ],
            np.uint64,
        )
        order = np.argsort(words, kind="stable")
        self._words = words[order]
        self._piece = order // _WORD
        self._offset = np.repeat(np.array(anchors, np.int64), _WORD)[order] + order % _WORD
        bits = min(22, max(16, int(32 * max(1, len(words))).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self._slots(self._words)] = True

    def find(self, data: bytes) -> set[int]:
        """The numbers of the pieces that are in `data`."""
        words = np.frombuffer(data, "<u8", len(data) // _WORD)
        found: set[int] = set()
        places = np.flatnonzero(np.take(self._table, self._slots(words), mode="clip"))
        first = np.searchsorted(self._words, words[places], "left")
        last = np.searchsorted(self._words, words[places], "right")
        for place, low, high in zip(*(a[last > first].tolist() for a in (places, first, last)), strict=True):
            for hit in range(low, high):
                number, start = int(self._piece[hit]), place * _WORD - int(self._offset[hit])
                if number not in found and start >= 0 and data.startswith(self.pieces[number], start):
                    found.add(number)
        return found

    def _slots(self, words: np.ndarray) -> np.ndarray:
        slots = words * _SPREAD
        return np.right_shift(slots, self._shift, out=slots).view(np.int64)


def search(
    place: Place,
    pieces: Sequence[bytes],
    leave_out: Iterable[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[int, list[str]], int, int]:
    """Search every file under a store: piece number -> the files it is in, and the files and bytes that were read.

    leave_out: paths that are not looked into. progress: called with the bytes read and to read. A file that goes while
    it is read, as a lease's do, is not there.
    """
    finder, left_out = Finder(pieces), set(leave_out)
    files = [file for file in place.list("", recursive=True) if file.path not in left_out]
    where: dict[int, list[str]] = defaultdict(list)
    total, read = sum(file.size for file in files), 0
    with ThreadPoolExecutor(4) as pool:
        for file, found in zip(files, pool.map(lambda file: _search_file(place, file, finder), files), strict=True):
            for number in found:
                where[number].append(file.path)
            read += file.size
            progress(read, total)
    return dict(where), len(files), total


def _search_file(place: Place, file: fs.FileInfo, finder: Finder) -> set[int]:
    found: set[int] = set()
    before = b""
    try:
        with place.files.open_input_stream(file.path) as stream:
            while block := stream.read(_BLOCK):
                data = before + block
                found |= finder.find(data)
                before = data[-(finder.longest - 1) :] if finder.longest > 1 else b""
    except FileNotFoundError:
        return set()
    return found


def _distinct(data: bytes) -> int:
    return len(set(data))


def _anchor(data: bytes) -> int:
    """Where the 15 bytes of `data` stand whose eight words are told apart best from those of other data."""
    step = max(1, (len(data) - _ANCHOR) // 8)
    return max(range(0, len(data) - _ANCHOR + 1, step), key=lambda at: _distinct(data[at : at + _ANCHOR]))
