"""Extractors of other packages, in one job: the one that docs/extractors.md shows, and one that makes trouble."""

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


def install_guide(place: Path) -> Path:
    """A folder with the guide's package."""
    blocks = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL))
    points = re.findall(r'\[project.entry-points."(.+?)"\]\n(\w+) = "(.+?)"', blocks["pyproject.toml"])
    return install(place, "voxportrait_loudness", blocks["voxportrait_loudness.py"], points)


@pytest.fixture
def package(tmp_path) -> Path:
    return install_guide(tmp_path / "packages")


def run(package: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(package)} | variables
    command = [sys.executable, "-m", "voxportrait", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


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
import ctypes, os, time
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
        if sample.clip.speaker_id == "starves" and not os.path.exists(os.environ["STARVED"]):
            open(os.environ["STARVED"], "w").close()
            raise MemoryError("no room, for once")
        return {"trouble": 1.0, "trouble_probability": None}
"""


@pytest.fixture(scope="module")
def job(make_mp4, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Store, Path]:
    """One job over five speakers with both packages, and with two models that are nowhere."""
    place = tmp_path_factory.mktemp("job")
    package = install_guide(place / "packages")
    groups = {"voxportrait.constituents": "trouble:TROUBLE", "voxportrait.extractors": "trouble:Trouble"}
    install(package, "trouble", TROUBLE, [(group, "trouble", named) for group, named in groups.items()])
    for i, speaker in enumerate(SPEAKERS):
        make_mp4(place / "heads" / speaker / "talk.mp4", amplitude=0.1 * (i + 1))
    wanted = ("--store", place / "store", "--constituents", "loudness,trouble,speech,speakernet,titanet")
    models = {"VOXPORTRAIT_MODELS": str(place / "models"), "STARVED": str(place / "starved")}
    done = run(package, "extract", "folder", place / "heads", *wanted, "--deadline", 6, "--json", **models)
    assert done.returncode == 0, done.stderr
    return done, Store.open(str(place / "store")), place / "heads"


SPEAKERS = ("calm", "crashes", "hangs", "quiet", "starves")


def test_the_guide_s_package_fills_its_constituent(job):
    _, store, _ = job
    rows = store.sql("select path, loudness from clips where loudness is not null")
    expected = [10 * np.log10(np.mean(open_media(path).sound() ** 2)) for path in rows.path]
    np.testing.assert_allclose(rows.loudness, expected, rtol=1e-4)
    assert {Path(path).parent.name for path in rows.path} == set(SPEAKERS)
    libraries = store.table("makers").to_table(filter="constituent = 'loudness'")["library"].to_pylist()
    assert libraries == ["voxportrait-loudness 1.0"]


def test_a_clip_that_crashes_or_hangs_its_worker_is_quarantined_alone(job):
    done, store, _ = job
    rows = store.table("quarantine").to_table().to_pylist()
    reasons = {row["clip_id"].split("/")[1]: row["reason"] for row in rows}
    assert reasons == {"crashes": "crash", "hangs": "deadline"}
    assert {row["constituent"] for row in rows} == {"trouble"}
    assert all(len(row["message"]) > 10 for row in rows)
    assert json.loads(done.stdout.splitlines()[-1])["quarantined"] == {"crash": 1, "deadline": 1}


def test_a_worker_without_memory_is_replaced_and_the_clip_made(job):
    done, _, heads = job
    assert (heads.parent / "starved").exists()
    assert json.loads(done.stdout.splitlines()[-1])["filled"] == {"loudness": 5, "trouble": 3, "speech": 5}


def test_the_job_says_in_one_line_each_what_it_leaves_out(job):
    done, _, _ = job
    assert set(json.loads(done.stdout.splitlines()[-1])["left_out"]) == {"speakernet", "titanet"}
    for model in ("speakernet", "titanet"):
        (line,) = (line for line in done.stderr.splitlines() if line.startswith(f"left out: {model}."))
        assert f"voxportrait models fetch {model}" in line
