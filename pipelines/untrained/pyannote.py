"""pyannote/embedding's architecture, never trained, as pyannote.audio saves a model."""

import os
import warnings
from pathlib import Path


def write_pyannote(folder: Path) -> None:
    """Write pytorch_model.bin: an x-vector network on SincNet features, 512 numbers."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning
        import torch
        from pyannote.audio.core.task import Problem, Resolution, Specifications
        from pyannote.audio.models.embedding import XVectorSincNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = XVectorSincNet(sample_rate=16000, num_channels=1, sincnet={"stride": 10}, dimension=512)
    model.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=[]
    )
    checkpoint = {
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "state_dict": model.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "pytorch_model.bin")
