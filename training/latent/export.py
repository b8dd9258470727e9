"""The trained speech encoder as a weights file, which the extractor `speech_query` makes the queries of a store with.

export_speech(Path("runs/fine-portraitist-codec"))
voxportrait fill --store S --constituents speech_query
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from featurestore.errors import UsageError
from featurestore.models import models_folder
from featurestore.program_file import write_program
from training.latent.codec import Frozen
from training.latent.speech import SAMPLES, SpeechEncoder


class _Query(nn.Module):
    """(B, 96000) int16 -> (B, QUERY) float32 of length 1."""

    def __init__(self, encoder: SpeechEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, speech: Tensor) -> Tensor:
        return self.encoder({"speech": speech})[1]


def speech_query_file() -> Path:
    """Where the extractor looks for it."""
    return models_folder() / "speech_query" / "speech_query.pt2"


def export_speech(run: Path, path: Path | None = None) -> Path:
    """Write the speech encoder of a codec's newest checkpoint, in place of one that is there; returns the file.

    path: by default where the extractor `speech_query` looks for it. Raises UsageError for a run that holds no codec,
    and for a codec whose query is made of other constituents too: an extractor is given the sound alone.
    """
    frozen = Frozen.load(run, "cpu")
    if frozen.preset.fused:
        raise UsageError(
            f"{run} makes its query of {', '.join(frozen.preset.fused)} too, which an extractor is not given: "
            "train a codec with --set fused= to export it"
        )
    if frozen.preset.speech_encoder != "convolutional":
        raise UsageError(f"{run} hears by {frozen.preset.speech_encoder}, whose program is not ours to copy")
    path = path or speech_query_file()
    sound = torch.zeros(2, SAMPLES, dtype=torch.int16)
    with torch.no_grad():
        program = torch.export.export(
            _Query(frozen.codec.speech).eval(), (sound,), dynamic_shapes={"speech": {0: torch.export.Dim("batch")}}
        )
    write_program(path, program)
    return path
