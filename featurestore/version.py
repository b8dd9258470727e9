"""Which code this is."""

import subprocess
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def code_version() -> str:
    """The installed version, that of a tree which is not installed, with the commit where it is a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        release = version("voxportrait")
    except PackageNotFoundError:
        release = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if not (root / ".git").exists():
        return release
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+{found.stdout.strip()}"
