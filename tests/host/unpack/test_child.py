"""The unpacking child against hostile archives: nothing outside the layer changes, whatever they say.

The names of the first table are those of the break-out cases that other runtimes test; they come with the
bugs they had.
"""

import contextlib
import os
import random
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.model.errors import Invalid
from tests import images
from tests.host import stores
from tests.host.stores import Store, d, f, fingerprint, h, s, whole
from tests.images import Entry

pytestmark = pytest.mark.root

PASSWD = Entry("etc/passwd", data=b"inside")
ETC = Entry("etc", "dir", mode=0o770)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.guarded(tmp_path) as store:
        yield store


def holds(path: str, data: bytes) -> Callable[[Path], bool]:
    return lambda root: (root / path).read_bytes() == data


def same(one: str, other: str) -> Callable[[Path], bool]:
    return lambda root: (root / one).samefile(root / other)


def absent(*paths: str) -> Callable[[Path], bool]:
    return lambda root: not any(os.path.lexists(root / path) for path in paths)


UNBROKEN = holds("etc/unbroken", b"unbroken")
BOTH = same("localpasswd", "etc/passwd")
LOWER = [d("etc"), f("etc/passwd", b"all users"), f("etc/whitedout")]
BREAKOUTS: dict[str, tuple[list[list[Entry]], Callable[[Path], bool] | None]] = {
    "SymlinkAbsolute": ([[d("etc"), s("localetc", "/etc"), f("/localetc/unbroken", b"unbroken")]], UNBROKEN),
    "SymlinkUpAndOut": (
        [[d("etc"), d("dummy"), s("localetc", "/dummy/../etc"), f("/localetc/unbroken", b"unbroken")]],
        UNBROKEN,
    ),
    "SymlinkMultipleAbsolute": (
        [
            [
                d("etc"),
                d("dummy"),
                s("dummy/etc", "/etc"),
                s("localetc", "/dummy/etc"),
                f("/dummy/etc/unbroken", b"unbroken"),
            ]
        ],
        UNBROKEN,
    ),
    "SymlinkMultipleRelative": (
        [
            [
                d("etc"),
                d("dummy"),
                s("/dummy/etc", "/etc"),
                s("localetc", "./dummy/etc"),
                f("localetc/unbroken", b"unbroken"),
            ]
        ],
        UNBROKEN,
    ),
    "SymlinkEmptyFile": (
        [[d("etc"), f("etc/emptied", b"notempty"), s("localetc", "/etc"), f("/localetc/emptied", b"")]],
        holds("etc/emptied", b""),
    ),
    "HardlinkRelative": (
        [[ETC, PASSWD, d("b"), s("b/d1", "../../etc"), h("b/mypasswd", "/b/d1/passwd")]],
        same("b/mypasswd", "etc/passwd"),
    ),
    "HardlinkDownAndOut": (
        [[ETC, PASSWD, d("b"), d("down"), s("b/d1", "../down/../../etc"), h("b/mypasswd", "/b/d1/passwd")]],
        same("b/mypasswd", "etc/passwd"),
    ),
    "HardlinkAbsolute": ([[ETC, PASSWD, s("localetc", "/etc"), h("localpasswd", "/localetc/passwd")]], BOTH),
    "HardlinkRelativeLong": (
        [[ETC, PASSWD, s("localetc", "../../../../../../../etc"), h("localpasswd", "/localetc/passwd")]],
        BOTH,
    ),
    "HardlinkRelativeUpAndOut": (
        [[ETC, PASSWD, s("localetc", "upandout/../../../etc"), h("localpasswd", "/localetc/passwd")]],
        BOTH,
    ),
    "HardlinkDirectRelative": ([[ETC, PASSWD, h("localpasswd", "../../../../../etc/passwd")]], BOTH),
    "HardlinkDirectAbsolute": ([[ETC, PASSWD, h("localpasswd", "/etc/passwd")]], BOTH),
    "SymlinkParentDirectory": ([[ETC, PASSWD, s("..", "/etc/"), h("localpasswd", "/etc/passwd")]], BOTH),
    "SymlinkEmptyFilename": ([[ETC, PASSWD, s("", "/etc/"), h("localpasswd", "/etc/passwd")]], BOTH),
    "SymlinkParentRelative": (
        [[ETC, PASSWD, s("localetc/sub/..", "/etc/"), h("/localetc/localpasswd", "/etc/passwd")]],
        same("etc/localpasswd", "etc/passwd"),
    ),
    "SymlinkSlashEnded": (
        [[ETC, PASSWD, d("localetc/"), h("/localetc/localpasswd", "/etc/passwd")]],
        same("localetc/localpasswd", "etc/passwd"),
    ),
    "SymlinkOverrideDirectory": (
        [[ETC, PASSWD, d("localetc")], [s("localetc", "/etc"), h("/localetc/localpasswd", "/etc/passwd")]],
        same("etc/localpasswd", "etc/passwd"),
    ),
    "SymlinkOverrideDirectoryRelative": (
        [
            [ETC, PASSWD, d("localetc")],
            [s("localetc", "../../etc"), h("/localetc/localpasswd", "/etc/passwd")],
        ],
        same("etc/localpasswd", "etc/passwd"),
    ),
    "DirectoryOverrideSymlink": (
        [[ETC, PASSWD, s("localetc", "/etc")], [d("/localetc/"), h("/localetc/localpasswd", "/etc/passwd")]],
        same("localetc/localpasswd", "etc/passwd"),
    ),
    "DirectoryOverrideSymlinkAndHardlink": (
        [
            [ETC, PASSWD, s("localetc", "etc"), h("/localetc/localpasswd", "/etc/passwd")],
            [d("/localetc/"), f("/localetc/localpasswd", b"different")],
        ],
        lambda root: (
            holds("localetc/localpasswd", b"different")(root) and holds("etc/passwd", b"inside")(root)
        ),
    ),
    "WhiteoutRootParent": ([LOWER, [f(".wh...")]], None),
    "WhiteoutParent": ([LOWER, [f("etc/.wh...")]], None),
    "WhiteoutRoot": ([LOWER, [f(".wh..")]], None),
    "WhiteoutCurrentDirectory": ([LOWER, [f("etc/.wh..")]], None),
    "WhiteoutOfNothing": ([LOWER, [f("etc/.wh.")]], None),
    "WhiteoutSymlink": (
        [[*LOWER, s("localetc", "/etc")], [f(".wh.localetc")]],
        lambda root: holds("etc/passwd", b"all users")(root) and absent("localetc")(root),
    ),
    "WhiteoutSymlinkPath": (
        [[*LOWER, s("localetc", "/etc")], [f("localetc/.wh.whitedout")]],
        lambda root: holds("etc/passwd", b"all users")(root) and absent("etc/whitedout")(root),
    ),
    "WhiteoutDirectoryName": (
        [LOWER, [f(".wh.etc/somefile", b"non-empty")]],
        lambda root: (
            holds("etc/passwd", b"all users")(root) and holds(".wh.etc/somefile", b"non-empty")(root)
        ),
    ),
    "WhiteoutDeadSymlinkParent": (
        [[*LOWER, s("localetc", "/dne")], [f("localetc/.wh.etc")]],
        holds("etc/passwd", b"all users"),
    ),
    "WhiteoutRelativePath": ([LOWER, [f("dne/../.wh.etc")]], absent("etc")),
    "OpaqueThroughSymlink": (
        [[*LOWER, s("localetc", "/etc")], [f("localetc/.wh..wh..opq"), f("localetc/new")]],
        lambda root: [path.name for path in (root / "etc").iterdir()] == ["new"],
    ),
    "OpaqueRoot": (
        [LOWER, [f(".wh..wh..opq"), f("only")]],
        lambda root: [p.name for p in root.iterdir()] == ["only"],
    ),
    "WhiteoutBeforeAndAfter": (
        [LOWER, [f(".wh.etc"), d("etc"), f("etc/new"), f("etc/.wh.new"), f("etc/.wh.passwd")]],
        lambda root: [path.name for path in (root / "etc").iterdir()] == ["new"],
    ),
    "SymlinkOverridePath": (
        [
            [
                *(d("foo"), d("foo/tmp"), f("foo/tmp/out", b"012"), s("foo", "/"), f("foo/tmp/out", b"345")),
                *(d("foo"), d("foo/tmp"), f("foo/tmp/out", b"678")),
            ]
        ],
        lambda root: holds("foo/tmp/out", b"678")(root) and holds("tmp/out", b"345")(root),
    ),
    "HardlinkSymlinkBeforeCreateTarget": (
        [[ETC, s("localpasswd", "/etc/passwd"), h("dup", "localpasswd"), PASSWD]],
        lambda root: (root / "dup").readlink() == Path("/etc/passwd"),
    ),
    "HardlinkSymlinkRelative": (
        [[ETC, PASSWD, s("passwdlink", "../../../../../etc/passwd"), h("localpasswd", "/passwdlink")]],
        lambda root: (root / "localpasswd").readlink() == (root / "passwdlink").readlink(),
    ),
    "HardlinkSymlinkAbsolute": (
        [[ETC, PASSWD, s("passwdlink", "/etc/passwd"), h("localpasswd", "/passwdlink")]],
        lambda root: (root / "localpasswd").readlink() == (root / "passwdlink").readlink(),
    ),
    "HardlinkSymlinkChmod": (
        [[s("p", "CANARY/etc/passwd"), Entry("sketchy", "hardlink", link="p", mode=0o777, uid=99, mtime=7)]],
        lambda root: (root / "sketchy").is_symlink(),
    ),
    # variants across layers, and what the lists of others do not have
    "SymlinkInOneLayerFileThroughItInTheNext": (
        [[s("out", "CANARY")], [f("out/etc/passwd", b"in")]],
        lambda root: holds(f"{(root / 'out').readlink()}/etc/passwd".lstrip("/"), b"in")(root),
    ),
    "HardlinkThroughSymlinkOfALowerLayer": ([[s("out", "CANARY")], [h("mine", "out/etc/passwd")]], None),
    "WhiteoutThroughSymlinkOfALowerLayer": (
        [[s("out", "CANARY")], [f("out/etc/.wh.passwd"), f("out/.wh..wh..opq")]],
        lambda root: (root / "out").is_symlink(),
    ),
    "DirectoryToSymlinkToDirectory": (
        [[d("a"), d("a/b"), f("a/b/1"), s("a", "CANARY"), f("a/etc/passwd", b"in"), d("a"), f("a/2")]],
        lambda root: sorted(path.name for path in (root / "a").iterdir()) == ["2"],
    ),
    "FileReplacesSymlink": ([[s("p", "CANARY/etc/passwd"), f("p", b"own")]], holds("p", b"own")),
    "DirectoryReplacesSymlink": (
        [[s("p", "CANARY/etc"), d("p"), f("p/passwd", b"own")]],
        holds("p/passwd", b"own"),
    ),
    "SymlinkLoop": ([[s("a", "b"), s("b", "a"), f("a/x")]], None),
    "LongChainOfSymlinks": ([[s(f"l{n}", f"l{n + 1}") for n in range(60)] + [f("l0/x")]], None),
    "HardlinkToDirectory": ([[d("etc"), h("e", "etc")]], None),
    "HardlinkToItself": ([[h("me", "me")]], None),
    "HardlinkToLaterEntry": ([[h("early", "late"), f("late")]], None),
    "HardlinkReplacesDirectoryOfItsTarget": ([[d("a"), f("a/b"), h("a", "a/b")]], None),
    "FileAsParent": ([[f("a"), f("a/b")]], None),
    "RootAsFile": ([[f("/", b"x"), s("./", "/canary"), f("ok")]], holds("ok", b"x")),
    "NameOf255Bytes": ([[f("n" * 255)]], holds("n" * 255, b"x")),
    "NameOf256Bytes": ([[f("n" * 256)]], None),
    "PathOf5000Bytes": ([[f("d/" * 2500 + "f")]], None),
    "NamesThatAreNoText": ([[f("\r\n\udcff"), f("b\\..\\x")]], holds("\r\n\udcff", b"x")),
    "OverlayWhiteoutDevice": ([LOWER, [Entry("etc", "char", device=(0, 0))]], None),
    "OverlayOpaqueXattr": ([[Entry("d", "dir", pax={"SCHILY.xattr.trusted.overlay.opaque": "y"})]], None),
    "OverlayRedirectXattr": (
        [[Entry("d", "dir", pax={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})]],
        None,
    ),
    "UserOverlayXattr": ([[Entry("d", "dir", pax={"SCHILY.xattr.user.overlay.opaque": "y"})]], None),
    "UidMinusOne": ([[Entry("f", uid=(1 << 32) - 1)]], None),
    "UidTooLarge": ([[Entry("f", uid=1 << 31)]], None),
}


