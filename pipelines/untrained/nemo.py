"""NeMo's speaker models, never trained, as `.nemo` files.

Architectures: the published `titanet-large.yaml` and `SpeakerNet_verification_3x2x256.yaml` of NeMo's examples.
"""

import tarfile
import tempfile
from pathlib import Path
from typing import Any

from pipelines.extractors.nemo import quiet_nemo

_SPEAKERS = 7205


def write_titanet(folder: Path) -> None:
    """Write titanet-l.nemo: 192 numbers, 25.3 M parameters."""
    shared = {"separable": True, "se": True, "se_context_size": -1}
    blocks = _blocks(1024, repeat=3, dropout=0.1, last=3072, first_residual=False, **shared)
    config = _config(window=0.025, mels=80, blocks=blocks, numbers=192, pooling="attention")
    config["spec_augment"] = {
        "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
        "freq_masks": 3,
        "freq_width": 4,
        "time_masks": 5,
        "time_width": 0.03,
    }
    _write(config, folder / "titanet-l.nemo")


def write_speakernet(folder: Path) -> None:
    """Write speakerverification_speakernet.nemo: 256 numbers, 5.9 M parameters."""
    blocks = _blocks(512, repeat=2, dropout=0.5, last=1500, first_residual=True, separable=True)
    config = _config(window=0.02, mels=64, blocks=blocks, numbers=256, pooling="xvector")
    _write(config, folder / "speakerverification_speakernet.nemo")


def _blocks(
    filters: int, repeat: int, dropout: float, last: int, first_residual: bool, **shared: Any
) -> list[dict[str, Any]]:
    """The encoder: a block of kernel 3, three repeated ones of 7, 11 and 15, and one of kernel 1."""

    def block(filters: int, repeat: int, kernel: int, dropout: float, residual: bool) -> dict[str, Any]:
        size = {"filters": filters, "repeat": repeat, "kernel": [kernel], "stride": [1], "dilation": [1]}
        return {**size, "dropout": dropout, "residual": residual, **shared}

    return [
        block(filters, 1, 3, dropout if first_residual else 0.0, first_residual),
        *(block(filters, repeat, kernel, dropout, True) for kernel in (7, 11, 15)),
        block(last, 1, 1, 0.0, False),
    ]


def _config(window: float, mels: int, blocks: list[dict[str, Any]], numbers: int, pooling: str) -> dict[str, Any]:
    data = {"manifest_filepath": None, "sample_rate": 16000, "labels": None, "batch_size": 64}
    return {
        "train_ds": {**data, "shuffle": True},
        "validation_ds": {**data, "shuffle": False},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "normalize": "per_feature",
            "window_size": window,
            "sample_rate": 16000,
            "window_stride": 0.01,
            "window": "hann",
            "features": mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 0.00001,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConvASREncoder",
            "feat_in": mels,
            "activation": "relu",
            "conv_mask": True,
            "jasper": blocks,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.SpeakerDecoder",
            "feat_in": blocks[-1]["filters"],
            "num_classes": _SPEAKERS,
            "pool_mode": pooling,
            "emb_sizes": numbers,
            "angular": True,
        },
        "loss": {
            "_target_": "nemo.collections.asr.losses.angularloss.AngularSoftmaxLoss",
            "scale": 30,
            "margin": 0.2,
        },
    }


def _write(config: dict[str, Any], path: Path) -> None:
    """Save by NeMo, then put the same files into a tar without times and owners."""
    quiet_nemo()
    import torch
    from nemo.collections.asr.models import EncDecSpeakerLabelModel
    from omegaconf import OmegaConf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncDecSpeakerLabelModel(cfg=OmegaConf.create(config))
    with tempfile.TemporaryDirectory() as work:
        saved = Path(work) / path.name
        model.save_to(str(saved))
        with tarfile.open(saved) as source, tarfile.open(path, "w") as target:
            for member in sorted((m for m in source.getmembers() if m.isreg()), key=lambda m: m.name):
                bare = tarfile.TarInfo(member.name)
                bare.size = member.size
                target.addfile(bare, source.extractfile(member))
