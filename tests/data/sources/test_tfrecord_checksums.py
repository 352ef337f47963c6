"""The checksums of TFRecord files, against the standard's values and TensorFlow's."""

import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tests.data.sources.record_files import tfrecord_starts, write_tfrecord
from tfbig.data.sources.tfrecord_index import masked_crc32c, masked_crc32c_of_lengths


def masked(crc):
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return masked(crc ^ 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720, appendix B.4, and the check value of the catalogue of CRC algorithms
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_it_gives_the_values_of_the_standard(data, crc):
    assert masked_crc32c([data]).tolist() == [masked(crc)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=700), max_size=20))
def test_strings_of_all_lengths_have_the_value_of_the_definition(strings):
    assert masked_crc32c(strings).tolist() == [bit_by_bit(string) for string in strings]


def test_short_and_very_long_strings_together_have_the_checksums_of_a_tfrecord_file(tmp_path):
    rng = np.random.default_rng(0)
    lengths = [100_000, 0, 1, 2, 3, 4, 5, 127, 128, 129, 65_536, 1023, 1024, 1025]
    strings = [rng.bytes(length) for length in lengths]
    with open(write_tfrecord(tmp_path / "a", strings), "rb") as file:
        data = file.read()
    kept = [struct.unpack_from("<I", data, end - 4)[0] for end in tfrecord_starts(data)[1:]]
    assert masked_crc32c(strings).tolist() == kept


def test_lengths_have_the_same_values_and_stay_as_they_are():
    lengths = np.random.default_rng(0).integers(0, 256, [99, 8]).astype(np.uint8)
    lengths[:9, 3:] = 0  # as those of most files
    lengths[0] = 0
    before = lengths.copy()
    expected = [bit_by_bit(row.tobytes()) for row in lengths]
    assert masked_crc32c_of_lengths(lengths).tolist() == expected
    np.testing.assert_array_equal(lengths, before)


def test_the_library_has_its_implementation_in_c():
    assert google_crc32c.implementation == "c"
