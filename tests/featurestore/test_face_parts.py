"""Masks of a face's parts, from the landmarks that Face Mesh found on a synthetic face."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featurestore.face_parts import OVAL, PARTS, bottom_mask, part_masks

SIZE = 256


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    """(468, 2) float16, as the store gives them."""
    return np.load(Path(__file__).parent / "data" / "face_landmarks.npy")


@pytest.fixture(scope="module")
def masks(landmarks) -> dict[str, np.ndarray]:
    return part_masks(landmarks, SIZE)


def middle(mask: np.ndarray) -> np.ndarray:
    """(x, y) of a mask's middle, as fractions of the picture."""
    y, x = np.nonzero(mask)
    return (np.array([x.mean(), y.mean()]) + 0.5) / len(mask)


def turned(landmarks: np.ndarray, degrees: float) -> np.ndarray:
    """The landmarks, turned clockwise about the tip of the nose."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (landmarks - landmarks[1]) @ turn.T + landmarks[1]


def test_every_part_is_there_and_no_pixel_twice(masks):
    assert set(masks) == set(PARTS)
    assert all(mask.shape == (SIZE, SIZE) and mask.dtype == bool and mask.sum() > 100 for mask in masks.values())
    assert np.sum(list(masks.values()), axis=0).max() == 1


def test_parts_lie_one_below_the_other(masks):
    heights = {part: middle(mask)[1] for part, mask in masks.items()}
    assert sorted(heights, key=heights.__getitem__) == ["eyebrows", "eyes", "nose", "mouth", "jaw"]


@pytest.mark.parametrize(("part", "landmark"), [("nose", 4), ("mouth", 13), ("jaw", 199), ("eyes", 159), ("eyes", 386)])
def test_parts_hold_their_landmarks(masks, landmarks, part, landmark):
    x, y = landmarks[landmark].astype(float) * SIZE
    assert masks[part][int(y) - 1 : int(y) + 3, int(x) - 1 : int(x) + 2].any()


def test_the_eyes_and_brows_are_two_each(masks, landmarks):
    bridge = round(float(landmarks[168, 0]) * SIZE)
    for part in ("eyes", "eyebrows"):
        left, right = masks[part][:, :bridge].sum(), masks[part][:, bridge:].sum()
        assert 0.4 < left / right < 2.5


def test_the_bottom_face_is_the_lower_half_and_the_nose(masks, landmarks):
    bottom = bottom_mask(landmarks, SIZE)
    for part in ("mouth", "nose", "jaw"):
        assert bottom[masks[part]].all()
    assert not bottom[masks["eyebrows"]].any()
    assert bottom[masks["eyes"]].mean() < 0.3
    rows = np.flatnonzero(bottom.any(1)) / SIZE
    assert rows[0] == pytest.approx(landmarks[168, 1], abs=0.02)
    assert rows[-1] == pytest.approx(min(float(landmarks[152, 1]), 1), abs=0.02)
    xs = np.nonzero(bottom)[1]
    assert xs.min() / SIZE >= landmarks[list(OVAL), 0].min() - 0.02
    assert xs.max() / SIZE <= landmarks[list(OVAL), 0].max() + 0.02
    for cheek in (50, 280):
        x, y = (landmarks[cheek].astype(float) * SIZE).astype(int)
        assert bottom[y, x]
    for forehead in (151, 69, 299):
        x, y = (landmarks[forehead].astype(float) * SIZE).astype(int)
        assert not bottom[y, x]


def test_masks_turn_with_the_head(landmarks, masks):
    for degrees in (-90, 30, 180):
        for part, mask in part_masks(turned(landmarks.astype(float), degrees), SIZE).items():
            expected = turned(np.vstack([landmarks[:2].astype(float), middle(masks[part])]), degrees)[2]
            if np.all((expected > 0.2) & (expected < 0.8)) and part != "jaw":
                assert np.abs(middle(mask) - expected).max() < 0.02


@pytest.mark.parametrize("size", [64, 512])
def test_masks_of_another_size_cover_the_same(landmarks, masks, size):
    small = part_masks(landmarks, size)
    for part in PARTS:
        assert np.abs(middle(small[part]) - middle(masks[part])).max() < 0.6 / size + 0.01


def test_a_face_outside_the_picture_has_empty_masks(landmarks):
    away = landmarks.astype(np.float32) + 3
    assert not any(mask.any() for mask in part_masks(away, SIZE).values())
    assert not bottom_mask(away, SIZE).any()


def test_nothing_heavy_is_imported():
    code = "import sys, featurestore.face_parts; print({'lance', 'ray', 'torch', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
