"""SpeechBrain classifiers that were never trained, in the layout of the official ones."""

from collections.abc import Sequence
from pathlib import Path

from featurestore.catalogue import ATTRIBUTES
from pipelines.extractors.speechbrain import quiet_speechbrain

_HYPERPARAMETERS = """\
pretrained_path: {official}
n_mels: 80
out_n_neurons: {labels}

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [1024, 1024, 1024, 1024, 3072]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 128
    lin_neurons: 192

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 192
    out_neurons: !ref <out_n_neurons>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
"""
_LOADED, _PATH = "        {name}: !ref <{name}>\n", "        {name}: !ref <pretrained_path>/{name}.{ending}\n"


def write_ecapa(folder: Path) -> None:
    """Write spkrec-ecapa-voxceleb's files: 192 numbers, 7,205 speakers."""
    speakers = [f"id{number:05d}" for number in range(7205)]
    endings = {"embedding_model": "ckpt", "mean_var_norm_emb": "ckpt", "classifier": "ckpt", "label_encoder": "txt"}
    _write(folder, "speechbrain/spkrec-ecapa-voxceleb", speakers, endings)


def write_language(folder: Path) -> None:
    """Write lang-id-commonlanguage_ecapa's files: the 45 labels of CommonLanguage, in alphabetical order."""
    endings = {"embedding_model": "ckpt", "classifier": "ckpt", "label_encoder": "txt"}
    _write(folder, "speechbrain/lang-id-commonlanguage_ecapa", ATTRIBUTES["language"], endings)


def _write(folder: Path, official: str, labels: Sequence[str], endings: dict[str, str]) -> None:
    """`endings`: the parts of the model that have a file, and how its name ends."""
    quiet_speechbrain()
    import torch
    from hyperpyyaml import load_hyperpyyaml

    hyperparameters = (
        _HYPERPARAMETERS.format(official=official, labels=len(labels))
        + "".join(_LOADED.format(name=name) for name in endings)
        + "    paths:\n"
        + "".join(_PATH.format(name=name, ending=ending) for name, ending in endings.items())
    )
    (folder / "hyperparams.yaml").write_text(hyperparameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = load_hyperpyyaml(hyperparameters)
    for name in ("embedding_model", "classifier"):
        torch.save(parts[name].state_dict(), folder / f"{name}.ckpt")
    if "mean_var_norm_emb" in endings:
        statistics = {"count": 1, "glob_mean": torch.zeros(192), "glob_std": torch.ones(192)}
        torch.save(statistics, folder / "mean_var_norm_emb.ckpt")
    parts["label_encoder"].update_from_iterable(labels)
    parts["label_encoder"].save(folder / "label_encoder.txt")
