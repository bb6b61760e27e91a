"""The configuration directory: noticed whatever way it changes, and its faults told."""

import json
import os
from pathlib import Path

import pytest

from sampan.host.cni.confdir import ConfDir


def conf(name: str, **more: object) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "ptp"}], **more}).encode()


def name(directory: ConfDir) -> str:
    choice = directory.read()
    return choice.conflist.name if choice.conflist else ""


def test_a_change_is_seen_at_the_next_look(tmp_path: Path) -> None:
    directory = ConfDir(tmp_path / "net.d")
    assert name(directory) == ""  # no directory
    (tmp_path / "net.d").mkdir()
    assert name(directory) == ""
    file = tmp_path / "net.d/20.conflist"
    file.write_bytes(conf("written"))
    assert name(directory) == "written"
    new = tmp_path / "net.d/.20.new"
    new.write_bytes(conf("renamed"))
    new.rename(file)  # atomically, as an installer does
    assert name(directory) == "renamed"
    (tmp_path / "net.d/10.conf").symlink_to(tmp_path / "target")
    assert name(directory) == "renamed"
    (tmp_path / "target").write_bytes(conf("linked"))
    assert name(directory) == "linked"
    (tmp_path / "target").write_bytes(conf("target"))
    assert name(directory) == "target"
    (tmp_path / "net.d/10.conf").unlink()
    assert name(directory) == "renamed"
    file.unlink()
    assert name(directory) == ""
    (tmp_path / "net.d").rmdir()
    assert name(directory) == ""


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.conflist").write_bytes(conf("n"))
    directory = ConfDir(tmp_path)
    first = directory.read()
    monkeypatch.setattr(ConfDir, "_load", lambda _: pytest.fail("it was read again"))
    assert directory.read() is first


def test_an_edit_that_keeps_size_and_modification_time_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "1.conflist"
    file.write_bytes(conf("one"))
    directory = ConfDir(tmp_path)
    assert name(directory) == "one"
    before = file.stat()
    file.write_bytes(conf("two"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert name(directory) == "two"


@pytest.mark.parametrize("file", ["1.conf", "1.conflist", "1.json"])
def test_files_of_these_names_count(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(conf("n"))
    for other in ("0.yaml", "0.conf~", "0.conflist.bak", "README", "conf"):
        (tmp_path / other).write_bytes(conf("other"))
    assert name(ConfDir(tmp_path)) == "n"


def test_plugins_of_the_networks_own_directory_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "1.conflist").write_bytes(conf("n"))
    directory = ConfDir(tmp_path)
    assert len(plugins(directory)) == 1
    (tmp_path / "n").mkdir()
    (tmp_path / "n/1.conf").write_bytes(b'{"type": "tuning"}')
    (tmp_path / "n/2.txt").write_bytes(b"x")
    assert plugins(directory) == ["ptp", "tuning"]
    (tmp_path / "n/1.conf").write_bytes(b'{"type": "bandwidth"}')
    assert plugins(directory) == ["ptp", "bandwidth"]


def plugins(directory: ConfDir) -> list[str]:
    conflist = directory.read().conflist
    assert conflist is not None
    return [plugin.type for plugin in conflist.plugins]


def test_what_is_wrong_is_told_with_directory_and_file(tmp_path: Path) -> None:
    directory = ConfDir(tmp_path / "net.d")
    assert directory.complaint(directory.read()) == (
        f"no usable CNI configuration in {tmp_path}/net.d: No such file or directory"
    )
    (tmp_path / "net.d").mkdir()
    assert "it holds no file named *.conf, *.conflist, *.json" in directory.complaint(directory.read())
    (tmp_path / "net.d/1.conf").write_bytes(b"{")
    os.mkfifo(tmp_path / "net.d/2.conf")
    (tmp_path / "net.d/3.conf").symlink_to("nowhere")
    (tmp_path / "net.d/4.conf").write_bytes(conf("n"))
    (tmp_path / "net.d/4.conf").chmod(0o666)
    (tmp_path / "net.d/5.conf").mkdir()
    words = directory.complaint(directory.read())
    assert "1.conf: is not JSON" in words
    assert "2.conf: is not a regular file" in words
    assert "3.conf: No such file" in words
    assert "4.conf: everybody may write to it" in words


def test_a_fault_before_the_first_valid_file_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "1.conf").write_bytes(b"{")
    (tmp_path / "2.conf").write_bytes(conf("n"))
    choice = ConfDir(tmp_path).read()
    assert choice.file == "2.conf"
    assert [problem.partition(":")[0] for problem in choice.problems] == ["1.conf"]
