"""A safetensors file as rows on the disk: mapped into memory to be read, written in pieces, whole or not at all.

8 bytes: the header's length, little-endian; the header: JSON, name -> {dtype, shape, data_offsets} and `__metadata__`;
then the tensors, without gaps (https://huggingface.co/docs/safetensors). Here the tensors lie in the order of the size
of their numbers, so that all of them are aligned. Importable without Arrow, Lance or Ray.
"""

import errno
import fcntl
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.errors import UsageError, VoxportraitError

MODE = 0o660
"""Of a file that is written, less the umask: what is in it is of people, and not for everybody on the machine."""

LARGEST_HEADER = 1 << 24
"""Bytes. A header that says it is longer is not read."""

DTYPES = {
    "BOOL": "bool",
    **{
        f"{letter}{bits}": f"{name}{bits}" for letter, name in (("U", "uint"), ("I", "int")) for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_CODES = {name: code for code, name in DTYPES.items()}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. start: its first byte in the file, or in the data while it is not written."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * np.dtype(self.dtype).itemsize


class TensorFile:
    """A safetensors file that is mapped into memory.

    arrays: read-only, by name: bytes are read when they are looked at. metadata: of the header.
    Raises UsageError where there is no file, VoxportraitError where it is none of this kind or damaged; nothing of what
    the header says is believed before it is compared with the file's size.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise UsageError(f"{path} cannot be opened: {error.strerror}") from error
        self._had_a_name = os.fstat(self._file.fileno()).st_nlink > 0
        self.tensors, self.metadata = _read_header(self.path, self._file.fileno())
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self.arrays = {
            name: np.frombuffer(self._map, one.dtype, prod(one.shape), one.start).reshape(one.shape)
            for name, one in self.tensors.items()
        }

    def is_removed(self) -> bool:
        """Whether the file lost its name since it was opened: its bytes are on the disk until nobody has it open."""
        return self._had_a_name and os.fstat(self._file.fileno()).st_nlink == 0

    def will_need(self, name: str, firsts: np.ndarray, count: int | np.ndarray = 1) -> None:
        """Ask for the bytes of `count` rows of a tensor from each of the rows `firsts` on, without waiting for them."""
        one, file = self.tensors[name], self._file.fileno()
        starts, sizes = one.start + firsts * one.row_bytes, np.broadcast_to(count, firsts.shape) * one.row_bytes
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            os.posix_fadvise(file, start, size, os.POSIX_FADV_WILLNEED)

    def is_cold(self, name: str, rows: np.ndarray) -> bool:
        """Whether the disk must be asked for any of these rows, as far as their first bytes tell."""
        one, byte = self.tensors[name], bytearray(1)
        try:
            for row in rows.tolist():
                os.preadv(self._file.fileno(), [byte], one.start + row * one.row_bytes, os.RWF_NOWAIT)
        except OSError:  # it would have to wait, or the file system cannot tell
            return True
        return False


def _read_header(path: Path, file: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    size = os.fstat(file).st_size
    not_one = f"{path} is not a safetensors file"
    if size < 8:
        raise VoxportraitError(f"{not_one}: it has {size} bytes")
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if length > LARGEST_HEADER:
        raise VoxportraitError(f"{not_one}: its header would have {length:,} bytes, more than {LARGEST_HEADER:,}")
    if 8 + length > size:
        raise VoxportraitError(f"{path} is truncated: its header ends at byte {8 + length:,}, the file at {size:,}")
    try:
        header = json.loads(os.pread(file, length, 8))
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor(path, name, one, 8 + length) for name, one in header.items()}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not texts")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise VoxportraitError(f"{not_one}: {str(error)[:100] or type(error).__name__}") from None
    end, before = 8 + length, "the header"
    for name, one in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if one.start != end:
            what = "overlap" if one.start < end else "leave a gap between them"
            raise VoxportraitError(f"{path} is damaged: {before} and {name} {what}")
        end, before = end + one.nbytes, name
    if end != size:
        what = "is truncated" if end > size else "is damaged"
        raise VoxportraitError(f"{path} {what}: its tensors end at byte {end:,}, the file at {size:,}")
    return tensors, metadata


def _tensor(path: Path, name: str, said: Any, data: int) -> Tensor:
    """A tensor as the header describes it, if that agrees with itself. data: where the tensors begin."""
    dtype, shape, (start, stop) = DTYPES.get(said["dtype"]), said["shape"], said["data_offsets"]
    if dtype is None:
        raise VoxportraitError(f"{path}: {name} has numbers of the kind {said['dtype']!r}, which are not read here")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)) or len(shape) > 8:
        raise ValueError(f"the shape or place of {name} is none")
    if 0 in shape and prod(filter(None, shape)) >> 56:
        raise ValueError(f"{name} is empty and says that it is huge")
    tensor = Tensor(dtype, tuple(shape), data + start)
    if stop - start != tensor.nbytes:
        raise VoxportraitError(
            f"{path} is damaged: {name} {tensor.shape} takes {tensor.nbytes:,} bytes and has {stop - start:,}"
        )
    if tensor.start % np.dtype(dtype).itemsize:
        raise VoxportraitError(f"{path}: {name} is not aligned to its numbers; write the file anew with safetensors")
    return tensor


# -- writing -------------------------------------------------------------------------------------------------------


@contextmanager
def claimed(path: Path, told: Callable[[str], None] | None = None) -> Iterator[int]:
    """A file that is to become `path`, open and locked: `Writer` gives it its name; otherwise it is removed.

    The owner and the group may read it, others may not, whatever else the umask forbids.
    told: called once where another process is at it, who is waited for; without it that is a VoxportraitError.
    """
    partial, file = _partial(path), None
    while file is None:
        try:
            file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, MODE)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if told is None:
                os.close(file)
                raise VoxportraitError(f"{path} is being written by another process: wait for it, or stop it") from None
            told(f"waiting: another process is writing {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        if not _is_at(file, partial):  # who had it is done: what was waited for has its name, or is gone
            os.close(file)
            file = None
    try:
        yield file
    finally:
        if _is_at(file, partial):
            partial.unlink()
        os.close(file)


def remove(path: Path) -> bool:
    """Remove a file and what was written of it; whether anything was there."""
    found = False
    for one in (path, _partial(path)):
        with suppress(FileNotFoundError, NotADirectoryError):
            one.unlink()
            found = True
    return found


class Writer:
    """Writes tensors in pieces into a file that is `claimed`.

    grows: the name of a tensor of bytes whose length is known only in the end; it lies last.
    Raises VoxportraitError at once where the disk has not the room.
    """

    def __init__(
        self, path: Path, file: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], grows: str = ""
    ):
        self.path, self._file, self._metadata, self._grows = path, file, dict(metadata), grows
        self._tensors, end = {}, 0
        for name, one in sorted(tensors.items(), key=lambda item: -np.dtype(item[1].dtype).itemsize):
            self._tensors[name] = Tensor(one.dtype, one.shape, end)
            end += one.nbytes
        self._fixed, self.grown = end, 0
        self._header = len(self._text(10**15))
        self.size = 8 + self._header + end
        with self._no_room():
            os.ftruncate(file, 0)
            try:
                os.posix_fallocate(file, 0, self.size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                os.ftruncate(file, self.size)

    def write(self, name: str, values: np.ndarray, first: int = 0) -> None:
        """Write rows of a tensor, the first of them row `first`."""
        one = self._tensors[name]
        if values.shape[1:] != one.shape[1:] or str(values.dtype) != one.dtype:
            raise ValueError(f"{name} takes {one.shape[1:]} {one.dtype}, was given {values.shape[1:]} {values.dtype}")
        self._put(values, 8 + self._header + one.start + first * one.row_bytes)

    def append(self, data: bytes) -> None:
        """Write bytes at the end of the tensor that grows."""
        self._put(np.frombuffer(data, np.uint8), self.size)
        self.grown += len(data)
        self.size += len(data)

    def finish(self) -> None:
        """Give the file its name: it is whole, and on the disk."""
        text = self._text(self.grown)
        with self._no_room():
            self._put(np.frombuffer(self._header.to_bytes(8, "little") + text.ljust(self._header), np.uint8), 0)
            os.ftruncate(self._file, self.size)
            os.fsync(self._file)
            _partial(self.path).rename(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def _text(self, grown: int) -> bytes:
        """The header as JSON, of a length that is a multiple of 8."""
        tensors = dict(self._tensors)
        if self._grows:
            tensors[self._grows] = Tensor("uint8", (grown,), self._fixed)
        header: dict[str, Any] = {"__metadata__": self._metadata}
        for name, one in tensors.items():
            place = [one.start, one.start + one.nbytes]
            header[name] = {"dtype": _CODES[one.dtype], "shape": list(one.shape), "data_offsets": place}
        text = json.dumps(header).encode()
        return text.ljust(-(-len(text) // 8) * 8)

    def _put(self, values: np.ndarray, at: int) -> None:
        left = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        with self._no_room():
            while left:
                done = os.pwrite(self._file, left, at)
                left, at = left[done:], at + done

    @contextmanager
    def _no_room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise VoxportraitError(f"{self.path} cannot be written: {error.strerror}") from error
            disk = os.fstatvfs(self._file)
            raise VoxportraitError(
                f"{self.path} needs {self.size / 1e9:,.2f} GB and {disk.f_bavail * disk.f_frsize / 1e9:,.2f} GB are "
                "free: make room there, or write it elsewhere; nothing is left of it"
            ) from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(file)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
