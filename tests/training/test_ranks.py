"""Two workers, in processes of their own, learn what one learns."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from featurestore.errors import VoxportraitError
from featurestore.loader import Loader
from featurestore.memory_records import MemoryRecords
from tests.training.clips import clips_in_memory
from tests.training.plain import PlainStage, batch, weights
from training.checkpoint import open_run
from training.loop import train
from training.metrics import read_metrics
from training.ranks import Ranks
from training.step import Learner

STEPS = 4


class SomeGone:
    """Records of which those of the second half of one global batch were erased."""

    def __init__(self, records: MemoryRecords, gone: np.ndarray):
        self._records, self._gone = records, gone

    def __getattr__(self, name):
        return getattr(self._records, name)

    def read(self, rows, out):
        here = ~np.isin(rows, self._gone)
        self._records.read(rows[here], out)
        return here


def loader(rank: int = 0, ranks: int = 1) -> Loader:
    """Of the second batch, the second worker's whole part is erased, and of the third a clip of the first's."""
    whole = clips_in_memory()
    order = whole.records.rows[whole.order.epoch(0)]
    gone = np.concatenate([order[6:8], whole.records.rows[whole.order.epoch(1)][:1]])
    return Loader(SomeGone(whole.records, gone), 4, 0, rank, ranks)  # type: ignore[arg-type]


def run(folder: Path, ranks: Ranks = Ranks(), **more) -> dict:
    return train(
        folder, loader(ranks.rank, ranks.size), preset="micro", steps=STEPS, device="cpu", report_every=1, ranks=ranks,
        **more,
    )  # fmt: skip


def learnt(ranks: Ranks = Ranks(), uneven: bool = False, share: slice = slice(None), **more) -> torch.Tensor:
    """Weights after some steps; in one of them, where `uneven`, the first of two has all and the second nothing."""
    learner = Learner(PlainStage(**more), ranks)
    if ranks.rank:
        learner.micro_batch = 1
    for step in range(STEPS):
        own = share
        if uneven and step == 1:
            own = slice(None) if ranks.is_first else slice(0)
        learner.step(batch(step, own=own), 0, step, STEPS, samples=8)
    return weights(learner)


def worker(rank: int, port: int, folder: str) -> None:
    """One of two: what it learns goes to files."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    ranks, out = Ranks(rank, 2), Path(folder)
    half = slice(4 * rank, 4 * rank + 4)
    made = {
        "even": learnt(ranks, share=half),
        "uneven": learnt(ranks, uneven=True, share=half),
        "halved": learnt(ranks, share=half, room=3 if rank else None),
        "shared": _shared(ranks),
    }
    torch.save(made, out / f"{rank}.pt")
    run(out / "run", ranks, checkpoint_every=2, should_stop=iter([False, True]).__next__ if rank == 0 else None)
    run(out / "run", ranks)
    try:
        ranks.same("clips", f"clips {rank}", "take a snapshot")
    except VoxportraitError as error:
        (out / f"{rank}.error").write_text(str(error))
    torch.distributed.destroy_process_group()


def _shared(ranks: Ranks) -> torch.Tensor:
    """What both have of tensors, one of them not in one piece, that were the first's."""
    tensors = [torch.full((2, 3), float(ranks.rank)), torch.arange(6.0).reshape(2, 3).t() + ranks.rank]
    ranks.share(tensors)
    return torch.cat([one.reshape(-1) for one in tensors])


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folder of two workers."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("case", ["even", "uneven", "halved"])
def test_two_workers_learn_what_one_does(together, case):
    """Also where one has no part of a batch, other micro-batches, or no memory, and where a layer is never asked."""
    first, second = (torch.load(together / f"{rank}.pt", weights_only=True)[case] for rank in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, learnt())


def test_the_first_workers_tensors_become_everybodys(together):
    for rank in (0, 1):
        shared = torch.load(together / f"{rank}.pt", weights_only=True)["shared"]
        assert shared.tolist() == [0.0] * 6 + [0, 3, 1, 4, 2, 5]


def test_a_run_of_two_workers_stopped_and_resumed_is_that_of_one(together, tmp_path):
    """Clips that were erased leave one of them without a part."""
    run(tmp_path / "run")
    for part in ("model", "average"):
        alone, shared = (open_run(folder / "run").tensors(part, torch.device("cpu")) for folder in (tmp_path, together))
        for name, values in alone.items():
            torch.testing.assert_close(shared[name], values, rtol=1e-3, atol=2e-5)
    one, two = ([row["loss"] for row in read_metrics(f / "run") if "loss" in row] for f in (tmp_path, together))
    np.testing.assert_allclose(one, two, rtol=1e-4)
    assert open_run(together / "run").about["workers"] == 2


def test_workers_that_see_different_clips_say_so(together):
    assert "worker 0 does not see the same clips as the others: take a snapshot" in (together / "0.error").read_text()
