"""DeepFace, RetinaFace and Face Mesh: the libraries' own numbers, a face at a time, and nothing fetched or run."""

import json
import os
import pickle
import random
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from featurestore.catalogue import ATTRIBUTES, CATALOGUE
from featurestore.errors import VoxportraitError
from featurestore.face_parts import part_masks
from pipelines import weights
from pipelines.deepface_home import client_class, deepface_home
from pipelines.detectors import OPENCV, Box, FastMtcnn, RetinaFace, resolve_detector
from pipelines.extractors import AVAILABLE, extractors_for
from pipelines.extractors.deepface import NEAR, RECOGNITION_MODELS, Attribute, FaceEmbedding
from pipelines.extractors.dlib import FaceEmbedding as DlibEmbedding
from pipelines.extractors.landmarks import FaceMesh, FaceParts
from pipelines.faces import Face, region_of
from pipelines.population.camera import project, turn
from pipelines.population.head import LEFT_EYE, RIGHT_EYE, load_head
from pipelines.population.people import draw_person
from pipelines.population.portrait import Sitter, draw_portrait
from pipelines.population.scene import draw_scene
from pipelines.recipe import Recipe
from pipelines.reject import Reject

FASTMTCNN = Recipe(detector="fastmtcnn")
SIZE = 256
SMALL_MODELS = ("facenet", "facenet512", "arcface", "openface", "deepid", "ghostfacenet")


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    """Six synthetic people, each with the box that the detector finds."""
    detector = FastMtcnn()
    detector.load("cpu")
    frames = [draw_portrait(Sitter.of(p), draw_scene(p, 0), size=SIZE).picture for p in people()]
    return [Face(0, detector.detect(frame, None)[0], frame) for frame in frames]


@pytest.fixture(scope="module")
def mesh(models) -> FaceMesh:
    return FaceMesh()


def people() -> list:
    return [draw_person(7, index) for index in range(6)]


def shown(face: Face) -> Any:
    """What extractors read of a clip."""
    return SimpleNamespace(face=face)


def truth(person) -> dict[str, np.ndarray]:
    """Where the middles of the eyes and of the lips are drawn, in pixels."""
    scene, head = draw_scene(person, 0), load_head()
    points = project(Sitter.of(person).mesh().points @ turn(scene).T, scene, SIZE)[: len(head.surface), :2]
    vertices = {"left": head.surface == LEFT_EYE, "right": head.surface == RIGHT_EYE, "mouth": head.lips > 0.5}
    return {name: points[chosen].mean(0) for name, chosen in vertices.items()}


# DeepFace


def test_attributes_are_those_of_deepface_s_analysis(models, faces, monkeypatch):
    extractor = Attribute("gender", FASTMTCNN)
    extractor.load("cpu")
    stack = np.stack([extractor.inputs(shown(face)) for face in faces[:2]])
    together = extractor.infer(stack)
    np.testing.assert_allclose(extractor.infer(stack[:1])[0], together[0], atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-5

    from deepface.modules import demography, modeling

    modeling.build_model("face_detector", "opencv")
    monkeypatch.setitem(modeling.cached_models["facial_attribute"], "Gender", extractor._client)
    crop = np.ascontiguousarray(faces[0].crop_128[:, :, ::-1])
    theirs: Any = demography.analyze(crop, "gender", enforce_detection=False, silent=True)[0]
    ours = extractor.values(together[0])
    assert ours["gender"] == theirs["dominant_gender"].lower()
    assert ours["gender_probability"] == pytest.approx(max(theirs["gender"].values()) / 100, abs=1e-6)


@pytest.mark.parametrize("attribute", ["age", "ethnicity"])
def test_a_neighbour_changes_no_attribute_beyond_half_precision(models, faces, attribute):
    extractor = Attribute(attribute, FASTMTCNN)
    extractor.load("cpu")
    stack = np.stack([extractor.inputs(shown(face)) for face in faces[:2]])
    together, (alone,) = extractor.infer(stack), extractor.infer(stack[:1])
    np.testing.assert_allclose(alone, together[0], rtol=2**-11)
    assert np.abs(together[0] - together[1]).max() > 1e-7


@pytest.mark.parametrize("make", [DlibEmbedding, FaceParts])
def test_a_face_s_values_do_not_depend_on_the_one_before(models, faces, make):
    extractor = make(FASTMTCNN)
    extractor.load("cpu")
    first, other, again = (extractor.extract(shown(face)) for face in (faces[0], faces[1], faces[0]))
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value)
    assert not np.array_equal(first[extractor.name], other[extractor.name])


