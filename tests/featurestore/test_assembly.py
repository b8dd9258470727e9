"""The assembler against plain loops over a layout's blocks; buffers that keep nothing; what it refuses."""

import threading
from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.assembly import Assembler
from featurestore.catalogue import ATTRIBUTES, CATALOGUE
from featurestore.conditioning import COLUMNS, LAYOUTS, ROWS, Block, Layout
from featurestore.cores import spread
from featurestore.errors import VoxportraitError

ARRAYS = ("ecapa", "pyannote", "titanet", "speakernet", "short_term", "mel")
Arrays = Mapping[str, np.ndarray]


def reference(layout: Layout, compact: Arrays, dropped: Arrays, size: int) -> np.ndarray:
    """The matrix by the words of `Block` and `Layout`, cell by cell or row by row."""
    matrix = np.zeros((size, ROWS, COLUMNS), np.float32)
    for block in layout.blocks:
        stored = compact.get(block.constituent) if block in layout.on else None
        gone = dropped.get(block.constituent, np.zeros(size, bool))
        for clip in range(size):
            value = None if stored is None or gone[clip] or _is_unknown(block, stored[clip]) else stored[clip]
            if value is not None:
                matrix[(clip, *block.cells)] = _cells(block, value, np.float32(layout.clamp))
            elif block.unknown_column is not None:
                matrix[clip, block.row, block.unknown_column] = 1
    return matrix


def _is_unknown(block: Block, value: np.ndarray) -> bool:
    return block.encoding != "values" and bool(np.isnan(value) if block.encoding == "constant" else value < 0)


def _cells(block: Block, value: np.ndarray, clamp: np.float32) -> np.ndarray:
    if block.encoding == "one-hot":
        code = block.codes[int(value)] if block.codes else int(value)
        return (np.arange(block.columns) == code).astype(np.float32)
    if block.encoding == "level":
        numbers = np.full(1, block.codes[int(value)], np.float32)
    else:
        numbers = np.atleast_2d(value).astype(np.float32) * np.float32(block.scale)
        numbers = numbers[list(block.take)] if block.take else numbers
    return np.clip(np.where(np.isnan(numbers), np.float32(0), numbers), -clamp, clamp)


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    """Some constituents, one under the other in any order, at any column where they fit."""
    made, row = [], 0
    for key in draw(st.permutations([*ARRAYS, "age", *ATTRIBUTES])):
        shape, mark = CATALOGUE[key].shape, draw(st.booleans())
        more: dict = {"scale": draw(st.sampled_from([1.0, 10.0, 1 / 400, -0.3]))}
        if key in ARRAYS:
            stored = shape[0] if len(shape) == 2 else 1
            take = draw(st.lists(st.integers(0, stored - 1), max_size=9)) if stored > 1 else []
            more["take"] = take or (range(draw(st.integers(1, 9))) if stored > 40 else ())
            rows, columns = len(more["take"]) or stored, shape[-1]
        elif key == "age":
            rows, columns, more["encoding"] = draw(st.integers(1, 3)), draw(st.integers(1, 700)), "constant"
        else:
            labels = len(ATTRIBUTES[key])
            rows, columns = 1, draw(st.integers(labels, 60))
            more["encoding"] = draw(st.sampled_from(["one-hot", "level"]))
            if more["encoding"] == "level" or draw(st.booleans()):
                most = columns - 1 if more["encoding"] == "one-hot" else 15
                more["codes"] = draw(st.lists(st.integers(0, most), min_size=labels, max_size=labels))
        column = draw(st.integers(0, COLUMNS - columns - 1))
        if mark and key not in ARRAYS:
            more["unknown_column"] = column + columns
        if draw(st.integers(0, 3)) and row + rows <= ROWS:
            made.append(Block(key, row, rows, column, columns, **more))
            row += rows
    return made


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    made = draw(blocks().filter(bool))
    off = draw(st.lists(st.sampled_from([block.constituent for block in made]), max_size=3))
    return Layout("drawn", tuple(made), clamp=draw(st.sampled_from([10.0, 1.5])), off=tuple(off))


