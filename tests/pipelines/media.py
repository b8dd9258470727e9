"""Odd media made of a good talking head, each by a function `(source, target)`, and what is to become of each.

for name, odd in ODD.items():
    odd.make(good, folder / name)
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 25
HUGE = 20_000


def without_sound(source: Path, target: Path) -> None:
    """Copy the picture's packets alone."""
    _copy(source, target, "video")


def without_picture(source: Path, target: Path) -> None:
    """Copy the sound's packets alone."""
    _copy(source, target, "audio")


def faceless(source: Path, target: Path) -> None:
    """The same sound under a smooth grey gradient that drifts."""
    ramp = np.linspace(60, 180, 224, dtype=np.float32)
    grey = (np.broadcast_to(ramp[None, :, None] + i / 10, (224, 224, 3)).astype(np.uint8) for i in range(6 * FPS))
    _encode(target, grey, _sound(source))


def two_faces(source: Path, target: Path) -> None:
    """The same person twice, side by side, the right one half as large."""

    def beside(frame: np.ndarray) -> np.ndarray:
        small = frame[::2, ::2]
        return np.hstack([frame, np.pad(small, ((0, len(frame) - len(small)), (0, 0), (0, 0)))])

    _encode(target, map(beside, _frames(source)), _sound(source))


def turned(source: Path, target: Path) -> None:
    """Held like a phone: the stored picture lies on its side, and the display matrix says so."""
    _encode(target, (np.rot90(frame) for frame in _frames(source)), _sound(source), rotation=-90)


def stereo_48k(source: Path, target: Path) -> None:
    _encode(target, _frames(source), np.repeat(_sound(source), 3), rate=48_000, layout="stereo")


def uneven(source: Path, target: Path) -> None:
    """Variable frame rate: frames last 20, 40 or 80 ms in turn."""
    _encode(target, _frames(source), _sound(source), durations=(1, 2, 4))


def silent(source: Path, target: Path) -> None:
    _encode(target, _frames(source), 0 * _sound(source))


def short(source: Path, target: Path) -> None:
    """All of the picture with 0.2 s of sound."""
    _encode(target, _frames(source), _sound(source)[:3_200])


