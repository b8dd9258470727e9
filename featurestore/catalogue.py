"""The catalogue of constituents: what can be stored for a clip, one key per shape. Data, no code to run.

A new constituent is one line in `_CONSTITUENTS` and one extractor that makes it; another package adds its own as an
entry point (docs/extractors.md). Importable without Arrow or Lance.
Shapes and constants follow the SLF paper and its released code unless a line says otherwise.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from featurestore.errors import VoxportraitError, choose
from featurestore.plugins import added, load

# fmt: off
ATTRIBUTES = {
    "gender": ("man", "woman"),
    "ethnicity": ("indian", "asian", "latino hispanic", "black", "middle eastern", "white"),
    "language": (
        "Arabic", "Basque", "Breton", "Catalan", "Chinese_China", "Chinese_Hongkong", "Chinese_Taiwan", "Chuvash",
        "Czech", "Dhivehi", "Dutch", "English", "Esperanto", "Estonian", "French", "Frisian", "Georgian", "German",
        "Greek", "Hakha_Chin", "Indonesian", "Interlingua", "Italian", "Japanese", "Kabyle", "Kinyarwanda", "Kyrgyz",
        "Latvian", "Maltese", "Mangolian", "Persian", "Polish", "Portuguese", "Romanian", "Romansh_Sursilvan",
        "Russian", "Sakha", "Slovenian", "Spanish", "Swedish", "Tamil", "Tatar", "Turkish", "Ukranian", "Welsh",
    ),
}
"""The values a label may take, in the order of their one-hot columns. Languages as CommonLanguage spells them."""
# fmt: on


@dataclass(frozen=True)
class Constituent:
    """One stored feature of a clip.

    kind: `vector` (fixed-size list of float16, searchable), `block` (fixed-size binary, fast to read), `picture`
    (JPEG bytes), `label` (text with its probability), `number` (float32 with its probability), `record` (only extras).
    shape, dtype: of a vector's or block's array. extras: further columns `<key>_<name>` with their types, written
    together with the value: `float32`, `int32`, `string`, `float32[n]`, or a block as `uint8(8,8,3)`.
    optional: made only where it is asked for by name.
    """

    key: str
    kind: str
    about: str
    shape: tuple[int, ...] = ()
    dtype: str = "float16"
    extras: tuple[tuple[str, str], ...] = ()
    optional: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of one stored value (vectors and blocks; 0 for kinds of no fixed size)."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize if self.shape else 0

    @property
    def maker_column(self) -> str:
        return f"{self.key}_maker"


_CONSTITUENTS = (
    Constituent(
        "media",
        "record",
        "what decoding found: the file's hash, its length and frame rate",
        extras=(
            ("sha256", "string"),
            ("duration", "float32"),
            ("fps", "float32"),
            ("width", "int32"),
            ("height", "int32"),
        ),
    ),
    # speaker embeddings
    Constituent("ecapa", "vector", "SpeechBrain ECAPA-TDNN speaker embedding of 24 s", (192,)),
    Constituent("pyannote", "block", "pyannote speaker embeddings of the 31 windows that the layouts use", (31, 512)),
    Constituent("pyannote_all", "block", "pyannote speaker embeddings of all 177 windows", (177, 512), optional=True),
    Constituent("titanet", "vector", "NeMo TitaNet-L speaker embedding of 24 s", (192,)),
    Constituent("titanet_sliding", "vector", "mean of NeMo TitaNet-L, 22 windows of 3 s", (192,), optional=True),
    Constituent("speakernet", "vector", "NeMo SpeakerNet speaker embedding of 24 s", (256,)),
    Constituent("speakernet_sliding", "vector", "mean of NeMo SpeakerNet, 22 windows of 3 s", (256,), optional=True),
    # classical features
    Constituent("short_term", "block", "pyAudioAnalysis short-term features, 34 and their deltas", (79, 68)),
    Constituent("mel", "block", "librosa power mel spectrogram as released: 22,050 Hz, hop 4,800", (111, 128)),
    Constituent("mel_log", "block", "log-mel spectrogram, hop matched to window", (111, 128), optional=True),
    Constituent("speech", "block", "six seconds of 16 kHz PCM", (96000,), "int16"),
    Constituent("speech_query", "vector", "Fine-portraitist's query of six seconds of speech", (512,), optional=True),
    # labels of the speaker
    Constituent("language", "label", "spoken language (SpeechBrain, 45 labels)"),
    Constituent("age", "number", "age in years"),
    Constituent("gender", "label", "gender: man or woman"),
    Constituent("ethnicity", "label", "ethnicity, one of DeepFace's six"),
    # faces
    Constituent(
        "face",
        "picture",
        "face crop, 256 x 256 JPEG, quality 95, 4:4:4",
        extras=(("box", "float32[4]"), ("probability", "float32"), ("frame", "int32")),
    ),
    Constituent(
        "face_128",
        "block",
        "face as a raw target in SLF's geometry, RGB, and the same picture at 8 x 8 for the guide",
        (128, 128, 3),
        "uint8",
        extras=(("guide", "uint8(8,8,3)"),),
    ),
    Constituent(
        "face_parts",
        "block",
        "468 landmarks of the face, x and y as fractions of the `face` picture: see `featurestore.face_parts`",
        (468, 2),
        extras=(("score", "float32"),),
    ),
    Constituent("face_embedding_dlib", "vector", "dlib face recognition embedding", (128,)),
    Constituent("face_embedding_vgg_face", "vector", "DeepFace VGG-Face embedding", (4096,)),
    Constituent("face_embedding_facenet", "vector", "DeepFace FaceNet embedding", (128,), optional=True),
    Constituent("face_embedding_facenet512", "vector", "DeepFace FaceNet embedding", (512,), optional=True),
    Constituent("face_embedding_arcface", "vector", "DeepFace ArcFace embedding", (512,), optional=True),
    Constituent("face_embedding_openface", "vector", "DeepFace OpenFace embedding", (128,), optional=True),
    Constituent("face_embedding_deepface", "vector", "DeepFace FbDeepFace embedding", (4096,), optional=True),
    Constituent("face_embedding_deepid", "vector", "DeepFace DeepID embedding", (160,), optional=True),
    Constituent("face_embedding_ghostfacenet", "vector", "DeepFace GhostFaceNet embedding", (512,), optional=True),
)

CATALOGUE: dict[str, Constituent] = {c.key: c for c in _CONSTITUENTS}


def constituent(key: str) -> Constituent:
    """The catalogue's entry for `key`; a UsageError lists the known keys."""
    return CATALOGUE[choose("constituent", key, CATALOGUE)]


for _key, _point in added("voxportrait.constituents", CATALOGUE).items():
    CATALOGUE[_key] = load(_point)
    if not isinstance(CATALOGUE[_key], Constituent) or CATALOGUE[_key].key != _key:
        raise VoxportraitError(f"entry point {_key} = {_point.value} is not a Constituent of the key {_key!r}")
