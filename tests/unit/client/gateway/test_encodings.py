"""Encodings of embeddings."""

import base64

import numpy as np
import pytest

from tritonclip.gateway.payloads.encodings import encode

VECTOR = np.array([0.5, -0.25, 0, 0.1, -0.1, 0.3, -0.5, 0.2, -1e-9, 1e-9], np.float32)


@pytest.fixture(scope="module")
def unit():
    vectors = np.random.default_rng(7).standard_normal((50, 512)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_floats_are_the_shortest_decimals():
    assert encode(np.array([0.1, -2.5], np.float32), "float") == [0.1, -2.5]


def test_base64_holds_little_endian_float32():
    decoded = np.frombuffer(base64.b64decode(encode(VECTOR, "base64")), "<f4")
    np.testing.assert_array_equal(decoded, VECTOR)


def test_bits_are_packed_from_the_highest_and_padded_with_zeros():
    assert encode(VECTOR, "ubinary") == [0b10010101, 0b01000000]
    assert encode(VECTOR, "binary") == [0b10010101 - 128, 0b01000000 - 128]


def test_bytes_are_scaled_to_the_largest_magnitude():
    assert encode(VECTOR, "int8") == [127, -64, 0, 25, -25, 76, -127, 51, 0, 0]
    assert encode(VECTOR, "uint8") == [value + 128 for value in encode(VECTOR, "int8")]


@pytest.mark.parametrize("encoding", ["int8", "uint8", "binary", "ubinary"])
def test_vector_of_zeros_has_an_encoding(encoding):
    centre = {"uint8": 128, "binary": -128}.get(encoding, 0)
    assert set(encode(np.zeros(16, np.float32), encoding)) == {centre}


def test_int8_keeps_the_direction(unit):
    """Scaling by a vector's own maximum keeps the cosine to the float32 vector above 0.9999."""
    found = np.array([encode(vector, "int8") for vector in unit])
    cosines = (found * unit).sum(1) / np.linalg.norm(found, axis=1)
    assert found.dtype.kind == "i" and np.abs(found).max() == 127
    assert cosines.min() > 0.9999
