"""Faces: SLF's geometry to the pixel, the same frame every time, and a face found in real clips."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from featurestore.clip import Clip
from pipelines.decoding import open_media
from pipelines.faces import (
    ATTEMPTS,
    DEFAULT_DETECTOR,
    DETECTORS,
    Box,
    Face,
    candidate_frames,
    cut_face,
    find_face,
    shrink_to_guide,
)
from pipelines.reject import Reject


@pytest.fixture(scope="module")
def detector():
    detector = DETECTORS[DEFAULT_DETECTOR]()
    detector.load("cpu")
    return detector


def ramp(height: int = 240, width: int = 250) -> np.ndarray:
    """A frame whose red is x, whose green is y and whose blue is 255."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8)


def slf_in_two_steps(frame: np.ndarray, x: int, y: int, w: int, h: int) -> np.ndarray:
    """The released way: grow and cut, long side to 128, centre on black, crop (14, 0, 114, 100), enlarge."""
    top, left = max(0, int(y - 0.4 * h)), max(0, int(x - 0.5 * w))
    crop = Image.fromarray(frame[top : int(y + 1.4 * h), left : int(x + 1.5 * w)])
    scale = 128 / max(crop.size)
    small = crop.resize([round(side * scale) for side in crop.size], Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (128, 128))
    canvas.paste(small, ((128 - small.width) // 2, (128 - small.height) // 2))
    return np.asarray(canvas.crop((14, 0, 114, 100)).resize((128, 128), Image.Resampling.BICUBIC))


def test_geometry_to_the_pixel():
    target = cut_face(ramp(), Box(100, 100, 40, 50, 1.0), 128)
    assert (target.shape, target.dtype) == ((128, 128, 3), np.uint8)
    pixel = 90 / 128  # grown to x 80..160 and y 80..170, so 90 frame pixels are 128 of the canvas
    centre = (np.arange(128) + 0.5) * 100 / 128 * pixel - 0.5
    rows, columns = 80 + centre, 120 + (14 - 64) * pixel + centre
    inside = (columns > 81) & (columns < 158)
    assert np.abs(target[64, inside, 0] - columns[inside]).max() <= 1
    assert np.abs(target[2:, 64, 1] - rows[2:]).max() <= 1
    assert (target[:, :, 2] > 250).mean() > 0.95


@pytest.mark.parametrize(
    "box",
    [(100, 100, 40, 50), (60, 70, 110, 120), (5, 3, 60, 90), (170, 150, 80, 88), (60, 120, 90, 30), (-10, 40, 70, 100)],
    ids=["inside", "large", "cut left above", "cut right below", "wide", "beyond the edge"],
)
def test_one_resampling_shows_what_the_released_two_steps_show(box):
    x, y, w, h = box
    ours, theirs = cut_face(ramp(), Box(x, y, w, h, 1.0), 128).astype(int), slf_in_two_steps(ramp(), *box).astype(int)
    assert np.abs(ours - theirs).mean() < 4


def test_beyond_the_grown_box_is_black():
    target = cut_face(ramp(), Box(60, 120, 90, 30, 1.0), 128)
    shown = target[64 + 20 :].any()
    assert shown
    assert not target[:30].any()


def test_guide_is_the_mean_of_blocks():
    target = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    guide = shrink_to_guide(target)
    assert (guide.shape, guide.dtype) == ((8, 8, 3), np.uint8)
    assert abs(guide[3, 5, 1] - target[48:64, 80:96, 1].mean()) <= 0.5


def test_picture_shows_the_target_s_region_without_colour_subsampling():
    face = Face(0, Box(100, 100, 40, 50, 1.0), ramp())
    picture = Image.open(io.BytesIO(face.jpeg_256))
    assert isinstance(picture, JpegImageFile)
    assert picture.size == (256, 256)
    assert {layer[1:3] for layer in picture.layer} == {(1, 1)}
    halved = np.asarray(picture.resize((128, 128), Image.Resampling.BOX)).astype(int)
    assert np.abs(halved - face.target_128).mean() < 2


def test_frames_to_try_are_fixed_by_the_clip():
    clip = Clip("voxceleb2/id1/v/00001", "a.mp4", "train")
    frames = list(candidate_frames(clip, 150))
    assert len(set(frames)) == len(frames) == ATTEMPTS
    assert frames == list(candidate_frames(clip, 150)) == [141, 21, 51, 81, 111]
    assert next(candidate_frames(Clip("voxceleb2/id1/v/00001", "a.mp4", "test"), 150)) == 10
    assert next(candidate_frames(Clip("voxceleb2/id1/v/00001", "a.mp4", "test"), 7)) == 6
    assert list(candidate_frames(clip, 1)) == [0]
    assert list(candidate_frames(clip, 0)) == []
    firsts = {next(candidate_frames(Clip(f"voxceleb2/id1/v/{i}", "a.mp4", "train"), 150)) for i in range(200)}
    assert len(firsts) > 80


def test_a_face_is_found_in_a_real_clip(talking_head, detector):
    media = open_media(talking_head.path)
    face = find_face(detector, talking_head, media)
    assert face.box.probability > 0.9
    x, y = face.box.x + face.box.width / 2, face.box.y + face.box.height / 2
    height, width = face.frame.shape[:2]
    assert 0.2 < x / width < 0.8
    assert 0.2 < y / height < 0.8
    again = find_face(detector, talking_head, open_media(talking_head.path))
    np.testing.assert_array_equal(again.target_128, face.target_128)
    assert again.jpeg_256 == face.jpeg_256


def test_the_largest_of_two_faces_is_taken(talking_head, detector):
    frame = find_face(detector, talking_head, open_media(talking_head.path)).frame
    small = np.asarray(Image.fromarray(frame).resize((frame.shape[1] // 2, frame.shape[0] // 2)))
    both = np.concatenate([np.pad(small, ((0, frame.shape[0] - small.shape[0]), (0, 0), (0, 0))), frame], 1)
    boxes = detector.detect(both)
    assert len(boxes) == 2
    assert boxes[0].x > small.shape[1]


def test_a_clip_without_a_face_says_where_it_was_looked_for(make_mp4, tmp_path, detector):
    path = make_mp4(tmp_path / "a.mp4")
    clip = Clip("voxceleb2/id1/v/00001", str(path), "test")
    with pytest.raises(Reject) as caught:
        find_face(detector, clip, open_media(str(path)))
    assert (caught.value.what, caught.value.reason) == ("face", "no face")
    assert caught.value.message == "fastmtcnn finds no face in frames 10, 20, 30, 40, 0"


@pytest.mark.parametrize("size", [(8, 8), (19, 300), (40, 24)])
def test_tiny_frames_have_no_face(detector, size):
    assert detector.detect(np.zeros((*size, 3), np.uint8)) == []
