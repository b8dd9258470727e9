"""A policy judges alike wherever it is asked: in Lance, in DuckDB, and over rows in memory."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from featurestore.clip import Clip
from featurestore.policy import COLUMNS, Policy
from featurestore.store import Store
from tests.featurestore.conftest import fill, want

TODAY = date(2026, 3, 1)
CLIPS = {
    "yes": ("yes", None, "cc-by"),
    "until_today": ("signed", TODAY, "cc-by"),
    "run_out": ("yes", date(2026, 2, 28), "cc-by"),
    "withdrawn": ("Withdrawn", None, "cc-by"),
    "silent": ("", None, "it's ours"),
    "no": ("no", date(2030, 1, 1), "it's ours"),
    "ours": ("yes", date(2030, 1, 1), "it's ours"),
}
"""Consent, its last day, and licence, by what the clip is."""

POLICIES = {
    Policy(judged=TODAY): set(CLIPS),
    Policy(True, judged=TODAY): {"yes", "until_today", "ours"},
    Policy(licences=("it's ours",), judged=TODAY): {"silent", "no", "ours"},
    Policy(True, ("it's ours", "other"), TODAY): {"ours"},
    Policy(licences=("other",), judged=TODAY): set(),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    made = Store.open_or_create(str(tmp_path_factory.mktemp("policy") / "store"))
    made.register(
        Clip(f"made/{name}/video/1", "/nowhere.mp4", "train", consent=consent, consent_until=until, licence=licence)
        for name, (consent, until, licence) in CLIPS.items()
    )
    fill(made, [want("ecapa")], {"made/no/video/1": "no sound", "made/ours/video/1": "no sound"})
    return made


@pytest.mark.parametrize(("policy", "allowed"), POLICIES.items(), ids=str)
def test_it_takes_the_same_clips_everywhere(store, policy, allowed):
    dataset = store.table("clips")
    rows = dataset.to_table(columns=["speaker_id", *COLUMNS])
    by_lance = dataset.to_table(columns=["speaker_id"], filter=policy.where)["speaker_id"].to_pylist()
    by_duckdb = store.sql("select speaker_id from clips where length(clip_id) > 3", policy=policy).speaker_id
    assert set(by_lance) == set(by_duckdb) == set(rows["speaker_id"].filter(pa.array(policy.allows(rows))).to_pylist())
    assert set(by_duckdb) == allowed


@pytest.mark.parametrize(("policy", "allowed"), POLICIES.items(), ids=str)
def test_coverage_counts_the_allowed_clips_alone(store, policy, allowed):
    found = store.coverage(policy)
    assert found["clips"] == len(allowed)
    filled = len(allowed - {"no", "ours"})
    counts = found["constituents"]["ecapa"]
    assert (counts["filled"], counts["missing"], counts["untrained"]) == (filled, len(allowed) - filled, filled)
    assert found["constituents"]["media"]["quarantined"] == len(allowed & {"no", "ours"})


def test_a_query_cannot_get_round_it(store):
    policy = Policy(licences=("cc-by",), judged=TODAY)
    for query in (
        "select licence from clips where licence <> 'cc-by' or true",
        "select licence from clips where ecapa is not null or consent = ''",
        "with c as (select * from clips) select licence from c union select licence from clips",
    ):
        assert set(store.sql(query, policy=policy).licence) == {"cc-by"}
    assert store.sql("select count(*) n from clips", policy=policy).n[0] == 4


def test_a_clip_that_says_nothing_gives_neither_consent_nor_licence():
    rows = pa.table(
        {"consent": [None, "yes"], "consent_until": pa.array([None, None], pa.date32()), "licence": [None, "a"]}
    )
    assert Policy(require_consent=True).allows(rows).tolist() == [False, True]
    assert Policy(licences=("a",)).allows(rows).tolist() == [False, True]
    assert Policy().allows(rows).dtype == np.bool_
