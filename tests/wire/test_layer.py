"""Where entries go, what is a whiteout, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire import layer

PLACES = [
    (b"etc/passwd", (b"etc", b"passwd")),
    (b"./etc/passwd", (b"etc", b"passwd")),
    (b"/etc/passwd", (b"etc", b"passwd")),
    (b"../../etc/passwd", (b"etc", b"passwd")),
    (b"etc/../../../passwd", (b"", b"passwd")),
    (b"a//b/./c/", (b"a/b", b"c")),
    (b"dir/", (b"", b"dir")),
    (b"dir//", (b"", b"dir")),
    (b"a/dir//", (b"a", b"dir")),
    (b"./a/dir///", (b"a", b"dir")),
    (b"a/b/..", (b"", b"a")),
    (b"..", (b"", b"")),
    (b".", (b"", b"")),
    (b"./", (b"", b"")),
    (b"/", (b"", b"")),
    (b"", (b"", b"")),
    (b"a/..", (b"", b"")),
    (b"...", (b"", b"...")),
    (b".hidden/..x", (b".hidden", b"..x")),
    (b"a\\..\\b", (b"", b"a\\..\\b")),
    (b"\xff/\n", (b"\xff", b"\n")),
]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_paths_stay_in_the_root(name: bytes, place: tuple[bytes, bytes]) -> None:
    assert layer.place(name) == place


@given(st.lists(st.sampled_from([b"a", b"b.", b".c", b".", b"..", b""]), max_size=8))
def test_a_place_has_no_dots_and_resolves_as_in_a_chroot(parts: list[bytes]) -> None:
    expected: list[bytes] = []
    for part in parts:
        if part == b"..":
            expected = expected[:-1]
        elif part not in (b".", b""):
            expected.append(part)
    parent, leaf = layer.place(b"/".join(parts))
    assert [*filter(None, parent.split(b"/")), *filter(None, [leaf])] == expected


def test_what_linux_cannot_name_is_invalid() -> None:
    assert layer.place(b"x" * 255) == (b"", b"x" * 255)
    for name in (b"x" * 256, b"d/" * 2048 + b"f"):
        with pytest.raises(Invalid, match="longer than Linux allows"):
            layer.place(name)


def test_whiteouts() -> None:
    assert layer.whiteout(b".wh.x") == b"x"
    assert layer.whiteout(b".wh..x") == b".x"
    assert layer.whiteout(b".wh....") == b"..."
    assert layer.whiteout(b".wh..wh.plnk") == b""


@pytest.mark.parametrize("leaf", [b".wh.", b".wh..", b".wh..."])
def test_whiteouts_of_no_name_are_invalid(leaf: bytes) -> None:
    with pytest.raises(Invalid):
        layer.whiteout(leaf)


@pytest.mark.parametrize("wrong", [-1, 1 << 31, (1 << 32) - 1, 1 << 40])
def test_ids_that_a_kernel_could_misread_are_invalid(wrong: int) -> None:
    layer.check_ids(0, (1 << 31) - 1, b"f")
    for ids in ((wrong, 0), (0, wrong)):
        with pytest.raises(Invalid, match="ids go from 0"):
            layer.check_ids(*ids, b"f")


@pytest.mark.parametrize(
    ("char", "major", "minor", "good"),
    [
        (True, 1, 3, True),
        (False, 8, 0, True),
        (True, 0, 0, False),
        (False, 0, 0, True),
        (True, 4096, 0, False),
        (True, 1, 1 << 20, False),
        (True, -1, 0, False),
    ],
)
def test_devices(char: bool, major: int, minor: int, good: bool) -> None:
    if good:
        layer.check_device(char, major, minor, b"d")
    else:
        with pytest.raises(Invalid):
            layer.check_device(char, major, minor, b"d")


def test_attributes_that_are_applied() -> None:
    xattrs = {
        b"user.note": b"1",
        b"security.capability": b"2",
        b"trusted.x": b"3",
        b"security.selinux": b"4",
        b"system.posix_acl_access": b"5",
        b"com.apple.quarantine": b"6",
    }
    layer.allow_xattrs(xattrs, b"f")
    assert set(xattrs) == {b"user.note", b"security.capability", b"trusted.x"}


@pytest.mark.parametrize(
    "key", [b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"user.overlay.metacopy"]
)
def test_attributes_that_steer_overlayfs_are_invalid(key: bytes) -> None:
    with pytest.raises(Invalid, match="only overlayfs"):
        layer.allow_xattrs({key: b"y"}, b"f")
