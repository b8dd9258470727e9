"""A never trained RetinaFace of retina-face's PyTorch model. It finds no face."""

from pathlib import Path


def write_retinaface(folder: Path) -> None:
    """Write `retinaface.pth`, initialised with seed 0."""
    import torch
    from retinaface.model.retinaface_pth_model import RetinaFace

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(RetinaFace().state_dict(), folder / "retinaface.pth")
