"""Media as strangers have them: each gives its values, or one Reject whose reason a person understands."""

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from featurestore.clip import Clip
from pipelines import pictures
from pipelines.decoding import open_media
from pipelines.faces import FaceFinder
from pipelines.files import read_file
from pipelines.recipe import Recipe
from pipelines.reject import Reject
from pipelines.sample import Sample
from tests.pipelines.media import ODD, without_picture, without_sound

RATE = 16_000


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    made = FaceFinder(Recipe())
    made.load("cpu")
    return made


def sample_of(finder: FaceFinder, path: Path, sound: str = "") -> Sample:
    return Sample(Clip("folder/a/b/c", str(path), "train", sound), finder.find)


def rejects(sample: Sample) -> list[Reject]:
    """What the sample cannot give, in the order in which the job asks."""
    found: list[Reject] = []
    for part in ("media", "sound", "face"):
        if not any(reject.what == "media" for reject in found):
            try:
                getattr(sample, part)
            except Reject as reject:
                found.append(reject)
            except OSError as error:  # the worker tries it again, and then says this
                found.append(Reject(part, "read error", f"the file could not be read: {error}"))
    return found


def reject_of(action: Callable) -> tuple[str, str]:
    with pytest.raises(Reject) as caught:
        action()
    return caught.value.what, caught.value.reason


@pytest.mark.parametrize("name", ODD)
def test_odd_media_give_values_or_one_reason(name, talking_head, finder, tmp_path):
    odd = ODD[name]
    odd.make(Path(talking_head.path), tmp_path / name)
    found = rejects(sample_of(finder, tmp_path / name))
    assert [(reject.what, reject.reason) for reject in found] == ([(odd.what, odd.reason)] if odd.what else [])
    assert all(20 < len(reject.message) < 200 and "Error(" not in reject.message for reject in found)


@pytest.mark.parametrize("name", ["turned.mp4", "stereo.mp4", "uneven.mp4"])
def test_the_same_recording_otherwise_is_the_same_sound_and_picture(name, talking_head, tmp_path):
    ODD[name].make(Path(talking_head.path), tmp_path / name)
    plain, other = open_media(talking_head.path), open_media(str(tmp_path / name))
    assert plain.frame_count == other.frame_count
    for index in (0, 10, 77):
        assert np.abs(plain.frame(index).astype(int) - other.frame(index)).mean() < 3
    assert np.corrcoef(plain.sound()[:80_000], other.sound()[:80_000])[0, 1] > 0.95


def test_the_largest_of_two_faces_is_taken(talking_head, finder, tmp_path):
    ODD["two faces.mp4"].make(Path(talking_head.path), tmp_path / "two.mp4")
    face = sample_of(finder, tmp_path / "two.mp4").face
    assert face.box.centre[0] < face.frame.shape[1] / 2


def test_a_regular_file_exchanged_for_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    regular, pipe = tmp_path / "a.mp4", tmp_path / "pipe"
    regular.write_bytes(b"x")
    os.mkfifo(pipe)
    looked_at = regular.stat()
    monkeypatch.setattr("pipelines.files.os.stat", lambda path: looked_at)
    ended: list[tuple[str, str]] = []
    opening = threading.Thread(target=lambda: ended.append(reject_of(lambda: open_media(str(pipe)))), daemon=True)
    opening.start()
    opening.join(30)
    assert ended == [("media", "unreadable")]


def test_a_file_that_gives_more_than_it_states_is_not_read_on(tmp_path):
    assert reject_of(lambda: open_media("/proc/self/maps")) == ("media", "unreadable")
    assert reject_of(lambda: open_media("nul\0byte.mp4")) == ("media", "unreadable")


# sound and picture of their own files


@pytest.fixture(scope="module")
def parts(talking_head, tmp_path_factory) -> tuple[Path, Path]:
    """The talking head's picture and its sound, apart."""
    folder = tmp_path_factory.mktemp("parts")
    without_sound(Path(talking_head.path), folder / "picture.mp4")
    without_picture(Path(talking_head.path), folder / "sound.m4a")
    return folder / "picture.mp4", folder / "sound.m4a"


def test_two_files_are_one_clip(parts, talking_head):
    picture, sound = parts
    whole, both = open_media(talking_head.path), open_media(str(picture), str(sound))
    np.testing.assert_array_equal(both.sound(), whole.sound())
    np.testing.assert_array_equal(both.frame(10), whole.frame(10))
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {role}\n"
        for path, role in ((picture, "picture"), (sound, "sound"))
    )
    assert both.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert both.duration == pytest.approx(whole.duration, abs=0.1)


