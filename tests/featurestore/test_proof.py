import numpy as np
import pytest

from featurestore import proof
from featurestore.places import Place

BYTES = np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8).tobytes()


def test_pieces_of_any_length_are_found_wherever_they_lie():
    pieces = [BYTES[at : at + 16 + at % 300] for at in range(0, 200_000, 97)]
    absent = [piece[:-1] + bytes([piece[-1] ^ 1]) for piece in pieces[:50]]
    finder = proof.Finder([*pieces, *absent])
    for shift in range(9):
        assert finder.find(b"z" * shift + BYTES) == set(range(len(pieces)))


def test_a_piece_across_two_blocks_of_a_file_is_found(tmp_path):
    piece = BYTES[1000:5096]
    for offset in (1, 2000, 4095):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"at-{offset}").write_bytes(b"\0" * ((1 << 20) - offset) + piece + BYTES)
    (tmp_path / "without").write_bytes(BYTES[2000:])
    where, files, size = proof.search(Place(str(tmp_path)), [piece, BYTES[-20:]], ["folder/at-1"])
    assert sorted(where[0]) == ["folder/at-2000", "folder/at-4095"]
    assert sorted(where[1]) == ["folder/at-2000", "folder/at-4095", "without"]
    assert (files, size) == (3, sum(file.stat().st_size for file in tmp_path.rglob("*-[24]*")) + len(BYTES) - 2000)


@pytest.mark.parametrize("value", [b"", b"short", b"\0" * 10_000, b"\1\0" * 5000, BYTES[:15]])
def test_what_is_short_or_even_proves_nothing(value):
    assert proof.piece(value) is None


def test_the_piece_of_a_long_value_is_taken_where_it_says_something():
    value = b"\0" * 150_000 + BYTES[:20_000] + b"\0" * 150_000
    piece = proof.piece(value)
    assert piece is not None
    assert len(piece) == proof.PIECE
    assert len(set(piece)) > 200
