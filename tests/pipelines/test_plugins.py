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


@pytest.fixture
def package(tmp_path) -> Path:
    """A folder with the guide's package as an installer would leave it."""
    blocks = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL))
    place = tmp_path / "packages"
    information = place / "voxportrait_loudness-1.0.dist-info"
    information.mkdir(parents=True)
    (place / "voxportrait_loudness.py").write_text(blocks["voxportrait_loudness.py"])
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: voxportrait-loudness\nVersion: 1.0\n")
    points = re.findall(r'\[project.entry-points."(.+?)"\]\n(\w+) = "(.+?)"', blocks["pyproject.toml"])
    (information / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {to}\n" for group, name, to in points))
    return place


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
