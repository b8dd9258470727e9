"""Which code this is."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """The installed version, with the commit where the code runs from a checkout."""
    release = version("voxportrait")
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return release
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+{found.stdout.strip()}"
