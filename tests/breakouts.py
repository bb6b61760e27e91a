"""Archives that tried to leave the root they were unpacked to, and what must come of each.

NAMED has the names that containerd's tests give these cases (pkg/archive/tar_test.go), OWN what its list lacks.
CANARY in a link stands for a directory outside the root. An outcome of None is Invalid.
"""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tests.host.stores import d, f, h, s
from tests.images import Entry

Good = Callable[[Path], bool]
Stack = list[list[Entry]]
Case = tuple[Stack, Good | None]


def holds(path: str, data: bytes) -> Good:
    return lambda root: (root / path).read_bytes() == data


def same(one: str, other: str) -> Good:
    return lambda root: (root / one).samefile(root / other)


def absent(*paths: str) -> Good:
    return lambda root: not any(os.path.lexists(root / path) for path in paths)


def directories(*paths: str) -> Good:
    return lambda root: all(stat.S_ISDIR((root / path).lstat().st_mode) for path in paths)


def leads(path: str, target: str) -> Good:
    return lambda root: os.readlink(root / path) == target  # noqa: PTH115 - pathlib tidies the target


def every(*good: Good) -> Good:
    return lambda root: all(one(root) for one in good)


def modes(root: Path, *paths: str) -> list[int]:
    return [stat.S_IMODE((root / path).stat().st_mode) for path in paths]


def linked(path: str) -> Entry:
    return f(path, b"link me")


ETC = Entry("etc", "dir", mode=0o770)
PASSWD = Entry("etc/passwd", data=b"inside")
UNBROKEN = holds("etc/unbroken", b"unbroken")
BOTH = same("localpasswd", "etc/passwd")
LOWER = [d("etc"), f("etc/passwd", b"all users"), f("etc/whitedout")]

