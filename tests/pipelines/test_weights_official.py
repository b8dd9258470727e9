"""Files from official addresses: whole, checked, continued after a break, and errors that say what to do."""

import bz2
import errno
import fcntl
import hashlib
import os
import random

import pytest

from featurestore.errors import VoxportraitError
from pipelines import weights
from pipelines.weights import official, states
from tests.pipelines.hub import running

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub():
    with running() as server:
        server.files["/a.pth"] = CONTENT
        yield server


@pytest.fixture
def toy(hub, tmp_path, monkeypatch):
    """A model of two files at the hub, neither pinned; gives what replaces its entry in the table."""
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.files["/b.yaml"] = b"settings: 1\n"

    def enter(name: str = "toy", files=("a.pth", "b.yaml"), sha256: str = "", **also) -> None:
        listed = tuple(weights.ModelFile(file, f"{hub.url}/{file}", sha256) for file in files)
        model = weights.Model(name, "a toy", "CC0-1.0", f"{hub.url}/page", (), listed, **also)
        monkeypatch.setitem(weights.MODELS, name, model)

    enter()
    return enter


def test_a_download_that_breaks_goes_on_where_it_was(hub, tmp_path):
    hub.breaks["/a.pth"] = 20 * official.BLOCK
    seen = []
    found = official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", progress=lambda *now: seen.append(now))
    assert found == SHA256
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [span for _, span, _ in hub.asked] == ["", "bytes=1310720-", "bytes=2621440-"]
    assert seen[-1] == (3_000_000, 3_000_000)
    assert seen == sorted(seen)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_what_came_is_kept_for_the_next_time(hub, tmp_path):
    def stop(done, total):
        if done >= 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", progress=stop)
    kept = (tmp_path / "a.pth.part").stat().st_size
    assert kept >= 1_000_000
    assert not (tmp_path / "a.pth").exists()
    assert official.download(f"{hub.url}/a.pth", tmp_path / "a.pth") == SHA256
    assert hub.asked[1][1] == f"bytes={kept}-"


def test_a_file_that_changed_meanwhile_is_brought_anew(hub, tmp_path):
    (tmp_path / "a.pth.part").write_bytes(b"an older file")
    (tmp_path / "a.pth.part.etag").write_text('"of the older file"')
    assert official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", SHA256) == SHA256


def test_a_part_that_is_already_whole_is_brought_anew(hub, tmp_path):
    (tmp_path / "a.pth.part").write_bytes(CONTENT)
    (tmp_path / "a.pth.part.etag").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", SHA256) == SHA256
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_another_sha256_is_refused_and_nothing_left(hub, tmp_path):
    with pytest.raises(VoxportraitError, match="another sha256 than expected"):
        official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_bz2_address_is_unpacked_and_checked_as_unpacked(hub, tmp_path):
    hub.files["/a.dat.bz2"] = bz2.compress(CONTENT)
    assert official.download(f"{hub.url}/a.dat.bz2", tmp_path / "a.dat", SHA256) == SHA256
    assert (tmp_path / "a.dat").read_bytes() == CONTENT
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("packed", [b"no bz2 at all", bz2.compress(CONTENT)[:1_000_000], b"BZh9" + bytes(5_000)])
def test_a_broken_bz2_is_said_so(hub, tmp_path, packed):
    hub.files["/a.dat.bz2"] = packed
    with pytest.raises(VoxportraitError, match=r"a\.dat\.bz2 gives no whole bz2 file"):
        official.download(f"{hub.url}/a.dat.bz2", tmp_path / "a.dat")
    assert not list(tmp_path.glob("*.unpacked"))
    hub.files["/a.dat.bz2"] = bz2.compress(CONTENT)
    assert official.download(f"{hub.url}/a.dat.bz2", tmp_path / "a.dat") == SHA256


