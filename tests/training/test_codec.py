"""The codec: what it hears, what it contrasts, how it learns alone and with others, and what it is when frozen."""

import os
import socket
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from featurestore import feed
from featurestore.conditioning import system
from featurestore.errors import UsageError, VoxportraitError
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from featurestore.program_file import write_program
from featurestore.records import Batch
from training.checkpoint import open_run
from training.latent.adversary import Discriminator, fooling, telling_apart
from training.latent.codec import Codec, Frozen, resize
from training.latent.contrast import contrast, scale_of, speaker_numbers
from training.latent.presets import QUERY
from training.latent.pretraining import CodecStage, retrieval
from training.latent.speech import SAMPLES, SpeechEncoder, spectrogram
from training.loop import train
from training.metrics import read_metrics
from training.ranks import Ranks
from training.samples import draw
from training.stages import build, settings_of
from training.step import Learner

STEPS = 4
SMALL = {
    "side": 16, "speech_widths": (4, 8), "token_width": 8, "warmup": 0, "contrast": 1.0, "learning_rate": 1e-3,
    "autoencoder": {
        "block_out_channels": (4, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
}  # fmt: skip
LAYOUT = system("fine-portraitist").layout()
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_models(tmp_path_factory, monkeypatch):
    """Whatever models the machine has, there are none."""
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path_factory.getbasetemp() / "no models"))


def people(clips: int = 12, held_out: tuple[int, ...] = (10, 11)) -> MemoryRecords:
    """Two clips a person: who has a higher voice has a brighter face."""
    random = np.random.default_rng(0)
    time, who = np.arange(SAMPLES) / 16_000, np.arange(clips) // 2
    voices = np.sin(2 * np.pi * (150 + 60 * who[:, None]) * time) * random.uniform(3000, 9000, (clips, 1))
    faces = np.broadcast_to((40 * who + 20).astype(np.uint8)[:, None, None, None], (clips, 64, 64, 3)).copy()
    faces[:, ::8] = random.integers(0, 255, (clips, 8, 64, 3))
    bottom = np.zeros((clips, 64, 64), bool)
    bottom[:, 32:] = True
    return MemoryRecords(
        [f"test/id{one:05d}/video/{clip}" for clip, one in enumerate(who)],
        {"speech": (voices + random.normal(0, 50, voices.shape)).astype(np.int16)},
        held_out=held_out,
        pictures={"face": faces, "bottom": bottom},
    )


def stage(**choices) -> CodecStage:
    torch.manual_seed(0)
    built = build("fine-portraitist", "codec", settings_of("codec", "micro", {**SMALL, **choices}), LAYOUT, CPU)
    assert isinstance(built, CodecStage)
    return built


def batch(own: slice = slice(None), size: int = 8) -> feed.Inputs:
    """The part `own` of a global batch of `size` clips."""
    records, rows = people(), np.arange(size)[own]
    pictures = {name: torch.from_numpy(records.arrays[name][rows]) for name in ("face", "bottom")}
    face = pictures["face"].permute(0, 3, 1, 2) / 255
    return feed.Inputs(
        Batch(0, 0, rows, rows.astype(np.uint64), records.clip_ids(rows), {}, {}),
        torch.zeros(len(rows), 256, 768),
        {"face": face, "bottom": face * pictures["bottom"][:, None]},
        {"speech": torch.from_numpy(records.arrays["speech"][rows])},
    )


def gradients(ranks: Ranks = Ranks(), own: slice = slice(None), micro_batch: int | None = None) -> torch.Tensor:
    """Of a step, in one row. Weights would tell less: Adam enlarges what rounding leaves where a gradient is zero."""
    learner = Learner(stage(clip=0.0, adversarial=0.1), ranks, micro_batch)
    learner.step(batch(own), 0, 0, 2, samples=8)
    parameters = learner.stage.network.parameters()
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters])


