"""Faces: SLF's geometry to the pixel, the same frame every time, and a face found in real clips."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from featurestore.clip import Clip
from featurestore.errors import UsageError
from pipelines.decoding import open_media
from pipelines.detectors import Box, resolve_detector
from pipelines.faces import (
    ATTEMPTS,
    Face,
    FaceFinder,
    candidate_frames,
    cut_face,
    face_maker,
    region_of,
    shrink_to_guide,
    which_face,
)
from pipelines.recipe import Recipe
from pipelines.reject import Reject

FASTMTCNN = Recipe(detector="fastmtcnn")


def finder_of(recipe: Recipe) -> FaceFinder:
    finder = FaceFinder(recipe)
    finder.load("cpu")
    return finder


@pytest.fixture(scope="module")
def finder():
    return finder_of(FASTMTCNN)


@pytest.fixture(scope="module")
def detector(finder):
    return finder.detector


@pytest.fixture(scope="module")
def portrait(finder, talking_head) -> np.ndarray:
    """A frame of the clip: one head, looking at the camera."""
    return finder.find(talking_head, open_media(talking_head.path)).frame


@pytest.fixture(scope="module")
def two_heads(portrait) -> np.ndarray:
    """The head twice: at half its size on the left, whole on the right."""
    small = np.asarray(Image.fromarray(portrait).resize((portrait.shape[1] // 2, portrait.shape[0] // 2)))
    return np.concatenate([np.pad(small, ((0, portrait.shape[0] - small.shape[0]), (0, 0), (0, 0))), portrait], 1)


def showing(picture: np.ndarray) -> Any:
    """A clip's media of one frame."""
    return SimpleNamespace(frame_count=1, frame=lambda index: picture)


def damaged_film(picture: np.ndarray, broken: set[int]) -> Any:
    """A clip's media of 50 frames that are all alike, or cannot be decoded."""

    def frame(index: int) -> np.ndarray:
        if index in broken:
            raise Reject("face", "damaged", f"frame {index} cannot be decoded")
        return picture

    return SimpleNamespace(frame_count=50, frame=frame)


