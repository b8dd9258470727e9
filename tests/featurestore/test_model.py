"""Any order of registering, filling, killing, releasing, forgetting, compacting, promoting and snapshots, against a
model of the store that is a few dictionaries."""

import shutil
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featurestore import compaction, erasure, inprocess, journal, promotion, snapshots
from featurestore.catalogue import CATALOGUE
from featurestore.clip import Clip
from featurestore.errors import UsageError, VoxportraitError
from featurestore.journal import Rejected
from featurestore.schema import candidate, candidates
from featurestore.store import Store
from tests.featurestore import conftest
from tests.featurestore.conftest import clip, value, want

CLIPS = 40
KEYS = ("ecapa", "gender")
PARAMETERS = {(key, want(key, p).maker.digest): p for key in KEYS for p in (0, 1)}

some_clips = st.tuples(st.integers(0, CLIPS - 8), st.integers(8, CLIPS)).map(
    lambda span: [clip(number) for number in range(CLIPS)[span[0] : sum(span)]]
)
bad_clips = st.sampled_from((0, 0, 0, 3, 4, 5)).map(
    lambda step: {clip(number).clip_id for number in range(CLIPS) if step and number % step == 1}
)
some_wants = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([0, 0, 1]), min_size=1)
steps = st.integers(0, 12)


class Killed(Exception):
    """Stands for a SIGKILL."""


def after(count: int) -> Callable[[str], None]:
    """A failpoint that kills the one who comes by after `count` others."""
    left = iter(range(count))

    def reach(point: str) -> None:
        if next(left, None) is None:
            raise Killed

    return reach


@dataclass
class Model:
    """What the store must hold.

    values: column -> clip -> the parameter of its maker; quarantined: clips that gave no media; erased: speakers;
    snapshots: the clips in order, and constituent -> clip -> parameter.
    """

    clips: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    quarantined: set[str] = field(default_factory=set)
    snapshots: dict[str, tuple[list[str], dict[str, dict[str, int]]]] = field(default_factory=dict)

    def column(self, key: str, parameter: int) -> str:
        """Where a fill puts its values: beside those that another maker made."""
        others = set(self.values.get(key, {}).values()) - {parameter}
        return _beside(key, parameter) if others else key

    def forget(self, speaker: str) -> None:
        self.erased.add(speaker)
        self.clips -= (theirs := {one for one in self.clips if _speaker(one) == speaker})
        self.quarantined -= theirs
        for made in self.values.values():
            for one in theirs & made.keys():
                del made[one]


