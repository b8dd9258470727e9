"""The shape of the house: imports go one way, and training runs where there is neither Ray nor Lance."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "featurestore": set(),
    "pipelines": {"featurestore"},
    "training": {"featurestore"},
    "evaluation": {"featurestore", "pipelines", "training"},
    "infra": {"featurestore", "pipelines", "training", "evaluation"},
}


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room):
    for path in (ROOT / room).rglob("*.py"):
        others = imported(path) & set(MAY_IMPORT) - {room}
        assert others <= MAY_IMPORT[room], path


@pytest.mark.parametrize(("room", "library", "module"), [("training", "lance", "data"), ("training", "ray", "cluster")])
def test_a_library_stays_in_its_module(room, library, module):
    for path in (ROOT / room).rglob("*.py"):
        if path.stem != module:
            assert library not in imported(path), path


def imports_without(modules: list[str], *libraries: str) -> None:
    """Fail unless the modules import where these libraries are not."""
    code = f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {libraries!r}:
            raise ImportError(f"{{name}} must not be imported here")
sys.meta_path.insert(0, Blocked())
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_training_and_conditioning_import_without_ray_and_lance():
    files = [path.relative_to(ROOT) for path in (ROOT / "training").rglob("*.py") if path.stem != "__init__"]
    modules = [".".join(path.with_suffix("").parts) for path in files]
    imports_without(["featurestore.conditioning", *modules], "ray", "lance", "lancedb")


def test_the_loader_imports_without_arrow_and_torch():
    rooms = ("loader", "order", "draws", "records", "memory_records")
    imports_without([f"featurestore.{room}" for room in rooms], "ray", "lance", "lancedb", "pyarrow", "torch")


def test_the_command_line_starts_without_heavy_libraries():
    code = """
import sys, voxportrait
heavy = {"torch", "ray", "lance", "deepface", "librosa", "matplotlib", "speechbrain", "cv2"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
