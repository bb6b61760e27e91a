"""Lines of /proc/PID/mountinfo, as real kernels write them."""

import pytest

from sampan.wire import mountinfo

TABLE = (
    b"22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw\n"
    b"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n"
    b"36 27 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    b"40 27 0:50 / /both rw shared:7 master:2 propagate_from:1 - tmpfs tmpfs rw,size=4k\n"
    b"41 27 0:51 / /run/pods rw,nosuid unbindable - tmpfs tmpfs rw\n"
    b"42 41 0:4 net:[4026532281] /run/pods/a/ns/net rw - nsfs nsfs rw\n"
    b"43 27 0:52 /a\\040b /media/My\\040Disk\\134x\\011\\012y rw - fuse.sshfs host:/p\\040q rw,user_id=0\n"
    b"44 27 0:53 / /odd - rw - vboxsf none rw\n"
    b"45 27 0:54 / /nosuper rw - autofs systemd-1\n"
)


def test_every_field_of_a_line() -> None:
    mount = mountinfo.parse(TABLE)[2]
    assert (mount.id, mount.parent, mount.device) == (36, 27, "98:0")
    assert (mount.root, mount.point, mount.fstype, mount.source) == ("/mnt1", "/mnt2", "ext3", "/dev/root")
    assert mount.options == {"rw", "noatime"}
    assert mount.super_options == {"rw", "errors=continue"}
    assert (mount.shared, mount.master, mount.unbindable) == (0, 1, False)


@pytest.mark.parametrize(
    ("id", "propagation"), [(22, "shared"), (36, "slave"), (40, "shared"), (41, "private"), (42, "private")]
)
def test_propagation(id: int, propagation: str) -> None:
    mount = mountinfo.find(TABLE, id)
    assert mount is not None
    assert mount.propagation == propagation


def test_an_unbindable_mount_is_told_from_a_private_one() -> None:
    assert [mount.id for mount in mountinfo.parse(TABLE) if mount.unbindable] == [41]


def test_octal_escapes_become_the_letters_they_stand_for() -> None:
    mount = mountinfo.find(TABLE, 43)
    assert mount is not None
    assert mount.root == "/a b"
    assert mount.point == "/media/My Disk\\x\t\ny"
    assert mount.source == "host:/p q"


def test_a_name_that_is_not_utf8_survives() -> None:
    (mount,) = mountinfo.parse(b"1 0 0:1 / /m\xff rw - tmpfs t rw")
    assert mount.point.encode("utf-8", "surrogateescape") == b"/m\xff"


def test_missing_super_options_are_none() -> None:
    mount = mountinfo.find(TABLE, 45)
    assert mount is not None
    assert (mount.fstype, mount.source, mount.super_options) == ("autofs", "systemd-1", frozenset())


def test_restrictions_are_in_a_fixed_order() -> None:
    mount = mountinfo.find(TABLE, 22)
    assert mount is not None
    assert mount.restrictions == ("nodev", "noexec", "nosuid")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"x",
        b"1 2 0:1 / /p rw",
        b"1 2 0:1 / /p rw shared:1 tmpfs t rw extra",
        b"a b c d e f - g h i",
    ],
)
def test_what_is_no_mount_is_left_out(line: bytes) -> None:
    assert mountinfo.parse(line) == []


def test_find_takes_the_whole_number() -> None:
    assert mountinfo.find(TABLE, 4) is None
    assert mountinfo.find(TABLE, 2) is None
    found = mountinfo.find(TABLE, 27)
    assert found is not None
    assert found.point == "/"


def test_find_and_parse_agree() -> None:
    for mount in mountinfo.parse(TABLE):
        assert mountinfo.find(TABLE, mount.id) == mount


def test_beneath_is_deepest_first_and_takes_no_neighbour() -> None:
    table = b"".join(
        b"%d 1 0:1 / %s rw - tmpfs t rw\n" % (number, point)
        for number, point in enumerate((b"/p", b"/p/a", b"/p/a/b/c", b"/p/a/b", b"/p/ab", b"/q", b"/p/a"), 2)
    )
    found = mountinfo.beneath(mountinfo.parse(table), "/p/a")
    assert [mount.point for mount in found] == ["/p/a/b/c", "/p/a/b", "/p/a", "/p/a"]
    assert len(mountinfo.beneath(mountinfo.parse(table), "/")) == 7


def table(*lines: str) -> list[mountinfo.Mount]:
    """`id parent point` each; the source is named after the id."""
    rows = (line.split() for line in lines)
    text = "".join(f"{id} {parent} 0:1 / {point} rw - tmpfs s{id} rw\n" for id, parent, point in rows)
    return mountinfo.parse(text.encode())


@pytest.mark.parametrize(
    ("lines", "source"),
    [
        (("1 0 /",), "s1"),
        (("1 1 /",), "s1"),  # the top of the tree is its own parent
        (("1 0 /", "2 1 /a", "3 2 /a/b"), "s3"),
        (("3 2 /a/b", "2 1 /a", "1 0 /"), "s3"),
        (("1 0 /", "2 1 /a", "3 2 /a"), "s3"),  # stacked
        (("1 0 /", "3 2 /a", "2 1 /a"), "s3"),  # stacked, and moved: the file's order says nothing
        (("1 0 /", "2 1 /a/b", "3 1 /a"), "s3"),  # the longer name is under the other, which came later
        (("1 0 /", "2 1 /a/b", "3 2 /a/b", "4 1 /a"), "s4"),
        (("1 0 /", "2 1 /a", "3 1 /"), "s3"),
        (("1 0 /", "2 1 /a/bc", "3 1 /a/b/c/d", "4 1 /x"), "s1"),  # beside it, below it
        (("1 0 /", "2 1 /a/b/c"), "s2"),
    ],
)
def test_the_mount_that_a_path_lies_on(lines: tuple[str, ...], source: str) -> None:
    found = mountinfo.under(table(*lines), "/a/b/c")
    assert found is not None and found.source == source


def test_nothing_lies_on_no_mount() -> None:
    assert mountinfo.under([], "/a") is None
    assert mountinfo.under(table("1 0 /b"), "/a") is None


@pytest.mark.parametrize(
    ("id", "path", "covers"),
    [
        (27, "/", True),
        (27, "/media", True),
        (27, "/media/My Disk\\x\t", False),
        (27, "/run", True),
        (50, "/a b", True),
        (50, "/a b/c#\\", True),
        (50, "/a b/d", False),
        (41, "/run/pods", True),
        (41, "/run/pods/a", True),
        (41, "/run/pods/b", False),
        (27, "/mnt2", False),
        (27, "/mnt", False),  # a name that only begins alike
        (27, "/run/pods/a", False),  # what hangs on a mount that is not this one
        (1, "/", False),
        (-1, "/", False),
    ],
)
def test_what_covers_part_of_a_directory(id: int, path: str, covers: bool) -> None:
    odd = b"51 50 0:55 / /a\\040b/c\\043\\134/d rw - tmpfs tmpfs rw\n"
    assert mountinfo.covers(TABLE + odd, id, path) is covers
