"""The matrix, cell by cell, against the tables of the SLF page (written out here, not taken from the code)."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from featurestore.assembly import Assembler
from featurestore.conditioning import (
    LAYOUTS,
    SYSTEMS,
    Block,
    Layout,
    system,
)
from featurestore.draws import attribute_dropout
from featurestore.errors import UsageError, VoxportraitError
from featurestore.pictures import image_guide

SHAPES = {
    "ecapa": (192,),
    "pyannote": (31, 512),
    "titanet": (192,),
    "speakernet": (256,),
    "short_term": (79, 68),
    "mel": (111, 128),
}
AGE, GENDER, ETHNICITY, LANGUAGE = (40.0, np.nan), (0, 1), (1, -1), (44, -1)


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    values = {key: random.normal(0, 30, (2, *shape)).astype(np.float16) for key, shape in SHAPES.items()}
    values["ecapa"][0, 5] = np.nan
    values["titanet"][1, 7] = 60_000
    values["titanet"][1, 8] = -np.inf
    values["age"] = np.array(AGE, np.float32)
    for key, codes in (("gender", GENDER), ("ethnicity", ETHNICITY), ("language", LANGUAGE)):
        values[key] = np.array(codes, np.int64)
    return values


def assembled(layout, arrays, **more):
    compact = {key: torch.from_numpy(values) for key, values in arrays.items()}
    return Assembler(layout)(compact, **more).clone().numpy()


def scaled(values, factor):
    return np.clip(np.nan_to_num(values.astype(np.float32) * np.float32(factor), nan=0.0), -10, 10)


def test_slf_fills_the_cells_of_its_table(arrays):
    want = np.zeros((2, 256, 768), np.float32)
    want[:, 0, 0:192] = scaled(arrays["ecapa"], 1 / 200)
    windows = scaled(arrays["pyannote"], 1 / 400)
    starts_3_s = [1, 3, 5, 7, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    want[:, 1:12, 0:512] = windows[:, [starts_3_s.index(s) for s in range(1, 22, 2)]]
    want[:, 12:22, 0:512] = windows[:, 16:26]
    want[:, 22:26, 0:512] = windows[:, 26:30]
    want[:, 26, 0:512] = windows[:, 30]
    want[:, 27, 0:192] = scaled(arrays["titanet"], 10)
    want[:, 28, 0:256] = scaled(arrays["speakernet"], 1)
    want[:, 29:108, 0:68] = scaled(arrays["short_term"], 1 / 100)
    want[:, 108:219, 0:128] = scaled(arrays["mel"], 1 / 100)
    want[0, 219, 44] = 1
    want[0, 220, :] = 0.4
    want[0, 221, 0] = want[1, 221, 1] = 1
    want[0, 222, 1] = 1
    np.testing.assert_allclose(assembled(LAYOUTS["slf"], arrays), want, rtol=1e-6)


def test_the_released_layout_fills_the_cells_of_its_table_slips_included(arrays):
    want = np.zeros((2, 256, 768), np.float32)
    want[0, 0, :767] = 0.4
    want[1, 0, 767] = 1
    want[0, 1, 16] = 1
    want[0, 2, :], want[1, 2, :] = 1, -1
    want[0, 3, 44] = 1
    want[:, 4, 288:480] = scaled(arrays["ecapa"], 1 / 200)
    want[:, 5:31, 0:512] = scaled(arrays["pyannote"], 1 / 400)[:, -26:]
    want[:, 31, 160:352] = scaled(arrays["titanet"], 10)
    want[:, 32, 128:384] = scaled(arrays["speakernet"], 1)
    want[:, 33:112, 60:128] = scaled(arrays["short_term"], 1 / 100)
    want[:, 112:223, 0:128] = scaled(arrays["mel"], 1 / 100)
    np.testing.assert_allclose(assembled(LAYOUTS["slf-released"], arrays), want, rtol=1e-6)


def test_the_map_names_the_rectangles():
    rectangles = LAYOUTS["slf"].without("classical-features").rectangles
    assert rectangles[:2] == [("ecapa", 0, 1, 0, 192), ("pyannote", 1, 26, 0, 512)]
    assert [name for name, *_ in rectangles] == [
        "ecapa", "pyannote", "titanet", "speakernet", "language", "age", "gender", "ethnicity"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "zero_rows", "guide", "scale"),
    [
        ("only-image-guide", range(223), True, None),
        ("full-input", (), True, 8),
        ("no-image-guide", (), False, 2),
        ("no-speaker-embedding", range(29), True, 8),
        ("no-audio", range(220), True, 4),
        ("only-audio", range(220, 223), False, 2),
        ("speaker-embedding-only", range(29, 223), False, 4),
        ("no-additional-attributes", range(220, 223), True, 4),
    ],
)
def test_a_system_leaves_out_its_rows_and_no_others(arrays, name, zero_rows, guide, scale):
    full = assembled(LAYOUTS["slf"], arrays)
    full[:, list(zero_rows)] = 0
    np.testing.assert_array_equal(assembled(system(name).layout(), arrays), full)
    assert (SYSTEMS[name].image_guide, SYSTEMS[name].cond_scale) == (guide, scale)


def test_a_system_reads_only_what_it_uses(arrays):
    layout = system("speaker-embedding-only").layout()
    assert layout.constituents == ("ecapa", "pyannote", "titanet", "speakernet")
    only = {key: arrays[key] for key in layout.constituents}
    np.testing.assert_array_equal(assembled(layout, only), assembled(layout, arrays))


def test_dropped_values_are_as_unknown_ones_and_the_buffer_keeps_nothing(arrays):
    compact = {key: torch.from_numpy(values) for key, values in arrays.items()}
    dropped = {key: torch.tensor([True, False]) for key in ("age", "gender", "ethnicity", "language")}
    for name, empty in (("slf", slice(219, 223)), ("slf-released", slice(1, 4))):
        assembler = Assembler(LAYOUTS[name])
        before = assembler(compact).clone()
        after = assembler(compact, dropped).clone()
        assert not after[0, empty].any()
        torch.testing.assert_close(after[1], before[1])
        torch.testing.assert_close(assembler(compact), before)
    assert after[0, 0, 767] == 1
    assert not after[0, 0, :767].any()


def test_absent_constituents_are_named_or_give_zero_rows(arrays):
    some = {key: values for key, values in arrays.items() if key not in ("pyannote", "age")}
    with pytest.raises(VoxportraitError, match="pyannote, age"):
        assembled(LAYOUTS["slf"], some)
    compact = {key: torch.from_numpy(values) for key, values in some.items()}
    matrix = Assembler(LAYOUTS["slf"], allow_missing=True)(compact)
    assert not matrix[:, 1:27].any()
    assert not matrix[:, 220].any()
    assert matrix[:, 27].any()


def test_a_wrong_shape_is_named(arrays):
    with pytest.raises(VoxportraitError, match=r"block mel takes \(111, 128\) values, the batch has \(80, 128\)"):
        assembled(LAYOUTS["slf"], {**arrays, "mel": arrays["mel"][:, :80]})


def test_a_layout_survives_json_and_its_fingerprint_tells_layouts_apart():
    layout = LAYOUTS["slf-released"].without("attributes")
    again = Layout.from_json(json.loads(json.dumps(layout.to_json())))
    assert again == layout
    assert again.fingerprint == layout.fingerprint == replace(layout, name="other").fingerprint
    prints = {LAYOUTS["slf"].without(*off).fingerprint for off in [(), ("age",), ("language",), ("attributes",)]}
    assert len({*prints, LAYOUTS["slf-released"].fingerprint, layout.fingerprint}) == 6
    moved = replace(LAYOUTS["slf"], blocks=(Block("ecapa", 0, 1, 1, 192), *LAYOUTS["slf"].blocks[1:]))
    with pytest.raises(VoxportraitError, match=r"the file has the layout slf \(.*\), not slf \("):
        LAYOUTS["slf"].require(moved, "the file")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Block("mel", 200, 111, 0, 128), "block mel: rows 200..310"),
        (lambda: Block("mell", 0, 111, 0, 128), "Did you mean 'mel'"),
        (
            lambda: Layout("x", (Block("mel", 0, 111, 0, 128), Block("ecapa", 5, 1, 0, 192))),
            r"mel \(rows 0..110\) and block ecapa \(rows 5..5\) overlap in rows 5..5, columns 0..127",
        ),
        (lambda: LAYOUTS["slf"].without("atributes"), "Did you mean 'attributes'"),
        (lambda: Layout.from_json({"name": "x", "blocks": [{"constituent": "mel", "raw": 1}]}), "raw"),
        (lambda: system("full"), "unknown system 'full'"),
    ],
)
def test_what_is_not_a_layout_is_refused_in_one_line(wrong, message):
    with pytest.raises(UsageError, match=message) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_dropout_is_a_fifth_each_independent_and_a_function_of_its_place():
    layout, positions = LAYOUTS["slf"], np.arange(4000)
    drops = attribute_dropout(layout, 3, 1, positions)
    assert sorted(drops) == ["age", "ethnicity", "gender", "language"]
    table = np.stack([drops[key] for key in sorted(drops)])
    np.testing.assert_allclose(table.mean(1), 0.2, atol=0.025)
    assert np.abs(np.corrcoef(table) - np.eye(4)).max() < 0.06
    some = attribute_dropout(layout, 3, 1, positions[[7, 3999]])
    assert all((some[key] == drops[key][[7, 3999]]).all() for key in drops)
    assert (attribute_dropout(layout, 3, 2, positions)["age"] != drops["age"]).any()


def test_the_guide_is_the_mean_of_squares():
    face = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    guide = image_guide(face)
    assert guide.shape == (8, 8, 3)
    assert abs(int(guide[2, 5, 1]) - face[32:48, 80:96, 1].mean()) <= 0.5
    np.testing.assert_array_equal(image_guide(face[None].repeat(2, 0))[1], guide)
