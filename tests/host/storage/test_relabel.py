"""SELinux labels of volumes: what is labelled, what is left. Extended attributes need no SELinux to be kept."""

import errno
import os
import time
from pathlib import Path

import pytest

from sampan.host import mounts, syscalls
from sampan.host.storage import trees
from sampan.host.storage.relabel import relabel
from sampan.host.storage.trash import opened
from sampan.model.errors import Unavailable

pytestmark = pytest.mark.root
LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def label(path: Path) -> str:
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()
    except OSError:
        return ""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "volume"
    (top / "a/b").mkdir(parents=True)
    (top / "a/file").touch()
    (top / "a/b/pipe").touch()
    os.mkfifo(top / "fifo")
    (tmp_path / "outside").touch()
    (top / "link").symlink_to(tmp_path / "outside")
    return top


def soon() -> float:
    return time.monotonic() + 60


def test_a_whole_tree_is_labelled_and_nothing_that_links_lead_to(tree: Path, tmp_path: Path) -> None:
    assert relabel(str(tree), LABEL, soon()) == 7
    assert {label(path) for path in [tree, *tree.rglob("*")]} == {LABEL}
    assert label(tmp_path / "outside") == ""


def test_a_tree_whose_top_is_right_is_not_walked(tree: Path) -> None:
    os.setxattr(tree, "security.selinux", LABEL.encode())
    assert relabel(str(tree), LABEL, soon()) == 0
    assert label(tree / "a/file") == ""


def test_only_what_differs_is_changed(tree: Path) -> None:
    relabel(str(tree), LABEL, soon())
    os.setxattr(tree, "security.selinux", b"other")
    os.setxattr(tree / "a/file", "security.selinux", b"other")
    assert relabel(str(tree), LABEL, soon()) == 2


def test_a_file_can_be_labelled_and_links_are_not_followed(tree: Path, tmp_path: Path) -> None:
    assert relabel(str(tree / "a/file"), LABEL, soon()) == 1
    (tmp_path / "way").symlink_to(tree)
    for path in (tmp_path / "way", tmp_path / "way" / "a"):
        with pytest.raises(Unavailable, match="there is a link in it now"):
            relabel(str(path), LABEL, soon())
    assert {label(path) for path in (tree, tree / "a", tmp_path / "way")} == {""}


def test_what_is_mounted_within_is_left_alone(tree: Path, tmp_path: Path) -> None:
    """Nor does what is bound there get the label, a directory's root or a file."""
    outside = tmp_path / "directory"
    outside.mkdir()
    (outside / "file").touch()
    places = [tree / "a/b", tree / "a/file", tree / "a/tmpfs"]
    places[2].mkdir()
    try:
        syscalls.mount(outside, places[0], "", syscalls.MS_BIND)
        syscalls.mount(tmp_path / "outside", places[1], "", syscalls.MS_BIND)
        mounts.tmpfs(places[2], 1 << 16, 0o755)
        (places[2] / "file").touch()
        relabel(str(tree), LABEL, soon())
        left = [outside, outside / "file", tmp_path / "outside", places[2], places[2] / "file"]
        assert {label(path) for path in left} == {""}
        assert label(tree / "a") == label(tree / "fifo") == LABEL
    finally:
        for place in places:
            mounts.detach(place)
    assert {label(place) for place in places} == {""}


def test_one_that_takes_too_long_is_given_up_and_goes_on_later(tree: Path) -> None:
    for number in range(600):
        (tree / f"f{number}").touch()
    with pytest.raises(
        Unavailable, match=rf"{tree} for SELinux takes too long: 25[0-9] of its files .* goes on"
    ):
        relabel(str(tree), LABEL, time.monotonic() - 1)
    assert label(tree) == ""  # so the next one does not take it for done
    assert relabel(str(tree), LABEL, soon()) < 607
    assert label(tree) == LABEL


def test_no_success_is_promised_where_none_is_made(tree: Path) -> None:
    for number in range(600):
        (tree / f"f{number}").touch()
    relabel(str(tree), LABEL, soon())
    os.setxattr(tree, "security.selinux", b"other")
    with pytest.raises(Unavailable, match="0 of its files are changed, of 256 seen; mount it without"):
        relabel(str(tree), LABEL, time.monotonic() - 1)


def test_a_file_system_without_labels_is_not_walked() -> None:
    assert relabel("/proc/sys", LABEL, time.monotonic() - 1) == 0


@pytest.mark.parametrize("refusal", [errno.ENOTSUP, errno.EROFS])
def test_nor_is_one_for_whose_files_selinux_has_labels(
    refusal: int, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, or on a tmpfs that is mounted with one."""
    asked: list[str] = []

    def refuse(path: str, name: str, value: bytes) -> None:
        asked.append(path)
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "getxattr", lambda path, name: b"system_u:object_r:nfs_t:s0\0")
    monkeypatch.setattr(os, "setxattr", refuse)
    assert relabel(str(tree), LABEL, soon()) == 0
    assert len(asked) == 1


def test_a_tree_deeper_than_a_path_can_say_is_labelled_whole(tree: Path) -> None:
    depth, name = 100, "d" * 99
    fd = os.open(tree / "a", os.O_PATH)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        fd, above = os.open(name, os.O_RDONLY, dir_fd=fd), fd
        os.close(above)
    os.close(os.open("deepest", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    try:
        assert relabel(str(tree), LABEL, soon()) == 7 + depth + 1
        assert os.getxattr(f"/proc/self/fd/{fd}/deepest", "security.selinux") == LABEL.encode() + b"\0"
        assert label(tree / "link") == LABEL
    finally:
        os.close(fd)
        with opened(tree) as top:
            trees.remove(top, "a")


def test_a_directory_that_is_moved_meanwhile_leads_nowhere_else(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere/inner").mkdir(parents=True)
    enter = trees.enter

    def moving(fd: int, name: str) -> int:
        child = enter(fd, name)
        if name == "b":
            (tree / "a/b").rename(tmp_path / "elsewhere/b")
        return child

    monkeypatch.setattr(trees, "enter", moving)
    with pytest.raises(Unavailable, match=rf"{tree} for SELinux: a directory was moved .*; try again"):
        relabel(str(tree), LABEL, soon())
    assert label(tmp_path / "elsewhere") == label(tmp_path / "elsewhere/inner") == label(tree) == ""


def test_one_that_is_no_longer_wanted_ends_at_once(tree: Path) -> None:
    looks = iter([False, False, True])
    with pytest.raises(Unavailable, match="was stopped"):
        relabel(str(tree), LABEL, soon(), lambda: next(looks))
    assert sum(label(path) == LABEL for path in tree.rglob("*")) == 1
    assert label(tree) == ""
