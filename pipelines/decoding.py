"""Opening a clip: the file is read once, and gives its sound and single frames from memory, without other programs.

    media = open_media("00001.mp4")
    media.sound()      # (384000,) float32: 24 s at 16 kHz
    media.frame(10)    # (height, width, 3) uint8, RGB

What cannot be had raises Reject: `media` (missing file, unreadable, empty file, too large, not media, truncated),
`sound` (no sound, damaged, too short, silent) or `face` (no picture, damaged).
"""

import hashlib
import io
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from pipelines.reject import Reject

SAMPLE_RATE = 16_000
SOUND_SECONDS = 24
SOUND_SAMPLES = SAMPLE_RATE * SOUND_SECONDS
FULL_SCALE = 32_768
SOUND = f"{SOUND_SECONDS} s, {SAMPLE_RATE} Hz, mono, 16 bits, repeated"
"""How a clip's sound is prepared, for makers' parameters."""

LARGEST_FILE = 2 << 30
SHORTEST_SOUND = 0.5
SILENCE_PEAK = 1e-3

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,wav,flac,ogg,mp3,aac"
_CONTAINERS_STATING_LENGTH = ("mov", "matroska")
_MISSING_SHARE, _MISSING_SECONDS = 0.05, 0.2
_FRAMES_KEPT = 8


def open_media(path: str) -> "Media":
    """Read the media file at a local path or a URI that Arrow knows (`s3://`, `gs://`, `file://`, ...).

    Raises Reject(`media`, ...) for what is missing, unreadable, empty, too large, not media, or cut off.
    """
    return Media(_read(path))


def fit_sound(sound: np.ndarray) -> np.ndarray:
    """(n,) samples at 16 kHz to SLF's 24 s, (384000,): longer is cut, shorter is repeated from its start."""
    return np.resize(sound, SOUND_SAMPLES)


class Media:
    """One media file in memory.

    sha256: of the file's bytes; duration: seconds of its longest track; fps, width, height: of its picture as stored,
    None where it has no picture; frame_count: frames of the picture (0 without one).
    """

    def __init__(self, data: bytes):
        self.sha256 = hashlib.sha256(data).hexdigest()
        container = _open_container(data)
        picture: Any = next((s for s in container.streams.video if not _is_cover(s)), None)
        sound: Any = next(iter(container.streams.audio), None)
        packets = _packets(container, [s for s in (picture, sound) if s is not None])
        self._picture = _Track(picture, packets[picture.index]) if picture is not None else None
        self._sound = _Track(sound, packets[sound.index]) if sound is not None else None
        self.duration = _checked_length(container, [t for t in (self._picture, self._sound) if t])

        self.fps: float | None = None
        self.width: int | None = None
        self.height: int | None = None
        self.frame_count = 0
        if self._picture:
            self.fps = float(picture.average_rate or 0) or None
            self.width, self.height = picture.codec_context.width, picture.codec_context.height
            self._times = sorted(_time(p) for p in self._picture.packets if not p.is_discard)
            self.frame_count = len(self._times)
        self._frames: OrderedDict[int, np.ndarray] = OrderedDict()

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
        if self._picture is None or not self.frame_count:
            raise Reject("face", "no picture", "the file has no picture track")
        if not 0 <= index < self.frame_count:
            raise IndexError(f"frame {index} of {self.frame_count}")
        if index not in self._frames:
            self._frames[index] = _decode_frame(self._picture, self._times[index], index)
            if len(self._frames) > _FRAMES_KEPT:
                self._frames.popitem(last=False)
        return self._frames[index]


class _Track:
    """The packets of one stream, in decoding order; seconds: the length they cover on the time line."""

    def __init__(self, stream: Any, packets: list[Any]):
        self.stream, self.packets = stream, packets
        shown = [p for p in packets if not p.is_discard]
        first = min((_time(p) for p in shown), default=0)
        last = max((_time(p) + (p.duration or 0) for p in shown), default=0)
        self.seconds = float((last - first) * stream.time_base) if shown else 0.0

    @property
    def stated_seconds(self) -> float:
        return float((self.stream.duration or 0) * self.stream.time_base)


def _read(path: str) -> bytes:
    try:
        return _read_uri(path) if "://" in path else _read_file(Path(path))
    except FileNotFoundError as error:
        raise Reject("media", "missing file", f"{path}: there is no such file") from error
    except OSError as error:
        raise Reject("media", "unreadable", f"{path}: {error.strerror or error}") from error


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Reject("media", "unreadable", f"{path}: not a regular file")
    _check_size(str(path), status.st_size)
    return path.read_bytes()


