"""Sizes of file systems, and names of devices."""

import os
from pathlib import Path

import pytest

from sampan.host import filesystems


def test_where_a_directory_lies(tmp_path: Path) -> None:
    found = filesystems.filesystem(tmp_path)
    expected = os.statvfs(tmp_path)
    assert (found.bytes, found.inodes) == (expected.f_frsize * expected.f_blocks, expected.f_files)
    assert 0 < found.inodes_free <= found.inodes
    assert found.device


def test_the_innermost_mount_has_the_device() -> None:
    assert filesystems.filesystem(Path("/proc/self")).device == "proc"
    assert filesystems.filesystem(Path("/sys")).device == "sysfs"


def test_block_devices_have_names_where_the_kernel_knows_them() -> None:
    numbers = [path.name for path in Path("/sys/dev/block").iterdir()]
    if not numbers:
        pytest.skip("no block device here")
    assert filesystems.block_device(numbers[0]).startswith("/dev/")
    assert filesystems.block_device("9999:9") == "9999:9"


def test_a_number_that_is_used_again_has_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "old"
    monkeypatch.setattr(Path, "readlink", lambda _: tmp_path / name)
    assert filesystems.block_device("7:9") == "/dev/old"
    name = "new"
    assert filesystems.block_device("7:9") == "/dev/new"