@pytest.mark.parametrize(("stack", "good"), BREAKOUTS.values(), ids=BREAKOUTS)
async def test_breakouts(
    store: Store, tmp_path: Path, stack: list[list[Entry]], good: Callable[[Path], bool] | None
) -> None:
    outside = str(tmp_path / "canary")
    real = [
        [replace(entry, link=entry.link.replace("CANARY", outside)) for entry in layer] for layer in stack
    ]
    if good is None:
        with pytest.raises(Invalid):
            await store.chain(*real)
        return
    async with store.merged(*real) as root:
        assert good(root)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_what_a_layer_says_is_what_is_there(store: Store, compression: str) -> None:
    capability = bytes.fromhex("0100000202000000000000000000000000000000").decode("latin-1")
    entries = [
        Entry("./", "dir", mode=0o751, uid=3, mtime=5),
        Entry("d", "dir", mode=0o2750, uid=10, gid=20, mtime=111),
        Entry("d/f", data=b"content" * 1000, mode=0o4755, uid=7, gid=8, mtime=222),
        Entry("d/root", data=b"", mode=0o600, mtime=223),
        Entry("d/l", "symlink", link="/etc/./x/", uid=9, gid=9, mtime=333),
        Entry("d/h", "hardlink", link="d/f"),
        Entry("null", "char", device=(1, 3), mode=0o666, mtime=444),
        Entry("disk", "block", device=(8, 0), mode=0o660, gid=6),
        Entry("pipe", "fifo", mode=0o622),
        Entry("x", pax={"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.security.selinux": "label"}),
        Entry("ping", uid=5, pax={"SCHILY.xattr.security.capability": capability}),
    ]
    async with store.merged(entries, compression=compression) as root:
        d, file, link = (root / "d").stat(), (root / "d/f").stat(), (root / "d/l").lstat()
        assert (root.stat().st_mode & 0o7777, root.stat().st_uid, root.stat().st_mtime) == (0o751, 3, 5)
        assert (d.st_mode & 0o7777, d.st_uid, d.st_gid, d.st_mtime) == (0o2750, 10, 20, 111)
        assert (file.st_mode & 0o7777, file.st_uid, file.st_gid, file.st_mtime) == (0o4755, 7, 8, 222)
        assert ((root / "d/root").stat().st_gid, (root / "d/root").stat().st_mtime) == (0, 223)
        assert (link.st_uid, link.st_gid, link.st_mtime) == (9, 9, 333)
        assert os.readlink(root / "d/l") == "/etc/./x/"  # noqa: PTH115 - pathlib tidies the target
        assert (root / "d/f").read_bytes() == b"content" * 1000
        assert (root / "d/h").samefile(root / "d/f")
        null, disk = (root / "null").stat(), (root / "disk").stat()
        assert (stat.S_ISCHR(null.st_mode), null.st_rdev) == (True, os.makedev(1, 3))
        assert (stat.S_ISBLK(disk.st_mode), disk.st_rdev) == (True, os.makedev(8, 0))
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
        assert os.getxattr(root / "x", "user.note") == b"hello"
        assert "security.selinux" not in os.listxattr(root / "x")
        assert os.getxattr(root / "ping", "security.capability")[:4] == bytes.fromhex("01000002")