def ramp(height: int = 240, width: int = 250) -> np.ndarray:
    """A frame whose red is x, whose green is y and whose blue is 255."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8)


def slf_crop(frame: np.ndarray, x: int, y: int, w: int, h: int) -> Image.Image:
    """The released way: grow and cut, long side to 128, centre on black."""
    top, left = max(0, int(y - 0.4 * h)), max(0, int(x - 0.5 * w))
    crop = Image.fromarray(frame[top : int(y + 1.4 * h), left : int(x + 1.5 * w)])
    scale = 128 / max(crop.size)
    small = crop.resize([round(side * scale) for side in crop.size], Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (128, 128))
    canvas.paste(small, ((128 - small.width) // 2, (128 - small.height) // 2))
    return canvas


def slf_target(crop: Image.Image) -> np.ndarray:
    """The released way: crop (14, 0, 114, 100), enlarge."""
    return np.asarray(crop.crop((14, 0, 114, 100)).resize((128, 128), Image.Resampling.BICUBIC))


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
def test_one_resampling_shows_what_the_released_steps_show(box):
    x, y, w, h = box
    face, theirs = Face(0, Box(x, y, w, h, 1.0), ramp()), slf_crop(ramp(), x, y, w, h)
    assert np.abs(face.crop_128.astype(int) - np.asarray(theirs).astype(int)).mean() < 4
    assert np.abs(face.target_128.astype(int) - slf_target(theirs).astype(int)).mean() < 4


def test_region_is_what_the_picture_shows():
    frame, box = ramp(), Box(100, 100, 40, 50, 1.0)
    left, top, side = region_of(box, frame)
    picture = cut_face(frame, box, 256)
    assert picture[100, 128, 0] == pytest.approx(left + 128.5 / 256 * side - 0.5, abs=1)
    assert picture[100, 128, 1] == pytest.approx(top + 100.5 / 256 * side - 0.5, abs=1)


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


def test_a_face_is_found_in_a_real_clip(talking_head, finder):
    face = finder.find(talking_head, open_media(talking_head.path))
    assert face.box.probability > 0.9
    x, y = face.box.centre
    height, width = face.frame.shape[:2]
    assert 0.2 < x / width < 0.8
    assert 0.2 < y / height < 0.8
    again = finder.find(talking_head, open_media(talking_head.path))
    np.testing.assert_array_equal(again.target_128, face.target_128)
    assert again.jpeg_256 == face.jpeg_256


@pytest.mark.parametrize(
    ("track", "face", "side"),
    [
        ((), "largest", "right"),
        ((), "track", "right"),
        (((0, 0.05, 0.1, 0.2, 0.3),), "largest", "right"),
        (((0, 0.05, 0.1, 0.2, 0.3),), "track", "left"),
        (((0, 0.6, 0.3, 0.2, 0.3),), "track", "right"),
        (((0, 0.15, 0.25, 0.0, 0.0),), "largest", "left"),
        (((0, 0.7, 0.5, 0.0, 0.0),), "track", "right"),
    ],
)
def test_the_speaker_s_face_among_two(finder, two_heads, track, face, side):
    """The large head on the right, unless the recipe asks for the track or the corpus gives a point."""
    clip = Clip("avspeech/a/a/1", "a.mp4", "train", face_track=track)
    chooser = finder_of(Recipe(detector="fastmtcnn", face=face))
    chooser.detector = finder.detector
    x, _ = chooser.find(clip, showing(two_heads)).box.centre
    assert side == ("left" if x < two_heads.shape[1] / 3 else "right")


def test_boxes_come_the_largest_first(detector, two_heads):
    boxes = detector.detect(two_heads, None)
    assert len(boxes) == 2
    assert boxes[0].width > 1.5 * boxes[1].width
    assert which_face(boxes, None, FASTMTCNN) == boxes[0]


def test_the_corpus_s_track_is_a_detector(portrait):
    track = finder_of(Recipe(detector="track"))
    clip = Clip("voxceleb2/a/a/1", "a.mp4", "train", face_track=((0, 0.25, 0.5, 0.125, 0.25),))
    face = track.find(clip, showing(portrait))
    height, width = portrait.shape[:2]
    assert face.box == Box(width / 4, height / 2, width / 8, height / 4, 1.0)


@pytest.mark.parametrize("track", [(), ((0, 0.5, 0.5, 0.0, 0.0),)], ids=["none", "a point"])
def test_a_clip_without_a_track_says_so(portrait, track):
    clip = Clip("voxceleb2/a/a/1", "a.mp4", "train", face_track=track)
    with pytest.raises(Reject, match="no face track") as caught:
        finder_of(Recipe(detector="track")).find(clip, showing(portrait))
    assert (caught.value.what, caught.value.reason) == ("face", "no face")


@pytest.mark.parametrize(
    "box", [(2.0, 2.0, 0.1, 0.1), (float("nan"), 0, 0.1, 0.1), (0, 0, float("inf"), 1), (0.5, 0.5, 1e-5, 1e-5)]
)
def test_a_box_that_shows_nothing_is_no_face(portrait, box):
    clip = Clip("voxceleb2/a/a/1", "a.mp4", "train", face_track=((0, *box),))
    with pytest.raises(Reject, match="finds no face"):
        finder_of(Recipe(detector="track")).find(clip, showing(portrait))


def test_a_clip_without_a_face_says_where_it_was_looked_for(make_mp4, tmp_path, finder):
    path = make_mp4(tmp_path / "a.mp4")
    clip = Clip("voxceleb2/id1/v/00001", str(path), "test")
    with pytest.raises(Reject) as caught:
        finder.find(clip, open_media(str(path)))
    assert (caught.value.what, caught.value.reason) == ("face", "no face")
    assert caught.value.message == "fastmtcnn finds no face in frames 10, 20, 30, 40, 0"


def test_a_damaged_frame_does_not_end_the_search(finder, portrait, talking_head):
    broken = set(list(candidate_frames(talking_head, 50))[:3])
    face = finder.find(talking_head, damaged_film(portrait, broken))
    assert face.frame_index == list(candidate_frames(talking_head, 50))[3]
    with pytest.raises(Reject) as caught:
        finder.find(talking_head, damaged_film(np.zeros_like(portrait), broken))
    assert (caught.value.what, caught.value.reason) == ("face", "no face")
    assert not any(f" {index}," in caught.value.message for index in broken)


def test_a_film_of_damaged_frames_is_damaged(finder, portrait, talking_head):
    *_, last = candidate_frames(talking_head, 50)
    with pytest.raises(Reject, match=f"frame {last} cannot be decoded") as caught:
        finder.find(talking_head, damaged_film(portrait, set(range(50))))
    assert (caught.value.what, caught.value.reason) == ("face", "damaged")


@pytest.mark.parametrize("size", [(8, 8), (19, 300), (40, 24)])
def test_tiny_frames_have_no_face(detector, size):
    assert detector.detect(np.zeros((*size, 3), np.uint8), None) == []


def test_the_makers_of_a_face_tell_recipes_apart():
    recipes = [FASTMTCNN, Recipe(detector="track"), Recipe(detector="fastmtcnn", face="track")]
    makers = [face_maker(recipe) for recipe in recipes]
    assert len({str(maker) for maker in makers}) == 3
    assert all(maker["trained"] for maker in makers)


def test_an_unknown_detector_lists_the_known():
    with pytest.raises(UsageError, match="fastmtcnn, retinaface, track"):
        resolve_detector("fastmtcn")
