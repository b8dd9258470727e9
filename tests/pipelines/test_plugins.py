"""An extractor of another package: the one that docs/extractors.md shows, installed beside voxportrait and run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featurestore.store import Store
from pipelines.decoding import open_media

GUIDE = Path(__file__).parents[2] / "docs" / "extractors.md"


def install(place: Path, module: str, code: str, points: list[tuple[str, str, str]]) -> Path:
    """Put a module into a folder as an installer would leave it; points: (group, name, object)."""
    information = place / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (place / f"{module}.py").write_text(code)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {to}\n" for group, name, to in points))
    return place


@pytest.fixture
def package(tmp_path) -> Path:
    """A folder with the guide's package."""
    blocks = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL))
    points = re.findall(r'\[project.entry-points."(.+?)"\]\n(\w+) = "(.+?)"', blocks["pyproject.toml"])
    return install(tmp_path / "packages", "voxportrait_loudness", blocks["voxportrait_loudness.py"], points)


def run(package: Path, *arguments: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "voxportrait", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)


def test_the_guide_s_package_fills_its_constituent(package, make_mp4, tmp_path):
    paths = [make_mp4(tmp_path / "heads" / f"someone{i}" / "talk.mp4", amplitude=0.1 * (i + 1)) for i in range(2)]
    store = tmp_path / "store"
    done = run(
        package, "extract", "folder", tmp_path / "heads", "--store", store, "--constituents", "loudness", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["filled"] == {"loudness": 2}
    asked = run(
        package, "store", "sql", "select loudness from clips order by speaker_id", "--store", store, "--format", "json"
    )
    stored = [row["loudness"] for row in json.loads(asked.stdout)]
    expected = [10 * np.log10(np.mean(open_media(str(path)).sound() ** 2)) for path in paths]
    np.testing.assert_allclose(stored, expected, rtol=1e-4)
    assert Store.open(str(store)).table("makers").to_table()["library"].to_pylist() == ["voxportrait-loudness 1.0"]


def test_a_package_cannot_take_the_place_of_another_extractor(package):
    points = package / "voxportrait_loudness-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("loudness =", "ecapa ="))
    refused = run(package, "store", "coverage", "--store", "nowhere")
    assert refused.returncode == 1
    assert "package voxportrait-loudness adds 'ecapa'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_broken_package_is_named(package):
    (package / "voxportrait_loudness.py").write_text("import nothing_of_that_name\n")
    refused = run(package, "store", "coverage", "--store", "nowhere")
    assert refused.returncode == 1
    assert "voxportrait-loudness cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


TROUBLE = """
import ctypes, time
from featurestore.catalogue import Constituent
from featurestore.makers import Maker
from pipelines.extractors.base import Extractor

TROUBLE = Constituent("trouble", "number", "one, where nothing happens")


class Trouble(Extractor):
    name, makes, needs = "trouble", ("trouble",), "sound"

    def __init__(self, recipe):
        pass

    def makers(self):
        return {"trouble": Maker("trouble", "trouble", "trouble 1.0")}

    def extract(self, sample):
        if sample.clip.speaker_id == "crashes":
            ctypes.string_at(0)
        if sample.clip.speaker_id == "hangs":
            time.sleep(1000)
        return {"trouble": 1.0, "trouble_probability": None}
"""


def test_a_clip_that_crashes_or_hangs_its_worker_is_quarantined_alone(make_mp4, tmp_path):
    groups = {"voxportrait.constituents": "trouble:TROUBLE", "voxportrait.extractors": "trouble:Trouble"}
    points = [(group, "trouble", named) for group, named in groups.items()]
    package = install(tmp_path / "packages", "trouble", TROUBLE, points)
    for speaker in ("calm", "crashes", "hangs", "quiet"):
        make_mp4(tmp_path / "heads" / speaker / "talk.mp4")
    store = tmp_path / "store"
    wanted = ("--store", store, "--constituents", "trouble,speech", "--deadline", 3, "--json")
    done = run(package, "extract", "folder", tmp_path / "heads", *wanted)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["filled"] == {"speech": 2, "trouble": 2}
    rows = Store.open(str(store)).table("quarantine").to_table().to_pylist()
    reasons = {row["clip_id"].split("/")[1]: row["reason"] for row in rows}
    assert reasons == {"crashes": "crash", "hangs": "deadline"}
    assert all(len(row["message"]) > 10 for row in rows)
