"""Writers of never trained models in their official formats, one file a library."""

_DEEPFACE = (
    *("age", "gender", "ethnicity", "vgg_face", "facenet", "facenet512", "arcface", "openface"),
    *("deepface", "deepid", "ghostfacenet"),
)

WRITERS: dict[str, tuple[str, ...]] = {
    "ecapa": ("pipelines.untrained.speechbrain:write_ecapa",),
    "language": ("pipelines.untrained.speechbrain:write_language",),
    "pyannote": ("pipelines.untrained.pyannote:write_pyannote",),
    "titanet": ("pipelines.untrained.nemo:write_titanet",),
    "speakernet": ("pipelines.untrained.nemo:write_speakernet",),
    "speech_query": ("pipelines.untrained.speech_query:write_speech_query",),
    "retinaface": ("pipelines.untrained.retinaface:write_retinaface",),
    **{model: ("pipelines.untrained.deepface:write", model) for model in _DEEPFACE},
}
"""Model -> `module:function`, imported only when it is called, and its arguments after the folder."""