def arrays(layout: Layout, size: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compact values, with what is not finite among them, and which of them are dropped."""
    random = np.random.default_rng(seed)
    compact: dict[str, np.ndarray] = {}
    for key in layout.constituents:
        if key in ARRAYS:
            values = random.normal(0, 30, (size, *CATALOGUE[key].shape)).astype(np.float16)
            flat = values.reshape(-1)
            if size:
                flat[random.integers(0, len(flat), 40)] = np.repeat(
                    np.array([np.nan, np.inf, -np.inf, 6e4], np.float16), 10
                )
            compact[key] = values
        elif key == "age":
            compact[key] = random.choice(np.array([np.nan, 20, 71.5, 1e6], np.float32), size)
        else:
            compact[key] = random.integers(-1, len(ATTRIBUTES[key]), size)
    return compact, {key: random.random(size) < 0.4 for key in compact}


def tensors(values: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in values.items()}


def bits(matrix: np.ndarray) -> np.ndarray:
    """As integers, with one zero: -0 x a mask is -0."""
    return (matrix + np.float32(0)).view(np.int32)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(layouts(), st.lists(st.integers(1, 20), min_size=2, max_size=3), st.sampled_from([1, 2]))
def test_every_layout_is_as_its_words_say_in_batches_of_any_size_one_after_another(layout, sizes, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assemble, halved = Assembler(layout), Assembler(layout, dtype=torch.bfloat16)
        for number, size in enumerate(sizes):
            compact, dropped = arrays(layout, size, number)
            dropped = dropped if number % 2 else {}
            want = reference(layout, compact, dropped, size)
            got = assemble(tensors(compact), tensors(dropped), size)
            np.testing.assert_array_equal(bits(got.numpy()), bits(want))
            rounded = halved(tensors(compact), tensors(dropped), size)
            assert torch.equal(rounded, torch.from_numpy(want).bfloat16())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_keeps_nothing_of_a_larger_batch_or_of_one_that_had_more(dtype):
    layout = LAYOUTS["slf-released"]
    assemble = Assembler(layout, allow_missing=True, dtype=dtype)
    for number, (size, lacks) in enumerate(
        [(20, ()), (3, ("mel", "age")), (20, ("gender",)), (21, ()), (2, ("ecapa",))]
    ):
        compact, dropped = arrays(layout, size, number)
        some = {key: values for key, values in compact.items() if key not in lacks}
        fresh = Assembler(layout, allow_missing=True, dtype=dtype)
        for drops in (dropped, {}):
            got = assemble(tensors(some), tensors(drops), size)
            assert torch.equal(got, fresh(tensors(some), tensors(drops), size))
            assert torch.equal(got.float(), torch.from_numpy(reference(layout, some, drops, size)).to(dtype).float())


def test_a_matrix_is_used_again_unless_each_call_is_to_have_its_own():
    compact, _ = arrays(LAYOUTS["slf"], 4, 0)
    again, own = Assembler(LAYOUTS["slf"]), Assembler(LAYOUTS["slf"], reuse=False)
    assert again(tensors(compact)).data_ptr() == again(tensors(compact)).data_ptr()
    kept, other = own(tensors(compact)), own(tensors(arrays(LAYOUTS["slf"], 4, 1)[0]))
    assert torch.equal(kept, again(tensors(compact)))
    assert not torch.equal(kept, other)


def test_arrays_are_dropped_too_where_a_layout_says_so():
    compact, _ = arrays(LAYOUTS["slf"], 2, 0)
    matrix = Assembler(LAYOUTS["slf"])(tensors(compact), {"ecapa": torch.tensor([True, False])})
    assert not matrix[0, 0].any()
    assert matrix[1, 0].any()


def test_a_system_without_constituents_and_a_batch_without_clips_have_their_matrices():
    nothing = LAYOUTS["slf"].without("speaker-embeddings", "classical-features", "attributes", "language")
    assert Assembler(nothing)({}, size=3).shape == (3, ROWS, COLUMNS)
    assert not Assembler(nothing)({}, size=3).any()
    assert Assembler(LAYOUTS["slf"])(tensors(arrays(LAYOUTS["slf"], 0, 0)[0]), size=0).shape == (0, ROWS, COLUMNS)


def test_a_matrix_made_in_inference_mode_can_be_made_again_outside():
    compact, dropped = arrays(LAYOUTS["slf"], 20, 0)
    assemble = Assembler(LAYOUTS["slf"])
    with torch.inference_mode():
        first = assemble(tensors(compact), tensors(dropped)).clone()
    assert torch.equal(assemble(tensors(compact), tensors(dropped)), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("mel"), "the batch lacks 1 constituent of the layout slf: mel; fill"),
        (lambda c: (c.pop("mel"), c.pop("age")), "lacks 2 constituents of the layout slf: mel, age; fill"),
        (lambda c: c.update(mel=c["mel"][:, :80]), r"block mel takes \(111, 128\) values, the batch has \(80, 128\)"),
        (lambda c: c.update(ecapa=c["ecapa"][:, :9]), r"block ecapa takes \(192,\) values, the batch has \(9,\)"),
        (lambda c: c.update(pyannote=c["pyannote"][:, :26]), r"pyannote takes \(31, 512\) .* has \(26, 512\)"),
        (lambda c: c.update(gender=c["gender"][:, None]), r"block gender takes \(\) values, the batch has \(1,\)"),
        (lambda c: c.update(titanet=c["titanet"][:1]), "block titanet has 1 clips, the batch has 2"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, message):
    compact = tensors(arrays(LAYOUTS["slf"], 2, 0)[0])
    change(compact)
    with pytest.raises(VoxportraitError, match=message) as error:
        Assembler(LAYOUTS["slf"])(compact, size=2)
    assert "\n" not in str(error.value)


def test_pieces_are_all_done_and_what_one_raises_is_raised():
    done: list[int] = []
    spread([partial(done.append, i) for i in range(50)])
    assert sorted(done) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        spread([lambda: done.append(0), lambda: 1 / 0])


def test_what_a_piece_raises_is_raised_when_no_other_is_at_work_any_more():
    """Else it would write into a buffer that somebody else has by then."""
    begun, done = threading.Event(), threading.Event()

    def slow():
        begun.set()
        threading.Event().wait(0.2)
        done.set()

    def broken():
        begun.wait(10)
        raise ZeroDivisionError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            spread([broken, slow])
        assert done.is_set()
    finally:
        torch.set_num_threads(before)


def test_torch_keeps_its_own_threads_while_pieces_are_spread():
    before = torch.get_num_threads()
    seen: list[int] = []
    torch.set_num_threads(3)
    try:
        spread([lambda: seen.append(torch.get_num_threads()) for _ in range(6)])
        assert (seen, torch.get_num_threads()) == ([1] * 6, 3)
    finally:
        torch.set_num_threads(before)
