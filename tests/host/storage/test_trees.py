"""Deleting and measuring trees by descriptor."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host import mounts, syscalls
from sampan.host.storage import trees


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_tree_goes_whole_and_what_its_links_name_stays(tmp_path: Path, here: int) -> None:
    (tmp_path / "kept/deep").mkdir(parents=True)
    for part in ("a/b/c", "a/d", "e"):
        (tmp_path / "tree" / part).mkdir(parents=True)
        (tmp_path / "tree" / part / "file").touch()
    (tmp_path / "tree/a/up").symlink_to("../../kept")
    (tmp_path / "tree/a/away").symlink_to(tmp_path / "kept")
    trees.remove(here, "tree")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "deep"]


def test_files_links_and_nothing_can_be_removed_too(tmp_path: Path, here: int) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("kept")
    for name in ("file", "link", "absent"):
        trees.remove(here, name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_depth_needs_neither_descriptors_nor_a_stack(tmp_path: Path, here: int) -> None:
    """Deeper than paths can be long, than Python recurses, and than a process has descriptors."""
    fd = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("deep", dir_fd=fd)
    for _ in range(3000):
        inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.mkdir("deep", dir_fd=inner)
        os.close(fd)
        fd = inner
    os.close(fd)
    trees.remove(here, "deep")
    assert not any(tmp_path.iterdir())


def test_breadth_is_no_matter_either(tmp_path: Path, here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_BATCH", 20)
    for number in range(90):
        (tmp_path / f"wide/{number}/x").mkdir(parents=True)
    trees.remove(here, "wide")
    assert not any(tmp_path.iterdir())


@pytest.mark.root
def test_what_is_mounted_inside_stays(tmp_path: Path, here: int) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/file").touch()
    (tmp_path / "tree/a/mnt").mkdir(parents=True)
    syscalls.mount(tmp_path / "canary", tmp_path / "tree/a/mnt", "", syscalls.MS_BIND)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)) as caught:
            trees.remove(here, "tree")
        assert caught.value.errno in (errno.EXDEV, errno.EBUSY)
    finally:
        mounts.detach(tmp_path / "tree/a/mnt")
    assert (tmp_path / "canary/file").exists()
    trees.remove(here, "tree")


def test_a_tree_is_measured_with_hard_links_counted_once(tmp_path: Path, here: int) -> None:
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/f").write_bytes(bytes(5000))
    os.link(tmp_path / "tree/f", tmp_path / "tree/d/g")
    (tmp_path / "tree/l").symlink_to("/")
    size, inodes = trees.measure(here, "tree")
    expected = {
        path.lstat().st_ino: path.lstat().st_blocks * 512
        for path in [tmp_path / "tree", *tmp_path.rglob("tree/**/*")]
    }
    assert (size, inodes) == (sum(expected.values()), 4)
    assert trees.measure(here, "absent") == (0, 0)
