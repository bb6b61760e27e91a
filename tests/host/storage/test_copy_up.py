"""Copies of what an image has at a VOLUME's place, file by file."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sampan.host.storage import copy_up, trees
from sampan.host.storage.trash import opened
from sampan.host.unpack import cursor
from sampan.model.errors import Exhausted, Invalid

pytestmark = pytest.mark.root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.mkdir(mode=0o751)
    return place


@pytest.fixture
def target(tmp_path: Path) -> Path:
    place = tmp_path / "target"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def copied(source: Path, target: Path) -> Path:
    pair = [os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in (source, target)]
    try:
        copy_up.copy_tree(*pair)
    finally:
        for fd in pair:
            os.close(fd)
    return target


def test_every_kind_of_file_is_copied_with_its_owner_mode_and_time(source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"content")
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "disk", stat.S_IFBLK | 0o600, os.makedev(8, 1))
    os.mknod(source / "socket", stat.S_IFSOCK | 0o600)
    (source / "dir").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        os.chown(path, number + 10, number + 20, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o2751 if path.is_dir() else 0o4640)
        os.utime(path, ns=(number, 10**18 + number), follow_symlinks=False)
    os.utime(source, ns=(1, 2))
    copied(source, target)

    def told(top: Path) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for path in [top, *sorted(top.iterdir())]:
            status = path.lstat()
            found.append(
                (
                    path.relative_to(top),
                    status.st_mode,
                    status.st_uid,
                    status.st_gid,
                    status.st_mtime_ns,
                    status.st_rdev,
                )
            )
        return found

    assert told(target) == told(source)
    assert (target / "file").read_bytes() == b"content" and (target / "link").readlink() == Path("/nowhere")


def test_hard_links_stay_links_among_themselves(source: Path, target: Path) -> None:
    (source / "a").write_bytes(b"x")
    (source / "deep").mkdir()
    os.link(source / "a", source / "deep/b")
    (source / "s").symlink_to("a")
    os.link(source / "s", source / "t", follow_symlinks=False)
    copied(source, target)
    assert (target / "a").stat().st_ino == (target / "deep/b").stat().st_ino != (source / "a").stat().st_ino
    assert (target / "s").lstat().st_ino == (target / "t").lstat().st_ino


def test_attributes_are_copied_but_labels(source: Path, target: Path) -> None:
    (source / "file").touch()
    names = ["user.note", "trusted.note", "security.capability", "security.selinux", "trusted.overlay.opaque"]
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    for name in names:
        os.setxattr(source / "file", name, capability if "capability" in name else b"v\0")
        if "capability" not in name:
            os.setxattr(source, name, b"w")
    copied(source, target)
    assert set(os.listxattr(target / "file")) == {"user.note", "trusted.note", "security.capability"}
    assert os.getxattr(target / "file", "security.capability") == capability
    assert set(os.listxattr(target)) == {"user.note", "trusted.note"}


def test_holes_stay_holes(source: Path, target: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(b"here")
    with (source / "hole").open("wb") as file:
        file.truncate(1 << 30)
    copied(source, target)
    found = (target / "sparse").stat()
    assert found.st_size == 1 << 40 and found.st_blocks * 512 < 1 << 20
    assert (target / "hole").stat().st_size == 1 << 30
    with (target / "sparse").open("rb") as file:
        file.seek((1 << 30) - 2)
        assert file.read(8) == b"\0\0here\0\0"


def test_a_large_file_is_copied_whole(source: Path, target: Path) -> None:
    content = os.urandom(1 << 20) * 20
    (source / "large").write_bytes(content)
    assert (copied(source, target) / "large").read_bytes() == content


def test_directories_without_permissions_and_odd_names_are_copied(source: Path, target: Path) -> None:
    place = source / os.fsdecode(b"\xff\n dir")
    place.mkdir()
    (place / os.fsdecode(b"\xfe")).write_bytes(b"x")
    place.chmod(0)
    copied(source, target)
    assert [path.name for path in (target / place.name).iterdir()] == [os.fsdecode(b"\xfe")]


def test_a_tree_of_a_thousand_levels_is_copied(source: Path, target: Path) -> None:
    here = os.open(source, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    copied(source, target)
    assert Path(f"{target}{'/d' * 1000}").is_dir()
    with opened(source.parent) as parent:  # pytest's own clean-up takes no tree that deep
        for top in (source, target):
            trees.remove(parent, top.name)


def test_the_copy_stops_before_the_disk_is_full(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "file").write_bytes(b"x")
    free = os.statvfs(target)
    monkeypatch.setattr(cursor, "RESERVE_BYTES", 1 << 60)
    real = os.fstatvfs

    class Full:
        f_bavail, f_frsize, f_blocks, f_files, f_favail = (
            1,
            free.f_frsize,
            free.f_blocks,
            free.f_files,
            free.f_favail,
        )

    monkeypatch.setattr(os, "fstatvfs", lambda fd: Full if fd else real(fd))
    with pytest.raises(
        Exhausted, match=r"no space left .* MiB must stay free on the disk, 0 MiB are free; remove images"
    ):
        copied(source, target)


# --- where a VOLUME is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "where", "there"),
    [
        ("/a", "/a", True),
        ("/a/b/c", "/a/b/c", False),
        ("/link", "/a", True),
        ("/link/b", "/a/b", False),
        ("/out/a", "/a", True),
        ("/new", "/new", False),
        ("/top", "/", True),
    ],
)
def test_a_place_is_found_within_the_root(
    root: int, tmp_path: Path, path: str, where: str, there: bool
) -> None:
    top = tmp_path / "root"
    (top / "a").mkdir()
    (top / "link").symlink_to("/a")
    (top / "out").symlink_to("../../..")
    (top / "top").symlink_to("/")
    found, fd = copy_up.locate(root, path)
    assert found == where and (fd >= 0) == there
    if there:
        assert os.fstat(fd).st_ino == (top / where.strip("/")).stat().st_ino
        os.close(fd)


@pytest.mark.parametrize(
    "path", ["/dead", "/dead/x", "/file", "/file/x", "/loop", "/loop/x", "/a/" + "x" * 300]
)
def test_a_place_that_is_no_directory_is_refused(root: int, tmp_path: Path, path: str) -> None:
    top = tmp_path / "root"
    (top / "dead").symlink_to("gone")
    (top / "loop").symlink_to("loop")
    (top / "file").touch()
    (top / "a").mkdir()
    with pytest.raises(Invalid, match="VOLUME"):
        copy_up.locate(root, path)


def test_no_descriptor_stays_open(root: int, tmp_path: Path, source: Path, target: Path) -> None:
    (tmp_path / "root/file").touch()
    (source / "dir").mkdir()
    (source / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    copied(source, target)
    for path in ("/file", "/absent/x"):
        with suppress(Invalid):
            copy_up.locate(root, path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
