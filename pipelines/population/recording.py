"""One clip on disk: an mp4 of H.264 and AAC, and its face track as VoxCeleb2 writes them."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.population.animation import FRAME_RATE, SIZE, Box, animate
from pipelines.population.files import whole, write_text
from pipelines.population.people import Person, stream
from pipelines.population.portrait import Sitter
from pipelines.population.scene import draw_scene
from pipelines.population.voices import SAMPLING_RATE, say

VIDEO_OPTIONS = {"crf": "23", "preset": "veryfast", "x264-params": "mbtree=0"}
"""x264's macroblock tree gives other bytes from run to run."""
SOUND_BITS_PER_SECOND = 48_000


def record_clip(person: Person, video: int, mp4: Path, track: Path, identity: str, reference: str) -> None:
    """Film the person's video with this number: write `mp4`, and before it `track`, the true face boxes.

    The mp4 appears under its name only when both are whole. The same arguments give the same bytes.
    """
    samples = say(person, video).samples
    motion = stream(person.seed, "motion", person.index, video)
    frames = animate(Sitter.of(person), draw_scene(person, video), samples, motion)
    with whole(mp4) as unfinished:
        write_text(track, track_text(identity, reference, write_mp4(unfinished, frames, samples)))


def write_mp4(path: Path, frames: Iterable[tuple[np.ndarray, Box]], samples: np.ndarray) -> list[Box]:
    """Encode frames (224, 224, 3) uint8 and samples (n,) float32 at 16 kHz; returns the frames' boxes."""
    boxes = []
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as file:
        pictures = file.add_stream("libx264", rate=FRAME_RATE, options=VIDEO_OPTIONS)
        pictures.width = pictures.height = SIZE
        pictures.pix_fmt = "yuv420p"
        pictures.thread_count = 1
        sound = file.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        sound.bit_rate = SOUND_BITS_PER_SECOND
        for frame, box in frames:
            boxes.append(box)
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        file.mux(pictures.encode())
        pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16)[None]
        heard = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = SAMPLING_RATE, 0, Fraction(1, SAMPLING_RATE)
        file.mux(sound.encode(heard))
        file.mux(sound.encode())
    return boxes


def track_text(identity: str, reference: str, boxes: list[Box]) -> str:
    """VoxCeleb2's face track: a head of five lines, then a line a frame, boxes as fractions of the frame."""
    head = (
        f"Identity  : \t{identity}\nReference : \t{reference}\nOffset    : \t0\n"
        "FV Conf   : \t20.000\nASD Conf  : \t5.000\n\nFRAME \tX \tY \tW \tH \n"
    )
    rows = (f"{frame:06d} \t" + "\t".join(f"{side:.3f} " for side in box) + "\n" for frame, box in enumerate(boxes))
    return head + "".join(rows)
