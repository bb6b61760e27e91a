"""WebSocket's masking: XOR with a key of four bytes, repeated (RFC 6455, 5.3).

`xor` works at about 900 MiB/s: four strided `translate`s are the fastest of what the standard library offers (XOR of
big integers: 530). aiohttp has a compiled one, ten times faster, but keeps it to itself: if its arguments ever changed
places, sessions would carry rubbish.
"""

import functools


@functools.cache
def _table(byte: int) -> bytes:
    return bytes(value ^ byte for value in range(256))


def xor(key: bytes, data: bytearray) -> None:
    """Mask or unmask the bytes where they are. The key is that of the first byte: `turned` for a later one."""
    for at in range(min(4, len(data))):
        data[at::4] = data[at::4].translate(_table(key[at]))


def turned(key: bytes, offset: int) -> bytes:
    """The key for the payload's byte `offset` and those that follow."""
    offset %= 4
    return key[offset:] + key[:offset]
