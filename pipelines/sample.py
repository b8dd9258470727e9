"""A clip on its way through the extractors: opened once, decoded once, its face found once.

Importable without PyAV: faces are judged where no media are read.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from featurestore.clip import Clip
from pipelines.faces import Face

if TYPE_CHECKING:
    from pipelines.decoding import Media


class Sample:
    """One clip and what its extractors share. Each part is made when first asked for and raises Reject if it cannot be.

    media: the opened file; sound: (384000,) float32 in -1..1, 24 s at 16 kHz, short sound repeated; face: the chosen
    frame and the face found in it.
    """

    def __init__(self, clip: Clip, find_face: Callable[[Clip, "Media"], Face]):
        self.clip = clip
        self._find_face = find_face

    @cached_property
    def media(self) -> "Media":
        from pipelines.decoding import open_media

        return open_media(self.clip.path, self.clip.sound_path)

    @cached_property
    def sound(self) -> np.ndarray:
        return self.media.sound()

    @cached_property
    def face(self) -> Face:
        return self._find_face(self.clip, self.media)
