"""A step: the same in one piece or many, and it goes on where memory ends."""

import resource

import pytest
import torch

from featurestore.errors import VoxportraitError
from tests.training.plain import PlainStage, batch, weights
from training.checkpoint import open_run, restore, write_checkpoint
from training.step import Learner


def learnt(stage, steps=5, size=8, **more):
    learner = Learner(stage, **more)
    losses = [learner.step(batch(step, size), 0, step, steps).item() for step in range(steps)]
    return learner, losses


@pytest.fixture(scope="module")
def in_one_piece():
    return learnt(PlainStage())


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_a_batch_in_pieces_is_learnt_as_in_one(in_one_piece, micro_batch):
    learner, losses = learnt(PlainStage(), micro_batch=micro_batch)
    assert set(learner.stage.limited.seen) == {1: {1}, 3: {3, 2}, 4: {4}}[micro_batch]
    torch.testing.assert_close(losses, in_one_piece[1])
    torch.testing.assert_close(weights(learner), weights(in_one_piece[0]))


def test_where_memory_ends_the_pieces_are_halved_until_they_fit_and_nothing_is_lost(in_one_piece):
    learner, losses = learnt(PlainStage(room=3))
    assert learner.stage.limited.seen[:5] == [8, 4, 2, 2, 2]
    assert learner.micro_batch == 2
    torch.testing.assert_close(losses, in_one_piece[1])
    torch.testing.assert_close(weights(learner), weights(in_one_piece[0]))


def test_memory_that_ends_in_a_later_piece_takes_back_what_the_first_ones_added(in_one_piece):
    class Shrinking(PlainStage):
        def loss(self, inputs, noise):
            if len(self.limited.seen) == 1:
                self.limited.room = 2
            return super().loss(inputs, noise)

    learner, losses = learnt(Shrinking(), micro_batch=4)
    assert learner.stage.limited.seen[:4] == [4, 4, 2, 2]
    torch.testing.assert_close(losses, in_one_piece[1])
    torch.testing.assert_close(weights(learner), weights(in_one_piece[0]))


def test_a_device_without_memory_for_one_sample_is_named_in_a_line():
    with pytest.raises(VoxportraitError, match=r"^cpu has no memory for one sample: no room for 1$"):
        learnt(PlainStage(room=0))


def test_the_gradient_is_clipped_as_a_whole_and_not_in_pieces():
    for micro_batch in (None, 1):
        stage = PlainStage(clip=0.01)
        learnt(stage, steps=1, micro_batch=micro_batch)
        norm = torch.stack([p.grad.norm() for p in stage.network.parameters() if p.grad is not None]).norm()
        assert norm == pytest.approx(0.01, rel=1e-3)


def write(folder, step, learner):
    return write_checkpoint(folder, step, {}, learner.stage.network, learner.average, learner.optimizer)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_and_nothing_else(tmp_path):
    learner = Learner(PlainStage())
    first, before = write(tmp_path, 1, learner), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(VoxportraitError, match=r"step-00000002 cannot be written: .*; make room: "):
            write(tmp_path, 2, learner)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "checkpoints").iterdir()) == [first]


@pytest.mark.parametrize("part", ["model", "average", "optimizer"])
def test_a_damaged_or_missing_part_of_a_checkpoint_is_named_in_a_line(tmp_path, part):
    learner = Learner(PlainStage())
    path = write(tmp_path, 1, learner) / f"{part}.safetensors"
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:-1]), path.unlink):
        spoil()
        with pytest.raises(VoxportraitError, match=rf"^.* not a readable checkpoint: {part}\.safetensors: [^\n]*$"):
            restore(open_run(tmp_path), learner.stage.network, learner.average, learner.optimizer)


@pytest.mark.parametrize("fused", [False, True])
def test_learning_goes_on_to_the_bit_with_adam_in_one_kernel_too(tmp_path, fused):
    def learner():
        made = Learner(PlainStage())
        made.optimizer.param_groups[0]["fused"] = fused
        return made

    straight, half, other = learner(), learner(), learner()
    for step in range(4):
        straight.step(batch(step), 0, step, 4)
    for step in (0, 1):
        half.step(batch(step), 0, step, 4)
    write_checkpoint(tmp_path, 2, {}, half.stage.network, half.average, half.optimizer)
    restore(open_run(tmp_path), other.stage.network, other.average, other.optimizer)
    for step in (2, 3):
        other.step(batch(step), 0, step, 4)
    assert torch.equal(weights(other), weights(straight))
