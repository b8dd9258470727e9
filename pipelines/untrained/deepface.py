"""Never trained models of DeepFace's PyTorch engine: built by DeepFace itself, which saves where it would load."""

import importlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipelines.deepface_home import client_class
from pipelines.extractors.deepface import ATTRIBUTE_MODELS, RECOGNITION_MODELS

KINDS = (("facial_attribute", ATTRIBUTE_MODELS), ("facial_recognition", RECOGNITION_MODELS))


def write(folder: Path, name: str) -> None:
    """Build model `name` with seed 0 and save its parameters in `folder`, under the name DeepFace gives the file.

    Weights are normal with variance 1 / fan-in (LeCun et al. 1998): what comes out depends on the face, in float16 too.
    """
    import torch

    task, models = next(kind for kind in KINDS if name in kind[1])
    client = client_class(task, models[name])

    def save(model: torch.nn.Module, weight_file: str) -> torch.nn.Module:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear")
        torch.save(model.state_dict(), weight_file)
        return model

    def path_of(file_name: str, **source: Any) -> str:
        return str(folder / file_name)

    module = importlib.import_module(client.__module__)
    with (
        patch.object(module.weight_utils, "download_weights_if_necessary", path_of),
        patch.object(module, "load_model_weights", save),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        client()
