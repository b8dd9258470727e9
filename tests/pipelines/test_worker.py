"""The worker: everything of a good clip, all that can be had of a bad one, and never an exception."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest

from featurestore.clip import Clip
from featurestore.makers import Maker
from pipelines.extractors import extractors_for
from pipelines.extractors.base import Extractor, Network, Resources
from pipelines.faults import Unfit
from pipelines.reject import Reject
from pipelines.worker import Worker
from tests.pipelines.media import faceless, without_sound

MADE = ("media", "short_term", "speech", "age", "gender", "ethnicity", "face", "face_128", "face_embedding_dlib")
SOUND = {"short_term", "speech"}
FACE = {"face", "face_128", "face_embedding_dlib"}


class Failing(Extractor):
    """An extractor of the speech's kind whose library fails in the way given."""

    name, makes, needs = "failing", ("ecapa",), "sound"

    def __init__(self, error: Exception | None = None, value=None):
        self.error, self.value = error, value

    def makers(self) -> dict[str, Maker]:
        return {"ecapa": Maker("ecapa", "failing", "")}

    def load(self, device: str) -> None:
        pass

    def extract(self, sample):
        if self.error:
            raise self.error
        return {"ecapa": self.value}


@pytest.fixture(scope="module")
def worker() -> Worker:
    worker = Worker(extractors_for(MADE))
    worker.load()
    return worker


def made(outcome) -> set[str]:
    return {key for key in MADE if key in outcome.values or f"{key}_sha256" in outcome.values}


def rejections(outcome) -> list[tuple[str, str]]:
    return [(rejection.what, rejection.reason) for rejection in outcome.rejected]


def test_a_good_clip_gives_everything(worker, talking_head):
    outcome = worker.fill(talking_head, frozenset(MADE))
    assert made(outcome) == set(MADE)
    assert outcome.rejected == []
    assert set(outcome.seconds) == {*MADE, "sound"}
    assert min(outcome.seconds.values()) >= 0


def test_only_what_is_wanted_is_made(worker, talking_head):
    outcome = worker.fill(talking_head, frozenset({"speech", "face_128"}))
    assert set(outcome.values) == {"speech", "face_128", "face_128_guide"}
    assert worker.fill(talking_head, frozenset({"gender"})).seconds.keys() == {"gender"}


def test_values_do_not_depend_on_the_clip_before(worker, talking_head, make_mp4, tmp_path):
    wanted = frozenset({"face_128", "short_term"})
    first = worker.fill(talking_head, wanted)
    worker.fill(replace(talking_head, path=str(make_mp4(tmp_path / "a.mp4"))), wanted)
    again = worker.fill(talking_head, wanted)
    for column in first.values:
        np.testing.assert_array_equal(first.values[column], again.values[column])


def test_a_missing_file_still_gives_what_the_corpus_says(worker, talking_head):
    outcome = worker.fill(replace(talking_head, path="/no/such.mp4"), frozenset(MADE))
    assert rejections(outcome) == [("media", "missing file")]
    assert made(outcome) == {"age", "gender", "ethnicity"}


def test_without_sound_the_face_goes_on(worker, talking_head, tmp_path):
    without_sound(talking_head.path, tmp_path / "a.mp4")
    outcome = worker.fill(replace(talking_head, path=str(tmp_path / "a.mp4")), frozenset(MADE))
    assert rejections(outcome) == [("sound", "no sound")]
    assert made(outcome) == set(MADE) - SOUND


def test_without_a_face_the_sound_goes_on(worker, talking_head, tmp_path):
    faceless(talking_head.path, tmp_path / "a.mp4")
    outcome = worker.fill(replace(talking_head, path=str(tmp_path / "a.mp4")), frozenset(MADE))
    assert rejections(outcome) == [("face", "no face")]
    assert made(outcome) == set(MADE) - FACE


def test_what_the_corpus_does_not_say_is_neither_made_nor_rejected(worker, talking_head):
    outcome = worker.fill(replace(talking_head, corpus_age=None), frozenset({"age", "gender"}))
    assert made(outcome) == {"gender"}
    assert outcome.rejected == []


