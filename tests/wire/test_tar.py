"""The tar reader against archives of other programs, and against every kind of damage."""

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire import tar
from sampan.wire.tar import Entry, Reader
from sampan.wire.tar_source import BLOCK, Source
from sampan.wire.tar_sparse import MAP_LIMIT

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read(archive: bytes, *cuts: int) -> list[tuple[Entry, bytes]]:
    """All members with their data; the bytes come in pieces cut at `cuts`."""
    edges = [0, *sorted(cuts), len(archive)]
    pieces = [archive[a:b] for a, b in pairwise(edges)]
    reader = Reader(Source(iter(pieces)))
    return [(entry, b"".join(map(bytes, reader.data()))) for entry in reader]


def member(name: str = "f", data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as writer:
        for info, data in members:
            writer.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(**fields: bytes) -> bytes:
    """A plain header block of a file `f`, with fields overwritten raw and the checksum put right."""
    places = {
        "name": (0, 100),
        "mode": (100, 8),
        "uid": (108, 8),
        "gid": (116, 8),
        "size": (124, 12),
        "mtime": (136, 12),
        "kind": (156, 1),
        "link": (157, 100),
        "magic": (257, 8),
        "major": (329, 8),
        "prefix": (345, 155),
        "extended": (482, 1),
        "real": (483, 12),
        "star": (508, 4),
    }
    block = bytearray(archive(member())[:BLOCK])
    for name, value in fields.items():
        start, length = places[name]
        block[start : start + length] = value.ljust(length, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extension header with these records."""
    body = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        body += b"%d %s=%s\n" % (length, key, value)
    return header(kind=kind, size=b"%011o" % len(body)) + body + bytes(-len(body) % BLOCK)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_back_what_was_put_in(form: int) -> None:
    long = form != tarfile.USTAR_FORMAT
    name, target = ("d" * 90 + "/") * 3 + "leaf", "t" * 150
    members = [
        member("dir", type=tarfile.DIRTYPE, mode=0o2755, gid=50),
        member("dir/file", b"content" * 100, mode=0o4711, uid=1000, mtime=1234567890),
        member("dir/empty"),
        member("link", type=tarfile.SYMTYPE, linkname=target if long else "t" * 99),
        member("hard", type=tarfile.LNKTYPE, linkname="dir/file"),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("fifo", type=tarfile.FIFOTYPE),
        member(name if long else "x" * 100 + "/" + "y" * 99, b"deep"),
    ]
    found = read(archive(*members, form=form))
    assert [entry.name.rstrip(b"/").decode() for entry, _ in found] == [info.name for info, _ in members]
    assert [data for _, data in found] == [data for _, data in members]
    by_name = {entry.name.rstrip(b"/"): entry for entry, _ in found}
    assert (by_name[b"dir"].kind, by_name[b"dir"].mode, by_name[b"dir"].gid) == (tar.DIRECTORY, 0o2755, 50)
    file = by_name[b"dir/file"]
    assert (file.mode, file.uid, file.size, file.mtime) == (0o4711, 1000, 700, 1234567890 * 10**9)
    assert by_name[b"link"].link.decode() == (target if long else "t" * 99)
    assert (by_name[b"hard"].kind, by_name[b"hard"].link) == (tar.LINK, b"dir/file")
    assert (by_name[b"null"].kind, by_name[b"null"].device) == (tar.CHAR, (1, 3))
    assert by_name[b"fifo"].kind == tar.FIFO


MIXED = archive(
    member("a", b"x" * 700),
    member("p" * 300, b"y" * 512, pax_headers={"SCHILY.xattr.user.k": "v"}),
    member("b", b"z"),
)


@given(st.lists(st.integers(0, len(MIXED)), max_size=12))
def test_the_cuts_of_the_stream_do_not_matter(cuts: list[int]) -> None:
    found = read(MIXED, *cuts)
    assert [data for _, data in found] == [b"x" * 700, b"y" * 512, b"z"]
    assert found[1][0].name == b"p" * 300
    assert found[1][0].xattrs == {b"user.k": b"v"}


@pytest.mark.parametrize("cut", [0, 511, 512, 513, 811, 812, 1024])
def test_data_comes_at_once_if_one_piece_of_the_stream_has_it(cut: int) -> None:
    whole = archive(member("f", b"x" * 300), member("g", b"y" * 5), member("empty"))
    reader = Reader(Source(iter([whole[:cut], whole[cut:]])))
    found = []
    for entry in reader:
        piece = reader.at_once()
        assert (piece is None) == (entry.name == b"f" and 512 <= cut < 812)
        rest = b"".join(map(bytes, reader.data()))
        assert not (piece and rest)
        found.append(bytes(piece or b"") or rest)
    assert found == [b"x" * 300, b"y" * 5, b""]


def test_data_nobody_reads_is_passed_over() -> None:
    reader = Reader(Source(iter([MIXED])))
    assert [entry.name[:1] for entry in reader] == [b"a", b"p", b"b"]


def test_the_raw_header_and_the_rest_are_the_archive_from_a_member_on() -> None:
    source = Source(iter([MIXED[:1000], MIXED[1000:]]))
    reader = iter(Reader(source))
    next(reader)
    second = next(reader)
    kept = second.raw + b"".join(map(bytes, source.rest()))
    assert [entry.name[:1] for entry, _ in read(kept)] == [b"p", b"b"]


@pytest.mark.parametrize("end", range(0, len(MIXED) + 1, BLOCK))
def test_cut_off_at_any_block_it_is_whole_or_invalid(end: int) -> None:
    try:
        found = read(MIXED[:end])
    except Invalid:
        return
    assert [data for _, data in found] == [b"x" * 700, b"y" * 512, b"z"][: len(found)]


@given(st.binary(max_size=2000))
def test_noise_is_invalid_or_empty(noise: bytes) -> None:
    try:
        found = read(noise)
    except Invalid:
        return
    assert not found


@given(st.integers(0, len(MIXED) - 1), st.integers(1, 255))
def test_one_wrong_byte_never_raises_anything_but_invalid(place: int, change: int) -> None:
    damaged = bytearray(MIXED)
    damaged[place] ^= change
    with contextlib.suppress(Invalid):
        read(bytes(damaged))


NUMBERS = [
    (b"0000644\0", 0o644),
    (b"   644 \0", 0o644),
    (b"644\0\0\0\0\0", 0o644),
    (b"\0" * 8, 0),
    (b"        ", 0),
    (b"\x80\0\0\0\0\0\x01\x00", 256),
    (b"\xff" * 8, -1),
    (b"\x80" + b"\0" * 3 + b"\x7f\xff\xff\xff\xff\xff\xff\xff", (1 << 63) - 1),
]


@pytest.mark.parametrize(("field", "value"), NUMBERS)
def test_numbers(field: bytes, value: int) -> None:
    assert tar.number(field) == value


@pytest.mark.parametrize(
    "field",
    [
        b"0000648\0",
        b"1_000\0\0\0",
        b"+644\0\0\0\0",
        b"0x12\0\0\0\0",
        b"-644\0\0\0\0",
        b"6 4\0\0\0\0\0",
        b"6\xd9\xa1\0\0\0\0\0",
        b"\x80" + b"\x7f" * 11,
        b"\xbf" + b"\xff" * 11,
    ],
)
def test_numbers_that_python_would_take_or_that_are_too_large_are_invalid(field: bytes) -> None:
    with pytest.raises(Invalid):
        tar.number(field)


END = bytes(2 * BLOCK)
INVALID = {
    "a negative size": header(size=b"\xff" * 12),
    "a size beyond the end": header(size=b"77777777777"),
    "a huge base-256 size": header(size=b"\x80\0\0\0\x10" + b"\0" * 7),
    "a wrong checksum": b"g" + header()[1:],
    "a lone block of zeros": bytes(BLOCK) + header(),
    "an unknown type": header(kind=b"Z"),
    "a multi-volume member": header(kind=b"M"),
    "a long name of 256 MiB": header(kind=b"L", size=b"%011o" % (256 << 20)),
    "a PAX header of 256 MiB": header(kind=b"x", size=b"%011o" % (256 << 20)),
    "a PAX header of negative size": header(kind=b"x", size=b"\xff" * 12),
    "an extension header and no member": pax((b"path", b"x")) + END,
    "a PAX header that nothing follows": pax((b"path", b"x")),
    "a PAX path with NUL": pax((b"path", b"a\0b")) + header() + END,
    "a PAX link with NUL": pax((b"linkpath", b"a\0b")) + header(kind=b"2") + END,
    "a PAX key with NUL": pax((b"a\0b", b"x")) + header() + END,
    "a PAX size with a sign": pax((b"size", b"+1")) + header() + END,
    "a PAX size of 40 digits": pax((b"size", b"1" * 40)) + header() + END,
    "a negative PAX uid": pax((b"uid", b"-1")) + header() + END,
    "a PAX mtime that is no number": pax((b"mtime", b"NaN")) + header() + END,
    "a PAX mtime with an exponent": pax((b"mtime", b"1e9")) + header() + END,
    "a PAX record without a key": pax((b"", b"x")) + header() + END,
    "a PAX record of length 0": header(kind=b"x", size=b"00000000005")
    + b"0 a=\n".ljust(BLOCK, b"\0")
    + header(),
    "a PAX record beyond its header": header(kind=b"x", size=b"00000000007")
    + b"99 a=b\n".ljust(BLOCK, b"\0"),
    "a PAX record and then something else": header(kind=b"x", size=b"00000000016")
    + b"9 path=x\nother".ljust(BLOCK, b"\0"),
    "a PAX record without a newline": header(kind=b"x", size=b"00000000006") + b"6 a=bc".ljust(BLOCK, b"\0"),
    "a sparse map out of order": pax((b"GNU.sparse.map", b"5,1,0,1"), (b"GNU.sparse.size", b"9"))
    + header(size=b"00000000002"),
    "a sparse map that is not what is stored": pax((b"GNU.sparse.map", b"0,5"), (b"GNU.sparse.size", b"9"))
    + header(size=b"00000000002"),
    "a sparse map beyond the file": pax((b"GNU.sparse.map", b"8,2"), (b"GNU.sparse.size", b"9"))
    + header(size=b"00000000002"),
    "a sparse map of odd length": pax((b"GNU.sparse.map", b"8,2,1"), (b"GNU.sparse.size", b"9"))
    + header(size=b"00000000002"),
    "sparse offsets and lengths that do not alternate": pax(
        (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.offset", b"1"), (b"GNU.sparse.size", b"9")
    )
    + header(),
    "a sparse name with NUL": pax(
        (b"GNU.sparse.map", b"0,0"), (b"GNU.sparse.size", b"9"), (b"GNU.sparse.name", b"a\0b")
    )
    + header(),
    "a GNU sparse map that never ends": header(kind=b"S", extended=b"\1")
    + (bytes(504) + b"\1" + bytes(7)) * (MAP_LIMIT // BLOCK + 2),
    "a PAX sparse map with 2^31 pairs": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
    + header(size=b"00000002000")
    + b"2147483648\n".ljust(1024, b"1"),
    "a PAX sparse map without an end": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
    + header(size=b"00000001000")
    + b"9\n0\n".ljust(BLOCK, b"1"),
}


@pytest.mark.parametrize("damaged", INVALID.values(), ids=INVALID)
def test_damage_is_invalid(damaged: bytes) -> None:
    with pytest.raises(Invalid):
        read(damaged)


def test_pax_records_win_over_the_header_and_empty_ones_do_not_count() -> None:
    records = pax(
        (b"path", b"long"), (b"uid", b"70000"), (b"linkpath", b""), (b"mtime", b"1.5"), (b"gid", b"")
    )
    ((entry, _),) = read(records + header(kind=b"2", link=b"target", gid=b"0000007\0") + END)
    assert (entry.name, entry.uid, entry.gid, entry.link) == (b"long", 70000, 7, b"target")
    assert entry.mtime == 1_500_000_000


def test_gnu_names_win_over_pax_records_as_in_go_and_empty_ones_do_not_count() -> None:
    def long(kind: bytes, name: bytes) -> bytes:
        return header(kind=kind, size=b"%011o" % (len(name) + 1)) + name.ljust(BLOCK, b"\0")

    records = pax((b"path", b"pax"), (b"linkpath", b"target"))
    found = read(
        b"".join((long(b"L", b"gnu"), long(b"K", b"other"), records, header(kind=b"2")))
        + b"".join((records, long(b"L", b""), long(b"K", b""), header(kind=b"2")))
        + END
    )
    assert [(entry.name, entry.link) for entry, _ in found] == [(b"gnu", b"other"), (b"pax", b"target")]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"-1.25", -1_250_000_000),
        (b"0.0000000019", 1),
        (b"999999999999999999", 0x37FFFFFFF * 10**9),
        (b"-99999999999", -(1 << 31) * 10**9),
    ],
)
def test_times_are_kept_to_the_nanosecond_within_what_a_disk_can_hold(text: bytes, ns: int) -> None:
    ((entry, _),) = read(pax((b"mtime", text)) + header() + END)
    assert entry.mtime == ns


def test_global_pax_headers_are_passed_over() -> None:
    ((entry, _),) = read(pax((b"path", b"other"), kind=b"g") + header() + END)
    assert entry.name == b"f"


def test_old_archives() -> None:
    v7 = header(magic=b"", kind=b"\0", name=b"d/")
    star = header(prefix=b"p" * 131 + b"00000000000 ", star=b"tar\0")
    gnu = header(magic=b"ustar  \0", prefix=b"00000000000")
    found = [entry for entry, _ in read(v7 + star + gnu + header(kind=b"7") + END)]
    assert [(entry.name, entry.kind) for entry in found] == [
        (b"d/", tar.DIRECTORY),
        (b"p" * 131 + b"/f", tar.FILE),
        (b"f", tar.FILE),
        (b"f", tar.FILE),
    ]


def test_sums_of_signed_bytes_count_as_checksum_too() -> None:
    block = bytearray(header(name=b"\xff\xfe"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    ((entry, _),) = read(bytes(block) + END)
    assert entry.name == b"\xff\xfe"


def test_members_without_a_body_have_none_whatever_they_say() -> None:
    found = read(header(kind=b"5", size=b"00000001000") + header(name=b"next") + END)
    assert [entry.name for entry, _ in found] == [b"f", b"next"]


SPARSE = {
    "old GNU": ["--format=gnu"],
    "PAX 0.0": ["--format=pax", "--sparse-version=0.0"],
    "PAX 0.1": ["--format=pax", "--sparse-version=0.1"],
    "PAX 1.0": ["--format=pax", "--sparse-version=1.0"],
}


@pytest.mark.parametrize("options", SPARSE.values(), ids=SPARSE)
@pytest.mark.parametrize("extents", [1, 3, 60], ids="{} extents".format)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str], extents: int) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for number in range(extents):
            file.seek((2 * number + 1) * 65536)
            file.write(b"%04d" % number * 1024)
        file.truncate((2 * extents + 3) * 65536 + 17)
    made = subprocess.run(
        ["tar", "-C", tmp_path, "-S", *options, "-cf", "-", "sparse"], check=True, capture_output=True
    )
    reader = Reader(Source(iter([made.stdout])))
    content = bytearray()
    for entry in reader:
        assert entry.name == b"sparse"
        assert entry.sparse is not None
        content = bytearray(entry.size)
        stored = b"".join(map(bytes, reader.data()))
        at = 0
        for offset, length in entry.sparse.extents:
            content[offset : offset + length] = stored[at : at + length]
            at += length
        assert at == len(stored) == entry.stored < entry.size
    assert bytes(content) == (tmp_path / "sparse").read_bytes()


def test_memory_does_not_grow_with_the_archive() -> None:
    """A million members pass through a reader that keeps none of them."""
    block = header() * 1000

    def blocks() -> Iterator[bytes]:
        for _ in range(20):
            yield block

    assert sum(1 for _ in Reader(Source(blocks()))) == 20_000
