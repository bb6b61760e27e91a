# ruff: noqa: E501 - one case, one line
"""Layers made to break an unpacker, and images of them: each has a name and says what must come of it.

Everything is made from the formats' own rules, byte by byte, by nothing that the product has: POSIX pax(1p), the GNU
tar manual. The same for the same seed.
"""

import functools
import gzip
import json
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from tests import breakouts, images
from tests.images import Entry

INVALID, FULL, FITS, EITHER = "Invalid", "Exhausted", "fits", "either"
BLOCK = 512
END = bytes(2 * BLOCK)
ENCODINGS = ("none", "gzip", "zstd")
_PLACES = {
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "gid": (116, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "sum": (148, 8),
    "kind": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "major": (329, 8),
    "minor": (337, 8),
    "prefix": (345, 155),
    "more": (482, 1),  # old GNU sparse: another block of the map follows
    "real": (483, 12),
}


@dataclass(frozen=True, slots=True)
class Archive:
    """Layers (tars, the lowest first). `verdict` is the error that the last must meet, or FITS, or EITHER.

    `disk`: what comes of it depends on a disk's file system, so it says nothing elsewhere."""

    name: str
    layers: tuple[bytes, ...]
    verdict: str
    disk: bool = False


# --- the bytes ----------------------------------------------------------------------------------------------


def member(data: bytes = b"", **fields: bytes) -> bytes:
    """A member whose header fields are these bytes as they are; the rest is that of an honest file `f`."""
    block = bytearray(BLOCK)
    known = {
        "name": b"f",
        "mode": b"0000644\0",
        "uid": b"0000000\0",
        "gid": b"0000000\0",
        "size": b"%011o\0" % len(data),
        "mtime": b"00000000000\0",
        "kind": b"0",
        "magic": b"ustar\x0000",
    }
    for field, value in (known | fields).items():
        at, length = _PLACES[field]
        assert len(value) <= length, field
        block[at : at + length] = value.ljust(length, b"\0")
    if "sum" not in fields:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def large(value: int, size: int) -> bytes:
    """A number as GNU tar writes those that octal digits cannot hold: base 256, negative ones too."""
    field = bytearray((value % (1 << 8 * size)).to_bytes(size, "big"))
    field[0] |= 0x80
    return bytes(field)


def record(key: bytes, value: bytes) -> bytes:
    """A PAX record; its length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    while length != len(rest) + len(str(length)):
        length += 1
    return str(length).encode() + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return member(b"".join(record(*one) for one in records), name=b"pax", kind=kind)


def said(key: bytes, value: bytes, data: bytes = b"", **fields: bytes) -> bytes:
    """A member of which a PAX header says one thing more."""
    return pax((key, value)) + member(data, **fields)


def long(kind: bytes, text: bytes) -> bytes:
    """GNU's way to say a long name (L) or link (K)."""
    return member(text + b"\0", name=b"././@LongLink", kind=kind, magic=b"ustar  \0")


# --- the classes --------------------------------------------------------------------------------------------


def numbers() -> Iterator[tuple[str, str, bytes]]:
    for word, digits in {
        "inner space": b"1 2", "hexadecimal": b"0x10", "underscore": b"1_0", "plus": b"+5", "minus": b"-5",
        "eight": b"00000000008", "letters": b"abc", "full width": "１".encode(), "superscript": "²".encode(),
        "negative": b"\xff" * 12, "2^63": large(1 << 63, 12), "2^80": large(1 << 80, 12),
        "more than there is": b"00000010000",
    }.items():  # fmt: skip
        yield f"size {word}", INVALID, member(size=digits)
    yield "size 2^62", FULL, member(size=large(1 << 62, 12))
    yield "size 2^50", FULL, member(size=large(1 << 50, 12))
    yield "size in spaces", FITS, member(b"ten bytes.", size=b"  12 \0")
    for field in ("uid", "gid"):
        for id, verdict in (
            (1 << 31, INVALID),
            ((1 << 32) - 1, INVALID),
            (1 << 32, INVALID),
            (-1, INVALID),
        ):
            yield f"{field} {id}", verdict, member(**{field: large(id, 8)})
        yield f"{field} the largest", FITS, member(**{field: large((1 << 31) - 1, 8)})
        for value in (b"2147483648", b"4294967295", b"-1", b"1_0", b" 1", b"+1", b"0x1", b"9" * 36):
            yield f"{field} PAX {value!r}", INVALID, said(field.encode(), value)
    yield "directory uid", INVALID, member(name=b"d/", kind=b"5", uid=large(-1, 8))
    yield "symlink gid", INVALID, member(kind=b"2", link=b"x", gid=large(1 << 31, 8))
    yield "root's uid", INVALID, member(name=b"./", kind=b"5", uid=large(1 << 31, 8))
    for word, digits in {
        "10^18": large(10**18, 12),
        "-1": large(-1, 12),
        "-2^62": large(-(1 << 62), 12),
    }.items():
        yield f"mtime {word}", FITS, member(mtime=digits)
    for value in (
        b"NaN",
        b"inf",
        b"1e5",
        b"",
        b"1.x",
        b"--1",
        b"1000000000000000000",
        b"0x1",
        b"1_0",
        "١".encode(),
    ):
        yield f"mtime PAX {value!r}", FITS if not value else INVALID, said(b"mtime", value)
    for value in (b"-1.5", b"999999999999999999", b"1.99999999999999999999", b"-999999999999999999.5", b"0."):
        yield f"mtime PAX {value!r}", FITS, said(b"mtime", value)
    yield "mode letters", INVALID, member(mode=b"rwxr-xr")
    yield "mode with file types", FITS, member(mode=b"1777777\0")
    yield "mode negative", FITS, member(mode=b"\xff" * 8)


def names() -> Iterator[tuple[str, str, bytes]]:
    for word, name in {
        "return": b"a\rb", "newline": b"a\nb", "no text": b"\xff\xfe", "255 bytes": b"n" * 255, "escape": b"\x1b[2J",
        "slashes": b"////", "dots": b"./././.", "nothing": b"", "trailing slash": b"file/", "2000 levels": b"a/" * 2000 + b"b",
    }.items():  # fmt: skip
        yield f"name {word}", FITS, said(b"path", name) if name else member(name=b"")
    for word, name in {"NUL": b"a\0b", "256 bytes": b"n" * 256, "4096 bytes": b"a/" * 2048, "100 kB": b"x" * 100_000}.items():  # fmt: skip
        yield f"name {word}", INVALID, said(b"path", name)
    for word, text in {"NUL": b"a\0b", "5000 bytes": b"a" * 5000, "100 kB": b"../" * 33_000}.items():
        yield f"symlink to {word}", INVALID, said(b"linkpath", text, kind=b"2", link=b"x")
    yield "hard link to 5000 bytes", INVALID, said(b"linkpath", b"a/" * 2500, kind=b"1", link=b"x")
    yield "long name of 5000 bytes", INVALID, long(b"L", b"a" * 5000) + member()
    yield "long name twice", FITS, long(b"L", b"a" * 200) + long(b"L", b"b" * 200) + member()
    yield "long name of nothing", FITS, long(b"L", b"") + member()
    yield "long name and then the end", INVALID, long(b"L", b"a" * 200)
    yield (
        "long name said to be 2 MiB",
        INVALID,
        member(size=b"%011o\0" % (2 << 20), kind=b"L") + bytes(2 << 20),
    )
    yield "long name said to be negative", INVALID, member(size=b"\xff" * 12, kind=b"L")
    yield "long link and no link", FITS, long(b"K", b"/etc/passwd") + member()
    yield "long name and PAX path", FITS, long(b"L", b"../" * 60) + said(b"path", b"../../x")
    yield "prefix of dots", FITS, member(prefix=b"../../..", name=b"etc/x")
    yield "prefix absolute", FITS, member(prefix=b"/etc", name=b"x")


def headers() -> Iterator[tuple[str, str, bytes]]:
    for word, body in {
        "length zero": b"0 path=x\n", "length too long": b"99 path=x\n", "length too short": b"5 path=x\n",
        "no length": b"path=x\n", "no equals": b"9 pathx\n\n", "no newline": b"9 path=xy", "no key": b"5 =x\n",
        "NUL in the key": b"11 pa\0th=x\n", "negative length": b"-9 path=x\n", "spaces": b"  9 path=x\n",
        "text behind": record(b"path", b"x") + b"garbage", "36 digits": b"1" * 36 + b" path=x\n",
        "NUL bytes": bytes(40), "a letter": b"9a path=x\n",
    }.items():  # fmt: skip
        yield f"PAX {word}", INVALID, member(body, kind=b"x") + member()
        yield f"global PAX {word}", INVALID, member(body, kind=b"g") + member()
    yield "PAX said to be 2 MiB", INVALID, member(size=b"%011o\0" % (2 << 20), kind=b"x")
    yield "PAX and then the end", INVALID, pax((b"path", b"x"))
    yield "PAX of PAX", FITS, pax((b"path", b"x")) + pax((b"path", b"y")) + member()
    yield "PAX key twice", FITS, pax((b"path", b"../x"), (b"path", b"y")) + member()
    yield "PAX of 100,000 keys", FITS, pax(*((b"k%d" % n, b"") for n in range(50_000))) + member()
    yield "PAX size too large", INVALID, said(b"size", b"100000", b"short")
    yield "PAX size too small", INVALID, said(b"size", b"0", b"not nothing" * 60)
    yield "PAX size negative", INVALID, said(b"size", b"-1", b"x")
    yield "PAX size huge", FULL, said(b"size", b"9" * 18)
    yield "global path", FITS, pax((b"path", b"/etc/passwd"), kind=b"g") + member()
    for kind in b"ADEIMNVXZ\x01\xff89":
        yield f"type {kind:#x}", INVALID, member(kind=bytes((kind,)))
    yield "type contiguous", FITS, member(b"x", kind=b"7")
    yield "type of version 7", FITS, member(b"x", kind=b"\0", magic=b"")
    yield "sum wrong", INVALID, member(sum=b"0000001\0")
    yield "sum missing", INVALID, member(sum=b"")
    yield "sum negative", INVALID, member(sum=b"\xff" * 8)
    yield "lone zeros", INVALID, bytes(BLOCK) + member()
    yield "half a block", INVALID, member()[:300]
    yield "cut in the data", INVALID, member(b"x" * 2000)[:-1000]
    yield "text", INVALID, b"<html>not found</html>" * 100
    yield "a gzip in the tar", INVALID, padded(gzip.compress(b"x" * 9999, mtime=0))
    yield "link with a body", INVALID, member(b"\1" * BLOCK, kind=b"1", link=b"f")
    yield "directory with a body", INVALID, member(b"\1" * BLOCK, kind=b"5")
    yield "data behind the end", FITS, member() + END + member(name=b"late") + b"garbage"


def devices() -> Iterator[tuple[str, str, bytes]]:
    def device(kind: bytes, major: bytes, minor: bytes) -> bytes:
        return member(kind=kind, major=major, minor=minor)

    yield "device 0:0", INVALID, device(b"3", b"", b"")
    yield "device 0:0 in octal", INVALID, device(b"3", b"0000000\0", b"0000000\0")
    yield "device 4096:0", INVALID, device(b"3", b"0010000\0", b"")
    yield "device 1:2^20", INVALID, device(b"3", b"0000001\0", b"4000000\0")
    yield "device negative", INVALID, device(b"4", b"\xff" * 8, b"")
    yield "device 2^32", INVALID, device(b"4", large(1 << 32, 8), large(1 << 32, 8))
    yield "device of letters", INVALID, device(b"3", b"mem", b"null")
    yield "disk", FITS, device(b"4", b"0000010\0", b"0000000\0")
    yield "memory", FITS, device(b"3", b"0000001\0", b"0000001\0")
    yield "socket", INVALID, member(mode=b"0140644\0", kind=b"s")


def sparse() -> Iterator[tuple[str, str, bytes]]:
    def old(pairs: Sequence[tuple[int, int]], size: int, data: bytes = b"", more: bytes = b"") -> bytes:
        fields = bytearray(member(kind=b"S", magic=b"ustar  \0", size=b"%011o\0" % len(data))[:BLOCK])
        for n, pair in enumerate(pairs):
            fields[386 + 24 * n : 410 + 24 * n] = b"".join(large(value, 12) for value in pair)
        fields[483:495] = large(size, 12)
        fields[482] = bool(more)
        fields[148:156] = b" " * 8
        fields[148:156] = b"%06o\0 " % sum(fields)
        return bytes(fields) + more + padded(data)

    def new(data: bytes, *records: tuple[bytes, bytes]) -> bytes:
        return pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), *records) + member(data)

    yield "sparse overlapping", INVALID, old([(0, 8), (4, 8)], 12, bytes(16))
    yield "sparse backwards", INVALID, old([(8, 4), (0, 4)], 12, bytes(8))
    yield "sparse beyond its size", INVALID, old([(100, 8)], 50, bytes(8))
    yield "sparse of less data", INVALID, old([(0, 8)], 8, b"four")
    yield "sparse of more data", INVALID, old([(0, 2)], 8, b"four")
    yield "sparse length negative", INVALID, old([(0, -8)], 8)
    yield "sparse offset negative", INVALID, old([(-512, 8)], 8, bytes(8))
    yield "sparse size negative", INVALID, old([], -1)
    yield "sparse size beyond offsets", INVALID, old([], (1 << 62) + 1)
    yield "sparse offset overflow", INVALID, old([((1 << 62), 1 << 62), (0, 1)], 1 << 62)
    yield "sparse continued nowhere", INVALID, old([(0, 4)], 4, more=b"\1")[: BLOCK + 1]
    yield "sparse of 1 TiB of nothing", FITS, old([], 1 << 40)
    yield "sparse honest", FITS, old([(4096, 4), (1 << 20, 4)], 1 << 21, b"fourfive"[:8])
    realsize = (b"GNU.sparse.realsize", b"100")
    for word, text in {
        "2^31 pairs": b"2147483648\n", "negative pairs": b"-1\n", "no pairs": b"", "letters": b"one\n1\n2\n",
        "fewer pairs": b"3\n0\n1\n", "pairs cut": b"1\n0", "overlap": b"2\n0\n4\n2\n4\n",
    }.items():  # fmt: skip
        yield f"sparse 1.0 {word}", INVALID, new(padded(text) + b"12345678", realsize)
    yield "sparse 1.0 without a size", INVALID, new(padded(b"1\n0\n4\n") + b"four")
    yield (
        "sparse 1.0 NUL name",
        INVALID,
        new(padded(b"1\n0\n4\n") + b"four", realsize, (b"GNU.sparse.name", b"a\0b")),
    )
    yield (
        "sparse 1.0 out",
        FITS,
        new(padded(b"1\n0\n4\n") + b"four", realsize, (b"GNU.sparse.name", b"../../../x")),
    )
    yield "sparse 1.0 directory", INVALID, pax((b"GNU.sparse.major", b"1"), realsize) + member(kind=b"5")
    yield (
        "sparse 1.0 link",
        INVALID,
        pax((b"GNU.sparse.major", b"1"), realsize) + member(kind=b"1", link=b"f"),
    )
    yield "sparse 2.0", INVALID, pax((b"GNU.sparse.major", b"2"), realsize) + member(b"four")
    for word, value in {"odd": b"0,4,8", "letters": b"a,b", "backwards": b"4,2,0,2", "minus": b"-1,4", "2^70": b"%d,4" % (1 << 70)}.items():  # fmt: skip
        yield (
            f"sparse 0.1 {word}",
            INVALID,
            pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", value)) + member(b"four"),
        )
    pair = ((b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"4"))
    yield "sparse 0.1 count", INVALID, pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"7"), (b"GNU.sparse.map", b"0,4")) + member(b"four")  # fmt: skip
    yield (
        "sparse 0.0 pairs the other way",
        INVALID,
        pax((b"GNU.sparse.size", b"9"), *pair[::-1]) + member(b"four"),
    )
    yield "sparse 0.0 half a pair", INVALID, pax((b"GNU.sparse.size", b"9"), pair[0]) + member(b"four")
    yield "sparse 0.0 honest", FITS, pax((b"GNU.sparse.size", b"9"), *pair) + member(b"four")
    yield (
        "sparse 0.1 honest",
        FITS,
        pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"2,4")) + member(b"four"),
    )