@pytest.mark.parametrize(
    ("extractor", "reason"),
    [
        (Failing(RuntimeError("something\nbroke")), "extractor error"),
        (Failing(Reject("ecapa", "too noisy", "nothing can be heard")), "too noisy"),
        (Failing(Reject("what nobody asked for", "too noisy", "nothing can be heard")), "too noisy"),
        (Failing(value=np.array([1.0, np.nan], np.float32)), "not finite"),
        (Failing(value=np.zeros(191, np.float32)), "extractor error"),
    ],
)
def test_a_failing_library_costs_only_its_own_constituent(make_mp4, tmp_path, extractor, reason):
    worker = Worker([extractor, *extractors_for(["speech"])])
    worker.load()
    clip = Clip("voxceleb2/id1/v/00001", str(make_mp4(tmp_path / "a.mp4")), "train")
    outcome = worker.fill(clip, frozenset({"ecapa", "speech"}))
    assert rejections(outcome) == [("ecapa", reason)]
    assert set(outcome.values) == {"speech"}
    if isinstance(extractor.error, RuntimeError):
        assert outcome.rejected[0].message == "RuntimeError: something broke"


def test_a_message_from_anywhere_is_one_line_that_a_table_can_hold(make_mp4, tmp_path):
    worker = Worker([Failing(Reject("ecapa", "odd", "a \udcff name\nand " + "more " * 200))])
    outcome = worker.fill(Clip("a/b/c/d", str(make_mp4(tmp_path / "a.mp4")), "train"), frozenset({"ecapa"}))
    message = outcome.rejected[0].message
    assert message.encode().startswith(b"a \\udcff name and more")
    assert len(message) <= 300


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA error: unspecified launch failure")])
def test_a_fault_of_the_machine_costs_no_clip_its_value(make_mp4, tmp_path, error):
    worker = Worker([Failing(error)])
    with pytest.raises(Unfit, match="ecapa"):
        worker.fill(Clip("a/b/c/d", str(make_mp4(tmp_path / "a.mp4")), "train"), frozenset({"ecapa"}))


class Stumbling(Failing):
    """An extractor whose reading fails so many times, then succeeds."""

    def __init__(self, times: int, number: int = errno.EIO):
        self.left, self.number = times, number

    def extract(self, sample):
        self.left -= 1
        if self.left >= 0:
            raise OSError(self.number, os.strerror(self.number))
        return {"ecapa": np.ones(192, np.float32)}


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("pipelines.worker.PAUSES", (0.0, 0.0))


CLIP, ECAPA = Clip("a/b/c/d", "/nowhere.mp4", "train"), frozenset({"ecapa"})


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET])
def test_reading_that_stumbles_is_tried_three_times_before_it_counts(make_mp4, tmp_path, no_pause, number):
    clip = replace(CLIP, path=str(make_mp4(tmp_path / "a.mp4")))
    assert set(Worker([Stumbling(2, number)]).fill(clip, ECAPA).values) == {"ecapa"}
    outcome = Worker([Stumbling(3, number)]).fill(clip, ECAPA)
    assert [(r.what, r.reason, r.attempts) for r in outcome.rejected] == [("ecapa", "read error", 3)]


def test_a_source_file_on_a_disk_that_stumbles_is_read_again(make_mp4, tmp_path, no_pause, monkeypatch):
    clip = replace(CLIP, path=str(make_mp4(tmp_path / "a.mp4")))
    open_file, failures = os.open, [errno.EIO, errno.ESTALE]

    def stumbling(path, *arguments, **options):
        if str(path) == clip.path and failures:
            raise OSError(failures.pop(), "made up")
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", stumbling)
    assert set(Worker(extractors_for(["speech"])).fill(clip, frozenset({"speech"})).values) == {"speech"}
    failures.extend([errno.EIO] * 5)
    outcome = Worker(extractors_for(["speech"])).fill(clip, frozenset({"speech"}))
    assert [(r.what, r.reason, r.attempts) for r in outcome.rejected] == [("media", "read error", 3)]