def test_networks_run_in_full_precision_and_the_same_way_each_time(models, faces):
    """As they would on a GPU: the settings are looked at whenever a network is called."""
    seen = set()

    def note(*_):
        cudnn = torch.backends.cudnn
        seen.add((torch.is_inference_mode_enabled(), cudnn.deterministic, cudnn.allow_tf32))

    detectors = FastMtcnn(), RetinaFace()
    networks = Attribute("gender", FASTMTCNN), FaceEmbedding("deepid", FASTMTCNN)
    calls: list[Any] = [partial(detector.detect, np.zeros((24, 24, 3), np.uint8), None) for detector in detectors]
    calls += [partial(network.extract, shown(faces[0])) for network in networks]
    loads: list[Any] = [each.load for each in (*detectors, *networks)]
    for load, call in zip(loads, calls, strict=True):
        load("cpu")
        seen.clear()
        with torch.nn.modules.module.register_module_forward_pre_hook(note):
            call()
        assert seen == {(True, True, False)}


def test_makers_name_every_library_that_changes_values(models):
    """The decoder's and OpenCV's versions, and how near an age is."""
    decoder, opencv = f"av {version('av')}", f"{OPENCV} {version(OPENCV)}"
    made = [
        (extractor, maker)
        for recipe in (Recipe("track"), Recipe("track", attributes="deepface"))
        for extractor in extractors_for(AVAILABLE, recipe)
        for maker in extractor.makers().values()
    ]
    for extractor, maker in made:
        assert (decoder in json.dumps(asdict(maker))) == (extractor.needs != "corpus")
        assert (opencv in maker.library) == isinstance(extractor, Attribute | FaceEmbedding | FaceParts)
        assert (maker.parameters.get("near") == NEAR) == (maker.model == "DeepFace Age")
    assert opencv in RetinaFace().maker()["library"]


@pytest.mark.parametrize(("attribute", "classes"), [("gender", 2), ("ethnicity", 6)])
def test_every_label_is_one_of_the_catalogue_s(attribute, classes):
    extractor = Attribute(attribute, FASTMTCNN)
    made = [extractor.values(0.4 / classes + 0.6 * np.eye(classes)[k]) for k in range(classes)]
    assert {values[attribute] for values in made} == set(ATTRIBUTES[attribute])
    assert all(values[f"{attribute}_probability"] == pytest.approx(0.4 / classes + 0.6) for values in made)


def test_age_is_deepface_s_mean_and_its_probability_what_lies_near():
    from deepface.models.demography.DemographyUtils import find_apparent_age

    ages = np.zeros(101)
    ages[[30, 32, 70]] = 0.5, 0.4, 0.1
    values = Attribute("age", FASTMTCNN).values(ages)
    assert values["age"] == pytest.approx(find_apparent_age(ages)) == pytest.approx(34.8)
    assert values["age_probability"] == pytest.approx(0.9)


