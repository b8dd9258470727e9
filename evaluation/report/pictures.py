"""Pictures as data URIs, so that the report is one file."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def jpeg(picture: np.ndarray, size: int | None = None, note: str = "") -> str:
    """(H, W, 3) uint8 as a JPEG data URI: for faces. size: of its sides, if smaller; note: the file's comment."""
    image = Image.fromarray(picture)
    if size and size < image.width:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return _uri(image, "JPEG", quality=90, subsampling=0, comment=note.encode())


def png(picture: np.ndarray) -> str:
    """(H, W, 3 or 4) uint8 as a PNG data URI: for pictures whose pixels are meant to be seen."""
    return _uri(Image.fromarray(picture), "PNG", optimize=True)


def from_bytes(data: bytes, size: int) -> str:
    """An encoded picture, scaled to `size`, as a JPEG data URI."""
    with Image.open(io.BytesIO(data)) as image:
        return jpeg(np.asarray(image.convert("RGB")), size)


def evenly(items: Sequence, most: int) -> list:
    """At most `most` of the items, spread evenly, in their order."""
    if len(items) <= most:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, most)]


def _uri(image: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