def attributes() -> Iterator[tuple[str, str, bytes]]:
    for word in (
        "opaque",
        "redirect",
        "metacopy",
        "origin",
        "whiteout",
        "impure",
        "overlay.opaque",
        "nlink",
        "",
    ):
        for space in ("trusted", "user"):
            for kind in (b"0", b"5"):
                what = f"{space}.overlay.{word}"
                yield (
                    f"{what} of {kind.decode()}",
                    INVALID,
                    said(f"SCHILY.xattr.{what}".encode(), b"y", kind=kind),
                )
    yield (
        "overlay's on the root",
        INVALID,
        said(b"SCHILY.xattr.trusted.overlay.opaque", b"y", name=b"./", kind=b"5"),
    )
    for key in (
        "system.posix_acl_access",
        "btrfs.compression",
        "foo.bar",
        "user",
        "security.selinux",
        "",
        ".",
    ):
        yield f"attribute {key!r}", FITS, said(f"SCHILY.xattr.{key}".encode(), b"value")


def disk_attributes() -> Iterator[tuple[str, str, bytes]]:
    yield "attribute name too long", INVALID, said(b"SCHILY.xattr.user." + b"a" * 300, b"value")
    yield "attribute value too long", INVALID, said(b"SCHILY.xattr.user.a", b"a" * 70_000)
    yield "attribute without a name", INVALID, said(b"SCHILY.xattr.user.", b"value")
    yield "capability of noise", INVALID, said(b"SCHILY.xattr.security.capability", b"noise")
    yield "capability of another version", INVALID, said(b"SCHILY.xattr.security.capability", struct.pack("<5I", 9 << 24, 1, 0, 0, 0))  # fmt: skip
    yield "sparse of 2^62", INVALID, pax((b"GNU.sparse.size", b"%d" % (1 << 62)), (b"GNU.sparse.map", b"0,4")) + member(b"four")  # fmt: skip