@pytest.mark.parametrize("model", SMALL_MODELS)
def test_embeddings_are_those_of_deepface_s_representation(models, faces, monkeypatch, model):
    extractor = FaceEmbedding(model, FASTMTCNN)
    extractor.load("cpu")
    stack = np.stack([extractor.inputs(shown(face)) for face in faces[:3]])
    together = [extractor.values(result)[extractor.name] for result in extractor.infer(stack)]
    alone = extractor.extract(shown(faces[1]))[extractor.name]
    assert alone.shape == CATALOGUE[extractor.name].shape == (extractor._client.output_shape,)
    scale = np.abs(alone).max()
    np.testing.assert_allclose(alone, together[1], atol=1e-5 * scale)
    assert np.abs(together[0] - together[1]).max() > 1e-3 * scale

    from deepface.modules import modeling, representation

    modeling.build_model("face_detector", "opencv")
    monkeypatch.setitem(modeling.cached_models["facial_recognition"], RECOGNITION_MODELS[model], extractor._client)
    crop = faces[1].crop_128[:, :, ::-1]
    (theirs,) = representation.represent(crop, RECOGNITION_MODELS[model], detector_backend="skip")
    np.testing.assert_allclose(alone, theirs["embedding"], atol=1e-4 * scale)
    (maker,) = extractor.makers().values()
    assert not maker.trained


