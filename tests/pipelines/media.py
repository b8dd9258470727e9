"""Bad media made from good: the same clip without its sound, or with nobody in the picture."""

from pathlib import Path

import av
import numpy as np


def without_sound(source: Path, target: Path) -> None:
    """Copy the picture's packets alone."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        picture = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = picture
                new.mux(packet)


def faceless(source: Path, target: Path) -> None:
    """The same sound under a smooth grey gradient that drifts."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        picture = new.add_stream("libx264", rate=25)
        picture.width = picture.height = 224
        picture.pix_fmt = "yuv420p"
        sound = new.add_stream_from_template(old.streams.audio[0])
        ramp = np.linspace(60, 180, 224, dtype=np.float32)
        for i in range(150):
            frame = np.broadcast_to(ramp[None, :, None] + i / 10, (224, 224, 3)).astype(np.uint8)
            for packet in picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                new.mux(packet)
        for packet in picture.encode():
            new.mux(packet)
        for packet in old.demux(old.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                new.mux(packet)
