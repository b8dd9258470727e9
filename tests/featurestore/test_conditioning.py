"""The matrix, cell by cell, against the tables of the SLF page (written out here, not taken from the code)."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from featurestore.assembly import Assembler
from featurestore.conditioning import (
    ATTRIBUTES,
    GROUPS,
    LAYOUTS,
    SYSTEMS,
    Block,
    Layout,
    given,
    layout_named,
    system,
)
from featurestore.draws import attribute_dropout
from featurestore.errors import UsageError, VoxportraitError
from featurestore.pictures import image_guide
from featurestore.slips import SLIPS, slips_of, with_slips, without_slips

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


# row, rows, column, columns, scale, of the page's two tables
TABLES = {
    "slf": {
        "ecapa": (0, 1, 0, 192, 1 / 200),
        "pyannote": (1, 26, 0, 512, 1 / 400),
        "titanet": (27, 1, 0, 192, 10),
        "speakernet": (28, 1, 0, 256, 1),
        "short_term": (29, 79, 0, 68, 1 / 100),
        "mel": (108, 111, 0, 128, 1 / 100),
        "language": (219, 1, 0, 45, 1),
        "age": (220, 1, 0, 768, 1 / 100),
        "gender": (221, 1, 0, 2, 1),
        "ethnicity": (222, 1, 0, 6, 1),
    },
    "slf-released": {
        "age": (0, 1, 0, 767, 1 / 100),
        "ethnicity": (1, 1, 0, 17, 1),
        "gender": (2, 1, 0, 768, 1),
        "language": (3, 1, 0, 45, 1),
        "ecapa": (4, 1, 288, 192, 1 / 200),
        "pyannote": (5, 26, 0, 512, 1 / 400),
        "titanet": (31, 1, 160, 192, 10),
        "speakernet": (32, 1, 128, 256, 1),
        "short_term": (33, 79, 60, 68, 1 / 100),
        "mel": (112, 111, 0, 128, 1 / 100),
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_every_block_has_the_rows_the_columns_and_the_scale_of_the_table(name):
    blocks = LAYOUTS[name].blocks
    assert {b.constituent: (b.row, b.rows, b.column, b.columns, b.scale) for b in blocks} == TABLES[name]
    assert (LAYOUTS[name].clamp, dict(LAYOUTS[name].dropout)) == (10, dict.fromkeys((*ATTRIBUTES, "age"), 0.2))


@pytest.mark.parametrize("name", TABLES)
def test_each_label_has_its_own_column_but_for_the_two_slips_of_the_released_table(name):
    def column(key, code):
        arrays = {key: np.array([code], np.int64)}
        (hot,) = np.flatnonzero(assembled(LAYOUTS[name].only(key), arrays)[0, TABLES[name][key][0]])
        return hot

    released = name == "slf-released"
    ethnicities = [column("ethnicity", code) for code in range(6)]
    assert ethnicities == [0, 16 if released else 1, 2, 3, 4, 5]
    languages = {label: column("language", code) for code, label in enumerate(ATTRIBUTES["language"])}
    if released:
        assert languages.pop("Portuguese") == languages.pop("Spanish") == 16
        assert sorted(languages.values()) == [c for c in range(45) if c not in (1, 16)]
    else:
        assert list(languages.values()) == list(range(45))


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


LEVEL = {"constituent": "gender", "row": 0, "rows": 1, "column": 0, "columns": 9, "encoding": "level"}


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
        (
            lambda: Layout.from_json({"name": "x", "blocks": [{**LEVEL, "codes": [10**30, 1]}]}),
            "gender: the level 1000",
        ),
        (
            lambda: Layout.from_json({"name": "x", "blocks": [{**LEVEL, "codes": 5}]}),
            "gender: codes is 5, not a list",
        ),
        (lambda: Layout("x", (), clamp=10**400), "clamp is 1000.*, not a number from 0 up"),
        (lambda: Layout("x", (), clamp=math.inf), "clamp is inf, not a number from 0 up"),
        (lambda: Block("ecapa", 0, 1, 0, 192, scale=-(10**400)), "block ecapa: scale is -1000.*, not a number"),
        (lambda: Layout("two\nlines", ()), "a layout's name is a line of text"),
        (lambda: Layout("x", (), groups={"voices": ("ecpa",)}), "unknown constituent 'ecpa'. Did you mean 'ecapa'"),
        (lambda: Layout.from_json({"name": "x", "blocks": [], "off": "mel"}), "the layout: off is 'mel', not a list"),
        (lambda: LAYOUTS["slf"].chosen(only=" , "), "names with commas between are wanted, not ' , '"),
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


# -- slips ---------------------------------------------------------------------------------------------------------


def test_the_released_layout_has_the_slips_that_its_table_shows_and_slf_has_none():
    assert slips_of(LAYOUTS["slf"]) == ()
    assert slips_of(LAYOUTS["slf-released"]) == ("asian-at-16", "portuguese-and-spanish-at-16", "last-26-windows")


@pytest.mark.parametrize("base", TABLES)
@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_put_and_mended_alone_and_survives_json(base, name):
    before = slips_of(LAYOUTS[base])
    put, mended = with_slips(LAYOUTS[base], name), without_slips(LAYOUTS[base], name)
    assert set(slips_of(put)) == {*before, name}
    assert set(slips_of(mended)) == set(before) - {name}
    assert with_slips(mended, name) == put
    assert without_slips(put, name) == mended
    assert Layout.from_json(put.to_json()) == put
    assert put.fingerprint != mended.fingerprint or name == "language-with-attributes"


def test_mended_columns_and_windows_are_those_of_slf(arrays):
    mended = assembled(without_slips(LAYOUTS["slf-released"], *SLIPS), arrays)
    slf = assembled(LAYOUTS["slf"], arrays)
    np.testing.assert_array_equal(mended[:, 1, :6], slf[:, 222, :6])
    np.testing.assert_array_equal(mended[:, 3, :45], slf[:, 219, :45])
    np.testing.assert_array_equal(mended[:, 5:31], slf[:, 1:27])


@pytest.mark.parametrize(
    ("off", "zero"),
    [
        ((), True),
        (("speaker-embeddings",), True),
        (("mel",), False),
        (("short_term",), False),
    ],
)
def test_cancelled_classical_features_are_zeros_unless_one_of_them_is_off(arrays, off, zero):
    layout = with_slips(LAYOUTS["slf-released"], "classical-features-cancelled").without(*off)
    matrix = assembled(layout, arrays)
    assert (not matrix[:, 33:223].any()) == zero
    if not zero:
        np.testing.assert_array_equal(matrix, assembled(LAYOUTS["slf-released"].without(*off), arrays))


def test_a_cut_at_80_gives_the_first_row_of_mel_to_the_other_family(arrays):
    layout, plain = with_slips(LAYOUTS["slf-released"], "cut-at-80"), assembled(LAYOUTS["slf-released"], arrays)
    np.testing.assert_array_equal(assembled(layout, arrays), plain)
    without_short_term, without_mel = plain.copy(), plain.copy()
    without_short_term[:, 33 : 33 + 80] = 0
    without_mel[:, 33 + 80 : 223] = 0
    np.testing.assert_array_equal(assembled(layout.without("short_term"), arrays), without_short_term)
    np.testing.assert_array_equal(assembled(layout.without("mel"), arrays), without_mel)
    assert not assembled(layout.without("classical-features"), arrays)[:, 33:223].any()


def test_with_its_slip_the_language_follows_the_attributes_and_not_the_audio():
    layout = with_slips(LAYOUTS["slf-released"], "language-with-attributes")
    off = {name for name, one in SYSTEMS.items() if "language" not in one.layout(layout).constituents}
    assert off == {"only-image-guide", "only-audio", "speaker-embedding-only", "no-additional-attributes"}
    off = {name for name, one in SYSTEMS.items() if "language" not in one.layout().constituents}
    assert off == {"only-image-guide", "no-audio", "speaker-embedding-only"}


def test_slips_come_before_what_is_left_out():
    with pytest.raises(UsageError, match="choose slips \\(cut-at-80\\) first"):
        with_slips(LAYOUTS["slf"].without("mel"), "cut-at-80")
    with pytest.raises(UsageError, match=r"unknown slip 'cut-at-8'. Did you mean 'cut-at-80'"):
        with_slips(LAYOUTS["slf"], "cut-at-8")


# -- choices of inputs ---------------------------------------------------------------------------------------------


def test_any_choice_of_blocks_has_a_name_or_is_named(arrays):
    slf = LAYOUTS["slf"]
    assert slf.only("ecapa", "age").constituents == ("ecapa", "age")
    assert slf.without("age").only("attributes").constituents == ("gender", "ethnicity")
    assert slf.chosen("speaker-embeddings, age", "pyannote") == slf.only("ecapa", "titanet", "speakernet", "age")
    switches = ["speechbrain", "pyannote-titanet-speakernet", "pyaudioanalysis", "librosa"]
    assert [slf.only(name).constituents for name in switches] == [
        ("ecapa",), ("pyannote", "titanet", "speakernet"), ("short_term",), ("mel",)
    ]  # fmt: skip
    assert set(GROUPS["audio"]) | set(GROUPS["attributes"]) == set(TABLES["slf"])


def test_a_system_leaves_out_of_a_layout_of_ones_own_what_that_has():
    own = Layout("own", (Block("ecapa", 0, 1, 0, 192), Block("age", 1, 1, 0, 768, "constant")))
    assert {name: one.layout(own).constituents for name, one in SYSTEMS.items()} == {
        "only-image-guide": (),
        "full-input": ("ecapa", "age"),
        "no-image-guide": ("ecapa", "age"),
        "no-speaker-embedding": ("age",),
        "no-audio": ("age",),
        "only-audio": ("ecapa",),
        "speaker-embedding-only": ("ecapa",),
        "no-additional-attributes": ("ecapa",),
    }


def test_attributes_given_by_hand_replace_the_stored_ones(arrays):
    replaced = given(arrays, {"age": 30, "gender": "woman", "language": None})
    matrix, before = assembled(LAYOUTS["slf"], replaced), assembled(LAYOUTS["slf"], arrays)
    assert np.allclose(matrix[:, 220], 0.3)
    assert matrix[:, 221, :2].tolist() == [[0, 1], [0, 1]]
    assert not matrix[:, 219].any()
    np.testing.assert_array_equal(np.delete(matrix, (219, 220, 221), 1), np.delete(before, (219, 220, 221), 1))
    assert np.isnan(given(arrays, {"age": None})["age"]).all()
    np.testing.assert_array_equal(arrays["age"], np.array(AGE, np.float32))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"aeg": 3}, "unknown attribute 'aeg'. Did you mean 'age'"),
        ({"gender": "female"}, "unknown gender 'female'.* Known: man, woman"),
        ({"ethnicity": "asiam"}, "Did you mean 'asian'"),
        ({"age": -1}, "age is -1, not a number of years"),
        ({"age": "old"}, "age is 'old'"),
        ({"age": float("nan")}, "age is nan"),
    ],
)
def test_what_is_no_attribute_is_refused_with_the_known_ones(arrays, attributes, message):
    with pytest.raises(UsageError, match=message):
        given(arrays, attributes)


# -- files and errors ----------------------------------------------------------------------------------------------


def test_a_layout_comes_by_its_name_or_from_a_file(tmp_path):
    assert layout_named("slf-released") is LAYOUTS["slf-released"]
    path = tmp_path / "own.json"
    path.write_text(
        json.dumps({"blocks": [{"constituent": "ecapa", "row": 3, "rows": 1, "column": 0, "columns": 192}]})
    )
    assert layout_named(str(path)) == Layout("own", (Block("ecapa", 3, 1, 0, 192),))
    path.write_text(json.dumps(LAYOUTS["slf"].without("mel").to_json()), encoding="utf-8-sig")
    assert layout_named(str(path)) == LAYOUTS["slf"].without("mel")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "described by a JSON object"),
        ('{"blocks": 3}', "with a list of blocks"),
        ('{"blocks": [3]}', "block 0 is 3, not a JSON object"),
        ('{"clamp": 3}', "the layout lacks blocks"),
        ('{"blocks": [], "clamps": 3}', "unknown field of the layout 'clamps'. Did you mean 'clamp'"),
        ('{"blocks": [], "dropout": 3}', "the layout is not described as it should be"),
        ('{"blocks": [{"constituent": "age", "row": 1}]}', "block age lacks rows and column and columns"),
        (
            '{"blocks": [{"constituent": "ecapa", "row": "1", "rows": 1, "column": 0, "columns": 192}]}',
            "own.json: block ecapa: row is '1', not a whole number",
        ),
    ],
)
def test_a_file_that_is_no_layout_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "own.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        layout_named(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block("mel", 0, 111, 700, 128), "block mel: columns 700..827 leave the matrix's 0..767"),
        (lambda: Block("mel", -1, 111, 0, 128), r"block mel: rows -1..109 leave the matrix's 0..255"),
        (lambda: Block("mel", 0, 0, 0, 128), "block mel: it has 0 rows"),
        (lambda: Block("mel", 0, 100, 0, 128), "block mel: 100 x 128 cells, the constituent has 111 x 128 values"),
        (lambda: Block("ecapa", 0, 1, 0, 200), "block ecapa: 1 x 200 cells, the constituent has 1 x 192 values"),
        (
            lambda: Block("pyannote", 0, 31, 0, 512, take=tuple(range(26))),
            "block pyannote: 31 x 512 cells, the constituent has 31 x 512 values, 26 of its rows are taken",
        ),
        (lambda: Block("pyannote", 0, 1, 0, 512, take=(31,)), "take has row 31, the constituent has rows 0..30"),
        (lambda: Block("face", 0, 1, 0, 1), "block face: the constituent is a picture"),
        (lambda: Block("face_128", 0, 128, 0, 128), "block face_128: 128 x 128 cells, .* 128 x 128 x 3 values"),
        (lambda: Block("age", 0, 1, 0, 1), "block age: encoding 'values' is not for a number: use constant"),
        (lambda: Block("ecapa", 0, 1, 0, 192, "one-hot"), "encoding 'one-hot' is not for a vector: use values"),
        (
            lambda: Block("gender", 0, 1, 0, 2, "one-hot", codes=(0,)),
            r"block gender: 1 codes for 2 labels \(man, woman",
        ),
        (lambda: Block("gender", 0, 1, 0, 2, "one-hot", codes=(0, 2)), "woman is column 2, the block's are 0..1"),
        (lambda: Block("gender", 0, 1, 0, 1, "one-hot"), "woman is column 1, the block's are 0..0"),
        (lambda: Block("gender", 0, 2, 0, 2, "one-hot"), "block gender: one-hot takes 1 row, not 2"),
        (lambda: Block("gender", 0, 1, 0, 2, "level"), "level needs a code for each label"),
        (lambda: Block("mel", 0, 111, 0, 128, codes=(1,)), r"codes \(1,\) is not for the encoding values"),
        (lambda: Block("mel", 0, 111, 0, 128, scale=float("nan")), "block mel: scale is nan"),
        (
            lambda: Block("age", 0, 1, 0, 9, "constant", unknown_column=768),
            "unknown_column 768 leaves the matrix's 0..767",
        ),
        (
            lambda: Layout("x", (Block("age", 0, 1, 0, 8, "constant", unknown_column=8), _gender(8))),
            r"block age \(rows 0..0\) and block gender \(rows 0..0\) overlap in rows 0..0, columns 8..8",
        ),
        (lambda: _with(dropout={"age": -0.2}), "dropout of age is -0.2"),
        (lambda: _with(dropout={"age": 1.2}), "dropout of age is 1.2, not a probability"),
        (lambda: _with(dropout={"mel": 0.2}), "dropout of mel: it is a block; only attributes"),
        (lambda: _with(dropout={"speech": 0.2}), "unknown constituent of the layout slf 'speech'"),
        (lambda: _with(clamp=-1), "clamp is -1, not a number from 0 up"),
        (lambda: _with(off=("mell",)), "unknown constituent or group 'mell'. Did you mean 'mel'"),
        (lambda: layout_named("sfl"), "unknown layout 'sfl'. Did you mean 'slf'.*a JSON file"),
    ],
)
def test_a_block_that_does_not_fit_is_named_with_both_values(make, message):
    with pytest.raises(UsageError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def _gender(column):
    return Block("gender", 0, 1, column, 2, "one-hot")


def _with(**changed):
    return replace(LAYOUTS["slf"], **changed)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (LAYOUTS["slf-released"], "block age: its row is 0, not 220"),
        (LAYOUTS["slf"].without("age"), r"its off is \('age',\), not nothing"),
        (replace(LAYOUTS["slf"], clamp=5), "its clamp is 5.0, not 10.0"),
        (replace(LAYOUTS["slf"], dropout={"age": 0.5}), r"its dropout is \{'age': 0.5\}, not \{'age': 0.2"),
        (
            replace(LAYOUTS["slf"], blocks=LAYOUTS["slf"].blocks[:-1], dropout={}),
            r"it lacks block ethnicity \(row 222\)",
        ),
        (
            replace(LAYOUTS["slf"], blocks=(replace(LAYOUTS["slf"].blocks[0], scale=1), *LAYOUTS["slf"].blocks[1:])),
            "block ecapa: its scale is 1.0, not 0.005",
        ),
    ],
)
def test_another_layout_is_refused_and_the_first_difference_named(other, message):
    with pytest.raises(VoxportraitError, match=message) as error:
        LAYOUTS["slf"].require(other, "the checkpoint")
    assert "\n" not in str(error.value)
    assert other.fingerprint[:8] in str(error.value)
    LAYOUTS["slf"].require(replace(LAYOUTS["slf"], name="other"), "the checkpoint")