class AnyOrder(RuleBasedStateMachine):
    """The store and its model, side by side."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.open_or_create(str(self.folder / "store"))
        self.model = Model()
        self.register([clip(number) for number in range(CLIPS // 2)])

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # -- what people do --------------------------------------------------------------------------------------------

    @rule(clips=some_clips)
    def register(self, clips: list[Clip]) -> None:
        allowed = {one.clip_id for one in clips if _speaker(one.clip_id) not in self.model.erased}
        registered = self.store.register(clips)
        assert registered.new == len(allowed - self.model.clips)
        assert registered.refused == len(clips) - len(allowed)
        self.model.clips |= allowed

    @rule(wants=some_wants, bad=bad_clips)
    def fill(self, wants: dict[str, int], bad: set[str]) -> None:
        """wants: constituent -> parameter of its maker; bad: clips that give no media this time."""
        asked: dict[str, Collection[str]] = {}

        def make(one: Clip, wanted: frozenset[str]):
            asked[one.clip_id] = wanted
            if one.clip_id in bad:
                return Rejected(one.clip_id, "media", "decoder", "made up", "made up")
            return {name: v for key in wanted for name, v in value(key, one.clip_id, wants[key]).items()}

        columns = {key: self.model.column(key, parameter) for key, parameter in wants.items()}
        pending, kept = self._journaled()
        barred = self.model.quarantined | pending
        inprocess.fill(self.store, [want(key, parameter) for key, parameter in wants.items()], make)
        assert not barred & asked.keys()
        for key, column in columns.items():
            made, found = self.model.values.setdefault(column, {}), self._made(column)
            for one in self.model.clips - made.keys():
                if one not in barred and not (one in bad and key in asked.get(one, ())):
                    assert found.get(one) == wants[key]
            self._adopt(column, wants[key], may_have=(self.model.clips - bad - barred) | kept)
        certain, listed = self.model.quarantined | (bad & asked.keys()), self._quarantine()
        assert certain <= listed <= certain | barred
        self.model.quarantined = listed

    @rule(wants=some_wants, bad=bad_clips)
    def fill_more(self, wants: dict[str, int], bad: set[str]) -> None:
        self.fill(wants, bad)

    @rule(wants=some_wants, bad=bad_clips, chunks=st.integers(1, 3))
    def fill_and_be_killed(self, wants: dict[str, int], bad: set[str], chunks: int) -> None:
        columns = {key: self.model.column(key, parameter) for key, parameter in wants.items()}
        pending, _ = self._journaled()
        chosen = [want(key, parameter) for key, parameter in wants.items()]
        conftest.fill(self.store, chosen, dict.fromkeys(bad, "made up"), only=chunks)
        for key, column in columns.items():
            self.model.values.setdefault(column, {})
            self._adopt(column, wants[key], may_have=self.model.clips)
        found = self._quarantine()
        assert self.model.quarantined <= found <= self.model.quarantined | pending | bad
        self.model.quarantined = found

    @precondition(lambda self: self.model.quarantined)
    @rule()
    def release(self) -> None:
        self.store.table("quarantine").delete("true")
        self.model.quarantined = set()

    @precondition(lambda self: self.model.clips)
    @rule(data=st.data(), killed_at=steps, compacts=st.booleans())
    def forget(self, data: st.DataObject, killed_at: int, compacts: bool) -> None:
        speaker = data.draw(st.sampled_from(sorted({_speaker(one) for one in self.model.clips})))
        with patch.object(erasure, "reach", after(killed_at)), suppress(Killed):
            erasure.forget(self.store, [speaker], asked_by="the test")
        if compacts:
            compaction.compact(self.store)
        erasure.resume(self.store)
        self.model.forget(speaker)

    @rule(killed_at=steps)
    def compact(self, killed_at: int) -> None:
        with patch.object(compaction, "reach", after(killed_at)), suppress(Killed):
            compaction.compact(self.store)

    @precondition(lambda self: any("@" in column for column in self.model.values))
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        column = data.draw(st.sampled_from(sorted(c for c in self.model.values if "@" in c)))
        key = column.split("@")[0]
        live = self.model.values.get(key, {})
        kept_as = _beside(key, next(iter(live.values()))) if live else ""
        if kept_as != column and kept_as in self.model.values:
            with pytest.raises(VoxportraitError, match="already"):
                promotion.promote(self.store, key, column, force=True)
            return
        promotion.promote(self.store, key, column, force=True)
        self.model.values[key] = self.model.values.pop(column)
        if kept_as:
            self.model.values[kept_as] = live

    @precondition(lambda self: len(self.model.snapshots) < 3)
    @rule()
    def take_a_snapshot(self) -> None:
        name = f"s{len(self.model.snapshots)}"
        if not self.model.clips:
            with pytest.raises(UsageError):
                snapshots.take(self.store, name)
            return
        snapshots.take(self.store, name)
        live = {key: dict(self.model.values.get(key, {})) for key in KEYS}
        self.model.snapshots[name] = sorted(self.model.clips), live

    # -- what must hold at any time --------------------------------------------------------------------------------

    @invariant()
    def clips_are_those_registered_less_those_forgotten(self) -> None:
        ids = self.store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist()
        assert len(ids) == len(set(ids))
        assert set(ids) == self.model.clips

    @invariant()
    def values_are_those_that_were_made(self) -> None:
        names = self.store.table("clips").schema.names
        there = {c for key in KEYS for c in candidates(names).get(key, [])} | {k for k in KEYS if f"{k}_maker" in names}
        assert there == self.model.values.keys()
        for column, made in self.model.values.items():
            assert self._made(column) == made

    @invariant()
    def quarantine_and_coverage_agree(self) -> None:
        assert self._quarantine() == self.model.quarantined
        counts = self.store.coverage()["constituents"]
        assert {key: counts[key]["filled"] for key in KEYS} == {
            key: len(self.model.values.get(key, {})) for key in KEYS
        }

    @invariant()
    def snapshots_read_as_they_were_taken_or_say_what_changed(self) -> None:
        for name, (clips, recorded) in self.model.snapshots.items():
            left = [one for one in clips if one in self.model.clips]
            changed = any(
                self.model.values.get(key, {}).get(one) != parameter
                for key, made in recorded.items()
                for one, parameter in made.items()
                if one in left
            )
            if changed:
                with pytest.raises(VoxportraitError, match="was made by"):
                    snapshots.read(self.store, name)
                continue
            found = snapshots.read(self.store, name)
            assert found.present.tolist() == [one in self.model.clips for one in clips]
            table = self.store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
            ids = dict(zip(table["_rowid"].to_pylist(), table["clip_id"].to_pylist(), strict=True))
            assert [ids[row_id] for row_id in found.row_ids[found.present].tolist()] == left

    # -- reading ---------------------------------------------------------------------------------------------------

    def _made(self, column: str) -> dict[str, int]:
        """Clip -> the parameter of the maker, after a look at the value itself."""
        key = column.split("@")[0]
        digests = {number: digest for digest, number in self.store.known_makers().items()}
        table = self.store.table("clips").to_table(columns=["clip_id", column, f"{column}_maker"])
        found = {}
        for row in table.to_pylist():
            assert (row[column] is None) == (row[f"{column}_maker"] is None)
            if row[column] is not None:
                found[row["clip_id"]] = PARAMETERS[key, digests[row[f"{column}_maker"]]]
                expected = value(key, row["clip_id"], found[row["clip_id"]])[key]
                if CATALOGUE[key].kind == "vector":
                    expected = expected.astype(np.float16).tolist()
                assert row[column] == expected
        return found

    def _adopt(self, column: str, parameter: int, may_have: Collection[str]) -> None:
        """Take into the model what a fill, perhaps from the journal, put into a column; it may only have added."""
        before, found = self.model.values[column], self._made(column)
        assert found.items() >= before.items()
        assert all(found[one] == parameter and one in may_have for one in found.keys() - before.keys())
        self.model.values[column] = found

    def _quarantine(self) -> set[str]:
        table = self.store.table("quarantine").to_table(columns=["clip_id", "constituent"])
        assert set(table["constituent"].to_pylist()) <= {"media"}
        return set(table["clip_id"].to_pylist())

    def _journaled(self) -> tuple[set[str], set[str]]:
        """Clips in the journal that a fill may enter: those that were rejected, and those of all rows."""
        entries = [journal.entry(self.store.place, name) for name in journal.names(self.store.place)]
        table = self.store.table("clips").to_table(columns=["clip_id"], with_row_id=True)
        ids = dict(zip(table["_rowid"].to_pylist(), table["clip_id"].to_pylist(), strict=True))
        rejected = {one.clip_id for entry in entries if entry for one in entry.rejected}
        return rejected, {ids[row_id] for entry in entries if entry for row_id in entry.row_ids.tolist()}


def _speaker(clip_id: str) -> str:
    return "/".join(clip_id.split("/")[:2])


def _beside(key: str, parameter: int) -> str:
    return candidate(key, want(key, parameter).maker.digest)


@pytest.fixture
def small_fragments(monkeypatch):
    monkeypatch.setattr("featurestore.compaction.FRAGMENT_CLIPS", 20)
    monkeypatch.setattr("featurestore.store.FRAGMENT_CLIPS", 20)


def run(examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=checks,
        derandomize=examples < 50,
    )
    run_state_machine_as_test(AnyOrder, settings=chosen)


def test_any_order_of_work_leaves_what_the_model_says(small_fragments):
    run(examples=10, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_long_order_of_work_leaves_what_the_model_says(small_fragments):
    run(examples=150, steps=40)
