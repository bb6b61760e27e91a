"""SELinux labels of volumes: what is labelled, what is left. Extended attributes need no SELinux to be kept."""

import os
import time
from pathlib import Path

import pytest

from sampan.host import mounts
from sampan.host.storage.relabel import relabel
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


def test_a_file_and_a_link_to_a_directory_can_be_labelled(tree: Path, tmp_path: Path) -> None:
    assert relabel(str(tree / "a/file"), LABEL, soon()) == 1
    (tmp_path / "way").symlink_to(tree)
    assert relabel(str(tmp_path / "way"), LABEL, soon()) == 6
    assert label(tree) == LABEL and label(tmp_path / "way") == ""


def test_what_is_mounted_within_is_left_alone(tree: Path) -> None:
    mounts.tmpfs(tree / "a/b", 1 << 16, 0o755)
    try:
        (tree / "a/b/file").touch()
        relabel(str(tree), LABEL, soon())
        assert label(tree / "a/b/file") == ""
        assert label(tree / "a/file") == LABEL
    finally:
        mounts.detach(tree / "a/b")


def test_one_that_takes_too_long_is_given_up_and_goes_on_later(tree: Path) -> None:
    for number in range(600):
        (tree / f"f{number}").touch()
    with pytest.raises(Unavailable, match=rf"{tree} for SELinux takes too long: [0-9]+ of its files"):
        relabel(str(tree), LABEL, time.monotonic() - 1)
    assert label(tree) == ""  # so the next one does not take it for done
    assert relabel(str(tree), LABEL, soon()) < 607
    assert label(tree) == LABEL


def test_a_file_system_without_labels_is_left_as_it_is(tmp_path: Path) -> None:
    assert relabel("/proc/self/net", LABEL, soon()) == 0