def kinds() -> dict[str, Entry]:
    return {
        "file": Entry("it", data=b"x"),
        "dir": Entry("it", "dir"),
        "symlink": Entry("it", "symlink", link="CANARY/etc/passwd"),
        "hardlink": Entry("it", "hardlink", link="target"),
        "char": Entry("it", "char", device=(1, 3)),
        "block": Entry("it", "block", device=(8, 0)),
        "fifo": Entry("it", "fifo"),
        "full dir": Entry("it/child", data=b"x"),
        "whiteout": Entry(".wh.it"),
        "opaque dir": Entry("it/.wh..wh..opq"),
    }


@functools.cache
def edges() -> tuple[Archive, ...]:
    """One layer each, of one odd member after an honest one."""
    sources = (numbers(), names(), headers(), devices(), sparse(), attributes())
    honest = member(b"honest", name=b"honest")
    found = [
        Archive(name, (honest + odd + END,), verdict) for source in sources for name, verdict, odd in source
    ]
    found += [
        Archive(name, (honest + odd + END,), verdict, disk=True) for name, verdict, odd in disk_attributes()
    ]
    assert len({one.name for one in found}) == len(found)
    return tuple(found)


def duplicates(canary: str) -> list[Archive]:
    """The same name twice, as any two kinds, in one layer and in two."""
    target = Entry("target", data=b"t")
    found = []
    for (one, first), (two, second) in product(kinds().items(), repeat=2):
        ((first, second),) = breakouts.real([[first, second]], canary)
        # a file cannot be in what is a file or a link to one
        verdict = FITS
        if two in ("full dir", "opaque dir") and one in ("file", "hardlink", "char", "block", "fifo"):
            verdict = INVALID
        if two == "full dir" and one == "symlink":
            verdict = EITHER  # what the link names may be there
        together = images.layer([target, first, second])
        found.append(Archive(f"{one} and {two}", (together,), EITHER if two == "opaque dir" else verdict))
        apart = (images.layer([target, first]), images.layer([target, second]))
        found.append(Archive(f"{one} below {two}", apart, EITHER if two == "opaque dir" else verdict))
    return found


