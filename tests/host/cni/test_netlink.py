"""Netlink messages and what the kernel says to them."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.host.cni.netlink import (
    CREATE,
    DUMP,
    EXCL,
    Netlink,
    attribute,
    attributes,
    each_attribute,
    nested,
    text,
    u8,
    u32,
)

GETLINK, NEWLINK, NEWADDR = 18, 16, 20
INFO = struct.pack("=BxHiII", 0, 0, 0, 0, 0)


def test_an_attribute_is_padded_to_four_bytes() -> None:
    assert attribute(3, b"lo\0") == b"\x07\x00\x03\x00lo\x00\x00"
    assert text(3, "lo") == attribute(3, b"lo\0")
    assert u8(4, 1) == b"\x05\x00\x04\x00\x01\x00\x00\x00"


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_are_read_as_they_were_written(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in written)
    assert list(each_attribute(data)) == written
    assert attributes(nested(7, data)) == {7: data}


@given(st.binary(max_size=64))
def test_damaged_attributes_end_the_list(data: bytes) -> None:
    attributes(data)


def test_a_link_is_found_by_name() -> None:
    with Netlink() as netlink:
        answers = netlink.request(GETLINK, INFO + text(3, "lo"))
    assert attributes(answers[0][16:])[3] == b"lo\0"


def test_a_dump_is_read_to_its_end() -> None:
    with Netlink() as netlink:
        for _ in range(3):  # the next request must not meet what is left of the last
            names = [attributes(answer[16:])[3] for answer in netlink.request(GETLINK, INFO, DUMP)]
            assert b"lo\0" in names


def test_an_error_is_an_oserror_that_names_its_subject() -> None:
    with Netlink() as netlink:
        with pytest.raises(OSError, match="what I asked") as caught:
            netlink.request(GETLINK, INFO + text(3, "nosuchlink"), what="what I asked")
        assert caught.value.errno == errno.ENODEV
        assert netlink.request(GETLINK, INFO + text(3, "lo"))


@pytest.mark.root
def test_the_kernels_own_words_are_passed_on() -> None:
    with Netlink() as netlink:
        payload = struct.pack("=BBBBI", 2, 99, 0, 0, 1) + attribute(2, bytes(4))
        with pytest.raises(OSError) as caught:
            netlink.request(NEWADDR, payload, CREATE | EXCL, "an address")
    assert caught.value.errno == errno.EINVAL
    assert "(" in str(caught.value.strerror)


def test_a_closed_socket_is_closed() -> None:
    netlink = Netlink()
    netlink.close()
    with pytest.raises(OSError):
        netlink.request(GETLINK, INFO)


def test_flags_of_creation_are_not_taken_for_a_dump() -> None:
    """EXCL and the dump flags share a bit; waiting for the end of a dump that is none would wait for ever."""
    with Netlink() as netlink, pytest.raises(OSError):
        netlink.request(NEWLINK, INFO + u32(4, 1) + text(3, "lo"), CREATE | EXCL)
