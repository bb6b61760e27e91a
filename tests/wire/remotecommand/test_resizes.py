"""Terminal sizes, cut anywhere, and what no terminal has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand.channels import Resize
from sampan.wire.remotecommand.resizes import Resizes

SAID = b'{"Width":80,"Height":24}\n{"width": 1, "HEIGHT": 65535}{}{"Height":2,"Else":"x"}'
SIZES = [Resize(80, 24), Resize(1, 65535), Resize(0, 0), Resize(0, 2)]


@settings(deadline=None)
@given(st.lists(st.integers(1, len(SAID)), max_size=20))
def test_sizes_are_found_in_any_cut(cuts: list[int]) -> None:
    resizes, at, found = Resizes(), 0, []
    for cut in [*cuts, len(SAID)]:
        found += resizes.receive(SAID[at : at + cut])
        at += cut
    assert found[-1] == SIZES[-1]
    assert [size for size in SIZES if size in found] == found


def test_every_size_is_found_byte_by_byte() -> None:
    resizes = Resizes()
    assert [size for byte in SAID for size in resizes.receive(bytes((byte,)))] == SIZES


@pytest.mark.parametrize(
    "said",
    [
        b"x}",
        b"}",
        b"[1]}",
        b'{"Width":-1}',
        b'{"Width":65536}',
        b'{"Width":1e3}',
        b'{"Width":1.5}',
        b'{"Width":"80"}',
        b'{"Width":true}',
        b'{"Width":null}',
        b'{"Width":{"a":1}}',
        b'{"Width":\xff}',
        b'{"Width":"\xff"}',
        b'{"\xff":1}',
        b'{"a":' + b"[" * 1000 + b"}",
        b'{"Width":' + b"9" * 5000 + b"}",
        b"{" + b" " * 2000,
        b" " * 100_000,
    ],
)
def test_what_is_no_size_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        Resizes().receive(said)


def test_a_size_that_never_ends_is_not_kept() -> None:
    resizes = Resizes()
    with pytest.raises(ProtocolError):
        for _ in range(2000):
            resizes.receive(b" ")
