"""A network exported with torch.export, as a weights file: read only where its sha256 is known.

Such a file is code: `torch.export.load` makes Python of the names and shapes in it, and unpickles what it says is
pickled. So it is not inspected but pinned, by a line `<sha256>  <file>` in the SHA256SUMS beside it, as `sha256sum`
writes it: by whoever exported it, or by a person who trusts it.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from featurestore.errors import VoxportraitError

SUMS = "SHA256SUMS"


def write_program(path: Path, program: Any) -> None:
    """Write a torch.export.ExportedProgram whole or not at all, and pin it. Its example inputs are left out."""
    import torch

    program._example_inputs = None
    content = io.BytesIO()
    torch.export.save(program, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    sums = f"{hashlib.sha256(content.getvalue()).hexdigest()}  {path.name}\n"
    for to, data in ((path, content.getvalue()), (path.with_name(SUMS), sums.encode())):
        beside = to.with_name(f".{to.name}.{os.getpid()}")
        beside.write_bytes(data)
        beside.replace(to)


def read_program(path: Path, device: str = "cpu", pins: Collection[str] = ()) -> Any:
    """The network in a file, as a torch module on a device.

    pins: sha256 that are trusted beside those in SHA256SUMS. Raises VoxportraitError where it is missing, not pinned,
    changed or damaged: nothing of it is looked at before its sha256 is known.
    """
    import torch
    from torch.export.passes import move_to_device_pass

    try:
        content = path.read_bytes()
    except OSError as error:
        raise VoxportraitError(f"{path} cannot be read: {error.strerror}") from error
    known, found = {*pins, *_pinned(path)}, hashlib.sha256(content).hexdigest()
    if found not in known:
        raise VoxportraitError(
            f"{path} has the sha256 {found[:12]}..., and {SUMS} beside it says "
            f"{', '.join(f'{one[:12]}...' for one in sorted(known)) or 'nothing'}: an exported program is code, and is "
            "not loaded unknown. Bring it again with its sums, or write them by sha256sum if you trust it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of buffers that nobody writes to
            program = torch.export.load(io.BytesIO(content))
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise VoxportraitError(f"{path} is no program of torch.export that this torch reads: {reason}") from error
    return move_to_device_pass(program, device).module()


def _pinned(path: Path) -> list[str]:
    sums = path.with_name(SUMS)
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return [sha256 for sha256, _, name in (line.partition("  ") for line in lines) if name.lstrip("*") == path.name]
