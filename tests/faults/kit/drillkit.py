"""Extractors for the fault drill: cheap, deterministic, of every kind, with a log of what was made where.

What they make is a function of the clip's id. Environment: DRILL_PACE, seconds that a value takes; DRILL_LOG, a file
that gets a line for each value made; DRILL_NODES, how many nodes must have a worker of the job before any of them
begins; VOXPORTRAIT_FAILPOINTS, a folder whose files `failing clip *` and `failing
journal *` are orders for one failing read each.
"""

import errno
import hashlib
import io
import os
import time
from pathlib import Path

import numpy as np

from featurestore.catalogue import Constituent
from featurestore.makers import Maker
from pipelines.extractors.base import Extractor
from pipelines.reject import Reject

VECTOR = Constituent("drill_vector", "vector", "numbers of the drill", (64,))
BLOCK = Constituent("drill_block", "block", "more numbers of the drill", (31, 64))
PICTURE = Constituent("drill_picture", "picture", "a picture of the drill", extras=(("score", "float32"),))
LABEL = Constituent("drill_label", "label", "a word of the drill")
CONSTITUENTS = {c.key: c for c in (VECTOR, BLOCK, PICTURE, LABEL)}


def number(clip_id: str, key: str) -> int:
    """The number that all of a clip's values of a constituent come from."""
    return int.from_bytes(hashlib.sha256(f"{clip_id} {key}".encode()).digest()[:4], "big")


def is_bad(clip_id: str, key: str) -> bool:
    """Whether the clip cannot give the constituent."""
    return number(clip_id, key) % 31 == 0


ORDERS = Path(os.environ.get("VOXPORTRAIT_FAILPOINTS", "/nowhere"))


def obey(order: str) -> None:
    """Fail as a disk does, once for each file that orders it."""
    for path in ORDERS.glob(f"{order} *"):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        raise OSError(errno.EIO, "Input/output error")


def wait_for_the_others() -> None:
    """Come back when a worker of this job is on each of the nodes."""
    import ray

    here = ray.get_runtime_context()
    nodes = Path(os.environ["DRILL_LOG"]).with_name(f"nodes of {here.get_job_id()}")
    nodes.mkdir(exist_ok=True)
    (nodes / here.get_node_id()).touch()
    while len(list(nodes.iterdir())) < int(os.environ.get("DRILL_NODES", 1)):
        time.sleep(0.05)


class Drilled(Extractor):
    """Takes its time, fails where it is told to, and logs each value."""

    needs = "corpus"

    def __init__(self, recipe):
        pass

    def makers(self):
        return {key: Maker(key, "made up", "drillkit 1.0", trained=False) for key in self.makes}

    def load(self, device):
        from featurestore import journal

        if journal.read.__module__ == journal.__name__:
            journal.read = _failing(journal.read)
        wait_for_the_others()

    def begin(self, clip_id: str) -> None:
        import ray

        obey("failing clip")
        time.sleep(float(os.environ.get("DRILL_PACE", 0)) * len(self.makes))
        for key in self.makes:
            if is_bad(clip_id, key):
                raise Reject(key, "made up", f"{key} is not for this clip")
            line = f"{clip_id} {key} {ray.get_runtime_context().get_node_id()} {os.getpid()}\n"
            with open(os.environ["DRILL_LOG"], "ab", buffering=0) as log:
                log.write(line.encode())


def _failing(read):
    def fail_or_read(place, name):
        obey("failing journal")
        return read(place, name)

    return fail_or_read


class Numbers(Drilled):
    name, makes = "drill_numbers", ("drill_vector", "drill_block")

    def extract(self, sample):
        self.begin(sample.clip.clip_id)
        made = {}
        for key in self.makes:
            draw = np.random.default_rng(number(sample.clip.clip_id, key))
            made[key] = draw.normal(size=CONSTITUENTS[key].shape).astype(np.float32)
        return made


class Picture(Drilled):
    name, makes = "drill_picture", ("drill_picture",)

    def extract(self, sample):
        from PIL import Image

        self.begin(sample.clip.clip_id)
        draw = np.random.default_rng(number(sample.clip.clip_id, "drill_picture"))
        file = io.BytesIO()
        pixels = Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        pixels.resize((256, 256)).save(file, "JPEG", quality=40)
        return {"drill_picture": file.getvalue(), "drill_picture_score": float(draw.random())}


class Label(Drilled):
    name, makes = "drill_label", ("drill_label",)

    def extract(self, sample):
        self.begin(sample.clip.clip_id)
        picked = number(sample.clip.clip_id, "drill_label")
        return {"drill_label": ("one", "two", "three")[picked % 3], "drill_label_probability": picked % 101 / 100}
