"""A never trained speech encoder in the form in which a trained one is exported: not its architecture, its file."""

from pathlib import Path

from featurestore.program_file import write_program
from pipelines.extractors.speech import SAMPLES

NUMBERS = 512


def write_speech_query(folder: Path) -> None:
    """Write speech_query.pt2: PCM (B, 96000) int16 -> (B, 512) float32 of length 1."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(1, NUMBERS, 400, stride=1600)

        def forward(self, speech: torch.Tensor) -> torch.Tensor:
            return nn.functional.normalize(self.layer(speech[:, None] / (1 << 15)).tanh().square().mean(2), dim=1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder().eval().requires_grad_(False)
    sound, batch = torch.zeros(2, SAMPLES, dtype=torch.int16), torch.export.Dim("batch")
    write_program(
        folder / "speech_query.pt2", torch.export.export(encoder, (sound,), dynamic_shapes={"speech": {0: batch}})
    )
