"""What is taken for a pod's network namespace."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host.cni import podns
from sampan.model.errors import Unavailable
from tests.host.cni.lab import Lab, output

pytestmark = pytest.mark.root


@pytest.fixture
def lab(short_tmp: Path) -> Iterator[Lab]:
    lab = Lab(short_tmp)
    try:
        yield lab
    finally:
        lab.clear()


def test_a_pinned_namespace_is_one_and_its_loopback_comes_up(lab: Lab) -> None:
    netns = lab.netns()
    assert podns.exists(netns)
    assert "UP" not in output("ip", "-n", Path(netns).name, "-br", "link", "show", "lo")
    thread = threading.Thread(target=podns.loopback_up, args=(netns,))
    thread.start()
    thread.join()
    assert "LOOPBACK,UP" in output("ip", "-n", Path(netns).name, "-br", "link", "show", "lo")


@pytest.mark.parametrize(
    "thing", ["nothing", "file", "directory", "fifo", "symlink", "device", "another kind"]
)
def test_anything_else_is_none(lab: Lab, tmp_path: Path, thing: str) -> None:
    place = tmp_path / "net"
    match thing:
        case "file":
            place.touch()
        case "directory":
            place.mkdir()
        case "fifo":
            os.mkfifo(place)
        case "symlink":
            place.symlink_to(lab.netns())
        case "device":
            place = Path("/dev/null")
        case "another kind":
            place = tmp_path / "uts"
            place.touch()
            subprocess.run(["mount", "--bind", "/proc/self/ns/uts", str(place)], check=True)
    try:
        assert not podns.exists(str(place))
        with pytest.raises(Unavailable, match="namespace"), podns.opened(str(place)):
            pass
    finally:
        if thing == "another kind":
            subprocess.run(["umount", str(place)], check=True)


def test_no_descriptor_is_left_open(lab: Lab, tmp_path: Path) -> None:
    netns = lab.netns()
    before = sorted(Path("/proc/self/fd").iterdir())
    for path in (netns, str(tmp_path), "/dev/null"):
        podns.exists(path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