def assert_as(told: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding of sums."""
    torch.testing.assert_close(told, expected, rtol=1e-3, atol=1e-5 * expected.norm().item())


# -- hearing ----------------------------------------------------------------------------------------------------------


def test_the_spectrogram_is_the_compressed_fourier_transform_of_each_window():
    speech = people().arrays["speech"][:2]
    heard = spectrogram(torch.from_numpy(speech))
    assert (heard.shape, heard.dtype) == ((2, 2, 598, 257), torch.float32)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for frame in (0, 301, 597):
        transform = np.fft.rfft(speech[1, 160 * frame : 160 * frame + 400] / 2**15 * window, 512)
        expected = np.abs(transform) ** 0.3 * np.exp(1j * np.angle(transform))
        np.testing.assert_allclose(heard[1, 0, frame] + 1j * heard[1, 1, frame].numpy(), expected, atol=2e-3)
    assert spectrogram(torch.zeros(1, SAMPLES, dtype=torch.int16)).abs().max() == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectrogram(torch.from_numpy(speech)), heard)


def test_fused_embeddings_are_heard_by_their_direction_and_give_a_token_each():
    torch.manual_seed(0)
    settings = settings_of("codec", "micro", {**SMALL, "fused": ("ecapa", "titanet")})
    encoder = SpeechEncoder(settings)  # type: ignore[arg-type]
    beside = {"speech": torch.zeros(3, SAMPLES, dtype=torch.int16)} | {
        key: torch.randn(3, 192, generator=torch.Generator().manual_seed(5)) for key in ("ecapa", "titanet")
    }
    tokens, query = encoder(beside)
    assert tokens.shape == (3, encoder.length, 8)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(3))
    assert not torch.allclose(query[0], query[1], atol=1e-3)
    torch.testing.assert_close(encoder(beside | {"ecapa": 200 * beside["ecapa"]}), (tokens, query))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"fused": ("pyannote",)}, "fused takes stored vectors .*pyannote is a block"),
        (
            {"fused": ("ecapa",)},
            "the codec takes ecapa as it is stored, and beside the matrix the layout .* has speech",
        ),
        ({"side": 17}, "side is 17, and this autoencoder takes multiples of 2"),
        ({"speech_encoder": "hubert"}, "unknown speech encoder 'hubert'. Known: convolutional, audioclip"),
        ({"speech_encoder": "audioclip"}, "audioclip.pt2 is not there: put AudioCLIP's audio encoder there"),
        ({"perceptual": 1.0}, "the perceptual loss needs it"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_line(choices, message):
    with pytest.raises(VoxportraitError, match=message) as told:
        stage(**choices)
    assert "\n" not in str(told.value)


class Ear(torch.nn.Module):
    """In the place of AudioCLIP's encoder."""

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return sound.unfold(1, 9600, 9600).square().mean(2, keepdim=True) * torch.ones(5)


def test_audioclips_program_is_frozen_and_no_other_is_taken_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXPORTRAIT_MODELS", str(tmp_path / "models"))
    batch_of = {"sound": {0: torch.export.Dim("batch")}}
    path = tmp_path / "models/audioclip/audioclip.pt2"
    write_program(path, torch.export.export(Ear(), (torch.zeros(2, SAMPLES),), dynamic_shapes=batch_of))
    settings = settings_of("codec", "micro", {**SMALL, "speech_encoder": "audioclip"})
    codec = Codec(settings)  # type: ignore[arg-type]
    heard = {"speech": torch.full((3, SAMPLES), 1000, dtype=torch.int16)}
    assert codec.speech(heard)[0].shape == (3, 10, 8)
    state = codec.state_dict()
    codec.load_state_dict(state)
    with pytest.raises(VoxportraitError, match=r"audioclip\.pt2 is not the encoder that this codec was trained with"):
        codec.load_state_dict(state | {"speech.heard.digest": torch.zeros(32, dtype=torch.uint8)})
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(VoxportraitError, match="an exported program is code, and is not loaded unknown"):
        Codec(settings)  # type: ignore[arg-type]


# -- contrast ---------------------------------------------------------------------------------------------------------


def queries(size: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randn(2, size, QUERY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    speech, face = torch.nn.functional.normalize(both, dim=2)
    return speech, face


def speakers(*names: str) -> torch.Tensor:
    return torch.tensor(speaker_numbers(f"test/{name}/video/{place}" for place, name in enumerate(names)))


def test_the_contrast_is_clips_where_nobody_speaks_twice():
    (speech, face), scale = queries(), torch.tensor(20.0, dtype=torch.float64)
    told = contrast(speech, face, scale, speakers(*"abcdef"), slice(0, 6), (speech, face))
    logits, labels = scale * speech @ face.T, torch.arange(6)
    expected = sum(torch.nn.functional.cross_entropy(one, labels, reduction="none") for one in (logits, logits.T)) / 2
    torch.testing.assert_close(told, expected)


def test_another_clip_of_the_same_speaker_is_no_negative():
    (speech, face), scale = queries(), torch.tensor(20.0, dtype=torch.float64)
    who = speakers(*"abacde")
    before = contrast(speech, face, scale, who, slice(0, 6), (speech, face))
    speech[2], face[2] = speech[0], face[0]
    after = contrast(speech, face, scale, who, slice(0, 6), (speech, face))
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])
    assert torch.equal(contrast(speech, face, scale, speakers(*"aaaaaa"), slice(0, 6), (speech, face)), torch.zeros(6))


def test_gradients_of_parts_add_up_to_those_of_the_whole_batch():
    who = speakers(*"abacde")

    def added(*parts: slice) -> list[torch.Tensor]:
        both, log_scale = queries(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        speech, face = (one.clone().requires_grad_() for one in both)
        losses = [contrast(speech[own], face[own], log_scale.exp(), who, own, both) for own in parts]
        total = torch.cat(losses).sum()
        total.backward()
        return [total.detach(), speech.grad, face.grad, log_scale.grad]  # type: ignore[list-item]

    torch.testing.assert_close(added(slice(0, 2), slice(2, 5), slice(5, 6)), added(slice(0, 6)))


def test_the_temperature_ends_at_clips_limit_and_comes_back():
    log_scale = torch.tensor(9.0, requires_grad=True)
    scale = scale_of(log_scale)
    assert scale.item() == pytest.approx(100)
    scale.backward()
    assert log_scale.grad is not None
    assert log_scale.grad.item() == pytest.approx(100)


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_one_piece() -> torch.Tensor:
    return gradients()


@pytest.mark.parametrize("micro_batch", [2, 4, 3])
def test_a_batch_in_pieces_is_learnt_as_in_one(in_one_piece, micro_batch):
    assert_as(gradients(micro_batch=micro_batch), in_one_piece)


def test_what_a_piece_learns_is_of_the_whole_batch(in_one_piece):
    """Without the others' queries a half would learn something else."""
    halves = [gradients(own=half) for half in (slice(0, 4), slice(4, 8))]
    assert (halves[0] + halves[1] - in_one_piece).norm() > 0.1 * in_one_piece.norm()


def test_each_term_of_the_loss_reaches_what_it_is_to_teach():
    terms = ("contrast", "reconstruction", "kl", "adversarial")
    reached: dict[str, set[str]] = {}
    for term in terms:
        choices: dict[str, Any] = {**dict.fromkeys(terms, 0.0), term: 1.0}
        one = stage(**choices)
        inputs = one.inputs(batch())
        if one.shows:
            inputs = one.meet(inputs, one.shown(inputs).detach(), 0)
        one.loss(inputs, one.noise(batch().batch, 0)).sum().backward()
        named = one.network.named_parameters()
        reached[term] = {".".join(name.split(".")[:2]) for name, p in named if p.grad is not None and p.grad.any()}
    speech = {"speech.heard", "speech.pooling", "speech.query"}
    assert speech | {"log_scale", "face.encoder", "face_query.out"} <= reached["contrast"]
    assert "face.decoder" not in reached["contrast"]
    assert {"face.encoder", "face.decoder"} <= reached["reconstruction"]
    assert {one.split(".")[0] for one in reached["reconstruction"] | reached["kl"]} == {"face"}
    assert "face.decoder" not in reached["kl"]
    assert {"face.decoder", "discriminator.layers"} <= reached["adversarial"]


def test_the_adversaries_teach_each_other_nothing_of_their_own():
    torch.manual_seed(0)
    discriminator = Discriminator(4)
    drawn = torch.rand(2, 3, 16, 16, requires_grad=True)
    fooling(discriminator, drawn).sum().backward()
    assert drawn.grad is not None
    assert drawn.grad.any()
    assert all(p.grad is None for p in discriminator.parameters())
    drawn.grad = None
    telling_apart(discriminator, torch.rand(2, 3, 16, 16), drawn).sum().backward()
    assert drawn.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_parts_of_the_codec_have_learning_rates_of_their_own():
    before = stage().network.state_dict()
    slow = Learner(stage(rates={"speech": 0.0}))
    slow.step(batch(), 0, 0, 2)
    changed = {name.split(".")[0] for name, now in slow.stage.network.state_dict().items()
               if not torch.equal(now, before[name])}  # fmt: skip
    assert changed == {"face", "face_query", "log_scale"}


def run(folder: Path, ranks: Ranks = Ranks(), **more) -> dict:
    return train(
        folder, Loader(people(), 4, 0, ranks.rank, ranks.size), "fine-portraitist", "codec", "micro", choices=SMALL,
        steps=STEPS, device="cpu", report_every=1, validate_every=2, ranks=ranks, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run without a stop."""
    folder = tmp_path_factory.mktemp("runs") / "fine-portraitist-codec"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXPORTRAIT_MODELS", str(folder / "no models"))
        run(folder)
    return folder


def test_stopped_and_resumed_pretraining_is_the_same_to_the_bit(straight, tmp_path):
    calls = count(1)
    assert run(tmp_path / "run", should_stop=lambda: next(calls) == 2)["step"] == 2
    assert run(tmp_path / "run")["finished"]
    both = (straight, tmp_path / "run")
    for part in ("model", "average", "optimizer"):
        whole, halves = (load_file(open_run(one).folder / f"{part}.safetensors") for one in both)
        assert all(torch.equal(values, halves[name]) for name, values in whole.items()), part
    told = [[(row["step"], row.get("loss"), row.get("psnr")) for row in read_metrics(one)] for one in both]
    assert told[0] == told[1]


def test_what_is_measured_of_held_out_clips(straight):
    (told,) = [row for row in read_metrics(straight) if row["step"] == STEPS and "validation_loss" in row]
    assert {"psnr", "bottom_psnr", "speech_to_face_r1", "speech_to_face_r5", "speech_to_face_r1_chance"} <= told.keys()
    assert (told["speech_to_face_r1"], told["speech_to_face_r1_chance"]) == (1, 1)
    assert 0 < told["psnr"] < 40


def test_retrieval_counts_the_speakers_whose_faces_are_nearer():
    speech, face = (one.float() for one in queries(8))
    who = speakers(*"aabbccdd")
    right = retrieval(torch.cat([face, face, who], 1))
    assert (right["speech_to_face_r1"], right["speech_to_face_r1_chance"]) == (1, 0.25)
    one_of_two = torch.cat([torch.where(torch.arange(8)[:, None] % 2 == 0, face, face.roll(2, 0)), face, who], 1)
    assert retrieval(one_of_two)["speech_to_face_r1"] == 0.5
    assert retrieval(torch.cat([speech, face, who], 1))["speech_to_face_r5"] == 1


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "VOXPORTRAIT_MODELS": f"{folder}/none"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    ranks, own = Ranks(rank, 2), (slice(0, 5), slice(5, 8))[rank]
    torch.save(gradients(ranks, own, micro_batch=2), Path(folder) / f"{rank}.pt")
    run(Path(folder) / "run", ranks)
    torch.distributed.destroy_process_group()


def test_two_workers_learn_what_one_does(in_one_piece, straight, tmp_path):
    """Of parts of other sizes, in other micro-batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    assert_as(first, in_one_piece)
    alone, shared = ([row["loss"] for row in read_metrics(f) if "loss" in row] for f in (straight, tmp_path / "run"))
    np.testing.assert_allclose(shared, alone, rtol=1e-3)


@pytest.mark.slow
def test_synthetic_people_are_drawn_again_and_found_by_their_voice(tmp_path):
    """Eight people; of each four clips are learnt from and two are held out."""
    from pipelines.population.people import draw_person
    from pipelines.population.portrait import Sitter, draw_portrait
    from pipelines.population.scene import draw_scene
    from pipelines.population.voices import say

    everybody = [draw_person(3, index) for index in range(8)]
    clips = [(person, video) for person in everybody for video in range(6)]
    faces = [draw_portrait(Sitter.of(person), draw_scene(person, video), size=128).picture for person, video in clips]
    lower = np.broadcast_to(np.arange(128)[:, None] > 60, (len(clips), 128, 128))
    speech = np.stack([say(person, video).samples * 2**15 for person, video in clips]).astype(np.int16)
    records = MemoryRecords(
        [f"made/{person.index}/{video}/0" for person, video in clips],
        {"speech": speech},
        held_out=[place for place, (_, video) in enumerate(clips) if video > 3],
        pictures={"face": np.stack(faces), "bottom": lower.copy()},
    )
    run = tmp_path / "run"
    train(run, Loader(records, 8, 0), "fine-portraitist", "codec", "micro", steps=120, device="cpu", sample_every=120)
    rows = read_metrics(run)
    print([row for row in rows if "psnr" in row][-1])
    losses = [row["loss"] for row in rows if "loss" in row]
    told = [row for row in rows if "psnr" in row][-1]
    assert losses[-1] < losses[0] / 3
    assert told["psnr"] > 17
    assert told["speech_to_face_r1"] >= 3 * told["speech_to_face_r1_chance"]


# -- frozen -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(straight) -> Frozen:
    state = torch.random.get_rng_state()
    loaded = Frozen.load(straight, "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    return loaded


def test_a_frozen_codec_is_the_moving_average_and_is_not_trained(frozen, straight):
    average = open_run(straight).tensors("average", CPU)
    assert all(torch.equal(values, average[name]) for name, values in frozen.codec.state_dict().items())
    assert not any(p.requires_grad for p in frozen.codec.parameters())
    assert (frozen.side, frozen.latent_shape, frozen.token_shape) == (16, (4, 8, 8), (150, 8))
    assert (frozen.about["stage"], len(frozen.weights)) == ("codec", 64)


def test_what_it_says_of_a_clip_does_not_depend_on_its_batch(frozen):
    records = people()
    pictures = torch.from_numpy(records.arrays["face"]).permute(0, 3, 1, 2) / 127.5 - 1
    speech = torch.from_numpy(records.arrays["speech"])
    latents, (tokens, query) = frozen.encode(pictures), frozen.hear({"speech": speech})
    assert (latents.shape, tokens.shape, query.shape) == ((12, 4, 8, 8), (12, 150, 8), (12, QUERY))
    torch.testing.assert_close(frozen.encode(pictures[3:4]), latents[3:4], rtol=1e-4, atol=1e-5)
    alone = frozen.hear({"speech": speech[3:4]})
    torch.testing.assert_close(alone, (tokens[3:4], query[3:4]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(12))
    assert torch.equal(frozen.encode(pictures), latents)
    decoded = frozen.decode(latents)
    assert decoded.shape == (12, 3, 16, 16)
    assert decoded.abs().max() <= 1


def test_pictures_of_any_size_are_brought_to_the_codecs_by_means_over_areas(frozen):
    small = torch.rand(2, 3, 16, 16) * 2 - 1
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(resize(large, 16), small)
    torch.testing.assert_close(frozen.encode(large), frozen.encode(small))


def test_a_run_of_another_stage_is_no_codec(tmp_path):
    from tests.training.clips import clips_in_memory

    train(tmp_path / "run", clips_in_memory(), preset="micro", steps=1, device="cpu")
    with pytest.raises(UsageError, match="is a run of the stage unet1, not of codec"):
        Frozen.load(tmp_path / "run", "cpu")


def test_the_grid_shows_faces_and_bottoms_with_what_becomes_of_them(frozen, straight):
    one = stage().with_network(frozen.codec)
    grid = draw(one, feed.Feed(Loader(people(), 4, 0), LAYOUT, "cpu", allow_missing=True), 0)
    assert grid is not None
    assert grid.picture.shape == (2 * 16, 4 * 16, 3)
    assert grid.about["columns"] == ["face", "reconstruction", "bottom", "reconstruction"]
    assert (grid.picture[:8, 32:48] == 0).all()
    assert (grid.picture[8:16, 32:48] == grid.picture[8:16, :16]).all()
