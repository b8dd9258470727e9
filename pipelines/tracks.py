"""A media file in memory as packets of its picture and its sound, which are decoded when they are asked for."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from pipelines.files import LARGEST_FILE
from pipelines.pictures import LARGEST_PICTURE
from pipelines.reject import Reject

MOST_PACKETS = 500_000
"""Of all tracks of a file: three hours of sound."""

MOST_PIXELS_ON_THE_WAY = 2_500_000_000
"""Decoded from a key frame to the frame asked for: ten seconds of 4K."""

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,wav,flac,ogg,mp3,aac"
_CONTAINERS_STATING_LENGTH = ("mov", "matroska")
_MISSING_SHARE, _MISSING_SECONDS = 0.05, 0.2
_LIMITS = {"max_pixels": str(LARGEST_PICTURE)}
"""Where frames are larger, FFmpeg gives their size as 0 and decodes none."""


class Film:
    """One file's first picture track and first sound track, as far as it has them.

    sha256: of the file's bytes; seconds: its longest track; fps, width, height: of its picture as stored, None where it
    has none; frame_count: frames of the picture (0 without one); sound: its sound track or None.
    Raises Reject(`media`): `not media`, `truncated`, `too large`.
    """

    def __init__(self, data: bytes):
        self.sha256 = hashlib.sha256(data).hexdigest()
        container = _open_container(data)
        picture: Any = next((s for s in container.streams.video if _can_decode(s) and not _is_cover(s)), None)
        sound: Any = next((s for s in container.streams.audio if _can_decode(s)), None)
        streams = [s for s in (picture, sound) if s is not None]
        if not streams:
            raise Reject("media", "not media", "the file has neither a film nor sound that can be decoded")
        packets = _packets(container, streams)
        self._picture = Track(picture, packets[picture.index]) if picture is not None else None
        self.sound = Track(sound, packets[sound.index]) if sound is not None else None
        self.seconds = _checked_length(container, [t for t in (self._picture, self.sound) if t])

        self.fps: float | None = None
        self.width: int | None = None
        self.height: int | None = None
        self.frame_count = 0
        if self._picture:
            self.fps = float(picture.average_rate or 0) or None
            self.width, self.height = (side or None for side in _size(picture))
            self._times = sorted(_time(p) for p in self._picture.packets if not p.is_discard)
            self.frame_count = len(self._times)

    def frame(self, index: int) -> np.ndarray:
        """Frame `index` in order of display, (height, width, 3) uint8 RGB, turned upright. Raises Reject(`face`)."""
        track: Any = self._picture
        time, (width, height) = self._times[index], _size(track.stream)
        if not width * height:
            raise Reject("face", "damaged", f"frames of no known size, or of more than {LARGEST_PICTURE} pixels")
        start = max((i for i, p in enumerate(track.packets) if p.is_keyframe and _time(p) <= time), default=0)
        on_the_way = sum(_time(p) <= time for p in track.packets[start:]) * width * height
        if on_the_way > MOST_PIXELS_ON_THE_WAY:
            raise Reject("face", "too large", f"frame {index} lies too far behind the key frame before it: encode anew")
        for frame in decode(track, track.packets[start:]):
            if frame is None:
                break
            if frame.pts == time:
                return _upright(frame)
        raise Reject("face", "damaged", f"frame {index} cannot be decoded")


class Track:
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


def decode(track: Track, packets: list[Any]) -> Iterator[Any]:
    """Frames of the packets from a fresh decoder state, to the last one it holds; None for a damaged packet."""
    context = track.stream.codec_context
    context.flush_buffers()
    for packet in [*packets, None]:
        try:
            yield from context.decode(packet)
        except FFmpegError:
            yield None


def _open_container(data: bytes) -> Any:
    """Open as one of the known containers; playlists, which would name other files, are none of them."""
    try:
        options = {"format_whitelist": _CONTAINERS, **_LIMITS}
        container = av.open(io.BytesIO(data), options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise _not_media(data) from error
    for stream in (*container.streams.video, *container.streams.audio):
        if _can_decode(stream):
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.options = _LIMITS
    return container


def _not_media(data: bytes) -> Reject:
    if data[4:8] == b"ftyp":
        return Reject("media", "truncated", "the mp4's index (moov atom) is missing or incomplete: was it cut off?")
    return Reject("media", "not media", "neither picture nor sound can be found in the file")


def _can_decode(stream: Any) -> bool:
    return stream.codec_context is not None


def _size(stream: Any) -> tuple[int, int]:
    return stream.codec_context.width, stream.codec_context.height


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _packets(container: Any, streams: list[Any]) -> dict[int, list[Any]]:
    """All packets of the streams in decoding order; reading stops where the file breaks off."""
    packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
    count = size = 0
    with suppress(FFmpegError):
        for packet in container.demux(streams):
            count, size = count + 1, size + packet.size
            if count > MOST_PACKETS or size > LARGEST_FILE:
                raise Reject("media", "too large", f"more than {MOST_PACKETS} packets: cut it into shorter clips")
            if packet.size and not packet.is_corrupt and _time(packet) is not None:
                packets[packet.stream.index].append(packet)
    return packets


def _time(packet: Any) -> int:
    return packet.pts if packet.pts is not None else packet.dts


def _checked_length(container: Any, tracks: list[Track]) -> float:
    """Seconds of the longest track; a Reject if the container states clearly more than there is, on any track."""
    length = max(track.seconds for track in tracks)
    if not any(track.packets for track in tracks):
        raise Reject("media", "truncated", "the file holds neither picture nor sound, only their index")
    if container.format.name.startswith(_CONTAINERS_STATING_LENGTH):
        pairs = [(track.seconds, track.stated_seconds) for track in tracks]
        pairs.append((length, (container.duration or 0) / av.time_base))
        for found, stated in pairs:
            if stated - found > max(_MISSING_SECONDS, _MISSING_SHARE * stated):
                raise Reject("media", "truncated", f"the file states {stated:.2f} s and holds {found:.2f} s")
    return length


def _upright(frame: Any) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24", threads=1)
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