def test_a_full_disk_is_no_clip_s_fault(make_mp4, tmp_path):
    clip = replace(CLIP, path=str(make_mp4(tmp_path / "a.mp4")))
    with pytest.raises(OSError, match="No space left"):
        Worker([Stumbling(1, errno.ENOSPC)]).fill(clip, ECAPA)


def test_a_model_that_cannot_be_loaded_costs_its_own_constituents(make_mp4, tmp_path):
    class Damaged(Failing):
        def load(self, device):
            raise ValueError("not a\ncheckpoint")

    worker = Worker([Damaged(), *extractors_for(["speech"])])
    assert worker.load() == {"ecapa": "its model cannot be loaded: ValueError: not a checkpoint"}
    clip = Clip("a/b/c/d", str(make_mp4(tmp_path / "a.mp4")), "train")
    outcome = worker.fill(clip, frozenset({"ecapa", "speech"}))
    assert (set(outcome.values), outcome.rejected) == ({"speech"}, [])


class Loudest(Network):
    """A network that gives the peak of each sound as a vector, notes its batches, and cannot take silence."""

    name, makes, needs = "loudest", ("ecapa",), "sound"
    resources = Resources(cpu_batch=4)

    def __init__(self):
        self.batches: list[int] = []

    def makers(self) -> dict[str, Maker]:
        return {"ecapa": Maker("ecapa", "loudest", "")}

    def inputs(self, sample):
        return sample.sound

    def infer(self, stack):
        self.batches.append(len(stack))
        if (np.abs(stack).max(1) < 0.02).any():
            raise ValueError("too quiet for me")
        return np.abs(stack).max(1)

    def values(self, result):
        return {"ecapa": np.full(192, result, np.float32)}


@pytest.fixture
def group(make_mp4, tmp_path):
    """Worker, network, and clips of rising loudness of which the second is too quiet for the network."""
    network = Loudest()
    worker = Worker([network, *extractors_for(["speech"])])
    worker.load()
    paths = [make_mp4(tmp_path / f"{i}.mp4", amplitude=a) for i, a in enumerate((0.1, 0.01, 0.3, 0.4, 0.5))]
    return worker, network, [Clip(f"voxceleb2/id1/v/0000{i}", str(path), "train") for i, path in enumerate(paths)]


def test_a_group_of_clips_is_one_batch_of_each_network(group):
    worker, network, clips = group
    clips = [clips[i] for i in (0, 2, 3, 4)]
    assert worker.group == 4
    outcomes = worker.fill_group(clips, [frozenset({"ecapa", "speech"})] * 4, range(4))
    assert network.batches == [4]
    peaks = [float(o.values["ecapa"][0]) for o in outcomes]
    np.testing.assert_allclose(peaks, [0.1, 0.3, 0.4, 0.5], rtol=0.2)
    assert peaks == sorted(peaks)
    assert all(0 < o.inference["ecapa"] <= o.seconds["ecapa"] and "speech" not in o.inference for o in outcomes)
    assert all(o.values["speech"].shape == (96_000,) for o in outcomes)


def test_a_clip_that_breaks_a_batch_is_rejected_alone(group):
    worker, _, clips = group
    outcomes = worker.fill_group(clips[:4], [frozenset({"ecapa", "speech"})] * 4, range(4))
    assert [rejections(o) for o in outcomes] == [[], [("ecapa", "extractor error")], [], []]
    assert all("speech" in o.values for o in outcomes)


def test_a_clip_s_values_are_the_same_bits_whoever_is_beside_it(group):
    worker, network, clips = group
    wanted = frozenset({"ecapa"})
    together = worker.fill_group([clips[0], clips[2], clips[3]], [wanted] * 3, [4, 5, 7])
    (alone,) = worker.fill_group([clips[2]], [wanted], [5])
    assert set(network.batches) == {4}
    np.testing.assert_array_equal(alone.values["ecapa"], together[1].values["ecapa"])
