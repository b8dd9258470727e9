"""Extractors: one file a library. Each declares what it needs and makes, and says its makers without loading a model.

    for extractor in extractors_for(["ecapa", "face"], Recipe()):
        extractor.makers(); extractor.load("cpu"); extractor.extract(sample)

A new extractor is one file here, one line in `EXTRACTORS` and one in the catalogue; or another package's, which names
it as an entry point (docs/extractors.md).
"""

from collections.abc import Callable, Iterable
from importlib import import_module

from featurestore.catalogue import constituent
from featurestore.errors import UsageError
from featurestore.plugins import added, load
from pipelines.extractors.base import Extractor
from pipelines.recipe import Recipe

Factory = Callable[[Recipe], Extractor]


def _from(module: str, name: str, *arguments: str, recipe: bool = False) -> Factory:
    """Makes the extractor `name` of this package's `module`, imported only then; `recipe`: it wants the recipe too."""

    def make(chosen: Recipe) -> Extractor:
        build = getattr(import_module(f"{__name__}.{module}"), name)
        return build(*arguments, chosen) if recipe else build(*arguments)

    return make


def _attribute(key: str) -> Factory:
    """Age, gender or ethnicity, by whom the recipe says."""
    by = {
        "corpus": _from("corpus", "CorpusAttribute", key),
        "deepface": _from("deepface", "Attribute", key, recipe=True),
    }
    return lambda chosen: by[chosen.attributes](chosen)


_face = _from("face", "FaceCrop", recipe=True)
EXTRACTORS: dict[str, Factory] = {
    "media": _from("media", "MediaRecord"),
    "ecapa": _from("speechbrain", "Ecapa"),
    "language": _from("speechbrain", "Language"),
    "pyannote": _from("pyannote", "Pyannote", "pyannote"),
    "pyannote_all": _from("pyannote", "Pyannote", "pyannote_all"),
    "titanet": _from("nemo", "Speaker", "titanet"),
    "titanet_sliding": _from("nemo", "Speaker", "titanet_sliding"),
    "speakernet": _from("nemo", "Speaker", "speakernet"),
    "speakernet_sliding": _from("nemo", "Speaker", "speakernet_sliding"),
    "short_term": _from("pyaudioanalysis", "ShortTerm"),
    "mel": _from("librosa", "Mel"),
    "mel_log": _from("librosa", "LogMel"),
    "speech": _from("speech", "Speech"),
    "speech_query": _from("speech_query", "SpeechQuery"),
    "age": _attribute("age"),
    "gender": _attribute("gender"),
    "ethnicity": _attribute("ethnicity"),
    "face": _face,
    "face_128": _face,
    "face_parts": _from("landmarks", "FaceParts", recipe=True),
    "face_embedding_dlib": _from("dlib", "FaceEmbedding", recipe=True),
    **{
        f"face_embedding_{model}": _from("deepface", "FaceEmbedding", model, recipe=True)
        for model in ("vgg_face", "facenet", "facenet512", "arcface", "openface", "deepface", "deepid", "ghostfacenet")
    },
}
"""Constituent -> what makes, of a recipe, the extractor that makes it."""

_added: dict[str, Factory] = {}
for _key, _point in added("voxportrait.extractors", EXTRACTORS).items():
    _factory = lambda chosen, point=_point: load(point)(chosen)
    EXTRACTORS[_key] = _added.setdefault(_point.value, _factory)

AVAILABLE: tuple[str, ...] = tuple(EXTRACTORS)
"""The constituents of the catalogue that can be made."""


def standard() -> tuple[str, ...]:
    """The constituents that are made where nobody names any: what SLF and Fine-portraitist take."""
    return tuple(key for key in AVAILABLE if not constituent(key).optional)


def extractors_for(constituents: Iterable[str], recipe: Recipe = Recipe()) -> list[Extractor]:
    """New extractors that make `constituents`, each extractor once, in the registry's order.

    Raises UsageError for a name that the catalogue does not know or that no extractor makes.
    """
    wanted = {constituent(key).key for key in constituents}
    if unmade := sorted(wanted.difference(AVAILABLE)):
        raise UsageError(f"no extractor makes {', '.join(unmade)}. Available: {', '.join(AVAILABLE)}.")
    return [make(recipe) for make in dict.fromkeys(EXTRACTORS[key] for key in AVAILABLE if key in wanted)]
