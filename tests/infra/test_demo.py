import json

import pytest

from featurestore.errors import VoxportraitError
from infra.parallel_training import Training, train_all


def test_a_training_that_fails_is_named_with_its_reason(tmp_path):
    training = Training("full-input", "unet1", tmp_path / "runs" / "full-input-unet1", 1, 4)
    with pytest.raises(VoxportraitError, match=r"full-input-unet1 failed: .*there is no store at"):
        train_all([training], str(tmp_path / "nothing"), "micro", 0, lambda done, total: None, lambda: False)


@pytest.mark.slow
def test_a_small_demo_ends_in_a_report_and_runs_once(tmp_path):
    from infra.demo import Demo, Size

    size = Size(speakers=6, test_speakers=3, clips=12, steps=4)
    first = Demo(tmp_path / "demo", size).run()
    assert (first["clips"], first["speakers"], first["quarantined"]) == (12, 6, 0)
    assert first["filled_in_this_run"]["ecapa"] == first["filled"]["ecapa"] == 12
    assert "R@1" in first["metrics"]["full-input at scale 1"]
    assert "R@3" not in first["metrics"]["full-input at scale 1"]  # a gallery of three: everybody is found
    assert (tmp_path / "demo" / "report" / "index.html").exists()
    assert json.loads((tmp_path / "demo" / "summary.json").read_text()) == first
    again = Demo(tmp_path / "demo", size).run()
    assert again["filled_in_this_run"] == {}
    assert again["metrics"] == first["metrics"]