def test_a_web_page_instead_of_a_file_is_refused(hub, tmp_path):
    hub.pages["/a.pth"] = "<html>Please sign in</html>"
    with pytest.raises(VoxportraitError, match="a web page and not a file"):
        official.download(f"{hub.url}/a.pth", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_the_token_goes_to_its_host_and_to_no_other(hub, tmp_path):
    with running() as store:
        store.files["/blob"] = CONTENT
        hub.moved["/a.pth"] = f"{store.url.replace('127.0.0.1', 'localhost')}/blob"
        assert official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", SHA256, "secret") == SHA256
        assert [bearer for *_, bearer in store.asked] == [""]
    assert [bearer for *_, bearer in hub.asked] == ["Bearer secret"]


def test_a_full_disk_is_said_so_and_what_came_is_kept(hub, tmp_path):
    def fill(done, total):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(VoxportraitError, match=r"a\.pth cannot be written: the disk is full"):
        official.download(f"{hub.url}/a.pth", tmp_path / "a.pth", progress=fill)
    assert (tmp_path / "a.pth.part").stat().st_size > 0


def test_two_processes_do_not_write_one_file(hub, tmp_path):
    with (tmp_path / "a.pth.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(VoxportraitError, match="being downloaded by another process"):
            official.download(f"{hub.url}/a.pth", tmp_path / "a.pth")


@pytest.mark.parametrize("token", ["", "of somebody who did not accept"])
def test_a_gated_model_says_which_token_and_which_page(hub, toy, monkeypatch, token):
    hub.token = "secret"
    monkeypatch.setenv("HF_TOKEN", token)
    toy(token="HF_TOKEN", acceptance="https://hub/toy")
    with pytest.raises(VoxportraitError) as caught:
        weights.fetch(["toy"])
    for needed in ("HF_TOKEN", "https://hub/toy", "a.pth", str(weights.folder("toy")), "403" if token else "not set"):
        assert needed in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert weights.fetch(["toy"]) == ["toy"]


def test_one_model_that_fails_does_not_stop_the_others(hub, toy):
    toy("gone", files=("gone.pth",))
    with pytest.raises(VoxportraitError, match=r"model gone: .*gone.pth is not there \(404\)") as caught:
        weights.fetch(["gone", "toy"])
    assert f"put gone.pth from {hub.url}/page into {weights.folder('gone')} by hand" in str(caught.value)
    assert {row["state"] for row in weights.verify(["toy"])} == {"good"}


def test_without_a_network_the_error_names_the_host_and_the_file(toy, hub, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(VoxportraitError, match=r"cannot be reached .* by hand"):
        weights.fetch(["toy"])
    assert hub.asked == []


def test_what_a_package_does_not_carry_is_never_reached_for(toy, hub):
    line = weights.missing("toy") or ""
    for needed in ("a.pth, b.yaml", "voxportrait models fetch toy", f"{hub.url}/page", str(weights.folder("toy"))):
        assert needed in line
    with pytest.raises(VoxportraitError):
        weights.ensure("toy")
    with pytest.raises(VoxportraitError, match="models fetch toy"):
        weights.digest("toy")
    assert hub.asked == []


def test_the_first_fetch_records_and_verify_holds_files_to_it(toy):
    assert weights.fetch(["toy"]) == ["toy"]
    assert weights.missing("toy") is None
    place = weights.ensure("toy")
    assert f"{SHA256}  a.pth" in (place / "SHA256SUMS").read_text().splitlines()
    assert _states("toy") == {"a.pth": "good", "b.yaml": "good"}
    identity = weights.digest("toy")
    (place / "a.pth").write_bytes(b"x" * len(CONTENT))
    assert _states("toy") == {"a.pth": "damaged", "b.yaml": "good"}
    assert weights.digest("toy") != identity
    with pytest.raises(VoxportraitError, match=r"a\.pth.*models fetch toy"):
        weights.ensure("toy")
    assert weights.fetch(["toy"]) == ["toy"]
    assert weights.digest("toy") == identity


def test_a_file_is_recorded_before_it_has_its_name(toy):
    """So that no kill in between leaves a file that nobody holds to anything."""

    def killed(source, target):
        if str(target).endswith("a.pth"):
            raise KeyboardInterrupt
        replace(source, target)

    replace = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            weights.fetch(["toy"])
    place = weights.folder("toy")
    assert not (place / "a.pth").exists()
    assert (place / "SHA256SUMS").read_text() == f"{SHA256}  a.pth\n"
    assert weights.fetch(["toy"]) == ["toy"]
    assert _states("toy") == {"a.pth": "good", "b.yaml": "good"}


def test_a_folder_that_cannot_be_used_is_one_line(toy, monkeypatch):
    weights.fetch(["toy"])
    place = weights.folder("toy")
    (place / "SHA256SUMS").write_bytes(b"\xff\xfe  a.pth\n")
    line = weights.missing("toy") or ""
    assert line.startswith(f"model toy: {place} cannot be used ('utf-8' codec")
    assert "\n" not in line
    (place / "SHA256SUMS").unlink()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pipelines.weights.places.Path.is_file", refuse)
    assert "Permission denied" in (weights.missing("toy") or "")


def test_a_models_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / "file"))
    assert "cannot be used" in (weights.missing("ecapa") or "")


def test_files_put_by_hand_are_good_only_if_somebody_pinned_them(toy):
    place = weights.folder("toy")
    place.mkdir(parents=True)
    (place / "a.pth").write_bytes(CONTENT)
    assert _states("toy") == {"a.pth": "unpinned", "b.yaml": "missing"}
    toy(files=("a.pth",), sha256=SHA256)
    assert _states("toy") == {"a.pth": "good"}
    assert weights.ensure("toy") == place


def test_big_files_are_read_once(toy, monkeypatch):
    weights.fetch(["toy"])
    identity = weights.digest("toy")
    monkeypatch.setattr(states.sums, "_seen", {})
    monkeypatch.setattr(states.sums, "sha256_now", lambda path: pytest.fail(f"{path} was read again"))
    assert weights.digest("toy") == identity


def _states(name: str) -> dict[str, str]:
    return {row["file"]: row["state"] for row in weights.verify([name])}
