"""Who was forgotten: keyed hashes of clip ids and speakers, by which they are known again and by nothing else.

A hash is HMAC-SHA256 under 32 random bytes that are made once and lie in a file of the store. Whoever holds both the
`erasures` table and the key can ask of a name whether it was forgotten; whoever holds the table alone cannot.
"""

import hmac
import secrets
from collections.abc import Callable, Iterable
from typing import Literal

from featurestore.errors import VoxportraitError
from featurestore.places import Place

FOLDER = "_forgetting"
KEY = f"{FOLDER}/key"

Kind = Literal["clip", "speaker", "name"]
"""A clip's id; a speaker as `dataset/speaker`; a speaker's id alone, which several datasets may have."""


def read_key(place: Place, make: bool = False) -> bytes:
    """The store's key; made where there is none if `make`, which only the lease of the whole store allows.

    Raises VoxportraitError where it is gone or damaged: without it nobody who was forgotten is known again.
    """
    if not has_file(place, KEY) and make:
        place.write_file(KEY, secrets.token_bytes(32))
    try:
        with place.files.open_input_stream(KEY) as stream:
            key = stream.read()
    except FileNotFoundError:
        key = b""
    if len(key) != 32:
        raise VoxportraitError(
            f"{place.shown}/{KEY} is gone or damaged: without it those who were forgotten cannot be refused. Restore "
            "it from a backup of the store."
        )
    return key


def has_file(place: Place, path: str) -> bool:
    """Whether there is such a file in the store."""
    return place.files.get_file_info(path).is_file


class Forgotten:
    """The names that were forgotten, or are being forgotten now."""

    def __init__(self, key: bytes, hashes: Iterable[str]):
        self._key, self.hashes = key, frozenset(hashes)

    @classmethod
    def of(cls, place: Place, make_key: bool = False) -> "Forgotten":
        """Those of a store."""
        lists = place.table("erasures").to_table(columns=["hashes"])["hashes"].to_pylist()
        key = read_key(place, make_key and not lists) if lists or make_key else b""
        return cls(key, (one for hashes in lists for one in hashes or ()))

    def only(self, hashes: Iterable[str]) -> "Forgotten":
        """The names behind these hashes alone."""
        return Forgotten(self._key, hashes)

    def hash(self, kind: Kind, name: str) -> str:
        """The keyed hash of a name, in hexadecimal."""
        return hmac.digest(self._key, f"{kind}\0{name}".encode(), "sha256").hex()

    def has(self, kind: Kind, name: str) -> bool:
        """Whether this very name was forgotten."""
        return bool(self.hashes) and self.hash(kind, name) in self.hashes

    def clips(self) -> Callable[[str], bool]:
        """A test of clip ids: was the clip forgotten, or its speaker?"""
        speakers: dict[str, bool] = {}

        def test(clip_id: str) -> bool:
            speaker = "/".join(clip_id.split("/")[:2])
            if speaker not in speakers:
                speakers[speaker] = self.has("speaker", speaker)
            return speakers[speaker] or self.has("clip", clip_id)

        return test
