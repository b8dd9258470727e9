"""Checkpoints: a folder of safetensors and one JSON that says what they are. Nothing is pickled.

<run>/checkpoints/step-00000400/{model,average,optimizer}.safetensors, checkpoint.json
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from featurestore.conditioning import Layout
from featurestore.errors import UsageError, VoxportraitError

FORMAT = 2
KEPT = 2
"""How many of the newest checkpoints of a run are kept."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. about: system, stage, preset and its settings, layout, step, code, data, ..."""

    folder: Path
    about: dict[str, Any]

    @property
    def layout(self) -> Layout:
        return Layout.from_json(self.about["layout"])

    def tensors(self, which: str, device: torch.device) -> dict[str, Tensor]:
        """The tensors of `model`, `average` (the moving average, used for sampling) or `optimizer`.

        Raises VoxportraitError where the file is gone or damaged.
        """
        try:
            return load_file(self.folder / f"{which}.safetensors", device=str(device))
        except (OSError, SafetensorError) as error:
            raise _unreadable(self.folder, f"{which}.safetensors: {error}") from None


def read_checkpoint(folder: Path, layout: Layout | None = None) -> Checkpoint:
    """The checkpoint in a folder; a VoxportraitError if it is broken or, with `layout` given, was made with another."""
    try:
        about = json.loads((folder / "checkpoint.json").read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    if about.get("format") != FORMAT:
        raise VoxportraitError(f"{folder} has checkpoint format {about.get('format')}, this program reads {FORMAT}")
    checkpoint = Checkpoint(folder, about)
    if layout is not None:
        layout.require(checkpoint.layout, f"checkpoint {folder}")
    return checkpoint


def latest_checkpoint(run: Path) -> Path | None:
    """The folder of a run's newest whole checkpoint; None if it has none."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    return folders[-1] if folders else None


def open_run(run: str | os.PathLike[str], layout: Layout | None = None) -> Checkpoint:
    """The newest checkpoint of a run directory; a UsageError if there is none."""
    folder = latest_checkpoint(Path(run))
    if folder is None:
        raise UsageError(f"{run} holds no checkpoint: train it first")
    return read_checkpoint(folder, layout)


def write_checkpoint(
    run: Path, step: int, about: Mapping[str, Any], network: nn.Module, average: nn.Module, optimizer: torch.optim.Adam
) -> Path:
    """Write a checkpoint whole or not at all, drop all but the newest `KEPT`, and return its folder.

    It is on the disk before it has its name, and what a write that was killed left behind is removed. Raises
    VoxportraitError where it cannot be written, as on a full disk: those before it stay.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    for left_behind in folder.parent.glob(".step-*"):
        shutil.rmtree(left_behind)
    unfinished = folder.with_name(f".{folder.name}")
    parts = {"model": network.state_dict(), "average": average.state_dict(), "optimizer": _moments(network, optimizer)}
    try:
        unfinished.mkdir(parents=True)
        for part, tensors in parts.items():
            contiguous = {name: values.contiguous() for name, values in tensors.items()}
            save_file(contiguous, unfinished / f"{part}.safetensors")
        (unfinished / "checkpoint.json").write_text(json.dumps({"format": FORMAT, **about, "step": step}, indent=1))
        for path in (*unfinished.iterdir(), unfinished):
            _to_disk(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise VoxportraitError(
            f"{folder} cannot be written: {error}; make room: the same command goes on from the one before"
        ) from None
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    _to_disk(folder.parent)
    for old in sorted(folder.parent.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return folder


def restore(checkpoint: Checkpoint, network: nn.Module, average: nn.Module, optimizer: torch.optim.Adam) -> None:
    """Load weights, their moving average and the optimiser's moments: training goes on as if it had not stopped."""
    device = next(network.parameters()).device
    network.load_state_dict(checkpoint.tensors("model", device))
    average.load_state_dict(checkpoint.tensors("average", device))
    moments = checkpoint.tensors("optimizer", device)
    names = {parameter: name for name, parameter in network.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            "step": moments[f"step/{names[parameter]}"],
            "exp_avg": torch.empty_like(parameter).copy_(moments[f"exp_avg/{names[parameter]}"]),
            "exp_avg_sq": torch.empty_like(parameter).copy_(moments[f"exp_avg_sq/{names[parameter]}"]),
        }
        for number, parameter in enumerate(parameters)
        if f"step/{names[parameter]}" in moments
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments(network: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": values
        for name, parameter in network.named_parameters()
        for part, values in optimizer.state[parameter].items()
    }


def _unreadable(folder: Path, why: object) -> VoxportraitError:
    return VoxportraitError(
        f"{folder} is not a readable checkpoint: {why}; without that folder the run goes on from the one before"
    )


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
