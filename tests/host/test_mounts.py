"""Deleting directories of ours."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.host import mounts

DELETIONS = [mounts.delete_tree, pytest.param(mounts.delete, marks=pytest.mark.root)]


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_tree_goes_whole_and_what_its_links_name_stays(
    tmp_path: Path, delete: Callable[[Path], None]
) -> None:
    (tmp_path / "kept/deep").mkdir(parents=True)
    (tmp_path / "kept/file").touch()
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/file").touch()
    (tree / "a/b/link").symlink_to("../../../kept")
    (tree / "absolute").symlink_to(tmp_path / "kept")
    delete(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept/file").exists()
    delete(tree)


@pytest.mark.parametrize("delete", DELETIONS)
def test_what_is_no_directory_goes_too(tmp_path: Path, delete: Callable[[Path], None]) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    for name in ("link", "file", "absent", "absent/deeper"):
        delete(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_tmpfs_without_a_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a size"):
        mounts.tmpfs(tmp_path, 0, 0o700)


def test_a_label_is_quoted_for_it_has_commas() -> None:
    assert mounts.labelled("u:object_r:t:s0:c1,c2") == ',context="u:object_r:t:s0:c1,c2"'
    assert mounts.labelled("") == ""
