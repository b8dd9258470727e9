"""Files as strangers hand them over: regular ones alone, read once, never waited for.

Whatever is wrong with one raises Reject(`media`): `missing file`, `unreadable`, `empty file` or `too large`. A disk or
network that stumbles raises its OSError: reading may go well a moment later.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.faults import is_passing
from pipelines.reject import Reject

LARGEST_FILE = 1 << 30
"""Bytes. A clip's file is held in memory."""


def read_file(path: str) -> bytes:
    """The bytes of a local path or of a URI that Arrow knows (`s3://`, `gs://`, `file://`, ...)."""
    with _rejecting(path):
        return _read_uri(path) if "://" in path else _read_local(path)


def is_folder(path: str) -> bool:
    return "://" not in path and os.path.isdir(path)


def list_files(folder: str, suffixes: tuple[str, ...]) -> dict[str, int]:
    """Name -> size of the folder's own files with these suffixes; hidden files are left out, links are rejected."""
    sizes = {}
    with _rejecting(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in suffixes:
                continue
            if not entry.is_file(follow_symlinks=False):
                what = "a symbolic link" if entry.is_symlink() else "not a regular file"
                raise Reject("media", "unreadable", f"{entry.path}: {what}; frames must be files of their own")
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    return sizes


@contextmanager
def _rejecting(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Reject("media", "missing file", f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        if is_passing(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise Reject("media", "unreadable", f"{path}: {reason}") from error


def _read_local(path: str) -> bytes:
    """Looked at before and after it is opened: nothing but a regular file is opened, unless it is exchanged between."""
    _check_kind(path, os.stat(path))
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        _check_kind(path, status)
        _check_size(path, status.st_size)
        data = file.read(status.st_size + 1)
    if len(data) != status.st_size:
        raise Reject("media", "unreadable", f"{path}: the file changes while it is read")
    _check_empty(path, data)
    return data


def _read_uri(uri: str) -> bytes:
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(uri)
    with filesystem.open_input_file(path) as file:
        _check_size(uri, file.size())
        data = file.read()
    _check_empty(uri, data)
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _check_kind(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Reject("media", "unreadable", f"{path}: not a regular file")


def _check_size(path: str, size: int) -> None:
    if size > LARGEST_FILE:
        raise Reject("media", "too large", f"{path}: {size} bytes, at most {LARGEST_FILE} are read")


def _check_empty(path: str, data: bytes) -> None:
    if not data:
        raise Reject("media", "empty file", f"{path}: the file is empty")
