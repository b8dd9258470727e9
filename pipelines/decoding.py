"""Opening a clip: each file is read once, and gives sound and single frames from memory, without other programs.

    media = open_media("00001.mp4")
    media.sound()      # (384000,) float32: 24 s at 16 kHz
    media.frame(10)    # (height, width, 3) uint8, RGB

What cannot be had raises Reject: `media` (missing file, unreadable, empty file, too large, not media, truncated),
`sound` (no sound, damaged, too short, silent) or `face` (no picture, damaged, too large, missing file, unreadable).
Where the sound is a file of its own, what is wrong with one of the two files is its `face`'s or `sound`'s alone.
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

File = Film | Pictures

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
    Raises Reject(`media`, ...) if it is missing, unreadable, empty, too large, not media, or cut off; of two files, if
    both are. Where one of them is, its part raises that when it is asked for.
    """
    if not sound_path or sound_path == path:
        whole = _open(path)
        return Media(whole, whole)
    shown, heard = _open_or_reject(path, "face"), _open_or_reject(sound_path, "sound")
    if isinstance(shown, Reject) and isinstance(heard, Reject):
        raise Reject("media", shown.reason, f"{shown.message}; {heard.message}")
    return Media(shown, heard)


def fit_sound(sound: np.ndarray) -> np.ndarray:
    """(n,) samples at 16 kHz to SLF's 24 s, (384000,): longer is cut, shorter is repeated from its start."""
    return np.resize(sound, SOUND_SAMPLES)


class Media:
    """A clip's files in memory: what is shown and what is heard, the same file or two, or why one was not opened.

    sha256: of the file's bytes, of a folder's as `folder_of_frames` says; of two files, of the lines
    `<sha256>  picture` and `<sha256>  sound` of those that could be opened. duration: seconds of the longest track;
    fps, width, height: of the picture as stored, None where there is none (fps also for pictures); frame_count: frames
    that can be asked for.
    """

    def __init__(self, shown: File | Reject, heard: File | Reject):
        self._shown, self._heard = shown, heard
        files = {role: each for role, each in (("picture", shown), ("sound", heard)) if not isinstance(each, Reject)}
        self.sha256 = files["sound"].sha256 if shown is heard else _sha256_of_two(files)
        self.duration = max(file.seconds for file in files.values())
        picture = files.get("picture")
        self.fps, self.width, self.height = (picture.fps, picture.width, picture.height) if picture else (None,) * 3
        self.frame_count = picture.frame_count if picture else 0

    def sound(self) -> np.ndarray:
        """(384000,) float32 in -1..1: the first 24 s at 16 kHz mono, shorter sound repeated from its start."""
        track = _opened(self._heard).sound
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
        shown = _opened(self._shown)
        if not self.frame_count:
            raise Reject("face", "no picture", "the file has no picture track")
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} of {self.frame_count}")
        return shown.frame(index)


def _open(path: str) -> File:
    if is_folder(path):
        return folder_of_frames(path)
    data = read_file(path)
    return one_picture(data) if is_picture(data) else Film(data)


def _open_or_reject(path: str, what: str) -> File | Reject:
    """The file, or why there is none, as a Reject of `what`."""
    try:
        return _open(path)
    except Reject as reject:
        return Reject(what, reject.reason, reject.message)


def _opened(file: File | Reject) -> File:
    if isinstance(file, Reject):
        raise file
    return file


def _sha256_of_two(files: dict[str, File]) -> str:
    return hashlib.sha256("".join(f"{file.sha256}  {role}\n" for role, file in files.items()).encode()).hexdigest()


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
