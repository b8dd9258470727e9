"""Which device is worked on."""

import torch

from featurestore.errors import UsageError


def device_named(name: str | torch.device | None = None) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; the first GPU where nobody says and there is one, else the CPU.

    Raises UsageError for another one, or a GPU that is not there.
    """
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
    except RuntimeError:
        raise UsageError(f"unknown device {str(name)!r}: take cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {str(name)!r}: take cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UsageError(f"there is no {device}: torch sees {gpus} GPUs here; take another device")
    return device
