"""Extractors: one file a library. Each declares what it needs and makes, and says its makers without loading a model.

    for extractor in extractors_for(["ecapa", "face"]):
        extractor.makers(); extractor.load("cpu"); extractor.extract(sample)

A new extractor is one file here, one line in `EXTRACTORS` and one in the catalogue.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol

from featurestore.catalogue import constituent
from featurestore.errors import UsageError
from featurestore.makers import Maker
from pipelines.sample import Sample

Values = Mapping[str, Any]
"""Column name -> value: an array for a vector or block, bytes for a picture, text or a number for a label."""


class Extractor(Protocol):
    """Makes constituents of one clip at a time; what it makes depends on that clip alone.

    makes: the constituents; needs: what of a Sample it reads: `media`, `sound`, `face` or `corpus` (the clip's row
    alone); requires: columns of the clip's row that must not be NULL (`corpus_age`, ...), else there is nothing to
    make. `makers()` is cheap: it loads no model and imports no heavy library. `load()` brings the model into memory,
    once per worker, on the device named (`cpu`, `cuda`). `extract(sample)` gives the columns of all it makes.
    """

    name: str
    makes: tuple[str, ...]
    needs: str
    requires: tuple[str, ...]

    def makers(self) -> dict[str, Maker]: ...

    def load(self, device: str) -> None: ...

    def extract(self, sample: Sample) -> Values: ...


def _from(module: str, name: str, *arguments: str) -> Callable[[], Extractor]:
    """Makes the extractor `name` of this package's `module`, which is imported only then."""
    return lambda: getattr(import_module(f"{__name__}.{module}"), name)(*arguments)


_face = _from("face", "FaceCrop")
EXTRACTORS: dict[str, Callable[[], Extractor]] = {
    "media": _from("media", "MediaRecord"),
    "ecapa": _from("speechbrain", "Ecapa"),
    "short_term": _from("pyaudioanalysis", "ShortTerm"),
    "mel": _from("librosa", "Mel"),
    "speech": _from("speech", "Speech"),
    "age": _from("corpus", "CorpusAttribute", "age"),
    "gender": _from("corpus", "CorpusAttribute", "gender"),
    "ethnicity": _from("corpus", "CorpusAttribute", "ethnicity"),
    "face": _face,
    "face_128": _face,
    "face_embedding_dlib": _from("dlib", "FaceEmbedding"),
}
"""Constituent -> what makes the extractor that makes it."""

AVAILABLE: tuple[str, ...] = tuple(EXTRACTORS)
"""The constituents of the catalogue that can be made."""


def extractors_for(constituents: Iterable[str]) -> list[Extractor]:
    """New extractors that make `constituents`, each extractor once, in the registry's order.

    Raises UsageError for a name that the catalogue does not know or that no extractor makes yet.
    """
    wanted = {constituent(key).key for key in constituents}
    if unmade := sorted(wanted.difference(AVAILABLE)):
        raise UsageError(f"no extractor makes {', '.join(unmade)} yet. Available: {', '.join(AVAILABLE)}.")
    return [make() for make in dict.fromkeys(EXTRACTORS[key] for key in AVAILABLE if key in wanted)]
