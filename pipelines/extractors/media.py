"""What decoding found: the file's hash, its length, frame rate and size."""

from featurestore.makers import Maker
from pipelines.decoding import LIMITS, RULES, picture_decoder
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample


class MediaRecord(Extractor):
    """`media`: sha256 of the file, seconds, frames a second, pixels (NULL where the file has no picture)."""

    name = "media"
    makes = ("media",)
    needs = "media"

    def makers(self) -> dict[str, Maker]:
        parameters = {"rules": RULES, "limits": LIMITS}
        return {"media": Maker("media", "container and decoder", picture_decoder(), parameters=parameters)}

    def extract(self, sample: Sample) -> Values:
        media = sample.media
        return {
            "media_sha256": media.sha256,
            "media_duration": media.duration,
            "media_fps": media.fps,
            "media_width": media.width,
            "media_height": media.height,
        }
