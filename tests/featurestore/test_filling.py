import numpy as np
import pytest

from featurestore import filling, inprocess, journal
from featurestore.catalogue import CATALOGUE
from featurestore.leases import Lease
from featurestore.policy import Policy
from featurestore.queries import digest
from featurestore.schema import decode
from featurestore.store import FRAGMENT_CLIPS, Store
from tests.featurestore.conftest import clip, fill, value, want


def test_registering_again_adds_nothing_and_a_clip_named_twice_is_one(store):
    again = store.register([clip(3), clip(3), clip(300), clip(300)])
    assert (again.new, again.known) == (1, 3)
    ids = store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 301


def test_fragments_have_the_size_of_the_unit_of_work(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n) for n in range(FRAGMENT_CLIPS + 44))
    assert [f.count_rows() for f in store.table("clips").get_fragments()] == [FRAGMENT_CLIPS, 44]


def test_values_come_back_as_they_were_made(store):
    fill(store, [want("ecapa"), want("face_128")])
    table = store.table("clips").to_table(columns=["clip_id", "ecapa", "face_128", "face_128_guide"])
    for key in ("ecapa", "face_128"):
        entry = CATALOGUE[key]
        stored = decode(table[key], entry.shape, entry.dtype)
        made = np.stack([value(key, i)[key] for i in table["clip_id"].to_pylist()]).astype(entry.dtype)
        np.testing.assert_array_equal(stored, made)


def test_a_second_run_plans_nothing(store):
    wants = [want("ecapa"), want("gender")]
    assert fill(store, wants) > 0
    assert filling.plan(store, wants).fragments == []
    assert fill(store, wants) == 0


def test_a_killed_run_is_taken_up_from_its_journal_and_gives_the_same_store(tmp_path, store):
    other = Store.open_or_create(str(tmp_path / "undisturbed"))
    other.register(clip(n) for n in range(300))
    wants = [want("ecapa"), want("gender")]
    reject = {clip(7).clip_id: "truncated"}
    whole = fill(other, wants, reject)
    killed = fill(store, wants, reject, only=5)
    resumed = fill(store, wants, reject)
    assert (killed, resumed) == (5, whole - 5)
    assert digest(store) == digest(other)
    assert journal.pending(store.place) == 0


def test_a_new_constituent_leaves_the_others_alone(store):
    fill(store, [want("ecapa")])
    before = store.table("clips").to_table(columns=["ecapa"])
    fill(store, [want("face_128")])
    assert store.table("clips").to_table(columns=["ecapa"]).equals(before)


def test_filling_a_few_rows_keeps_the_values_beside_them(store):
    missing = {clip(n).clip_id: "lost" for n in range(40, 60)}
    fill(store, [want("ecapa"), want("gender")], missing)
    store.table("quarantine").delete("reason = 'lost'")
    assert filling.plan(store, [want("ecapa"), want("gender")]).work == 20
    fill(store, [want("ecapa"), want("gender")])
    table = store.table("clips").to_table(columns=["clip_id", "ecapa", "gender"])
    made = np.stack([value("ecapa", i)["ecapa"] for i in table["clip_id"].to_pylist()]).astype(np.float16)
    np.testing.assert_array_equal(decode(table["ecapa"], (192,), "float16"), made)
    assert table["gender"].null_count == 0


def test_a_quarantined_clip_is_left_out_until_its_maker_changes(store):
    bad = clip(11).clip_id
    fill(store, [want("ecapa")], {bad: "no sound"})
    row = store.table("quarantine").to_table().to_pylist()
    assert [(r["clip_id"], r["reason"], r["attempts"]) for r in row] == [(bad, "no sound", 1)]
    planned = filling.plan(store, [want("ecapa")])
    assert planned.work == 0
    assert planned.quarantined == {"ecapa": 1}


def test_another_maker_fills_a_candidate_beside_the_live_values(store):
    fill(store, [want("ecapa")])
    before = store.table("clips").to_table(columns=["ecapa"])
    other = want("ecapa", parameter=1)
    column = filling.plan(store, [other]).columns["ecapa"]
    assert column == f"ecapa@{other.maker.digest[:8]}"
    assert fill(store, [other]) > 0
    assert fill(store, [other]) == 0
    assert fill(store, [want("ecapa")]) == 0
    table = store.table("clips").to_table(columns=["clip_id", "ecapa", column])
    assert table.select(["ecapa"]).equals(before)
    made = np.stack([value("ecapa", i, 1)["ecapa"] for i in table["clip_id"].to_pylist()]).astype(np.float16)
    np.testing.assert_array_equal(decode(table[column], (192,), "float16"), made)


def test_a_clip_without_the_metadata_is_not_planned(store):
    planned = filling.plan(store, [want("gender", requires=("corpus_age",))])
    assert planned.work == 0
    assert planned.missing == {"gender": 0}


def test_chunks_do_not_depend_on_what_is_missing(store):
    everything = {c.offsets for c in filling.plan(store, [want("ecapa")]).chunks(0)}
    fill(store, [want("ecapa")], {clip(n).clip_id: "lost" for n in range(0, 256, 3)})
    store.table("quarantine").delete("true")
    rest = filling.plan(store, [want("ecapa")]).chunks(0)
    assert all(any(set(chunk.offsets) <= set(whole) for whole in everything) for chunk in rest)


