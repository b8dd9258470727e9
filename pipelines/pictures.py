"""Pictures in place of a film: one file, or a folder of frames in the order of their names."""

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipelines.files import list_files, read_file
from pipelines.reject import Reject

LARGEST_PICTURE = 36_000_000
"""Pixels of one frame, of films too: 8K video has 33 million."""

MOST_FRAMES = 100_000

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")


def is_picture(data: bytes) -> bool:
    """Whether the bytes start as a JPEG, PNG, WebP or BMP does, whatever the file is called."""
    return data.startswith(_STARTS) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def one_picture(data: bytes) -> "Pictures":
    """A picture as one frame. sha256: of the file's bytes."""
    return Pictures(hashlib.sha256(data).hexdigest(), 1, lambda index: data)


def folder_of_frames(folder: str) -> "Pictures":
    """A folder's jpg, png, webp and bmp files by name, `frame2` before `frame10`.

    sha256: of the lines `<bytes>  <name>` of all frames, then the bytes of the first; the others are not read for it.
    """
    sizes = list_files(folder, _SUFFIXES)
    names = sorted(sizes, key=_by_numbers)
    if not names:
        raise Reject("media", "not media", f"{folder}: a folder without pictures ({', '.join(_SUFFIXES)})")
    if len(names) > MOST_FRAMES:
        raise Reject("media", "too large", f"{folder}: {len(names)} frames, at most {MOST_FRAMES} are taken")

    def read(index: int) -> bytes:
        return read_file(f"{folder}/{names[index]}")

    listing = "".join(f"{sizes[name]}  {name}\n" for name in names)
    sha256 = hashlib.sha256(listing.encode("utf-8", "surrogateescape") + read(0)).hexdigest()
    return Pictures(sha256, len(names), read)


class Pictures:
    """Frames read one at a time, when they are asked for. width, height: of the first as stored; read: one's bytes.

    Raises Reject(`media`) if the first is no picture or too large.
    """

    fps, seconds, sound = None, 0.0, None

    def __init__(self, sha256: str, frame_count: int, read: Callable[[int], bytes]):
        self.sha256, self.frame_count, self._read = sha256, frame_count, read
        with _open(read(0), "media", "not media", "the picture") as picture:
            self.width, self.height = picture.size

    def frame(self, index: int) -> np.ndarray:
        """Frame `index`, (height, width, 3) uint8 RGB, upright as its EXIF says. Raises Reject(`face`)."""
        what = f"frame {index}"
        try:
            data = self._read(index)
        except Reject as reject:
            raise Reject("face", reject.reason, reject.message) from reject
        with _open(data, "face", "damaged", what) as picture:
            try:
                return _rgb(ImageOps.exif_transpose(picture))
            except Exception as error:
                raise Reject("face", "damaged", f"{what} cannot be decoded: {error}") from error


def _open(data: bytes, what: str, reason: str, name: str) -> Any:
    """The picture with its header read, not decoded."""
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise Reject(what, "too large", f"{name}: {error}") from error
    except Exception as error:
        raise Reject(what, reason, f"{name} cannot be read as JPEG, PNG, WebP or BMP") from error
    width, height = picture.size
    if width * height > LARGEST_PICTURE:
        raise Reject(what, "too large", f"{name} has {width} x {height} pixels, at most {LARGEST_PICTURE} are decoded")
    return picture


def _rgb(picture: Any) -> np.ndarray:
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def _by_numbers(name: str) -> tuple:
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)], name