def test_weights_are_read_where_they_lie(models, tmp_path, monkeypatch):
    """Neither a copy nor a folder is left behind, and the environment is as it was."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = dict(os.environ)
    FaceEmbedding("deepid", FASTMTCNN).load("cpu")
    assert dict(os.environ) == before
    assert list(tmp_path.rglob("*")) == [tmp_path / "temporary"]


def test_missing_weights_say_what_to_put_where(models, monkeypatch, tmp_path):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    with pytest.raises(VoxportraitError, match=r"age_model_weights\.pth"):
        Attribute("age", FASTMTCNN).load("cpu")
    with pytest.raises(VoxportraitError, match=r"retinaface\.pth"):
        RetinaFace().load("cpu")


NOISES = ("noise 0", "noise 14", "noise 15", "noise 304", "noise 3272")
"""For these `torch.load` raises UnpicklingError, UnicodeDecodeError, IndexError, KeyError and RuntimeError."""


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("model", "file", "make"),
    [
        ("deepid", "deepid_weights.pth", lambda: FaceEmbedding("deepid", FASTMTCNN)),
        ("retinaface", "retinaface.pth", RetinaFace),
    ],
)
@pytest.mark.parametrize("content", ["pickle", "torch", "others", *NOISES])
def test_a_strange_weights_file_is_an_error_and_is_not_run(tmp_path, monkeypatch, model, file, make, content):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    (tmp_path / model).mkdir()
    path, sprung = tmp_path / model / file, tmp_path / "sprung"
    if content == "torch":
        torch.save({"weight": Trap(sprung)}, path)
    elif content == "others":
        torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    else:
        trap = pickle.dumps(Trap(sprung), protocol=2)
        path.write_bytes(trap if content == "pickle" else random.Random(content).randbytes(1000))
    with pytest.raises(VoxportraitError, match=f"models fetch {model}"):
        make().load("cpu")
    assert not sprung.exists()


@pytest.mark.parametrize("model", ["deepid", "ghostfacenet"])
def test_untrained_weights_are_the_same_bytes_each_time(models, tmp_path, monkeypatch, model):
    written = []
    for place in ("one", "two"):
        monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / place))
        torch.rand(3)
        folder = weights.write_untrained(model)
        written.append([(folder / file.name).read_bytes() for file in weights.MODELS[model].files])
    assert written[0] == written[1]


# RetinaFace


def test_retinaface_s_boxes_are_those_of_deepface_s_detector(models, monkeypatch, tmp_path):
    """Never trained, and then told that one kind of anchor is always a face: boxes all over a long, low frame."""
    path = models / "retinaface" / "retinaface.pth"
    frame = np.random.default_rng(0).integers(0, 256, (24, 400, 3), np.uint8)
    parameters = torch.load(path, weights_only=True)
    parameters["face_rpn_stride32.cls_score.bias"][2] += 9
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    (tmp_path / "retinaface").mkdir()
    torch.save(parameters, tmp_path / "retinaface" / path.name)

    detector = RetinaFace()
    detector.load("cpu")
    boxes = detector.detect(frame, None)
    areas = [box.width * box.height for box in boxes]
    assert len(boxes) > 1
    assert areas == sorted(areas, reverse=True)
    with deepface_home("retinaface"):
        theirs = client_class("face_detector", "retinaface")().detect_faces(frame[:, :, ::-1])
    key = lambda sides: tuple(round(float(side), 3) for side in sides)
    assert {key((b.x, b.y, b.width, b.height, b.probability)) for b in boxes} == {
        key((f.x, f.y, f.w, f.h, f.confidence)) for f in theirs
    }


def test_auto_is_retinaface_where_its_trained_weights_are(models, monkeypatch, tmp_path):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path))
    assert resolve_detector("auto") == "fastmtcnn"
    path = weights.write_untrained("retinaface") / "retinaface.pth"
    assert resolve_detector("auto") == "fastmtcnn"
    parameters = torch.load(path, weights_only=True)
    torch.save(parameters | {"extra": torch.zeros(1)}, path)
    assert resolve_detector("auto") == "retinaface"


# Face Mesh


def test_landmarks_lie_where_the_parts_were_drawn(mesh, faces):
    for person, face in zip(people(), faces, strict=True):
        points, score = mesh.find(face.frame, face.box)
        left, top, side = region_of(face.box, face.frame)
        assert score > 0.9
        drawn = truth(person)
        eyes = sorted((drawn["left"], drawn["right"]), key=lambda place: place[0])
        for place, corners in zip(eyes, ((33, 133), (362, 263)), strict=True):
            assert np.linalg.norm(points[list(corners)].mean(0) - place) < 0.04 * SIZE
        x, y = ((drawn["mouth"] - (left, top)) / side * 256).astype(int)
        assert part_masks((points - (left, top)) / side, 256)["mouth"][y, x]


def test_landmarks_are_stored_as_fractions_of_the_picture(models, faces, mesh):
    extractor = FaceParts(FASTMTCNN)
    extractor.load("cpu")
    values = extractor.extract(shown(faces[0]))
    assert values["face_parts"].shape == CATALOGUE["face_parts"].shape
    assert values["face_parts_score"] > 0.9
    left, top, side = region_of(faces[0].box, faces[0].frame)
    points, _ = mesh.find(faces[0].frame, faces[0].box)
    np.testing.assert_allclose(values["face_parts"] * side + (left, top), points, atol=1e-2)


def test_a_face_in_a_mirror_has_mirrored_landmarks(mesh, faces):
    """To a third of a pixel of the model's picture, on the average: no half pixel is lost on the way."""
    shifts = []
    for face in faces:
        box = face.box
        points, _ = mesh.find(face.frame, box)
        mirrored = Box(SIZE - box.x - box.width, box.y, box.width, box.height, 1.0)
        others, _ = mesh.find(np.ascontiguousarray(face.frame[:, ::-1]), mirrored)
        shifts.append(
            (points[:, 0].mean() + others[:, 0].mean() - SIZE) / 2 / (1.5 * np.ptp(points, axis=0).max() / 192)
        )
    assert abs(np.mean(shifts)) < 0.35


@pytest.mark.parametrize("angle", [-35, 20])
def test_landmarks_turn_with_the_head(mesh, faces, angle):
    face = faces[3]
    turned = cv2.getRotationMatrix2D(face.box.centre, angle, 1)
    frame = cv2.warpAffine(face.frame, turned, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    points, _ = mesh.find(face.frame, face.box)
    others, score = mesh.find(frame, face.box)
    assert score > 0.9
    assert np.linalg.norm(others - (points @ turned[:, :2].T + turned[:, 2]), axis=1).mean() < 0.02 * SIZE


def test_where_no_face_is_there_are_no_landmarks(models, faces):
    extractor = FaceParts(FASTMTCNN)
    extractor.load("cpu")
    ramp = np.broadcast_to(np.linspace(60, 180, SIZE)[None, :, None], (SIZE, SIZE, 3)).astype(np.uint8)
    with pytest.raises(Reject) as caught:
        extractor.extract(shown(Face(0, faces[0].box, ramp)))
    assert (caught.value.what, caught.value.reason) == ("face_parts", "no landmarks")