def truncated(source: Path, target: Path) -> None:
    data = source.read_bytes()
    target.write_bytes(data[: len(data) // 2])


def empty(source: Path, target: Path) -> None:
    target.write_bytes(b"")


def text(source: Path, target: Path) -> None:
    target.write_text("not a film\n" * 500)


def same(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def folder(source: Path, target: Path) -> None:
    target.mkdir()


def pipe(source: Path, target: Path) -> None:
    """A named pipe that nobody writes to: opening it the usual way waits for ever."""
    os.mkfifo(target)


def unreadable(source: Path, target: Path) -> None:
    """A regular file that fails when it is read, for every user."""
    target.symlink_to("/proc/self/mem")


def dangling(source: Path, target: Path) -> None:
    target.symlink_to(target.parent / "nothing here.mp4")


def playlist(source: Path, target: Path) -> None:
    target.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{source.resolve()}\n#EXT-X-ENDLIST\n")


def concat(source: Path, target: Path) -> None:
    target.write_text(f"ffconcat version 1.0\nfile '{source.resolve()}'\n")


def huge(source: Path, target: Path) -> None:
    """A film whose header and frames say that they are 20,000 pixels wide and high."""
    _encode(target, _frames(source), _sound(source), codec="mjpeg")
    data = bytearray(target.read_bytes())
    size = struct.pack(">HH", HUGE, HUGE)
    entry = data.index(b"mp4v") + 4 + 24
    data[entry : entry + 4] = size
    start_of_frame = b"\xff\xc0\x00\x11\x08"
    place = data.find(start_of_frame)
    while place >= 0:
        data[place + 5 : place + 9] = size
        place = data.find(start_of_frame, place + 1)
    target.write_bytes(data)


def no_time(source: Path, target: Path) -> None:
    """0 frames a second: every frame of the picture lasts no time at all."""
    data = bytearray(source.read_bytes())
    handler = data.index(b"vide")
    table = data.index(b"stts", handler) + 8
    for entry in range(struct.unpack_from(">I", data, table)[0]):
        struct.pack_into(">I", data, table + 8 + 8 * entry, 0)
    target.write_bytes(data)


def covered(source: Path, target: Path, container: str = "mp4") -> None:
    """Sound with a cover picture, as music files have it, and no film."""
    with av.open(str(target), "w", format=container) as new:
        sound = _add_sound(new, 16_000, "mono", "mp3" if container == "mp3" else "aac")
        cover: Any = new.add_stream("mjpeg")
        cover.width = cover.height = 224
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(next(_frames(source)), format="rgb24").reformat(format="yuvj420p")
        packets = [*cover.encode(frame), *cover.encode(None)]
        new.start_encoding()
        new.mux(packets)
        _mux_sound(new, sound, _sound(source), 16_000, "mono")


@dataclass(frozen=True)
class Odd:
    """make: writes the file; what, reason: of the one Reject that it ends as, both empty where it gives all values."""

    make: Callable[[Path, Path], None]
    what: str = ""
    reason: str = ""


ODD = {
    "truncated.mp4": Odd(truncated, "media", "truncated"),
    "no sound.mp4": Odd(without_sound, "sound", "no sound"),
    "no picture.mp4": Odd(without_picture, "face", "no picture"),
    "nobody.mp4": Odd(faceless, "face", "no face"),
    "empty.mp4": Odd(empty, "media", "empty file"),
    "silent.mp4": Odd(silent, "sound", "silent"),
    "short.mp4": Odd(short, "sound", "too short"),
    "two faces.mp4": Odd(two_faces),
    "turned.mp4": Odd(turned),
    "stereo.mp4": Odd(stereo_48k),
    "uneven.mp4": Odd(uneven),
    "text.mp4": Odd(text, "media", "not media"),
    "folder.mp4": Odd(folder, "media", "not media"),
    "pipe.mp4": Odd(pipe, "media", "unreadable"),
    "unreadable.mp4": Odd(unreadable, "media", "read error"),
    "dangling.mp4": Odd(dangling, "media", "missing file"),
    "playlist.mp4": Odd(playlist, "media", "not media"),
    "concat.mp4": Odd(concat, "media", "not media"),
    "huge.mp4": Odd(huge, "face", "damaged"),
    "no time.mp4": Odd(no_time, "media", "truncated"),
    "cover.mp4": Odd(covered, "face", "no picture"),
    "cover.mp3": Odd(partial(covered, container="mp3"), "face", "no picture"),
    'it\'s "Zoë" & söhne – 名前 $(x).mp4': Odd(same),
}
"""File name -> what it is. All may be renamed: what a file is, its content says."""


def _copy(source: Path, target: Path, kind: str) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        track = getattr(old.streams, kind)[0]
        copy = new.add_stream_from_template(track)
        for packet in old.demux(track):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)


def _frames(source: Path) -> Iterator[np.ndarray]:
    with av.open(str(source)) as old:
        for frame in old.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _sound(source: Path) -> np.ndarray:
    """(n,) int16 at 16 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    with av.open(str(source)) as old:
        return np.concatenate([p.to_ndarray()[0] for frame in old.decode(audio=0) for p in resampler.resample(frame)])


def _encode(
    target: Path,
    frames: Iterator[np.ndarray],
    sound: np.ndarray,
    durations: tuple[int, ...] = (2,),
    rate: int = 16_000,
    layout: str = "mono",
    rotation: int = 0,
    codec: str = "libx264",
) -> None:
    """An mp4. durations: of the frames in turn, in fiftieths of a second."""
    with av.open(str(target), "w", format="mp4") as new:
        picture: Any = new.add_stream(codec, rate=FPS)
        track = _add_sound(new, rate, layout)
        picture.time_base = picture.codec_context.time_base = Fraction(1, 2 * FPS)
        picture.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        time = 0
        for i, pixels in enumerate(frames):
            if not i:
                picture.height, picture.width = pixels.shape[:2]
                if rotation:
                    picture.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 2 * FPS)
            time += durations[i % len(durations)]
            new.mux(picture.encode(frame))
        new.mux(picture.encode(None))
        _mux_sound(new, track, sound, rate, layout)


def _add_sound(container: Any, rate: int, layout: str, codec: str = "aac") -> Any:
    return container.add_stream(codec, rate=rate, layout=layout)


def _mux_sound(container: Any, track: Any, sound: np.ndarray, rate: int, layout: str) -> None:
    channels = 2 if layout == "stereo" else 1
    samples = av.AudioFrame.from_ndarray(np.repeat(sound, channels)[None], format="s16", layout=layout)
    samples.sample_rate, samples.time_base, samples.pts = rate, Fraction(1, rate), 0
    container.mux(track.encode(samples))
    container.mux(track.encode(None))
