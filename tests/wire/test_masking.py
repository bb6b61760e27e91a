"""Masking: the definition of RFC 6455, byte by byte, against how it is done."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.masking import turned, xor

KEYS = st.binary(min_size=4, max_size=4)


@settings(deadline=None)
@given(key=KEYS, data=st.binary(max_size=50))
def test_every_byte_meets_its_byte_of_the_key(key: bytes, data: bytes) -> None:
    masked = bytearray(data)
    xor(key, masked)
    assert masked == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


@settings(deadline=None)
@given(key=KEYS, data=st.binary(max_size=50), cut=st.integers(0, 50))
def test_masking_in_two_parts_is_masking_the_whole(key: bytes, data: bytes, cut: int) -> None:
    whole, first, second = bytearray(data), bytearray(data[:cut]), bytearray(data[cut:])
    xor(key, whole)
    xor(key, first)
    xor(turned(key, len(first)), second)
    assert first + second == whole
