"""A package with two extractors: one that never fails, and one whose clips make every kind of trouble.

TROUBLE_PACE: seconds that a value takes; TROUBLE_LOAD: seconds that the models take to load; TROUBLE_NOTES: a folder in
which what happens for the first time is noted.
"""

import errno
import os
import time
from pathlib import Path

from featurestore.catalogue import Constituent
from featurestore.makers import Maker
from pipelines.extractors.base import Extractor

STEADY = Constituent("steady", "number", "one, always")
TROUBLE = Constituent("trouble", "number", "one, where nothing happens")


class Steady(Extractor):
    name, makes, needs = "steady", ("steady",), "corpus"

    def __init__(self, recipe):
        pass

    def makers(self):
        return {key: Maker(key, key, "troublekit 1.0") for key in self.makes}

    def load(self, device):
        _is_first("loading")
        time.sleep(float(os.environ.get("TROUBLE_LOAD", 0)))

    def extract(self, sample):
        _is_first("making")
        time.sleep(0.2 if sample.clip.speaker_id == "slow" else float(os.environ.get("TROUBLE_PACE", 0)))
        return {self.name: 1.0, f"{self.name}_probability": None}


class Trouble(Steady):
    name, makes = "trouble", ("trouble",)

    def extract(self, sample):
        match sample.clip.speaker_id:
            case "aborts":
                os.abort()
            case "aborts-once" if _is_first("aborts-once"):
                os.abort()
            case "hangs":
                time.sleep(1000)
            case "starves":
                raise MemoryError("no room")
            case "starves-once" if _is_first("starves-once"):
                raise MemoryError("no room, for once")
            case "stumbles":
                raise OSError(errno.EIO, "Input/output error")
            case "stumbles-once" if _is_first("stumbles-once"):
                raise OSError(errno.EIO, "Input/output error")
            case "fills-the-disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "raises":
                raise ValueError("not for this clip")
        return super().extract(sample)


def _is_first(what: str) -> bool:
    """Whether it has not happened yet."""
    note = Path(os.environ["TROUBLE_NOTES"]) / what
    if note.exists():
        return False
    note.touch()
    return True
