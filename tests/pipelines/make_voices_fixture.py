"""Make `data/voices_200.npz`: real ECAPA embeddings of 200 synthetic voices beside the latents of their people.

    python tests/pipelines/make_voices_fixture.py        (about 3 minutes of one core)

embeddings: (200, 192) float16, the mean of the unit embeddings of two utterances of 6 s each, not repeated to 24 s as
the store does (ECAPA pools over time); latents: (200, k) float32 in the order of `names`.
"""

from pathlib import Path

import numpy as np

from pipelines.population.people import draw_person
from pipelines.population.voices import say

FIXTURE = Path(__file__).parent / "data" / "voices_200.npz"
SEED, SPEAKERS, UTTERANCES = 0, 200, 2


def load_ecapa(folder: Path):
    """SpeechBrain's ECAPA-TDNN from a local folder of the official files."""
    from speechbrain.inference.speaker import EncoderClassifier
    from speechbrain.utils.fetching import LocalStrategy

    path = str(folder)
    return EncoderClassifier.from_hparams(
        source=path,
        savedir=path,
        overrides={"pretrained_path": path},
        local_strategy=LocalStrategy.NO_LINK,
        run_opts={"device": "cpu"},
    )


def embed(encoder, samples: np.ndarray) -> np.ndarray:
    """(192,) unit embedding of speech at 16 kHz."""
    import torch

    with torch.inference_mode():
        embedding = encoder.encode_batch(torch.from_numpy(samples)[None]).squeeze().numpy()
    return embedding / np.linalg.norm(embedding)


def mean_embedding(encoder, index: int) -> np.ndarray:
    """(192,) mean of the unit embeddings of the first utterances of a person."""
    person = draw_person(SEED, index)
    return np.mean([embed(encoder, say(person, video).samples) for video in range(UTTERANCES)], axis=0)


def make(path: Path, ecapa_folder: Path) -> None:
    """Write the fixture."""
    encoder = load_ecapa(ecapa_folder)
    latents = [draw_person(SEED, index).latents() for index in range(SPEAKERS)]
    np.savez_compressed(
        path,
        embeddings=np.stack([mean_embedding(encoder, index) for index in range(SPEAKERS)]).astype(np.float16),
        latents=np.array([list(person.values()) for person in latents], np.float32),
        names=np.array(list(latents[0])),
    )


if __name__ == "__main__":
    from pipelines.weights import ensure

    make(FIXTURE, Path(ensure("ecapa")))
