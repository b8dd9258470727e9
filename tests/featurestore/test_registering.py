"""Registering known clips again: what their source says of licence and consent now."""

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from featurestore.leases import Lease, LeaseHeld
from featurestore.policy import Policy
from featurestore.queries import digest
from featurestore.store import Registration, Store
from pipelines import cli_fill, sources
from tests.featurestore.conftest import clip, fill, want

RIGHTS = ["licence", "consent", "consent_until"]
POLICY = Policy(require_consent=True)


@pytest.fixture
def consented(tmp_path) -> Store:
    """Forty clips in two fragments, all with a consent, and with values."""
    store = Store.open_or_create(str(tmp_path / "store"))
    for part in (range(20), range(20, 40)):
        store.register(replace(clip(n), licence="CC-BY", consent="yes") for n in part)
    fill(store, [want("ecapa"), want("face_128")])
    return store


def rights(store: Store, number: int) -> tuple:
    (row,) = store.table("clips").to_table(columns=RIGHTS, filter=f"clip_id = '{clip(number).clip_id}'").to_pylist()
    return tuple(row[name] for name in RIGHTS)


def row_ids(store: Store) -> list[tuple[int, str]]:
    table = store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
    return sorted(zip(table["_rowid"].to_pylist(), table["clip_id"].to_pylist(), strict=True))


def test_a_withdrawn_consent_reaches_a_known_clip_and_leaves_its_values_and_row_ids(consented):
    ids, fragments = row_ids(consented), len(consented.table("clips").get_fragments())
    content = consented.table("clips").to_table(columns=["clip_id", "ecapa", "face_128"]).sort_by("clip_id")
    again = [replace(clip(n), licence="CC-BY", consent="withdrawn" if n in (3, 30) else "yes") for n in range(41)]
    assert consented.register(again) == Registration(1, 40, 0, 2)
    assert rights(consented, 3) == rights(consented, 30) == ("CC-BY", "withdrawn", None)
    assert rights(consented, 4) == ("CC-BY", "yes", None)
    assert consented.table("clips").count_rows(POLICY.where) == 39
    assert set(ids) <= set(row_ids(consented))
    assert len(consented.table("clips").get_fragments()) == fragments + 1
    after = consented.table("clips").to_table(columns=content.column_names, filter="ecapa IS NOT NULL")
    assert after.sort_by("clip_id") == content
    assert consented.register(again) == Registration(0, 41, 0, 0)


def test_the_word_of_the_source_wins_where_it_says_something(consented):
    end = date(2030, 1, 31)
    consented.register([replace(clip(1), consent_until=end), clip(2), replace(clip(3), licence="CC0")])
    assert rights(consented, 1) == ("CC-BY", "yes", end)
    assert rights(consented, 2) == ("CC-BY", "yes", None)
    assert rights(consented, 3) == ("CC0", "yes", None)
    assert consented.register([replace(clip(1), consent="yes, for ever")]).changed == 1
    assert rights(consented, 1) == ("CC-BY", "yes, for ever", None)


def test_a_changed_consent_writes_the_small_columns_alone(consented):
    folder = Path(consented.uri) / "clips.lance" / "data"
    before = {file.name for file in folder.iterdir()}
    consented.register(replace(clip(n), consent="no") for n in range(40))
    written = sum(os.path.getsize(file) for file in folder.iterdir() if file.name not in before)
    assert 0 < written < 20_000  # the values of the forty are 2 MB


def test_registering_the_same_again_writes_nothing(consented):
    version, content = consented.table("clips").version, digest(consented)
    assert consented.register(clip(n) for n in range(40)) == Registration(0, 40)
    assert consented.table("clips").version == version
    assert digest(consented) == content


def test_a_clip_that_a_job_is_at_keeps_its_consent_until_the_job_is_done(consented):
    withdrawn = replace(clip(30), consent="withdrawn")
    with Lease(consented.place, ["fragment:1"], "filling"):
        with pytest.raises(LeaseHeld, match="filling"):
            consented.register([withdrawn])
        assert consented.register([replace(clip(3), consent="withdrawn")]).changed == 1
    assert consented.register([withdrawn]).changed == 1
    assert rights(consented, 30)[1] == "withdrawn"


def test_extract_says_how_many_clips_changed_and_merges_small_registrations(tmp_path, monkeypatch, capsys):
    store = Store.open_or_create(str(tmp_path / "store"))
    for n in range(20):
        store.register([replace(clip(n), consent="yes")])
    monkeypatch.setattr(sources, "read", lambda *said: [replace(clip(n), consent="no") for n in range(3)])
    monkeypatch.setattr(cli_fill, "_fill", lambda opened, choices, names, known: counts.update(known))
    counts: dict[str, int] = {}
    cli_fill.extract(source="folder", root=tmp_path, one_video_per_speaker=False, store=store.uri)
    assert counts == {"registered": 0, "changed": 3, "refused": 0}
    assert "3 clips have another licence or consent now" in capsys.readouterr().err
    assert len(store.table("clips").get_fragments()) == 1
