"""Eight people speak, and are drawn from what the codec's own encoder hears: speech tokens and the query Z_s."""

from typing import Any

import numpy as np
import pytest
import torch

from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from training.checkpoint import open_run
from training.latent.denoising import draw_latents, load_stage
from training.latent.encoded import encoded
from training.loop import train
from training.stages import settings_of

CPU = torch.device("cpu")
PEOPLE, SIDE = 8, 64
KNOWN, UNHEARD = range(4), range(4, 8)
"""Clips of each that are trained on, and that are drawn from."""
THEMSELVES = np.arange(PEOPLE)
OTHERS = (THEMSELVES + 3) % PEOPLE
SEEDS = list(range(PEOPLE))
STEPS = {"codec": 200, "face": 150, "bottom": 150, "upper": 150}


@pytest.mark.slow
def test_eight_people_are_drawn_from_their_own_speech(tmp_path):
    """In one stage and in two, from clips that were not heard, as the nearest of all faces in pixels.

    Voices are espeak's, six seconds each. One face for all of a person's clips, and its lower half as the bottom.
    """
    from pipelines.population.people import draw_person
    from pipelines.population.portrait import Sitter, draw_portrait
    from pipelines.population.scene import draw_scene
    from pipelines.population.voices import say

    everybody = [draw_person(3, index) for index in range(PEOPLE)]
    faces = np.stack([draw_portrait(Sitter.of(one), draw_scene(one, 0), size=SIDE).picture for one in everybody])
    bottom = np.zeros((PEOPLE * len(KNOWN), SIDE, SIDE), bool)
    bottom[:, SIDE // 2 :] = True
    records = MemoryRecords(
        [f"made/{person}/{clip}/0" for person in range(PEOPLE) for clip in KNOWN],
        {"speech": np.concatenate([spoken(say, [person], KNOWN) for person in everybody])},
        pictures={"face": faces.repeat(len(KNOWN), 0), "bottom": bottom},
    )
    options: dict[str, Any] = {"device": "cpu", "validate_every": 10**9}
    run = tmp_path / "fine-portraitist-codec"
    train(run, Loader(records, 8), "fine-portraitist", "codec", "micro", steps=STEPS["codec"], **options)
    stages: dict[str, Any] = {}
    for stage, system in (("face", "one-stage"), ("bottom", "two-stage"), ("upper", "two-stage")):
        settings: Any = settings_of(stage, "micro", {})
        learnt = encoded(records, tmp_path, system, stage, settings, "cpu")
        run = tmp_path / f"{system}-{stage}"
        train(run, Loader(learnt, settings.batch_size), system, stage, "micro", steps=STEPS[stage], **options)
        stages[stage] = load_stage(open_run(run), learnt.codec, CPU)
    codec = stages["face"].codec
    heard = [codec.hear({"speech": torch.from_numpy(spoken(say, everybody, [clip]))}) for clip in UNHEARD]
    truth = torch.from_numpy(faces).permute(0, 3, 1, 2).double() / 127.5 - 1

    def nearest(latents: torch.Tensor) -> np.ndarray:
        return (codec.decode(latents).double()[:, None] - truth).square().sum((2, 3, 4)).argmin(1).numpy()

    def drawn(whose: np.ndarray) -> dict[str, np.ndarray]:
        """Whom the drawings from each unheard clip show, (4, 8), in one stage and in two."""
        found: dict[str, list[np.ndarray]] = {"one": [], "two": []}
        for tokens, query in heard:
            told, beside = tokens[whose], {"query": query[whose]}
            bottoms = draw_latents(stages["bottom"], told, beside, SEEDS)
            found["one"].append(nearest(draw_latents(stages["face"], told, beside, SEEDS)))
            found["two"].append(nearest(draw_latents(stages["upper"], told, {**beside, "bottom": bottoms}, SEEDS)))
        return {stages: np.stack(people) for stages, people in found.items()}

    own, shuffled = drawn(THEMSELVES), drawn(OTHERS)
    for name in own:
        right = (own[name] == THEMSELVES).sum(1).tolist()
        by_voice, by_place = ((shuffled[name] == who).sum(1).tolist() for who in (OTHERS, THEMSELVES))
        print(f"stages: {name}; of 8 right {right}; shuffled: the speaker {by_voice}, the one shuffled away {by_place}")
        assert np.mean(right) >= 6
        assert np.mean(by_voice) >= 5
        assert max(by_place) <= 3


def spoken(say: Any, people: Any, clips: Any) -> np.ndarray:
    """(people x clips, 96000) int16."""
    return np.stack([say(one, clip).samples * 2**15 for one in people for clip in clips]).astype(np.int16)
