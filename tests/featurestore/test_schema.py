import numpy as np
import pyarrow as pa
import pytest

from featurestore.schema import decode

VALUES = np.arange(12, dtype=np.float16).reshape(6, 2)
COLUMNS = {
    "vector": pa.FixedSizeListArray.from_arrays(pa.array(VALUES.ravel()), 2),
    "block": pa.array([row.tobytes() for row in VALUES], pa.binary(4)),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_one_chunk_is_decoded_where_it_lies(kind):
    array = COLUMNS[kind]
    lies = array.values.buffers()[1] if kind == "vector" else array.buffers()[1]
    for column, first in ((array, 0), (pa.chunked_array([array]), 0), (pa.chunked_array([array.slice(2)]), 2)):
        found = decode(column, (2,), "float16")
        np.testing.assert_array_equal(found, VALUES[first:])
        assert found.__array_interface__["data"][0] == lies.address + first * 4


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_several_chunks_or_of_none_is_decoded_in_order(kind):
    array = COLUMNS[kind]
    several = pa.chunked_array([array.slice(4), array.slice(0, 1), array.slice(1, 3)])
    np.testing.assert_array_equal(decode(several, (2,), "float16"), VALUES[[4, 5, 0, 1, 2, 3]])
    assert decode(pa.chunked_array([], array.type), (2,), "float16").shape == (0, 2)
