"""Writers of never trained models in their official formats, one file a library; each is `write_<model>(folder)`."""

WRITERS: dict[str, str] = {
    "ecapa": "pipelines.untrained.speechbrain:write_ecapa",
    "language": "pipelines.untrained.speechbrain:write_language",
    "pyannote": "pipelines.untrained.pyannote:write_pyannote",
    "titanet": "pipelines.untrained.nemo:write_titanet",
    "speakernet": "pipelines.untrained.nemo:write_speakernet",
    "retinaface": "pipelines.untrained.retinaface:write_retinaface",
    **{
        model: f"pipelines.untrained.deepface:write_{model}"
        for model in (
            *("age", "gender", "ethnicity", "vgg_face", "facenet", "facenet512", "arcface", "openface"),
            *("deepface", "deepid", "ghostfacenet"),
        )
    },
}
"""Model -> `module:function`, imported only when it is called."""
