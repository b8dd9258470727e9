"""What decoding found: the file's hash, its length, frame rate and size."""

from importlib.metadata import version

from featurestore.makers import Maker
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample


class MediaRecord(Extractor):
    """`media`: sha256 of the file, seconds, frames a second, pixels (NULL where the file has no picture)."""

    name = "media"
    makes = ("media",)
    needs = "media"

    def makers(self) -> dict[str, Maker]:
        return {"media": Maker("media", "container and decoder", f"av {version('av')}")}

    def extract(self, sample: Sample) -> Values:
        media = sample.media
        return {
            "media_sha256": media.sha256,
            "media_duration": media.duration,
            "media_fps": media.fps,
            "media_width": media.width,
            "media_height": media.height,
        }