# --- generated ----------------------------------------------------------------------------------------------


def hostile(seed: int) -> bytes:
    """A small archive of odd entries, then a few bytes of it changed."""
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
                link=dice.choice([*names, "/etc/passwd", "../../../../etc", "a" * 4000]),
                mode=dice.choice((0o644, 0o6777, 0)),
                uid=dice.choice((0, 1000, (1 << 31) - 1, 1 << 31)),
                mtime=dice.choice((0, -1, 1 << 40)),
                device=dice.choice(((1, 3), (0, 0), (5000, 1))),
            )
        )
    archive = bytearray(images.layer(entries))
    for _ in range(dice.choice((0, 0, 1, 3))):
        archive[dice.randrange(len(archive))] = dice.randrange(256)
    if dice.random() < 0.2:
        del archive[dice.randrange(len(archive)) & ~511 :]
    return bytes(archive)


async def test_hostile_archives_are_unpacked_or_invalid(store: Store) -> None:
    """Three hundred of them over an ordinary layer: the host and the other layer stay as they are."""
    base = await store.add([d("a"), f("a/b"), s("b", "/etc")])
    before = fingerprint(store.layers.directory(base[0]))
    outcomes = {"published": 0, "invalid": 0}
    for seed in range(300):
        compression = ("none", "gzip", "zstd")[seed % 3]
        try:
            (_, chain_id) = await store.add(hostile(seed), base, compression)
        except Invalid:
            outcomes["invalid"] += 1
        else:
            outcomes["published"] += 1
            await store.layers.remove(chain_id)
    assert fingerprint(store.layers.directory(base[0])) == before
    assert min(outcomes.values()) > 30, outcomes


@pytest.mark.parametrize("seed", range(4))
async def test_an_archive_cut_off_anywhere_is_invalid_or_shorter(store: Store, seed: int) -> None:
    archive = images.layer([f(f"f{n}", bytes([n]) * 300 * n) for n in range(6)])
    for end in range(seed * 512, len(archive), 4 * 512):
        with contextlib.suppress(Invalid):
            staged = await store.layers.unpack(whole(archive[:end]), "none")
            assert staged.diff_id == images.sha256(archive[:end])
            await store.layers.discard(staged)
