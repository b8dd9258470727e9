from datetime import date

import pytest

from featurestore.clip import Clip
from featurestore.policy import Policy
from featurestore.store import Store
from pipelines.estimate import OVERHEAD, estimate
from pipelines.options import Options

BYTES = 4 + 4 + 2
"""Of a number: value, probability and maker, in columns without NULLs' bits."""


def clips(count: int, dataset: str = "made", **said) -> list[Clip]:
    return [Clip(f"{dataset}/calm-{n}/video/00001", "/nowhere.mp4", "train", **said) for n in range(count)]


@pytest.fixture
def store(tmp_path, kit, monkeypatch) -> Store:
    monkeypatch.setenv("TROUBLE_PACE", "0.02")
    made = Store.open_or_create(str(tmp_path / "store"))
    made.register(clips(300))
    return made


def test_an_estimate_says_what_the_rest_will_take(store):
    found = estimate(store.uri, ["steady", "trouble"], options=Options(workers=1), number=5)
    assert (found["clips"], found["measured"], found["workers"]) == (300, 5, 1)
    for cost in found["constituents"].values():
        assert cost["missing"] == 300
        assert cost["seconds"] >= 0.02
        assert BYTES <= cost["bytes"] < BYTES + 1
    assert found["seconds"] >= 0.04
    assert found["hours"] == found["worker_hours"] == pytest.approx(300 * found["seconds"] / 3600)
    assert found["gpu_hours"] == 0
    assert found["bytes"] == pytest.approx(OVERHEAD * 600 * BYTES, rel=0.1)


def test_an_estimate_writes_nothing(store):
    before = [(info.path, info.size) for info in store.place.list("", recursive=True)]
    estimate(store.uri, ["steady"], clips(20, "new"), number=2)
    assert [(info.path, info.size) for info in store.place.list("", recursive=True)] == before


def test_an_estimate_counts_a_source_s_new_clips_too_and_those_that_are_allowed_alone(store, tmp_path):
    given = [*clips(300), *clips(100, "new", licence="free")]
    assert estimate(store.uri, ["steady"], given, number=4)["clips"] == 400
    free = estimate(store.uri, ["steady"], given, policy=Policy(licences=("free",)), number=4)
    assert (free["clips"], free["constituents"]["steady"]["missing"]) == (100, 100)
    nobody = Policy(require_consent=True, judged=date(2026, 1, 1))
    assert estimate(store.uri, ["steady"], given, policy=nobody)["measured"] == 0
    assert estimate(str(tmp_path / "none"), ["steady"], given, number=4)["clips"] == 400
    assert not (tmp_path / "none").exists()


def test_an_estimate_says_which_of_the_measured_would_go_to_quarantine(tmp_path, kit):
    bad = [Clip(f"made/raises/video/{n}", "/nowhere.mp4", "train") for n in range(3)]
    found = estimate(str(tmp_path / "none"), ["steady", "trouble"], bad)
    assert found["rejected"] == {"extractor error": 3}
    assert found["constituents"]["trouble"]["bytes"] == 0
