import json

import numpy as np
import pytest
from typer.testing import CliRunner

from featurestore.errors import UsageError
from infra.bench import sample
from voxportrait import app


@pytest.fixture(scope="module")
def measured():
    return sample.run(long=("ancestral", 12), grid=(("dpm-solver++", 2), ("ddim", 3)), trained=2)


def test_each_sampler_has_its_speed_psnr_and_recall(measured):
    assert [(one["sampler"], one["steps"]) for one in measured["curve"]] == [("dpm-solver++", 2), ("ddim", 3)]
    for one in (*measured["curve"], measured["reference"]):
        assert one["pictures_per_second"] > 0
        assert 0 <= one["recall"] <= 1
        assert one["psnr"] > 0
    assert (measured["reference"]["sampler"], measured["reference"]["steps"]) == ("ancestral", 12)
    assert (measured["pictures"], measured["side"]) == (sample.PEOPLE, 32)
    assert measured["random_recall"] == pytest.approx(1 / sample.PEOPLE)


def test_the_fewest_steps_are_the_quickest_that_are_not_worse_by_more_than_the_interval(monkeypatch):
    long, grid = ("ancestral", 9), (("ddim", 1), ("ddim", 2), ("ddim", 3))
    quality = dict(zip((long, *grid), ((20.0, 0.5), (12.0, 0.5), (19.9, 0.5), (30.0, 1.0)), strict=True))

    def judged(model, how, cond_scale, seed):
        psnr, recall = quality[how]
        random = np.random.default_rng(1).normal(0, 1, 40)
        values = {"psnr": psnr + random - random.mean(), "recall": np.arange(40) < 40 * recall}
        return {"sampler": how[0], "steps": how[1], "pictures_per_second": 90 / how[1], **values}

    class Anything:
        matrix, about = range(40), "nobody"
        stages = (type("Stage", (), {"size": 32}),)

    monkeypatch.setattr(sample, "_judge", judged)
    monkeypatch.setattr(sample, "made_here", lambda *given: Anything)
    found = sample.run(long=long, grid=grid)
    assert (found["fewest"]["steps"], found["speedup"]) == (2, pytest.approx(4.5))
    low, high = found["reference"]["intervals"]["psnr"]
    assert 19.5 < low < 20 < high < 20.5
    assert sample.run(long=long, grid=grid[:1])["fewest"] is None
    quality = {how: (psnr, 0.025) for how, (psnr, _) in quality.items()}
    assert sample.run(long=long, grid=grid)["fewest"] is None


def test_a_system_and_its_clips_are_given_together(tmp_path):
    with pytest.raises(UsageError, match="--runs and --export go together"):
        sample.run(runs=tmp_path)


def test_options_of_another_benchmark_are_refused(monkeypatch):
    refused = CliRunner().invoke(app, ["bench", "sample", "--preset", "tiny"])
    assert "--preset is of train and precision, not of sample" in str(refused.exception)
    monkeypatch.setattr(sample, "run", lambda **given: {"given": {key: str(value) for key, value in given.items()}})
    done = CliRunner().invoke(app, ["bench", "sample", "--runs", "r", "--export", "e", "--pictures", "5", "--json"])
    assert json.loads(done.stdout.splitlines()[-1]) == {"given": {"runs": "r", "export": "e", "pictures": "5"}}
