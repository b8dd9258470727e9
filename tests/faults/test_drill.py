"""Whatever is killed, whenever: the store is what an undisturbed run would have made."""

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from featurestore import filling
from featurestore.compaction import UNDER_LEASES
from featurestore.console import print_table
from featurestore.leases import is_dead
from featurestore.queries import digest
from pipelines.schedule import COMMIT_FRAGMENTS
from tests.faults.drill import CLIPS, FRAGMENT, KEYS, POINTS, Drill, Kill, clip, cluster, kit

WORKERS = ("worker", "column file", "journal")
DRIVERS = ("driver", "and workers", "with Ray", "before commit", "after commit")
FORGOTTEN = clip(40).speaker_id


Begin = Callable[[str, int], Drill]


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Iterator[Begin]:
    """Makes a drill of a name and a seed."""
    folder = tmp_path_factory.mktemp("drill")
    with kit(folder, pace=0.002) as variables, cluster(variables) as ray:
        yield lambda name, seed: Drill(folder, variables, ray.address, random.Random(seed), name)


@dataclass(frozen=True)
class Undisturbed:
    """What a run that nothing befell makes: content digests, and what is logged as made."""

    filled: str
    forgotten: str
    values: frozenset[tuple[str, str]]


@pytest.fixture(scope="module")
def undisturbed(begin: Begin) -> Undisturbed:
    drill = begin("undisturbed", 0)
    drill.register()
    assert_went_well(drill.fill())
    made = Counter((clip_id, key) for clip_id, key, *_ in drill.made())
    assert set(made.values()) == {1}
    filled = digest(drill.store, KEYS)
    assert_went_well(drill.run(["store", "forget", "--yes", "--speaker", FORGOTTEN]))
    return Undisturbed(filled, digest(drill.store, KEYS), frozenset(made))


def assert_went_well(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def assert_ended_in_a_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr


def survive(drill: Drill, undisturbed: Undisturbed, jobs: Sequence[Sequence[Kill]]) -> None:
    """Register and fill under fire, then forget and compact under fire; the store must be as if nothing had been."""
    log, before = len(drill.made()), drill.kills.copy()
    drill.register()
    for kills in jobs:
        drill.fill(kills)
    assert_went_well(drill.fill())
    assert digest(drill.store, KEYS) == undisturbed.filled
    kills_made = drill.kills - before
    made = Counter((clip_id, key) for clip_id, key, *_ in drill.made()[log:])
    assert set(made) == undisturbed.values
    again = made.total() - len(made)
    chunk, uncommitted = filling.CHUNK_CLIPS * len(KEYS), (COMMIT_FRAGMENTS + 2) * FRAGMENT * len(KEYS)
    assert again <= chunk * sum(kills_made[w] for w in WORKERS) + uncommitted * sum(kills_made[d] for d in DRIVERS)
    nothing_is_twice_or_left(drill)

    drill.run(["store", "forget", "--yes", "--speaker", FORGOTTEN], [Kill(0, "forget")])
    assert_went_well(drill.run(["store", "forget", "--yes", "--speaker", FORGOTTEN]))
    drill.run(["store", "compact"], [Kill(0, "compaction")])
    assert_went_well(drill.run(["store", "compact"]))
    assert digest(drill.store, KEYS) == undisturbed.forgotten
    nothing_is_twice_or_left(drill)
    assert_no_file_is_unreferenced(drill)
    assert_went_well(drill.run(["store", "verify"]))


def nothing_is_twice_or_left(drill: Drill) -> None:
    store = drill.store
    ids = store.table("clips").to_table(columns=["clip_id"])["clip_id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert store.place.list("_journal") == []
    assert all(is_dead(row["process"]) for row in store.table("leases").to_table().to_pylist())
    assert [file.path for file in store.place.list("", recursive=True) if file.base_name.startswith(".")] == []


def assert_no_file_is_unreferenced(drill: Drill) -> None:
    for name in UNDER_LEASES:
        dataset = drill.store.table(name)
        fragments = [f for v in dataset.versions() for f in drill.store.place.table(name, v["version"]).get_fragments()]
        known = {file.path for fragment in fragments for file in fragment.data_files()}
        assert {file.base_name for file in drill.store.place.list(f"{name}.lance/data")} <= known, name


def at_random(drill: Drill) -> int:
    return drill.random.randrange(CLIPS * len(KEYS) // 3)


def test_the_store_survives_a_kill_at_every_point(begin: Begin, undisturbed):
    drill = begin("short", 1)
    jobs = (
        [Kill(50, "worker"), Kill(150, "column file"), Kill(200, "journal"), Kill(900, "and workers")],
        [Kill(0, "before commit"), Kill(50, "worker")],
        [Kill(0, "after commit")],
    )
    survive(drill, undisturbed, jobs)
    assert set(drill.kills) >= {*POINTS, "worker", "and workers"}


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_the_store_survives_fifty_kills(begin: Begin, undisturbed, capsys):
    seed = int(os.environ.get("DRILL_SEED", time.time()))
    rounds, kills = 0, Counter[str]()
    began = time.monotonic()
    while kills.total() < 50 or min(kills[point] for point in POINTS) < 3:
        drill = begin(f"round {rounds}", seed + rounds)
        drill.kills = kills
        workers = [[Kill(at_random(drill), whom) for whom in ("worker", *WORKERS)] for _ in range(2)]
        jobs = (
            [*workers[0], Kill(at_random(drill), "before commit")],
            [*workers[1], Kill(at_random(drill), "after commit")],
            [Kill(at_random(drill) // 2, "driver")],
            [Kill(at_random(drill) // 2, "and workers")],
            [Kill(at_random(drill) // 2, "with Ray")],
        )
        survive(drill, undisturbed, jobs)
        rounds += 1
    with capsys.disabled():
        print(f"\nDRILL_SEED={seed}: {kills.total()} kills survived in {time.monotonic() - began:.0f} s")
        print_table(("killed", "times"), sorted(kills.items()))


@pytest.fixture
def small_disk(begin: Begin) -> Iterator[str]:
    """The name of a folder on a disk of its own."""
    disk = begin("", 0).folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only an administrator can make a small disk")
    yield "disk"
    subprocess.run(["umount", "--lazy", disk], check=True)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def test_a_full_disk_ends_the_job_in_a_line_and_a_rerun_ends_right(begin: Begin, undisturbed, small_disk):
    drill = begin(f"{small_disk}/store", 0)
    drill.register()
    resize(drill.folder / small_disk, shutil.disk_usage(drill.uri).used + 1_000_000)
    assert_ended_in_a_line(drill.fill(), "No space left", "run the command again")
    resize(drill.folder / small_disk, 64_000_000)
    assert_went_well(drill.fill())
    assert digest(drill.store, KEYS) == undisturbed.filled
    nothing_is_twice_or_left(drill)


def test_reads_that_fail_for_a_while_cost_no_clip_its_value(begin: Begin, undisturbed):
    drill = begin("failing reads", 0)
    drill.register()
    drill.fill([Kill(500, "and workers")])
    assert drill.store.place.list("_journal")
    for number in range(2):
        (drill.orders / f"failing clip {number}").touch()
        (drill.orders / f"failing journal {number}").touch()
    assert_went_well(drill.fill())
    assert not list(drill.orders.iterdir())
    assert digest(drill.store, KEYS) == undisturbed.filled
    nothing_is_twice_or_left(drill)
