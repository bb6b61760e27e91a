"""Finding files in a tar, also in one made to mislead."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire.tar_index import TarIndex
from tests.images import Entry, layer

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def index(data: bytes) -> TarIndex:
    return TarIndex(lambda offset, size: data[offset : offset + size], len(data))


def content(data: bytes, name: str) -> bytes | None:
    place = index(data).find(name)
    return None if place is None else data[place.offset : place.offset + place.size]


def tar(*members: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as writer:
        for member in members:
            writer.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def member(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["a", "blobs/sha256/" + "a" * 64, "d/" * 40 + "f", "n" * 90])
def test_files_are_found_in_every_format(format: int, name: str) -> None:
    data = tar(member("before", 700), member("dir", type=tarfile.DIRTYPE), member(name, 513), format=format)
    assert content(data, name) == b"x" * 513


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_found(format: int) -> None:
    name = "é" + "long/" * 100 + "f"
    assert content(tar(member(name, 3), member("next", 4), format=format), name) == b"xxx"


@pytest.mark.parametrize("spelled", ["a/b", "./a/b", "/a/b", "a//b", "a/./b", "a/c/../b"])
def test_a_name_may_be_spelled_in_several_ways(spelled: str) -> None:
    assert content(tar(member(spelled, 2)), "a/b") == b"xx"
    assert content(tar(member("a/b", 2)), spelled) == b"xx"


def test_what_is_absent_is_not_found() -> None:
    data = tar(member("a", 1), member("d", type=tarfile.DIRTYPE), member("p", type=tarfile.FIFOTYPE))
    assert [content(data, name) for name in ("b", "d", "p", "", ".", "..")] == [None] * 6


def test_links_lead_to_files_within_the_archive() -> None:
    data = layer(
        [
            Entry("one/layer.tar", data=b"layer"),
            Entry("two/layer.tar", "symlink", link="../one/layer.tar"),
            Entry("three", "hardlink", link="two/layer.tar"),
            Entry("out", "symlink", link="../../etc/passwd"),
            Entry("abs", "symlink", link="/one/layer.tar"),
        ]
    )
    assert content(data, "two/layer.tar") == b"layer"
    assert content(data, "three") == b"layer"
    assert content(data, "out") is None
    assert content(data, "abs") == b"layer"


def test_links_in_a_circle_are_refused() -> None:
    data = layer([Entry("a", "symlink", link="b"), Entry("b", "symlink", link="a")])
    with pytest.raises(Invalid, match="without end"):
        index(data).find("a")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (bytes(10240), "empty"),
        (b"x", "no image archive: it is not a tar"),
        (b"just words\n" * 100, "no image archive: it is not a tar"),
        (tar(member("a", 1))[:1024] + b"x", "cut short"),
        (tar(member("a", 1))[:1024] + b"x" * 512, "damaged: a header's checksum"),
        (b"PK\x03\x04" + bytes(508), "not a tar"),
        (b"<html>" + b" " * 1018, "not a tar"),
        (tar(member("a", 1), member("a", 1)), "twice"),
        (tar(member("a", 1), member("./a", 1)), "twice"),
        (layer([Entry("a"), Entry("a", "symlink", link="b")]), "twice"),
        (tar(member("a", 600))[:700], "cut short"),
        (tar(member("x" * 5000), format=tarfile.GNU_FORMAT), "longer than"),
        (tar(member("x" * 70000), format=tarfile.GNU_FORMAT), "header record"),
        (tar(member("a", pax_headers={"comment": "x" * 70000})), "header record"),
        (tar(member("a", pax_headers={"size": "-1"})), "malformed size"),
        (tar(member("a", pax_headers={"size": "1_0"})), "malformed size"),
        (tar(member("a", pax_headers={"size": str(1 << 62)})), "beyond its end"),
        (tar(member("a", pax_headers={"GNU.sparse.major": "1"})), "sparse"),
        (tar(member("a", type=tarfile.GNUTYPE_SPARSE)), "sparse"),
    ],
)
def test_what_is_no_sound_tar_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        index(data)


def with_size(field: bytes) -> bytes:
    """A header whose size is written like this, its checksum right."""
    block = bytearray(tar(member("a"))[:512])
    block[124:136] = field.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


@pytest.mark.parametrize(
    "field", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"9", b"-1", b"0x10", b"1 1", b"77777777777"]
)
def test_a_size_that_cannot_be_is_refused(field: bytes) -> None:
    with pytest.raises(Invalid):
        index(with_size(field))


def test_a_size_beyond_octal_digits_is_understood() -> None:
    assert content(with_size(b"\x80" + (5).to_bytes(11, "big")), "a") == bytes(5)


@given(st.binary(max_size=30), st.integers(0, 5 * 512), st.integers(0, 40))
def test_a_damaged_tar_is_read_or_refused_and_nothing_else(new: bytes, at: int, cut: int) -> None:
    data = tar(member("a", 5), member("é" * 80, 5, pax_headers={"comment": "x"}))
    with contextlib.suppress(Invalid):
        index(data[:at] + new + data[at + cut :]).find("a")


def test_a_bomb_of_entries_is_refused() -> None:
    block = tar(member("d", type=tarfile.DIRTYPE))[:512]
    with pytest.raises(Invalid, match="100000 entries"):
        TarIndex(lambda offset, size: block, 1 << 40)