def _read_uri(uri: str) -> bytes:
    from pyarrow import ArrowInvalid, fs

    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except ArrowInvalid as error:
        raise Reject("media", "unreadable", f"{uri}: {error}") from error
    with filesystem.open_input_file(path) as file:
        _check_size(uri, file.size())
        return file.read()


def _check_size(path: str, size: int) -> None:
    if size == 0:
        raise Reject("media", "empty file", f"{path}: the file is empty")
    if size > LARGEST_FILE:
        raise Reject("media", "too large", f"{path}: {size} bytes, at most {LARGEST_FILE} are read")


def _open_container(data: bytes) -> Any:
    """Open as one of the known containers; playlists, which would name other files, are none of them."""
    try:
        container = av.open(io.BytesIO(data), options={"format_whitelist": _CONTAINERS})
    except FFmpegError as error:
        raise _not_media(data) from error
    if not container.streams.video and not container.streams.audio:
        raise _not_media(data)
    for stream in (*container.streams.video, *container.streams.audio):
        stream.codec_context.thread_type = "NONE"
    return container


def _not_media(data: bytes) -> Reject:
    if data[4:8] == b"ftyp":
        return Reject("media", "truncated", "the mp4's index (moov atom) is missing or incomplete: was it cut off?")
    return Reject("media", "not media", "neither picture nor sound can be found in the file")


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _packets(container: Any, streams: list[Any]) -> dict[int, list[Any]]:
    """All packets of the streams in decoding order; reading stops where the file breaks off."""
    packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
    with suppress(FFmpegError):
        for packet in container.demux(streams):
            if packet.size and not packet.is_corrupt and _time(packet) is not None:
                packets[packet.stream.index].append(packet)
    return packets


def _time(packet: Any) -> int:
    return packet.pts if packet.pts is not None else packet.dts


def _checked_length(container: Any, tracks: list[_Track]) -> float:
    """Seconds of the longest track; a Reject if the container states clearly more than there is, on any track."""
    length = max((track.seconds for track in tracks), default=0.0)
    if not any(track.packets for track in tracks):
        raise Reject("media", "truncated", "the file holds neither picture nor sound, only their index")
    if container.format.name.startswith(_CONTAINERS_STATING_LENGTH):
        pairs = [(track.seconds, track.stated_seconds) for track in tracks]
        pairs.append((length, (container.duration or 0) / av.time_base))
        for found, stated in pairs:
            if stated - found > max(_MISSING_SECONDS, _MISSING_SHARE * stated):
                raise Reject("media", "truncated", f"the file states {stated:.2f} s and holds {found:.2f} s")
    return length


def _decode(track: _Track, packets: list[Any]) -> Iterator[Any]:
    """Frames of the packets from a fresh decoder state, to the last one it holds; None for a damaged packet."""
    context = track.stream.codec_context
    context.flush_buffers()
    for packet in [*packets, None]:
        try:
            yield from context.decode(packet)
        except FFmpegError:
            yield None


def _decode_sound(track: _Track, samples: int) -> np.ndarray:
    """The first `samples` (or fewer) of the track, mono float32 at 16 kHz, in steps of 16 bits as SLF's wav files."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    pieces: list[Any] = []
    decoded = 0
    for frame in _decode(track, track.packets):
        if frame is not None:
            pieces += (made := resampler.resample(frame))
            decoded += sum(piece.samples for piece in made)
        if decoded >= samples:
            break
    if pieces:
        pieces += resampler.resample(None)
    sound = np.concatenate([np.empty(0, np.int16), *(piece.to_ndarray()[0] for piece in pieces)])[:samples]
    return sound.astype(np.float32) / FULL_SCALE


def _decode_frame(track: _Track, time: int, index: int) -> np.ndarray:
    """The frame shown at `time`, decoded from the key frame before it; Reject if anything on the way is damaged."""
    start = max((i for i, p in enumerate(track.packets) if p.is_keyframe and _time(p) <= time), default=0)
    for frame in _decode(track, track.packets[start:]):
        if frame is None:
            break
        if frame.pts == time:
            picture = frame.to_ndarray(format="rgb24", threads=1)
            return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    raise Reject("face", "damaged", f"frame {index} cannot be decoded")
