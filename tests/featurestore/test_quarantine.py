import json

import pytest
from typer.testing import CliRunner

from featurestore import filling, journal
from featurestore.cli import app
from featurestore.errors import UsageError
from featurestore.leases import Lease, LeaseHeld
from featurestore.quarantine import Which, about, release, rows
from featurestore.store import Store
from tests.featurestore.conftest import clip, fill, want

BAD = {clip(7).clip_id: "truncated", clip(8).clip_id: "truncated", clip(280).clip_id: "it's odd"}


@pytest.fixture
def barred(store) -> Store:
    fill(store, [want("ecapa")], BAD)
    return store


def missing(store: Store) -> int:
    return filling.plan(store, [want("ecapa")]).missing["ecapa"]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["quarantine", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("which", "released"),
    [
        (Which(), 3),
        (Which(reason="truncated"), 2),
        (Which(reason="it's odd"), 1),
        (Which(clip_id=clip(8).clip_id), 1),
        (Which(constituent="media"), 3),
        (Which(reason="truncated", clip_id=clip(280).clip_id), 0),
    ],
)
def test_what_is_released_is_tried_again_and_nothing_else_is(barred, which, released):
    assert missing(barred) == 0
    assert release(barred, which) == released
    assert (missing(barred), len(rows(barred))) == (released, 3 - released)
    fill(barred, [want("ecapa")])
    assert filling.plan(barred, [want("ecapa")]).filled["ecapa"] == 297 + released


def test_a_clip_that_waits_in_the_journal_is_released_too(store):
    fill(store, [want("ecapa")], BAD, only=1)
    assert journal.pending(store.place) == 1
    assert (len(rows(store)), missing(store)) == (0, 300 - 2)
    assert release(store, Which(clip_id=clip(7).clip_id)) == 1
    assert missing(store) == 300 - 1
    assert fill(store, [want("ecapa")]) > 0
    assert [row["clip_id"] for row in rows(store).to_pylist()] == [clip(8).clip_id]


def test_another_maker_needs_no_release(barred):
    other = want("ecapa", parameter=1)
    barred.insert("quarantine", [journal.Rejected(clip(9).clip_id, "ecapa", other.maker.digest, "odd", "").row("job")])
    bad_for_new_decoder = filling.Want("ecapa", other.maker, (), (("ecapa", other.maker.digest), ("media", "newer")))
    assert filling.plan(barred, [bad_for_new_decoder]).missing["ecapa"] == 299


def test_clips_that_a_job_is_at_are_not_released_under_it(barred):
    with Lease(barred.place, ["fragment:0"], "filling"):
        with pytest.raises(LeaseHeld, match="filling"):
            release(barred, Which(reason="truncated"))
        assert release(barred, Which(reason="it's odd")) == 1
    assert release(barred, Which()) == 2


def test_what_comes_in_while_a_release_waits_stays(barred):
    other, held = clip(281), Lease(barred.place, ["fragment:0"], "filling")
    rejected = journal.Rejected(other.clip_id, "media", "decoder", "truncated", "new")
    table, _ = journal.chunk_table([281], ["ecapa"], [{}], {"ecapa": 0}, [rejected])
    held.acquire()

    def meanwhile(line: str) -> None:
        barred.insert(
            "quarantine", [journal.Rejected(other.clip_id, "media", "decoder", "truncated", "new").row("job")]
        )
        journal.write(barred.place, "another-job", table)
        held.release()

    assert release(barred, Which(reason="truncated"), wait=60, told=meanwhile) == 2
    assert [row["clip_id"] for row in rows(barred, Which(reason="truncated")).to_pylist()] == [other.clip_id]
    assert journal.rejections(journal.read(barred.place, "another-job"))


def test_the_list_counts_what_it_shows_and_is_what_quarantine_says_alone(barred):
    listed = json.loads(run("list", "--store", barred.uri, "--json"))
    assert listed == json.loads(run("--store", barred.uri, "--json"))
    assert listed["counts"] == [
        {"reason": "truncated", "constituent": "media", "clips": 2},
        {"reason": "it's odd", "constituent": "media", "clips": 1},
    ]
    chosen = json.loads(run("--reason", "truncated", "--store", barred.uri, "--json"))
    assert {row["clip_id"] for row in chosen["rows"]} == {clip(7).clip_id, clip(8).clip_id}
    table = run("list", "--store", barred.uri)
    assert clip(280).clip_id in table
    assert "made up" in table


def test_a_clip_is_shown_with_all_that_is_known_of_it(barred):
    found = about(barred, clip(7).clip_id)
    assert found["clip"]["path"] == "/nowhere/7.mp4"
    assert [(row["constituent"], row["reason"], row["attempts"]) for row in found["quarantine"]] == [
        ("media", "truncated", 1)
    ]
    assert "/nowhere/7.mp4" in run("show", clip(7).clip_id, "--store", barred.uri)
    with pytest.raises(UsageError, match="no clip"):
        about(barred, "made/nobody/video0/00001")


def test_a_release_names_what_or_says_all(barred):
    for said in ([], ["--all", "--reason", "truncated"]):
        with pytest.raises(UsageError, match="--all"):
            run("release", "--store", barred.uri, *said)
    assert json.loads(run("release", "--all", "--store", barred.uri, "--json")) == {"released": 3}