def test_the_named_sound_counts_and_not_the_film_s(talking_head, make_mp4, tmp_path):
    tone = make_mp4(tmp_path / "tone.m4a", picture=False)
    both = open_media(talking_head.path, str(tone))
    np.testing.assert_array_equal(both.sound(), open_media(str(tone)).sound())
    assert open_media(talking_head.path, talking_head.path).sha256 == open_media(talking_head.path).sha256


def test_a_sample_hears_the_clip_s_sound_file(parts, talking_head, finder):
    picture, sound = parts
    np.testing.assert_array_equal(sample_of(finder, picture, str(sound)).sound, open_media(talking_head.path).sound())


def test_a_missing_sound_file_is_named(parts):
    with pytest.raises(Reject, match=r"gone\.wav: there is no such file"):
        open_media(str(parts[0]), "gone.wav").sound()


def test_a_damaged_picture_does_not_cost_the_sound(parts, talking_head, finder, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(500))
    soundfile.write(tmp_path / "a.wav", TONE, 48_000)
    sample = sample_of(finder, tmp_path / "a.jpg", str(tmp_path / "a.wav"))
    assert [(reject.what, reject.reason) for reject in rejects(sample)] == [("face", "not media")]
    np.testing.assert_array_equal(sample.sound, open_media(str(tmp_path / "a.wav")).sound())
    assert (sample.media.duration, sample.media.fps, sample.media.width) == (2, None, None)


def test_a_damaged_sound_does_not_cost_the_picture(parts, finder, tmp_path):
    (tmp_path / "a.m4a").write_bytes(b"not a sound" * 500)
    sample = sample_of(finder, parts[0], str(tmp_path / "a.m4a"))
    assert [(reject.what, reject.reason) for reject in rejects(sample)] == [("sound", "not media")]
    assert sample.face.box.probability > 0.9
    assert (sample.media.fps, len(sample.media.sha256)) == (25, 64)


def test_two_damaged_files_are_no_clip(finder, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a film" * 500)
    sample = sample_of(finder, tmp_path / "a.mp4", str(tmp_path / "gone.m4a"))
    assert [(reject.what, reject.reason) for reject in rejects(sample)] == [("media", "not media")]
    with pytest.raises(Reject, match=r"gone\.m4a: there is no such file"):
        _ = sample.media


TONE = (10_000 * np.sin(2 * np.pi * 440 * np.arange(96_000) / 48_000)).astype(np.int16)
CODECS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "mp3",
    "m4a": "aac",
    "opus": "libopus",
    "aac": "aac",
    "webm": "libopus",
    "mkv": "flac",
}


@pytest.mark.parametrize("suffix", CODECS)
def test_sound_of_every_usual_kind(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w", format={"m4a": "mp4", "aac": "adts", "mkv": "matroska"}.get(suffix)) as out:
        track: Any = out.add_stream(CODECS[suffix], rate=48_000, layout="mono")
        samples = av.AudioFrame.from_ndarray(TONE[None], format="s16", layout="mono")
        samples.sample_rate, samples.time_base, samples.pts = 48_000, Fraction(1, 48_000), 0
        resampled = av.AudioResampler(format=track.codec_context.format, rate=48_000).resample(samples)
        for frame in resampled:
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    assert_two_seconds_of_the_tone(path)


def test_vorbis_is_sound(tmp_path):
    soundfile.write(tmp_path / "a.ogg", TONE, 48_000)
    assert_two_seconds_of_the_tone(tmp_path / "a.ogg")


def assert_two_seconds_of_the_tone(path: Path) -> None:
    media = open_media(str(path))
    assert media.duration == pytest.approx(2, abs=0.15)
    assert np.argmax(np.abs(np.fft.rfft(media.sound()[:RATE]))) == 440


# pictures


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([4 * x, 6 * y, 128 + 0 * x], axis=2).astype(np.uint8))