def escapes(canary: str) -> list[Archive]:
    """The break-outs, as archives."""
    return [
        Archive(name, tuple(map(images.layer, breakouts.real(stack, canary))), FITS if good else INVALID)
        for name, (stack, good) in (breakouts.NAMED | breakouts.OWN).items()
    ]


def noise(seed: int, canary: str) -> Archive:
    """A small archive of odd entries, then a few bytes of it changed, and perhaps its end missing."""
    dice = random.Random(seed)
    names = [
        "a",
        "b",
        "a/b",
        "../a",
        "/a",
        "a/../../b",
        ".wh.a",
        "a/.wh..wh..opq",
        "x" * 255,
        ".",
        "",
        "a//b/",
        "\udcfe",
    ]
    entries = []
    for _ in range(dice.randint(1, 12)):
        kind = dice.choice(["file", "dir", "symlink", "hardlink", "char", "block", "fifo"])
        entries.append(
            Entry(
                dice.choice(names) + dice.choice(["", "", "/c"]),
                kind,
                data=dice.randbytes(dice.choice((0, 1, 511, 513))) if kind == "file" else b"",
                link=dice.choice([*names, f"{canary}/etc/passwd", "../../../../etc", "a" * 4000]),
                mode=dice.choice((0o644, 0o6777, 0)),
                uid=dice.choice((0, 1000, (1 << 31) - 1, 1 << 31) if dice.random() < 0.1 else (0, 1000)),
                mtime=dice.choice((0, -1, 1 << 40)),
                device=dice.choice(((1, 3), (1, 3), (5000, 1))),
            )
        )
    archive = bytearray(images.layer(entries))
    for _ in range(dice.choice((0, 0, 1, 3))):
        archive[dice.randrange(len(archive))] = dice.randrange(256)
    if dice.random() < 0.2:
        del archive[dice.randrange(len(archive)) & ~511 :]
    return Archive(f"noise {seed}", (bytes(archive),), EITHER)


# --- images of them -----------------------------------------------------------------------------------------

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def docker(image: images.Image) -> images.Image:
    """The image with docker's media types."""
    manifest = json.loads(image.manifest)
    manifest["mediaType"] = DOCKER_MANIFEST
    manifest["config"]["mediaType"] = DOCKER_CONFIG
    for layer in manifest["layers"]:
        layer["mediaType"] = DOCKER_LAYER
    return images.Image(image.blobs, images.dump(manifest))


def nested(image: images.Image) -> tuple[bytes, bytes]:
    """An index of an index of the image: both, the outer first."""
    inner = images.index({images.ARCHITECTURE: image})
    described = {"mediaType": images.INDEX, "digest": images.sha256(inner), "size": len(inner)}
    outer = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": [described]}
    return images.dump(outer), inner
