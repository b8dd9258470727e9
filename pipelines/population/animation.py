"""A person talking: pictures driven by the sound, and where the face is in each of them.

A dozen key pictures (the mouth from shut to open, spread and rounded; eyes half shut and shut) are drawn once a clip,
blended by the loudness and colour of the sound, and moved by a small rotation and shift of the head.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.population.portrait import Portrait, Sitter, draw_portrait
from pipelines.population.scene import Scene
from pipelines.population.voices import SAMPLING_RATE

FRAME_RATE = 25
SIZE = 224
MARGIN = 8
"""Pixels drawn beyond each edge, so that a moved picture has no empty border."""
OVERSAMPLING = 1.5
OPENINGS = np.linspace(0, 1, 5)
ROUNDED = 0.9
HALF_SHUT, SHUT = 1, 2
BLINK = (HALF_SHUT, SHUT, SHUT, HALF_SHUT, HALF_SHUT)

Box = tuple[float, float, float, float]
"""Left, top, width and height as fractions of the frame."""


@dataclass(frozen=True)
class Keys:
    """mouths: (2, 5) portraits, spread and rounded, by opening; lids: portraits with eyes half shut and shut; lid_mask:
    (h, w, 1) where the lids move."""

    mouths: list[list[Portrait]]
    lids: dict[int, Portrait]
    lid_mask: np.ndarray


@dataclass(frozen=True)
class Motion:
    """Per frame (n,): opening and rounding of the mouth 0..1; blink 0, HALF_SHUT or SHUT; moves (n, 2, 3) affine maps
    of the drawn picture."""

    opening: np.ndarray
    rounding: np.ndarray
    blink: np.ndarray
    moves: np.ndarray


def animate(
    sitter: Sitter, scene: Scene, samples: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, Box]]:
    """Yield 25 frames (224, 224, 3) uint8 RGB a second of the samples (16 kHz), each with the true box of the face."""
    keys = _draw_keys(sitter, scene, random)
    motion = _draw_motion(samples, random)
    for opening, rounding, blink, move in zip(motion.opening, motion.rounding, motion.blink, motion.moves, strict=True):
        parts = _mouth_parts(keys, opening, rounding)
        picture = np.sum([weight * part.picture for weight, part in parts], axis=0)
        face = np.sum([weight * part.face for weight, part in parts], axis=0)
        if blink:
            picture = picture + keys.lid_mask * (keys.lids[int(blink)].picture - picture)
        moved = cv2.warpAffine(
            np.clip(picture, 0, 255).astype(np.uint8),
            move,
            picture.shape[:2],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        frame = np.ascontiguousarray(moved[MARGIN:-MARGIN, MARGIN:-MARGIN])
        yield frame, _box(face @ move[:, :2].T + move[:, 2] - MARGIN)


def mouth_track(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Opening and rounding of the mouth 0..1 in each 40 ms of sound: loudness opens it, a low spectral centroid
    (250 to 3,500 Hz) rounds it."""
    step = SAMPLING_RATE // FRAME_RATE
    windows = samples[: len(samples) // step * step].reshape(-1, step)
    loudness = 20 * np.log10(np.sqrt((windows**2).mean(1)) + 1e-5)
    quiet, loud = np.percentile(loudness, (10, 95))
    opening = np.clip((loudness - quiet - 6) / max(loud - quiet - 6, 6), 0, 1)
    frequency = np.fft.rfftfreq(step, 1 / SAMPLING_RATE)
    band = (frequency > 250) & (frequency < 3500)
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(step), axis=1))[:, band]
    centroid = spectrum @ frequency[band] / (spectrum.sum(1) + 1e-6)
    rounding = np.clip((1100 - centroid) / 500, 0, 1) * opening
    smooth = (0.25, 0.5, 0.25)
    return np.convolve(opening, smooth, "same"), np.convolve(rounding, smooth, "same")


def _draw_keys(sitter: Sitter, scene: Scene, random: np.random.Generator) -> Keys:
    size = SIZE + 2 * MARGIN
    mood = {"mouthSmile": max(0.0, 0.12 * random.normal()), "browInnerUp": max(0.0, 0.3 * random.normal())}

    def draw(opening: float, rounding: float, shut: float = 0.0) -> Portrait:
        mouth = {"jawOpen": 0.30 * opening, "mouthLowerDown": 0.25 * opening, "mouthUpperUp": 0.12 * opening}
        actions = mood | mouth | {"mouthFunnel": 0.55 * rounding, "eyeBlink": shut}
        key = draw_portrait(sitter, scene, actions, size, OVERSAMPLING, MARGIN)
        return Portrait(key.picture.astype(np.float32), key.face)

    mouths = [[draw(opening, rounding) for opening in OPENINGS] for rounding in (0, ROUNDED)]
    lids = {HALF_SHUT: draw(0, 0, 0.5), SHUT: draw(0, 0, 0.95)}
    changed = np.abs(lids[SHUT].picture - mouths[0][0].picture).max(2) > 6
    soft = cv2.GaussianBlur(cv2.dilate(changed.astype(np.float32), np.ones((5, 5))), (0, 0), 1.5)
    return Keys(mouths, lids, soft[..., None])


def _draw_motion(samples: np.ndarray, random: np.random.Generator) -> Motion:
    opening, rounding = mouth_track(samples)
    time = np.arange(len(opening)) / FRAME_RATE
    phase, frequency = random.uniform(0, 2 * np.pi, (4, 1)), random.uniform(0.15, 0.6, (4, 1))
    right, down, degrees, growth = np.array([[2.2], [1.6], [1.4], [0.008]]) * np.sin(
        2 * np.pi * frequency * time + phase
    )
    down = down + 1.2 * opening
    size = SIZE + 2 * MARGIN
    moves = np.stack(
        [cv2.getRotationMatrix2D((size / 2, size * 0.6), *turn) for turn in zip(degrees, 1 + growth, strict=True)]
    )
    moves[:, 0, 2] += right
    moves[:, 1, 2] += down
    return Motion(opening, rounding, _draw_blinks(len(opening), random), moves)


def _draw_blinks(frames: int, random: np.random.Generator) -> np.ndarray:
    blink = np.zeros(frames, int)
    start = int(random.uniform(0.5, 2.5) * FRAME_RATE)
    while start < frames:
        blink[start : start + len(BLINK)] = BLINK[: frames - start]
        start += int(random.uniform(1.8, 4.0) * FRAME_RATE)
    return blink


def _mouth_parts(keys: Keys, opening: float, rounding: float) -> list[tuple[np.float32, Portrait]]:
    """The key pictures between which the mouth is, with their shares."""
    position = opening * (len(OPENINGS) - 1)
    level = min(int(position), len(OPENINGS) - 2)
    further = position - level
    parts = []
    for share, row in ((1 - rounding, keys.mouths[0]), (rounding, keys.mouths[1])):
        parts += [(np.float32(share * (1 - further)), row[level]), (np.float32(share * further), row[level + 1])]
    return [(share, part) for share, part in parts if share > 0]


def _box(points: np.ndarray) -> Box:
    (left, top), (right, bottom) = points.min(0) / SIZE, points.max(0) / SIZE
    return float(left), float(top), float(right - left), float(bottom - top)
