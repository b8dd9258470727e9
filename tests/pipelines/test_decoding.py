"""Decoding: exactly 24 s of sound, exactly the frame asked for, and a named reason for every file that is no clip."""

import hashlib
import os
from typing import Any

import av
import numpy as np
import pytest

from pipelines.decoding import SOUND_SAMPLES, fit_sound, open_media
from pipelines.reject import Reject


def rejected(action) -> tuple[str, str]:
    with pytest.raises(Reject) as caught:
        action()
    assert len(caught.value.message) > 10
    return caught.value.what, caught.value.reason


def test_a_clip_states_what_it_is(make_mp4, tmp_path):
    path = make_mp4(tmp_path / "a.mp4", seconds=2)
    media = open_media(str(path))
    assert media.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (media.fps, media.width, media.height, media.frame_count) == (25, 64, 48, 50)
    assert media.duration == pytest.approx(2, abs=0.1)


def test_short_sound_is_repeated_from_its_start(make_mp4, tmp_path):
    sound = open_media(str(make_mp4(tmp_path / "a.mp4", seconds=2))).sound()
    assert (sound.shape, sound.dtype) == ((384_000,), np.float32)
    np.testing.assert_array_equal(sound[:32_000], sound[32_000:64_000])
    assert 0.25 < np.abs(sound).max() < 0.35
    spectrum = np.abs(np.fft.rfft(sound[:32_000]))
    assert np.argmax(spectrum) == 440 * 2


def test_long_sound_is_cut(make_mp4, tmp_path):
    whole = av.open(str(make_mp4(tmp_path / "a.mp4", seconds=25, picture=False)))
    decoded = np.concatenate([frame.to_ndarray()[0] for frame in whole.decode(audio=0)])[:SOUND_SAMPLES]
    np.testing.assert_allclose(open_media(str(tmp_path / "a.mp4")).sound(), decoded, atol=0.6 / 32_768)


def test_stereo_becomes_mono(make_mp4, tmp_path):
    stereo = open_media(str(make_mp4(tmp_path / "a.mp4", channels="stereo"))).sound()
    assert 0.25 < np.abs(stereo).max() < 0.35


@pytest.mark.parametrize("samples", [1, 100_000, 383_999, 384_000, 400_000])
def test_fit_sound_is_always_24_seconds(samples):
    sound = np.arange(samples, dtype=np.float32)
    np.testing.assert_array_equal(fit_sound(sound), np.tile(sound, 384_000 // samples + 1)[:384_000])


def test_frames_are_those_of_a_whole_decode_in_any_order(make_mp4, tmp_path):
    path = make_mp4(tmp_path / "a.mp4", seconds=2)
    whole = [frame.to_ndarray(format="rgb24") for frame in av.open(str(path)).decode(video=0)]
    media = open_media(str(path))
    for index in (49, 0, 13, 11, 12, 30, 13):
        np.testing.assert_array_equal(media.frame(index), whole[index])
    with pytest.raises(IndexError):
        media.frame(50)


def test_a_turned_picture_is_set_upright(make_mp4, tmp_path):
    plain = open_media(str(make_mp4(tmp_path / "a.mp4"))).frame(0)
    turned = open_media(str(make_mp4(tmp_path / "b.mp4", rotation=-90))).frame(0)
    assert turned.shape == (64, 48, 3)
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("kept", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("index_first", [True, False])
def test_a_file_cut_off_is_noticed_wherever_its_index_is(make_mp4, tmp_path, kept, index_first):
    data = make_mp4(tmp_path / "a.mp4", seconds=3, index_first=index_first).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * kept)])
    assert rejected(lambda: open_media(str(tmp_path / "cut.mp4"))) == ("media", "truncated")


def test_a_hole_in_the_file_is_no_sound_and_no_picture(make_mp4, tmp_path):
    data = bytearray(make_mp4(tmp_path / "a.mp4", seconds=3, index_first=True).read_bytes())
    third = len(data) // 3
    data[third : 3 * third] = bytes(2 * third)
    (tmp_path / "hole.mp4").write_bytes(data)
    media = open_media(str(tmp_path / "hole.mp4"))
    assert rejected(media.sound) == ("sound", "damaged")
    assert rejected(lambda: media.frame(70)) == ("face", "damaged")


def test_each_kind_of_bad_file_has_its_reason(tmp_path):
    files = {"text.mp4": b"not a film" * 500, "empty.mp4": b"", "list.mp4": b"#EXTM3U\n#EXTINF:5,\n/etc/hostname\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = {
        "text.mp4": "not media",
        "list.mp4": "not media",
        "empty.mp4": "empty file",
        "none.mp4": "missing file",
        "pipe.mp4": "unreadable",
        ".": "not media",
    }
    for name, reason in reasons.items():
        assert rejected(lambda name=name: open_media(str(tmp_path / name))) == ("media", reason)
    assert rejected(lambda: open_media("nowhere://a/b.mp4")) == ("media", "unreadable")


def test_sound_that_cannot_be_used_has_its_reason(make_mp4, tmp_path):
    cases: dict[str, dict[str, Any]] = {
        "no sound": {"sound": False},
        "too short": {"seconds": 0.3},
        "silent": {"amplitude": 0.0},
    }
    for reason, arguments in cases.items():
        media = open_media(str(make_mp4(tmp_path / f"{reason}.mp4", **arguments)))
        assert rejected(media.sound) == ("sound", reason)
        assert media.frame(0).shape == (48, 64, 3)


def test_sound_without_a_picture_is_still_sound(make_mp4, tmp_path):
    media = open_media(f"file://{make_mp4(tmp_path / 'a.mp4', picture=False)}")
    assert media.sound().shape == (384_000,)
    assert (media.fps, media.width, media.frame_count) == (None, None, 0)
    assert rejected(lambda: media.frame(0)) == ("face", "no picture")


def test_a_title_in_another_alphabet_s_bytes_is_no_hindrance(make_mp4, tmp_path):
    data = make_mp4(tmp_path / "a.mp4").read_bytes()
    assert b"SoundHandler" in data
    (tmp_path / "b.mp4").write_bytes(data.replace(b"SoundHandler", "Söünd Hândl".encode("latin-1") + b"\0"))
    np.testing.assert_array_equal(
        open_media(str(tmp_path / "b.mp4")).sound(), open_media(str(tmp_path / "a.mp4")).sound()
    )
