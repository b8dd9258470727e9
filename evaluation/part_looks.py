"""How far the parts of a drawn face are from the true ones, from pictures alone.

    looks = PartLooks(("landmarks", "lab"))
    looks.distances(zip(truths, portraits))["landmarks"]["jaw"]           # (N,)

Pictures are in the geometry of `face` (SLF's `face_128` shows the same square); any size.

**A part must not be judged by its neighbours.** Three things would carry the lower face into the upper:
- where a face lies in its picture: the detector's box follows the jaw, and the eyes follow the box. So the drawn face
  is first laid over the true one (position, size and roll), by the corners of the eyes and the outline above them:
  nothing below is looked at. What this takes away counts for no part.
- the landmark network, which knows whole faces: with another jaw it sees the same eyes elsewhere. So each half is
  looked at in the true other half: a drawn bottom face below the true eyes, drawn eyes above the true bottom face. With
  speech and without it the network then sees the same true neighbours. So the upper face is laid over the true one a
  second time, which takes away what the drawn jaw had told of where it is.
- a network's fields of view, which reach beyond a part: one part at a time is drawn into the true face.
"""

from collections.abc import Callable, Iterable
from functools import cache

import cv2
import numpy as np

from evaluation.part_study import BOTTOM, PARTS, UPPER
from featurestore.errors import choose
from featurestore.face_parts import EYEBROWS, EYES, LIPS, NOSE, OVAL, bottom_mask, part_masks

SIZE = 256
"""Pixels of a side at which all pictures are looked at."""

ANCHORS = (21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 33, 133, 362, 263)
"""By these landmarks a face is laid over another: its outline above the eyes, and the corners of the eyes."""

OUTER_CORNERS = (33, 263)
"""Of the eyes: the length between them is the unit of `landmarks`."""

PART_POINTS = {
    "jaw": OVAL[OVAL.index(288) : OVAL.index(58) + 1],
    "mouth": LIPS,
    "nose": NOSE,
    "eyes": sum(EYES, ()),
    "eyebrows": sum(EYEBROWS, ()),
}
"""The landmarks of each part; of the jaw those of the face's outline below the corners of the mouth."""

MEASURES = {
    "landmarks": "mean distance of a part's landmarks (MediaPipe's Face Mesh), % of that between the outer eye corners",
    "lab": "mean difference of colour within the part (CIE 1976, L*a*b*)",
    "lpips": "LPIPS (VGG16) of the true part, 16 px around it, and the same with the part drawn, x 1,000",
}
"""What each distance is, and its unit."""

AROUND = 16
"""Pixels about a part that LPIPS sees with it."""

SEAM = 3.0
"""Pixels over which one half passes into the other."""


