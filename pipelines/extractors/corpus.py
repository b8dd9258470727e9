"""Attributes of the speaker that the corpus itself states; no model guesses anything."""

from featurestore.makers import Maker
from pipelines.extractors.base import Extractor, Values
from pipelines.sample import Sample


class CorpusAttribute(Extractor):
    """`age`, `gender` or `ethnicity` from the clip's row. Its probability is NULL: the corpus gives none."""

    needs = "corpus"

    def __init__(self, attribute: str):
        self.name = f"corpus_{attribute}"
        self.makes = (attribute,)
        self.requires = (f"corpus_{attribute}",)

    def makers(self) -> dict[str, Maker]:
        (attribute,) = self.makes
        return {attribute: Maker(attribute, "corpus metadata", "")}

    def extract(self, sample: Sample) -> Values:
        (attribute,) = self.makes
        return {attribute: getattr(sample.clip, self.name), f"{attribute}_probability": None}
