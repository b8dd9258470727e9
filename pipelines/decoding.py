"""Opening a clip: each file is read once, and gives sound and single frames from memory, without other programs.

    media = open_media("00001.mp4")
    media.sound()      # (384000,) float32: 24 s at 16 kHz
    media.frame(10)    # (height, width, 3) uint8, RGB

What cannot be had raises Reject: `media` (missing file, unreadable, empty file, too large, not media, truncated),
`sound` (no sound, damaged, too short, silent) or `face` (no picture, damaged, too large, missing file, unreadable).
"""

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain, groupby
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from pipelines.files import LARGEST_FILE, is_folder, read_file
from pipelines.pictures import LARGEST_PICTURE, MOST_FRAMES, Pictures, folder_of_frames, is_picture, one_picture
from pipelines.reject import Reject
from pipelines.tracks import MOST_PACKETS, MOST_PIXELS_ON_THE_WAY, Film, Track, decode

SAMPLE_RATE = 16_000
SOUND_SECONDS = 24
SOUND_SAMPLES = SAMPLE_RATE * SOUND_SECONDS
FULL_SCALE = 32_768

SHORTEST_SOUND = 0.5
SILENCE_PEAK = 1e-3
RATES = range(2_000, 768_001)
"""Hz of sound that is resampled."""

_MISSING_SHARE = 0.05

RULES = 1
"""Raised by one when what is rejected, or what `media` holds, changes: clips that were rejected are tried again."""

LIMITS: dict[str, Any] = {
    "shortest_sound": SHORTEST_SOUND,
    "silence_peak": SILENCE_PEAK,
    "rates": [RATES.start, RATES.stop],
    "missing_share": _MISSING_SHARE,
    "largest_file": LARGEST_FILE,
    "largest_picture": LARGEST_PICTURE,
    "most_frames": MOST_FRAMES,
    "most_packets": MOST_PACKETS,
    "most_pixels_on_the_way": MOST_PIXELS_ON_THE_WAY,
}
"""Beyond which a file, its sound or its picture is rejected, for makers' parameters."""


def sound_maker() -> dict[str, str]:
    """Who decodes a clip's sound, and how it is prepared: for makers' parameters."""
    prepared = f"{SOUND_SECONDS} s, {SAMPLE_RATE} Hz, mono, 16 bits, repeated"
    return {"decoder": f"av {version('av')}", "prepared": prepared}


def picture_decoder() -> str:
    """Who decodes a clip's frames, from films and from pictures: for makers' parameters."""
    return f"av {version('av')}, pillow {version('pillow')}"


def open_media(path: str, sound_path: str = "") -> "Media":
    """Read a clip's files, each a local path or a URI that Arrow knows (`s3://`, `gs://`, `file://`, ...).

    path: a video, a sound file, a picture (JPEG, PNG, WebP, BMP) or a local folder of such frames; what a file is, its
    content says. sound_path: the file whose sound it is, where that is another one.
    Raises Reject(`media`, ...) if any of them is missing, unreadable, empty, too large, not media, or cut off.
    """
    shown = folder_of_frames(path) if is_folder(path) else _open_file(path)
    return Media(shown, _open_file(sound_path) if sound_path and sound_path != path else None)


def fit_sound(sound: np.ndarray) -> np.ndarray:
    """(n,) samples at 16 kHz to SLF's 24 s, (384000,): longer is cut, shorter is repeated from its start."""
    return np.resize(sound, SOUND_SAMPLES)


class Media:
    """A clip's files in memory: what is shown, and what is heard where that is another file.

    sha256: of the file's bytes, of a folder's as `folder_of_frames` says; of two files, of the lines
    `<sha256>  picture` and `<sha256>  sound`. duration: seconds of the longest track; fps, width, height: of the
    picture as stored, None where there is none (fps also for pictures); frame_count: frames that can be asked for.
    """

    def __init__(self, shown: Film | Pictures, heard: Film | Pictures | None = None):
        self._shown, self._sound = shown, (heard or shown).sound
        self.sha256 = _sha256_of_two(shown.sha256, heard.sha256) if heard else shown.sha256
        self.duration = max(shown.seconds, heard.seconds) if heard else shown.seconds
        self.fps, self.width, self.height = shown.fps, shown.width, shown.height
        self.frame_count = shown.frame_count

    def sound(self) -> np.ndarray:
        """(384000,) float32 in -1..1: the first 24 s at 16 kHz mono, shorter sound repeated from its start."""
        track = self._sound
        if track is None or not track.packets:
            raise Reject("sound", "no sound", "the file has no sound track")
        sound = _decode_sound(track, SOUND_SAMPLES)
        stated = round(track.seconds * SAMPLE_RATE)
        if len(sound) < (1 - _MISSING_SHARE) * min(stated, SOUND_SAMPLES):
            found, wanted = len(sound) / SAMPLE_RATE, min(stated, SOUND_SAMPLES) / SAMPLE_RATE
            raise Reject("sound", "damaged", f"only {found:.2f} s of {wanted:.2f} s of sound can be decoded")
        sound = sound[: min(stated, SOUND_SAMPLES)]
        if len(sound) < SHORTEST_SOUND * SAMPLE_RATE:
            raise Reject("sound", "too short", f"{len(sound) / SAMPLE_RATE:.2f} s of sound, {SHORTEST_SOUND} s needed")
        peak = float(np.abs(sound).max())
        if peak < SILENCE_PEAK:
            raise Reject("sound", "silent", f"the sound's peak is {peak:.1e} of full scale, {SILENCE_PEAK:.0e} needed")
        return fit_sound(sound)

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` in order of display, (height, width, 3) uint8 RGB, turned upright; the same bits every time."""
        if not self.frame_count:
            raise Reject("face", "no picture", "the file has no picture track")
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} of {self.frame_count}")
        return self._shown.frame(index)


def _open_file(path: str) -> Film | Pictures:
    data = read_file(path)
    return one_picture(data) if is_picture(data) else Film(data)


def _sha256_of_two(picture: str, sound: str) -> str:
    return hashlib.sha256(f"{picture}  picture\n{sound}  sound\n".encode()).hexdigest()


def _decode_sound(track: Track, samples: int) -> np.ndarray:
    """The first `samples` (or fewer) of the track, mono float32 at 16 kHz, in steps of 16 bits as SLF's wav files."""
    pieces, decoded = [np.empty(0, np.int16)], 0
    try:
        for piece in _resampled(frame for frame in decode(track, track.packets) if frame is not None):
            pieces.append(piece)
            decoded += len(piece)
            if decoded >= samples:
                break
    except (FFmpegError, ValueError) as error:
        raise Reject("sound", "damaged", f"the sound cannot be resampled: {error}") from error
    return np.concatenate(pieces)[:samples].astype(np.float32) / FULL_SCALE


def _resampled(frames: Iterator[Any]) -> Iterator[np.ndarray]:
    """(n,) int16 at 16 kHz mono, piece by piece; a change of rate, format or channels on the way starts anew."""
    for (rate, _, _), alike in groupby(frames, lambda f: (f.sample_rate, f.format.name, f.layout.name)):
        if rate not in RATES:
            raise ValueError(f"it has {rate} samples a second")
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        for frame in chain(alike, [None]):
            for piece in resampler.resample(frame):
                yield piece.to_ndarray()[0]
