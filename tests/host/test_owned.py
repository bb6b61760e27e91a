"""Files that only root can have written."""

import os
from pathlib import Path

import pytest

from sampan.host import owned
from sampan.model.errors import Invalid


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    return path


def test_a_file_of_our_own_is_read_to_its_limit(file: Path) -> None:
    assert owned.read(str(file), 10) == b"x" * 10
    with pytest.raises(Invalid, match="larger than 9 bytes"):
        owned.read(str(file), 9)


def test_a_link_to_one_is_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    assert owned.read(str(tmp_path / "link"), 10) == b"x" * 10


@pytest.mark.parametrize("mode", [0o606, 0o646, 0o666, 0o777])
def test_a_file_that_anybody_may_write_is_not_used(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(Invalid, match=f"mode {mode:o}"):
        owned.read(str(file), 10)


@pytest.mark.root
def test_a_file_of_another_user_or_group_is_not_used(file: Path) -> None:
    os.chown(file, 1000, 0)
    with pytest.raises(Invalid, match="belongs to user 1000"):
        owned.read(str(file), 10)
    os.chown(file, 0, 1000)
    file.chmod(0o660)
    with pytest.raises(Invalid, match="mode 660"):
        owned.read(str(file), 10)
    file.chmod(0o640)
    assert owned.read(str(file), 10)


def test_what_is_no_file_is_not_used(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in [("fifo", "not a regular file"), ("absent", "cannot be read"), ("", "cannot be read")]:
        with pytest.raises(Invalid, match=why):
            owned.read(str(tmp_path / path) if path else str(tmp_path), 10)