NAMED: dict[str, Case] = {
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
    "DirectoryCreation": (
        [
            [d("etc")],
            [
                d("/etc/subdir"),
                d("/etc/subdir2/"),
                d("/etc/subdir2/more"),
                d("/other/noparent-1/1"),
                d("/other/noparent-2/2/"),
            ],
        ],
        directories("etc/subdir", "etc/subdir2/more", "other/noparent-1/1", "other/noparent-2/2"),
    ),
    "WithXattrsUser": (
        [[Entry("file", pax={"SCHILY.xattr.user.key": "value"})]],
        lambda root: os.getxattr(root / "file", "user.key") == b"value",
    ),
    # labels of the machine that built the image mean nothing here: passed over, where others apply them
    "WithXattrSelinux": (
        [[Entry("file", pax={"SCHILY.xattr.security.selinux": "unconfined_u:object_r:default_t:s0"})]],
        lambda root: "security.selinux" not in os.listxattr(root / "file"),
    ),
    "EmptyDiff": ([[d("etc")], []], directories("etc")),
    "ParentInclusion": (
        [
            [d("d1"), Entry("d2", "dir", mode=0o770)],
            [d("d1/"), Entry("d1/d/", "dir", mode=0o700), Entry("d2/", "dir", mode=0o770), f("d2/f", b"ok")],
        ],
        lambda root: modes(root, "d1", "d1/d", "d2") == [0o755, 0o700, 0o770] and holds("d2/f", b"ok")(root),
    ),
    "HardlinkParentInclusion": (
        [
            [
                *(
                    d("d1"),
                    linked("d1/f1"),
                    d("d2"),
                    linked("d2/f1"),
                    d("d3"),
                    d("d4"),
                    linked("d4/f1"),
                    d("d5"),
                ),
                *(linked("d5/f1"), d("d6"), h("d6/l1", "d1/f1"), h("d6/l2", "d5/f1")),
            ],
            [
                *(
                    d("d2/"),
                    linked("d2/l1"),
                    d("d1/"),
                    h("d1/f1", "d2/l1"),
                    d("d3/"),
                    linked("d3/l1"),
                    d("d4/"),
                ),
                *(h("d4/f1", "d3/l1"), d("d6/"), f("d6/.wh.l1"), f("d6/.wh.l2")),
            ],
        ],
        every(
            same("d1/f1", "d2/l1"),
            same("d4/f1", "d3/l1"),
            absent("d6/l1", "d6/l2"),
            holds("d5/f1", b"link me"),
        ),
    ),
    "UpdateDirectoryPermission": (
        [
            [d("d1"), Entry("d2", "dir", mode=0o770)],
            [
                *(Entry("d1/", "dir", mode=0o777), Entry("d1/d/", "dir", mode=0o700)),
                *(Entry("d2/", "dir", mode=0o770), f("d2/f", b"ok")),
            ],
        ],
        lambda root: modes(root, "d1", "d1/d", "d2") == [0o777, 0o700, 0o770] and holds("d2/f", b"ok")(root),
    ),
    "HardlinkUpdatedParent": (
        [
            [d("d1"), linked("d1/f1"), d("d2"), linked("d2/f1"), d("d3"), linked("d3/f1"), d("d4")],
            [
                *(Entry("d1/", "dir", mode=0o777), d("d2/"), linked("d2/l1"), h("d1/f1", "d2/l1")),
                *(Entry("d4/", "dir", mode=0o777), linked("d4/l1"), d("d3/"), h("d3/f1", "d4/l1")),
            ],
        ],
        every(
            same("d1/f1", "d2/l1"),
            same("d3/f1", "d4/l1"),
            lambda root: modes(root, "d1", "d4") == [0o777, 0o777],
        ),
    ),
    "WhiteoutIncludesParents": (
        [
            [
                *(d("d1"), f("d1/f1"), d("d2"), f("d2/f1"), f("d2/f2"), d("d3"), f("d3/f1")),
                *(d("d4"), f("d4/f1"), d("d5"), f("d5/f1")),
            ],
            [
                *(
                    d("d1/"),
                    f("d1/.wh.f1"),
                    d("d2/"),
                    f("d2/.wh.f1"),
                    Entry("d2/f2", data=b"content", mode=0o777),
                ),
                *(d("d3/"), f("d3/.wh.f1"), f("d3/f2"), d("d4/"), f("d4/f0"), f("d4/.wh.f1"), f(".wh.d5")),
            ],
        ],
        every(
            absent("d1/f1", "d2/f1", "d3/f1", "d4/f1", "d5"),
            directories("d1", "d2", "d3", "d4"),
            lambda root: modes(root, "d2/f2") == [0o777],
            holds("d3/f2", b"x"),
            holds("d4/f0", b"x"),
        ),
    ),
    "WhiteoutParentRemoval": (
        [[d("d1"), d("d2"), f("d2/f1")], [f(".wh.d1"), f(".wh.d2"), d("d3/")]],
        every(absent("d1", "d2"), directories("d3")),
    ),
    # a socket cannot be said in a tar; what lies around it in a diff can
    "IgnoreSockets": (
        [[f("f1", b"content")], [f("f2", b"content"), f("f3", b"content")]],
        every(holds("f1", b"content"), holds("f2", b"content"), holds("f3", b"content")),
    ),
    "RelativeSymlinks": (
        [
            [
                *(
                    d("home"),
                    d("home/derek"),
                    d("etc"),
                    s("home/derek/other", "../other"),
                    s("home/derek/etc", "../../etc"),
                ),
                *(s("home/derek/updown", "up/../../other"), s("home/derek/breakout", "../../../breakout")),
                *(s("breakout", "../../breakout"), s("upandout", "etc/../../upandout")),
                *(
                    s("home/breakout", "derek/../../../downandout"),
                    s("localetc", "/etc"),
                    f("localetc/unbroken", b"unbroken"),
                ),
            ]
        ],
        every(
            UNBROKEN,
            leads("home/derek/breakout", "../../../breakout"),
            leads("upandout", "etc/../../upandout"),
        ),
    ),
    "Symlinks": (
        [
            [
                *(
                    d("bin"),
                    d("sbin"),
                    f("sbin/superbinary", b"\0\0"),
                    s("bin/superbinary", "/sbin/superbinary"),
                ),
                *(s("bin/other1", "../bin/superbinary"), s("bin/myapp", "superbinary")),
            ],
            [
                *(f("bin/.wh.other1"), s("bin/other1", "/bin/superbinary"), s("bin/other2", "superbinary")),
                *(f("bin/.wh.myapp"), d("bin/myapp")),
            ],
        ],
        every(
            leads("bin/other1", "/bin/superbinary"),
            leads("bin/other2", "superbinary"),
            directories("bin/myapp"),
            holds("sbin/superbinary", b"\0\0"),
        ),
    ),
}