class PartLooks:
    """The measures in memory. device: of LPIPS, a GPU where there is one.

    Raises UsageError for a measure that is none, VoxportraitError where weights are not there.
    """

    def __init__(self, measures: Iterable[str] = ("landmarks", "lab"), device: str | None = None):
        from pipelines.extractors.landmarks import FaceMesh

        self.measures = tuple(dict.fromkeys(choose("measure", name, MEASURES) for name in measures))
        self._mesh = FaceMesh()
        self._lpips = _lpips(device) if "lpips" in self.measures else None

    def distances(
        self,
        pairs: Iterable[tuple[np.ndarray, np.ndarray]],
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, dict[str, np.ndarray]]:
        """Measure -> part -> (N,) distances of N pairs of a true and a drawn picture, (H, W, 3) uint8 RGB.

        NaN of all parts where Face Mesh sees no face in one of the two. progress: called with the pairs done.
        """
        rows = []
        for done, (truth, drawn) in enumerate(pairs, 1):
            rows.append(self._distances(_of_size(truth), _of_size(drawn)))
            if progress:
                progress(done)
        return {
            name: {part: np.array([row[name][part] if row else np.nan for row in rows]) for part in PARTS}
            for name in self.measures
        }

    def _distances(self, truth: np.ndarray, drawn: np.ndarray) -> dict[str, dict[str, float]] | None:
        """Measure -> part -> distance; None where there is no face."""
        own, found = self._find(truth), self._find(drawn)
        if own is None or found is None:
            return None
        bottom = bottom_mask(own / SIZE, SIZE)
        matrix = similarity(found, own)
        again = self._find(join(truth, _moved(drawn, matrix), bottom))
        if again is None:
            return None
        placed = _moved(drawn, similarity(again, own) @ matrix)
        measures = {"landmarks": self._landmarks, "lab": _colours, "lpips": self._perceived}
        rows = {name: measures[name](truth, own, placed, bottom) for name in self.measures}
        return rows if all(rows.values()) else None

    def _find(self, picture: np.ndarray) -> np.ndarray | None:
        """(468, 2) landmarks in pixels, the first of which reaches from 0 to 1; None where there is no face."""
        from pipelines.detectors import Box
        from pipelines.extractors.dlib import TARGET_BOX
        from pipelines.extractors.landmarks import THRESHOLD
        from pipelines.faces import TARGET_SIZE

        left, top, width, height = (
            side * SIZE / TARGET_SIZE for side in (TARGET_BOX.x, TARGET_BOX.y, TARGET_BOX.width, TARGET_BOX.height)
        )
        points, score = self._mesh.find(picture, Box(left, top, width, height, 1.0))
        return points if score >= THRESHOLD else None

    def _landmarks(
        self, truth: np.ndarray, own: np.ndarray, placed: np.ndarray, bottom: np.ndarray
    ) -> dict[str, float]:
        eyes_apart = float(np.linalg.norm(np.subtract(*own[list(OUTER_CORNERS)])))
        distances: dict[str, float] = {}
        for parts, below, above in ((BOTTOM, placed, truth), (UPPER, truth, placed)):
            found = self._find(join(below, above, bottom))
            if found is None:
                return {}
            apart = np.linalg.norm(found - own, axis=1) / eyes_apart * 100
            distances |= {part: float(apart[list(PART_POINTS[part])].mean()) for part in parts}
        return distances

    def _perceived(
        self, truth: np.ndarray, own: np.ndarray, placed: np.ndarray, bottom: np.ndarray
    ) -> dict[str, float]:
        assert self._lpips is not None
        distances = {}
        for part, mask in part_masks(own / SIZE, SIZE).items():
            around = _around(mask)
            with_part = np.where(mask[..., None], placed, truth)
            distances[part] = 1000 * self._lpips(with_part[around], truth[around])
        return distances


def similarity(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """(3, 3) position, size and roll by which the `ANCHORS` of one face come nearest to another's (least squares)."""
    here, there = ((face[list(ANCHORS)] - 0.5) @ np.array([1, 1j]) for face in (points, onto))
    centred = here - here.mean()
    turn = np.vdot(centred, there) / np.vdot(centred, centred)
    shift = there.mean() - turn * here.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])


def join(below: np.ndarray, above: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A face of two: the bottom face (mask, bool) of the one, all else of the other."""
    share = cv2.GaussianBlur(bottom.astype(np.float32), (0, 0), SEAM)[..., None]
    return np.rint(share * below + (1 - share) * above).astype(np.uint8)


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask's box and `AROUND` pixels more; of all where it is empty."""
    if not mask.any():
        return slice(None), slice(None)
    down, across = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, at[0] - AROUND), at[-1] + AROUND + 1) for at in (down, across))
    return rows, columns


def _moved(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, matrix[:2], (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _of_size(picture: np.ndarray) -> np.ndarray:
    shrinks = picture.shape[0] > SIZE
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return picture if picture.shape[:2] == (SIZE, SIZE) else cv2.resize(picture, (SIZE, SIZE), interpolation=kind)


def _colours(truth: np.ndarray, own: np.ndarray, placed: np.ndarray, bottom: np.ndarray) -> dict[str, float]:
    one, other = (cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for picture in (truth, placed))
    apart, masks = np.linalg.norm(one - other, axis=2), part_masks(own / SIZE, SIZE)
    return {part: float(apart[masks[part]].mean()) if masks[part].any() else np.nan for part in PARTS}


@cache
def _lpips(device: str | None) -> Callable[[np.ndarray, np.ndarray], float]:
    """Two pictures (H, W, 3) uint8 -> their distance."""
    import torch

    from pipelines import weights
    from training.latent.perceptual import Perceptual

    weights.ensure("lpips")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = Perceptual.load(device=where)

    def apart(*pictures: np.ndarray) -> float:
        pair = (
            torch.from_numpy(np.moveaxis(one, -1, 0)[None].copy()).to(where).float() / 127.5 - 1 for one in pictures
        )
        with torch.inference_mode():
            return float(network(*pair))

    return apart
