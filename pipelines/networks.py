"""Networks of other people: their checkpoints are read without running anything, and they run in full precision."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from featurestore.errors import VoxportraitError
from pipelines.environment import environment
from pipelines.faults import fault_of

_FORCED = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}

Named = Callable | tuple[Callable, str]
"""A class, or a class and the name under which a checkpoint holds it."""


@contextmanager
def weights_only(model: str, *classes: Named) -> Iterator[None]:
    """Within it `torch.load` makes tensors, plain data and `classes` alone, whatever a library asks of it.

    Raises VoxportraitError for a checkpoint of `model` that holds anything else or is damaged: that reader raises
    errors of many kinds. Faults of the machine are raised as they are.
    """
    import torch

    try:
        with environment(**_FORCED), torch.serialization.safe_globals(list(classes)):
            yield
    except Exception as error:
        if isinstance(error, VoxportraitError) or fault_of(error):
            raise
        if isinstance(error, pickle.UnpicklingError):
            raise refused(model, "a checkpoint holds more than weights: it is damaged, or would run code") from error
        raise refused(model, f"its files cannot be loaded ({type(error).__name__}: {error})") from error


def refused(model: str, reason: str) -> VoxportraitError:
    """The error for a model's file that is not read."""
    return VoxportraitError(
        f"model {model}: {reason}. Nothing of it was run; put the official file there (voxportrait models list)."
    )


@contextmanager
def inference() -> Iterator[None]:
    """No gradients; on a GPU convolutions in full float32 (no TF32) and by the same algorithm each time."""
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