OWN: dict[str, Case] = {
    "WhiteoutOfNothing": ([LOWER, [f("etc/.wh.")]], None),
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
    "WhiteoutOfWhiteout": ([LOWER, [f("etc/.wh..wh.passwd")]], holds("etc/passwd", b"all users")),
    "WhiteoutIsADirectory": ([LOWER, [d("etc/.wh.passwd")]], absent("etc/passwd")),
    "WhiteoutIsASymlink": ([LOWER, [s("etc/.wh.passwd", "CANARY/etc/passwd")]], absent("etc/passwd")),
    "WhiteoutIsAHardlink": ([LOWER, [h("etc/.wh.passwd", "etc/whitedout")]], absent("etc/passwd")),
    "HardlinkToWhiteout": ([LOWER, [f("etc/.wh.passwd"), h("mine", "etc/passwd")]], None),
    "HardlinkNamedDotDot": ([[ETC, PASSWD, h("..", "etc/passwd")]], lambda root: True),
    "HardlinkWithoutATarget": ([[ETC, PASSWD, h("mine", "")]], None),
    "HardlinkToTheRoot": ([[h("mine", "/")]], None),
    "HardlinkToDotDot": ([[h("mine", "../../..")]], None),
    "SymlinkWithoutATarget": ([[s("mine", "")]], None),
    "SymlinkToProcSelfRoot": (
        [[s("p", "/proc/self/root"), f("p/tmp/out", b"in")]],
        holds("proc/self/root/tmp/out", b"in"),
    ),
    "SymlinkToProcSelfFd": (
        [[s("p", "/proc/self/fd/3/.."), f("p/out", b"in")]],
        holds("proc/self/fd/out", b"in"),
    ),
    "SymlinkToProcSelfCwd": ([[s("p", "/proc/self/cwd"), d("p"), f("p/out", b"in")]], holds("p/out", b"in")),
    "FifoAsParent": ([[Entry("p", "fifo"), f("p/out")]], None),
    "DeviceAsParent": ([[Entry("p", "char", device=(1, 3)), f("p/out")]], None),
    "FileOverFifo": ([[Entry("p", "fifo"), f("p", b"own")]], holds("p", b"own")),
    "FileOverDevice": ([[Entry("p", "char", device=(1, 3)), f("p", b"own")]], holds("p", b"own")),
    "FileOverFifoBelow": ([[Entry("p", "fifo")], [f("p", b"own")]], holds("p", b"own")),
    "FileOverFullDirectory": ([[d("p"), f("p/q"), f("p", b"own")]], holds("p", b"own")),
    "FileOverHardlink": (
        [[f("a", b"first"), h("b", "a"), f("b", b"second")]],
        every(holds("a", b"first"), holds("b", b"second")),
    ),
    "FileOverHardlinkBelow": (
        [[f("a", b"first"), h("b", "a")], [f("b", b"second")]],
        every(holds("a", b"first"), holds("b", b"second")),
    ),
    "SymlinkDotDotInTheMiddle": (
        [[d("a"), s("a/up", ".."), f("a/up/a/up/../../x", b"in")]],
        holds("x", b"in"),
    ),
    "ParentReplacedBetweenChildren": (
        [
            [
                d("a"),
                f("a/1"),
                s("a", "CANARY"),
                f("a/etc/passwd", b"in"),
                f("a", b"own"),
                d("a"),
                f("a/2", b"in"),
            ]
        ],
        lambda root: [path.name for path in (root / "a").iterdir()] == ["2"],
    ),
    "ParentOfParentReplaced": (
        [[d("a"), d("a/b"), f("a/b/1"), s("a", "CANARY"), f("a/b/2", b"in"), f("a/etc/passwd", b"in")]],
        lambda root: (root / "a").is_symlink(),
    ),
    "ParentReplacedByWhiteoutThenChild": (
        [[d("a"), s("a/l", "CANARY/etc")], [f("a/.wh.l"), f("a/l/passwd", b"in")]],
        holds("a/l/passwd", b"in"),
    ),
    "BackslashesAreNames": ([[f("..\\..\\etc\\passwd", b"in")]], holds("..\\..\\etc\\passwd", b"in")),
    "NamesOfDots": (
        [[f("...", b"in"), d("a"), f("a/....", b"in")]],
        every(holds("...", b"in"), holds("a/....", b"in")),
    ),
}


def real(stack: Stack, canary: str) -> Stack:
    """The stack with its links leading to the canary."""
    return [[replace(entry, link=entry.link.replace("CANARY", canary)) for entry in layer] for layer in stack]


def splits(cases: Mapping[str, Case]) -> dict[str, Case]:
    """Each case of one layer, cut into two at every place: what the first says is below the second then. The outcome
    is the same."""
    return {
        f"{name}-{at}": ([stack[0][:at], stack[0][at:]], good)
        for name, (stack, good) in cases.items()
        if len(stack) == 1
        for at in range(1, len(stack[0]))
    }
