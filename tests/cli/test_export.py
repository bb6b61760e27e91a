"""`export`: the file appears when it is whole, and not before."""

import io
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import grpc
import pytest

from sampan.api import sampan_pb2 as own
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import ARCHIVE, FakeDaemon, Served


def test_the_archive_goes_to_the_file(sampan: Sampan, daemon: FakeDaemon, tmp_path: Path) -> None:
    target = tmp_path / "app.tar"
    target.write_bytes(b"an older one")
    ran = sampan("export", "app:1", "other", "-o", str(target))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert target.read_bytes() == ARCHIVE
    assert [path.name for path in tmp_path.iterdir()] == ["app.tar"]
    assert daemon.requests(own.ExportRequest) == [own.ExportRequest(images=["app:1", "other"])]


@pytest.mark.parametrize("option", [(), ("-o", "-")])
def test_or_to_standard_output(sampan: Sampan, option: tuple[str, ...]) -> None:
    assert sampan("export", "app:1", *option).out.encode(errors="surrogateescape") == ARCHIVE


def test_a_failure_leaves_nothing_behind(sampan: Sampan, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.fails["Export"] = (grpc.StatusCode.DATA_LOSS, "layer 2 is damaged")
    ran = sampan("export", "app:1", "-o", str(tmp_path / "app.tar"))
    assert (ran.code, ran.err) == (1, "sampan: layer 2 is damaged\n")
    assert not any(tmp_path.iterdir())


def test_what_was_there_stays_when_it_fails(sampan: Sampan, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.fails["Export"] = (grpc.StatusCode.NOT_FOUND, "there is no image")
    target = tmp_path / "app.tar"
    target.write_bytes(b"an older one")
    assert sampan("export", "app:1", "-o", str(target)).code == 1
    assert target.read_bytes() == b"an older one"


def test_a_terminal_is_spared(sampan: Sampan, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    ran = sampan("export", "app:1")
    assert ran.code == 2 and "not for a terminal" in ran.err
    assert daemon.requests(own.ExportRequest) == []


def test_a_directory_and_a_place_that_is_not_there(sampan: Sampan, tmp_path: Path) -> None:
    assert "is a directory" in sampan("export", "app:1", "-o", str(tmp_path)).err
    ran = sampan("export", "app:1", "-o", str(tmp_path / "absent/app.tar"))
    assert ran.code == 1 and "No such file" in ran.err


def test_a_full_disk_is_told(sampan: Sampan) -> None:
    ran = sampan("export", "app:1", "-o", "/dev/full")
    assert ran.code == 1 and "No space left" in ran.err
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("option", [(), ("-o", "-")])
def test_a_full_standard_output_is_told_once(served: Served, option: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "sampan", "--endpoint", served.endpoint, "export", "app:1", *option]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "sampan: cannot write standard output: No space left on device\n"


def test_a_pipe_is_written_to(sampan: Sampan, tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    assert sampan("export", "app:1", "-o", str(pipe)).code == 0
    reader.join(10)
    assert found == [ARCHIVE]


def test_a_link_is_followed_and_stays(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.tar").symlink_to("real/app.tar")
    assert sampan("export", "app:1", "-o", str(tmp_path / "link.tar")).code == 0
    assert (tmp_path / "real/app.tar").read_bytes() == ARCHIVE and (tmp_path / "link.tar").is_symlink()
