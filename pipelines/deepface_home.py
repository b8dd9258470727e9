"""A home for DeepFace and retina-face: they run on PyTorch, and read weights from our folders and from nowhere else."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.errors import VoxportraitError
from pipelines import weights
from pipelines.environment import environment
from pipelines.faults import fault_of

ENGINE = {"DEEPFACE_BACKEND_ENGINE": "pytorch"}


@contextmanager
def deepface_home(model: str) -> Iterator[None]:
    """Within it, the libraries find the files of `model` (a name in `weights.MODELS`) where they look for their own.

    `DEEPFACE_HOME` is a folder of links, of this process alone. Both libraries read weights with
    `torch.load(weights_only=True)`. Raises VoxportraitError if the weights are not there or are not the model's:
    that reader raises errors of many kinds for damaged bytes. Faults of the machine are raised as they are.
    """
    folder = weights.ensure(model).resolve()
    with tempfile.TemporaryDirectory(prefix="deepface-") as home:
        place = Path(home, ".deepface", "weights")
        place.mkdir(parents=True)
        for file in weights.MODELS[model].files:
            (place / file.name).symlink_to(folder / file.name)
        try:
            with environment(**ENGINE, DEEPFACE_HOME=home):
                yield
        except Exception as error:
            if isinstance(error, VoxportraitError) or fault_of(error):
                raise
            raise VoxportraitError(
                f"model {model}: the weights in {folder} cannot be loaded ({type(error.__cause__ or error).__name__}). "
                f"Replace them by: voxportrait models fetch {model}"
            ) from error


def client_class(task: str, model_name: str) -> type:
    """DeepFace's class of a model, as `modeling.build_model` takes it, without its cache of instances.

    task: `facial_attribute` or `facial_recognition`; model_name: DeepFace's.
    """
    with environment(**ENGINE):
        from deepface.modules import modeling

        return modeling.get_model_class(task, model_name)