def test_a_commit_survives_a_column_that_was_added_meanwhile(store):
    wants = [want("ecapa")]
    store.ensure_columns({"ecapa": "ecapa"})
    store.enter_makers(w.maker for w in wants)
    ids = store.known_makers()
    chunk = filling.plan(store, wants).chunks(1)[0]
    clips, row_ids = filling.read_clips(store, chunk)
    values = [value("ecapa", c.clip_id) for c in clips]
    table, _ = journal.chunk_table(row_ids, ["ecapa"], values, {"ecapa": ids[wants[0].maker.digest]}, [])
    sealed = filling.seal(store, 1, {"ecapa": "ecapa"}, [table])
    store.ensure_columns({"gender": "gender"})
    with filling.Lease(store.place, ["fragment:1"], "testing") as lease:
        filling.commit(store, [sealed], lease, "job")
    table = store.table("clips").to_table(columns=["ecapa_maker", "gender_maker"])
    assert table["ecapa_maker"].null_count == 300 - len(clips)


def test_a_value_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="takes 49152 bytes"):
        journal.chunk_table([0], ["face_128"], [{"face_128": np.zeros((2, 2, 3))}], {"face_128": 0}, [])


def test_values_beyond_float16_are_counted():
    ecapa = np.ones(192, np.float32)
    ecapa[:3] = 1e6, 1e-9, 0
    _, losses = journal.chunk_table([0], ["ecapa"], [{"ecapa": ecapa}], {"ecapa": 0}, [])
    assert losses == {"ecapa": 2}


def test_the_journal_serves_another_job_whatever_its_chunks(store):
    both, one = [want("ecapa"), want("gender")], [want("gender")]
    assert fill(store, both, only=3) == 3
    planned = filling.plan(store, one)
    assert planned.resumed == 48
    assert planned.work == 300 - 48
    assert len(planned.foreign) == 3
    fill(store, one)
    assert filling.plan(store, both).work == 300


def test_a_damaged_journal_file_is_of_no_use(store):
    fill(store, [want("ecapa")], only=2)
    name = journal.names(store.place)[0]
    with store.place.files.open_output_stream(f"_journal/{name}.arrow") as file:
        file.write(b"ARROW1 and no more")
    planned = filling.plan(store, [want("ecapa")])
    assert list(planned.leftover) == [name]
    assert planned.resumed == 16


def test_a_journal_of_another_maker_is_not_used(store):
    fill(store, [want("ecapa"), want("gender")], only=3)
    other = [want("ecapa", parameter=1), want("gender")]
    planned = filling.plan(store, other)
    assert (planned.work, planned.journal, len(planned.foreign), planned.leftover) == (300, {}, 3, {})
    fill(store, other)
    table = store.table("clips").to_table(columns=["clip_id", "ecapa"])
    made = np.stack([value("ecapa", i, 1)["ecapa"] for i in table["clip_id"].to_pylist()]).astype(np.float16)
    np.testing.assert_array_equal(decode(table["ecapa"], (192,), "float16"), made)


def test_clips_that_a_policy_does_not_allow_lack_nothing(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n, consent="yes" if n % 3 else "withdrawn") for n in range(60))
    policy = Policy(require_consent=True)
    planned = filling.plan(store, [want("gender")], policy)
    assert (planned.clips, planned.not_allowed, planned.missing) == (60, 20, {"gender": 40})
    made = {"gender": "woman", "gender_probability": 1.0}
    assert inprocess.fill(store, [want("gender")], lambda clip, wanted: made, policy=policy) == {"gender": 40}
    table = store.table("clips").to_table(columns=["gender"], filter="consent = 'withdrawn'")
    assert table["gender"].null_count == len(table) == 20


def test_a_journal_with_a_clip_that_is_not_allowed_is_kept_and_not_used(tmp_path):
    store = Store.open_or_create(str(tmp_path / "store"))
    store.register(clip(n, consent="no" if n == 3 else "yes") for n in range(60))
    fill(store, [want("gender")], only=2)
    planned = filling.plan(store, [want("gender")], Policy(require_consent=True))
    assert (planned.resumed, planned.work, planned.leftover) == (16, 59 - 16, {})
    assert len(planned.foreign) == 1


def test_a_kept_chunk_whose_clips_lie_in_two_fragments_serves_both(store):
    wants = [want("gender")]
    makers = store.enter_makers(w.maker for w in wants)
    row_ids = store.table("clips").to_table(columns=[], with_row_id=True)["_rowid"].to_pylist()[250:262]
    made = {"gender": "woman", "gender_probability": 1.0}
    numbers = {"gender": makers[wants[0].maker.digest]}
    chunk, _ = journal.chunk_table(row_ids, ["gender"], [made] * len(row_ids), numbers, [])
    journal.write(store.place, "across", chunk)
    assert filling.plan(store, wants).journal == {0: ["across"], 1: ["across"]}
    seen = []

    def make(clip, wanted):
        seen.append(clip)
        return made

    inprocess.fill(store, wants, make)
    assert len(seen) == 300 - 12
    assert store.coverage()["constituents"]["gender"]["filled"] == 300
    assert journal.pending(store.place) == 0


def test_a_job_claims_the_live_column_before_it_has_filled_any(store):
    first, second = want("ecapa"), want("ecapa", parameter=1)
    names = filling.claims([first], filling.plan(store, [first]).columns, "a job")
    with Lease(store.place, names, "filling"):
        assert filling.plan(store, [first], claimed=filling.claimed(store)).columns == {"ecapa": "ecapa"}
        planned = filling.plan(store, [second], claimed=filling.claimed(store))
        assert planned.columns["ecapa"].startswith("ecapa@")
    assert filling.claimed(store) == {}


def test_what_is_left_of_another_jobs_fragments_is_not_removed(store):
    fill(store, [want("ecapa")], only=3)
    kept = [(name, journal.read(store.place, name)) for name in journal.names(store.place)]
    fill(store, [want("ecapa")])
    for name, table in kept:
        journal.write(store.place, name, table)
    planned = filling.plan(store, [want("ecapa")])
    assert set(planned.leftover.values()) == {frozenset({0})}
    planned.only([1])
    assert planned.leftover == {}