def frame_of(path: Path) -> np.ndarray:
    return open_media(str(path)).frame(0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_a_picture_is_a_film_of_one_frame(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    gradient().save(path, quality=95)
    media = open_media(str(path.rename(tmp_path / "a.mp4")))
    assert (media.frame_count, media.width, media.height, media.fps, media.duration) == (1, 60, 40, None, 0)
    assert np.abs(media.frame(0).astype(int) - np.asarray(gradient())).mean() < 4
    assert media.sha256 == hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest()
    assert reject_of(media.sound) == ("sound", "no sound")


def test_a_picture_and_a_sound_are_a_clip(talking_head, parts, finder, tmp_path):
    Image.fromarray(open_media(talking_head.path).frame(10)).save(tmp_path / "a.png")
    sample = sample_of(finder, tmp_path / "a.png", str(parts[1]))
    assert rejects(sample) == []
    np.testing.assert_array_equal(sample.sound, open_media(talking_head.path).sound())


def test_pictures_are_upright_and_of_8_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient().save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(frame_of(tmp_path / "phone.png"), np.rot90(np.asarray(gradient()), -1))
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1_000
    Image.fromarray(grey).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(frame_of(tmp_path / "deep.png")[:, :, 1], grey >> 8)
    gradient().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    gradient().quantize(16).save(tmp_path / "few colours.png")
    gradient().convert("RGBA").save(tmp_path / "clear.png")
    for name in ("print.jpg", "few colours.png", "clear.png"):
        assert np.abs(frame_of(tmp_path / name).astype(int) - np.asarray(gradient())).mean() < 12


def test_bad_pictures_have_their_reason(tmp_path):
    gradient().save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    bomb = Image.new("1", (7_000, 6_000))
    bomb.save(tmp_path / "bomb.png")
    header = b"IHDR" + struct.pack(">II", 65_535, 65_535) + good[24:29]
    (tmp_path / "claims.png").write_bytes(good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:])
    (tmp_path / "header.png").write_bytes(good[:12])
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    reasons = {"bomb.png": "too large", "claims.png": "too large", "header.png": "not media"}
    found = {name: reject_of(lambda name=name: open_media(str(tmp_path / name))) for name in reasons}
    assert found == {name: ("media", reason) for name, reason in reasons.items()}
    assert reject_of(lambda: frame_of(tmp_path / "cut.png")) == ("face", "damaged")


# folders of frames


@pytest.fixture
def frames(tmp_path) -> Path:
    """Eleven frames, one brighter than the other, and what else lies in a folder."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(1, 12):
        Image.new("RGB", (32, 24), (20 * i, 0, 0)).save(folder / f"f{i}.png")
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._f1.png").write_text("not a frame")
    return folder


def test_a_folder_s_frames_are_in_the_order_of_their_numbers(frames):
    media = open_media(str(frames))
    assert (media.frame_count, media.width, media.height, media.fps) == (11, 32, 24, None)
    assert [int(media.frame(i)[0, 0, 0]) for i in range(11)] == [20 * i for i in range(1, 12)]
    with pytest.raises(IndexError):
        media.frame(11)


def test_a_folder_s_hash_tells_its_frames(frames):
    def digest() -> str:
        return open_media(str(frames)).sha256

    first = digest()
    (frames / "notes.txt").unlink()
    assert digest() == first
    (frames / "f1.png").write_bytes((frames / "f2.png").read_bytes())
    second = digest()
    (frames / "f5.png").rename(frames / "f12.png")
    assert len({first, second, digest()}) == 3


def test_a_folder_is_not_read_into_memory(frames, monkeypatch):
    read: list[str] = []

    def noted(path: str) -> bytes:
        read.append(Path(path).name)
        return read_file(path)

    monkeypatch.setattr(pictures, "read_file", noted)
    open_media(str(frames)).frame(4)
    assert set(read) == {"f1.png", "f5.png"}


def test_a_bad_frame_is_named(frames):
    media = open_media(str(frames))
    (frames / "f3.png").write_bytes(b"nothing")
    (frames / "f4.png").unlink()
    assert reject_of(lambda: media.frame(2)) == ("face", "damaged")
    assert reject_of(lambda: media.frame(3)) == ("face", "missing file")
    (frames / "f4.png").symlink_to("f3.png")
    with pytest.raises(Reject, match=r"f4\.png: a symbolic link"):
        open_media(str(frames))
    assert reject_of(lambda: media.frame(3)) == ("face", "damaged")


def test_an_empty_folder_is_no_clip(tmp_path):
    assert reject_of(lambda: open_media(str(tmp_path))) == ("media", "not media")


def test_a_film_of_frames_finds_its_face(talking_head, parts, finder, tmp_path):
    film = open_media(talking_head.path)
    for i in range(0, 30, 10):
        Image.fromarray(film.frame(i)).save(tmp_path / f"{i:06}.jpg", quality=95)
    sample = sample_of(finder, tmp_path, str(parts[1]))
    assert rejects(sample) == []
    assert sample.face.box.probability > 0.9
